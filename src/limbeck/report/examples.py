"""Section with examples on which teacher and student disagree."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from limbeck.batch import IGNORED, Batch
from limbeck.data import DataSplits, load_data, silenced
from limbeck.data.builtin_datasets import IMAGE_DATASETS, data_folders
from limbeck.data.preprocess import NormalizeImages
from limbeck.data.table_encoding import CategoryColumn
from limbeck.errors import LimbeckError
from limbeck.job import RunLayout, read_job
from limbeck.report.html import Markup, data_uri, note, section, tag
from limbeck.report.run_data import ALONE, RunData

_MOST, _LONGEST, _COLUMNS, _SIDE = 8, 280, 8, 96
"""Largest number of examples in a group, of characters of a text, of columns of a row, and of pixels of a side."""


class Disagreement(NamedTuple):
    """A test example on which teacher and student disagree.

    Attributes:
        row: Its index in the test data.
        label: Its class.
        predictions: Model -> its predicted class, and the probability of that class.
    """

    row: int
    label: int
    predictions: dict[str, tuple[int, float]]


def disagreements(run: RunData) -> dict[str, list[Disagreement]]:
    """Find the examples on which teacher and student disagree most, grouped by which of them is right.

    They are ordered by the sum of the two probabilities that the models give to their predicted classes.
    """
    labels, teacher, student = run.labels, run.teacher, run.student
    if labels is None or teacher is None or student is None:
        return {}
    alone = run.logits.get(ALONE, {}).get(run.shown_seed or 0)
    models = {"teacher": teacher, ALONE: alone, str(run.method_arm): student}
    top = {name: logits.double().softmax(1).max(1) for name, logits in models.items() if logits is not None}
    ours, theirs = top[str(run.method_arm)], top["teacher"]
    # Unlabeled examples cannot be assigned to a group.
    differ = (ours.indices != theirs.indices) & (labels != IGNORED)
    groups = {
        "The teacher is right, the student is not": theirs.indices == labels,
        "The student is right, the teacher is not": ours.indices == labels,
        "Both are wrong, with different classes": (ours.indices != labels) & (theirs.indices != labels),
    }
    by_title = {}
    for title, which in groups.items():
        rows = (which & differ).nonzero()[:, 0]
        order = rows[(ours.values + theirs.values)[rows].argsort(descending=True, stable=True)][:_MOST]
        by_title[f"{title} ({len(rows):,})"] = [
            Disagreement(
                row, int(labels[row]), {m: (int(t.indices[row]), float(t.values[row])) for m, t in top.items()}
            )
            for row in order.tolist()
        ]
    return by_title


# --- section --------------------------------------------------------------------------------------------------------


def examples_section(run: RunData) -> Markup:
    """Show examples on which teacher and student disagree, grouped by which of them is right."""
    title, by_title = "Where teacher and student disagree", disagreements(run)
    if not by_title:
        return section("examples", title, note("Not known: this needs the predictions of both."))
    data = _data_of(run)
    heading = tag("p", f"{run.shown_student}; the examples on which both are most confident come first.")
    why = note(f"The examples cannot be shown: {data}") if isinstance(data, str) else None
    groups = (
        tag("div", tag("h3", name), tag("ul", (_card(row, run.classes, data) for row in rows), class_="cards")
            if rows else tag("p", "None."))
        for name, rows in by_title.items()
    )  # fmt: skip
    return section("examples", title, heading, why, groups)


def _card(row: Disagreement, names: tuple[str, ...], data: DataSplits | str) -> Markup:
    def name(number: int) -> str:
        return names[number] if number < len(names) else str(number)

    votes = (
        tag("tr", tag("th", who, scope="row"),
            tag("td", name(predicted), class_="right" if predicted == row.label else "wrong"),
            tag("td", f"{100 * sure:.0f} %", class_="number"))
        for who, (predicted, sure) in row.predictions.items()
    )  # fmt: skip
    where = tag("span", f" · test example {row.row}", class_="quiet")
    return tag("li", None if isinstance(data, str) else _example(row.row, data),
               tag("p", "label: ", tag("strong", name(row.label)), where),
               tag("table", tag("tbody", votes), class_="predictions"))  # fmt: skip


def _example(row: int, data: DataSplits) -> Markup:
    try:
        return render_example(data.test.take(torch.tensor([row])), data)
    except (LimbeckError, OSError) as error:
        return tag("p", f"It cannot be read: {error}", class_="quiet")


# --- one example ----------------------------------------------------------------------------------------------------


def render_example(batch: Batch, data: DataSplits) -> Markup:
    """Render an example: an image, a text, or else its first columns."""
    for value in (batch.extra or {}).values():
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], str):
            return _text(value[0])
    inputs = batch.inputs
    if isinstance(inputs, Tensor) and (pixels := _pixels(inputs[0], _top(data))) is not None:
        return _picture(pixels, f"test example {int(batch.id[0])}" if batch.id is not None else "test example")
    raw = (batch.extra or {}).get("raw")
    if data.encoding is not None and isinstance(raw, Tensor):
        return _row({column.name: _cell(column, float(value)) for column, value in
                     zip(data.encoding.columns, raw[0], strict=True)})  # fmt: skip
    return _row(_values(inputs))


def _text(text: str) -> Markup:
    return tag("blockquote", text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")


def _top(data: DataSplits) -> float:
    """Return the value of white: 255, or 16 for images with 17 shades (scikit-learn's digits)."""
    scale = data.preprocess.scale if isinstance(data.preprocess, NormalizeImages) else 0.0
    return 1 / scale if 0 < scale <= 1 else 255.0


def _pixels(tensor: Tensor, top: float) -> np.ndarray | None:
    """Convert a tensor to bytes ``[h, w]`` or ``[h, w, 3]``; None if it is not an image."""
    if tensor.ndim not in (2, 3) or min(tensor.shape[-2:]) < 4 or (tensor.ndim == 3 and tensor.shape[0] not in (1, 3)):
        return None
    values = tensor.double()
    if tensor.dtype == torch.uint8:
        values = values / top
    else:
        low, high = values.min(), values.max()
        values = (values - low) / (high - low).clamp(min=1e-12)
    pixels = (255 * values.clamp(0, 1)).round().byte().numpy()
    if pixels.ndim == 3:
        pixels = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    step = max(1, max(pixels.shape[:2]) // _SIDE)
    return np.asarray(pixels[::step, ::step])


def _picture(pixels: np.ndarray, alt: str) -> Markup:
    height, width = pixels.shape[:2]
    return tag("img", src=data_uri(pixels), alt=alt, width=width, height=height, class_="pixels")


def _cell(column: Any, value: float) -> str:
    """Format a value of a table: a number, or the name of a category."""
    values = column.values if isinstance(column, CategoryColumn) else None
    if math.isnan(value):
        return "other" if values is not None else "missing"
    return f"{value:.6g}" if values is None else str(values[int(value)])


def _values(inputs: Any) -> dict[str, str]:
    if isinstance(inputs, Mapping):
        return {str(name): _value(value[0]) for name, value in inputs.items()}
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    flat = [value for part in parts for value in part[0].reshape(-1)[: _COLUMNS + 1]]
    return {str(index): _value(value) for index, value in enumerate(flat)}


def _row(values: Mapping[str, str]) -> Markup:
    cells = [tag("div", tag("dt", name), tag("dd", value)) for name, value in list(values.items())[:_COLUMNS]]
    more = tag("div", tag("dt", "and more")) if len(values) > _COLUMNS else None
    return tag("dl", cells, more, class_="row")


def _value(value: Any) -> str:
    if isinstance(value, Tensor) and value.ndim == 0:
        return f"{float(value):.4g}"
    text = (
        " ".join(str(number) for number in value.reshape(-1)[:12].tolist()) if isinstance(value, Tensor) else str(value)
    )
    return text[:_LONGEST]


# --- data -----------------------------------------------------------------------------------------------------------


def _data_of(run: RunData) -> DataSplits | str:
    """Return the data set of a run, or the reason why there is none."""
    # The file has the real paths; `run.job` has them shortened.
    spec = run.job.get("data") and read_job(RunLayout(run.folder).job).get("data")
    if not spec:
        return "the job has no data."
    if _needs_download(spec):
        return "the data set is not on this machine."
    try:
        with silenced():
            data = load_data(spec)
    except (LimbeckError, OSError, ValueError, ImportError) as error:
        return str(error)
    labels = data.test.labels
    if run.labels is None or labels is None or not torch.equal(labels.reshape(-1).long(), run.labels):
        return "the data set has changed since this run: its test labels differ."
    return data


def _needs_download(spec: Any) -> bool:
    """Whether loading the data would download it, which a report never does."""
    name, folder = (spec.get("name"), spec.get("folder")) if isinstance(spec, Mapping) else (spec, None)
    if name not in IMAGE_DATASETS:
        return str(name).startswith("hf:")
    stems = [stem for stem in (name, IMAGE_DATASETS[name].subset) if stem]
    return not any((folder / f"{stem}.npz").is_file() for folder in data_folders(folder) for stem in stems)
