"""`MovingAverage`: an average of the student's past weights as a teacher."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.batch import Batch, Outputs
from limbeck.errors import ArgumentError, unknown_name_error
from limbeck.tap import Tapped, get_adaptor
from limbeck.teachers.model import Mode, ModelSession, check_mode
from limbeck.teachers.teacher import (
    Preprocess,
    Teacher,
    TeacherCapabilities,
    TeacherContext,
    TeacherSession,
    get_function_name,
)


@final
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
        self.mode = check_mode(mode)
        self.preprocess = preprocess

    @property
    def names(self) -> frozenset[str]:
        """The name of the model that is averaged, and of the one that stores the average."""
        return frozenset({self.of} if self.into is None else {self.of, self.into})

    @property
    def capabilities(self) -> TeacherCapabilities:
        """It changes while the student learns."""
        return TeacherCapabilities(deterministic=False, changes=True)

    def open(self, context: TeacherContext) -> MovingAverageSession:
        """Start an average from the model as it is now, whatever was averaged in an earlier stage or run."""
        for name in (self.of, self.into):
            if name is not None and name not in context.models:
                raise unknown_name_error("model", name, context.models)
        followed = context.models[self.of]
        average = copy.deepcopy(followed).requires_grad_(False) if self.into is None else context.models[self.into]
        adaptor = get_adaptor(context.models, self.of if self.into is None else self.into)
        tapped = Tapped(average, context.requires, adaptor=adaptor, hidden_logits=context.hidden_logits)
        return MovingAverageSession(
            tapped, followed, decay=self.decay, mode=self.mode,
            device=context.device, preprocess=self.preprocess or context.preprocess,
        )  # fmt: skip

    @property
    def fingerprint(self) -> str:
        """The hash of its settings; the weights belong to a session."""
        return hashlib.sha256(json.dumps(self.describe()).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """The model that it follows, and its settings."""
        own = {"of": self.of, "into": self.into, "decay": self.decay, "mode": self.mode}
        return {"teacher": "MovingAverage", **own, "preprocess": get_function_name(self.preprocess)}


@final
class MovingAverageSession(TeacherSession):
    """A moving average while a stage runs.

    Attributes:
        model: The average.
        mode: Its mode.
    """

    def __init__(
        self, tapped: Tapped, followed: nn.Module, *, decay: float, mode: Mode, device: torch.device,
        preprocess: Preprocess,
    ) -> None:  # fmt: skip
        self.model = tapped.model
        self.mode = mode
        self._followed = followed
        self._decay = decay
        self._steps = 0
        self._forward = ModelSession(tapped, device=device, preprocess=preprocess, mode=mode, frozen=False)

    def __enter__(self) -> MovingAverageSession:
        self._forward.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._forward.__exit__(*raised)

    def __call__(self, batch: Batch) -> Outputs:
        """The average's outputs."""
        return self._forward(batch)

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the average towards the model."""
        self._steps += 1
        alpha = min(1.0 - 1.0 / (self._steps + 1), self._decay)
        for mine, theirs in zip(self.model.parameters(), self._followed.parameters(), strict=True):
            mine.lerp_(theirs.to(mine.dtype), 1.0 - alpha)
        if self.mode == "eval":
            for average, current in zip(self.model.buffers(), self._followed.buffers(), strict=True):
                average.copy_(current)

    def state_dict(self) -> dict[str, Any]:
        """The average and its number of steps."""
        return {"steps": self._steps, "model": dict(self.model.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the average and its number of steps."""
        self._steps = int(state["steps"])
        tensors: Mapping[str, Tensor] = state["model"]
        self.model.load_state_dict(dict(tensors))
