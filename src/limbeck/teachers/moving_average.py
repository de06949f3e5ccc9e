"""`MovingAverage`: an average of the student's past weights as a teacher."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.models import fingerprint
from limbeck.tap import Adaptor, Tapped
from limbeck.teachers.model import Mode, checked_mode, teacher_mode
from limbeck.teachers.teacher import Preprocess, Teacher, TeacherFn, get_adaptor, get_function_name


class MovingAverage(Teacher):
    r"""An exponential moving average of the weights of a model that is learning.

    After step t (from 1) each parameter becomes :math:`\theta'_t = \alpha_t \theta'_{t-1} + (1 - \alpha_t) \theta_t`
    with :math:`\alpha_t = \min(1 - 1/(t + 1), decay)`: a plain average at first, so that the initial weights are
    forgotten. Buffers (BatchNorm's running statistics) are copied from the model, unless `mode` is ``"train"``, where
    the average has its own.

    Args:
        decay: The limit of alpha, in [0, 1); 0 is the model itself.
        of: The name of the model that is averaged.
        into: The name of the run's model that stores the average, so that a recipe can ship it. The average starts
            from that model's weights. None keeps the average out of the run's models.
        mode: ``"train"`` where the teacher's dropout is used as noise, as in the paper.
        preprocess: The teacher's own function from a batch to its inputs.

    Raises:
        LimbeckError: If `decay` is not in [0, 1).

    Source: Tarvainen and Valpola, Mean teachers are better role models, 2017, arXiv:1703.01780, section 2.
    """

    changes = True

    def __init__(
        self,
        *,
        decay: float = 0.999,
        of: str = "student",
        into: str | None = None,
        mode: Mode = "eval",
        preprocess: Preprocess | None = None,
    ) -> None:
        if not 0.0 <= decay < 1.0:
            raise ArgumentError(f"decay must be at least 0 and below 1; got {decay}.", argument="decay", example="0.99")
        self.decay = decay
        self.of = of
        self.into = into
        self.mode = checked_mode(mode)
        self._preprocess = preprocess
        self._steps = 0
        self._followed: nn.Module | None = None
        self._average: nn.Module | None = None
        self._adaptor: Adaptor | None = None

    @property
    def names(self) -> frozenset[str]:
        """The name of the model that is averaged, and of the one that stores the average."""
        return frozenset({self.of} if self.into is None else {self.of, self.into})

    def bind(self, models: Mapping[str, nn.Module]) -> None:
        """Look up the model, and start again from a copy of it, whatever was averaged in an earlier stage or run."""
        for name in (self.of, self.into):
            if name is not None and name not in models:
                raise unknown_name_error("model", name, models)
        self._followed = models[self.of]
        self._adaptor = get_adaptor(models, self.of if self.into is None else self.into)
        self._average = self._copy() if self.into is None else models[self.into]
        self._steps = 0

    def prepare(
        self, requires: frozenset[str], *, device: torch.device, preprocess: Preprocess
    ) -> AbstractContextManager[TeacherFn]:
        """Prepare the average, as `ModelTeacher` does."""
        tapped = Tapped(self.model, requires, adaptor=self._adaptor)
        return teacher_mode(tapped, device=device, preprocess=self._preprocess or preprocess, mode=self.mode)

    @property
    def model(self) -> nn.Module:
        """The average."""
        if self._average is None:
            raise LimbeckError("A moving average has no model until a run binds it to the one that it follows.")
        return self._average

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the average towards the model."""
        self._steps += 1
        alpha = min(1.0 - 1.0 / (self._steps + 1), self.decay)
        followed = self._following()
        for mine, theirs in zip(self.model.parameters(), followed.parameters(), strict=True):
            mine.lerp_(theirs.to(mine.dtype), 1.0 - alpha)
        if self.mode == "eval":
            for average, current in zip(self.model.buffers(), followed.buffers(), strict=True):
                average.copy_(current)

    @property
    def fingerprint(self) -> str:
        """The hash of the current average."""
        return fingerprint(self.model)

    def state_dict(self) -> dict[str, Any]:
        """The average and its number of steps."""
        return {"steps": self._steps, "model": dict(self.model.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the average and its number of steps."""
        self._steps = int(state["steps"])
        tensors: Mapping[str, Tensor] = state["model"]
        self.model.load_state_dict(dict(tensors))

    def describe(self) -> dict[str, Any]:
        """The model that it follows, and its settings."""
        own = {"of": self.of, "into": self.into, "decay": self.decay, "mode": self.mode}
        return {"teacher": "MovingAverage", **own, "preprocess": get_function_name(self._preprocess)}

    def _copy(self) -> nn.Module:
        return copy.deepcopy(self._following()).requires_grad_(False)

    def _following(self) -> nn.Module:
        if self._followed is None:
            raise LimbeckError("A moving average has no model until a run binds it to the one that it follows.")
        return self._followed
