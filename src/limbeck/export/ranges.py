"""Between which values does each activation of an ONNX model lie, on real examples?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.export.session import chunks, fed, opened
from limbeck.signal import Inputs

CALIBRATIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "minmax": ("MinMax", {}),
    # onnxruntime's own 128 bins for 128 levels leave nothing to choose from; with these, a range may be cut to a
    # quarter. With twice as many bins the search takes five times as long.
    "entropy": ("Entropy", {"num_bins": 1024, "num_quantized_bins": 256}),
    "percentile": ("Percentile", {"num_bins": 2048, "percentile": 99.99}),
}
"""How a range can be found: its name -> onnxruntime's name, and what is set in it."""


def ranges_of(model: Path, calibration: Inputs, method: str, operations: Sequence[str], work: Path) -> Any:
    """Each activation's lowest and highest value by one of `CALIBRATIONS`, as onnxruntime's quantiser takes them.

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
    reads = opened(model)
    for some in chunks(calibration):  # all activations of what is collected at once lie in memory
        calibrator.collect_data(_reader(fed(reads, some)))
    return calibrator.compute_data()


def _reader(batch: Mapping[str, np.ndarray]) -> Any:
    """One batch as onnxruntime's calibration wants it: the batch, then None."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """Hands out a batch once."""

        def __init__(self) -> None:
            self._left = iter([batch])

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            return next(self._left, None)

    return Reader()
