"""The largest confidence gap between student and teacher near each example."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.errors import DataError, LimbeckError
from limbeck.metrics.metric import Metric
from limbeck.metrics.predictions import as_batches
from limbeck.model_call import call, logits_of
from limbeck.tap import FrozenParameters


class ConfidenceGap(NamedTuple):
    """The largest confidence gap between student and teacher near each example.

    Attributes:
        gap: ``|q_k - p_k|`` at the worst point for each example, where k is the teacher's class at the example.
        agrees: Whether both models predict the same class at that point.
    """

    gap: Float[Tensor, " n"]
    agrees: Tensor

    @property
    def mean(self) -> Metric:
        """The mean gap over examples."""
        return Metric(float(self.gap.sum()), len(self.gap))

    def within(self, tolerance: float) -> Metric:
        """Count the examples with a gap up to `tolerance`: an upper bound on the faithful ones."""
        return Metric(float((self.gap <= tolerance).sum()), len(self.gap))


def confidence_gap(
    student: nn.Module,
    teacher: nn.Module,
    data: Any,
    *,
    radius: float,
    steps: int = 10,
    limits: tuple[float, float] | None = None,
) -> ConfidenceGap:
    """Find the largest difference in confidence within a radius of each example, with an attack.

    ``max |q_k(x') - p_k(x')|`` over ``|x' - x| <= radius`` in every input, where k is the teacher's class at x. It
    takes signed gradient steps of ``2.5 radius / steps`` from x with projection, and keeps the worst point. The result
    is a lower bound: there may be worse points. At radius 0 its mean is `relative_calibration`.

    Args:
        student: Any module that takes one tensor, on its device.
        teacher: Another such module.
        data: Batches, a `Dataset`, inputs, or a loader, with float inputs of the models.
        radius: The radius in units of the inputs, 0 or more.
        steps: The number of steps of the attack, at least 1.
        limits: The smallest and largest value of an input, such as (0, 1).

    Raises:
        LimbeckError: If `radius` is below 0, `steps` below 1, or `limits` are not an interval.
        DataError: If the inputs are not one float tensor, or there is no example.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> confidence_gap(model, model, torch.randn(5, 3), radius=0.1).mean.value
        0.0

    Source: Lamb, Brunel, Dvijotham, Kumar, Torr and Eiras, Faithful Knowledge Distillation, 2023, arXiv:2306.04431;
    steps: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, 2017, arXiv:1706.06083.
    """
    if not 0 <= radius < float("inf") or steps < 1 or (limits is not None and not limits[0] < limits[1]):
        raise LimbeckError(
            "confidence_gap needs a radius of 0 or more, at least one step, and limits (smallest, largest); got "
            f"radius={radius}, steps={steps}, limits={limits}."
        )
    gaps, agrees = [], []
    with FrozenParameters(student), FrozenParameters(teacher):
        for batch in as_batches(data):
            x = batch.inputs
            if not isinstance(x, Tensor) or not x.is_floating_point():
                raise DataError("confidence_gap needs inputs that are one float tensor.")
            gap, agree = _attacked(student, teacher, x, radius, steps, limits)
            gaps.append(gap.cpu())
            agrees.append(agree.cpu())
    if not gaps:
        raise DataError("There is no example to attack: the loader yielded no batch.")
    return ConfidenceGap(torch.cat(gaps), torch.cat(agrees))


def _attacked(
    student: nn.Module, teacher: nn.Module, x: Tensor, radius: float, steps: int, limits: tuple[float, float] | None
) -> tuple[Tensor, Tensor]:
    device = next((p.device for p in (*student.parameters(), *teacher.parameters())), x.device)
    x = x.detach().to(device)
    low, high = x - radius, x + radius
    if limits is not None:
        low, high = low.clamp(*limits), high.clamp(*limits)
    with torch.no_grad():
        k = logits_of(call(teacher, x)).argmax(1)
    worst, agree = x.new_full((len(x),), -1.0, dtype=torch.float64), torch.ones_like(k, dtype=torch.bool)
    point = x
    # A radius of 0 has one point; otherwise the example itself is the first point.
    for step in range(steps + 1 if radius else 1):
        point = point.detach().requires_grad_(True)
        with torch.enable_grad():
            q, p = (logits_of(call(model, point)).double().softmax(1) for model in (student, teacher))
            gap = (q.gather(1, k[:, None]) - p.gather(1, k[:, None]))[:, 0].abs()
            gaps, same = gap.detach(), q.argmax(1) == p.argmax(1)
            agree, worst = torch.where(gaps > worst, same, agree), torch.maximum(worst, gaps)
            if step < steps and radius:
                (slope,) = torch.autograd.grad(gap.sum(), point)
                point = (point + 2.5 * radius / steps * slope.sign()).clamp(low, high)
    return worst, agree
