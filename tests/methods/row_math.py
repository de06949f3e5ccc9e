"""Softmax, KL divergence and correlation of single rows in plain Python, for brute-force references."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def to_rows(tensor: Tensor) -> list[list[float]]:
    """All rows of a tensor as lists of double-precision numbers."""
    return tensor.detach().double().reshape(-1, tensor.shape[-1]).tolist()


def like(tensor: Tensor, values: list[float]) -> Tensor:
    """One value for each row of a tensor."""
    return torch.tensor(values, dtype=torch.float64).reshape(tensor.shape[:-1])


def log_softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    top = max(row)
    if top == -math.inf:
        return row
    apart = [(z - top) / temperature for z in row]
    total = math.log(sum(math.exp(z) for z in apart))
    return [z - total for z in apart]


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    return [math.exp(z) for z in log_softmax(row, temperature)]


def kl(student: list[float], teacher: list[float], temperature: float = 1.0) -> float:
    """KL(p || q) of two rows of logits, without T^2."""
    log_q, log_p = log_softmax(student, temperature), log_softmax(teacher, temperature)
    return sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True) if p > -math.inf and math.exp(p) > 0)


def without(row: list[float], index: int) -> list[float]:
    return row[:index] + row[index + 1 :]


def pearson(x: list[float], y: list[float]) -> float:
    """The correlation of two lists; 1 if the second is constant, 0 if the first alone is."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    var_x, var_y = sum((a - mean_x) ** 2 for a in x), sum((b - mean_y) ** 2 for b in y)
    if var_y < 1e-28:
        return 1.0
    if var_x < 1e-28:
        return 0.0
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / math.sqrt(var_x * var_y)
