"""`limbeck methods` and `limbeck job --keys`."""

from __future__ import annotations

import json
from shlex import quote
from typing import Any


def show_methods(*, task: str | None = None, as_json: bool) -> None:
    """Print one line per method, of all or of those for a task.

    Raises:
        UnknownNameError: If there is no such task.
    """
    from limbeck.methods import method, names

    calls = {name: method(name) for name in names(task)}
    if as_json:
        print(json.dumps({name: _fields(call) for name, call in calls.items()}, default=str))
        return
    from rich.table import Table

    from limbeck.cli.terminal import make_console

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("method", "year", "what it does"):
        table.add_column(column)
    for name, call in calls.items():
        table.add_row(name, str(call.card.year), call.card.claim)
    make_console().print(table)
    make_console().print(
        "\n`limbeck methods NAME` shows the card of a method; `limbeck distill --method NAME` uses it.", highlight=False
    )


def create_method(name: str, family: str) -> None:
    """Write the files of a new method, and print what to do next."""
    from limbeck.methods import write_skeleton

    files = write_skeleton(name, family=family)
    for file in files:
        print(f"written: {file}")
    if len(files) == 1:
        print(
            f"\nReplace the kernel, the card and the docstrings in {files[0]}. Then:\n"
            f'  python -c "from {name} import {name}; from limbeck.testing import check_method; check_method({name})"\n'
            f'  python -c "from {name} import CARD; from limbeck.testing import check_kernel; '
            'list(map(check_kernel, CARD.kernels))"\n'
            f"  limbeck distill ... --method {files[0]}:{name}"
        )
    else:
        print(
            "\nReplace the kernel, the card and the docstrings, and write the sections of the page. Then:\n"
            f"  python -m pytest tests/methods -k {name}\n"
            "  make docs  # writes the generated parts of the page\n"
            "CONTRIBUTING.md says more."
        )


def show_card(name: str, *, as_json: bool) -> None:
    """Print the card of one method."""
    from limbeck.methods import method

    entry = method(name)
    if as_json:
        print(json.dumps(_fields(entry), default=str))
        return
    from limbeck.cli.terminal import make_console

    console, card = make_console(highlight=False), entry.card
    console.print(f"[bold]{card.name}[/]: {card.title}")
    console.print(f"{card.authors}, {card.year}. {card.venue}" + (f", arXiv:{card.arxiv}" if card.arxiv else ""))
    console.print(f"\n{card.claim}\n\n[bold]When to use it.[/] {card.when}\n\n[bold]Settings[/]")
    # Plain `print`: rich would wrap these lines, which people copy, and read brackets as markup.
    for key in entry.required:
        if key != "teacher":
            print(f"  --set method.{key}=...  (required)")
    for key, value in entry.defaults.items():
        limits = card.ranges.get(key)
        tuned = f"  (limbeck tune: {limits.low:g} to {limits.high:g})" if limits is not None else ""
        print(f"  --set {_setting(key, value)}{tuned}")
    print(f"\nFor the tasks {', '.join(card.tasks)}.\n\n{card.bibtex}")


def _setting(key: str, value: Any) -> str:
    """Format a setting for the shell: lists are quoted, numbers and plain words are not."""
    plain = isinstance(value, str) and value.isidentifier() and value not in ("true", "false", "null", "yes", "no")
    return quote(f"method.{key}={value if plain else json.dumps(value, separators=(',', ':'), default=str)}")


def _fields(call: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(call.card) | {"kernels": [str(claim) for claim in call.card.kernels], "defaults": call.defaults}


def show_keys(prefix: str, *, as_json: bool) -> None:
    """Print the keys of a job with their defaults and meanings.

    Raises:
        UnknownNameError: If no key starts with `prefix`.
    """
    from limbeck.errors import unknown_name_error
    from limbeck.job.schema import job_keys

    keys = job_keys(prefix)
    if not keys:
        raise unknown_name_error("key", prefix, [key.name for key in job_keys()])
    if as_json:
        print(json.dumps([key._asdict() for key in keys]))
        return
    from rich.table import Table

    from limbeck.cli.terminal import make_console

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("key", "default", "meaning"):
        table.add_column(column, overflow="fold", no_wrap=column == "key")
    for key in keys:
        table.add_row(*(text.replace("[", "\\[") for text in key))
    console = make_console()
    if not console.is_terminal:
        console.width = 120
    console.print(table, highlight=False)
    print("\nIn a job file: budget: {epochs: 30}. On the command line: --set budget.epochs=30.")
