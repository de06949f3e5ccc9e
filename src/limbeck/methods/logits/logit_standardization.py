"""Logit standardization: the z-scores of the logits are compared, not the logits."""

from __future__ import annotations

import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.functional import KernelClaim, check_hyper, kernel, kl_divergence
from limbeck.functional.closed_form import find_divergence, is_well_scaled
from limbeck.functional.divergence import KULLBACK_LEIBLER
from limbeck.functional.kernel import validates_pair
from limbeck.functional.row_blocks import Needed, Slopes, compute_by_rows
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import add_label_loss, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task

_FLAT = 8  # units of rounding: a smaller relative spread of the logits is noise
_SPREAD, _SMALLEST = 1e-3, 1e-12  # a smaller spread, over the mean and in itself, is looked at more closely


def standardize_logits(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch classes"]:
    r"""Compute the z-scores of each row: :math:`(z - \bar z) / \sigma`, with the standard deviation :math:`\sigma`.

    The variance is the mean over the classes that exist, not the unbiased one.
    A class that is -inf stays -inf and counts in no mean. A row whose logits are all equal gets 0 everywhere.

    Args:
        logits: Logits, classes last.

    Example:
        >>> standardize_logits(torch.tensor([[1.0, 3.0, -torch.inf], [5.0, 5.0, 5.0]]))
        tensor([[-1.0000,  1.0000,    -inf],
                [ 0.0000,  0.0000,  0.0000]])

    Source: Sun, Ren, Li, Wang and Cao, 2024, arXiv:2403.01427, algorithm 1.
    """
    masked = logits == -torch.inf
    live = logits.masked_fill(masked, 0.0)
    # In units of the largest logit, whose square could overflow. The scores do not depend on the unit.
    unit = live.detach().abs().amax(-1, keepdim=True) if live.shape[-1] else live.detach().sum(-1, keepdim=True)
    live = live / unit.masked_fill(unit == 0, 1.0)
    count = (~masked).sum(-1, keepdim=True).clamp_min(1)
    apart = (live - live.sum(-1, keepdim=True) / count).masked_fill(masked, 0.0)
    variance = apart.square().sum(-1, keepdim=True) / count
    flat = variance.detach() <= (_FLAT * torch.finfo(live.dtype).eps) ** 2
    return (apart / variance.where(~flat, 1.0).sqrt()).masked_fill(masked, -torch.inf)


@kernel(per="position")
@validates_pair
def standardized_kl(
    student: Float[Tensor, "*batch classes"], teacher: Float[Tensor, "*batch classes"], *, temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    r"""Compute the KL divergence of the softmaxes of z-scores, times T^2, in nats.

    :math:`T^2 KL(softmax(\tilde v / T) \| softmax(\tilde z / T))` with :math:`\tilde z, \tilde v` the z-scores of the
    student's and the teacher's logits (`standardize_logits`). It is 0 if the student's logits are those of the teacher
    times a positive number plus a number: the student must have the order and the relations of the classes, not the
    size. So each example has its own temperature on each side, T times its standard deviation.

    With two classes the z-scores are always 1 and -1, and the gradient is 0.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        temperature: T, above 0.

    Raises:
        LimbeckError: If the shapes differ, or `temperature` is not above 0.

    Example:
        >>> v = torch.tensor([[3.0, 1.0, 0.0]])
        >>> standardized_kl(0.1 * v - 7, v) < 1e-6
        tensor([True])

    Source: Sun, Ren, Li, Wang and Cao, 2024, arXiv:2403.01427, equations 9 and 10.
    """

    def compute(ours: Tensor, theirs: Tensor) -> Tensor:
        return kl_divergence(standardize_logits(ours), standardize_logits(theirs), temperature=temperature)

    return compute_by_rows(compute, student, teacher, find=functools.partial(_find_slopes, temperature))


def _find_slopes(temperature: float, needed: Needed, student: Tensor, teacher: Tensor) -> tuple[Tensor, Slopes] | None:
    """The values with the slopes; None if a logit is infinite or huge, or a row nearly constant."""
    if student.shape[-1] < 3 or not is_well_scaled(student, teacher):
        return None
    scores, deviations = [], []
    for logits in (student, teacher):
        mean = logits.mean(-1, keepdim=True)
        apart = logits - mean
        deviation = torch.linalg.vector_norm(apart, dim=-1, keepdim=True).div_(apart.shape[-1] ** 0.5)
        if not (float((deviation - _SPREAD * mean.abs_()).amin()) > 0 and float(deviation.amin()) > _SMALLEST):
            return None
        scores.append(apart.div_(deviation))
        deviations.append(deviation)
    result = find_divergence(scores[0], scores[1], temperature, KULLBACK_LEIBLER, (needed[0], needed[1]))
    slopes: list[Tensor | None] = []
    for score, deviation, slope in zip(scores, deviations, (result.by_student, result.by_teacher), strict=True):
        if slope is None:
            slopes.append(None)
            continue
        # The slope in the scores has the sum 0, so the mean of the logits adds nothing.
        along = (slope * score).mean(-1, keepdim=True)
        slopes.append(slope.addcmul_(score, along, value=-1).mul_(temperature / deviation))
    return result.value, slopes


CARD = MethodCard(
    name="logit_standardization",
    title="Logit Standardization in Knowledge Distillation",
    authors="Sun, Ren, Li, Wang and Cao",
    year=2024,
    arxiv="2403.01427",
    venue="CVPR 2024",
    claim="The z-scores of the logits are compared. A small student need not reach the size of the teacher's logits, "
    "only their relations, and each example has its own temperature.",
    when="For a student much smaller than its teacher, whose logits it cannot match in size, and for vision "
    "transformers. It needs three or more classes. Labels set the size of the student's logits: without them its "
    "confidence means nothing.",
    bibtex="""@inproceedings{sun2024logit,
  title = {Logit Standardization in Knowledge Distillation},
  author = {Sun, Shangquan and Ren, Wenqi and Li, Jingzhi and Wang, Rui and Cao, Xiaochun},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2024},
  eprint = {2403.01427},
  archivePrefix = {arXiv}
}""",
    ranges={"temperature": SearchRange(0.5, 8.0, log=True), "weight": SearchRange(0.5, 20.0, log=True)},
    kernels=(
        KernelClaim(standardized_kl, hyper={"temperature": 2.0}, zero_at_equality=True, tolerance=0.0, fewest_classes=3,
                    invariances=("student_shift", "teacher_shift", "student_scale", "teacher_scale")),
    ),
    tasks=("classification", "segmentation", "language_modeling"),
    task_reason="it compares the classes of one distribution with each other",
)  # fmt: skip


@validates_arguments
def logit_standardization(
    teacher: Any,
    *,
    temperature: float = 2.0,
    weight: float = 9.0,
    label_weight: float = 0.1,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels and the z-scores of the teacher's logits: :math:`-v \log q_y + w T^2 KL(\tilde p \| \tilde q)`.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        temperature: T, the base temperature, above 0; 2 in the paper.
        weight: w, the weight of the teacher; 9 in the paper.
        label_weight: v, the weight of the labels; 0.1 in the paper. 0 leaves them out, for data without labels.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or the task has no classes.

    Example:
        >>> from torch import nn
        >>> print(*(stage.objective for stage in logit_standardization(nn.Linear(4, 3)).stages()))
        0.1 * Loss(cross_entropy) + 9.0 * Loss(standardized_kl, temperature=2.0)

    Source: Sun et al., 2024, arXiv:2403.01427, algorithm 1.
    """
    check_hyper(temperature=temperature)
    check_weight(weight=weight, label_weight=label_weight)
    task = CARD.get_task(task)
    scores = Loss(standardized_kl, classes=task.classes_dim, temperature=temperature)
    objective = add_label_loss(weight * scores, task, label_weight)
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="logit_standardization"))
