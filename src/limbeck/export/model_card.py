"""The model card of an exported student: Markdown with metadata for the Hugging Face hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.data import DataSplits
from limbeck.data.builtin_datasets import IMAGE_DATASETS
from limbeck.errors import DataError, printable
from limbeck.export.citations import bibtex, citations
from limbeck.export.finished_run import FinishedRun
from limbeck.export.formats import ExportedRun
from limbeck.export.usage import ReadScript, usage_snippet
from limbeck.job import (
    LIKE_FIRST_METHOD,
    Job,
    collect_settings,
    describe_arm_budgets,
    format_steps,
    list_custom_metrics,
    plain_name,
    read_search,
    read_size_notes,
    recommend,
)
from limbeck.models.hub import LibraryModel
from limbeck.optional_imports import install_command, is_installed
from limbeck.tasks import LanguageModeling, Regression, Segmentation, Task

_MARKS = re.compile(r"([\\`*\[\]<>|&])")
_LIBRARIES = {"folder": "limbeck", "hf": "transformers", "onnx": "onnx", "int8": "onnx", "joblib": "sklearn"}


def make_card(
    done: FinishedRun,
    data: DataSplits,
    exported: ExportedRun,
    *,
    to: str,
    raw: bool = False,
    license: str | None = None,
    reader: ReadScript | None = None,
) -> tuple[str, tuple[str, ...]]:
    """Write the model card of an export.

    It has metadata (license, tags, data, accuracy on the test data), the verdict, code that opens the export, its
    inputs, how it was made and judged, and BibTeX entries.

    Args:
        done: The run.
        data: Its data.
        exported: The export.
        to: The format.
        raw: Whether an ONNX file contains the preprocessing.
        license: The license of the weights; ``unknown`` if None.
        reader: The parts of ``read.py``, if there is one.

    Returns:
        The text of ``README.md``, and notes for the user: without huggingface_hub the card has no metadata.
    """
    student, method = done.job.student_title, done.method
    how = f"distilled by {plain_name(method.name)}" if method is not None else "trained"
    snippet = usage_snippet(done, to=to, raw=raw, file=exported.path.name, tokenizer=data.tokenizer)
    parts = [
        f"# {escape_markdown(f'{student} on {plain_name(data.name)}, {how}')}\n\n{_verdict(done.result)}",
        "\n".join(_table(done)),
        f"## How to open it\n\n{_describe_reader(reader)}```python\n{snippet}\n```\n\n"
        + " ".join(_describe_inputs(done, raw=raw, to=to)),
        "## This file\n\n" + "\n".join(f"* {line}" for line in _describe_export(exported, to, done.task)),
        "## How it was made and judged\n\n" + "\n".join(f"* {line}" for line in _protocol(done, data)),
        f"## License\n\n{_license(done, data, license)}",
        f"## Cite\n\n```bibtex\n{bibtex(citations(done, to=to))}```",
    ]
    body = "\n\n".join(part for part in parts if part) + "\n"
    if not is_installed("huggingface_hub"):
        note = f"The card has no metadata for the Hugging Face hub. For that, type: {install_command('export')}"
        return body, (note,)
    from huggingface_hub import ModelCard

    return str(ModelCard(f"---\n{_metadata(done, data, exported, to, license)}\n---\n\n{body}")), ()


def _metadata(done: FinishedRun, data: DataSplits, exported: ExportedRun, to: str, license: str | None) -> str:
    """The metadata of the card as YAML: license, library, task, tags, data, and the accuracy on the test data."""
    from huggingface_hub import EvalResult, ModelCardData

    task, dataset = find_task(done), IMAGE_DATASETS.get(data.name)
    hub_name = None if dataset is None else dataset.hub[0]
    named, score = _one_line(plain_name(data.name)), exported.metric
    result = EvalResult(
        task_type=task or "other", dataset_type=hub_name or named, dataset_name=named, dataset_split="test",
        metric_type=score.name, metric_name=f"{score.title[:1].upper()}{score.title[1:]}",
        metric_value=round(exported.score_after, 6),
    )  # fmt: skip
    method = [] if done.method is None else [_one_line(plain_name(done.method.name).rpartition(":")[2])]
    library = LibraryModel.parse(done.job.student.model)
    is_trained = done.job.student.arguments.get("pretrained", True)
    on_hub = library is not None and library.prefix == "hf" and is_trained and not Path(library.name).exists()
    values = ModelCardData(
        license=license or "unknown", library_name=_LIBRARIES[to], pipeline_tag=task,
        tags=["knowledge-distillation", "limbeck", *method, *(["int8"] if to == "int8" else [])],
        datasets=None if hub_name is None else [hub_name], metrics=[score.name],
        base_model=library.name if library is not None and on_hub else None,
        model_name=f"{_one_line(done.job.student_title)} on {named}", eval_results=[result],
    )  # fmt: skip
    return str(values.to_yaml())


def _one_line(text: str) -> str:
    """A name from data without line breaks and control characters."""
    return printable(" ".join(text.split()))


def escape_markdown(text: Any) -> str:
    r"""Escape a text for Markdown, in one line.

    Example:
        >>> print(escape_markdown("<b>|`x`"))
        \<b\>\|\`x\`
    """
    return _MARKS.sub(r"\\\1", _one_line(str(text)))


def quote_markdown(text: Any) -> str:
    r"""Quote a name from data for Markdown, with all its spaces and line breaks.

    Example:
        >>> print(quote_markdown(" Private"), quote_markdown("a*b"))
        " Private" "a\*b"
    """
    return _MARKS.sub(r"\\\1", printable(json.dumps(str(text), ensure_ascii=False)))


def find_task(done: FinishedRun) -> str | None:
    """The hub's name for the student's task; None if it is not known."""
    preprocess, shape = done.metadata.get("preprocess") or {}, done.metadata.get("input_shape") or ()
    if isinstance(done.task, Regression):
        return "tabular-regression" if done.metadata.get("encoding") else None
    if isinstance(done.task, Segmentation):
        return "image-segmentation"
    if isinstance(done.task, LanguageModeling):
        writes = "ForConditionalGeneration" in str(done.model_config.get("class"))
        return "text2text-generation" if writes else "text-generation"
    if done.metadata.get("encoding"):
        return "tabular-classification"
    if "ForSequenceClassification" in str(done.model_config.get("class")):
        return "text-classification"
    if preprocess.get("preprocess") == "pixels" or len(shape) == 3:
        return "image-classification"
    return None


def _verdict(result: Mapping[str, Any]) -> str:
    verdict = result.get("verdict", {})
    lines = [f"**{escape_markdown(verdict['sentence'])}**"] if verdict.get("sentence") else []
    lines += [escape_markdown(one["sentence"]) for one in verdict.get("against", {}).values() if one.get("sentence")]
    if lines and result.get("arms"):
        lines += [escape_markdown(recommend(result).sentence)]
    return "\n".join(lines) or "The run was not judged against a control."


def _describe_reader(reader: ReadScript | None) -> str:
    """How to use ``read.py``."""
    if reader is None:
        return ""
    kinds = {"table": "raw rows", "images": "images or arrays (`.npy`)", "texts": "texts"}
    does = "writes on from prompts" if reader.kind == "prompts" else f"predicts {kinds[reader.kind]}"
    return (
        f"`read.py` {does} without limbeck. It needs {reader.requires}:\n\n```\n{reader.command}\n```\n\nIn Python:\n\n"
    )


def _table(done: FinishedRun) -> Iterator[str]:
    arms = done.result.get("arms") or {}
    if not arms:
        return
    task = done.task
    second = task.headline[1] or task.primary.name
    own_arms = [arm for name, arm in arms.items() if arm.get("role") != "member" and name != "one member"]
    seeds = max((len(_score(arm, task)["values"]) for arm in own_arms), default=1)
    over = f" (mean ± standard deviation over {seeds} seeds)" if seeds > 1 else ""
    own = list_custom_metrics(done.result)
    head = (
        "arm",
        f"{task.primary.title}{', %' * task.primary.percent}{over}",
        _COLUMNS.get(second, second),
        *map(escape_markdown, own),
        "parameters",
        "MB",
        "ms for one",
    )
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'--:|' * (len(head) - 1)}"
    mine = done.metadata.get("arm")
    for name, arm in arms.items():
        label = f"**{escape_markdown(name)}** (this one)" if name == mine else escape_markdown(name)
        yield f"| {label} | {' | '.join(_cells(arm, own, task))} |"
    for note in read_size_notes(done.result):
        yield ""
        yield f"{escape_markdown(note)}."


_COLUMNS = {
    "nll": "NLL, nats", "mean_average_precision": "mAP, fraction", "rmse": "RMSE", "pixel_accuracy": "pixel accuracy",
    "perplexity": "perplexity",
}  # fmt: skip
"""The titles of the second metric of each task."""


def _cells(arm: Mapping[str, Any], own: Sequence[str], task: Task) -> Iterator[str]:
    score, measures = _score(arm, task), arm.get("measures")
    digits = (2, 100.0) if task.primary.percent else (4, 1.0)
    mean = _number(score.get("mean"), *digits)
    yield f"{mean} ± {_number(score.get('std'), *digits)}" if len(score["values"]) > 1 else mean
    yield _number(arm.get(task.headline[1] or ""), 3)
    yield from (_mean(measures.get(name) if isinstance(measures, Mapping) else None) for name in own)
    yield from (_number(arm.get("parameters"), 0), _number(arm.get("megabytes"), 3))
    yield _number(arm.get("milliseconds"), 4)


def _score(arm: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """The primary metric of an arm; without values if the result is of an earlier version or was edited."""
    score = arm.get(task.primary.name)
    entries = dict(score) if isinstance(score, Mapping) else {}
    return {**entries, "values": entries["values"] if isinstance(entries.get("values"), list) else []}


def _mean(metric: Any) -> str:
    """A user's metric: mean ± standard deviation over seeds."""
    entries = metric if isinstance(metric, Mapping) else {}
    values = entries.get("values")
    several = isinstance(values, list) and len(values) > 1 and isinstance(entries.get("std"), (int, float))
    return _number(entries.get("mean"), 4) + (f" ± {_number(entries['std'], 4)}" if several else "")


def _number(value: Any, digits: int, scale: float = 1.0) -> str:
    return f"{scale * value:,.{digits}f}" if isinstance(value, (int, float)) else "-"


def _describe_inputs(done: FinishedRun, *, raw: bool, to: str) -> Iterator[str]:
    shape, preprocess, names = (done.metadata.get(name) for name in ("input_shape", "preprocess", "class_names"))
    if shape and not (raw and done.metadata.get("encoding")):
        yield f"One input of the network has the shape {'x'.join(map(str, shape))}."
    table = done.metadata.get("encoding")
    if raw and table:
        yield "The file encodes rows by itself: each column of the table is an input with its name and values as in the"
        yield "table, without spaces around them."
    elif raw and preprocess and preprocess.get("preprocess") == "pixels":
        yield "The file normalizes by itself."
    elif raw:
        yield "The file takes examples as they are in the data, which were not normalized."
    elif preprocess and preprocess.get("preprocess") == "pixels":
        yield (
            f"Pixels are multiplied by {preprocess['scale']:.6g}, then standardized with mean "
            f"{_join(preprocess['mean'])} and "
            f"std {_join(preprocess['std'])}{', channels last' * bool(preprocess.get('channels_last'))}."
        )
    if encoding := done.metadata.get("encoding"):
        layout = "; ".join(_column(column) for column in encoding["columns"])
        where = "in the file" if raw else "by `read.py` and `limbeck.read_table`"
        yield f"A row of the table is encoded ({where}) as these numbers, in this order: {layout}."
    if isinstance(done.task, Regression):
        yield from _describe_targets(done.task, to)
    if names and list(names) != [str(number) for number in range(len(names))]:
        quoted = [escape_markdown(name) if name == str(name).strip() else quote_markdown(name) for name in names[:20]]
        classes = ", ".join(f"{number} {name}" for number, name in enumerate(quoted))
        yield f"The classes of the logits: {classes}{', ...' * (len(names) > 20)}."


def _describe_targets(task: Regression, to: str) -> Iterator[str]:
    names = ", ".join(map(quote_markdown, task.output_names)) or "one for each target column"
    yield f"The outputs: {names}."
    if to in ("onnx", "int8"):
        yield "They are in the unit of the targets."
    elif task.standardize:
        yield f"They are standardized: multiply by {_join([*task.std])}, and add {_join([*task.mean])}."


def _column(column: Mapping[str, Any]) -> str:
    """Describe the encoding of a column."""
    if column["kind"] == "category":
        values = ", ".join(map(quote_markdown, column["values"]))
        name = quote_markdown(column["name"])
        return f"{name} one-hot, as one of {values}, other (also if missing)"
    name = quote_markdown(column["name"])
    missing = f", then 1 if {name} is missing, else 0" if column.get("missing") else ""
    return f"({name} - {column['mean']:.6g}) / {column['std']:.6g}, or 0 if missing{missing}"


def _join(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _describe_export(exported: ExportedRun, to: str, task: Task) -> Iterator[str]:
    parity, score = exported.parity, exported.metric
    # While it is written, the folder has a temporary name.
    file = "This folder" if exported.path.is_dir() else f"`{exported.path.name}`"
    yield f"{file}, {exported.bytes:,} bytes."
    other = "the float32 student's" if to == "int8" else "the trained student's in PyTorch"
    largest = parity.max_difference
    match = f"differ from {other} by at most {largest:.2g}" if largest else f"are equal to {other}"
    yield f"Its logits {match} on {parity.examples:,} test {task.row_title}."
    if parity.nodes:
        yield f"The values of {parity.nodes} of its {parity.of} nodes were compared with PyTorch's."
    title, before, after = f"{score.title[:1].upper()}{score.title[1:]}", exported.score_before, exported.score_after
    changed = f"{score.format(before)} before the export, {score.format(after)} after"
    yield f"{title} on all test data: {changed}{exported.of_seed}."
    if exported.eight:
        yield from exported.eight.lines()
    yield from map(escape_markdown, exported.notes)


def _protocol(done: FinishedRun, data: DataSplits) -> Iterator[str]:
    job, test_use = done.job, done.result.get("data", {})
    parts = {"train": "training", "development": "development", "test": "test"}
    counts = [f"{test_use[part]:,} {name}" for part, name in parts.items() if part in test_use]
    yield (
        f"Data: {escape_markdown(plain_name(data.name))}"
        + (f", {', '.join(counts)} {done.task.row_title}" if counts else "")
        + "."
    )
    if data.note:
        yield f"About the data: {escape_markdown(data.note)}."
    accuracy = done.result.get("teacher_development_accuracy")
    suffix = f", {done.task.primary.describe(accuracy)} on development data" if isinstance(accuracy, float) else ""
    yield f"Teacher: {_teacher(job)}{suffix}."
    made, plain = done.result.get("student"), f"{_model(job.student)}."
    yield f"Student: {escape_markdown(str(made.get('sentence'))) if isinstance(made, Mapping) else plain}"
    if (by := done.method) is not None:
        yield f"Method: {escape_markdown(plain_name(by.name))}{_arguments(by.hyper)}."
    yield from _effort(done)
    yield (
        f"Seeds: {job.seeds}; for each seed, all arms have the same initial weights and the same order of the data. "
        "Choices were made on development data held out of the training data. The test data were used once, with the "
        "weights of the last epoch."
    )
    metadata = dict(done.result.get("environment") or {})
    metadata |= metadata.pop("packages", None) or {}
    if metadata:
        versions = (escape_markdown(f"{name} {value}") for name, value in metadata.items() if isinstance(value, str))
        yield f"Made with {', '.join(versions)}."


def _teacher(job: Job) -> str:
    if job.teacher.ensemble:
        parts = (f"{name} = {_model(part)}" for name, part in job.teacher.parts.items())
        weights = ":".join(f"{weight:g}" for weight in job.teacher.weights or [])
        return f"{job.teacher.mean} mean, weights {weights}, of {'; '.join(parts)}"
    return (f"{job.teacher.members} x " if job.teacher.members > 1 else "") + _model(job.teacher)


def _effort(done: FinishedRun) -> Iterator[str]:
    """The budget of each arm, and the search for its settings."""
    job, budget = done.job, done.job.budget
    method = {arm: {"role": "method" if arm in job.method_arms else "control"} for arm in job.all_arms}
    rows = done.result.get("arms") or method
    own = describe_arm_budgets({arm: definition.model_dump() for arm, definition in job.budgets.items()}, rows)
    by_steps = f"{budget.epochs} epochs, batches of {budget.batch_size}, {budget.optimizer} at {budget.lr:g}"
    if own:
        apart = "; ".join(escape_markdown(f"{arm}: {lines}") for arm, lines in own.items())
        yield f"Budget: {by_steps}; different for {apart}."
    else:
        yield f"Budget of every arm: {by_steps}."
    if steps := format_steps(rows):
        yield f"Optimizer steps: {escape_markdown(steps)}."
    try:
        search = read_search(done.folder)
    except DataError:
        yield "Settings: from a search whose file is damaged."
        return
    if search is not None:
        learners = [arm for arm in job.all_arms if arm not in ("teacher", *LIKE_FIRST_METHOD)]
        changed = search.list_changes(collect_settings(job.model_dump(), rows))
        apart = f" Some were not used: {escape_markdown('; '.join(changed))}." if changed else ""
        yield f"Settings: {escape_markdown(search.describe_effort(learners))}{apart}"


def _model(model: Any) -> str:
    return escape_markdown(plain_name(model.model)) + _arguments(model.arguments)


def _arguments(arguments: Mapping[str, Any]) -> str:
    text = ", ".join(escape_markdown(f"{name}={value}") for name, value in arguments.items())
    return f" ({text})" if arguments else ""


def _license(done: FinishedRun, data: DataSplits, license: str | None) -> str:
    models = ", ".join(plain_name(part.model) for part in done.job.teacher.parts.values())
    models = models if done.job.teacher.ensemble else plain_name(done.job.teacher.model)
    teacher, named = escape_markdown(models), escape_markdown(plain_name(data.name))
    if license is not None:
        return f"{license}, as given at export. The teacher ({teacher}) and the data ({named}) have their own licenses."
    return (
        "The license of these weights is not known: write it into the head of this card, or export with --license. "
        f"The licenses of the teacher ({teacher}) and of the data ({named}) apply too."
    )
