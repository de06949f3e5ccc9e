"""Summary of what was read: splits, classes, columns, missing values, what was left out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from limbeck.batch import IGNORED
from limbeck.data.dataset import Dataset
from limbeck.errors import LimbeckWarning

_LISTED = 12
"""Columns, or classes, that are shown one by one; of more, those that something is to be said of."""


@dataclass(frozen=True)
class PartSummary:
    """One part of a data set.

    Attributes:
        name: ``train``, ``development`` or ``test``.
        rows: How many examples it has.
        unlabeled: How many of them have no label; of labels by position, how many positions.
        classes: How many examples each class has, in the order of the classes; empty where there are no labels.
        source: Where it comes from: a file, a folder, "held out of rows.csv (20 %)".
    """

    name: str
    rows: int
    unlabeled: int = 0
    classes: tuple[int, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class ColumnSummary:
    """One column of a table, as it was read.

    Attributes:
        name: The column.
        kind: ``number``, ``category``, ``text``, ``target``, or ``left out``.
        missing: How many rows of the training part have no value.
        values: How many different names it has in the training part; None for numbers.
        note: What else a reader should know: "'?' was taken for missing", "row numbers".
    """

    name: str
    kind: str
    missing: int = 0
    values: int | None = None
    note: str = ""


@dataclass(frozen=True)
class DataSummary:
    """What was read, and what was made of it.

    A loader fills in what it knows, with `summarize`; `load_data` adds the rest. ``limbeck distill``, ``compare`` and
    ``doctor`` print `lines` before anything is paid for; `as_dict` stands in ``result.json`` and behind ``--json``.

    Attributes:
        kind: ``table``, ``texts``, ``pictures`` or ``arrays``.
        parts: The parts, training first.
        class_names: The classes, by number, where they have names.
        columns: Of a table, in its order.
        facts: Further facts by name, one short text each: ``{"size": "32x32 pixels, 3 channels"}``.
        notes: Sentences about what was converted, mapped, cut, dropped, or left out.
        warnings: Sentences about what is likely to be a mistake; doctor says "look", and `load_data` warns.
    """

    kind: str
    parts: tuple[PartSummary, ...] = ()
    class_names: tuple[str, ...] | None = None
    columns: tuple[ColumnSummary, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        values = asdict(self)
        return {**values, "facts": dict(self.facts)}

    def lines(self) -> tuple[str, ...]:
        """A small table for people: parts, classes, columns, facts, then the sentences."""
        rows = [*_part_rows(self), *self.facts.items()]
        width = max((len(name) for name, _ in rows), default=0)
        output = [f"  {name:<{width}}  {text}".rstrip() for name, text in rows]
        output += [f"  {line}" for line in _column_lines(self.columns)]
        output += [f"  Look: {sentence}" for sentence in self.warnings]
        return tuple(output + [f"  Note: {sentence}" for sentence in self.notes])


def summarize(
    kind: str,
    parts: Mapping[str, Dataset],
    *,
    sources: Mapping[str, str] | None = None,
    columns: Sequence[ColumnSummary] = (),
    facts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> DataSummary:
    r"""The summary of a data set whose rows, labels and class names are counted in its parts.

    Args:
        kind: ``table``, ``texts``, ``pictures`` or ``arrays``.
        parts: The examples of each part by its name, training first.
        sources: Where a part comes from, by its name.
        columns: Of a table.
        facts: Further facts by name.
        notes: Sentences about what was done.
        warnings: Sentences about what is likely wrong.

    Example:
        >>> import torch
        >>> from limbeck.data import ArrayDataset
        >>> print(*summarize("arrays", {"train": ArrayDataset(torch.zeros(3, 2), [0, 1, 0])}).lines(), sep="\n")
          train    3 examples
          classes  2: 0 (2), 1 (1)
    """
    names = next((part.class_names for part in parts.values()), None)
    size = len(names) if names else 1 + max((_largest(part) for part in parts.values()), default=-1)
    summaries = tuple(_part(name, part, size, (sources or {}).get(name, "")) for name, part in parts.items())
    return DataSummary(
        kind, summaries, names, tuple(columns), dict(facts or {}), tuple(dict.fromkeys(notes)),
        tuple(dict.fromkeys(warnings)),
    )  # fmt: skip


@contextmanager
def silenced() -> Iterator[None]:
    """A block in which limbeck's warnings are not shown, for whoever prints the summary that holds them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LimbeckWarning)
        yield


def _largest(part: Dataset) -> int:
    return -1 if part.labels is None or part.labels.numel() == 0 else int(part.labels.max())


def _part(name: str, part: Dataset, classes: int, source: str) -> PartSummary:
    if part.labels is None:
        return PartSummary(name, len(part), len(part), (), source)
    labels = part.labels.flatten()
    labeled = labels[labels != IGNORED]
    counts = labeled.clamp_max(classes).bincount(minlength=classes)[:classes]
    return PartSummary(name, len(part), len(labels) - len(labeled), tuple(counts.tolist()), source)


def _part_rows(summary: DataSummary) -> Iterator[tuple[str, str]]:
    what = "rows" if summary.kind == "table" else "examples"
    for part in summary.parts:
        none = f", {part.unlabeled:,} without a label" if part.unlabeled else ""
        yield part.name, f"{part.rows:,} {what}{none}" + (f": {part.source}" if part.source else "")
    for part in summary.parts:
        if part.classes:
            suffix = "" if part.name == "train" else f" in {part.name}"
            yield f"classes{suffix}", _class_counts(part.classes, summary.class_names)


def _class_counts(counts: tuple[int, ...], names: tuple[str, ...] | None) -> str:
    called = names if names is not None and len(names) == len(counts) else tuple(map(str, range(len(counts))))
    if len(counts) <= _LISTED:
        return f"{len(counts)}: " + ", ".join(f"{name} ({count:,})" for name, count in zip(called, counts, strict=True))
    order = sorted(range(len(counts)), key=counts.__getitem__)
    fewest, most = order[0], order[-1]
    first = ", ".join(called[:3])
    return (
        f"{len(counts)} ({first}, ...): from {counts[fewest]:,} ({called[fewest]}) to {counts[most]:,} "
        f"({called[most]}) examples each"
    )


def _column_lines(columns: tuple[ColumnSummary, ...]) -> Iterator[str]:
    if not columns:
        return
    visible = (
        columns
        if len(columns) <= _LISTED
        else [column for column in columns if column.note or column.missing][:_LISTED]
    )
    if len(visible) < len(columns):
        kinds = dict.fromkeys(column.kind for column in columns)
        counts = ", ".join(f"{sum(column.kind == kind for column in columns):,} {kind}" for kind in kinds)
        yield f"{len(columns)} columns: {counts}" + (", among them" if visible else "")
    if not visible:
        return
    rows = [("column", "kind", "values", "missing", "")]
    for column in visible:
        values = "" if column.values is None else f"{column.values:,}"
        rows.append((column.name, column.kind, values, f"{column.missing:,}" if column.missing else "", column.note))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        start = f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}"
        yield f"{start}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}  {row[4]}".rstrip()
