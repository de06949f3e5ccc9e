"""`TrainConfig`: the settings that a run keeps fixed."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from limbeck.data import Loader
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.model_call import Adaptor
from limbeck.optional_imports import stand_in_for
from limbeck.recipe import Optimizer, Stage
from limbeck.recipe.optimizer import check_optimizer
from limbeck.teachers import Preprocess, read_inputs

if TYPE_CHECKING:
    from lightning_fabric import Fabric
else:
    Fabric = Any  # its import takes two seconds; with this, type hints can be read without it


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a run for all its stages; a stage's own settings take precedence.

    Attributes:
        optimizer: The optimizer.
        epochs: Number of passes over the data for stages without a length of their own; an alternative to `steps`.
        steps: Number of optimizer steps for stages without a length of their own.
        accumulate: Micro-batches per optimizer step; the mean is over all of them.
        preprocess: Function from a batch to inputs, for every model without its own.
        adaptor: Raw output -> logits, or a dict with ``logits``, for the run's own models (those that learn, those
            that the recipe makes, averages of them), or by a model's name. A teacher from outside has its own:
            ``ModelTeacher(model, adaptor=...)``.
        seed: Seed of all random numbers of the run.
        log_every: Optimizer steps between reports.
        checkpoint_seconds: Minimum time between checkpoints, in seconds; 0 writes one at every step.
        parameter_norms: Whether reports have gradient norms at the parameters too (each costs about the time of 1.8
            steps).
        workers: Number of processes for the branches of ``a | b``; None means one per core.
        precision: Fabric's name: ``32-true``, ``bf16-mixed``, ...
        fuse_output_layer: Whether losses of the logits are computed with the output layer, from its input, a few rows
            at a time, so that the logits of a batch are never held. The result is the same up to rounding. ``"auto"``
            does so where it is possible and the student has 8,192 classes or more, as language models have; True
            raises an error where it is not possible; False always computes the logits.
        rehearsal: Whether every stage takes only a first step and, if it would reach the end of an epoch, one step on
            as many examples as the last batch of an epoch has.
    """

    optimizer: Optimizer = field(default_factory=Optimizer)
    epochs: int | None = None
    steps: int | None = None
    accumulate: int = 1
    preprocess: Preprocess = read_inputs
    adaptor: Adaptor | Mapping[str, Adaptor] | None = None
    seed: int = 0
    log_every: int = 50
    checkpoint_seconds: float = 30.0
    parameter_norms: bool = False
    workers: int | None = None
    precision: str = "32-true"
    fuse_output_layer: bool | str = "auto"
    rehearsal: bool = False

    def __post_init__(self) -> None:
        counts = {
            "accumulate": self.accumulate,
            "log_every": self.log_every,
            "epochs": self.epochs,
            "steps": self.steps,
        }
        for name, value in {**counts, "workers": self.workers}.items():
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise LimbeckError(f"{name} must be a whole number of at least 1; got {value!r}.")
        if self.epochs is not None and self.steps is not None:
            raise LimbeckError(f"Give epochs or steps, not both (epochs={self.epochs}, steps={self.steps}).")
        if self.fuse_output_layer not in (True, False, "auto"):
            raise ArgumentError(
                f'fuse_output_layer is True, False or "auto"; got {self.fuse_output_layer!r}.',
                argument="fuse_output_layer",
            )
        check_optimizer(self.optimizer)
        adaptors = self.adaptor or {}
        for adaptor in adaptors.values() if isinstance(adaptors, Mapping) else [adaptors]:
            if not callable(adaptor):
                raise LimbeckError(
                    "adaptor is a function of a model's output that returns its logits, or a mapping of such functions "
                    f"by the models' names; got {adaptor!r}. Type adaptor=lambda output: ..."
                )
        if not self.checkpoint_seconds >= 0:
            raise LimbeckError(f"checkpoint_seconds must be at least 0; got {self.checkpoint_seconds}.")

    def length(self, stage: Stage, loader: Loader) -> int:
        """The number of optimizer steps of `stage` on `loader`; an epoch's last step may have fewer micro-batches.

        Raises:
            LimbeckError: If neither the stage nor the run has a length.
        """
        if stage.steps is not None:
            return stage.steps
        epochs = stage.epochs if stage.epochs is not None else self.epochs
        if epochs is not None and not loader.has_length:
            raise LimbeckError(
                f"epochs={epochs} does not say how long the stage lasts, because an epoch of {loader.type_name} has no "
                "fixed number of batches; use steps=..."
            )
        if epochs is not None:
            return epochs * math.ceil(len(loader) / self.accumulate)
        if self.steps is not None:
            return self.steps
        raise LimbeckError(
            "How long should the stage last? Give it epochs=... or steps=..., or give them to distill()."
        )

    def describe(self) -> dict[str, Any]:
        """A JSON form of the settings, for reports."""
        names = ("epochs", "steps", "accumulate", "seed", "precision")
        return {"optimizer": self.optimizer.describe(), **{name: getattr(self, name) for name in names}}


def check_lengths(stages: Sequence[Stage]) -> Stage:
    """The stage of a group that has a length; the first if none has."""
    timed = [stage for stage in stages if stage.epochs is not None or stage.steps is not None]
    if not stages:
        raise LimbeckError("A group of stages needs at least one stage.")
    return timed[0] if timed else stages[0]


def open_fabric(
    *, precision: str = "32-true", devices: int | str = "auto", strategy: str = "auto", accelerator: str = "auto"
) -> Fabric:
    """Lightning Fabric for one device or many, launched.

    Raises:
        LimbeckError: If Fabric refuses the combination; its own words are kept.
    """
    fabric = _fabric(precision, devices, strategy, accelerator)
    fabric.launch()
    return fabric


def is_first_rank(*, devices: int | str = "auto", strategy: str = "auto") -> bool:
    """Whether this process is the first of a run on this number of devices, also before the launch.

    A run on one device is always first, whatever its number in a scheduler: `srun -n 8` starts eight separate runs.

    Raises:
        LimbeckError: If Fabric refuses the combination; its own words are kept.
    """
    if _is_alone(devices, strategy):
        return True
    import_fabric()
    from lightning_fabric.strategies import ParallelStrategy

    parallel = _fabric("32-true", devices, strategy, "auto").strategy
    if not isinstance(parallel, ParallelStrategy) or parallel.cluster_environment is None:
        return True
    cluster = parallel.cluster_environment
    # Before the launch, Fabric's own environment knows only the local rank; a scheduler's knows the global one.
    return cluster.global_rank() == cluster.node_rank() == cluster.local_rank() == 0


def _is_alone(devices: int | str, strategy: str) -> bool:
    """Whether a run has one process: unless asked for more, "auto" means one CPU or GPU, not all GPUs."""
    return strategy == "auto" and str(devices) in ("auto", "1")


def import_fabric() -> None:
    """Import Lightning Fabric, without torchmetrics: Fabric would import all of it to compare its version.

    That takes as long as all else that training imports, where matplotlib, SciPy and transformers are installed too.
    """
    if "lightning_fabric" in sys.modules:  # another thread may be importing torchmetrics
        return
    with stand_in_for("torchmetrics"):
        import lightning_fabric  # noqa: F401


def _fabric(precision: str, devices: int | str, strategy: str, accelerator: str) -> Fabric:
    import_fabric()
    from lightning_fabric import Fabric as LightningFabric
    from lightning_fabric.plugins.environments import LightningEnvironment

    options: Any = {"precision": precision, "devices": devices, "strategy": strategy, "accelerator": accelerator}
    alone = _is_alone(devices, strategy)
    if alone:
        options["devices"] = 1
    try:
        # Without its own environment Fabric would refuse some of a scheduler's variables, which are not about this run.
        return LightningFabric(**options, plugins=[LightningEnvironment()] if alone else None)
    except (ValueError, RuntimeError, TypeError) as error:
        raise LimbeckError(f"This machine cannot run {options}: {error}") from error
