"""Extra metrics: validation and computation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from limbeck.compare.comparison_data import student_of
from limbeck.compare.extra_metrics.cka import check_cka, measure_cka
from limbeck.compare.extra_metrics.context import MetricContext
from limbeck.compare.extra_metrics.corruptions import check_corruptions, measure_corruptions
from limbeck.compare.extra_metrics.groups import GroupsError, check_groups, measure_groups
from limbeck.compare.rank_zero import is_rank_zero
from limbeck.data import DataSplits
from limbeck.errors import LimbeckError
from limbeck.events import Callback, Message

_log = logging.getLogger(__name__)
_METRICS: Mapping[str, Callable[[MetricContext], dict[str, Any]]] = {
    "cka": measure_cka,
    "corruptions": measure_corruptions,
    "groups": measure_groups,
}
"""By the name in ``also``, which is the key in the result too."""


def check_also(context: MetricContext, callback: Callback) -> None:
    """Try the job's extra metrics on untrained models, and report what they will take.

    Args:
        context: The job before training.
        callback: A function that receives each event (`limbeck.events`).

    Raises:
        LimbeckError: If the data or the models do not fit a metric, or the job has no folder.
    """
    names = requested_metrics(context.job.also, context.material.data)
    if not names:
        return
    if context.job.out is None:
        raise LimbeckError(f"also: {', '.join(names)} needs the saved students; give the job a folder: out=...")
    try:
        descriptions = [_check(name, context) for name in names]
    except GroupsError:
        raise
    except LimbeckError as error:
        raise LimbeckError(f"also: {error}") from error
    callback(Message(f"Extra metrics at the end: {'; '.join(descriptions)}."))


def measure_extra(context: MetricContext, callback: Callback) -> dict[str, Any]:
    """Measure the job's extra metrics; for one that fails the result holds a sentence.

    All arms are trained at this point, so no error here may lose the result.

    Args:
        context: The job after the training of all arms.
        callback: A function that receives each event (`limbeck.events`).
    """
    names = requested_metrics(context.job.also, context.material.data) if is_rank_zero(context.job) else ()
    results: dict[str, Any] = {}
    for name in names:
        callback(Message(f"Measuring {name}."))
        try:
            results[name] = _METRICS[name](context)
        except LimbeckError as error:  # such as a student's folder that was removed meanwhile
            results[name] = {"sentence": f"Not measured: {name}. {error}"}
        except Exception as error:  # a full device, or a bug
            _log.debug("Measuring %s failed.", name, exc_info=error)
            reason = str(error).strip().partition("\n")[0]
            sentence = f"Failed: {name}. {type(error).__name__}: {reason}. --debug shows the traceback."
            results[name] = {"sentence": sentence}
            callback(Message(sentence))
    return results


def requested_metrics(also: tuple[str, ...], data: DataSplits) -> tuple[str, ...]:
    """The names in a job's `also`, and groups if the data have groups."""
    return (*also, "groups") if data.groups is not None and "groups" not in also else also


def _check(name: str, context: MetricContext) -> str:
    """Check that a metric can be measured, and describe it."""
    if name == "groups":
        return check_groups(context)
    student = student_of(context.job, context.material, seed=0, teacher=context.teacher)
    return check_cka(context, student) if name == "cka" else check_corruptions(context, student)
