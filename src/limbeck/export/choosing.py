"""Which way to 8 bits keeps a student's answers best, on examples that no figure is taken from?"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.export.int8 import Quantiser, quantiser
from limbeck.export.ranges import CALIBRATIONS
from limbeck.export.session import length, predict_onnx
from limbeck.measure import Predictions, accuracy, kl_to_teacher
from limbeck.signal import IGNORED, Inputs


class Trial(NamedTuple):
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

    @property
    def rank(self) -> tuple[bool, float, float]:
        """By accuracy, then by KL: greater is better, and any file is better than none."""
        return self.failed is None, self.accuracy or 0.0, -math.inf if self.kl is None else -self.kl

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        found: dict[str, Any] = {
            "method": self.method, "symmetric": self.symmetric, "accuracy": self.accuracy, "kl": self.kl,
        }  # fmt: skip
        return found if self.failed is None else {**found, "failed": self.failed}

    def __str__(self) -> str:
        return f"{self.method}, {'symmetric' if self.symmetric else 'not symmetric'}"


class Choice(NamedTuple):
    """What was tried, and what was taken.

    Attributes:
        best: The way that the file was written in.
        tried: Every way, in the order in which it was tried.
        calibrated_on: How many training examples the ranges come from.
        judged_on: How many held-out examples decided.
    """

    best: Trial
    tried: tuple[Trial, ...]
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
) -> Choice:
    """Write an ONNX model in 8 bits in every way, and keep the file that does best on held-out examples.

    Best is the highest accuracy; among equals, the lowest KL divergence from the float32 file's answers.

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
    full, tried = predict_onnx(model, held_out), list[Trial]()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".int8-") as work, quantiser(model, calibration) as made:
        file, best = Path(work) / "best.onnx", None
        for method in methods:
            for symmetric in (True, False):
                one = Path(work) / "one.onnx"
                tried.append(_tried(made, one, method, symmetric, held_out, full, labels))
                if best is None or tried[-1].rank > best.rank:
                    best = tried[-1]
                    if best.failed is None:
                        os.replace(one, file)
        if best is None or best.failed is not None:
            raise LimbeckError(best.failed if best and best.failed else "No calibration was given to choose from.")
        os.replace(file, path)
    return Choice(best, tuple(tried), length(calibration), length(held_out))


def _tried(
    made: Quantiser, path: Path, method: str, symmetric: bool, held_out: Inputs, full: Tensor, labels: Tensor | None
) -> Trial:
    try:
        made.write(path, method=method, symmetric=symmetric)
        small = predict_onnx(path, held_out)
    except LimbeckError as error:
        return Trial(method, symmetric, failed=str(error))
    rows = small.flatten(0, -2)
    kl = kl_to_teacher(Predictions(rows, full.flatten(0, -2))).value
    right = None
    if labels is not None and bool((labels != IGNORED).any()):
        right = accuracy(Predictions(rows, None, labels.flatten())).value
    return Trial(method, symmetric, right, kl if math.isfinite(kl) else None)
