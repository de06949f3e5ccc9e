"""Students that start from their teacher: some of its layers, or a smaller model of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from limbeck.batch import Inputs
from limbeck.errors import LimbeckError
from limbeck.events import Callback, Message
from limbeck.job import SHRINK, Job, ModelSettings, add_flag_hint
from limbeck.models import chosen_layers, get_shrink_report, layer_list, seeded, shallow, shrink
from limbeck.models.hub import LibraryModel
from limbeck.models.model_transforms import copy_transformed
from limbeck.teachers import ModelTeacher, Teacher

if TYPE_CHECKING:
    from limbeck.compare.comparison_data import ComparisonData


def init_student(student: ModelSettings, teacher: Teacher | None, example: Inputs, *, seed: int) -> nn.Module:
    """Build a student of the teacher, with the teacher's present weights.

    Args:
        student: ``shallow`` or ``shrink``, and its arguments. If there is a size, a limit is not measured again.
        teacher: The teacher.
        example: Inputs of the student.
        seed: The seed of new parts.

    Raises:
        LimbeckError: If the teacher is not a single model, or cannot be made smaller in this way.
    """
    if not isinstance(teacher, ModelTeacher):
        raise LimbeckError(
            f"student: {student.model} is made of its teacher, and there is no teacher that is one model."
        )
    arguments: dict[str, Any] = student.arguments
    try:
        with seeded(seed):
            if student.model != SHRINK:
                return shallow(teacher.model, **arguments)
            if arguments.get("size") is not None:
                arguments = {key: one for key, one in arguments.items() if key not in ("latency", "bytes")}
            # The inputs are on the CPU, and the teacher may be elsewhere after its training.
            elsewhere = any(parameter.device.type != "cpu" for parameter in teacher.model.parameters())
            model = copy_transformed(teacher.model).cpu() if elsewhere else teacher.model
            return shrink(model, **arguments, example=example)
    except LimbeckError as error:
        raise add_flag_hint(error, "student") from error


def first_inputs(material: ComparisonData) -> Inputs:
    """The inputs of two training examples, to call a student on."""
    two = material.train.take(torch.arange(min(2, len(material.train))))
    return material.data.preprocess(two)


def resolve_limit(job: Job, teacher: Teacher, material: ComparisonData, tell: Callback) -> Job:
    """The job with the size of its student, if it has a limit that is measured on this machine.

    It is measured once, before training, so that all arms and seeds have the same student, and a resumed run too.

    Raises:
        LimbeckError: If the limit cannot be reached.
    """
    arguments = job.student.arguments
    limits = [key for key in ("latency", "bytes") if arguments.get(key) is not None]
    if job.student.model != SHRINK or not limits or arguments.get("size") is not None:
        return job
    student = init_student(job.student, teacher, first_inputs(material), seed=0)
    report = get_shrink_report(student)
    if report is None:
        return job
    tell(Message(f"Student: {limits[0]} of at most {arguments[limits[0]]} is reached by {report.sentence}"))
    size = ModelSettings(**{**job.student.model_dump(), "size": report.share})
    return job.model_copy(update={"student": size})


def describe_start(
    job: Job, teacher: Teacher, make_student: Callable[[], nn.Module]
) -> tuple[str, dict[str, Any] | None] | None:
    """A sentence about what all arms' students start from, and the report of a student that was made smaller.

    Args:
        job: The job.
        teacher: The teacher.
        make_student: Makes a student of the teacher's present weights.

    Returns:
        None for random weights.
    """
    library = LibraryModel.parse(job.student.model)
    if library is not None and library.weights is None and job.student.arguments.get("pretrained", True):
        return (
            f"Student: every arm starts with the trained weights of {library} (student.pretrained=false for new ones).",
            None,
        )
    if job.student.model == SHRINK and (report := get_shrink_report(make_student())) is not None:
        return f"Student: {report.sentence}", report.as_dict()
    if not job.student.is_shallow or not isinstance(teacher, ModelTeacher):
        return None
    arguments: dict[str, Any] = job.student.arguments
    _, depth = layer_list(teacher.model)
    indices = chosen_layers(arguments["layers"], depth)
    new = [part for part in ("embeddings", "head") if not arguments.get(part, True)]
    untrained = f"; new: {' and '.join(new)}" if new else ""
    listed = ", ".join(map(str, indices))
    return f"Student: layers {listed} of the teacher's {depth} (from 0) at the start of every arm{untrained}.", None
