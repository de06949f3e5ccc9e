"""Specialists: copies of a generalist learn the classes that it confuses; together they teach the student."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from limbeck.batch import LOGITS
from limbeck.errors import ArgumentError, LimbeckError, LimbeckWarning
from limbeck.functional import KernelClaim
from limbeck.functional.specialist_pooling import MEANS
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.logits.hinton import CARD as HINTON
from limbeck.methods.logits.hinton import hinton
from limbeck.methods.support import check_count, check_weight
from limbeck.methods.teachers.groups import confusion_groups
from limbeck.methods.teachers.specialist_training import (
    combined,
    dustbin_cross_entropy,
    generalist_of,
    rest_kl,
    training,
)
from limbeck.recipe import Models, Optimizer, Recipe, RunContext, run_context
from limbeck.teachers import Groups, Teacher, TeacherContext, check_groups

CARD = replace(
    HINTON,
    name="specialists",
    claim="Copies of the teacher become specialists for classes that it confuses; all together teach the student.",
    when="For many classes, where an ensemble of large models is too expensive. Each specialist trains separately on a "
    "small part of the data. Compare with the generalist trained for as many additional steps and with an ensemble "
    "of equal cost. With few classes there is little to gain.",
    needs="a teacher that is one network, and many classes",
    example={"groups": [[0, 1], [1, 2]]},
    tasks=("classification",),
    task_reason="each specialist learns some of the classes of a classification",
    kernels=(
        KernelClaim(
            dustbin_cross_entropy, hyper={"special": (1,)}, permutable_classes=False, invariances=("student_shift",)
        ),
        KernelClaim(
            rest_kl,
            hyper={"special": (1,)},
            permutable_classes=False,
            zero_at_equality=True,
            invariances=("student_shift", "teacher_shift"),
        ),
    ),
    keywords=(),
)


@validates_arguments
def specialists(
    teacher: Any,
    *,
    clusters: int | None = None,
    size: int | None = None,
    groups: Sequence[Sequence[int | str]] | None = None,
    cover: bool = False,
    active: int = 1,
    mean: str = "arithmetic",
    soft: float = 0.0,
    optimizer: Optimizer | Mapping[str, Any] | None = None,
    specialist_epochs: int | None = None,
    temperature: float = 4.0,
    weight: float = 0.9,
    labels: bool = True,
    epochs: int | None = None,
) -> Recipe:
    r"""Group the classes that the generalist confuses, train a specialist per group, distil all into the student.

    1. `confusion_groups` of the run's data, without labels.
    2. ``specialist-1 | specialist-2 | ...``, in parallel processes if there are cores. Each starts as a copy of the
       generalist. Half of its data are from its own classes :math:`S^m`. Its loss is the cross-entropy over :math:`S^m`
       and a dustbin.
    3. `hinton` with a `Specialists` teacher, whose dustbin logits are corrected for the oversampling.

    To stop after step 2, or to use the combined teacher without a student, see
    `limbeck.methods.teachers.specialist_training`.

    Args:
        teacher: The generalist, a single network.
        clusters: The number of specialists; see `confusion_groups` for the default.
        size: The number of classes of each specialist, m in the paper.
        groups: Your own groups of class indices or names, instead of `clusters` and `size`.
        cover: Whether each class must be in a group. Otherwise the generalist alone predicts the classes without a
            group, and a warning lists them. With `cover` your own `groups` must contain every class.
        active: The number of the generalist's top classes that select the active specialists, n in the paper.
        mean: The direction of the divergences that the combined distribution minimizes; see `Specialists`.
        soft: The weight, in the loss of a specialist, of the generalist's soft targets for the other classes. The paper
            suggests it against overfitting. 0 drops the term.
        optimizer: The optimizer of the specialists; by default that of the run. Specialists start from trained weights,
            so a lower learning rate may work better. A mapping has the fields of `Optimizer`.
        specialist_epochs: Passes of each specialist over its own data; by default as many as `epochs`.
        temperature: T of the last stage, above 0.
        weight: w of the last stage, from 0 to 1.
        labels: Whether the last stage uses labels. The specialists use labels where they exist, and the top class of
            the generalist elsewhere.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or `groups` is combined with `clusters` or `size`. When the run
            starts: if the groups cannot be made, the teacher is not a single network, or the data are not a set of
                examples.

    Source: Hinton, Vinyals and Dean, 2015, arXiv:1503.02531, section 5.
    """
    check_count(active=active)
    check_weight(soft=soft)
    if mean not in MEANS:
        raise ArgumentError(f"mean is one of {' and '.join(MEANS)}; got {mean!r}.", argument="mean")
    if groups is not None and (clusters is not None or size is not None):
        raise LimbeckError("Pass either groups=, or clusters= and size=, not both.")
    final = hinton(teacher, temperature=temperature, weight=weight, labels=labels, epochs=epochs)
    plan = _Plan(
        generalist_of(teacher), groups, (clusters, size), cover, soft, _optimizer(optimizer),
        epochs if specialist_epochs is None else specialist_epochs, {"active": active, "mean": mean}, final,
    )  # fmt: skip
    return Recipe(plan)


@dataclass(frozen=True)
class _Plan:
    """Makes the recipe when the models and the data of the run are known."""

    generalist: Teacher
    groups: Any
    cluster_sizes: tuple[int | None, int | None]
    cover: bool
    soft: float
    optimizer: Optimizer | None
    epochs: int | None
    pooling: dict[str, Any]
    final: Recipe

    def __call__(self, models: Models) -> Recipe:
        """Make the stages of the specialists and of the student."""
        ours = run_context(models)
        generalist = self.generalist.resolve(models)
        groups = self._make_groups(generalist, ours)
        apart = training(
            generalist, groups, ours.loader, context=ours, soft=self.soft, optimizer=self.optimizer,
            epochs=self.epochs,
        )  # fmt: skip
        together = combined(generalist, groups, ours.loader, context=ours, **self.pooling)
        lessons = [replace(stage, teacher=together, name="distilling specialists") for stage in self.final.stages()]
        return Recipe(*apart.parts, *lessons, makes=apart.makes)

    def describe(self) -> dict[str, Any]:
        """Describe the settings, so that a run with other settings cannot resume from this run's folder."""
        return {
            "function": "specialists",
            "generalist": self.generalist.describe(),
            "groups": None if self.groups is None else [list(group) for group in self.groups],
            "wanted": list(self.cluster_sizes),
            "cover": self.cover,
            "soft": self.soft,
            "optimizer": None if self.optimizer is None else self.optimizer.describe(),
            "epochs": self.epochs,
            "asked": self.pooling,
            "final": [stage.describe() for stage in self.final.stages()],
        }

    def _make_groups(self, generalist: Teacher, ours: RunContext) -> Groups:
        if self.groups is None:
            clusters, size = self.cluster_sizes
            groups = confusion_groups(
                generalist, ours.loader, clusters=clusters, size=size, cover=self.cover,
                preprocess=ours.preprocess,
                device=ours.device,
            )  # fmt: skip
        with generalist.open(TeacherContext(device=ours.device, preprocess=ours.preprocess)) as answer:
            classes = answer(ours.loader.peek().to(ours.device))[LOGITS].shape[-1]
        names = ours.loader.class_names
        if self.groups is not None:
            groups = check_groups(self.groups, classes=classes, class_names=names)
        missing = sorted(set(range(classes)) - set().union(*groups))
        if missing:
            self._warn_of_missing_classes(
                [names[number] if names and len(names) == classes else number for number in missing], classes
            )
        return groups

    def _warn_of_missing_classes(self, missing: list[Any], classes: int) -> None:
        which = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        message = f"{len(missing)} of {classes} classes are in no group of a specialist ({which})"
        if self.cover:
            raise LimbeckError(f"{message}. cover=True needs every class in a group: add them.")
        then = "cover=True" if self.groups is None else "add them to groups"
        sentence = f"{message}. The generalist alone predicts them. To have each class in a group: {then}."
        warnings.warn(sentence, LimbeckWarning, stacklevel=2)


def _optimizer(value: Any) -> Optimizer | None:
    if not isinstance(value, Mapping):
        return value
    try:
        return Optimizer(**value)
    except (TypeError, LimbeckError) as error:
        # Arguments of the optimizer, such as lr, are not arguments of the method.
        reason = str(error).rstrip(".")
        raise ArgumentError(f"optimizer={dict(value)!r} is not valid: {reason}.", argument="optimizer") from error
