"""Multi-level logit distillation: predictions at several temperatures, of examples, batches and classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.errors import ArgumentError
from limbeck.functional import KernelClaim, kernel, kl_divergence, probabilities
from limbeck.functional.directions import inner_products
from limbeck.functional.kernel import validates_pair
from limbeck.functional.row_blocks import Needed, Slopes, apply_slopes, compute_by_rows
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import add_label_loss, check_temperature, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task

_TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)


@kernel(per="position")
@validates_pair
def several_temperature_kl(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    temperatures: Sequence[float] = _TEMPERATURES,
) -> Float[Tensor, "*batch"]:
    r"""Compute :math:`\sum_k T_k^2 KL(p^{(k)} \| q^{(k)})`, with p and q at each of several temperatures, in nats.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        temperatures: The temperatures, each above 0.

    Raises:
        LimbeckError: If the shapes differ, or a temperature is not above 0.

    Example:
        >>> z, v = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
        >>> several_temperature_kl(z, v, temperatures=(1.0,)) == kl_divergence(z, v)
        tensor([True])

    Source: Jin, Wang and Lin, 2023, CVPR, section 3.2 (instance-level alignment).
    """

    def compute(ours: Tensor, theirs: Tensor) -> Tensor:
        first, *others = (kl_divergence(ours, theirs, temperature=one) for one in temperatures)
        return sum(others, start=first)

    return compute_by_rows(compute, student, teacher)


def _count_rows(rows: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The rows of a batch, positions included, and which of them count, as a column of ones and zeros."""
    flat = rows.reshape(-1, rows.shape[-1])
    if mask is None:
        return flat, flat.new_ones(len(flat), 1)
    whole = mask.bool().reshape(mask.shape + (1,) * (rows.ndim - 1 - mask.ndim)).expand(rows.shape[:-1])
    return flat, whole.reshape(-1, 1).to(flat.dtype)


def _count_probabilities(student: Tensor, teacher: Tensor, mask: Tensor | None, temperature: float) -> list[Tensor]:
    """The rows of probabilities of the teacher and of the student, 0 in rows that do not count."""
    sides = []
    for logits in (teacher, student):
        rows, counts = _count_rows(probabilities(logits, temperature=temperature), mask)
        sides.append(rows if mask is None else rows.masked_fill(counts == 0, 0.0))  # also where the teacher says NaN
    return sides


def _compare_grams(
    student: Tensor, teacher: Tensor, mask: Tensor | None, temperatures: Sequence[float], *, by_class: bool
) -> Tensor:
    """The sum over the temperatures of the squared differences of Gram matrices, of rows or of classes.

    The slopes of each temperature are found in closed form before the next, so that at most five tensors of the size of
    the logits are in memory, whatever the number of temperatures.
    """

    def function(ours: Tensor, theirs: Tensor) -> Tensor:
        total = ours.new_zeros(())
        for temperature in temperatures:
            p, q = _count_probabilities(ours, theirs, mask, temperature)
            total = total + (_gram_difference(p.T, q.T) if by_class else _gram_difference(p, q))
        return total

    def find(needed: Needed, ours: Tensor, theirs: Tensor) -> tuple[Tensor, Slopes]:
        if not any(needed):
            return function(ours, theirs), [None, None]
        total, slopes = ours.new_zeros(()), [torch.zeros_like(ours) if want else None for want in needed]
        for temperature in temperatures:
            p, q = _count_probabilities(ours, theirs, mask, temperature)
            total += _add_slopes(slopes, p, q, temperature, by_class=by_class)
            del p, q  # else they would be in memory beside those of the next temperature
        return total, slopes

    value = apply_slopes(function, find, student, teacher)
    return function(student, teacher) if value is None else value


def _add_slopes(slopes: Slopes, p: Tensor, q: Tensor, temperature: float, *, by_class: bool) -> Tensor:
    """Compute the value of one temperature, and add its slopes to those of the others; p may be lost."""
    needed = tuple(slope is not None for slope in slopes)
    value, *found = _find_gram_slopes(p.T, q.T, needed) if by_class else _find_gram_slopes(p, q, needed)
    for slope, rows, moved in zip(slopes, (q, p), found, strict=True):
        if slope is not None and moved is not None:
            by_logits = _through_softmax(rows, moved.T if by_class else moved)
            slope.add_(by_logits.view_as(slope), alpha=1 / temperature)
    return value


def _gram_difference(p: Tensor, q: Tensor) -> Tensor:
    """The squared Frobenius norm of ``F = p @ p.T - q @ q.T``, with the smaller of its two kinds of products.

    With d = p - q, F is ``q d' + d q' + d d'``, and its norm follows from products of columns. It is exactly 0 where
    p = q.
    """
    if p.shape[0] <= p.shape[1]:
        return (inner_products(p) - inner_products(q)).square().sum()
    return _norm_of_difference(*_multiply_columns(p - q, q))


def _multiply_columns(apart: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The products of the columns of d with d, of d with q, and of q with q."""
    return apart.T @ apart, apart.T @ own, own.T @ own


def _norm_of_difference(squares: Tensor, mixed: Tensor, own: Tensor) -> Tensor:
    both = squares + 2 * mixed + 2 * mixed.T + 4 * own  # the products of p + q
    cross = squares + 2 * mixed.T  # those of p + q with p - q
    return ((squares * both).sum() + (cross * cross.T).sum()) / 2


def _find_gram_slopes(p: Tensor, q: Tensor, needed: Needed) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """`_gram_difference` with its derivatives by q and p, ``-4 F q`` and ``4 F p``, where they are needed.

    If the second is not, the memory of p is used for other numbers.
    """
    if p.shape[0] <= p.shape[1]:
        difference = inner_products(p) - inner_products(q)
        slopes = ((-4 * difference) @ q if needed[0] else None, (4 * difference) @ p if needed[1] else None)
        return difference.square().sum(), *slopes
    apart = p - q if needed[1] else p.sub_(q)
    squares, mixed, own = _multiply_columns(apart, q)
    by_q = (q @ mixed).addmm_(apart, own + mixed).mul_(-4) if needed[0] else None
    by_p = None
    if needed[1]:  # F p is F q + F d
        by_p = (q @ (mixed + squares)).addmm_(apart, own + mixed + mixed.T + squares).mul_(4)
    return _norm_of_difference(squares, mixed, own), by_q, by_p


def _through_softmax(rows: Tensor, slope: Tensor) -> Tensor:
    """The derivative by tempered logits, in place of the derivative by their probabilities."""
    return slope.sub_((slope * rows).sum(1, keepdim=True)).mul_(rows)


@kernel(per="batch")
@validates_pair
def batch_gram_distance(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    mask: Bool[Tensor, "*rows"] | None = None,
    temperatures: Sequence[float] = _TEMPERATURES,
) -> Float[Tensor, ""]:
    r"""Compute :math:`\sum_k \frac1B \| P P^T - Q Q^T \|_F^2`: the similarities of the predictions of all examples.

    P and Q have one row of probabilities for each example, at the temperature T_k, and B is the number of rows that
    count. Positions of maps and texts are rows. There is no factor T^2.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        mask: Which examples, or positions, count.
        temperatures: The temperatures, each above 0.

    Raises:
        LimbeckError: If the shapes differ, or a temperature is not above 0.

    Example:
        >>> z, v = torch.zeros(2, 2), torch.tensor([[torch.inf, 0.0], [0.0, torch.inf]]).nan_to_num()
        >>> batch_gram_distance(z, v, temperatures=(1.0,))
        tensor(0.5000)

    Source: Jin, Wang and Lin, 2023, CVPR, section 3.3 (batch-level alignment).
    """
    _, counts = _count_rows(student, mask)

    total = _compare_grams(student, teacher, mask, temperatures, by_class=False)
    return total / counts.sum().clamp_min(1)


@kernel(per="batch")
@validates_pair
def class_gram_distance(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    mask: Bool[Tensor, "*rows"] | None = None,
    temperatures: Sequence[float] = _TEMPERATURES,
) -> Float[Tensor, ""]:
    r"""Compute :math:`\sum_k \frac1C \| P^T P - Q^T Q \|_F^2`: which classes are probable together.

    The matrices are sums over the batch, as in the paper, so the value grows with its square. C is the number of
    classes that are not -inf everywhere. There is no factor T^2.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        mask: Which examples, or positions, count.
        temperatures: The temperatures, each above 0.

    Raises:
        LimbeckError: If the shapes differ, or a temperature is not above 0.

    Example:
        >>> z, v = torch.zeros(1, 2), torch.tensor([[torch.inf, 0.0]]).nan_to_num()
        >>> class_gram_distance(z, v, temperatures=(1.0,))
        tensor(0.3750)

    Source: Jin, Wang and Lin, 2023, CVPR, section 3.4 (class-level alignment).
    """
    flat, _ = _count_rows((student != -torch.inf) | (teacher != -torch.inf), mask)
    classes = flat.any(0).sum().clamp_min(1)

    return _compare_grams(student, teacher, mask, temperatures, by_class=True) / classes


CARD = MethodCard(
    name="mlkd",
    title="Multi-Level Logit Distillation",
    authors="Jin, Wang and Lin",
    year=2023,
    arxiv=None,
    venue="CVPR 2023",
    claim="The student matches the teacher's predictions at several temperatures and at three levels: of each "
    "example, of the similarities between the examples of a batch, and of the classes that are probable together.",
    when="When logits are all there is, and more computing than for hinton is affordable. The authors train 480 "
    "epochs on weak and strong augmentations at once: compare at equal numbers of steps. Two terms see the whole "
    "batch.",
    bibtex="""@inproceedings{jin2023multi,
  title = {Multi-Level Logit Distillation},
  author = {Jin, Ying and Wang, Jiaqi and Lin, Dahua},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2023}
}""",
    ranges={"weight": SearchRange(0.1, 10.0, log=True), "label_weight": SearchRange(0.0, 1.0)},
    kernels=(
        KernelClaim(several_temperature_kl, zero_at_equality=True, tolerance=0.0,
                    invariances=("student_shift", "teacher_shift")),
        KernelClaim(batch_gram_distance, zero_at_equality=True, invariances=("student_shift", "teacher_shift")),
        KernelClaim(class_gram_distance, zero_at_equality=True, invariances=("student_shift", "teacher_shift")),
    ),
    tasks=("classification", "segmentation", "language_modeling"),
    task_reason="its matrices are of probabilities of the classes of one distribution",
)  # fmt: skip


@validates_arguments
def mlkd(
    teacher: Any,
    *,
    temperatures: Sequence[float] = _TEMPERATURES,
    weight: float = 0.9,
    label_weight: float = 0.1,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels and predictions at three levels: :math:`-v \log q_y + w (L_{example} + L_{batch} + L_{class})`.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        temperatures: The temperatures, each above 0; 2 to 6 in the authors' code.
        weight: w, the weight of each of the three levels; 0.9 in the authors' configuration.
        label_weight: v, the weight of the labels; 0.1 in the authors' configuration. 0 leaves them out.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or the task has no classes.

    Example:
        >>> from torch import nn
        >>> [stage.name for stage in mlkd(nn.Linear(4, 3), temperatures=[2.0, 4.0]).stages()]
        ['mlkd']

    Source: Jin, Wang and Lin, 2023, CVPR, section 3.
    """
    check_weight(weight=weight, label_weight=label_weight)
    if isinstance(temperatures, (str, bytes)) or not isinstance(temperatures, Sequence) or not temperatures:
        raise ArgumentError(
            f"temperatures is a list of numbers above 0; got {temperatures!r}.", argument="temperatures"
        )
    for one in temperatures:
        check_temperature(temperatures=one)
    task = CARD.get_task(task)
    hyper: dict[str, Any] = {"classes": task.classes_dim, "temperatures": tuple(map(float, temperatures))}
    levels = (several_temperature_kl, batch_gram_distance, class_gram_distance)
    first, *others = (weight * Loss(level, **hyper) for level in levels)
    objective = add_label_loss(sum(others, start=first), task, label_weight)
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="mlkd"))
