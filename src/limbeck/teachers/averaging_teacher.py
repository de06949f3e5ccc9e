"""`AveragingTeacher`: a teacher beside which a moving average of the student's weights is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, final

from limbeck.batch import Batch, Outputs
from limbeck.teachers.moving_average import MovingAverage
from limbeck.teachers.teacher import TeacherCapabilities, TeacherContext, TeacherSession
from limbeck.teachers.wrapper import TeacherWrapper, WrapperSession


@final
class AveragingTeacher(TeacherWrapper):
    """A teacher, and a moving average of the student's weights that moves after each step and teaches nothing.

    The outputs are those of the teacher. With ``MovingAverage(into=...)`` a recipe can ship the average.

    Args:
        teacher: Anything that `as_teacher` accepts.
        average: The average. It has no forward pass.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> models = {"student": nn.Linear(1, 1)}
        >>> teacher = AveragingTeacher(nn.Identity(), MovingAverage(decay=0.9))
        >>> with teacher.open(TeacherContext(models=models)) as session:
        ...     session(Batch(torch.ones(2, 3)))["logits"].shape
        torch.Size([2, 3])
    """

    def __init__(self, teacher: Any, average: MovingAverage) -> None:
        super().__init__(teacher, average)

    @property
    def capabilities(self) -> TeacherCapabilities:
        """The teacher's, with a state that changes."""
        return self.teachers[0].capabilities._replace(changes=True)

    def open(self, context: TeacherContext) -> TeacherSession:
        """Open the teacher, and start the average."""
        return _AveragingSession(self.open_all(context))

    @property
    def fingerprint(self) -> str:
        """The hash of both."""
        both = " ".join(one.fingerprint for one in self.teachers)
        return hashlib.sha256(f"averaging {both}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """The teacher and the average."""
        teacher, average = (one.describe() for one in self.teachers)
        return {"teacher": "AveragingTeacher", "of": teacher, "average": average}


@final
class _AveragingSession(WrapperSession):
    def combine(self, batch: Batch, outputs: Sequence[Outputs]) -> Outputs:
        return outputs[0]

    def __call__(self, batch: Batch) -> Outputs:
        return self.sessions[0](batch)  # the average is not asked
