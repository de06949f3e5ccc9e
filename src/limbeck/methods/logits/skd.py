"""SKD: soft targets, and a whitened distance between the Gram matrices of normalized logits."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import ArgumentError
from limbeck.functional import KernelClaim, check_hyper, kernel, kl_divergence
from limbeck.functional.kernel import validates_pair
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import add_label_loss, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task


def _normalize(rows: Tensor, masked: Tensor) -> Tensor:
    """The rows at length 1, without the masked columns; a row of zeros stays."""
    live = rows.masked_fill(masked, 0.0)
    # In units of the largest value, whose square could overflow.
    unit = live.detach().abs().amax(-1, keepdim=True) if live.shape[-1] else live.detach().sum(-1, keepdim=True)
    live = live / unit.masked_fill(unit == 0, 1.0)
    length = live.square().sum(-1, keepdim=True)
    return live / length.masked_fill(unit == 0, 1.0).sqrt()


@kernel(per="batch")
@validates_pair
def gram_mahalanobis(
    student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"], *, ridge: float = 0.1
) -> Float[Tensor, ""]:
    r"""Compute the mean Mahalanobis distance between the rows of two Gram matrices of normalized logits.

    With the rows of Z and V scaled to length 1, :math:`D = (Z Z^T - V V^T) / C` and :math:`\Sigma` the covariance of
    the rows of D, it is :math:`\frac1B \sum_i \sqrt{d_i^T (\Sigma + \epsilon I)^{-1} d_i}`. It compares the directions
    of the logits of all pairs of examples, in the space where the differences are white. C is the number of classes
    that some example has. One that is -inf on either side is left out of both rows. With one example it is 0.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        ridge: epsilon, above 0: what is added to the diagonal of the covariance (Tikhonov regularization).

    Raises:
        LimbeckError: If the shapes differ.

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> gram_mahalanobis(z, 3 * z), gram_mahalanobis(z, z.flip(0)), gram_mahalanobis(z, z.abs() + 1) > 0
        (tensor(0.), tensor(0.), tensor(True))

    Source: Streamlined Knowledge Distillation, CVPR 2026, and the authors' code, `Distiller/SKD.py`.
    """
    masked = (student == -torch.inf) | (teacher == -torch.inf)
    classes = (~masked).any(0).sum().clamp_min(1)
    z, v = _normalize(student, masked), _normalize(teacher, masked)
    apart = (z @ z.T - v @ v.T) / classes
    count = len(apart)
    if count == 0:
        return (z - v).sum()
    centered = apart - apart.mean(0)
    covariance = centered.T @ centered / max(count - 1, 1)
    factor = torch.linalg.cholesky(covariance + ridge * torch.eye(count, dtype=z.dtype, device=z.device))
    squared = (apart * torch.cholesky_solve(apart.T, factor).T).sum(-1)
    # The slope of a root is infinite at 0, where the distance has none.
    positive = squared > 0
    return squared.where(positive, 1.0).sqrt().where(positive, 0.0).mean()


CARD = MethodCard(
    name="skd",
    title="Streamlined Knowledge Distillation",
    authors="The authors of github.com/HyunJunSik/StreamLined",
    year=2026,
    arxiv=None,
    venue="CVPR 2026",
    claim="Two terms are enough: soft targets for each example, and the Gram matrix of normalized logits for the "
    "directions between examples, compared in the space where their differences are white.",
    when="When only logits are there and hinton is not enough. The second term sees the whole batch, and inverts a "
    "matrix with a row for each of its examples.",
    bibtex="""@inproceedings{skd2026streamlined,
  title = {Streamlined Knowledge Distillation},
  author = {{The authors of github.com/HyunJunSik/StreamLined}},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2026}
}""",
    ranges={
        "temperature": SearchRange(1.0, 20.0, log=True),
        "ridge": SearchRange(1e-6, 1.0, log=True),
        "weight": SearchRange(0.1, 10.0, log=True),
        "direction_weight": SearchRange(0.1, 10.0, log=True),
    },
    kernels=(KernelClaim(gram_mahalanobis, zero_at_equality=True,
                         invariances=("student_scale", "teacher_scale")),),
    task_reason="its Gram matrix has a row for each example, and would have one for each position",
)  # fmt: skip


@validates_arguments
def skd(
    teacher: Any,
    *,
    temperature: float = 4.0,
    ridge: float = 0.1,
    weight: float = 0.9,
    direction_weight: float = 0.9,
    label_weight: float = 0.1,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels, soft targets and directions: :math:`-v \log q_y + w T^2 KL(p \| q) + u L_{direction}`.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        temperature: T, above 0; 4 in the authors' code.
        ridge: epsilon, above 0; 0.1 in the authors' code.
        weight: w, the weight of the soft targets; 0.9 in the authors' code.
        direction_weight: u, the weight of the Gram matrices; 0.9 in the authors' code.
        label_weight: v, the weight of the labels; 0.1 in the authors' code. 0 leaves them out.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range.

    Example:
        >>> from torch import nn
        >>> [stage.name for stage in skd(nn.Linear(4, 3)).stages()]
        ['skd']

    Source: Streamlined Knowledge Distillation, CVPR 2026.
    """
    check_hyper(temperature=temperature)
    check_weight(ridge=ridge, weight=weight, direction_weight=direction_weight, label_weight=label_weight)
    if ridge == 0:
        raise ArgumentError("ridge=0 leaves a covariance that cannot be inverted; it is above 0.", argument="ridge")
    task = CARD.get_task(task)
    soft = weight * Loss(kl_divergence, temperature=temperature)
    objective = add_label_loss(soft + direction_weight * Loss(gram_mahalanobis, ridge=ridge), task, label_weight)
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="skd"))
