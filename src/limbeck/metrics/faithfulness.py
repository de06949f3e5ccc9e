"""The gap in confidence between student and teacher near each example: what an attack finds, and what is certain."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limbeck.batch import Batch, Inputs
from limbeck.errors import DataError, LimbeckError
from limbeck.functional.interval import Bounds, bound_gap, interval_bounds
from limbeck.metrics.metric import Metric
from limbeck.metrics.predictions import as_batches
from limbeck.model_call import call, logits_of
from limbeck.tap import FrozenParameters

Reading = Callable[[Batch], Inputs]
"""Preprocessing: from a batch to inputs of a model."""
Limits = tuple[float, float]
"""The smallest and the largest value of an input."""


class ConfidenceGap(NamedTuple):
    """The largest confidence gap that was found between student and teacher near each example: a lower bound.

    Attributes:
        gap: ``|q_k - p_k|`` at the worst point for each example, where k is the teacher's class at the example.
        agrees: Whether both models predict the same class at that point.
    """

    gap: Float[Tensor, " n"]
    agrees: Bool[Tensor, " n"]

    @property
    def mean(self) -> Metric:
        """The mean gap over examples."""
        return Metric(float(self.gap.sum()), len(self.gap))

    def within(self, tolerance: float) -> Metric:
        """Count the examples with a gap up to `tolerance`: an upper bound on the faithful ones."""
        return Metric(float((self.gap <= tolerance).sum()), len(self.gap))


class CertifiedGap(NamedTuple):
    """An upper bound of the confidence gap between student and teacher near each example.

    Attributes:
        gap: No input within the radius has a larger ``|q_k - p_k|``.
        agrees: Whether both models predict the same class at the example itself.
    """

    gap: Float[Tensor, " n"]
    agrees: Bool[Tensor, " n"]

    @property
    def mean(self) -> Metric:
        """The mean bound over examples."""
        return Metric(float(self.gap.sum()), len(self.gap))

    @property
    def disagreement(self) -> Metric:
        """The fraction of examples for which student and teacher predict different classes."""
        return Metric(float((~self.agrees).sum()), len(self.agrees))

    def within(self, tolerance: float) -> Metric:
        """Count the examples that are certainly faithful, with a bound up to `tolerance`."""
        return Metric(float((self.gap <= tolerance).sum()), len(self.gap))


def confidence_gap(
    student: nn.Module,
    teacher: nn.Module,
    data: Any,
    *,
    radius: float,
    steps: int = 10,
    limits: Limits | None = None,
    student_preprocess: Reading | None = None,
    teacher_preprocess: Reading | None = None,
) -> ConfidenceGap:
    """Find the largest difference in confidence within a radius of each example, with an attack.

    ``max |q_k(x') - p_k(x')|`` over ``|x' - x| <= radius`` in every input, where k is the teacher's class at x. It
    takes signed gradient steps of ``2.5 radius / steps`` from x with projection, and keeps the worst point. The result
    is a lower bound: there may be worse points. At radius 0 its mean is `relative_calibration`. `certified_gap` is an
    upper bound.

    Args:
        student: Any module that takes one tensor, on its device.
        teacher: Another such module.
        data: Batches, a `Dataset`, inputs, or a loader, with float inputs.
        radius: The radius in units of the inputs, 0 or more.
        steps: The number of steps of the attack, at least 1.
        limits: The smallest and largest value of an input, such as (0, 1).
        student_preprocess: Function from a batch to the student's inputs; by default they are those of the batch.
        teacher_preprocess: The same of the teacher.

    Raises:
        LimbeckError: If `radius` is below 0, `steps` below 1, or `limits` are not an interval.
        DataError: If the inputs are not one float tensor, or are outside of `limits`, or there is no example.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> confidence_gap(model, model, torch.randn(5, 3), radius=0.1).mean.value
        0.0

    Source: Lamb, Brunel, Dvijotham, Kumar, Torr and Eiras, Faithful Knowledge Distillation, 2023, arXiv:2306.04431;
    steps: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, 2017, arXiv:1706.06083.
    """
    _check_box("confidence_gap", radius, limits, steps)
    gaps, agrees = [], []
    with FrozenParameters(student), FrozenParameters(teacher):
        for batch in _float_batches("confidence_gap", data, student, teacher):
            ours, theirs = _reader(student, batch, student_preprocess), _reader(teacher, batch, teacher_preprocess)
            gap, agree = _attacked(ours, theirs, batch.inputs, radius, steps, limits)
            gaps.append(gap.cpu())
            agrees.append(agree.cpu())
    return ConfidenceGap(torch.cat(gaps), torch.cat(agrees))


def certified_gap(
    student: nn.Module,
    teacher: nn.Module,
    data: Any,
    *,
    radius: float,
    limits: Limits | None = None,
    student_preprocess: Reading | None = None,
    teacher_preprocess: Reading | None = None,
) -> CertifiedGap:
    """Bound the difference in confidence within a radius of each example, by interval arithmetic.

    ``|q_k(x') - p_k(x')|`` is not above the result for any x' with ``|x' - x| <= radius`` in every input, where k is
    the teacher's class at x, up to the rounding of floating point. The bound is loose: both networks are bounded alone
    and layer by layer (`limbeck.functional.interval`), so it is above 0 for a student that is its teacher, and close to
    1 for large networks that were not trained for it. At radius 0 it is the gap itself. `confidence_gap` is a lower
    bound.

    Args:
        student: A perceptron or convolutional network; others have no bounds.
        teacher: Another one.
        data: Batches, a `Dataset`, inputs, or a loader, with float inputs.
        radius: The radius in units of the inputs, 0 or more.
        limits: The smallest and largest value of an input, such as (0, 1).
        student_preprocess: Function from a batch to the student's inputs; by default they are those of the batch.
        teacher_preprocess: The same of the teacher.

    Raises:
        LimbeckError: If `radius` is below 0, `limits` are not an interval, or a network has an operation without
            bounds; the message names it.
        DataError: If the inputs are not one float tensor, or are outside of `limits`, or there is no example.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> bound = certified_gap(model, model, torch.randn(5, 3), radius=0.1)
        >>> bound.disagreement.value, bool((bound.gap > 0).all())
        (0.0, True)

    Source: Lamb, Brunel, Dvijotham, Kumar, Torr and Eiras, Faithful Knowledge Distillation, 2023, arXiv:2306.04431;
    intervals: Gowal et al., 2018, arXiv:1810.12715.
    """
    _check_box("certified_gap", radius, limits)
    gaps, agrees = [], []
    with FrozenParameters(student), FrozenParameters(teacher), torch.no_grad():
        for batch in _float_batches("certified_gap", data, student, teacher):
            ours, theirs = _reader(student, batch, student_preprocess), _reader(teacher, batch, teacher_preprocess)
            k = theirs(batch.inputs).argmax(1)
            box = _box(batch.inputs, radius, limits)
            q, p = (_bound(read, box, batch.inputs) for read in (ours, theirs))
            gaps.append(bound_gap(q, p, k).cpu())
            agrees.append((ours(batch.inputs).argmax(1) == k).cpu())
    return CertifiedGap(torch.cat(gaps), torch.cat(agrees))


def _bound(read: Callable[[Tensor], Tensor], box: Bounds, x: Tensor) -> Bounds:
    """Bounds of the logits in a box, after a look at its point that is nearest to the example."""
    bounds, plain = interval_bounds(read, *box), read(x.clamp(*box))
    room = 1e-4 * (1 + plain.abs())
    if bool(((plain < bounds.low - room) | (plain > bounds.high + room)).any()):
        raise LimbeckError(
            "A network cannot be bounded: its logits of an example are outside of their bounds. It may change a part "
            "of a tensor in place; use one that does not."
        )
    return Bounds(bounds.low.double(), bounds.high.double())


def _check_box(who: str, radius: float, limits: Limits | None, steps: int = 1) -> None:
    if not 0 <= radius < math.inf or steps < 1 or (limits is not None and not limits[0] < limits[1]):
        raise LimbeckError(
            f"{who} needs a radius of 0 or more, limits (smallest, largest), and at least one step of an attack; got "
            f"radius={radius}, limits={limits}, steps={steps}."
        )


def _float_batches(who: str, data: Any, *models: nn.Module) -> Iterator[Batch]:
    device = next((p.device for model in models for p in model.parameters()), None)
    any_batch = False
    for batch in as_batches(data):
        if not isinstance(batch.inputs, Tensor) or not batch.inputs.is_floating_point():
            raise DataError(f"{who} needs inputs that are one float tensor.")
        any_batch = True
        yield batch if device is None else batch.to(device)
    if not any_batch:
        raise DataError(f"{who} has no example: the loader yielded no batch.")


def _reader(model: nn.Module, batch: Batch, preprocess: Reading | None) -> Callable[[Tensor], Tensor]:
    """A function from inputs to a model's logits."""

    def read(inputs: Tensor) -> Tensor:
        return logits_of(call(model, inputs if preprocess is None else preprocess(batch._replace(inputs=inputs))))

    return read


def _box(x: Tensor, radius: float, limits: Limits | None) -> Bounds:
    low, high = x - radius, x + radius
    if limits is not None and not bool(((x >= limits[0]) & (x <= limits[1])).all()):  # NaN too
        raise DataError(
            f"limits={limits} are the smallest and largest value of an input, and these go from {float(x.min()):g} to "
            f"{float(x.max()):g}. Give the limits of your data, or leave limits out."
        )
    return Bounds(low, high) if limits is None else Bounds(low.clamp(*limits), high.clamp(*limits))


def _attacked(
    ours: Callable[[Tensor], Tensor],
    theirs: Callable[[Tensor], Tensor],
    x: Tensor,
    radius: float,
    steps: int,
    limits: Limits | None,
) -> tuple[Tensor, Tensor]:
    x = x.detach()
    box = _box(x, radius, limits)
    with torch.no_grad():
        k = theirs(x).argmax(1)
    worst, agree = x.new_full((len(x),), -1.0, dtype=torch.float64), torch.ones_like(k, dtype=torch.bool)
    point = x
    # A radius of 0 has one point; otherwise the example itself is the first point.
    for step in range(steps + 1 if radius else 1):
        point = point.detach().requires_grad_(True)
        with torch.enable_grad():
            q, p = (read(point).double().softmax(1) for read in (ours, theirs))
            gap = (q.gather(1, k[:, None]) - p.gather(1, k[:, None]))[:, 0].abs()
            gaps, same = gap.detach(), q.argmax(1) == p.argmax(1)
            agree, worst = torch.where(gaps > worst, same, agree), torch.maximum(worst, gaps)
            if step < steps and radius:
                (slope,) = torch.autograd.grad(gap.sum(), point)
                point = (point + 2.5 * radius / steps * slope.sign()).clamp(*box)
    return worst, agree
