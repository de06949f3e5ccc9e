"""8-bit ONNX models: calibration, quantization, and the choice of the best way."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from limbeck.atomic_io import atomic_write, make_folder
from limbeck.batch import IGNORED, Inputs
from limbeck.errors import ArgumentError, DataError, LimbeckError, unknown_name_error
from limbeck.export.onnx_file import strip_debug
from limbeck.export.onnx_session import (
    count_examples,
    input_feed,
    open_session,
    predict_onnx,
    silence_logging,
    split_chunks,
)
from limbeck.metrics.memoize import predicted_class
from limbeck.optional_imports import import_optional
from limbeck.tasks import Task, get_task

CALIBRATIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "minmax": ("MinMax", {}),
    # onnxruntime's default of 128 bins for 128 levels leaves no choice; with these, a range can be cut to a quarter.
    # Twice as many bins take five times as long.
    "entropy": ("Entropy", {"num_bins": 1024, "num_quantized_bins": 256}),
    "percentile": ("Percentile", {"num_bins": 2048, "percentile": 99.99}),
}

"""Calibrations by name: the name in onnxruntime, and its options."""


def calibrate_ranges(model: Path, calibration: Inputs, method: str, operations: Sequence[str], work: Path) -> Any:
    """Compute the range of the inputs and outputs of `operations`, in the form that onnxruntime's quantizer takes."""
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    named, options = CALIBRATIONS[method]
    calibrator = create_calibrator(
        model, list(operations), augmented_model_path=str(work / f"{method}.onnx"),
        calibrate_method=CalibrationMethod[named], extra_options={"symmetric": False, **options},
    )  # fmt: skip
    session = open_session(model)
    for part in split_chunks(calibration):  # all activations of a part are in memory at once
        calibrator.collect_data(_reader(input_feed(session, part)))
    return calibrator.compute_data()


def _reader(batch: Mapping[str, np.ndarray]) -> Any:
    """One batch in the form that onnxruntime's calibration takes: the batch, then None."""
    from onnxruntime.quantization import CalibrationDataReader

    class OneBatchReader(CalibrationDataReader):
        """Returns a batch once."""

        def __init__(self) -> None:
            self._batches = iter([batch])

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            return next(self._batches, None)

    return OneBatchReader()


_FEWEST = 16


def to_int8(
    model: str | Path, calibration: Inputs, path: str | Path, *, method: str = "minmax", symmetric: bool = True
) -> Path:
    """Quantize an ONNX file statically: weights per channel, activations per tensor, to signed 8-bit integers.

    The file has pairs of QuantizeLinear and DequantizeLinear nodes (QDQ), which onnxruntime fuses into integer kernels.
    Inputs and outputs stay float32. Measure its accuracy rather than the difference of its logits: `choose_int8` tries
    all calibrations and keeps the best one on held-out data.

    Args:
        model: The float32 file that `to_onnx` wrote.
        calibration: A few hundred real inputs of the model, no test data.
        path: The file to write.
        method: The range of an activation that the 8 bits cover. ``minmax``: all values on `calibration`.
            ``percentile``: all but 0.01 % of them. ``entropy``: the range whose quantized distribution has the smallest
            KL divergence from the true one. Values outside are clipped.
        symmetric: Whether zero is in the middle of the range. If not, both ends of the range are used, which gives an
            activation that is never negative twice as many levels.

    Returns:
        The path of the file.

    Raises:
        LimbeckError: If the extra ``export`` is missing, there are fewer than 16 examples, the method is unknown, or
            onnxruntime cannot quantize the model.

    Example:
        >>> # to_onnx(student, images, "model.onnx"); to_int8("model.onnx", images, "model_int8.onnx")

    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
        2017, arXiv:1712.05877; for ``entropy``: Migacz, 8-bit Inference with TensorRT, 2017.
    """
    with make_quantizer(model, calibration) as quantizer:
        return quantizer.write(Path(path), method=method, symmetric=symmetric)


@contextmanager
def make_quantizer(model: str | Path, calibration: Inputs) -> Iterator[Quantizer]:
    """Context manager for a `Quantizer`, which can quantize a model several times; raises as `to_int8`."""
    for module in ("onnx", "onnxruntime"):
        import_optional(module, extra="export", purpose="Quantizing")
    if count_examples(calibration) < _FEWEST:
        raise DataError(
            f"Static quantization needs at least {_FEWEST} real examples; got {count_examples(calibration)}."
        )
    with tempfile.TemporaryDirectory() as work:
        yield Quantizer(Path(model), calibration, Path(work))


@final
class Quantizer:
    """A float32 ONNX model to be quantized; made by `make_quantizer`. Ranges are computed once per calibration."""

    def __init__(self, model: Path, calibration: Inputs, work: Path) -> None:
        self._model, self._calibration, self._work = model, calibration, work
        self._ranges: dict[str, Any] = {}
        with _quantizer_errors(model):
            from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
            from onnxruntime.quantization.shape_inference import quant_pre_process

            self._prepared = work / "prepared.onnx"
            quant_pre_process(str(model), str(self._prepared), skip_symbolic_shape=True)
            self._proto = load_model_with_shape_infer(self._prepared)
            # The quantizer drops the metadata of the float32 file.
            self._metadata = (
                import_optional("onnx", extra="export", purpose="Quantizing").load(str(model)).metadata_props
            )

    def write(self, path: Path, *, method: str, symmetric: bool) -> Path:
        """Write the model in 8 bits, as `to_int8`."""
        if method not in CALIBRATIONS:
            raise unknown_name_error("calibration", method, CALIBRATIONS)
        with _quantizer_errors(self._model):
            proto = strip_debug(self._quantize(method, symmetric=symmetric))
        del proto.metadata_props[:]
        proto.metadata_props.extend(self._metadata)
        make_folder(path.parent)
        with atomic_write(path) as partial:
            import_optional("onnx", extra="export", purpose="Quantizing").save(proto, partial)
        return path

    def _quantize(self, method: str, *, symmetric: bool) -> Any:
        from onnxruntime.quantization import QDQQuantizer, QuantType
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

        operations = list({**QLinearOpsRegistry, **QDQRegistry})
        if method not in self._ranges:
            self._ranges[method] = calibrate_ranges(self._prepared, self._calibration, method, operations, self._work)
        quantizer = QDQQuantizer(
            copy.deepcopy(self._proto), per_channel=True, reduce_range=False, weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8, tensors_range=copy.deepcopy(self._ranges[method]), nodes_to_quantize=[],
            nodes_to_exclude=[], op_types_to_quantize=operations,
            extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True},
        )  # fmt: skip
        quantizer.quantize_model()
        return quantizer.model.model


@contextmanager
def _quantizer_errors(model: Path) -> Iterator[None]:
    """Context manager for calls of onnxruntime's quantizer: silences it and turns its errors into a `LimbeckError`."""
    try:
        with silence_logging():
            yield
    except Exception as error:  # its exceptions have no other common type
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise LimbeckError(f"onnxruntime could not quantize {model.name}: {reason.rstrip('.')}.") from error


class QuantizationTrial(NamedTuple):
    """One quantization, and its result on held-out examples.

    Attributes:
        method: The calibration: ``minmax``, ``entropy`` or ``percentile``.
        symmetric: Whether zero is in the middle of the range of each activation.
        accuracy: The accuracy on the held-out examples; None without labels, or if it failed.
        kl: The mean KL divergence of its outputs from those of the float32 file, in nats; None if it is not finite.
        failed: The error message if it failed, else None.
    """

    method: str
    symmetric: bool
    accuracy: float | None = None
    kl: float | None = None
    failed: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        values: dict[str, Any] = {
            "method": self.method, "symmetric": self.symmetric, "accuracy": self.accuracy, "kl": self.kl,
        }  # fmt: skip
        return values if self.failed is None else {**values, "failed": self.failed}

    def __str__(self) -> str:
        if self.method == _TRAINED:
            return "trained with the student"
        return f"{self.method}, {'symmetric' if self.symmetric else 'not symmetric'}"


_TRAINED = "trained"
TRAINED = QuantizationTrial(_TRAINED, symmetric=False)
"""The quantization of a student with scales of its own, which are not measured but trained."""


class QuantizationChoice(NamedTuple):
    """The quantizations that were tried, and the one that was chosen.

    Attributes:
        best: The quantization of the file.
        tried: All quantizations, in the order in which they were tried.
        calibrated_on: The number of training examples from which the ranges were computed.
        judged_on: The number of held-out examples on which the choice was made.
    """

    best: QuantizationTrial
    tried: tuple[QuantizationTrial, ...]
    calibrated_on: int
    judged_on: int
    distance_title: str = "KL divergence"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
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
    task: str | Task = "classification",
) -> QuantizationChoice:
    """Quantize an ONNX model in several ways, and write the one that is best on held-out examples.

    The best has the highest accuracy; among those that are equally accurate, the lowest KL divergence from the outputs
    of the float32 file. A quantization with n fewer correct examples counts as equally accurate if the two differ on at
    least n^2 examples: then the difference is within one standard error of a paired difference.

    Args:
        model: The float32 file that `to_onnx` wrote.
        calibration: A few hundred training examples, from which the ranges of activations are computed.
        held_out: Other examples, but no test data: development data.
        path: The file to write.
        labels: The labels of `held_out`; without them the KL divergence decides.
        methods: The calibrations to try, of ``minmax``, ``entropy`` and ``percentile``; each symmetric and not.
        task: What the outputs mean, for the distance from the float32 file: the KL divergence of a classifier, the
            squared difference otherwise.

    Returns:
        All results, and the best, which is in `path`.

    Raises:
        LimbeckError: As `to_int8`, if all quantizations fail.

    Example:
        >>> # choose_int8("model.onnx", training[:512], development, "model_int8.onnx", labels=labels).best.method
    """
    task = get_task(task)
    if not methods:
        raise ArgumentError("methods is empty; give at least one calibration.", argument="methods")
    full, path = predict_onnx(model, held_out), Path(path)
    with tempfile.TemporaryDirectory() as work, make_quantizer(model, calibration) as quantizer:
        ways = [(method, symmetric) for method in methods for symmetric in (True, False)]
        trials = [_try_one(quantizer, Path(work) / "one.onnx", *way, held_out, full, labels, task) for way in ways]
        best = _best(trials)
        if best.failed is not None:
            raise LimbeckError(best.failed)
        quantizer.write(Path(path), method=best.method, symmetric=best.symmetric)
    return QuantizationChoice(
        best,
        tuple(trial for trial, _ in trials),
        count_examples(calibration),
        count_examples(held_out),
        task.distance_title,
    )


def _best(trials: Sequence[tuple[QuantizationTrial, Tensor]]) -> QuantizationTrial:
    """The best quantization; the first one if all failed."""
    working = [(trial, right) for trial, right in trials if trial.failed is None]
    if not working:
        return trials[0][0]
    most = max((right for _, right in working), key=lambda right: int(right.sum()))
    equal = [trial for trial, right in working if _as_good(right, most)]
    return min(equal, key=lambda trial: math.inf if trial.kl is None else trial.kl)


def _as_good(right: Tensor, most: Tensor) -> bool:
    return int(most.sum() - right.sum()) ** 2 <= int((most != right).sum())


def _try_one(
    quantizer: Quantizer,
    path: Path,
    method: str,
    symmetric: bool,
    held_out: Inputs,
    full: Tensor,
    labels: Tensor | None,
    task: Task,
) -> tuple[QuantizationTrial, Tensor]:
    """Try one quantization. Returns its result, and which of the labeled held-out examples it classifies correctly."""
    labeled = torch.zeros(0, dtype=torch.bool) if labels is None else labels.flatten() != IGNORED
    try:
        small = predict_onnx(quantizer.write(path, method=method, symmetric=symmetric), held_out)
    except LimbeckError as error:
        return QuantizationTrial(method, symmetric, failed=str(error)), labeled
    kl = task.distance(small, full)
    right = labeled
    if labels is not None:
        right = (predicted_class(small.flatten(0, -2)) == labels.flatten())[labeled]
    accuracy = float(right.double().mean()) if len(right) else None
    return QuantizationTrial(method, symmetric, accuracy, kl if math.isfinite(kl) else None), right
