"""The order of a job's classes: that of a teacher which names them, or a refusal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.data import DataSplits, load_data, silenced
from limbeck.errors import LimbeckError
from limbeck.job import Job, TeacherSettings
from limbeck.models import get_class_names, is_student_folder, match_order, read_class_names
from limbeck.models.hub import LibraryModel


def has_weights(teacher: TeacherSettings) -> bool:
    """Whether a teacher comes with weights, or must be trained."""
    name = teacher.model
    if (library := LibraryModel.parse(name)) is not None:
        return library.weights is not None or bool(teacher.arguments.get("pretrained", True))
    return (".py:" in name and "@" in name) or is_student_folder(Path(name))


def load_in_order(job: Job) -> tuple[DataSplits, bool]:
    """The job's data, and whether their classes were put into the order of its teacher.

    That is done where the teacher lies in a folder that names the same classes in another order, and the job does not
    say an order. Where it cannot be done, `check_names` refuses the teacher once it is open.
    """
    with silenced():  # what it warns of stands in the summary, which is printed
        data = load_data(job.data)
        settings: dict[str, Any] = dict(job.data) if isinstance(job.data, dict) else {"name": job.data}
        theirs = read_class_names(_folder(job.teacher)) if has_weights(job.teacher) else None
        order = match_order(data.class_names, theirs) if data.class_names and theirs else None
        if order is None or order == data.class_names or settings.get("class_names") or not job.teacher.check:
            return data, False
        try:
            data = load_data({**settings, "class_names": list(order)})
        except LimbeckError:  # data that take no order
            return data, False
    note = f"The classes are in the order of the teacher {job.teacher.model}: {', '.join(order[:8])}"
    summary = data.summary and replace(data.summary, notes=(*data.summary.notes, f"{note}."))
    return replace(data, summary=summary, note=". ".join(filter(None, (data.note, note)))), True


def ordered_job(job: Job, data: DataSplits) -> Job:
    """The job with the order of the data's classes in it, so that whoever opens it again needs no teacher."""
    settings: dict[str, Any] = dict(job.data) if isinstance(job.data, dict) else {"name": job.data}
    return job.model_copy(update={"data": {**settings, "class_names": list(data.class_names or ())}})


def check_names(teacher: TeacherSettings, model: nn.Module, data: DataSplits) -> None:
    """Refuse a teacher that calls its classes by other names than the data, or has them in another order.

    Data whose classes are numbers say nothing of names.

    Raises:
        LimbeckError: With the names of both, and what to type.
    """
    ours, theirs = data.class_names, get_class_names(model) or read_class_names(_folder(teacher))
    if not (ours and theirs and teacher.check) or len(ours) != len(theirs) or not has_weights(teacher):
        return
    order = match_order(ours, theirs)
    if order == ours or (order is None and all(name.lstrip("+-").isdecimal() for name in ours)):
        return
    place = next(place for place, name in enumerate(ours) if order is None or name != order[place])
    mend = (
        f"Type --set 'data.class_names=[{', '.join(order)}]' if the data take it, or give the teacher the data's order."
        if order is not None
        else "If these are the same classes in the same order, call them alike."
    )
    raise LimbeckError(
        f"The teacher {teacher.model} has the class {theirs[place]!r} where the data have {ours[place]!r}: its label "
        f"order is not theirs. The teacher: {', '.join(theirs[:8])}; the data: {', '.join(ours[:8])}. {mend} To go on "
        "anyway: --set teacher.check=false."
    )


def _folder(teacher: TeacherSettings) -> str:
    return teacher.model.rpartition("@")[2].removeprefix("hf:")
