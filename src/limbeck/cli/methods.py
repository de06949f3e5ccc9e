"""`limbeck methods`, and the keys of a job."""

from __future__ import annotations

import json
from shlex import quote
from typing import Any


def show_methods(*, as_json: bool) -> None:
    """A line for every method."""
    from limbeck.methods import method, names

    calls = {name: method(name) for name in names()}
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
        "\n`limbeck methods NAME` shows one card; `limbeck distill --method NAME` uses it.", highlight=False
    )


def show_card(name: str, *, as_json: bool) -> None:
    """One method's card."""
    from limbeck.methods import method

    found = method(name)
    if as_json:
        print(json.dumps(_fields(found), default=str))
        return
    from limbeck.cli.terminal import make_console

    console, card = make_console(highlight=False), found.card
    console.print(f"[bold]{card.name}[/]: {card.title}")
    console.print(f"{card.authors}, {card.year}. {card.venue}" + (f", arXiv:{card.arxiv}" if card.arxiv else ""))
    console.print(f"\n{card.claim}\n\n[bold]When to use it.[/] {card.when}\n\n[bold]Settings[/]")
    # These lines are to be copied: nothing in them is broken or read as markup.
    for key in found.required:
        if key != "teacher":
            print(f"  --set method.{key}=...  (needed)")
    for key, value in found.defaults.items():
        found_in = card.ranges.get(key)
        told = f"  (limbeck tune: {found_in.low:g} to {found_in.high:g})" if found_in is not None else ""
        print(f"  --set {_setting(key, value)}{told}")
    print(f"\n{card.bibtex}")


def _setting(key: str, value: Any) -> str:
    """A setting as a shell takes it: a list is quoted, a number or a plain word is not."""
    plain = isinstance(value, str) and value.isidentifier() and value not in ("true", "false", "null", "yes", "no")
    return quote(f"method.{key}={value if plain else json.dumps(value, separators=(',', ':'), default=str)}")


def _fields(call: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(call.card) | {"defaults": call.defaults}


def show_keys(prefix: str, *, as_json: bool) -> None:
    """Each key of a job with its default and its meaning.

    Raises:
        UnknownNameError: If no key begins with `prefix`.
    """
    from limbeck.errors import unknown
    from limbeck.job.keys import job_keys

    keys = job_keys(prefix)
    if not keys:
        raise unknown("key", prefix, [key.name for key in job_keys()])
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
    print("\nIn a file: budget: {epochs: 30}. On the command line: --set budget.epochs=30.")
