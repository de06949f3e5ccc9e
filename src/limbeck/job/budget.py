"""Budgets: how long an arm trains, and its number of steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from limbeck.consent import may_run
from limbeck.data import BatchMix, Chain, RandomShift, Transform, make_mix, make_transform
from limbeck.errors import LimbeckError, UnknownNameError, unknown_name_error
from limbeck.job.run_layout import LIKE_FIRST_METHOD
from limbeck.job.validation import flag_hint
from limbeck.models import UserFile
from limbeck.recipe import Optimizer
from limbeck.recipe.optimizer import OPTIMIZERS


def describe_arm_budgets(
    budgets: Mapping[str, Mapping[str, Any]], rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:  # fmt: skip
    """Describe the settings of each arm that differ from the job's budget; controls have the first method's.

    Args:
        budgets: The job's `budgets`, as a mapping.
        rows: The result's arms.

    Example:
        >>> describe_arm_budgets({"student alone": {"lr": 0.003, "epochs": 12}}, {"student alone": {"role": "control"}})
        {'student alone': 'epochs 12, lr 0.003'}
    """
    first = next((name for name, row in rows.items() if row.get("role") == "method"), None)
    described = {}
    for name in rows:
        own = budgets.get(str(first) if name in LIKE_FIRST_METHOD else name) or {}
        settings = [f"{key} {own[key]:.4g}" for key in ("epochs", "lr", "smoothing") if own.get(key) is not None]
        settings += [f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                     for key, value in (own.get("student") or {}).items()]  # fmt: skip
        if settings:
            described[name] = ", ".join(settings)
    return described


def format_steps(rows: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The number of optimizer steps: one number, or one for each arm; None if no arm has a number.

    Example:
        >>> format_steps({"student alone": {"steps": 300}, "hinton": {"steps": 1200}})
        'student alone 300; hinton 1,200'
    """
    steps = {name: row["steps"] for name, row in rows.items() if isinstance(row.get("steps"), int)}
    if not steps:
        return None
    if len(set(steps.values())) == 1:
        return f"{next(iter(steps.values())):,} for every arm"
    return "; ".join(f"{name} {count:,}" for name, count in steps.items())


class Strict(BaseModel):
    """A pydantic model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Budget(Strict):
    """Length of the training, batches, augmentation and optimizer.

    Attributes:
        epochs: Passes over the training data.
        batch_size: Examples to one micro-batch, on all devices together.
        accumulate: Micro-batches in one optimizer step.
        drop_last: Skip the last batch of an epoch if it is smaller than the others: for models that cannot train on
            few examples, such as one with BatchNorm on a single example.
        examples_per_class: Each batch has this many examples of each of its classes, which are drawn evenly: for losses
            that compare examples. None draws examples at random. `batch_size` is a multiple of it.
        superclasses: With `examples_per_class`, the group of each class, in the order of the classes: a batch then has
            so many examples of each of its groups.
        shift: Images are moved at random by up to this many pixels, differently in each epoch; 0 turns it off.
        augment: Further augmentations, after the shift: a name (``crop``, ``flip``, ``jitter``, ``cut_out``,
            ``rand_augment``, ``resized_crop``), ``{name: options}``, or a list of these.
        mix: How pairs of images are mixed: ``mixup``, ``cut_mix``, or ``{name: options}``. A mixture has no label, so
            only distilled arms train on mixtures; arms that train on labels get the same images unmixed.
        optimizer: ``adamw``, ``adam``, ``sgd`` or ``rmsprop``.
        lr: The peak learning rate.
        warmup: A fraction of all steps (below 1) or a number of steps.
        decay: ``cosine``, ``linear`` or ``constant``.
        clip: The largest norm of the gradient of all parameters.
        options: Further arguments of the optimizer, such as ``weight_decay`` or ``momentum``.
    """

    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=128, ge=1)
    accumulate: int = Field(default=1, ge=1)
    drop_last: bool = False
    examples_per_class: int | None = Field(default=None, ge=1)
    superclasses: list[int] | None = None
    shift: int = Field(default=0, ge=0)
    augment: str | dict[str, Any] | list[Any] | None = None
    mix: str | dict[str, Any] | None = None
    optimizer: str = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    warmup: float = Field(default=0.05, ge=0)
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    clip: float | None = Field(default=None, gt=0)
    options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check_batches(self) -> Budget:
        each = self.examples_per_class
        if each is None and self.superclasses is not None:
            raise ValueError("superclasses need examples_per_class, such as examples_per_class=4")
        if each is not None and self.batch_size % each:
            raise ValueError(
                f"batch_size={self.batch_size} is no multiple of examples_per_class={each}; choose "
                f"{max(self.batch_size // each, 1) * each}, for example"
            )
        return self

    def make_optimizer(self) -> Optimizer:
        """The optimizer of this budget.

        Raises:
            LimbeckError: If its name or an option is unknown.
        """
        if self.optimizer not in OPTIMIZERS:
            raise unknown_name_error("optimizer", self.optimizer, OPTIMIZERS, argument="optimizer")
        whole = int(self.warmup) if self.warmup >= 1 and self.warmup.is_integer() else self.warmup
        return Optimizer(
            self.optimizer, lr=self.lr, warmup=whole, decay=self.decay, clip=self.clip, options=self.options
        )

    @property
    def has_views(self) -> bool:
        """Whether the inputs differ between epochs."""
        return bool(self.shift) or self.augment is not None or self.mix is not None

    def make_transform(self, *, seed: int) -> Transform | None:
        """The transform of this budget with this seed; None if there is none.

        Raises:
            LimbeckError: If a name or an option is unknown, or a value is out of range.
        """
        shift: list[Transform] = [RandomShift(self.shift, seed=seed)] if self.shift else []
        further = [] if self.augment is None else [make_transform(self.augment, seed=seed)]
        return Chain(*shift, *further) if shift and further else next(iter(shift + further), None)

    def make_mix(self, *, seed: int) -> BatchMix | None:
        """The mix of this budget with this seed; None if there is none.

        Raises:
            LimbeckError: If the name or an option is unknown, or a value is out of range.
        """
        return None if self.mix is None else make_mix(self.mix, seed=seed)


class ArmBudget(Strict):
    """Settings of one arm that replace those of the job's budget, such as `limbeck tune` writes.

    Attributes:
        epochs: Passes over the training data.
        lr: The peak learning rate.
        smoothing: The label smoothing of the arm "label smoothing"; by default it matches the teacher's softness.
        student: Arguments of an estimator that is the student, in place of the job's: ``{max_depth: 4}``.
    """

    epochs: int | None = Field(default=None, ge=1)
    lr: float | None = Field(default=None, gt=0)
    smoothing: float | None = Field(default=None, ge=0, le=1)
    student: dict[str, Any] | None = None

    def apply_to(self, budget: Budget) -> Budget:
        """The budget with these settings."""
        values = self.model_dump(include={"epochs", "lr"}, exclude_none=True)
        return budget.model_copy(update=values)


def _own_files(augment: Any) -> list[Path]:
    """The Python files that augmentations come from."""
    several = augment if isinstance(augment, list) else [augment]
    names = [
        name for one in several for name in ([one] if isinstance(one, str) else one if isinstance(one, dict) else ())
    ]
    return [own.file for name in names if isinstance(name, str) and (own := UserFile.parse(name)) is not None]


def check_views(budget: Budget, place: str) -> None:
    """Check the augmentation and the mix of a budget; `place` is the key of the budget in the job.

    Raises:
        LimbeckError: If a name or an option is unknown or out of range; the message has the flag to type.
    """
    for key, making in (("augment", budget.make_transform), ("mix", budget.make_mix)):
        if key == "augment" and not all(map(may_run, _own_files(budget.augment))):
            continue  # the user has not agreed to run this file: a command that only reads a job must not import it
        try:
            making(seed=0)
        except LimbeckError as error:
            kind = UnknownNameError if isinstance(error, UnknownNameError) else LimbeckError
            raise kind(f"{place}.{key}: {error} {flag_hint(place, key)}") from error
