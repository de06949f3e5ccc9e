"""Training of specialists: copies of a generalist, each for a group of classes and a dustbin for all others."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.batch import IGNORED, LOGITS
from limbeck.data import Dataset, Loader, ShuffledLoader, SpecialistLoader
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, kernel, kl_divergence
from limbeck.functional.closed_form import is_well_scaled, log_softmax, nonzero_mask
from limbeck.functional.kernel import validates_pair, validates_student
from limbeck.functional.row_blocks import Needed, Slopes, compute_by_examples
from limbeck.losses import Loss, Objective
from limbeck.methods.support import check_weight
from limbeck.model_call import Adaptor
from limbeck.random_seeds import derive_seed
from limbeck.recipe import Models, Optimizer, Recipe, RunContext, Stage
from limbeck.tap import get_adaptor
from limbeck.teachers import (
    CachedTeacher,
    ModelTeacher,
    Preprocess,
    Specialists,
    Teacher,
    TeacherContext,
    TeacherRef,
    as_teacher,
    check_groups,
)

_RARE = 1e-30  # a probability whose logarithm is precise in float32


@kernel(per="position")
@validates_student
def dustbin_cross_entropy(
    student: Float[Tensor, "*batch classes"], *, labels: Int[Tensor, "*batch"], special: Sequence[int]
) -> Float[Tensor, "*batch"]:
    """Compute the cross-entropy with all classes that are not special merged into one, the dustbin.

    ``-log q_y`` in nats where y is special, else ``-log sum_{c not special} q_c``, with ``q = softmax(student)``: the
    softmax over the special classes and a dustbin whose logit is the logsumexp of the other logits. One value per row;
    0 where the label is -100.

    Args:
        student: Logits of all classes.
        labels: Class indices, or -100.
        special: The special classes; not all classes.

    Raises:
        LimbeckError: As `limbeck.functional.cross_entropy` does.

    Example:
        >>> dustbin_cross_entropy(torch.zeros(2, 4), labels=torch.tensor([0, 3]), special=(0, 1))
        tensor([1.3863, 0.6931])

    Source: Hinton, Vinyals and Dean, 2015, arXiv:1503.02531, section 5.3.
    """
    own = _mask(student, special)

    def compute(logits: Tensor, labels: Tensor) -> Tensor:
        outside = (labels >= 0) & (labels < len(own)) & ~own[labels.clamp(0, len(own) - 1)]
        dustbin = log_softmax(nonzero_mask(logits)).masked_fill(own, -torch.inf).logsumexp(-1)
        return torch.where(outside, -dustbin, cross_entropy(logits, labels=labels.masked_fill(outside, IGNORED)))

    if student.ndim < 2 or not student.numel() or labels.shape != student.shape[:-1]:
        return compute(student, labels)
    rows, find = student.flatten(0, -2), functools.partial(_find_dustbin, own)
    return compute_by_examples(compute, rows, labels.flatten(), find=find).view(labels.shape)


def _find_dustbin(own: Tensor, needed: Needed, logits: Tensor, labels: Tensor) -> tuple[Tensor, Slopes] | None:
    """The values with the slopes; None if a logit is infinite or huge, or a label no class."""
    known = labels != IGNORED
    at = labels.masked_fill(~known, 0).long()
    if not is_well_scaled(logits) or not bool(((at >= 0) & (at < len(own))).all()):
        return None
    q = torch.softmax(logits, -1)
    outside = known & ~own[at]
    share = torch.where(outside, q @ (~own).to(q.dtype), q.gather(-1, at.unsqueeze(-1)).squeeze(-1))
    share = share.masked_fill(~known, 1.0).clamp_max(1.0)
    if not float(share.amin()) > _RARE:
        return None
    value = -share.log()
    if not needed[0]:
        return value, (None,) * len(needed)
    # q minus the target: the label, or q within the dustbin, with the sum 1.
    weight = outside / share
    q.addcmul_(q * weight.unsqueeze(-1), (~own).to(q.dtype), value=-1)
    q.scatter_add_(-1, at.unsqueeze(-1), -(known & ~outside).to(q.dtype).unsqueeze(-1))
    return value, (q.masked_fill_(~known.unsqueeze(-1), 0.0), *(None,) * (len(needed) - 1))


@kernel(per="position")
@validates_pair
def rest_kl(
    student: Float[Tensor, "*batch classes"], teacher: Float[Tensor, "*batch classes"], *, special: Sequence[int]
) -> Float[Tensor, "*batch"]:
    """Compute the KL divergence within the classes that are not special, in nats, one value per row.

    ``P KL(p(. | rest) || q(. | rest))`` with P the teacher's probability of all classes that are not special. The
    divergence over special classes and dustbin plus this term is ``KL(p || q)``.

    Args:
        student: Logits of all classes.
        teacher: Logits of all classes.
        special: The special classes.

    Raises:
        LimbeckError: If the shapes differ.

    Example:
        >>> rest_kl(torch.zeros(1, 3), torch.tensor([[5.0, 1.0, 1.0]]), special=(0,))
        tensor([0.])
    """
    rest = (~_mask(student, special)).nonzero()[:, 0]
    share = log_softmax(nonzero_mask(teacher))[..., rest].exp().sum(-1)
    # If the teacher gives the rest probability 0, its distribution there is undefined, and 0 * inf would be NaN.
    silent = (share == 0).unsqueeze(-1)
    own = student[..., rest].masked_fill(silent, 0.0)
    value = kl_divergence(own, teacher[..., rest].masked_fill(silent, 0.0))
    # The slope of the share is the value: where it is infinite, it would make the gradient NaN.
    return torch.where(value.isinf(), share.detach(), share) * value


def _mask(logits: Tensor, special: Sequence[int]) -> Tensor:
    for number in special:
        if not 0 <= number < logits.shape[-1]:
            raise LimbeckError(
                f"Special class {number} is not one of the student's {logits.shape[-1]} classes, from 0."
            )
    own = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    own[list(special)] = True
    return own


def training(
    teacher: Any,
    groups: Any,
    data: Loader,
    *,
    context: RunContext | None = None,
    soft: float = 0.0,
    optimizer: Optimizer | None = None,
    epochs: int | None = None,
) -> Recipe:
    """Make the recipe that trains the specialists, ``specialist-1 | specialist-2 | ...``, without a student.

    Each begins as a copy of the generalist and learns from a `SpecialistLoader` of the data by
    `dustbin_cross_entropy`. `combined` makes one teacher of the trained models.

    Args:
        teacher: The generalist: a module, a `ModelTeacher`, or the name of a model in the run.
        groups: The classes of each specialist, for example from `confusion_groups`.
        data: The loader of the examples.
        context: The context of the run. By default the models take the inputs of a batch, on the CPU.
        soft: The weight of the generalist's soft targets for the classes that are not special.
        optimizer: The optimizer of the specialists; by default that of the run.
        epochs: Passes of each specialist over its own data; by default the budget of the run.

    Raises:
        LimbeckError: If the teacher is not a single network, the data are not a set of examples, or `soft` is negative.
    """
    check_weight(soft=soft)
    generalist, preprocess = _network(teacher)
    loaders = half_special(generalist, groups, data, context=context)
    branches = []
    for number, loader in enumerate(loaders, 1):
        objective: Objective = Loss(dustbin_cross_entropy, special=loader.special)
        if soft:
            objective = objective + soft * Loss(rest_kl, special=loader.special)
        branches.append(
            Stage(
                objective, trains=_name(number), teacher=generalist if soft else None, optimizer=optimizer,
                loader=loader, epochs=epochs, preprocess=preprocess, name=f"training {_name(number)}",
            )
        )  # fmt: skip
    whole = Recipe(branches[0])
    for branch in branches[1:]:
        whole = whole | branch
    makes = {_name(number): _Copy(generalist) for number in range(1, len(branches) + 1)}
    return Recipe(whole, makes=makes, ship=_name(1))


def combined(
    teacher: Any,
    groups: Any,
    data: Loader,
    *,
    context: RunContext | None = None,
    active: int = 1,
    mean: str = "arithmetic",
) -> Specialists:
    """Combine the generalist and the specialists from `training` into one teacher.

    The teacher finds the specialists by their names in the run. Outside the run, call ``resolve(run.models)``.

    Args:
        teacher: As for `training`.
        groups: As for `training`.
        data: As for `training`. It gives the oversampling factor of each specialist.
        context: As for `training`.
        active: As in `Specialists`.
        mean: As in `Specialists`.
    """
    generalist, preprocess = _network(teacher)
    loaders = half_special(generalist, groups, data, context=context)
    members = [TeacherRef(_name(number), preprocess=preprocess) for number in range(1, len(loaders) + 1)]
    factors = [loader.oversampling for loader in loaders]
    own = [loader.special for loader in loaders]
    return Specialists(generalist, members, own, active=active, mean=mean, oversampling=factors)


def half_special(
    generalist: Teacher, groups: Any, data: Loader, *, context: RunContext | None = None
) -> list[SpecialistLoader]:
    """Make the loader of each specialist. Examples without a label get the class that the generalist predicts.

    Raises:
        LimbeckError: If the data are not a set of examples, or a group is invalid.
    """
    examples = data.examples
    if examples is None:
        raise LimbeckError(
            f"Half of the batches of a specialist are examples of its own classes, and a {type(data).__name__} has no "
            "access to single examples. Give distill() arrays, examples, or ShuffledLoader(examples, batch_size=...)."
        )
    if data.mix is not None:
        raise LimbeckError(
            "A specialist learns from labels, and this loader mixes two examples (mix=), which have no single label. "
            "Use a loader without mix=."
        )
    classes = _classes(generalist, examples, context)
    own = check_groups(groups, class_names=examples.class_names)
    return [
        SpecialistLoader(
            examples, group, batch_size=data.batch_size or 128, seed=derive_seed(data.seed, f"specialist {number}"),
            augment=data.augment, views=data.views, classes=classes,
        )
        for number, group in enumerate(own, 1)
    ]  # fmt: skip


def _classes(generalist: Teacher, examples: Dataset, context: RunContext | None) -> Tensor:
    labels = examples.labels
    if labels is not None and labels.ndim != 1:
        raise LimbeckError(f"Specialists need one label per example; the labels have shape {list(labels.shape)}.")
    classes = torch.full((len(examples),), IGNORED) if labels is None else labels.clone()
    unlabeled = (classes == IGNORED).nonzero()[:, 0]
    if not len(unlabeled):
        return classes
    part = ShuffledLoader(examples.select(unlabeled), batch_size=256, shuffle=False)
    preprocess, device = (
        (context.preprocess, context.device) if context is not None else (lambda b: b.inputs, torch.device("cpu"))
    )
    with generalist.open(TeacherContext(device=device, preprocess=preprocess)) as answer:
        predictions = [answer(batch.to(device))[LOGITS].argmax(-1).cpu() for batch in part.batches(0, 0)]
    classes[unlabeled] = torch.cat(predictions)
    return classes


@dataclass(frozen=True)
class _Copy:
    """Makes a specialist: a trainable copy of the generalist."""

    generalist: ModelTeacher | TeacherRef

    def __call__(self, models: Models) -> nn.Module:
        generalist = self.generalist
        return (
            copy.deepcopy(generalist.model if isinstance(generalist, ModelTeacher) else models[generalist.name])
            .train()
            .requires_grad_(True)
        )

    def adaptor(self, models: Models) -> Adaptor | None:
        """Return the adaptor of the generalist."""
        generalist = self.generalist
        return generalist.adaptor if isinstance(generalist, ModelTeacher) else get_adaptor(models, generalist.name)


def generalist_of(teacher: Any) -> Teacher:
    """Return the teacher to copy; for a cached teacher, the teacher behind the cache."""
    instance = as_teacher(teacher)
    return instance.inner if isinstance(instance, CachedTeacher) and instance.inner is not None else instance


def _network(teacher: Any) -> tuple[ModelTeacher | TeacherRef, Preprocess | None]:
    """Check that the generalist is a single network; return it with its preprocessing."""
    generalist = generalist_of(teacher)
    if not isinstance(generalist, (ModelTeacher, TeacherRef)):
        raise LimbeckError(
            f"Specialists start as copies of their generalist, and {type(generalist).__name__} is not a single "
            "network. Pass one module, or combine your own models with Specialists(generalist, members, groups)."
        )
    return generalist, generalist.preprocess


def _name(number: int) -> str:
    return f"specialist-{number}"
