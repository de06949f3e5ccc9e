"""`StepReport` and the sums between two reports."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from limbeck.atomic_io import append_text, truncate
from limbeck.batch import Term
from limbeck.checksums import json_line
from limbeck.errors import DivergedError


class Tally:
    """Sums since the last report, kept as tensors so that no step waits for a number."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Clear the sums."""
        self.loss: Tensor | None = None
        self.totals: dict[str, Tensor] = {}
        self.counts: dict[str, float] = {}
        self.squares: dict[str, Tensor] = {}
        self.parameter_gradients: dict[str, Tensor] = {}
        self.examples = 0
        self.steps = 0

    def add(self, loss: Tensor, terms: Mapping[str, Term], examples: int) -> None:
        """Add one micro-batch."""
        self.loss = loss if self.loss is None else self.loss + loss
        for name, term in terms.items():
            self.totals[name] = self.totals[name] + term.total if name in self.totals else term.total
            self.counts[name] = self.counts.get(name, 0.0) + float(term.count)
        self.examples += examples

    def add_gradients(self, outputs: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
        """Add each term's gradients for one micro-batch.

        Micro-batches have different outputs, so squared norms are added; they share the parameters, so gradients are.
        """
        for name, gradient in outputs.items():
            square = gradient.float().square().sum()
            self.squares[name] = self.squares[name] + square if name in self.squares else square
        sums = self.parameter_gradients
        for name, gradient in parameters.items():
            sums[name] = sums[name] + gradient if name in sums else gradient

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, so that a resumed run reports the same as an uninterrupted one."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums of a checkpoint."""
        vars(self).update(state)


class StepReport(NamedTuple):
    """A report about one optimizer step of a stage; means are over the steps since the last report.

    Attributes:
        stage: The stage's name.
        step: Number of optimizer steps so far in this stage.
        steps: Number of optimizer steps of the whole stage.
        epoch: Number of the pass over the data in this stage, from 0.
        loss: The value of the objective.
        terms: The unweighted mean of every term, in the term's unit.
        gradient_norms: The norm of each weighted term's gradient at the student's outputs, at this step. If the logits
            are not computed (`TrainConfig.fuse_output_layer`), it is measured at the input of the output layer.
        parameter_norms: The same at the student's parameters; empty unless requested.
        lr: The learning rate of this step.
        rate: Examples per second since the last report, on all ranks.
        seconds: Time in the stage, in seconds, including the time before a run was resumed.
        part: Position of the stage in the recipe; empty if the recipe has one part. `stage` begins with it.
        title: The stage's name without its position; empty if the recipe has one part, or for parallel branches.
        generation: Figures of texts that a model wrote since the last report, summed over all ranks; empty without
            them (`limbeck.data.RolloutLoader.pop_report`).
    """

    stage: str
    step: int
    steps: int
    epoch: int
    loss: float
    terms: dict[str, float]
    gradient_norms: dict[str, float]
    parameter_norms: dict[str, float]
    lr: float
    rate: float
    seconds: float
    part: str = ""
    title: str = ""
    generation: Mapping[str, float] = {}


class Metrics:
    """A file of JSON lines, one per report; a resumed run continues it after the checkpoint's last line."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @property
    def position(self) -> int:
        """The file's length in bytes, for the checkpoint."""
        return self._path.stat().st_size if self._path is not None and self._path.exists() else 0

    def rewind(self, position: int) -> None:
        """Remove the lines after the checkpoint."""
        if self._path is not None and self.position > position:
            truncate(self._path, position)

    def write(self, report: StepReport) -> None:
        """Append one line."""
        if self._path is None:
            return
        # The stage's full name is in the line already, so its position and title are not repeated.
        line = {key: value for key, value in report._asdict().items() if value != {} and key not in ("part", "title")}
        append_text(json_line(_rounded(line)), self._path)


def environment() -> dict[str, Any]:
    """The environment that a result may depend on: versions, machine, threads."""
    packages = ("limbeck", "torch", "lightning-fabric", "numpy", "scikit-learn")
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {name: number for name in packages if (number := _package_version(name)) is not None},
    }


@cache
def _package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:  # scikit-learn is optional
        return None


def run_summary(models: Sequence[str], history: Sequence[StepReport], *, finished: bool, path: Path | None) -> str:
    """A run in one line: its progress, losses, models and folder."""
    last = history[-1] if history else None
    loss = "" if last is None else f", loss {last.loss:.4g}"
    position = "not begun" if last is None else f"step {last.step} of {last.steps} in stage {last.stage!r}"
    where = "in memory alone" if path is None else f"in {path}"
    return f"Run({'finished' if finished else position}{loss}; models {', '.join(models)}; {where})"


def check_finite(report: StepReport) -> None:
    """Raise if the loss is not finite; the message names the terms that cause it.

    Raises:
        DivergedError: If the loss is infinite or not a number.
    """
    if math.isfinite(report.loss):
        return
    blamed = [name for name, mean in report.terms.items() if not math.isfinite(mean)] or list(report.terms)
    raise DivergedError(
        f"The loss became {report.loss} in stage {report.stage!r} by step {report.step} ({', '.join(blamed)}). "
        "The student on disk is the last good one. Try a lower learning rate, optimizer clip=1.0, or check that the "
        "teacher's logits are finite where the student's are."
    )


def check_weights(name: str, model: nn.Module) -> None:
    """Raise before a model with NaN or infinite weights is written over the last good one.

    Raises:
        DivergedError: If a parameter of the model holds NaN or infinity.
    """
    for path, parameter in model.named_parameters():
        if not is_lazy(parameter) and not bool(torch.isfinite(parameter).all()):
            raise DivergedError(
                f"The model {name!r} is no number any more: {path} holds NaN or infinity. The student on disk is the "
                "last good one. Try a lower learning rate, or optimizer clip=1.0."
            )


def _rounded(line: dict[str, Any]) -> dict[str, Any]:
    return {
        key: (float(f"{value:.8g}") if math.isfinite(value) else None)  # JSON has no infinity
        if isinstance(value, float)
        else _rounded(value)
        if isinstance(value, dict)
        else value
        for key, value in line.items()
    }
