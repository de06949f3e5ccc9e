"""YAML front matter of a model card, and escaped text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from limbeck.data import DataSplits
from limbeck.data.builtin_datasets import IMAGE_DATASETS
from limbeck.errors import printable
from limbeck.export.exported_run import ExportedRun
from limbeck.export.finished_run import FinishedRun
from limbeck.job import plain_name
from limbeck.models.hub import LibraryModel

_MARKS = re.compile(r"([\\`*\[\]<>|&])")


def escape_markdown(text: Any) -> str:
    r"""Any text as Markdown that shows it: one line, its marks escaped.

    Example:
        >>> print(prose("<b>|`x`"))
        \<b\>\|\`x\`
    """
    return _MARKS.sub(r"\\\1", printable(" ".join(str(text).split())))


def quote_markdown(text: Any) -> str:
    r"""A name from data in quotes, with every space and line break that it has, as Markdown that shows it.

    Example:
        >>> print(quoted(" Private"), quoted("a*b"))
        " Private" "a\*b"
    """
    return _MARKS.sub(r"\\\1", printable(json.dumps(str(text), ensure_ascii=False)))


_LIBRARIES = {"folder": "limbeck", "hf": "transformers", "onnx": "onnx", "int8": "onnx"}


def front_matter(done: FinishedRun, data: DataSplits, exported: ExportedRun, *, to: str, license: str | None) -> str:
    """The YAML between two lines ``---``: license, library, task, tags, data, and the accuracy as a ``model-index``.

    Args:
        done: The run.
        data: Its data.
        exported: What was exported.
        to: The format.
        license: Of the weights; ``unknown`` where nobody has said it, a value that the hub knows.
    """
    import yaml

    task, hub = find_task(done), _hub_name(data)
    fields: dict[str, Any] = {"license": license or "unknown", "library_name": _LIBRARIES[to]}
    if task is not None:
        fields["pipeline_tag"] = task
    by = done.method
    named = [plain_name(by.name).rpartition(":")[2]] if by is not None else []
    fields["tags"] = ["knowledge-distillation", "limbeck", *named, *(["int8"] if to == "int8" else [])]
    if hub is not None:
        fields["datasets"] = [hub]
    fields["metrics"] = ["accuracy"]
    library = LibraryModel.parse(done.job.student.model)
    if library is not None and library.library == "hf" and not Path(library.name).exists():
        fields["base_model"] = library.name
    fields["model-index"] = [_index(done, data, exported, task or "other", hub)]
    # YAML takes marks of direction for letters.
    return f"---\n{printable(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True))}---"


def find_task(done: FinishedRun) -> str | None:
    """The hub's name for what the student does; None where nothing tells."""
    preprocess, shape = done.metadata.get("preprocess") or {}, done.metadata.get("input_shape") or ()
    if done.metadata.get("encoding"):
        return "tabular-classification"
    if "ForSequenceClassification" in str(done.model_config.get("class")):
        return "text-classification"
    if preprocess.get("preprocess") == "pixels" or len(shape) == 3:
        return "image-classification"
    return None


def _index(done: FinishedRun, data: DataSplits, exported: ExportedRun, task: str, hub: str | None) -> dict[str, Any]:
    named = plain_name(data.name)
    return {
        "name": f"{plain_name(done.job.student.model)} on {named}",
        "results": [
            {
                "task": {"type": task},
                "dataset": {"name": named, "type": hub or named, "split": "test"},
                "metrics": [{"type": "accuracy", "name": "Accuracy", "value": round(exported.accuracy_after, 6)}],
            }
        ],
    }


def _hub_name(data: DataSplits) -> str | None:
    """What the hub calls the data, if it has them."""
    dataset = IMAGE_DATASETS.get(data.name)
    return None if dataset is None else dataset.hub[0]
