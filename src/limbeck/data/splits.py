"""`DataSplits`: the parts of a dataset, and the summary of what was read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from limbeck.batch import IGNORED, Batch, Inputs
from limbeck.data.dataset import Dataset, hash_columns, split
from limbeck.data.table_encoding import TableEncoding
from limbeck.errors import LimbeckWarning

HELD_OUT = 0.2
"""The share of examples used as the test part if the data have none; stratified, with seed 0."""
_LISTED = 12
"""Up to this number, all columns or classes are listed; above, only those with notes or missing values."""


@dataclass(frozen=True)
class PartSummary:
    """Summary of one part of a dataset.

    Attributes:
        name: ``train``, ``development`` or ``test``.
        rows: Number of examples.
        unlabeled: Number of examples (or positions, for dense labels) without a label.
        classes: Number of examples of each class; empty if there are no labels.
        source: Its origin: a file, a folder, "held out of rows.csv (20 %)".
    """

    name: str
    rows: int
    unlabeled: int = 0
    classes: tuple[int, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class ColumnSummary:
    """Summary of one column of a table.

    Attributes:
        name: The column.
        kind: ``number``, ``category``, ``text``, ``target``, or ``left out``.
        missing: Number of training rows without a value.
        values: Number of different names in the training part; None for numbers.
        note: Additional information: "'?' (3 rows) read as missing", "row numbers".
    """

    name: str
    kind: str
    missing: int = 0
    values: int | None = None
    note: str = ""


@dataclass(frozen=True)
class DataSummary:
    """Summary of a dataset, created by `summarize` and completed by `load_data`.

    ``limbeck distill``, ``compare`` and ``doctor`` print `lines` before training. `as_dict` is part of ``result.json``
    and of the output of ``--json``.

    Attributes:
        kind: ``table``, ``texts``, ``images``, ``arrays``, or ``language`` for texts of language models.
        parts: The parts, training part first.
        class_names: The class names; None if there are none.
        columns: The columns of a table, in order.
        facts: Additional facts by name, one short string each: ``{"size": "32x32 pixels, 3 channels"}``.
        notes: Notes about what was converted, matched, truncated or left out.
        warnings: Likely mistakes, which doctor and `load_data` report.
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
        """Format as text: parts, classes, columns, facts, then warnings and notes."""
        rows = [*_part_rows(self), *self.facts.items()]
        width = max((len(name) for name, _ in rows), default=0)
        output = [f"  {name:<{width}}  {text}".rstrip() for name, text in rows]
        output += [f"  {line}" for line in _column_lines(self.columns)]
        output += [f"  Warning: {sentence}" for sentence in self.warnings]
        return tuple(output + [f"  Note: {sentence}" for sentence in self.notes])


@dataclass(frozen=True)
class DataSplits:
    """The parts of a dataset, and how a model reads them.

    Attributes:
        name: The name or path that was loaded.
        train: The training part.
        test: The test part.
        preprocess: Function batch -> model inputs.
        class_names: The class names; None if there are none.
        encoding: The encoding of a table; None for other data.
        tokenizer: The tokenizer of texts; None for other data.
        groups: The column of the test part's ``extra`` with the group of each example, if there is one.
        note: The origin of the data, and notes for the report.
        development: The development part; None if the data have none, and it is taken from `train`.
        summary: Summary of all parts and columns; `load_data` always sets it.
        held_out: Whether the test part was taken from the training part, because the data have none.
        task: The task that the targets are for.
        task_reason: What was seen in the targets, if the task was inferred.
        target_names: The names of the target columns, or of several labels.
    """

    name: str
    train: Dataset
    test: Dataset
    preprocess: Callable[[Batch], Inputs]
    class_names: tuple[str, ...] | None
    encoding: TableEncoding | None = None
    note: str = ""
    tokenizer: Any = None
    groups: str | None = None
    development: Dataset | None = None
    summary: DataSummary | None = None
    held_out: bool = False
    task: str = "classification"
    task_reason: str = ""
    target_names: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the fingerprints of all parts."""
        more = [] if self.development is None else [("development", self.development.fingerprint)]
        return hash_columns(("train", self.train.fingerprint), ("test", self.test.fingerprint), *more)


def summarize(
    kind: str,
    parts: Mapping[str, Dataset | None],
    *,
    sources: Mapping[str, str] | None = None,
    columns: Sequence[ColumnSummary] = (),
    facts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> DataSummary:
    r"""Create the summary of a dataset from its parts.

    Args:
        kind: ``table``, ``texts``, ``images`` or ``arrays``.
        parts: The parts by name, training part first; None for a part that does not exist.
        sources: The origin of each part.
        columns: The columns of a table.
        facts: Additional facts by name.
        notes: Notes about what was done.
        warnings: Likely mistakes.

    Example:
        >>> import torch
        >>> from limbeck.data import ArrayDataset
        >>> print(*summarize("arrays", {"train": ArrayDataset(torch.zeros(3, 2), [0, 1, 0])}).lines(), sep="\n")
          train    3 examples
          classes  2: 0 (2), 1 (1)
    """
    present = {name: part for name, part in parts.items() if part is not None}
    names = next((part.class_names for part in present.values()), None)
    size = len(names) if names else 1 + max((_largest(part) for part in present.values()), default=-1)
    summaries = tuple(_part(name, part, size, (sources or {}).get(name, "")) for name, part in present.items())
    return DataSummary(
        kind, summaries, names, tuple(columns), dict(facts or {}), tuple(dict.fromkeys(notes)),
        tuple(dict.fromkeys(warnings)),
    )  # fmt: skip


def hold_out(train: Dataset, test: Dataset | None) -> tuple[Dataset, Dataset, str]:
    """The training part, the test part and a note; without a test part, one is taken from the training part."""
    if test is not None:
        return train, test, ""
    rest, holdout = split(train, fraction=HELD_OUT, seed=0)
    return rest, holdout, held_out_note(len(holdout), by_class=holdout.labels is not None and holdout.labels.ndim == 1)


def held_out_note(count: int, *, by_class: bool = True) -> str:
    """A note on a test part that was taken from the training part, `by_class` or at random."""
    return f"no test part: {count} examples ({HELD_OUT:.0%}) were held out, {_how(by_class)}, with seed 0"


def held_out_source(file: str, *, by_class: bool = True) -> str:
    """The origin of a test part that was taken from a file, `by_class` or at random."""
    return f"held out of {file}: {HELD_OUT:.0%}, {_how(by_class)}, with seed 0"


def _how(by_class: bool) -> str:
    return "stratified" if by_class else "at random"


@contextmanager
def silenced() -> Iterator[None]:
    """Suppress limbeck's warnings, for callers that print the summary, which contains them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LimbeckWarning)
        yield


def _largest(part: Dataset) -> int:
    return -1 if part.labels is None or part.labels.numel() == 0 else int(part.labels.max())


def _part(name: str, part: Dataset, classes: int, source: str) -> PartSummary:
    if part.labels is None:
        return PartSummary(name, len(part), _count_unknown(part), (), source)
    labels = part.labels.flatten()
    labeled = labels[labels != IGNORED]
    counts = labeled.clamp_max(classes).bincount(minlength=classes)[:classes]
    return PartSummary(name, len(part), len(labels) - len(labeled), tuple(counts.tolist()), source)


def _count_unknown(part: Dataset) -> int:
    """Count the examples without any known target."""
    if part.targets is None:
        return len(part)
    rows = part.targets.flatten(1) if part.targets.ndim > 1 else part.targets.unsqueeze(1)
    unknown = rows.isnan() if rows.is_floating_point() else rows == IGNORED
    return int(unknown.all(1).sum())


def _part_rows(summary: DataSummary) -> Iterator[tuple[str, str]]:
    what = {"table": "rows", "language": "windows"}.get(summary.kind, "examples")
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
