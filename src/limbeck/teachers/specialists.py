"""`Specialists`: a generalist and specialists for the classes that it confuses."""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch, Outputs, missing
from limbeck.errors import LimbeckError, unknown
from limbeck.functional.closed_form import log_softmax, nonzero_mask
from limbeck.functional.specialist_pooling import MEANS, Pool
from limbeck.teachers.conversion import as_teacher
from limbeck.teachers.teacher import Preprocess, Stream, Teacher, TeacherFn

Groups = tuple[tuple[int, ...], ...]

"""The special classes of each specialist."""


def check_groups(groups: Any, *, classes: int | None = None, class_names: Sequence[str] | None = None) -> Groups:
    """Groups of classes as a person writes them -> class indices, once they are known to make sense.

    Args:
        groups: A sequence for each specialist, of class indices or, with `class_names`, names. Groups may overlap.
        classes: How many classes there are, where that is known.
        class_names: The name of each class.

    Raises:
        LimbeckError: If there is no group, or one is of a single class, of all classes, holds a class twice or one that
            there is not.
        UnknownNameError: If a name is no class's; the nearest is named.

    Example:
        >>> check_groups([["cat", "dog"], [0, 2]], class_names=["cat", "dog", "frog"])
        ((0, 1), (0, 2))
    """
    names = None if class_names is None else list(class_names)
    count = classes if classes is not None else len(names) if names else None
    if isinstance(groups, (str, bytes)) or not isinstance(groups, Sequence) or not len(groups):
        raise LimbeckError(f"groups is a list of lists of classes, one for each specialist; got {groups!r}.")
    return tuple(_checked(number, group, count, names) for number, group in enumerate(groups, 1))


def special_classes(groups: Groups, classes: int) -> Bool[Tensor, "specialists classes"]:
    """True where a class is one of a specialist's own; its columns' sums are how many specialists know each class.

    Example:
        >>> special_classes(((0, 1), (1, 2)), 4).sum(0).tolist()
        [1, 2, 1, 0]
    """
    special = torch.zeros(len(groups), classes, dtype=torch.bool)
    for number, group in enumerate(groups):
        special[number, list(group)] = True
    return special


def _checked(number: int, group: Any, classes: int | None, names: list[str] | None) -> tuple[int, ...]:
    if isinstance(group, (str, bytes)) or not isinstance(group, Sequence):
        raise LimbeckError(f"Group {number} is a list of classes, such as [3, 5, 8]; got {group!r}.")
    found = tuple(_class_index(number, one, names) for one in group)
    if len(found) < 2:
        raise LimbeckError(
            f"Group {number} is {list(group)}: a specialist tells at least two classes apart; add one, or leave it out."
        )
    twice = [one for one in found if found.count(one) > 1]
    if twice:
        raise LimbeckError(f"Group {number} holds class {twice[0]} twice; name each once.")
    wrong = [one for one in found if one < 0 or (classes is not None and one >= classes)]
    if wrong:
        last = "" if classes is None else f" to {classes - 1}"
        raise LimbeckError(f"Group {number} holds class {wrong[0]}; classes run from 0{last}.")
    if classes is not None and len(found) >= classes:
        raise LimbeckError(f"Group {number} holds all {classes} classes, so that none is left for its dustbin.")
    return found


def _class_index(number: int, given: Any, names: list[str] | None) -> int:
    if isinstance(given, str):
        if names is None:
            raise LimbeckError(
                f"Group {number} holds the name {given!r}, and the data name no classes; give its index."
            )
        if given not in names:
            raise unknown("class", given, names)
        return names.index(given)
    try:
        found = None if isinstance(given, bool) else operator.index(given)
    except TypeError:  # also of tensors that are no single whole number
        found = None
    if found is None:
        raise LimbeckError(f"Group {number} holds {given!r}; a class is a whole number from 0, or a name.")
    return found


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
        mean: ``"arithmetic"`` minimizes KL(p, q), as in the paper; ``"geometric"`` KL(q, p). Where every specialist
            knows every class, q would be the mean of that name.
        oversampling: For each specialist the factor by which its training favored its own classes over the rest, such
            as `limbeck.data.SpecialistLoader.oversampling`; 1 by default, for specialists that saw the true
            proportions.

    Raises:
        LimbeckError: If there is not one group, and one factor above 0, for each specialist, or a group makes no sense;
            when it first answers, if a group does not fit the generalist's classes, or a specialist's logits fit
            neither the generalist's nor its group.

    Example:
        >>> teacher = Specialists(nn.Linear(4, 5), [nn.Linear(4, 5), nn.Linear(4, 3)], [[0, 1, 2], [3, 4]])
        >>> with teacher.prepare(frozenset({"logits"}), device=torch.device("cpu"), preprocess=lambda b: b.inputs) as
        answer: ...     answer(Batch(torch.zeros(6, 4)))["logits"].shape
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
        self.groups = check_groups(groups)
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
    def is_deterministic(self) -> bool:
        """Whether all of them are."""
        return all(one.is_deterministic for one in self._all)

    def attach_loader(self, loader: Stream, preprocess: Preprocess) -> None:
        """All of them are told."""
        for one in self._all:
            one.attach_loader(loader, preprocess)

    def prepare(
        self, requires: frozenset[str], *, device: torch.device, preprocess: Preprocess
    ) -> AbstractContextManager[TeacherFn]:
        """All must give ``logits``; nothing else can be pooled."""
        for address in requires - {LOGITS}:
            raise missing(address, [LOGITS], who="specialists (their insides have nothing in common)")
        return self._answering(
            [one.prepare(frozenset({LOGITS}), device=device, preprocess=preprocess) for one in self._all]
        )

    @contextmanager
    def _answering(self, opened: list[AbstractContextManager[TeacherFn]]) -> Iterator[TeacherFn]:
        with ExitStack() as stack:
            generalist, *members = [stack.enter_context(one) for one in opened]
            yield lambda batch: Outputs(logits=self._pooled(generalist(batch)[LOGITS], members, batch))

    def _pooled(self, shown: Tensor, members: Sequence[TeacherFn], batch: Batch) -> Tensor:
        logits = shown if shown.is_floating_point() and shown.element_size() >= 4 else shown.float()
        self._check(logits)
        special = special_classes(self.groups, logits.shape[-1]).to(logits.device)
        asked = special.T[logits.topk(self.active, -1).indices].any(1)
        log_p = log_softmax(nonzero_mask(logits))
        pool = Pool(log_p, special, mean=self.mean)
        for number, member in enumerate(members):
            rows = asked[:, number].nonzero()[:, 0]
            if len(rows):
                pool.add(number, rows, self._corrected(number, member(batch.rows(rows))[LOGITS], special[number]))
        # A greater constant would leave no digits for log q: softmax, which forgets the constant, would forget q.
        scale = torch.logsumexp(nonzero_mask(logits), -1, keepdim=True).clamp(-_SCALE, _SCALE)
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
        return log_softmax(nonzero_mask(logits) + (~own).double() * math.log(self.oversampling[number]))

    def _check(self, logits: Tensor) -> None:
        if logits.ndim != 2:
            raise LimbeckError(
                f"Specialists need a generalist with logits [batch, classes]; it shows {list(logits.shape)}."
            )
        check_groups(self.groups, classes=logits.shape[-1])
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
