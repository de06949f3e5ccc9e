"""Weighted soft labels: an example has less weight where the student is already better than the teacher."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.functional import KernelClaim, check_hyper, kernel, kl_divergence
from limbeck.functional.closed_form import guarded_log_softmax
from limbeck.functional.kernel import validates_pair
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import add_label_loss, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task

_SMALLEST = 1e-7  # nats; the authors' code adds it to the teacher's cross-entropy


@kernel(per="position")
@validates_pair
def weighted_soft_label_kl(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    labels: Integer[Tensor, "*batch"],
    temperature: float = 1.0,
) -> Float[Tensor, "*batch"]:
    r"""Compute the KL divergence times T^2, with a weight for each row, in nats.

    :math:`T^2 (1 - e^{-\ell_s / \ell_t}) KL(p \| q)`, with :math:`\ell_s = -\log q_y` of the student and
    :math:`\ell_t = -\log p_y` of the teacher at temperature 1. The weight is a constant: no gradient goes through it.
    It is near 1 where the student is much worse than the teacher at the label, 0.63 where both are equal, and near 0
    where it is much better, because there the soft label only adds bias.

    A label of -100 gives 0.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        labels: Class indices from 0 to classes - 1, or -100.
        temperature: T, above 0.

    Raises:
        LimbeckError: If the shapes of the logits differ, or `temperature` is not above 0.

    Example:
        >>> z, v = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
        >>> weighted_soft_label_kl(z, v, labels=torch.tensor([0])) / kl_divergence(z, v)
        tensor([0.9958])

    Source: Zhou, Song, Chen, Zhou, Wang, Yuan and Zhang, 2021, arXiv:2102.00650, equation 8.
    """
    labeled = labels != IGNORED
    label = labels.masked_fill(~labeled, 0).long().unsqueeze(-1)
    with torch.no_grad():
        ours, theirs = (-guarded_log_softmax(rows, 1.0).gather(-1, label).squeeze(-1) for rows in (student, teacher))
        weight = -torch.expm1(-ours / (theirs + _SMALLEST))
    value = weight * kl_divergence(student, teacher, temperature=temperature)
    return value.masked_fill(~labeled, 0.0)


CARD = MethodCard(
    name="wsl",
    title="Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective",
    authors="Zhou, Song, Chen, Zhou, Wang, Yuan and Zhang",
    year=2021,
    arxiv="2102.00650",
    venue="ICLR 2021",
    claim="Soft labels lower the variance of what is learned and add bias. Each example has a weight, which is small "
    "where the student is already better than the teacher at the label.",
    when="Where hinton helps at first and hurts late in training, when many examples are learned. It needs labels.",
    bibtex="""@inproceedings{zhou2021rethinking,
  title = {Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective},
  author = {Zhou, Helong and Song, Liangchen and Chen, Jiajie and Zhou, Ye and Wang, Guoli and Yuan, Junsong and
            Zhang, Qian},
  booktitle = {International Conference on Learning Representations},
  year = {2021},
  eprint = {2102.00650},
  archivePrefix = {arXiv}
}""",
    labels="required",
    ranges={"temperature": SearchRange(1.0, 20.0, log=True), "weight": SearchRange(0.1, 10.0, log=True)},
    kernels=(KernelClaim(weighted_soft_label_kl, hyper={"temperature": 2.0}, zero_at_equality=True, tolerance=0.0,
                         stop_gradient=True, invariances=("student_shift", "teacher_shift")),),
    tasks=("classification", "segmentation", "language_modeling"),
    task_reason="its weights compare the cross-entropies of one label, and such targets have no single class",
)  # fmt: skip


@validates_arguments
def wsl(
    teacher: Any,
    *,
    temperature: float = 2.0,
    weight: float = 2.5,
    label_weight: float = 1.0,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels and weighted soft labels: :math:`-v \log q_y + w T^2 (1 - e^{-\ell_s / \ell_t}) KL(p \| q)`.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        temperature: T, above 0; 2 in the authors' code for ImageNet.
        weight: w, the weight of the soft labels; 2.5 in the authors' code for ImageNet.
        label_weight: v, the weight of the labels; 1 in the paper.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or the task has no single label.

    Example:
        >>> from torch import nn
        >>> print(*(stage.objective for stage in wsl(nn.Linear(4, 3)).stages()))
        1.0 * Loss(cross_entropy) + 2.5 * Loss(weighted_soft_label_kl, temperature=2.0)

    Source: Zhou et al., 2021, arXiv:2102.00650, equations 8 and 9.
    """
    check_hyper(temperature=temperature)
    check_weight(weight=weight, label_weight=label_weight)
    task = CARD.get_task(task)
    soft = Loss(weighted_soft_label_kl, classes=task.classes_dim, temperature=temperature)
    objective = add_label_loss(weight * soft, task, label_weight)
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="wsl"))
