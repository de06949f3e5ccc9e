"""How does an ONNX model come down to 8 bits?"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.errors import DataError, LimbeckError
from limbeck.export.onnx_file import stripped
from limbeck.export.quiet import quiet
from limbeck.export.session import chunks, fed, length, needed, opened
from limbeck.files import partial_of
from limbeck.signal import Inputs

_FEWEST = 16


def to_int8(model: str | Path, calibration: Inputs, path: str | Path) -> Path:
    """Quantise an ONNX file statically: weights by channel, activations by tensor, both symmetric 8-bit integers.

    The scale of an activation is what real examples make of it: the greatest absolute value that it takes on
    `calibration`. The file holds pairs of QuantizeLinear and DequantizeLinear nodes (QDQ), which onnxruntime
    fuses into integer kernels; inputs and outputs stay float32. Judge it by its accuracy, not by how far
    its logits move.

    Args:
        model: The float32 file that `to_onnx` wrote.
        calibration: Real examples as the model reads them; a few hundred that are no test data.
        path: The file to write.

    Returns:
        The file.

    Raises:
        LimbeckError: If the extra ``export`` is missing, there are fewer than 16 examples, or onnxruntime cannot
            quantise the model; the reason is given.

    Example:
        >>> # to_onnx(student, images, "model.onnx"); to_int8("model.onnx", images, "model_int8.onnx")

    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
        2017, arXiv:1712.05877.
    """
    onnx = needed("onnx", wanted="Quantising")
    _ = needed("onnxruntime", wanted="Quantising")
    if length(calibration) < _FEWEST:
        raise DataError(f"Static quantisation needs {_FEWEST} real examples or more; got {length(calibration)}.")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        found = stripped(_quantised(Path(model), calibration, Path(work)))
    told = onnx.load(str(model), load_external_data=False).metadata_props
    del found.metadata_props[:]
    found.metadata_props.extend(told)
    onnx.save(found, partial_of(path))
    os.replace(partial_of(path), path)
    return path


def _quantised(model: Path, calibration: Inputs, work: Path) -> Any:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, out = work / "prepared.onnx", work / "int8.onnx"
    try:
        with quiet():
            quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared), str(out), _reader(model, calibration), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
            )  # fmt: skip
    except Exception as error:  # its exceptions share no type but this one
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise LimbeckError(f"onnxruntime could not quantise {model.name}: {said.rstrip('.')}.") from error
    return needed("onnx", wanted="Quantising").load(str(out))


def _reader(model: Path, calibration: Inputs) -> Any:
    """The examples as onnxruntime's calibration wants them: one batch after another, then None."""
    from onnxruntime.quantization import CalibrationDataReader

    session = opened(model)

    class Reader(CalibrationDataReader):
        """Hands out batches by name."""

        def __init__(self) -> None:
            self._left: Iterator[Mapping[str, np.ndarray]] = iter([fed(session, some) for some in chunks(calibration)])

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            return next(self._left, None)

    return Reader()
