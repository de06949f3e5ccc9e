"""How does one student learn from a generalist and specialists for what it confuses?"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from limbeck.batch import LOGITS
from limbeck.errors import ArgumentError, LimbeckError, LimbeckWarning
from limbeck.functional.specialist_pooling import MEANS
from limbeck.methods.logits.hinton import CARD as HINTON
from limbeck.methods.logits.hinton import hinton
from limbeck.methods.support import check_count, check_weight
from limbeck.methods.teachers.groups import confusion_groups
from limbeck.methods.teachers.specialist_training import combined, generalist_of, training
from limbeck.recipe import Models, Optimizer, Recipe, RunContext, run_context
from limbeck.teachers import Groups, Teacher, check_groups

CARD = replace(
    HINTON,
    name="specialists",
    claim="Copies of the teacher become specialists for classes that it confuses; all together teach the student.",
    when="Where there are many classes and a single big model is the best there is: specialists train apart, each on a "
    "small part of the data. Compare with the generalist trained on for as many steps, and with an ensemble of equal "
    "cost. Few classes leave little to specialize in.",
)


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
    r"""Group the classes that the generalist confuses, train a specialist for each, distil all into the student.

    1. `confusion_groups` of the run's data; no labels are read.
    2. ``specialist-1 | specialist-2 | ...``, in processes where cores allow: each begins as the generalist and learns,
       from data of which one half are of its own classes :math:`S^m`, the cross-entropy over :math:`S^m` and a dustbin.
    3. `hinton`, with `Specialists` for its teacher, each dustbin's logit corrected for the oversampling.

    To stop before 3, and for the combined teacher alone, see `limbeck.methods.teachers.specialist_training`.

    Args:
        teacher: The generalist: one network.
        clusters: How many specialists; see `confusion_groups` for what is chosen by default.
        size: How many classes each knows, m in the paper.
        groups: The groups, where you know them: class indices or names. `clusters` and `size` are then left out.
        cover: Whether each class must be in a group; otherwise the generalist answers for those in none, and a warning
            says which these are. `groups` of your own must then hold each class themselves.
        active: How many of the generalist's first guesses are looked at for specialists to ask; n in the paper.
        mean: Which way round the divergences go that the combined answer minimizes; see `Specialists`.
        soft: The weight, in a specialist's objective, of the generalist's soft targets for the classes that are not
            special; the paper's remedy for overfitting. 0 leaves them out.
        optimizer: How the specialists learn; the run's by default. They begin from trained weights, so a lower learning
            rate may be right. A mapping holds the fields of `Optimizer`.
        specialist_epochs: Passes of each specialist over its own data; by default as many as `epochs`.
        temperature: T of the last stage, above 0.
        weight: w of the last stage, from 0 to 1.
        labels: Whether the last stage reads labels. Specialists read them where there are any, and take the
            generalist's first guess for the rest.
        epochs: Passes over the data; the run's budget by default.

    Raises:
        LimbeckError: If an argument is out of its range, or `groups` stands beside `clusters` or `size`; once the run
            has data, if groups cannot be made as asked, the teacher is no single network, or the data are no set of
            examples.

    Source: Hinton, Vinyals and Dean, 2015, arXiv:1503.02531, section 5.
    """
    check_count(active=active)
    check_weight(soft=soft)
    if mean not in MEANS:
        raise ArgumentError(f"mean is one of {' and '.join(MEANS)}; got {mean!r}.", argument="mean")
    if groups is not None and (clusters is not None or size is not None):
        raise LimbeckError(
            "groups= says which classes belong together; clusters= and size= are for when it is not given."
        )
    final = hinton(teacher, temperature=temperature, weight=weight, labels=labels, epochs=epochs)
    plan = _Plan(
        generalist_of(teacher), groups, (clusters, size), cover, soft, _optimizer(optimizer),
        epochs if specialist_epochs is None else specialist_epochs, {"active": active, "mean": mean}, final,
    )  # fmt: skip
    return Recipe(plan)


@dataclass(frozen=True)
class _Plan:
    """The whole recipe, once there are models and data to make it of."""

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
        """Training, and the student's lessons after it."""
        ours = run_context(models)
        self.generalist.bind(models)
        groups = self._make_groups(ours)
        apart = training(
            self.generalist, groups, ours.loader, context=ours, soft=self.soft, optimizer=self.optimizer,
            epochs=self.epochs,
        )  # fmt: skip
        together = combined(self.generalist, groups, ours.loader, context=ours, **self.pooling)
        lessons = [replace(stage, teacher=together, name="distilling specialists") for stage in self.final.stages()]
        return Recipe(*apart.parts, *lessons, makes=apart.makes)

    def describe(self) -> dict[str, Any]:
        """What it will make, as far as that is known: a run of another plan does not take this one's folder up."""
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

    def _make_groups(self, ours: RunContext) -> Groups:
        if self.groups is None:
            clusters, size = self.cluster_sizes
            groups = confusion_groups(
                self.generalist, ours.loader, clusters=clusters, size=size, cover=self.cover,
                preprocess=ours.preprocess,
                device=ours.device,
            )  # fmt: skip
        with self.generalist.prepare(frozenset({LOGITS}), device=ours.device, preprocess=ours.preprocess) as answer:
            classes = answer(ours.loader.peek().to(ours.device))[LOGITS].shape[-1]
        names = getattr(getattr(ours.loader, "examples", None), "class_names", None)
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
        message = f"In no specialist's group: {len(missing)} of {classes} classes ({which})"
        if self.cover:
            raise LimbeckError(f"{message}; cover=True wants every class in one, so add them.")
        then = "cover=True" if self.groups is None else "add them to groups"
        sentence = f"{message}; the generalist answers for them. To have each class in one: {then}."
        warnings.warn(sentence, LimbeckWarning, stacklevel=2)


def _optimizer(value: Any) -> Optimizer | None:
    if not isinstance(value, Mapping):
        return value
    try:
        return Optimizer(**value)
    except (TypeError, LimbeckError) as error:
        # An argument of the optimizer, such as lr, is no argument of the method.
        reason = str(error).rstrip(".")
        raise ArgumentError(f"optimizer={dict(value)!r} is no optimizer: {reason}.", argument="optimizer") from error
