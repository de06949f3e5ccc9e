"""Faithful distillation: soft targets, and a certified bound of the gap in confidence near each example."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch, Outputs, Progress, Requirements, Term
from limbeck.data import ArrayDataset
from limbeck.errors import LimbeckError
from limbeck.functional import check_hyper, cross_entropy, kl_divergence
from limbeck.functional.adversarial import check_limits
from limbeck.functional.interval import Bounds, bound_gap, check_epsilon, input_box, interval_bounds
from limbeck.losses import Loss, LossContext, LossTerm, Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_share, check_weight
from limbeck.models import build
from limbeck.recipe import Recipe, Stage
from limbeck.schedule import Schedule, constant, ramp
from limbeck.tap import FrozenParameters
from limbeck.teachers import as_teacher, without_cache


def make_trial() -> tuple[nn.Module, nn.Module, ArrayDataset]:
    """Make a student, a teacher and inputs from 0 to 1, for the tests of the method."""
    return _make_trial("mlp", (6,), {"inputs": 6, "hidden": [4, 4], "dropout": 0.1})


def make_image_trial() -> tuple[nn.Module, nn.Module, ArrayDataset]:
    """The same with residual networks, which have BatchNorm."""
    return _make_trial("resnet8", (1, 8, 8), {"channels": 1, "width": 2})


def _make_trial(name: str, shape: tuple[int, ...], sizes: dict[str, Any]) -> tuple[nn.Module, nn.Module, ArrayDataset]:
    draw = torch.Generator().manual_seed(0)
    data = ArrayDataset(torch.rand(48, *shape, generator=draw), torch.randint(3, (48,), generator=draw))
    student, teacher = (build(name, classes=3, seed=seed, **sizes) for seed in (1, 2))
    return student, teacher.eval(), data


CARD = MethodCard(
    name="faithful_distillation",
    title="Faithful Knowledge Distillation",
    authors="Lamb, Brunel, Dvijotham, Kumar, Torr and Eiras",
    year=2023,
    arxiv="2306.04431",
    venue="arXiv preprint",
    claim="The student learns soft targets, and training lowers a bound that certifies how far its confidence in the "
    "teacher's class can be from the teacher's anywhere near an example.",
    when="For a student that must be as confident as its teacher also on inputs that differ a little from those of the "
    "data, with a proof. The bounds are those of interval arithmetic: they say something for small networks, small "
    "`epsilon`, and a teacher that can be bounded itself. Perceptrons and convolutional networks only, also with "
    "BatchNorm and residual sums; not for texts. There is no published code: the loss has the paper's bounds, and "
    "the schedule and the weights are ours.",
    bibtex="""@article{lamb2023faithful,
  title = {Faithful Knowledge Distillation},
  author = {Lamb, Tom A. and Brunel, Rudy and Dvijotham, Krishnamurthy and Kumar, M. Pawan and Torr, Philip H. S. and
            Eiras, Francisco},
  journal = {arXiv preprint arXiv:2306.04431},
  year = {2023}
}""",
    ranges={
        "gap_weight": SearchRange(0.1, 10.0, log=True),
        "temperature": SearchRange(1.0, 20.0, log=True),
        "weight": SearchRange(0.0, 1.0),
    },
    needs="networks of linear, convolutional and pooling layers",
    trials=(make_trial, make_image_trial),
    task_reason="its bound is of the probability of one class of an example",
    keywords=("certified", "robust", "interval bound propagation", "ibp", "relative calibration"),
)


class CertifiedGapLoss(LossTerm):
    r"""A bound of the gap in confidence between student and teacher in a box around each input.

    The value of an example is :math:`\max(p_c^{hi} - q_c^{lo}, q_c^{hi} - p_c^{lo})`, with c the teacher's class and
    the bounds of `limbeck.functional.interval`, of both networks in eval mode. Gradients flow to the student alone.

    Args:
        epsilon: The largest change of an input, as a fraction of its range, at each step.
        low: The smallest value of an input.
        high: The largest value of an input.
    """

    name, per, skip_at_zero = "certified_gap", "example", True
    # In a tuple, so that the parameters of the model do not become those of the loss.
    _context: tuple[nn.Module, Callable[[Batch], Outputs], Callable[[Batch], Outputs]]

    def __init__(self, epsilon: Schedule, *, low: float | None = None, high: float | None = None) -> None:
        super().__init__()
        self.epsilon, self.low, self.high = epsilon, low, high

    @property
    def requires(self) -> Requirements:
        """The logits of both models."""
        return Requirements(frozenset({LOGITS}), frozenset({LOGITS}), frozenset())

    def setup(self, context: LossContext) -> CertifiedGapLoss:
        """The loss for one stage, after both networks were bounded on a few examples.

        Raises:
            LimbeckError: If the inputs are no numbers, the student is sharded, or a network cannot be bounded.
        """
        if context.model is None or context.forward is None or context.answer is None:
            raise LimbeckError(
                "faithful_distillation computes bounds through the whole student and a teacher that is a network: use "
                "one device or strategy='ddp', and a teacher."
            )
        check_pixels_of(context.batch, context.student[LOGITS])
        fitted = copy.copy(self)
        fitted._context = (context.model, context.forward, context.answer)
        few = context.batch.rows(torch.arange(min(4, context.batch.size)))
        for whose, answer in (("student", fitted._ask_student), ("teacher", context.answer)):
            check_boundable(answer, few, whose, low=self.low, high=self.high)
        return fitted

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The sum of the bounds over the examples that count."""
        box = input_box(batch.inputs, self.epsilon(progress), low=self.low, high=self.high)
        classes = teacher[LOGITS].argmax(-1)
        ours = bounds_of(self._ask_student, batch, box)
        with torch.no_grad():
            theirs = bounds_of(self._context[2], batch, box)
        gaps = bound_gap(ours, theirs, classes)
        return Term(gaps[batch.valid.to(gaps.device)].sum(), self.count(batch))

    def count(self, batch: Batch) -> float:
        """The number of examples that count."""
        return float(batch.valid.sum())

    def _ask_student(self, batch: Batch) -> Outputs:
        model, forward, _ = self._context
        with FrozenParameters(model):  # without dropout, and with the running statistics
            return forward(batch)

    def __repr__(self) -> str:
        limits = {"low": self.low, "high": self.high}
        own = [repr(self.epsilon), *(f"{name}={value}" for name, value in limits.items() if value is not None)]
        return f"CertifiedGapLoss({', '.join(own)})"


def bounds_of(answer: Callable[[Batch], Outputs], batch: Batch, box: Bounds) -> Bounds:
    """Bounds of the logits that a model gives to the inputs of a box.

    Args:
        answer: Function from a batch to outputs, with the model's preprocessing.
        batch: The batch.
        box: The inputs.
    """
    return interval_bounds(lambda inputs: answer(batch._replace(inputs=inputs))[LOGITS], *box)


def check_pixels_of(batch: Batch, logits: Tensor) -> None:
    """Check that a batch has inputs around which there are boxes, and one row of logits for each.

    Raises:
        LimbeckError: If not.
    """
    inputs = batch.inputs
    if not isinstance(inputs, Tensor) or not (inputs.is_floating_point() or inputs.dtype == torch.uint8):
        kind = str(inputs.dtype).removeprefix("torch.") if isinstance(inputs, Tensor) else type(inputs).__name__
        raise LimbeckError(
            "faithful_distillation bounds what happens near an input, so inputs are one tensor of bytes or "
            f"floating-point numbers, such as images, and not tokens or several tensors; got {kind}."
        )
    if logits.ndim != 2:
        raise LimbeckError(
            f"faithful_distillation needs one class for each example; got logits of shape {list(logits.shape)}."
        )


def check_boundable(
    answer: Callable[[Batch], Outputs], batch: Batch, whose: str, *, low: float | None, high: float | None
) -> None:
    """Check that a network has bounds, and that those of a single point are its own outputs.

    Raises:
        LimbeckError: If not; the message names the operation.
    """
    point = input_box(batch.inputs, 0.0, low=low, high=high)
    with torch.no_grad():
        try:
            bounds = bounds_of(answer, batch, point)
        except LimbeckError as error:
            raise LimbeckError(f"The {whose} cannot be bounded. {error}") from error
        with torch.autocast(point.low.device.type, enabled=False):
            plain = answer(batch._replace(inputs=point.low))[LOGITS]
    if not all(torch.allclose(end, plain, rtol=1e-4, atol=1e-4) for end in bounds):
        raise LimbeckError(
            f"The {whose} cannot be bounded: for a single input, interval arithmetic gives other logits than the "
            "network itself, which may change its values in place. Use one that does not."
        )


@validates_arguments
def faithful_distillation(
    teacher: Any,
    *,
    epsilon: float = 0.01,
    gap_weight: float = 1.0,
    warmup: float = 0.5,
    temperature: float = 4.0,
    weight: float = 0.9,
    labels: bool = True,
    low: float | None = None,
    high: float | None = None,
    epochs: int | None = None,
) -> Recipe:
    r"""Learn soft targets and labels, and lower a certificate: :math:`L_{KD} + \lambda \, gap_\epsilon(x)`.

    :math:`L_{KD} = w T^2 KL(p \| q) + (1 - w)(-\log q_y)` is that of `hinton`. The gap is a bound of
    :math:`\max_{|x' - x| \le \epsilon} |q_c(x') - p_c(x')|`, with c the teacher's class at x, by interval arithmetic
    through both networks. Epsilon rises linearly from 0. With :math:`\lambda = 0` it is `hinton`; at
    :math:`\epsilon = 0` the gap is :math:`|q_c - p_c|`. A student step costs about three forward and backward passes,
    and the teacher is called on each batch, never read from a cache alone.

    Args:
        teacher: The teacher: a module, a `Teacher` that is one network, or the name of a model in the run.
        epsilon: The largest change of an input, as a fraction of its range, at the end of the warm-up.
        gap_weight: lambda, the weight of the gap, at least 0.
        warmup: The share of the training over which epsilon rises, from 0 to 1. At 0 it is constant.
        temperature: T of the soft targets, above 0.
        weight: w, the weight of the soft targets, from 0 to 1. At 0 only labels are learned beside the gap.
        labels: Whether to use labels. False drops the label term.
        low: The smallest value of an input; by default 0.
        high: The largest; by default 255 for bytes and 1 for other numbers.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range. When the stage is opened: if the inputs are tokens, or a network
            has operations without bounds.

    Example:
        >>> recipe = faithful_distillation(nn.Linear(4, 3), gap_weight=2.0, weight=1.0, labels=False)
        >>> [repr(stage.objective) for stage in recipe.stages()]
        ['1.0 * Loss(kl_divergence, temperature=4.0) + 2.0 * CertifiedGapLoss(ramp(0.01, start=0.0, until=0.5))']

    Source: Lamb, Brunel, Dvijotham, Kumar, Torr and Eiras, 2023, arXiv:2306.04431.
    """
    check_epsilon(epsilon)
    check_weight(gap_weight=gap_weight)
    check_share(warmup=warmup, weight=weight)
    check_hyper(temperature=temperature)
    check_limits(low, high)
    objective: Objective = weight * Loss(kl_divergence, temperature=temperature)
    if labels:
        objective = objective + (1 - weight) * Loss(cross_entropy)
    if gap_weight:
        rising = ramp(epsilon, until=warmup) if warmup else constant(epsilon)
        objective = objective + gap_weight * CertifiedGapLoss(rising, low=low, high=high)
        teacher = without_cache(as_teacher(teacher))  # no cache has outputs for intervals
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="faithful_distillation"))
