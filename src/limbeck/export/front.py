"""What do the first lines of a model card say, which the Hugging Face hub reads?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from limbeck.errors import printable
from limbeck.export.exported import Exported
from limbeck.export.finished import Finished
from limbeck.job import plain_name
from limbeck.models.library import LibraryModel
from limbeck.sources import DataSet
from limbeck.sources.published import PUBLISHED

_LIBRARIES = {"folder": "limbeck", "hf": "transformers", "onnx": "onnx", "int8": "onnx"}


def front_matter(done: Finished, data: DataSet, found: Exported, *, to: str, licence: str | None) -> str:
    """The YAML between two lines ``---``: licence, library, task, tags, data, and the accuracy as a ``model-index``.

    Args:
        done: The run.
        data: Its data.
        found: What was exported.
        to: The format.
        licence: Of the weights; ``unknown`` where nobody has said it, a value that the hub knows.
    """
    import yaml

    task, hub = task_of(done), _hub_name(data)
    told: dict[str, Any] = {"license": licence or "unknown", "library_name": _LIBRARIES[to]}
    if task is not None:
        told["pipeline_tag"] = task
    by = done.method
    named = [plain_name(by.name).rpartition(":")[2]] if by is not None else []
    told["tags"] = ["knowledge-distillation", "limbeck", *named, *(["int8"] if to == "int8" else [])]
    if hub is not None:
        told["datasets"] = [hub]
    told["metrics"] = ["accuracy"]
    library = LibraryModel.parse(done.job.student.model)
    if library is not None and library.library == "hf" and not Path(library.name).exists():
        told["base_model"] = library.name
    told["model-index"] = [_index(done, data, found, task or "other", hub)]
    # YAML takes marks of direction for letters.
    return f"---\n{printable(yaml.safe_dump(told, sort_keys=False, allow_unicode=True))}---"


def task_of(done: Finished) -> str | None:
    """The hub's name for what the student does; None where nothing tells."""
    reads, shape = done.told.get("reads") or {}, done.told.get("input_shape") or ()
    if done.told.get("encoding"):
        return "tabular-classification"
    if "ForSequenceClassification" in str(done.made.get("class")):
        return "text-classification"
    if reads.get("reads") == "pixels" or len(shape) == 3:
        return "image-classification"
    return None


def _index(done: Finished, data: DataSet, found: Exported, task: str, hub: str | None) -> dict[str, Any]:
    named = plain_name(data.name)
    return {
        "name": f"{plain_name(done.job.student.model)} on {named}",
        "results": [
            {
                "task": {"type": task},
                "dataset": {"name": named, "type": hub or named, "split": "test"},
                "metrics": [{"type": "accuracy", "name": "Accuracy", "value": round(found.accuracy_after, 6)}],
            }
        ],
    }


def _hub_name(data: DataSet) -> str | None:
    """What the hub calls the data, if it has them."""
    known = PUBLISHED.get(data.name)
    return None if known is None else known.hub[0]
