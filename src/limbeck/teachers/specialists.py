"""`Specialists`: a generalist, and specialists for the classes that it confuses."""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.batch import LOGITS, Batch, Outputs, missing_output_error
from limbeck.errors import LimbeckError, unknown_name_error
from limbeck.functional.closed_form import log_softmax, nonzero_mask
from limbeck.functional.specialist_pooling import MEANS, Pool
from limbeck.teachers.teacher import Teacher, TeacherContext, TeacherSession
from limbeck.teachers.wrapper import TeacherWrapper, WrapperSession

Groups = tuple[tuple[int, ...], ...]

"""The special classes of each specialist."""


def check_groups(groups: Any, *, classes: int | None = None, class_names: Sequence[str] | None = None) -> Groups:
    """Validate groups of classes, and convert names to class indices.

    Args:
        groups: For each specialist a sequence of class indices or, with `class_names`, names. Groups may overlap.
        classes: The number of classes, where it is known.
        class_names: The name of each class.

    Raises:
        LimbeckError: If there is no group, or a group has fewer than two classes, all classes, a class twice, or an
            unknown class.
        UnknownNameError: If a name is unknown; the nearest one is named.

    Example:
        >>> check_groups([["cat", "dog"], [0, 2]], class_names=["cat", "dog", "frog"])
        ((0, 1), (0, 2))
    """
    names = None if class_names is None else list(class_names)
    count = classes if classes is not None else len(names) if names else None
    if isinstance(groups, (str, bytes)) or not isinstance(groups, Sequence) or not len(groups):
        raise LimbeckError(f"groups is a list of lists of classes, one for each specialist; got {groups!r}.")
    return tuple(_check_group(number, group, count, names) for number, group in enumerate(groups, 1))


def special_classes(groups: Groups, classes: int) -> Bool[Tensor, "specialists classes"]:
    """True where a class belongs to a specialist; the sums of its columns count the specialists of each class.

    Example:
        >>> special_classes(((0, 1), (1, 2)), 4).sum(0).tolist()
        [1, 2, 1, 0]
    """
    special = torch.zeros(len(groups), classes, dtype=torch.bool)
    for number, group in enumerate(groups):
        special[number, list(group)] = True
    return special


def _check_group(number: int, group: Any, classes: int | None, names: list[str] | None) -> tuple[int, ...]:
    if isinstance(group, (str, bytes)) or not isinstance(group, Sequence):
        raise LimbeckError(f"Group {number} must be a list of classes, such as [3, 5, 8]; got {group!r}.")
    indices = tuple(_class_index(number, value, names) for value in group)
    if len(indices) < 2:
        raise LimbeckError(
            f"Group {number} is {list(group)}. A specialist needs two or more classes; add one, or leave the group out."
        )
    twice = [index for index in indices if indices.count(index) > 1]
    if twice:
        raise LimbeckError(f"Group {number} has class {twice[0]} twice; name each class once.")
    wrong = [index for index in indices if index < 0 or (classes is not None and index >= classes)]
    if wrong:
        last = "" if classes is None else f" to {classes - 1}"
        raise LimbeckError(f"Group {number} has class {wrong[0]}; classes run from 0{last}.")
    if classes is not None and len(indices) >= classes:
        raise LimbeckError(f"Group {number} has all {classes} classes, so none is left for its dustbin.")
    return indices


def _class_index(number: int, value: Any, names: list[str] | None) -> int:
    if isinstance(value, str):
        if names is None:
            raise LimbeckError(
                f"Group {number} has the name {value!r}, and the data have no class names; use its index."
            )
        if value not in names:
            raise unknown_name_error("class", value, names)
        return names.index(value)
    try:
        index = None if isinstance(value, bool) else operator.index(value)
    except TypeError:  # also of a tensor that is no single integer
        index = None
    if index is None:
        raise LimbeckError(f"Group {number} has {value!r}; a class is an integer from 0, or a name.")
    return index


_SCALE = 1000.0


@final
class Specialists(TeacherWrapper):
    r"""A generalist, and specialists that are used where its top predictions are among their classes.

    For each example, take the generalist's `active` most probable classes and the specialists that have one of them.
    The result is the q that is nearest to the generalist's distribution and to theirs; see `limbeck.functional.pooled`.
    The logits are log q, on the scale of the generalist's logits (a constant for each row, of at most 1000). Where no
    specialist is active, they are the generalist's, bitwise. A specialist runs only on the rows where it is active.

    A specialist has the whole head of its generalist. From it follow the probability of each of its own classes, and of
    all others together: its dustbin, whose logit is the logsumexp of theirs. So any module can be a specialist without
    changes, it starts exactly as its generalist, and its softmax over :math:`S^m` and the dustbin is the paper's. A
    specialist with a head of its own also works: a logit for each class of its group, in that order, and last the
    dustbin's. The logarithm of `oversampling` is added to the dustbin's logit.

    Only ``logits`` of shape ``[batch, classes]`` are available.

    Args:
        generalist: A teacher, or anything that `as_teacher` accepts (a module, an estimator, the name of a model in the
            run).
        members: The specialists, each of them likewise.
        groups: The classes of each specialist: ``[[3, 5, 8], [4, 9]]``. Groups may overlap.
        active: The number of top predictions of the generalist that select specialists; n in the paper, which uses 1.
        mean: ``"arithmetic"`` minimizes KL(p, q), as in the paper; ``"geometric"`` minimizes KL(q, p). If every
            specialist had all classes, q would be the mean of that name.
        oversampling: For each specialist the factor by which its training favored its own classes over the rest, such
            as `limbeck.data.SpecialistLoader.oversampling`; 1 by default, for specialists trained on the true
            proportions.

    Raises:
        LimbeckError: If there is not one group, and one factor above 0, for each specialist, or a group is invalid; on
            the first batch, if a group does not fit the generalist's classes, or the number of a specialist's logits
            fits neither the generalist's classes nor its group.

    Example:
        >>> from torch import nn
        >>> teacher = Specialists(nn.Linear(4, 5), [nn.Linear(4, 5), nn.Linear(4, 3)], [[0, 1, 2], [3, 4]])
        >>> with teacher.open(TeacherContext()) as session:
        ...     session(Batch(torch.zeros(6, 4)))["logits"].shape
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
            raise unknown_name_error("mean", mean, MEANS)
        if isinstance(active, bool) or not isinstance(active, int) or active < 1:
            raise LimbeckError(f"active must be an integer, 1 or more: the number of top predictions; got {active!r}.")
        super().__init__(generalist, *members)
        self.check_full_logits("Specialists")
        self.groups = check_groups(groups)
        self.active = active
        self.mean = mean
        self.oversampling = (1.0,) * len(self.groups) if oversampling is None else _factors(oversampling)
        if not len(self.members) == len(self.groups) == len(self.oversampling):
            raise LimbeckError(
                f"Each specialist needs one group and one factor of oversampling; got {len(self.members)} members, "
                f"{len(self.groups)} groups and {len(self.oversampling)} factors."
            )

    @property
    def generalist(self) -> Teacher:
        """The teacher of all classes."""
        return self.teachers[0]

    @property
    def members(self) -> tuple[Teacher, ...]:
        """The specialists."""
        return self.teachers[1:]

    def open(self, context: TeacherContext) -> TeacherSession:
        """Open all of them for ``logits``; nothing else can be pooled."""
        for address in context.requires - {LOGITS}:
            raise missing_output_error(
                address, [LOGITS], who="specialists (their hidden layers have nothing in common)"
            )
        return _SpecialistsSession(self, self.open_all(context, requires=frozenset({LOGITS})))

    @property
    def fingerprint(self) -> str:
        """The hash of the fingerprints of all teachers and of how they are combined."""
        own = f"{self.mean} {self.active} {self.groups} {self.oversampling}"
        return hashlib.sha256(f"{own} {[teacher.fingerprint for teacher in self.teachers]}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """The generalist, the specialists, and how they are combined."""
        return {
            "teacher": "Specialists",
            "mean": self.mean,
            "active": self.active,
            "generalist": self.generalist.describe(),
            "members": [member.describe() for member in self.members],
            "groups": [list(group) for group in self.groups],
            "oversampling": list(self.oversampling),
        }


@final
class _SpecialistsSession(WrapperSession):
    def __init__(self, own: Specialists, sessions: Sequence[TeacherSession]) -> None:
        super().__init__(sessions)
        self._own = own

    @property
    def ahead(self) -> int:
        """0: which specialists get which rows depends on the generalist's outputs."""
        return 0

    def __call__(self, batch: Batch) -> Outputs:
        return self.combine(batch, [self.sessions[0](batch)])

    def submit(self, batch: Batch) -> Future[Outputs]:
        return TeacherSession.submit(self, batch)

    def combine(self, batch: Batch, outputs: Sequence[Outputs]) -> Outputs:
        """The pooled outputs; a specialist runs only on the rows where it is active."""
        generalist, members = outputs[0][LOGITS], self.sessions[1:]
        return Outputs(logits=self._pooled(generalist, members, batch))

    def _pooled(self, generalist: Tensor, members: Sequence[TeacherSession], batch: Batch) -> Tensor:
        exact = generalist.is_floating_point() and generalist.element_size() >= 4
        logits = generalist if exact else generalist.float()
        self._check(logits)
        special = special_classes(self._own.groups, logits.shape[-1]).to(logits.device)
        selected = special.T[logits.topk(self._own.active, -1).indices].any(1)
        log_p = log_softmax(nonzero_mask(logits))
        pool = Pool(log_p, special, mean=self._own.mean)
        for number, member in enumerate(members):
            rows = selected[:, number].nonzero()[:, 0]
            if len(rows):
                pool.add(number, rows, self._corrected(number, member(batch.rows(rows))[LOGITS], special[number]))
        # The constant is bounded: a greater one would leave no digits for log q.
        scale = torch.logsumexp(nonzero_mask(logits), -1, keepdim=True).clamp(-_SCALE, _SCALE)
        return torch.where(selected.any(-1, keepdim=True), pool.log_q() + scale, logits)

    def _corrected(self, number: int, outputs: Float[Tensor, "rows _"], own: Tensor) -> Float[Tensor, "rows classes"]:
        """A specialist's log-probabilities of all classes, with the true share of the classes outside its own."""
        classes, group = len(own), list(self._own.groups[number])
        if outputs.ndim != 2:
            raise LimbeckError(f"Specialist {number + 1} has logits of {list(outputs.shape)}, not [batch, classes].")
        logits = outputs.double()
        if logits.shape[-1] == len(group) + 1 != classes:
            # Only the dustbin's sum is used, so it may be spread evenly.
            whole = (logits[:, -1:] - math.log(classes - len(group))).repeat(1, classes)
            whole[:, group] = logits[:, :-1]
            logits = whole
        elif logits.shape[-1] != classes:
            raise LimbeckError(
                f"Specialist {number + 1} has {logits.shape[-1]} logits. It needs the generalist's {classes}, or "
                f"{len(group) + 1}: one for each class of its group, and the dustbin's."
            )
        return log_softmax(nonzero_mask(logits) + (~own).double() * math.log(self._own.oversampling[number]))

    def _check(self, logits: Tensor) -> None:
        if logits.ndim != 2:
            raise LimbeckError(
                f"Specialists need a generalist with logits [batch, classes]; its logits are {list(logits.shape)}."
            )
        check_groups(self._own.groups, classes=logits.shape[-1])
        if self._own.active > logits.shape[-1]:
            raise LimbeckError(f"active={self._own.active}, and there are {logits.shape[-1]} classes; choose fewer.")


def _factors(values: Any) -> tuple[float, ...]:
    try:
        factors = tuple(float(factor) for factor in values)
    except (TypeError, ValueError):
        factors = (math.nan,)
    if not all(math.isfinite(factor) and factor > 0 for factor in factors):
        raise LimbeckError(f"oversampling must be a factor above 0 for each specialist; got {values!r}.")
    return factors
