"""Settings of students: those that are made of their teacher, those that are rounded, and several at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.job.budget import Strict
from limbeck.job.run_layout import ROUNDED
from limbeck.job.settings import SHALLOW, SHRINK, ModelSettings, TeacherSettings
from limbeck.job.validation import add_flag_hint, check_is_argument, flag_hint
from limbeck.models import check_shrink, parse_size, shallow
from limbeck.models.arguments import check_arguments
from limbeck.models.shrinking import parse_bytes, parse_latency
from limbeck.teachers.estimators import name_estimator

_SHRINK_KEYS = ("size", "latency", "bytes", "by")


def name_student(value: Any) -> Any:
    """The student of a job as a mapping with the key ``model``: ``{from: teacher, size: 0.25}`` is a ``shrink``.

    Raises:
        LimbeckError: If there are several students, or ``from`` is not ``teacher``.

    Example:
        >>> name_student({"from": "teacher", "size": "4x"})
        {'model': 'shrink', 'size': '4x'}
    """
    if isinstance(value, str):
        return {"model": value}
    if isinstance(value, (list, tuple)) or (isinstance(value, Mapping) and "sizes" in value):
        raise LimbeckError("A run has one student. Several are for `limbeck compare`, which makes a run for each.")
    if not isinstance(value, Mapping) or "from" not in value:
        return name_estimator(value) if isinstance(value, Mapping) else value
    rest = {key: one for key, one in value.items() if key != "from"}
    if value["from"] != "teacher" or rest.get("model") not in (None, SHRINK):
        raise LimbeckError(
            f"student.from is teacher, and replaces student.model; got from: {value['from']!r}"
            + (f" and model: {rest['model']!r}." if "model" in rest else ".")
        )
    return {**rest, "model": SHRINK} if "model" in rest else {"model": SHRINK, **rest}


def check_student_settings(student: ModelSettings, teacher: TeacherSettings) -> None:
    """Check a student that starts from its teacher: one model, and valid arguments.

    Raises:
        LimbeckError: If the teacher has several models or is no network, or an argument is wrong.
    """
    if teacher.starts_from_teacher:
        raise LimbeckError(f"teacher: {teacher.model} is a student made of its teacher, and cannot be the teacher.")
    if not student.starts_from_teacher:
        return
    if len(teacher.parts) > 1:
        raise LimbeckError(
            f"student: {student.model} needs a teacher of one model, and this one has {len(teacher.parts)} members. "
            f"{flag_hint('teacher', 'members', '1')}, or name another student."
        )
    try:
        if student.model == SHALLOW:
            check_is_argument(student.arguments, StudentSettings.model_fields, "student")
            check_arguments(SHALLOW, shallow, student.arguments, without=("teacher",))
            _check_kinds(student.arguments)
        else:
            _check_shrink(student.arguments)
    except LimbeckError as error:
        raise add_flag_hint(error, "student") from error


def _check_shrink(arguments: Mapping[str, Any]) -> None:
    for key in arguments:
        if key not in _SHRINK_KEYS:
            raise unknown_name_error("key of a student from its teacher", key, (*_SHRINK_KEYS, "quantize"))
    limits = [key for key in ("latency", "bytes") if arguments.get(key) is not None]
    if arguments.get("size") is not None and len(limits) == 1:
        # The size that a run has measured for its limit.
        check_shrink(**{key: one for key, one in arguments.items() if key not in limits})
        {"latency": parse_latency, "bytes": parse_bytes}[limits[0]](arguments[limits[0]])
        return
    check_shrink(**arguments)
    if arguments.get("size") is not None and parse_size(arguments["size"]) == 1:
        raise ArgumentError("size 1 is the teacher itself; a student is smaller.", argument="size", example="0.25")


def _check_kinds(shallow: Mapping[str, Any]) -> None:
    """Check the types of a shallow student's arguments."""
    layers = shallow["layers"]
    if isinstance(layers, bool) or not isinstance(layers, (int, list, tuple)):
        raise ArgumentError(
            f"shallow takes layers as how many, such as 2, or which, such as [0, 5]; got {layers!r}.",
            argument="layers",
            example="2",
        )
    for part in ("embeddings", "head"):
        if not isinstance(shallow.get(part, True), bool):
            raise ArgumentError(
                f"shallow takes {part} as true (the teacher's) or false (new); got {shallow[part]!r}.", argument=part
            )


def read_shrink_flag(text: str) -> dict[str, Any]:
    """The student of ``--shrink``: a size, several sizes, a time or a number of bytes.

    Raises:
        LimbeckError: If it is none of these.

    Example:
        >>> read_shrink_flag("4x"), read_shrink_flag("2ms")
        ({'from': 'teacher', 'size': '4x'}, {'from': 'teacher', 'latency': '2ms'})
        >>> read_shrink_flag("2x,4x")
        {'from': 'teacher', 'sizes': ['2x', '4x']}
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(parts) > 1:
        return {"from": "teacher", "sizes": [_checked_size(part) for part in parts]}
    word = parts[0] if parts else ""
    if re.fullmatch(r"[\d.]+\s*(us|ms|s)", word.lower()):
        return {"from": "teacher", "latency": word}
    if re.fullmatch(r"[\d.]+\s*[kmg]?b", word.lower()):
        return {"from": "teacher", "bytes": word}
    return {"from": "teacher", "size": _checked_size(word)}


def _checked_size(text: str) -> str:
    try:
        parse_size(text)
    except LimbeckError as error:
        raise LimbeckError(
            f"--shrink takes a size, such as 4x, 0.25 or 25%, or a limit, such as 2ms or 500kB: {error}"
        ) from error
    return text


DEFAULT_MARGIN = 0.01
"""How much worse than its teacher a student may be to be shipped, in units of the metric: one point of accuracy."""


def expand_students(job: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], float] | None:
    """The jobs of several students by their names, and the margin; None for a job with one student.

    Args:
        job: A job that is not validated yet, whose ``student`` is a list, or has ``sizes``.

    Raises:
        LimbeckError: If there are fewer than two students, or two are equal.

    Example:
        >>> jobs, _ = expand_students({"student": {"from": "teacher", "sizes": [0.5, "4x"]}})
        >>> {name: job["student"]["size"] for name, job in jobs.items()}
        {'size-0.5': 0.5, 'size-4x': '4x'}
    """
    student = job.get("student")
    margin: Any = DEFAULT_MARGIN
    if isinstance(student, Mapping) and "sizes" in student:
        rest = {key: one for key, one in student.items() if key not in ("sizes", "margin")}
        margin, sizes = student.get("margin", margin), student["sizes"]
        if "size" in rest or not isinstance(sizes, Sequence) or isinstance(sizes, str):
            raise LimbeckError(
                f"student.sizes is a list, such as [0.5, 0.25], in place of student.size; got {sizes!r}."
            )
        students = [{**rest, "size": size} for size in sizes]
    elif isinstance(student, Sequence) and not isinstance(student, str):
        students = [{"model": one} if isinstance(one, str) else dict(one) for one in student]
    else:
        return None
    if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not 0 <= margin < 1:
        raise LimbeckError(f"student.margin is a number from 0 to below 1, such as 0.01 for one point; got {margin!r}.")
    if len(students) < 2:
        raise LimbeckError(f"Several students are two or more; got {len(students)}.")
    named: dict[str, dict[str, Any]] = {}
    for one in students:
        base = name = _student_name(one)
        number = 1
        while name in named:
            if named[name]["student"] == one:
                raise LimbeckError(f"The student {base} is listed twice.")
            number += 1
            name = f"{base}-{number}"
        named[name] = {**job, "student": one}
    return named, float(margin)


def _student_name(student: Mapping[str, Any]) -> str:
    for key in ("size", "latency", "bytes"):
        if student.get(key) is not None:
            return re.sub(r"[^\w.-]+", "-", f"{key}-{student[key]}")
    return re.sub(r"[^\w.-]+", "-", str(student.get("model", "student")).rpartition(":")[2]) or "student"


class QuantizeSettings(Strict):
    """How a student is rounded to 8 or fewer bits after it was trained in full precision, and trained again.

    Attributes:
        weights: ``int8``, ``int4`` (15 levels) or ``ternary`` (three).
        activations: ``int8``, or ``float``: the inputs of layers are not rounded.
        per_channel: Whether each output channel of a layer has its own scale of weights.
        teacher: Who teaches the rounded student: the ``student`` in full precision, or the job's ``teacher``.
        temperature: The temperature of its loss.
        epochs: Passes over the training data of the rounded student; by default those of the arm's budget.
        lr: Its peak learning rate; by default a tenth of that of the arm's budget.
    """

    weights: Literal["int8", "int4", "ternary"] = "int8"
    activations: Literal["int8", "float"] = "int8"
    per_channel: bool = True
    teacher: Literal["student", "teacher"] = "student"
    temperature: float = Field(default=1.0, gt=0)
    epochs: int | None = Field(default=None, ge=1)
    lr: float | None = Field(default=None, gt=0)


class StudentSettings(ModelSettings):
    """A student by name, with its arguments.

    Attributes:
        quantize: ``int8``, ``int4``, ``ternary``, or a mapping with ``weights`` and other settings: every arm's student
            is rounded after its training, and learns for a second time as such (quantization-aware distillation). The
            arm "post-training quantization" only rounds it. ``limbeck export --to int8`` writes the trained scales.
    """

    quantize: QuantizeSettings | None = None

    @field_validator("quantize", mode="before")
    @classmethod
    def _named_weights(cls, value: Any) -> Any:
        return {"weights": value} if isinstance(value, str) else value


def with_rounded_arm(values: Any, arms: tuple[str, ...]) -> Any:
    """The values of a job with the arm "post-training quantization", if its student is rounded and it lists no arms."""
    student = values.get("student") if isinstance(values, dict) else None
    if not isinstance(student, dict) or not student.get("quantize") or "arms" in values:
        return values
    return {**values, "arms": (*arms[:-1], ROUNDED, arms[-1])}
