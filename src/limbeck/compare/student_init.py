"""Initial weights of a job's student taken from its teacher's layers."""

from __future__ import annotations

from typing import Any

from torch import nn

from limbeck.errors import LimbeckError
from limbeck.job import Job, ModelSettings, add_flag_hint
from limbeck.models import chosen_layers, layer_list, seeded, shallow
from limbeck.models.hub import LibraryModel
from limbeck.teachers import ModelTeacher, Teacher


def init_student(student: ModelSettings, teacher: Teacher | None, *, seed: int) -> nn.Module:
    """The student, with the weights that the teacher has now; `seed` draws what of it is new (``head: false``).

    Raises:
        LimbeckError: If the teacher is not one model of transformers whose layers can be taken out.
    """
    if not isinstance(teacher, ModelTeacher):
        raise LimbeckError("student: shallow takes layers of its teacher, and there is no teacher that is one model.")
    try:
        with seeded(seed):
            student_model: nn.Module = shallow(teacher.model, **student.arguments)
    except LimbeckError as error:
        raise add_flag_hint(error, "student") from error
    return student_model


def describe_layers(job: Job, teacher: Teacher) -> str | None:
    """A sentence on how the students of all arms begin, where they begin with weights that are trained already."""
    library = LibraryModel.parse(job.student.model)
    if library is not None and library.weights is None and job.student.arguments.get("pretrained", True):
        return (
            f"Student: every arm begins with the trained weights of {library} (student.pretrained=false for new ones)."
        )
    if not job.student.is_shallow or not isinstance(teacher, ModelTeacher):
        return None
    arguments: dict[str, Any] = job.student.arguments
    _, depth = layer_list(teacher.model)
    indices = chosen_layers(arguments["layers"], depth)
    new = [part for part in ("embeddings", "head") if not arguments.get(part, True)]
    untrained = f"; new: {' and '.join(new)}" if new else ""
    listed = ", ".join(map(str, indices))
    return f"Student: layers {listed} of the teacher's {depth} (from 0), with which every arm begins{untrained}."
