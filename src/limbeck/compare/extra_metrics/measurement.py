"""Extra metrics: validation and computation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from limbeck.compare.comparison_data import student_of
from limbeck.compare.extra_metrics.cka import check_cka, cka_of
from limbeck.compare.extra_metrics.context import MetricContext
from limbeck.compare.extra_metrics.corruptions import check_corruptions, corruptions_of
from limbeck.compare.extra_metrics.groups import GroupsError, check_groups, groups_of
from limbeck.compare.rank_zero import is_rank_zero
from limbeck.data import DataSplits
from limbeck.errors import LimbeckError
from limbeck.events import Callback, Message

_MEASURED: Mapping[str, Callable[[MetricContext], dict[str, Any]]] = {
    "cka": cka_of,
    "corruptions": corruptions_of,
    "groups": groups_of,
}
"""By the name that a job gives it, which is the result's key too."""


def check_also(seen: MetricContext, callback: Callback) -> None:
    """Try what a job wants measured besides on models that have learnt nothing, and say what it will take.

    Args:
        seen: The job before anything is paid for.
        callback: Told what will be measured, and on how much.

    Raises:
        LimbeckError: If the data, or the models, are not of the kind that can be measured so, or nobody keeps the
            students.
    """
    names = requested_metrics(seen.job.also, seen.material.data)
    if not names:
        return
    if seen.job.out is None:
        raise LimbeckError(
            f"also: {', '.join(names)} needs a folder that keeps the students: give the job one: out=..."
        )
    try:
        said = [_check(name, seen) for name in names]
    except GroupsError:
        raise
    except LimbeckError as error:
        raise LimbeckError(f"also: {error}") from error
    callback(Message(f"Besides, at the end: {'; '.join(said)}."))


def measure_extra(seen: MetricContext, callback: Callback) -> dict[str, Any]:
    """What a job wants measured besides, by name; of what fails now the sentence that says why.

    Everything is trained and paid for by now, so nothing that goes wrong here may take the result away.

    Args:
        seen: The job, all arms of which are done.
        callback: Told when it begins.
    """
    names = requested_metrics(seen.job.also, seen.material.data) if is_rank_zero(seen.job) else ()
    found: dict[str, Any] = {}
    for name in names:
        callback(Message(f"Measuring besides: {name}."))
        try:
            found[name] = _MEASURED[name](seen)
        except Exception as error:  # a device that is full, a disk that is gone: the students are trained all the same
            said = str(error).strip().partition("\n")[0]
            why = said if isinstance(error, LimbeckError) else f"{type(error).__name__}: {said}"
            found[name] = {"sentence": f"Not known: {name}. {why}"}
    return found


def requested_metrics(also: tuple[str, ...], data: DataSplits) -> tuple[str, ...]:
    """The names in a job's `also`; and groups, where the data say which there are."""
    return (*also, "groups") if data.groups is not None and "groups" not in also else also


def _check(name: str, seen: MetricContext) -> str:
    """Whether it can be measured, and on how much."""
    if name == "groups":
        return check_groups(seen)
    student = student_of(seen.job, seen.material, seed=0, teacher=seen.teacher)
    return check_cka(seen, student) if name == "cka" else check_corruptions(seen, student)
