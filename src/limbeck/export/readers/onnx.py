"""The answers of an ONNX file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

KINDS = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64, "tensor(string)": object}


def open_student(folder: Path) -> tuple[dict[str, Any], list[Any] | None, Callable[[Any], np.ndarray]]:
    """What the file says of itself, the shape of its first input, and a function from inputs to logits."""
    file = next(iter(sorted(folder.glob("*.onnx"))))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    wanted = session.get_inputs()

    def answer(inputs: Any) -> np.ndarray:
        given = list(inputs.values()) if isinstance(inputs, dict) else [inputs]
        named = inputs if isinstance(inputs, dict) and wanted[0].name in inputs else {}
        fed = {one.name: named.get(one.name, value) for one, value in zip(wanted, given, strict=False)}
        fed = {one.name: fed[one.name].astype(KINDS.get(one.type, fed[one.name].dtype)) for one in wanted}
        fed = {one.name: fed[one.name].reshape(-1, 1) if one.shape[1:] == [1] else fed[one.name] for one in wanted}
        return session.run(None, fed)[0]

    return json.loads(session.get_modelmeta().custom_metadata_map["limbeck"]), wanted[0].shape, answer
