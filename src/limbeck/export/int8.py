"""An ONNX model quantized to int8."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import numpy as np

from limbeck.atomic_io import atomic_write
from limbeck.batch import Inputs
from limbeck.errors import DataError, LimbeckError, unknown_name_error
from limbeck.export.onnx_file import strip_debug
from limbeck.export.onnx_session import (
    count_examples,
    input_feed,
    open_session,
    silence_logging,
    split_chunks,
)
from limbeck.optional_imports import import_optional

CALIBRATIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "minmax": ("MinMax", {}),
    # onnxruntime's own 128 bins for 128 levels leave nothing to choose from; with these, a range may be cut to a
    # quarter. With twice as many bins the search takes five times as long.
    "entropy": ("Entropy", {"num_bins": 1024, "num_quantized_bins": 256}),
    "percentile": ("Percentile", {"num_bins": 2048, "percentile": 99.99}),
}

"""How a range can be found: its name -> onnxruntime's name, and what is set in it."""


def calibrate_ranges(model: Path, calibration: Inputs, method: str, operations: Sequence[str], work: Path) -> Any:
    """Each activation's lowest and highest value by one of `CALIBRATIONS`, as onnxruntime's quantizer takes them.

    Args:
        model: The file, its shapes inferred.
        calibration: Real examples.
        method: Which calibration.
        operations: The kinds of nodes whose inputs and outputs are wanted.
        work: A folder for what is written meanwhile.
    """
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    named, options = CALIBRATIONS[method]
    calibrator = create_calibrator(
        model, list(operations), augmented_model_path=str(work / f"{method}.onnx"),
        calibrate_method=CalibrationMethod[named], extra_options={"symmetric": False, **options},
    )  # fmt: skip
    preprocess = open_session(model)
    for some in split_chunks(calibration):  # all activations of what is collected at once lie in memory
        calibrator.collect_data(_reader(input_feed(preprocess, some)))
    return calibrator.compute_data()


def _reader(batch: Mapping[str, np.ndarray]) -> Any:
    """One batch as onnxruntime's calibration wants it: the batch, then None."""
    from onnxruntime.quantization import CalibrationDataReader

    class OneBatchReader(CalibrationDataReader):
        """Hands out a batch once."""

        def __init__(self) -> None:
            self._batches = iter([batch])

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            return next(self._batches, None)

    return OneBatchReader()


_FEWEST = 16


def to_int8(
    model: str | Path, calibration: Inputs, path: str | Path, *, method: str = "minmax", symmetric: bool = True
) -> Path:
    """Quantize an ONNX file statically: weights by channel, activations by tensor, both 8-bit integers with a sign.

    The file holds pairs of QuantizeLinear and DequantizeLinear nodes (QDQ), which onnxruntime fuses into integer
    kernels; inputs and outputs stay float32. Judge it by its accuracy, not by how far its logits move: `choose_int8`
    tries every way, and keeps the best on data that you hold out.

    Args:
        model: The float32 file that `to_onnx` wrote.
        calibration: Real examples as the model reads them; a few hundred that are no test data.
        path: The file to write.
        method: Which range of an activation 8 bits are spread over. ``minmax``: all values that it takes on
            `calibration`. ``percentile``: all but the ten-thousandth part at the ends. ``entropy``: the range whose
            quantized distribution is nearest in KL to the true one. What lies outside is held at the edge.
        symmetric: Whether zero is in the middle of that range; else both ends are met, which gives an activation that
            is never negative twice as many levels.

    Returns:
        The file.

    Raises:
        LimbeckError: If the extra ``export`` is missing, there are fewer than 16 examples, there is no such method, or
            onnxruntime cannot quantize the model; the reason is given.

    Example:
        >>> # to_onnx(student, images, "model.onnx"); to_int8("model.onnx", images, "model_int8.onnx")

    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
        2017, arXiv:1712.05877; for ``entropy``: Migacz, 8-bit Inference with TensorRT, 2017.
    """
    with make_quantizer(model, calibration) as bring_down:
        return bring_down.write(Path(path), method=method, symmetric=symmetric)


@contextmanager
def make_quantizer(model: str | Path, calibration: Inputs) -> Iterator[Quantizer]:
    """A block within which a model can be written in 8 bits in several ways, looked through once for each method.

    Raises:
        LimbeckError: As `to_int8` does.
    """
    for module in ("onnx", "onnxruntime"):
        _ = import_optional(module, extra="export", purpose="Quantizing")
    if count_examples(calibration) < _FEWEST:
        raise DataError(
            f"Static quantization needs {_FEWEST} real examples or more; got {count_examples(calibration)}."
        )
    with tempfile.TemporaryDirectory() as work:
        yield Quantizer(Path(model), calibration, Path(work))


@final
class Quantizer:
    """A float32 ONNX model that is to be written in 8 bits; `quantizer` opens one."""

    def __init__(self, model: Path, calibration: Inputs, work: Path) -> None:
        self._model, self._calibration, self._work = model, calibration, work
        self._ranges: dict[str, Any] = {}
        with _saying(model):
            from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
            from onnxruntime.quantization.shape_inference import quant_pre_process

            self._prepared = work / "prepared.onnx"
            quant_pre_process(str(model), str(self._prepared), skip_symbolic_shape=True)
            self._proto = load_model_with_shape_infer(self._prepared)
            # The float32 file is read once: what is written in the end says of itself what it says.
            self._metadata = (
                import_optional("onnx", extra="export", purpose="Quantizing").load(str(model)).metadata_props
            )

    def write(self, path: Path, *, method: str, symmetric: bool) -> Path:
        """Write the model in 8 bits, in one way.

        Raises:
            LimbeckError: If there is no such method, or onnxruntime cannot quantize the model.
        """
        if method not in CALIBRATIONS:
            raise unknown_name_error("calibration", method, CALIBRATIONS)
        with _saying(self._model):
            proto = strip_debug(self._quantized(method, symmetric=symmetric))
        del proto.metadata_props[:]
        proto.metadata_props.extend(self._metadata)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            import_optional("onnx", extra="export", purpose="Quantizing").save(proto, partial)
        return path

    def _quantized(self, method: str, *, symmetric: bool) -> Any:
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
def _saying(model: Path) -> Iterator[None]:
    """A block of onnxruntime's quantizer, silent, whose errors become one sentence."""
    try:
        with silence_logging():
            yield
    except Exception as error:  # its exceptions share no type but this one
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise LimbeckError(f"onnxruntime could not quantize {model.name}: {reason.rstrip('.')}.") from error
