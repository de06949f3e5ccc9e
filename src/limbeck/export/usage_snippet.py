"""Python code that opens an exported student."""

from __future__ import annotations

import json
from typing import Any

from limbeck.export.finished_run import FinishedRun
from limbeck.job import opening_code
from limbeck.models import UserFile
from limbeck.tasks import MultiLabel, Regression, Segmentation

_TABLE = (
    "# columns: name -> values as in the table, without spaces around them; NaN or '' if missing",
    "types = {'tensor(float)': np.float32, 'tensor(double)': np.float64, 'tensor(string)': object}",
    "inputs = {",
    "    i.name: np.array(columns[i.name], dtype=types[i.type]).reshape(-1, 1) for i in session.get_inputs()",
    "}",
    "(logits,) = session.run(None, inputs)",
)
_LOAD_PREPROCESS = "preprocess = limbeck.load_preprocess('.')"
_PREDICT = "logits = student(preprocess(limbeck.Batch(examples)))"


def usage_snippet(done: FinishedRun, *, to: str, raw: bool, file: str) -> str:
    """Return a few lines of Python that open an export and compute logits. They run in the folder of the export."""
    if to == "folder":
        return _limbeck(done)
    kind = str(done.model_config.get("class", "AutoModel")).rpartition(".")[2]
    return _transformers(kind) if to == "hf" else _onnx(done, raw=raw, file=file)


def _limbeck(done: FinishedRun) -> str:
    model, file = {"model": done.job.student.model, **done.job.student.arguments}, None
    own = UserFile.parse(done.job.student.model)
    if own is not None:
        model["model"], file = f"{own.file.name}:{own.function}", own.file
    opening = opening_code(done.student, model, path=".", place=done.folder, file=file)
    lines = [*opening[:-1], *([""] if len(opening) < 3 else []), opening[-1]]
    kind = (done.metadata.get("preprocess") or {}).get("preprocess")
    class_name = str(done.model_config.get("class"))
    if done.metadata.get("encoding"):
        # Rows of a new table are encoded as those of the training table were.
        lines += [
            "encoding = limbeck.load_encoding('.')",
            "rows, _ = limbeck.read_table('new.csv', encoding=encoding)  # the target may be missing",
            "logits = student(rows.inputs)",
            *_scaled(done),
        ]
    elif class_name.startswith("transformers.") and "ForSequenceClassification" in class_name:
        call = "logits = student(**preprocess(limbeck.Batch(texts))).logits  # texts: a list"
        lines += [_LOAD_PREPROCESS, call]
    elif class_name.startswith("transformers.") and kind != "pixels":
        lines += ["logits = student(**inputs).logits"]
    elif class_name.startswith("transformers."):
        lines += [_LOAD_PREPROCESS, f"{_PREDICT}.logits"]
    else:
        lines += [_LOAD_PREPROCESS, _PREDICT] if kind else ["logits = student(inputs)"]
    return "\n".join(lines)


def _transformers(kind: str) -> str:
    names, lines, inputs = kind, [f"student = {kind}.from_pretrained('.')"], "inputs"
    if "ForSequenceClassification" in kind:
        names = f"AutoTokenizer, {kind}"
        lines = ["tokenizer = AutoTokenizer.from_pretrained('.')", *lines, "# texts: a list"]
        inputs = "tokenizer(texts, padding=True, truncation=True, return_tensors='pt')"
    return "\n".join([f"from transformers import {names}", "", *lines, f"logits = student(**{inputs}).logits"])


def _onnx(done: FinishedRun, *, raw: bool, file: str) -> str:
    preprocess = done.metadata.get("preprocess") or {}
    lines = ["import numpy as np", "import onnxruntime", "", f"session = onnxruntime.InferenceSession({file!r})"]
    if raw and done.metadata.get("encoding"):
        return "\n".join([*lines, *_TABLE, *_class_names(done)])
    if raw:
        lines.append("inputs = examples  # raw examples: the file normalizes them")
    elif preprocess.get("preprocess") == "pixels":
        lines += _pixels(preprocess)
    else:
        lines.append("inputs = examples.astype(np.float32)  # preprocessed as in training")
    lines.append("(logits,) = session.run(None, {session.get_inputs()[0].name: inputs})")
    return "\n".join([*lines, *_class_names(done)])


def _scaled(done: FinishedRun) -> list[str]:
    """The line that turns the outputs of a regression into the unit of the targets."""
    task = done.task
    if not isinstance(task, Regression) or not task.standardize:
        return []
    return [f"estimates = logits * logits.new_tensor({list(task.std)}) + logits.new_tensor({list(task.mean)})"]


def _class_names(done: FinishedRun) -> list[str]:
    if isinstance(done.task, MultiLabel):
        labels = json.dumps(list(done.task.output_names), ensure_ascii=False)
        return [f"answers = logits > 0  # for each of {labels}"]
    if isinstance(done.task, Segmentation):
        return ["answers = logits.argmax(1)  # the class of each pixel"]
    names = done.metadata.get("class_names")
    if not names or len(names) > 20:
        return []
    return [f"answers = np.array({json.dumps(names, ensure_ascii=False)})[logits.argmax(-1)]"]


def _pixels(preprocess: dict[str, Any]) -> list[str]:
    """The normalization in NumPy, without limbeck."""
    lines = ["pixels = images.astype(np.float32)  # [n, h, w], or with channels"]
    if preprocess.get("channels_last"):
        lines.append("pixels = pixels.transpose(0, 3, 1, 2) if pixels.ndim == 4 else pixels")
    if preprocess.get("channel", True):
        lines.append("pixels = pixels[:, None] if pixels.ndim == 3 else pixels")
    many = len(preprocess["mean"]) > 1
    mean, std = ((_column(preprocess[name]) if many else repr(preprocess[name][0])) for name in ("mean", "std"))
    return [*lines, f"inputs = ((pixels * {preprocess['scale']!r} - {mean}) / {std}).astype(np.float32)"]


def _column(values: list[float]) -> str:
    return f"np.array({values!r})[:, None, None]"
