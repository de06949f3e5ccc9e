"""The mean weights of several teachers at the end of a run, for the result."""

from __future__ import annotations

from limbeck.batch import LOGITS
from limbeck.engine import Run
from limbeck.methods.teachers.member_outputs import MemberShares
from limbeck.methods.teachers.mtard import BalancedDivergences
from limbeck.recipe import Stage
from limbeck.teachers import AlignedTeacher, CachedTeacher, Ensemble, ShuffledTeacher, Teacher


def measure_teacher_weights(run: Run) -> dict[str, float] | None:
    """The weight of each teacher in the last stage of a finished run that has several; None if none has.

    Weights that differ between examples or steps are the means of the last steps. Those of an average are fixed.
    """
    for stage in reversed(run.stages):
        if (weights := _weights_of(stage)) is not None:
            return weights
    return None


def _weights_of(stage: Stage) -> dict[str, float] | None:
    for module in stage.objective.modules():
        if isinstance(module, MemberShares):
            return module.by_name
        if isinstance(module, BalancedDivergences):
            return module.teacher_weights
    teacher = _unwrapped(stage.teacher)
    if not isinstance(teacher, Ensemble) or LOGITS not in stage.objective.requires.teacher or len(teacher.members) < 2:
        return None
    return dict(zip(teacher.member_names, teacher.weights, strict=True))


def _unwrapped(teacher: Teacher | None) -> Teacher | None:
    """The teacher that is shuffled, aligned or stored."""
    while isinstance(teacher, (AlignedTeacher, CachedTeacher, ShuffledTeacher)):
        teacher = teacher.inner if isinstance(teacher, CachedTeacher) else teacher.teachers[0]
    return teacher
