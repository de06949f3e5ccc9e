"""The answers of one of limbeck's own networks, from its weights, in plain PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional as F


def open_student(folder: Path) -> tuple[dict[str, Any], list[Any] | None, Callable[[Any], np.ndarray]]:
    """What the folder says of itself, no shape, and a function from inputs to logits."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights, model = load_file(str(folder / "model.safetensors")), config["model"]
    network: Any = {"mlp": mlp, "cnn": cnn}.get(model["name"], resnet)

    def answer(inputs: Any) -> np.ndarray:
        with torch.no_grad():
            features = network(torch.from_numpy(inputs), weights, model["arguments"])
            logits: np.ndarray = F.linear(features, *pair(weights, "classifier")).numpy()
            return logits

    return config["metadata"], None, answer


def pair(weights: dict[str, torch.Tensor], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight and the bias of a layer."""
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def mlp(x: torch.Tensor, weights: dict[str, torch.Tensor], arguments: dict[str, Any]) -> torch.Tensor:
    """Linear layers with ReLU between them."""
    x = x.flatten(1)
    for number in range(1, len(arguments["hidden"]) + 1):
        x = F.relu(F.linear(x, *pair(weights, f"layer{number}.1")))
    return x


def cnn(x: torch.Tensor, weights: dict[str, torch.Tensor], arguments: dict[str, Any]) -> torch.Tensor:
    """Convolutions with ReLU, and pooling while a side of at least 2 is left."""
    side = arguments["size"]
    for number in range(1, len(arguments["widths"]) + 1):
        x = F.relu(F.conv2d(x, *pair(weights, f"layer{number}.0"), padding=1))
        if side >= 4:
            x, side = F.max_pool2d(x, 2), side // 2
    return x.flatten(1)


def resnet(x: torch.Tensor, weights: dict[str, torch.Tensor], arguments: dict[str, Any]) -> torch.Tensor:
    """Residual blocks in three stages (He et al., 2015, section 4.2), each beside a shortcut without parameters."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        return F.batch_norm(x, mean, variance, *pair(weights, name))

    x = F.relu(norm(F.conv2d(x, weights["stem.0.weight"], padding=1), "stem.1"))
    for stage in (1, 2, 3):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in weights:
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = F.relu(norm(F.conv2d(x, weights[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.norm1"))
            y = norm(F.conv2d(y, weights[f"{name}.conv2.weight"], padding=1), f"{name}.norm2")
            more = y.shape[1] - x.shape[1]
            x = F.relu(y + F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, more // 2, more - more // 2)))
            block += 1
    return x.mean((2, 3))
