"""What do the published losses come to when they are written down as in the papers, in float64?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from limbeck import functional
from limbeck.signal import IGNORED

Reference = Callable[..., Tensor]
"""(student, teacher, labels, **hyper), logits in float64 with the classes last -> one value a row."""


def _kl(student: Tensor, teacher: Tensor, labels: Tensor | None, *, temperature: float = 1.0) -> Tensor:
    p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    return temperature**2 * (p * (p / q).log()).nan_to_num(0.0).sum(-1)


def _reverse(student: Tensor, teacher: Tensor, labels: Tensor | None, *, temperature: float = 1.0) -> Tensor:
    return _kl(teacher, student, labels, temperature=temperature)


def _variation(student: Tensor, teacher: Tensor, labels: Tensor | None, *, temperature: float = 1.0) -> Tensor:
    p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    return temperature**2 * (p - q).abs().sum(-1) / 2


def _cross_entropy(student: Tensor, teacher: Tensor | None, labels: Tensor) -> Tensor:
    picked = student.softmax(-1).gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return torch.where(labels == IGNORED, 0.0, -picked.log())


def _logits(student: Tensor, teacher: Tensor, labels: Tensor | None, *, centred: bool = True) -> Tensor:
    difference = student - teacher
    centre = difference.mean(-1, keepdim=True) if centred else 0.0
    return ((difference - centre) ** 2).mean(-1) / 2


def _probabilities(student: Tensor, teacher: Tensor, labels: Tensor | None, *, temperature: float = 1.0) -> Tensor:
    p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    return temperature**2 * ((p - q) ** 2).mean(-1)


REFERENCES: Mapping[Any, Reference] = {
    functional.kl_divergence: _kl,
    functional.reverse_kl: _reverse,
    functional.total_variation: _variation,
    functional.cross_entropy: _cross_entropy,
    functional.logit_squared_error: _logits,
    functional.probability_squared_error: _probabilities,
}
"""By kernel. A kernel that is not here is set beside itself in float64."""
