"""The int8 quantization that keeps a student's outputs best."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from limbeck.batch import IGNORED, Inputs
from limbeck.errors import LimbeckError
from limbeck.export.int8 import CALIBRATIONS, Quantizer, make_quantizer
from limbeck.export.onnx_session import count_examples, predict_onnx
from limbeck.metrics import Predictions, kl_to_teacher
from limbeck.metrics.memoize import predicted_class


class QuantizationTrial(NamedTuple):
    """One way to 8 bits, and how it did on held-out examples.

    Attributes:
        method: The calibration: ``minmax``, ``entropy`` or ``percentile``.
        symmetric: Whether zero is in the middle of each activation's range.
        accuracy: On the held-out examples; None where they have no labels, or it failed.
        kl: The mean KL divergence of its answers from the float32 file's, in nats; None where it is no number.
        failed: Why there is no such file, in a sentence; None where there is one.
    """

    method: str
    symmetric: bool
    accuracy: float | None = None
    kl: float | None = None
    failed: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        values: dict[str, Any] = {
            "method": self.method, "symmetric": self.symmetric, "accuracy": self.accuracy, "kl": self.kl,
        }  # fmt: skip
        return values if self.failed is None else {**values, "failed": self.failed}

    def __str__(self) -> str:
        return f"{self.method}, {'symmetric' if self.symmetric else 'not symmetric'}"


class QuantizationChoice(NamedTuple):
    """What was tried, and what was taken.

    Attributes:
        best: The way that the file was written in.
        tried: Every way, in the order in which it was tried.
        calibrated_on: How many training examples the ranges come from.
        judged_on: How many held-out examples decided.
    """

    best: QuantizationTrial
    tried: tuple[QuantizationTrial, ...]
    calibrated_on: int
    judged_on: int

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "calibration": self.best.method, "symmetric": self.best.symmetric, "calibrated_on": self.calibrated_on,
            "judged_on": self.judged_on, "tried": [trial.to_dict() for trial in self.tried],
        }  # fmt: skip


def choose_int8(
    model: str | Path,
    calibration: Inputs,
    held_out: Inputs,
    path: str | Path,
    *,
    labels: Tensor | None = None,
    methods: Sequence[str] = tuple(CALIBRATIONS),
) -> QuantizationChoice:
    """Write an ONNX model in 8 bits in every way, and keep the file that does best on held-out examples.

    Best is the highest accuracy; among those that are as accurate as that, the lowest KL divergence from the float32
    file's answers. As accurate are ways that get n fewer examples right, and of the examples on which the two differ
    are at least n squared: within one standard error of a paired difference, which one lucky example is not beyond.

    Args:
        model: The float32 file that `to_onnx` wrote.
        calibration: Training examples that the ranges of activations are taken from; a few hundred.
        held_out: Examples that are neither those nor test data: development data.
        path: The file to write.
        labels: Of `held_out`; without them the KL divergence decides.
        methods: Which calibrations, of ``minmax``, ``entropy`` and ``percentile``; each is tried symmetric and not.

    Returns:
        What was tried, and the best, which is what `path` holds.

    Raises:
        LimbeckError: As `to_int8` does, if every way fails.

    Example:
        >>> # choose_int8("model.onnx", training[:512], development, "model_int8.onnx", labels=labels).best.method
    """
    if not methods:
        raise LimbeckError("No calibration was given to choose from.")
    full, path = predict_onnx(model, held_out), Path(path)
    with tempfile.TemporaryDirectory() as work, make_quantizer(model, calibration) as quantizer:
        ways = [(method, symmetric) for method in methods for symmetric in (True, False)]
        trials = [_tried(quantizer, Path(work) / "one.onnx", *way, held_out, full, labels) for way in ways]
        best = _best(trials)
        if best.failed is not None:
            raise LimbeckError(best.failed)
        quantizer.write(Path(path), method=best.method, symmetric=best.symmetric)
    return QuantizationChoice(
        best, tuple(trial for trial, _ in trials), count_examples(calibration), count_examples(held_out)
    )


def _best(trials: Sequence[tuple[QuantizationTrial, Tensor]]) -> QuantizationTrial:
    """The way that does best; the first of those that failed where all did."""
    there = [(trial, right) for trial, right in trials if trial.failed is None]
    if not there:
        return trials[0][0]
    most = max((right for _, right in there), key=lambda right: int(right.sum()))
    equal = [trial for trial, right in there if _as_good(right, most)]
    return min(equal, key=lambda trial: math.inf if trial.kl is None else trial.kl)


def _as_good(right: Tensor, most: Tensor) -> bool:
    return int(most.sum() - right.sum()) ** 2 <= int((most != right).sum())


def _tried(
    quantizer: Quantizer,
    path: Path,
    method: str,
    symmetric: bool,
    held_out: Inputs,
    full: Tensor,
    labels: Tensor | None,
) -> tuple[QuantizationTrial, Tensor]:
    """How one way does, and which held-out examples with a label it gets right."""
    labeled = torch.zeros(0, dtype=torch.bool) if labels is None else labels.flatten() != IGNORED
    try:
        small = predict_onnx(quantizer.write(path, method=method, symmetric=symmetric), held_out).flatten(0, -2)
    except LimbeckError as error:
        return QuantizationTrial(method, symmetric, failed=str(error)), labeled
    kl = kl_to_teacher(Predictions(small, full.flatten(0, -2))).value
    right = labeled
    if labels is not None:
        right = (predicted_class(small) == labels.flatten())[labeled]
    accuracy = float(right.double().mean()) if len(right) else None
    return QuantizationTrial(method, symmetric, accuracy, kl if math.isfinite(kl) else None), right
