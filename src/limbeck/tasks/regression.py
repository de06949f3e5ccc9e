"""The task regression: one or several numbers for each example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.data import Dataset
from limbeck.errors import DataError, LimbeckError
from limbeck.functional import squared_error, target_squared_error
from limbeck.losses import Loss
from limbeck.metrics.classification import evaluate
from limbeck.metrics.metric import MetricFunction
from limbeck.metrics.regression import REGRESSION_METRICS, Estimates
from limbeck.model_call import logits_of
from limbeck.tasks.task import Score, Task


@final
@dataclass(frozen=True)
class Regression(Task):
    """Numbers for each example: targets ``[n, outputs]`` in floating point; NaN means unknown.

    Models learn standardized targets, ``(y - mean) / std`` of each column over the training data, so that the same
    learning rates serve targets of any unit. Stored outputs, metrics and exports are in the unit of the targets. The
    loss is the squared error, to the targets and to the teacher: it is the KL divergence, up to a factor, of normal
    distributions with equal variance. The primary metric is R², which has no unit and can be averaged over columns.

    Attributes:
        standardize: Whether models learn standardized targets. A teacher that was trained elsewhere on the targets as
            they are needs False.
        names: The names of the target columns.
        mean: The mean of each column over the training data; empty before `fit`.
        std: The standard deviation of each column; empty before `fit`.

    Example:
        >>> task = Regression(mean=(10.0,), std=(2.0,))
        >>> task.keep(torch.tensor([[0.0], [1.0]])).tolist()
        [[10.0], [12.0]]
    """

    standardize: bool = True
    names: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    name: ClassVar[str] = "regression"
    title: ClassVar[str] = "Regression"
    primary: ClassVar[Score] = Score("r2", "R²", chance=0.0)
    headline = ("r2", "rmse", "mse_to_teacher")
    metrics: ClassVar[Mapping[str, MetricFunction]] = {
        name: one for name, one in REGRESSION_METRICS.items() if name != "gaussian_nll"
    }
    output_title: ClassVar[str] = "target columns"
    no_smoothing: ClassVar[str | None] = "targets are numbers, not classes"
    has_temperature: ClassVar[bool] = False

    @property
    def outputs(self) -> int:
        """The number of target columns."""
        if not self.mean:
            raise LimbeckError("This task is not fitted to data yet. Type Regression().fit(train).")
        return len(self.mean)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the target columns."""
        return self.names

    def describe(self) -> str:
        """The number of target columns and their names."""
        names = self.names[:6] if len(self.names) <= 6 else ()
        columns = "1 target column" if self.outputs == 1 else f"{self.outputs} target columns"
        return columns + (f" ({', '.join(names)})" if names else "")

    def fit(self, train: Dataset, names: Sequence[str] | None = None) -> Regression:
        """Return the task with the mean and standard deviation of each column over the training data."""
        targets = _targets_of(train, "training").double()
        if names and len(names) != targets.shape[1]:
            raise DataError(f"There are {len(names)} names of targets, but targets of shape {list(targets.shape)}.")
        mean, std = [], []
        for i, column in enumerate(targets.unbind(1)):
            known = column[~column.isnan()]
            # Sums in float64 of values that float32 holds are finite, so this is the only way to an infinite mean.
            if bool(known.isinf().any()):
                raise _infinite_target_error(targets, "training")
            if len(known) < 2 or float(known.std()) == 0.0:
                what = "is constant" if len(known) else "has no values"
                raise DataError(f"Target column {names[i] if names else i} of the training data {what}.")
            mean.append(float(known.mean()) if self.standardize else 0.0)
            std.append(float(known.std(unbiased=False)) if self.standardize else 1.0)
        return replace(self, names=tuple(names or ()), mean=tuple(mean), std=tuple(std))

    def check(self, examples: Dataset, part: str) -> int:
        """Check that there are as many target columns as in the training data, without infinite values."""
        targets = _targets_of(examples, part)
        if targets.shape[1] != self.outputs:
            raise DataError(f"The {part} data have {targets.shape[1]} targets a row, the training data {self.outputs}.")
        if bool(targets.isinf().any()):
            raise _infinite_target_error(targets, part)
        return int((~targets.isnan()).any(1).sum())

    def stored_targets(self, examples: Dataset) -> Tensor:
        """The targets in their own unit, float32."""
        return _targets_of(examples, "data")

    def supervised_loss(self) -> Loss:
        """The squared error to the standardized targets, one value for each known target."""
        if not self.standardize or not self.mean:
            return Loss(target_squared_error)
        return Loss(target_squared_error, mean=self.mean, std=self.std)

    def distillation_loss(self, *, temperature: float = 1.0) -> Loss:
        """The squared error to the outputs of the teacher. The temperature has no effect."""
        return Loss(squared_error)

    def keep(self, logits: Tensor) -> Tensor:
        """The estimates in the unit of the targets, float32 ``[n, outputs]``."""
        outputs = logits.detach().double().cpu()
        outputs = outputs.unsqueeze(1) if outputs.ndim == 1 else outputs
        if outputs.ndim != 2:
            raise DataError(f"A regression model has outputs [batch, outputs]; got {list(outputs.shape)}.")
        if self.mean:
            outputs = outputs * torch.tensor(self.std).double() + torch.tensor(self.mean).double()
        return outputs.float()

    def in_batch(self, batch: Batch) -> Tensor | None:
        """The targets of a batch, with a column for a single target; None if it has none."""
        targets = super().in_batch(batch)
        return targets.unsqueeze(1) if targets is not None and targets.ndim == 1 else targets

    def without_scale(self) -> Regression:
        """The task for a model that `with_scale` has changed: its outputs are in the unit of the targets."""
        return replace(self, mean=(0.0,) * len(self.mean), std=(1.0,) * len(self.std))

    def with_scale(self, model: nn.Module) -> nn.Module:
        """The model followed by ``outputs * std + mean``: its outputs are in the unit of the targets."""
        return _Rescaled(model, torch.tensor(self.mean), torch.tensor(self.std))

    def measure(self, outputs: Tensor, targets: Tensor | None, teacher: Tensor | None = None) -> dict[str, float]:
        """Compute R², RMSE, MSE, MAE, and the squared difference from the teacher."""
        there = {"targets": targets is not None, "teacher": teacher is not None}
        names = [name for name, one in self.metrics.items() if all(there[need] for need in one.requires)]
        estimates = Estimates(outputs, teacher, targets)
        return {name: metric.value for name, metric in evaluate(estimates, names).items()}

    def scores(self, outputs: Tensor, targets: Tensor) -> Shaped[np.ndarray, " examples"]:
        """1 minus the squared error over the variance, for each example with a known target: their mean is R²."""
        known = ~targets.isnan()
        rows = known.any(1)
        y, error = targets[rows].double(), (outputs - targets)[rows].double().square()
        parts = []
        for j in range(y.shape[1]):
            there = known[rows, j]
            if not bool(there.any()):
                continue
            variance = float((y[there, j] - y[there, j].mean()).square().mean())
            if variance == 0.0:
                perfect = float(bool((error[there, j] == 0).all()))
                parts.append(torch.full((len(y),), perfect, dtype=torch.float64))
                continue
            scaled = error[:, j].masked_fill(~there, 0.0) * (len(y) / int(there.sum()) / variance)
            parts.append(1 - scaled)
        return np.asarray(torch.stack(parts).mean(0).numpy()) if parts else np.empty(0)


def _infinite_target_error(targets: Tensor, part: str) -> DataError:
    row = int(targets.isinf().any(1).nonzero()[0])
    return DataError(
        f"Row {row} of the {part} data has an infinite target, or one above {torch.finfo(torch.float32).max:.2g}; "
        "unknown targets are NaN."
    )


class _Rescaled(nn.Module):
    def __init__(self, model: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """The outputs of the model in the unit of the targets."""
        outputs = logits_of(self.model(*inputs, **named))
        return outputs * self.get_buffer("std").to(outputs) + self.get_buffer("mean").to(outputs)


def _targets_of(examples: Dataset, part: str) -> Tensor:
    targets = examples.targets
    if targets is None:
        raise DataError(f"The {part} data have no targets: regression needs a number for each example.")
    targets = targets.cpu()
    targets = targets.unsqueeze(1) if targets.ndim == 1 else targets
    if targets.ndim != 2 or not targets.shape[1]:
        raise DataError(f"Targets of regression have the shape [examples, columns]; got {list(targets.shape)}.")
    return targets.float()
