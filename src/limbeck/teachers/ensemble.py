"""`Ensemble`: several teachers averaged into one."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.batch import LOGITS, Batch, Outputs, missing_output_error
from limbeck.errors import LimbeckError, unknown_name_error
from limbeck.functional.kernel import are_probabilities
from limbeck.teachers.teacher import FunctionSession, Teacher, TeacherContext, TeacherSession
from limbeck.teachers.wrapper import TeacherWrapper, WrapperSession


@final
class Ensemble(TeacherWrapper):
    r"""Several teachers combined by the arithmetic or the geometric mean of their predictions.

    With members' logits :math:`z_m`, weights :math:`w_m` that sum to one and :math:`p_m = softmax(z_m / T)`:

    * ``"arithmetic"``: the logits :math:`v` satisfy :math:`softmax(v / T) = \sum_m w_m p_m`, exactly, at the
      `temperature` T given here; use the temperature of the loss. At another temperature it is an approximation,
      because softening and averaging do not commute.
    * ``"geometric"``: :math:`v = \sum_m w_m z_m`, whose softmax is the normalized geometric mean at every temperature.

    Regression and several labels have no softmax over outputs: there ``"geometric"`` is the mean of the outputs, and of
    the log-odds. With one member the result is that member's distribution. A row in which all logits are -inf is no
    distribution: the arithmetic mean skips such members, and returns that row where all members have it.

    Besides the average, ``logits``, each member has its own outputs, ``NAME.logits``, ``NAME.layer1``, ..., for losses
    that weigh or select teachers. Members that no loss reads do not run. Members of which only their own outputs are
    read may have other classes.

    Args:
        *members: Teachers, or anything that `as_teacher` accepts (modules, estimators, names of models in the run).
        mean: ``"arithmetic"`` or ``"geometric"``.
        weights: One non-negative number for each member, scaled to sum to one; equal by default.
        temperature: T of the arithmetic mean.
        member_names: A name for each member, of letters, digits, ``-`` and ``_``; by default ``member-0``, ...

    Raises:
        LimbeckError: If there is no member, or the weights or names are invalid.

    Example:
        >>> from torch import nn
        >>> both = Ensemble(nn.Linear(2, 3), nn.Linear(2, 3), member_names=["old", "new"])
        >>> with both.open(TeacherContext(requires=frozenset({"old.logits", "logits"}))) as session:
        ...     sorted(session(Batch(torch.zeros(4, 2))))
        ['logits', 'old.logits']

    Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531, section 2.
    """

    def __init__(
        self,
        *members: Any,
        mean: Literal["arithmetic", "geometric"] = "arithmetic",
        weights: Sequence[float] | None = None,
        temperature: float = 1.0,
        member_names: Sequence[str] | None = None,
    ) -> None:
        if not members:
            raise LimbeckError("An ensemble needs at least one member: Ensemble(a, b, c).")
        if mean not in ("arithmetic", "geometric"):
            raise unknown_name_error("mean", mean, ["arithmetic", "geometric"])
        if not (math.isfinite(temperature) and temperature > 0):
            raise LimbeckError(f"An ensemble's temperature must be a positive number; got {temperature}.")
        super().__init__(*members)
        self.check_full_logits("An ensemble")
        self.mean = mean
        self.temperature = temperature
        self.weights = _normalized(weights, len(self.members))
        self.member_names = _check_names(member_names, len(self.members))

    @property
    def members(self) -> tuple[Teacher, ...]:
        """The teachers that are averaged."""
        return self.teachers

    def open(self, context: TeacherContext) -> TeacherSession:
        """Open every member for ``logits``, which are averaged, and for its own outputs."""
        own = {address: self._find_member(address) for address in sorted(context.requires - {LOGITS})}
        averages = LOGITS in context.requires or not own
        sessions = []
        for number, member in enumerate(self.members):
            addresses = {inner for which, inner in own.values() if which == number}
            requires = frozenset(addresses | {LOGITS} if averages else addresses)
            inner = replace(context, requires=requires, hidden_logits=False)
            sessions.append(member.open(inner) if requires else FunctionSession(lambda batch: Outputs()))
        return _EnsembleSession(self, sessions, own, averages=averages)

    def _find_member(self, address: str) -> tuple[int, str]:
        """The number of the member that an address names, and the address in it."""
        name, _, inner = address.partition(".")
        if not inner or name not in self.member_names:
            choices = [LOGITS, *(f"{name}.{LOGITS}" for name in self.member_names)]
            who = "an ensemble (hidden layers of its members have nothing in common; those of one are at NAME.LAYER)"
            raise missing_output_error(address, choices, who=who)
        return self.member_names.index(name), inner

    def combine(self, logits: Sequence[Float[Tensor, "*batch classes"]]) -> Float[Tensor, "*batch classes"]:
        """The ensemble's logits from the members', in float32 or better."""
        counts = {member.shape[-1] for member in logits}
        if len(counts) > 1:
            raise LimbeckError(f"The ensemble's members have different numbers of classes: {sorted(counts)}.")
        stacked = torch.stack(
            [member.double() if member.dtype == torch.float64 else member.float() for member in logits]
        )
        weights = torch.tensor(self.weights, dtype=stacked.dtype, device=stacked.device)
        shape = (-1,) + (1,) * (stacked.ndim - 1)
        if self.mean == "geometric":
            # 0 * -inf is NaN: a weight of zero has to leave a member out also where its logit is -inf.
            return torch.where(weights.view(shape) > 0, stacked * weights.view(shape), 0.0).sum(0)
        if stacked.shape[-1] == 1:
            # The softmax of one output is 1, whatever it is: a student would learn the constant 0.
            raise LimbeckError(
                "The ensemble's members have one output, and the arithmetic mean is one of probabilities of classes. "
                "For regression, or one logit, type Ensemble(..., mean='geometric'): the mean of the outputs."
            )
        log_p = torch.log_softmax(stacked / self.temperature, -1) + weights.log().view(shape)
        log_p = log_p.masked_fill((stacked == -torch.inf).all(-1, keepdim=True), -torch.inf)
        return self.temperature * torch.logsumexp(log_p, 0)

    @property
    def fingerprint(self) -> str:
        """The hash of the members' fingerprints, the mean, its temperature and the weights."""
        text = f"{self.mean} {self.temperature} {self.weights} {[m.fingerprint for m in self.members]}"
        return hashlib.sha256(text.encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """The members, the mean, its temperature and the weights."""
        members = [member.describe() for member in self.members]
        return {
            "teacher": "Ensemble",
            "mean": self.mean,
            "temperature": self.temperature,
            "weights": list(self.weights),
            "members": members,
        }


@final
class _EnsembleSession(WrapperSession):
    def __init__(
        self,
        ensemble: Ensemble,
        sessions: Sequence[TeacherSession],
        own: Mapping[str, tuple[int, str]],
        *,
        averages: bool,
    ) -> None:
        super().__init__(sessions)
        self._ensemble, self._own, self._averages = ensemble, own, averages
        self._is_checked = False

    def combine(self, batch: Batch, outputs: Sequence[Outputs]) -> Outputs:
        if not self._is_checked:
            self._is_checked = True
            _check_members(self._ensemble.member_names, outputs)
        values = {address: outputs[number].raw(inner) for address, (number, inner) in self._own.items()}
        if self._averages:
            values[LOGITS] = self._ensemble.combine([member[LOGITS] for member in outputs])
        return Outputs.of(values)


def _check_members(names: Sequence[str], outputs: Sequence[Outputs]) -> None:
    for name, member in zip(names, outputs, strict=True):
        if LOGITS in member and are_probabilities(member[LOGITS]):
            raise LimbeckError(
                f"The member {name!r} of the ensemble returns probabilities (none is below 0, and each row sums to 1) "
                "instead of logits. Pass ModelTeacher(model, adaptor=lambda output: output.clamp_min(1e-12).log())."
            )


def _check_names(names: Sequence[str] | None, members: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"member-{number}" for number in range(members))
    if isinstance(names, str) or len(names) != members or len(set(names)) < members:
        raise LimbeckError(f"member_names must be {members} different names; got {names!r}.")
    for name in names:
        if not re.fullmatch(r"[\w-]+", str(name)):
            raise LimbeckError(f"A teacher cannot be called {name!r}; use letters, digits, '-' and '_'.")
    return tuple(names)


def _normalized(weights: Sequence[float] | None, members: int) -> tuple[float, ...]:
    if weights is None:
        return (1.0 / members,) * members
    if len(weights) != members or min(weights) < 0 or not math.isfinite(sum(weights)) or sum(weights) == 0:
        raise LimbeckError(f"weights must be {members} non-negative numbers, not all zero; got {list(weights)}.")
    return tuple(weight / sum(weights) for weight in weights)
