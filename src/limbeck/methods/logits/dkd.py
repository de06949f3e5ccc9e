"""Decoupled knowledge distillation: the label against the rest, and the rest among themselves."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.functional import KernelClaim, check_hyper, coarse_logits, kernel, kl_divergence
from limbeck.functional.kernel import validates_pair
from limbeck.functional.row_blocks import compute_by_rows
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import add_label_loss, check_share, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.schedule import ramp
from limbeck.tasks import Task


@kernel(per="position")
@validates_pair
def decoupled_kl(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    labels: Integer[Tensor, "*batch"],
    temperature: float = 1.0,
    target_weight: float = 1.0,
    non_target_weight: float = 8.0,
) -> Float[Tensor, "*batch"]:
    r"""Compute the two parts of the KL divergence with weights of their own, times T^2, in nats.

    With y the label, :math:`b = (p_y, 1 - p_y)` and :math:`\hat p_c = p_c / (1 - p_y)` for :math:`c \ne y` (those of
    the student with q) it is :math:`T^2 (\alpha KL(b^p \| b^q) + \beta KL(\hat p \| \hat q))`. The ordinary divergence
    is :math:`KL(p \| q) = KL(b^p \| b^q) + (1 - p_y) KL(\hat p \| \hat q)`: it all but loses the second part where the
    teacher is sure.

    With two classes the second part is 0. A label of -100 gives 0. A column that is -inf in both is no class.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        labels: Class indices from 0 to classes - 1, or -100.
        temperature: T, above 0.
        target_weight: alpha, the weight of the label against the rest (TCKD).
        non_target_weight: beta, the weight of the other classes among themselves (NCKD).

    Raises:
        LimbeckError: If the shapes of the logits differ, or `temperature` is not above 0.

    Example:
        >>> z, v = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[2.0, 1.0, 0.0]])
        >>> decoupled_kl(z, v, labels=torch.tensor([0]), target_weight=0.0, non_target_weight=1.0)
        tensor([0.1109])

    Source: Zhao, Cui, Song, Qiu and Liang, 2022, arXiv:2203.08679, equations 5 and 7.
    """

    def compute(ours: Tensor, theirs: Tensor, labels: Tensor) -> Tensor:
        labeled = labels != IGNORED
        label = labels.masked_fill(~labeled, 0).long().unsqueeze(-1)
        pair = [coarse_logits(rows, label, temperature=temperature) for rows in (ours, theirs)]
        others = [rows.scatter(-1, label, -torch.inf) for rows in (ours, theirs)]
        target, rest = (kl_divergence(*both, temperature=temperature) for both in (pair, others))
        return (target_weight * target + non_target_weight * rest).masked_fill(~labeled, 0.0)

    return compute_by_rows(compute, student, teacher, labels)


CARD = MethodCard(
    name="dkd",
    title="Decoupled Knowledge Distillation",
    authors="Zhao, Cui, Song, Qiu and Liang",
    year=2022,
    arxiv="2203.08679",
    venue="CVPR 2022",
    claim="The divergence is split into the label against the rest and the rest among themselves. The second part has "
    "a weight of its own, so it also counts where the teacher is sure.",
    when="For three or more classes and a teacher that is sure of its training data. With two classes the second part "
    "is always 0. Choose beta (`non_target_weight`) on development data: the authors use 1 to 8, more for better "
    "teachers.",
    bibtex="""@inproceedings{zhao2022decoupled,
  title = {Decoupled Knowledge Distillation},
  author = {Zhao, Borui and Cui, Quan and Song, Renjie and Qiu, Yiyu and Liang, Jiajun},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2022},
  eprint = {2203.08679},
  archivePrefix = {arXiv}
}""",
    labels="required",
    ranges={
        "temperature": SearchRange(1.0, 20.0, log=True),
        "target_weight": SearchRange(0.0, 2.0),
        "non_target_weight": SearchRange(0.5, 16.0, log=True),
    },
    kernels=(KernelClaim(decoupled_kl, hyper={"temperature": 4.0}, zero_at_equality=True, tolerance=0.0,
                         invariances=("student_shift", "teacher_shift")),),
    tasks=("classification", "segmentation", "language_modeling"),
    task_reason="it separates the class of the label from the others, and such targets have no single class",
    keywords=("tckd", "nckd"),
)  # fmt: skip


@validates_arguments
def dkd(
    teacher: Any,
    *,
    temperature: float = 4.0,
    target_weight: float = 1.0,
    non_target_weight: float = 8.0,
    label_weight: float = 1.0,
    warmup: float = 0.083,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels and the two parts of the KL divergence: :math:`-v \log q_y + T^2 (\alpha TCKD + \beta NCKD)`.

    TCKD is the divergence of (label, all others), NCKD that of the other classes among themselves.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        temperature: T, above 0; 4 in the paper.
        target_weight: alpha, the weight of TCKD; 1 in the paper.
        non_target_weight: beta, the weight of NCKD; 8 for the paper's ResNet32x4 and ResNet8x4, 2 for ResNet56 and
            ResNet20.
        label_weight: v, the weight of the labels; 1 in the paper.
        warmup: The fraction of the stage in which the weight of the divergence grows from 0; in the authors' code 20 of
            240 epochs. 0 for none.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or the task has no single label.

    Example:
        >>> from torch import nn
        >>> print(*(stage.objective for stage in dkd(nn.Linear(4, 3), warmup=0.0, temperature=2.0).stages()))
        1.0 * Loss(cross_entropy) + 1.0 * Loss(decoupled_kl, temperature=2.0, target_weight=1.0, non_target_weight=8.0)

    Source: Zhao et al., 2022, arXiv:2203.08679, equation 7.
    """
    check_hyper(temperature=temperature)
    check_weight(target_weight=target_weight, non_target_weight=non_target_weight, label_weight=label_weight)
    check_share(warmup=warmup)
    task = CARD.get_task(task)
    divergence = Loss(
        decoupled_kl, classes=task.classes_dim, temperature=temperature, target_weight=target_weight,
        non_target_weight=non_target_weight,
    )  # fmt: skip
    objective = add_label_loss((ramp(1.0, until=warmup) if warmup else 1.0) * divergence, task, label_weight)
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="dkd"))
