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
    expected = session.get_inputs()

    def answer(inputs: Any) -> np.ndarray:
        tensors = list(inputs.values()) if isinstance(inputs, dict) else [inputs]
        named = inputs if isinstance(inputs, dict) and expected[0].name in inputs else {}
        feed = {one.name: named.get(one.name, value) for one, value in zip(expected, tensors, strict=False)}
        feed = {one.name: feed[one.name].astype(KINDS.get(one.type, feed[one.name].dtype)) for one in expected}
        feed = {one.name: feed[one.name].reshape(-1, 1) if one.shape[1:] == [1] else feed[one.name] for one in expected}
        return session.run(None, feed)[0]

    return json.loads(session.get_modelmeta().custom_metadata_map["limbeck"]), expected[0].shape, answer
