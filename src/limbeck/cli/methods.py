"""`limbeck methods` and `limbeck job --keys`."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

FAMILY_TITLES: Mapping[str, str] = {
    "controls": "no teacher; what every method must beat",
    "logits": "the outputs of a teacher",
    "features": "the hidden layers of a teacher",
    "relations": "how a teacher relates examples or classes to each other",
    "embeddings": "embeddings and rankings",
    "online": "models that learn from each other, or from their own average",
    "teachers": "other teachers: several, specialized, privileged, or trained to teach",
    "data": "which examples a student learns from, and what is said about them",
    "language": "language models",
}
"""What the methods of a family learn from."""

_WIDTH, _INDENT = 100, " " * 6


def show_methods(*, task: str | None = None, as_json: bool) -> None:
    """Print the name, citation and claim of all methods, or of those for a task, by family.

    Raises:
        UnknownNameError: If there is no such task.
    """
    from limbeck.methods import names

    count = _list_methods(names(task), as_json=as_json)
    if not as_json:
        print(f"{count}. `limbeck methods NAME` shows a card; `limbeck distill --method NAME` uses it.")


def _list_methods(chosen: Sequence[str], *, as_json: bool) -> str:
    """Print some methods by family, and return their number in words."""
    from itertools import groupby

    from limbeck.methods import family_of, method

    calls = {name: method(name) for name in chosen}
    if as_json:
        fields = {name: {"family": family_of(name), **_fields(call)} for name, call in calls.items()}
        print(json.dumps(fields, default=str))
        return ""
    for family, members in groupby(calls, key=family_of):
        print(f"{family}: {FAMILY_TITLES.get(family, '')}".rstrip(": "))
        for name in members:
            card = calls[name].card
            print(f"  {name:<30}{textwrap.shorten(card.citation, _WIDTH - 32, placeholder=' ...')}")
            print(textwrap.fill(_first_sentence(card.claim), _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT))
        print()
    return f"{len(calls)} method{'s' if len(calls) != 1 else ''}"


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
            f"  python -m pytest tests/methods -k {name}  # all tests whose name contains {name}\n"
            "  make docs  # writes the generated parts of the pages: commit all that it changed\n"
            "CONTRIBUTING.md says more."
        )


def show_method(query: str, *, task: str | None = None, as_json: bool) -> None:
    """Print the card of one method, or list the methods whose cards have these words.

    Raises:
        UnknownNameError: If no method has this name or these words.
    """
    from limbeck.errors import unknown_name_error
    from limbeck.methods import names
    from limbeck.methods.search import find_methods, without_formula
    from limbeck.models import UserFile

    if query in names() or UserFile.parse(query) is not None:
        show_card(query, as_json=as_json)
    elif (reason := without_formula(query)) is not None:
        print(json.dumps({"not_available": reason}) if as_json else reason)
    elif not (hits := find_methods(query)):
        words = "Or words of a card, such as `limbeck methods contrastive`. Without a name, all are listed."
        raise unknown_name_error("method", query, names(), then=words)
    elif hits[0].replace("_", "") == re.sub(r"[\W_]+", "", query.lower()):
        show_card(hits[0], as_json=as_json)
    else:
        count = _list_methods([name for name in hits if name in names(task)], as_json=as_json)
        if not as_json:
            print(f"{count} with {query!r} on the card. `limbeck methods NAME` shows a card.")


def show_card(name: str, *, as_json: bool) -> None:
    """Print the card of one method."""
    from limbeck.methods import family_of, method, names

    entry = method(name)
    if as_json:
        family = {"family": family_of(name)} if name in names() else {}
        print(json.dumps({**family, **_fields(entry)}, default=str))
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
    print(f"\nFor the tasks {', '.join(card.tasks)}.")
    print(f"It reads {' and '.join(card.reads) or 'nothing'} of a teacher or a peer. Labels: {card.labels}.")
    if card.needs:
        print(f"It also needs {card.needs}.")
    for claim in card.kernels:
        invariant = f"; not changed by {', '.join(claim.invariances)}" if claim.invariances else ""
        print(textwrap.fill(f"Kernel {claim}, one value per {claim.per}{invariant}.", _WIDTH, subsequent_indent="  "))
    print(f"\n{card.bibtex}")


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[a-z0-9)][.:])\s+(?=[A-Z])", text, maxsplit=1)[0]


def _setting(key: str, value: Any) -> str:
    """Format a setting for the shell: lists are quoted, numbers and plain words are not."""
    plain = isinstance(value, str) and value.isidentifier() and value not in ("true", "false", "null", "yes", "no")
    return quote(f"method.{key}={value if plain else json.dumps(value, separators=(',', ':'), default=str)}")


def _fields(call: Any) -> dict[str, Any]:
    from dataclasses import asdict

    card = call.card
    kernels = [str(claim) for claim in card.kernels]
    return asdict(card) | {"citation": card.citation, "kernels": kernels, "defaults": call.defaults}


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
