"""How do a generalist and the specialists for what it confuses answer as one?"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.errors import LimbeckError, unknown
from limbeck.functional.closed_form import live, log_softmax
from limbeck.functional.pooled import MEANS, Pool
from limbeck.signal import LOGITS, Batch, Signal, missing
from limbeck.teachers.coerce import as_teacher
from limbeck.teachers.groups import checked_groups, special_classes
from limbeck.teachers.teacher import Answer, Reads, Stream, Teacher

_SCALE = 1000.0


@final
class Specialists(Teacher):
    r"""A generalist, and specialists that are asked where its first guesses are among their classes.

    For each example: the generalist's `active` most probable classes; the specialists that know one of them; the q that
    is nearest to the generalist's distribution and to theirs, as `limbeck.functional.pooled` says. The answer is log q,
    on the scale of the generalist's own logits (a constant for each row, of at most 1000). Where no specialist is
    active, it is the generalist's answer, bit for bit. A specialist is called with the rows alone for which it is
    active.

    A specialist keeps the whole head of its generalist, and says by it how probable each of its own classes is, and all
    others together: its dustbin, whose logit is the logsumexp of theirs. So any module can be a specialist without
    surgery, it begins exactly as its generalist, and its softmax over :math:`S^m` and the dustbin is the paper's. One
    with a head of its own, with a logit for each class of its group, in that order, and the dustbin's last, is taken as
    well. `oversampling` is added to the dustbin's logit as its logarithm.

    Only ``logits`` of shape ``[batch, classes]`` can be read.

    Args:
        generalist: A teacher, or anything that becomes one (a module, an estimator, the name of a model in the run).
        members: The specialists, each likewise.
        groups: The classes that each specialist knows: ``[[3, 5, 8], [4, 9]]``. They may overlap.
        active: How many of the generalist's first guesses are looked at; n in the paper, which uses 1.
        mean: ``"arithmetic"`` minimises KL(p, q), as in the paper; ``"geometric"`` KL(q, p). Where every specialist
            knows every class, q would be the mean of that name.
        oversampling: For each specialist the factor by which its training favoured its own classes over the rest, such
            as `limbeck.sources.HalfSpecial.oversampling`; 1 by default, for specialists that saw the true proportions.

    Raises:
        LimbeckError: If there is not one group, and one factor above 0, for each specialist, or a group makes no sense;
            when it first answers, if a group does not fit the generalist's classes, or a specialist's logits fit
            neither the generalist's nor its group.

    Example:
        >>> teacher = Specialists(nn.Linear(4, 5), [nn.Linear(4, 5), nn.Linear(4, 3)], [[0, 1, 2], [3, 4]])
        >>> with teacher.prepare(frozenset({"logits"}), device=torch.device("cpu"), reads=lambda b: b.inputs) as answer:
        ...     answer(Batch(torch.zeros(6, 4)))["logits"].shape
        torch.Size([6, 5])

    Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531, section 5.
    """

    def __init__(
        self,
        generalist: Any,
        members: Sequence[Any],
        groups: Sequence[Sequence[int]],
        *,
        active: int = 1,
        mean: str = "arithmetic",
        oversampling: Sequence[float] | None = None,
    ) -> None:
        if mean not in MEANS:
            raise unknown("mean", mean, MEANS)
        if isinstance(active, bool) or not isinstance(active, int) or active < 1:
            raise LimbeckError(f"active is how many first guesses are looked at, 1 or more; got {active!r}.")
        self.generalist = as_teacher(generalist)
        self.members = tuple(as_teacher(member) for member in members)
        self.groups = checked_groups(groups)
        self.active = active
        self.mean = mean
        self.oversampling = (1.0,) * len(self.groups) if oversampling is None else _factors(oversampling)
        if not len(self.members) == len(self.groups) == len(self.oversampling):
            raise LimbeckError(
                f"Each specialist has one group and one factor of oversampling; got {len(self.members)} members, "
                f"{len(self.groups)} groups and {len(self.oversampling)} factors."
            )
        self.changes = any(one.changes for one in self._all)

    @property
    def _all(self) -> tuple[Teacher, ...]:
        return (self.generalist, *self.members)

    @property
    def names(self) -> frozenset[str]:
        """The names of all of them."""
        return frozenset().union(*(one.names for one in self._all))

    def bind(self, models: Mapping[str, nn.Module]) -> None:
        """Bind the generalist and every specialist."""
        for one in self._all:
            one.bind(models)

    @property
    def steady(self) -> bool:
        """Whether all of them are."""
        return all(one.steady for one in self._all)

    def expect(self, source: Stream, reads: Reads) -> None:
        """All of them are told."""
        for one in self._all:
            one.expect(source, reads)

    def prepare(self, needs: frozenset[str], *, device: torch.device, reads: Reads) -> AbstractContextManager[Answer]:
        """All must give ``logits``; nothing else can be pooled."""
        for address in needs - {LOGITS}:
            raise missing(address, [LOGITS], who="specialists (their insides have nothing in common)")
        return self._answering([one.prepare(frozenset({LOGITS}), device=device, reads=reads) for one in self._all])

    @contextmanager
    def _answering(self, opened: list[AbstractContextManager[Answer]]) -> Iterator[Answer]:
        with ExitStack() as stack:
            generalist, *members = [stack.enter_context(one) for one in opened]
            yield lambda batch: Signal(logits=self._pooled(generalist(batch)[LOGITS], members, batch))

    def _pooled(self, shown: Tensor, members: Sequence[Answer], batch: Batch) -> Tensor:
        logits = shown if shown.is_floating_point() and shown.element_size() >= 4 else shown.float()
        self._check(logits)
        special = special_classes(self.groups, logits.shape[-1]).to(logits.device)
        asked = special.T[logits.topk(self.active, -1).indices].any(1)
        log_p = log_softmax(live(logits))
        pool = Pool(log_p, special, mean=self.mean)
        for number, member in enumerate(members):
            rows = asked[:, number].nonzero()[:, 0]
            if len(rows):
                pool.add(number, rows, self._corrected(number, member(batch.rows(rows))[LOGITS], special[number]))
        # A greater constant would leave no digits for log q: softmax, which forgets the constant, would forget q.
        scale = torch.logsumexp(live(logits), -1, keepdim=True).clamp(-_SCALE, _SCALE)
        return torch.where(asked.any(-1, keepdim=True), pool.log_q() + scale, logits)

    def _corrected(self, number: int, shown: Float[Tensor, "rows _"], own: Tensor) -> Float[Tensor, "rows classes"]:
        """What a specialist says of all classes, once the classes outside its own have their true share."""
        classes, group = len(own), list(self.groups[number])
        if shown.ndim != 2:
            raise LimbeckError(f"Specialist {number + 1} shows logits of {list(shown.shape)}, not [batch, classes].")
        logits = shown.double()
        if logits.shape[-1] == len(group) + 1 != classes:
            # How the dustbin is spread does not matter: only its sum is read.
            whole = (logits[:, -1:] - math.log(classes - len(group))).repeat(1, classes)
            whole[:, group] = logits[:, :-1]
            logits = whole
        elif logits.shape[-1] != classes:
            raise LimbeckError(
                f"Specialist {number + 1} shows {logits.shape[-1]} logits; it needs the generalist's {classes}, or "
                f"{len(group) + 1}: one for each class of its group, and the dustbin's."
            )
        return log_softmax(live(logits) + (~own).double() * math.log(self.oversampling[number]))

    def _check(self, logits: Tensor) -> None:
        if logits.ndim != 2:
            raise LimbeckError(
                f"Specialists need a generalist with logits [batch, classes]; it shows {list(logits.shape)}."
            )
        checked_groups(self.groups, classes=logits.shape[-1])
        if self.active > logits.shape[-1]:
            raise LimbeckError(f"active={self.active} first guesses of {logits.shape[-1]} classes; choose fewer.")

    @property
    def fingerprint(self) -> str:
        """The hash of everyone's hashes and of how they are combined."""
        own = f"{self.mean} {self.active} {self.groups} {self.oversampling}"
        return hashlib.sha256(f"{own} {[one.fingerprint for one in self._all]}".encode()).hexdigest()

    def after_step(self) -> None:
        """All move on."""
        for one in self._all:
            one.after_step()

    def state_dict(self) -> dict[str, Any]:
        """Everyone's state."""
        return {str(i): one.state_dict() for i, one in enumerate(self._all)} if self.changes else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Each goes on."""
        for i, one in enumerate(self._all):
            one.load_state_dict(state.get(str(i), {}))

    def describe(self) -> dict[str, Any]:
        """Who they are, and how they are combined."""
        return {
            "teacher": "Specialists",
            "mean": self.mean,
            "active": self.active,
            "generalist": self.generalist.describe(),
            "members": [member.describe() for member in self.members],
            "groups": [list(group) for group in self.groups],
            "oversampling": list(self.oversampling),
        }


def _factors(given: Any) -> tuple[float, ...]:
    try:
        found = tuple(float(factor) for factor in given)
    except (TypeError, ValueError):
        found = (math.nan,)
    if not all(math.isfinite(factor) and factor > 0 for factor in found):
        raise LimbeckError(f"oversampling is a factor above 0 for each specialist; got {given!r}.")
    return found
