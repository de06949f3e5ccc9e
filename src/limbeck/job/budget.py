"""Budgets: how long an arm trains, and its number of steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from limbeck.consent import may_run
from limbeck.data import BatchMix, Chain, RandomShift, Transform, make_mix, make_transform
from limbeck.errors import LimbeckError, UnknownNameError, unknown_name_error
from limbeck.job.cli_hints import flag_hint
from limbeck.models import UserFile
from limbeck.recipe import Optimizer
from limbeck.recipe.optimizer import OPTIMIZERS


def describe_arm_budgets(
    budgets: Mapping[str, Mapping[str, Any]], rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:  # fmt: skip
    """What each arm of a result has in place of the job's budget, in words; a shuffled teacher's is the first method's.

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
        own = budgets.get(str(first) if name == "shuffled teacher" else name) or {}
        settings = [f"{key} {own[key]:.4g}" for key in ("epochs", "lr", "smoothing") if own.get(key) is not None]
        if settings:
            described[name] = ", ".join(settings)
    return described


def format_steps(rows: Mapping[str, Mapping[str, Any]]) -> str | None:
    """For how many optimizer steps the arms learnt: one number, or one for each arm; None where it was not kept.

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
    """What knows its keys, and refuses any other."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Budget(Strict):
    """For how long a model learns, and how.

    Attributes:
        epochs: Passes over the training data.
        batch_size: Examples to one micro-batch, on all devices together.
        accumulate: Micro-batches to one optimizer step.
        drop_last: Leave out the last batch of an epoch where it holds fewer examples: for models that cannot train on
            so few, such as one with BatchNorm on a single example.
        shift: Pixels by which images are moved at random, another way in every epoch; 0 leaves them alone.
        augment: Further augmentations, after the shift: a name (``crop``, ``flip``, ``jitter``, ``cut_out``,
            ``rand_augment``, ``resized_crop``), ``{name: options}``, or a list of these.
        mix: What mixes each image with another of the set: ``mixup``, ``cut_mix``, or ``{name: options}``. A mixture
            has no label, so it is for the arm that is distilled; what learns labels sees the same views unmixed.
        optimizer: ``adamw``, ``adam``, ``sgd`` or ``rmsprop``.
        lr: The peak learning rate.
        warmup: A fraction of the whole (below 1) or a number of steps.
        decay: ``cosine``, ``linear`` or ``constant``.
        clip: The greatest norm of the whole gradient.
        options: Further arguments of the optimizer, such as ``weight_decay`` or ``momentum``.
    """

    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=128, ge=1)
    accumulate: int = Field(default=1, ge=1)
    drop_last: bool = False
    shift: int = Field(default=0, ge=0)
    augment: str | dict[str, Any] | list[Any] | None = None
    mix: str | dict[str, Any] | None = None
    optimizer: str = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    warmup: float = Field(default=0.05, ge=0)
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    clip: float | None = Field(default=None, gt=0)
    options: dict[str, Any] = {}

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
        """Whether examples are shown in other ways in every epoch."""
        return bool(self.shift) or self.augment is not None or self.mix is not None

    def make_transform(self, *, seed: int) -> Transform | None:
        """What makes a view of an example, with this seed; None where nothing does.

        Raises:
            LimbeckError: If a name or an option is unknown, or a value makes no sense.
        """
        shift: list[Transform] = [RandomShift(self.shift, seed=seed)] if self.shift else []
        further = [] if self.augment is None else [make_transform(self.augment, seed=seed)]
        return Chain(*shift, *further) if shift and further else next(iter(shift + further), None)

    def make_mix(self, *, seed: int) -> BatchMix | None:
        """What mixes two examples, with this seed; None where nothing does.

        Raises:
            LimbeckError: If the name or an option is unknown, or a value makes no sense.
        """
        return None if self.mix is None else make_mix(self.mix, seed=seed)


class ArmBudget(Strict):
    """What one arm has of its own in place of the job's budget, such as `limbeck tune` finds for it.

    Attributes:
        epochs: Passes over the training data.
        lr: The peak learning rate.
        smoothing: Of the labels of the arm "label smoothing"; as soft as the teacher's answers by default.
    """

    epochs: int | None = Field(default=None, ge=1)
    lr: float | None = Field(default=None, gt=0)
    smoothing: float | None = Field(default=None, ge=0, le=1)

    def of(self, budget: Budget) -> Budget:
        """The budget with what is given here in it."""
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
    """Refuse augmentations that are unknown, or whose options make no sense; `place` is where the budget stands.

    Raises:
        LimbeckError: With the flag to type.
    """
    for key, making in (("augment", budget.make_transform), ("mix", budget.make_mix)):
        if key == "augment" and not all(map(may_run, _own_files(budget.augment))):
            continue  # a command that only reads a job opens no file that it names, and needs none
        try:
            making(seed=0)
        except LimbeckError as error:
            kind = UnknownNameError if isinstance(error, UnknownNameError) else LimbeckError
            raise kind(f"{place}.{key}: {error} {flag_hint(place, key)}") from error
