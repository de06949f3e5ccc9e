"""The model card of an exported student."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from limbeck.data import DataSplits
from limbeck.errors import DataError
from limbeck.export.cite import bibtex, citations
from limbeck.export.exported_run import ExportedRun
from limbeck.export.finished_run import FinishedRun
from limbeck.export.model_card_yaml import escape_markdown, front_matter, quote_markdown
from limbeck.export.reader import ReaderScript
from limbeck.export.usage_snippet import usage_snippet
from limbeck.job import (
    collect_settings,
    describe_arm_budgets,
    format_steps,
    list_custom_metrics,
    plain_name,
    read_search,
    read_size_notes,
    recommend,
)


def model_card(
    done: FinishedRun,
    data: DataSplits,
    exported: ExportedRun,
    *,
    to: str,
    raw: bool = False,
    license: str | None = None,
    reader: ReaderScript | None = None,
) -> str:
    """The ``README.md`` of an export: a Hugging Face model card.

    Its front matter is YAML (license, tags, data, accuracy on the test data); below stand the verdict, how to open the
    student, what it reads, how it was judged, and BibTeX of exactly what was used.

    Args:
        done: The run.
        data: Its data.
        exported: What was exported.
        to: The format.
        raw: Whether an ONNX file reads the data's own examples.
        license: Of the weights; ``unknown`` where nobody has said it.
        reader: What ``read.py`` beside it is made of, if there is one.
    """
    student, by = plain_name(done.job.student.model), done.method
    how = f"distilled by {plain_name(by.name)}" if by is not None else "trained"
    parts = [
        front_matter(done, data, exported, to=to, license=license),
        f"# {escape_markdown(f'{student} on {plain_name(data.name)}, {how}')}\n\n{_verdict(done.result)}",
        "\n".join(_table(done)),
        f"## How to open it\n\n{_reader(reader)}"
        f"```python\n{usage_snippet(done, to=to, raw=raw, file=exported.path.name)}\n```\n\n"
        + " ".join(_read(done, raw=raw)),
        "## This file\n\n" + "\n".join(f"* {line}" for line in _export(exported, to)),
        "## How it was made and judged\n\n" + "\n".join(f"* {line}" for line in _protocol(done, data)),
        f"## License\n\n{_license(done, data, license)}",
        f"## Cite\n\n```bibtex\n{bibtex(citations(done, to=to))}```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _verdict(result: Mapping[str, Any]) -> str:
    verdict = result.get("verdict", {})
    lines = [f"**{escape_markdown(verdict['sentence'])}**"] if verdict.get("sentence") else []
    lines += [escape_markdown(one["sentence"]) for one in verdict.get("against", {}).values() if one.get("sentence")]
    if lines and result.get("arms"):
        lines += [escape_markdown(recommend(result).sentence)]
    return "\n".join(lines) or "The run was not judged against a control."


def _reader(reader: ReaderScript | None) -> str:
    """How raw examples are answered by ``read.py``, above the code for programs."""
    if reader is None:
        return ""
    what = {"table": "raw rows", "pictures": "pictures or arrays (`.npy`)", "texts": "texts"}[reader.kind]
    return (
        f"`read.py` answers {what} without limbeck; it needs {reader.requires}:\n\n```\n{reader.command}\n```\n\n"
        "In a program:\n\n"
    )


def _table(done: FinishedRun) -> Iterator[str]:
    arms = done.result.get("arms") or {}
    if not arms:
        return
    seeds = max((len(_accuracy(arm)["values"]) for name, arm in arms.items() if name != "one member"), default=1)
    over = f" (mean ± standard deviation over {seeds} seeds)" if seeds > 1 else ""
    own = list_custom_metrics(done.result)
    head = ("arm", f"accuracy, %{over}", "NLL, nats", *map(escape_markdown, own), "parameters", "MB", "ms for one")
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'--:|' * (len(head) - 1)}"
    mine = done.metadata.get("arm")
    for name, arm in arms.items():
        called = f"**{escape_markdown(name)}** (this one)" if name == mine else escape_markdown(name)
        yield f"| {called} | {' | '.join(_cells(arm, own))} |"
    for note in read_size_notes(done.result):
        yield ""
        yield f"{escape_markdown(note)}."


def _cells(arm: Mapping[str, Any], own: Sequence[str]) -> Iterator[str]:
    accuracy, measures = _accuracy(arm), arm.get("measures")
    mean = _number(accuracy.get("mean"), 2, 100.0)
    yield f"{mean} ± {_number(accuracy.get('std'), 2, 100.0)}" if len(accuracy["values"]) > 1 else mean
    yield _number(arm.get("nll"), 3)
    yield from (_mean(measures.get(name) if isinstance(measures, Mapping) else None) for name in own)
    yield from (_number(arm.get("parameters"), 0), _number(arm.get("megabytes"), 3))
    yield _number(arm.get("milliseconds"), 4)


def _accuracy(arm: Mapping[str, Any]) -> dict[str, Any]:
    """An arm's accuracy; without values where the result is an old one, or a stranger's."""
    accuracy = arm.get("accuracy")
    entries = dict(accuracy) if isinstance(accuracy, Mapping) else {}
    return {**entries, "values": entries["values"] if isinstance(entries.get("values"), list) else []}


def _mean(metric: Any) -> str:
    """A metric of a person's own, mean ± standard deviation over seeds as the accuracy is."""
    entries = metric if isinstance(metric, Mapping) else {}
    values = entries.get("values")
    several = isinstance(values, list) and len(values) > 1 and isinstance(entries.get("std"), (int, float))
    return _number(entries.get("mean"), 4) + (f" ± {_number(entries['std'], 4)}" if several else "")


def _number(value: Any, digits: int, scale: float = 1.0) -> str:
    return f"{scale * value:,.{digits}f}" if isinstance(value, (int, float)) else "-"


def _read(done: FinishedRun, *, raw: bool) -> Iterator[str]:
    shape, preprocess, names = (done.metadata.get(name) for name in ("input_shape", "preprocess", "class_names"))
    if shape and not (raw and done.metadata.get("encoding")):
        yield f"One example, as the network reads it, has the shape {'x'.join(map(str, shape))}."
    table = done.metadata.get("encoding")
    if raw and table:
        yield "The file encodes a row by itself: each column is an input of its name, as it stands in the table,"
        yield "without spaces around its values."
    elif raw and preprocess and preprocess.get("preprocess") == "pixels":
        yield "The file normalizes by itself."
    elif raw:
        yield "The file takes examples as the data hold them: they were not normalized."
    elif preprocess and preprocess.get("preprocess") == "pixels":
        yield (
            f"Pixels are multiplied by {preprocess['scale']:.6g}, then standardized with mean "
            f"{_list(preprocess['mean'])} and "
            f"std {_list(preprocess['std'])}{', channels last' * bool(preprocess.get('channels_last'))}."
        )
    if encoding := done.metadata.get("encoding"):
        layout = "; ".join(_column(column) for column in encoding["columns"])
        does = "the file does it" if raw else "`read.py` and `limbeck.read_table` do it"
        yield f"A row of the table becomes these numbers, in this order ({does}): {layout}."
    if names and list(names) != [str(number) for number in range(len(names))]:
        called = [escape_markdown(name) if name == str(name).strip() else quote_markdown(name) for name in names[:20]]
        meanings = ", ".join(f"{number} {name}" for number, name in enumerate(called))
        yield f"The logits stand for: {meanings}{', ...' * (len(names) > 20)}."


def _column(column: Mapping[str, Any]) -> str:
    """How a column of a table becomes numbers, in words."""
    if column["kind"] == "category":
        values = ", ".join(map(quote_markdown, column["values"]))
        name = quote_markdown(column["name"])
        return f"{name}, one of {values}, other (any other or none): a 1 at its place, 0 elsewhere"
    name = quote_markdown(column["name"])
    missing = f", then 1 where {name} is missing, else 0" if column.get("missing") else ""
    return f"({name} - {column['mean']:.6g}) / {column['std']:.6g} or, without a number, 0{missing}"


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _export(exported: ExportedRun, to: str) -> Iterator[str]:
    parity = exported.parity
    file = (
        "This folder" if exported.path.is_dir() else f"`{exported.path.name}`"
    )  # it has another name until it is whole
    yield f"{file}, {exported.bytes:,} bytes."
    what = "the float32 student's" if to == "int8" else "the trained student's in PyTorch"
    apart = f"differ from {what} by at most {parity.max_difference:.2g}" if parity.max_difference else f"are {what}"
    yield f"Its logits {apart} on {parity.examples:,} test examples."
    if parity.nodes:
        yield f"{parity.nodes} of its {parity.of} nodes were compared with PyTorch's one by one."
    yield (
        f"Accuracy on all test data: {100 * exported.accuracy_before:.2f} % before the export, "
        f"{100 * exported.accuracy_after:.2f} % after."
    )
    if exported.eight:
        yield from exported.eight.lines()
    yield from map(escape_markdown, exported.notes)


def _protocol(done: FinishedRun, data: DataSplits) -> Iterator[str]:
    job, test_use = done.job, done.result.get("data", {})
    parts = {"train": "to learn from", "development": "for choices", "test": "to test"}
    counts = [f"{test_use[part]:,} {settings}" for part, settings in parts.items() if part in test_use]
    yield f"Data: {escape_markdown(plain_name(data.name))}" + (f", {', '.join(counts)}" if counts else "") + "."
    if data.note:
        yield f"About the data: {escape_markdown(data.note)}."
    members = f"{job.teacher.members} x " if job.teacher.members > 1 else ""
    taught = done.result.get("teacher_development_accuracy")
    values = f", {100 * taught:.2f} % on development data" if isinstance(taught, float) else ""
    yield f"Teacher: {members}{_model(job.teacher)}{values}."
    yield f"Student: {_model(job.student)}."
    if (by := done.method) is not None:
        yield f"Method: {escape_markdown(plain_name(by.name))}{_arguments(by.hyper)}."
    yield from _effort(done)
    yield (
        f"Seeds: {job.seeds}; arms share initial weights and the order of the data (pairs). Choices were made on "
        "development data carved from the training part; the test data were used once, with the last epoch's weights."
    )
    metadata = dict(done.result.get("environment") or {})
    metadata |= metadata.pop("packages", None) or {}
    if metadata:
        versions = (escape_markdown(f"{name} {value}") for name, value in metadata.items() if isinstance(value, str))
        yield f"Made with {', '.join(versions)}."


def _effort(done: FinishedRun) -> Iterator[str]:
    """For how long each arm learnt, and whether its settings were searched as long as the others'."""
    job, budget = done.job, done.job.budget
    method = {arm: {"role": "method" if arm in job.method_arms else "control"} for arm in job.all_arms}
    rows = done.result.get("arms") or method
    own = describe_arm_budgets({arm: definition.model_dump() for arm, definition in job.budgets.items()}, rows)
    by_steps = f"{budget.epochs} epochs, batches of {budget.batch_size}, {budget.optimizer} at {budget.lr:g}"
    if own:
        apart = "; ".join(escape_markdown(f"{arm}: {lines}") for arm, lines in own.items())
        yield f"Budget: {by_steps}; in place of that, {apart}."
    else:
        yield f"Budget of every arm: {by_steps}."
    if steps := format_steps(rows):
        yield f"Optimizer steps: {escape_markdown(steps)}."
    try:
        search = read_search(done.folder)
    except DataError:
        yield "Settings: from a search whose record is damaged."
        return
    if search is not None:
        learners = [arm for arm in job.all_arms if arm not in ("teacher", "shuffled teacher")]
        changed = search.list_changes(collect_settings(job.model_dump(), rows))
        apart = f" Not all that was found was used: {escape_markdown('; '.join(changed))}." if changed else ""
        yield f"Settings: {escape_markdown(search.describe_effort(learners))}{apart}"


def _model(model: Any) -> str:
    return escape_markdown(plain_name(model.model)) + _arguments(model.arguments)


def _arguments(arguments: Mapping[str, Any]) -> str:
    text = ", ".join(escape_markdown(f"{name}={value}") for name, value in arguments.items())
    return f" ({text})" if arguments else ""


def _license(done: FinishedRun, data: DataSplits, license: str | None) -> str:
    teacher, named = escape_markdown(plain_name(done.job.teacher.model)), escape_markdown(plain_name(data.name))
    if license is not None:
        return f"{license}, as whoever exported it said. The teacher ({teacher}) and the data ({named}) have their own."
    return (
        "Nobody has said a license for these weights: write one into the first lines of this card, or export with "
        f"--license. They learnt from the teacher {teacher} and the data {named}, whose licenses count."
    )
