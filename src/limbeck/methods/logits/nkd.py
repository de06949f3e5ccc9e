"""Normalized knowledge distillation: a soft term for the label, and normalized terms for the other classes."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.functional import KernelClaim, check_hyper, kernel, kl_divergence, probabilities
from limbeck.functional.closed_form import guarded_log_softmax
from limbeck.functional.kernel import validates_pair
from limbeck.functional.row_blocks import compute_by_rows
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import add_label_loss, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task


@kernel(per="position")
@validates_pair
def normalized_cross_entropy(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    labels: Integer[Tensor, "*batch"],
    temperature: float = 1.0,
    non_target_weight: float = 1.5,
) -> Float[Tensor, "*batch"]:
    r"""Compute the soft term of the label and the cross-entropy of the normalized other classes, in nats.

    :math:`-p_y \log q_y - \gamma \lambda^2 \sum_{c \ne y} \hat p_c \log \hat q_c`, with y the label, p and q at
    temperature 1, and :math:`\hat p, \hat q` the distributions over the other classes at the temperature
    :math:`\lambda`, each with the sum 1. Both sums being equal, the second term is smallest where
    :math:`\hat q = \hat p`; in ordinary distillation the sums 1 - p_y and 1 - q_y differ.

    It is a cross-entropy: its minimum over the other classes is :math:`\gamma \lambda^2 H(\hat p)`, not 0. With two
    classes the second term is 0. A label of -100 gives 0.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        labels: Class indices from 0 to classes - 1, or -100.
        temperature: lambda, the temperature of the other classes, above 0.
        non_target_weight: gamma, their weight.

    Raises:
        LimbeckError: If the shapes of the logits differ, or `temperature` is not above 0.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0, 0.0]])
        >>> normalized_cross_entropy(logits, logits, labels=torch.tensor([0]), non_target_weight=1.0)
        tensor([1.0594])

    Source: Yang, Zeng, Li, Zhang, Yuan and Li, 2023, arXiv:2303.13005, equation 6.
    """

    def compute(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        labeled = labels != IGNORED
        label = labels.masked_fill(~labeled, 0).long().unsqueeze(-1)
        log_q = guarded_log_softmax(student, 1.0).gather(-1, label).squeeze(-1)
        target = -probabilities(teacher).gather(-1, label).squeeze(-1) * log_q
        ours, theirs = (rows.scatter(-1, label, -torch.inf) for rows in (student, teacher))
        entropy = -(probabilities(theirs, temperature=temperature) * guarded_log_softmax(theirs, temperature)).sum(-1)
        rest = kl_divergence(ours, theirs, temperature=temperature) + temperature**2 * entropy
        return (target + non_target_weight * rest).masked_fill(~labeled, 0.0)

    return compute_by_rows(compute, student, teacher, labels)


CARD = MethodCard(
    name="nkd",
    title="From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss and "
    "Customized Soft Labels",
    authors="Yang, Zeng, Li, Zhang, Yuan and Li",
    year=2023,
    arxiv="2303.13005",
    venue="ICCV 2023",
    claim="The probabilities of the classes that are not the label are normalized to sum to 1 on both sides, so that "
    "the student can match the teacher's; the label has a soft term of its own.",
    when="In place of dkd, which it resembles: the label's term is a soft label and not a divergence, and gamma is "
    "the same for all pairs of the paper. With two classes only the soft term is left.",
    bibtex="""@inproceedings{yang2023knowledge,
  title = {From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss and
           Customized Soft Labels},
  author = {Yang, Zhendong and Zeng, Ailing and Li, Zhe and Zhang, Tianke and Yuan, Chun and Li, Yu},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision},
  year = {2023},
  eprint = {2303.13005},
  archivePrefix = {arXiv}
}""",
    labels="required",
    ranges={
        "temperature": SearchRange(1.0, 20.0, log=True),
        "non_target_weight": SearchRange(0.25, 8.0, log=True),
    },
    kernels=(KernelClaim(normalized_cross_entropy, hyper={"temperature": 2.0},
                         invariances=("student_shift", "teacher_shift")),),
    tasks=("classification", "segmentation", "language_modeling"),
    task_reason="it separates the class of the label from the others, and such targets have no single class",
)  # fmt: skip


@validates_arguments
def nkd(
    teacher: Any,
    *,
    temperature: float = 1.0,
    non_target_weight: float = 1.5,
    label_weight: float = 1.0,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels, soft labels and the normalized other classes.

    :math:`-v \log q_y - p_y \log q_y - \gamma \lambda^2 \sum_{c \ne y} \hat p_c \log \hat q_c` in nats, see
    `normalized_cross_entropy`.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        temperature: lambda, the temperature of the other classes, above 0; 1 in the authors' code.
        non_target_weight: gamma, the weight of the other classes; 1.5 in the authors' code.
        label_weight: v, the weight of the labels; 1 in the paper.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or the task has no single label.

    Example:
        >>> from torch import nn
        >>> print(*(stage.objective for stage in nkd(nn.Linear(4, 3)).stages()))
        1.0 * Loss(cross_entropy) + Loss(normalized_cross_entropy, temperature=1.0, non_target_weight=1.5)

    Source: Yang et al., 2023, arXiv:2303.13005, equations 6 and 7.
    """
    check_hyper(temperature=temperature)
    check_weight(non_target_weight=non_target_weight, label_weight=label_weight)
    task = CARD.get_task(task)
    soft = Loss(
        normalized_cross_entropy, classes=task.classes_dim, temperature=temperature, non_target_weight=non_target_weight
    )
    objective = add_label_loss(soft, task, label_weight)
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="nkd"))
