"""What the folder of a saved teacher says about it: its task, its inputs, its preprocessing, its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.compare.comparison_data import ComparisonData
from limbeck.data import DataSplits, Preprocess, holds_tokenizer, open_tokenizer, preprocess_from_dict
from limbeck.errors import LimbeckError
from limbeck.job import TeacherSettings
from limbeck.models import is_student_folder, read_config
from limbeck.models.hub import LibraryModel

_NAMED = 4
"""Number of columns of a table that a message names."""


def own_preprocess(teacher: TeacherSettings, data: DataSplits) -> Preprocess | None:
    """The preprocessing of a saved teacher; None if it uses that of the data."""
    saved = _metadata(teacher).get("preprocess")
    preprocess = preprocess_from_dict(saved) if saved else None
    return None if preprocess == data.preprocess else preprocess


def check_saved_teacher(teacher: TeacherSettings, material: ComparisonData) -> None:
    """Check that a saved teacher was trained for the task of the job, and on the columns of its table.

    A folder that does not say its task or its columns is not checked.

    Raises:
        LimbeckError: If it was trained for something else; the message names both.
    """
    metadata = _metadata(teacher)
    theirs, ours = (metadata.get("task") or {}).get("name"), material.task.name
    if theirs is not None and theirs != ours:
        raise LimbeckError(
            f"The teacher {teacher.model} was trained for {theirs}, and this job is {ours}: its outputs mean something "
            f"else. Take a teacher that was trained for {ours}, or type --task {theirs} if the data have such targets."
        )
    encoding = material.data.encoding
    columns = _columns(metadata)
    if encoding is None or columns is None or not teacher.check:
        return
    if columns != [column.name for column in encoding.columns]:
        raise LimbeckError(
            f"The teacher {teacher.model} was trained on {_inputs_of(metadata)}, and these data are "
            f"{_inputs_of_data(material)}. Take a teacher that was trained on a table with the columns of this one, or "
            "a new one, such as --teacher mlp. To continue anyway, type --set teacher.check=false."
        )


def other_inputs_error(teacher: TeacherSettings, material: ComparisonData, error: LimbeckError) -> LimbeckError:
    """The error of a teacher that failed, with the inputs that it was trained on, if these are not those of the data.

    Args:
        teacher: The teacher's settings.
        material: The data of the job.
        error: What its first call raised.
    """
    metadata = _metadata(teacher)
    shape = metadata.get("input_shape")
    if not shape or _inputs_of(metadata) == _inputs_of_data(material):
        return error
    return LimbeckError(
        f"The teacher {teacher.model} was trained on {_inputs_of(metadata)}, and these data are "
        f"{_inputs_of_data(material)}: take a teacher for such inputs. ({error})"
    )


def _metadata(teacher: TeacherSettings) -> Mapping[str, Any]:
    """The metadata in the teacher's folder; empty if it has none."""
    library = LibraryModel.parse(teacher.model)
    folder = Path(teacher.model.rpartition("@")[2] if ".py:" in teacher.model else teacher.model)
    folder = library.weights if library is not None and library.weights is not None else folder
    metadata: Mapping[str, Any] = (read_config(folder).get("metadata") or {}) if is_student_folder(folder) else {}
    return metadata


def _columns(metadata: Mapping[str, Any]) -> list[str] | None:
    encoding = metadata.get("encoding")
    return [column["name"] for column in encoding["columns"]] if encoding else None


def _inputs_of(metadata: Mapping[str, Any]) -> str:
    """The inputs that a saved model was trained on, in words."""
    kind = (metadata.get("preprocess") or {}).get("preprocess")
    return _describe(_columns(metadata), metadata.get("input_shape") or (), images=kind == "pixels")


def _inputs_of_data(material: ComparisonData) -> str:
    encoding, saved = material.data.encoding, material.data.preprocess
    columns = None if encoding is None else [column.name for column in encoding.columns]
    images = isinstance(saved, Preprocess) and saved.to_dict().get("preprocess") == "pixels"
    return _describe(columns, material.input_shape, images=images)


def _describe(columns: list[str] | None, shape: Any, *, images: bool) -> str:
    if columns is not None:
        more = ", ..." if len(columns) > _NAMED else ""
        return f"a table with {len(columns)} columns ({', '.join(columns[:_NAMED])}{more})"
    size = "x".join(map(str, shape))
    return f"images of {size}" if images else f"arrays of {size} numbers" if size else "inputs by name, such as texts"


def check_tokenizer(teacher: TeacherSettings, data: DataSplits) -> None:
    """Raise if the teacher has another tokenizer than the data: the same token ids would be other words.

    Raises:
        LimbeckError: If they differ; the message has the option for the teacher's tokenizer.
    """
    folder = teacher.model.rpartition("@")[2].removeprefix("hf:")
    if data.tokenizer is None or not teacher.check or not teacher.has_weights or not holds_tokenizer(folder):
        return
    own, theirs = open_tokenizer(folder).get_vocab(), data.tokenizer.get_vocab()
    if own != theirs:
        sizes = f"of {len(own)} pieces, than the data's, of {len(theirs)}"
        raise LimbeckError(
            f"The teacher {teacher.model} was trained with another tokenizer, {sizes}. Type --set "
            f"data.tokenizer={folder}, or, to continue anyway, --set teacher.check=false."
        )
