"""Students of a job: new models, estimators, some layers of the teacher, or a smaller model of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Inputs
from limbeck.compare.comparison_data import (
    ComparisonData,
    call_checked,
    check_classes,
    judged_parts,
    new_model,
    shape_in,
)
from limbeck.compare.estimator import check_student_methods, open_estimator_student
from limbeck.errors import LimbeckError
from limbeck.events import Callback, Message
from limbeck.job import (
    SHRINK,
    Job,
    ModelSettings,
    RunLayout,
    StudentSettings,
    add_flag_hint,
    make_job,
    read_run_job,
    with_absolute_paths,
)
from limbeck.model_call import call, logits_of
from limbeck.models import (
    NoModuleError,
    chosen_layers,
    get_shrink_report,
    layer_list,
    name_classes,
    seeded,
    shallow,
    shrink,
)
from limbeck.models.hub import LibraryModel
from limbeck.models.model_transforms import copy_transformed
from limbeck.teachers import ModelTeacher, Teacher

LIMITS = ("latency", "bytes")
"""The keys of a student that is made of its teacher which set its size by a measurement."""


def make_student(job: Job, material: ComparisonData, *, seed: int, teacher: Teacher | None = None) -> nn.Module:
    """Build the job's student: a new model, or layers of the teacher. It gets the data's class names.

    Raises:
        LimbeckError: If it cannot be built, or the teacher has no layers to start from.
    """
    if job.student.starts_from_teacher:
        student = init_student(job.student, teacher, first_inputs(material), seed=seed)
    else:
        try:
            student = new_model(job.student, material, seed=seed, who="student")
        except NoModuleError as error:
            if not hasattr(error.result, "fit"):
                raise
            check_student_methods(job)
            return open_estimator_student(error.result, job.student.model, material, seed=seed)
    return name_classes(student, material.data.class_names)


def check_student(job: Job, material: ComparisonData, teacher: Teacher | None = None) -> None:
    """Build the student and call it on two training examples, and on one of each evaluation part.

    Raises:
        LimbeckError: If it cannot be built, fails on them, or has another number of classes.
    """
    student = make_student(job, material, seed=0, teacher=teacher).eval()
    first = material.data.preprocess(material.train.take(torch.tensor([0, min(1, len(material.train) - 1)])))
    shape = "x".join(map(str, material.input_shape))
    with torch.no_grad():
        logits = call_checked(partial(_logits, student, first), f"The student {job.student.model}", shape)
        for part, examples in judged_parts(material).items():
            read = material.data.preprocess(examples.take(torch.tensor([0])))
            ask = partial(_logits, student, read)
            call_checked(ask, f"The student {job.student.model}", shape_in(part, read))
    check_classes(logits, f"The student {job.student.model}", material.task)


def _logits(model: nn.Module, read: Any) -> Tensor:
    return logits_of(call(model, read))


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
                arguments = {key: one for key, one in arguments.items() if key not in LIMITS}
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
    limits = [key for key in LIMITS if arguments.get(key) is not None]
    if job.student.model != SHRINK or not limits or arguments.get("size") is not None:
        return job
    if (known := find_stored_size(job)) is not None:
        return job.model_copy(update={"student": StudentSettings(**{**job.student.model_dump(), "size": known})})
    student = init_student(job.student, teacher, first_inputs(material), seed=0)
    report = get_shrink_report(student)
    if report is None:
        return job
    tell(Message(f"Student: {limits[0]} of at most {arguments[limits[0]]} is reached by {report.sentence}"))
    size = StudentSettings(**{**job.student.model_dump(), "size": report.share})
    return job.model_copy(update={"student": size})


def find_stored_size(job: Job) -> float | str | None:
    """The size in the job of the folder, as it was written or found for a limit; None if there is none.

    It is that of the same limit and the same teacher's network.
    """
    if job.out is None or not RunLayout(Path(job.out)).job.is_file():
        return None
    before = make_job(read_run_job(Path(job.out)))
    stored: dict[str, Any] = before.student.model_dump()
    size, own = stored.pop("size", None), {**job.student.model_dump()}
    own.pop("size", None)
    return size if stored == own and networks_of(before) == networks_of(job) else None


def networks_of(job: Job) -> dict[str, Any]:
    """The settings of the teacher that its network follows from, and not its weights."""
    return with_absolute_paths(job).teacher.model_dump(exclude={"train", "check", "mean"})


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
