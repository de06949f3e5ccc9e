"""`Ensemble`: several teachers averaged into one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch, Outputs, missing
from limbeck.errors import LimbeckError, unknown
from limbeck.functional.validation import are_probabilities
from limbeck.teachers.conversion import as_teacher
from limbeck.teachers.teacher import Preprocess, Stream, Teacher, TeacherFn


class Ensemble(Teacher):
    r"""Several teachers that answer as one, by the arithmetic or the geometric mean of their predictions.

    With members' logits :math:`z_m`, weights :math:`w_m` that sum to one and :math:`p_m = softmax(z_m / T)`:

    * ``"arithmetic"``: the answer :math:`v` is such that :math:`softmax(v / T) = \sum_m w_m p_m`, exactly, at the
      `temperature` T given here; use the temperature of the loss. At another temperature it is an approximation,
      because softening and averaging do not commute.
    * ``"geometric"``: :math:`v = \sum_m w_m z_m`, whose softmax is the normalized geometric mean at every temperature.

    One member gives that member's distribution. A row of nothing but -inf is no distribution: the arithmetic mean is
    over the other members, and where there is none the answer is that row. Only ``logits`` can be read.

    Args:
        *members: Teachers, or anything that becomes one (modules, estimators, names of models in the run).
        mean: Which mean.
        weights: One non-negative number a member, scaled to sum to one; equal by default.
        temperature: T of the arithmetic mean.

    Raises:
        LimbeckError: If there is no member, or weights do not fit.

    Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531, section 2.
    """

    def __init__(
        self,
        *members: Any,
        mean: Literal["arithmetic", "geometric"] = "arithmetic",
        weights: Sequence[float] | None = None,
        temperature: float = 1.0,
    ) -> None:
        if not members:
            raise LimbeckError("An ensemble needs at least one member: Ensemble(a, b, c).")
        if mean not in ("arithmetic", "geometric"):
            raise unknown("mean", mean, ["arithmetic", "geometric"])
        if not (math.isfinite(temperature) and temperature > 0):
            raise LimbeckError(f"An ensemble's temperature must be a positive number; got {temperature}.")
        self.members = tuple(as_teacher(member) for member in members)
        self.mean = mean
        self._looked_at = False
        self.temperature = temperature
        self.weights = _normalized(weights, len(self.members))
        self.changes = any(member.changes for member in self.members)

    @property
    def names(self) -> frozenset[str]:
        """Its members' names."""
        return frozenset().union(*(member.names for member in self.members))

    def bind(self, models: Mapping[str, nn.Module]) -> None:
        """Bind every member."""
        for member in self.members:
            member.bind(models)

    @property
    def is_deterministic(self) -> bool:
        """Whether all of them are."""
        return all(one.is_deterministic for one in self.members)

    def attach_loader(self, loader: Stream, preprocess: Preprocess) -> None:
        """All of them are told."""
        for one in self.members:
            one.attach_loader(loader, preprocess)

    def prepare(
        self, requires: frozenset[str], *, device: torch.device, preprocess: Preprocess
    ) -> AbstractContextManager[TeacherFn]:
        """Every member must give ``logits``; nothing else can be averaged."""
        for address in requires - {LOGITS}:
            raise missing(address, [LOGITS], who="an ensemble (its members' insides have nothing in common)")
        opened = [member.prepare(frozenset({LOGITS}), device=device, preprocess=preprocess) for member in self.members]
        return self._answering(opened)

    @contextmanager
    def _answering(self, opened: list[AbstractContextManager[TeacherFn]]) -> Iterator[TeacherFn]:
        with ExitStack() as stack:
            answers = [stack.enter_context(member) for member in opened]
            yield lambda batch: Outputs(logits=self.combine([_logits(answer, batch) for answer in answers]))

    def combine(self, logits: Sequence[Float[Tensor, "*batch classes"]]) -> Float[Tensor, "*batch classes"]:
        """The members' logits -> the ensemble's, in float32 or better."""
        counts = {member.shape[-1] for member in logits}
        if len(counts) > 1:
            raise LimbeckError(f"The ensemble's members have different numbers of classes: {sorted(counts)}.")
        if not self._looked_at:
            self._looked_at = True
            for place, member in enumerate(logits):
                if are_probabilities(member):
                    raise LimbeckError(
                        f"Member {place} of the ensemble answers with probabilities (none is below 0, and each row's "
                        "sum is 1), not logits: give ModelTeacher(model, adaptor=lambda output: "
                        "output.clamp_min(1e-12).log())."
                    )
        stacked = torch.stack(
            [member.double() if member.dtype == torch.float64 else member.float() for member in logits]
        )
        weights = torch.tensor(self.weights, dtype=stacked.dtype, device=stacked.device)
        shape = (-1,) + (1,) * (stacked.ndim - 1)
        if self.mean == "geometric":
            # A weight of zero leaves a member out, also where that member is sure that a class is impossible.
            return torch.where(weights.view(shape) > 0, stacked * weights.view(shape), 0.0).sum(0)
        log_p = torch.log_softmax(stacked / self.temperature, -1) + weights.log().view(shape)
        log_p = log_p.masked_fill((stacked == -torch.inf).all(-1, keepdim=True), -torch.inf)
        return self.temperature * torch.logsumexp(log_p, 0)

    @property
    def fingerprint(self) -> str:
        """The hash of the members' hashes and of how they are combined."""
        text = f"{self.mean} {self.temperature} {self.weights} {[m.fingerprint for m in self.members]}"
        return hashlib.sha256(text.encode()).hexdigest()

    def after_step(self) -> None:
        """Every member moves on."""
        for member in self.members:
            member.after_step()

    def state_dict(self) -> dict[str, Any]:
        """The members' states."""
        return {str(i): member.state_dict() for i, member in enumerate(self.members)} if self.changes else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Each member goes on."""
        for i, member in enumerate(self.members):
            member.load_state_dict(state.get(str(i), {}))

    def describe(self) -> dict[str, Any]:
        """Its members and its mean."""
        members = [member.describe() for member in self.members]
        return {
            "teacher": "Ensemble",
            "mean": self.mean,
            "temperature": self.temperature,
            "weights": list(self.weights),
            "members": members,
        }


def _logits(answer: TeacherFn, batch: Batch) -> Tensor:
    return answer(batch)[LOGITS]


def _normalized(weights: Sequence[float] | None, members: int) -> tuple[float, ...]:
    if weights is None:
        return (1.0 / members,) * members
    if len(weights) != members or min(weights) < 0 or not math.isfinite(sum(weights)) or sum(weights) == 0:
        raise LimbeckError(f"weights must be {members} non-negative numbers, not all zero; got {list(weights)}.")
    return tuple(weight / sum(weights) for weight in weights)
