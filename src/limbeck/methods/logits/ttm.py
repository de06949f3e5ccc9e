"""Transformed teacher matching: only the teacher has a temperature, and each example may have a weight."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import ArgumentError
from limbeck.functional import KernelClaim, kernel, kl_divergence
from limbeck.functional.closed_form import guarded_log_softmax
from limbeck.functional.kernel import validates_pair
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import add_label_loss, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task


@kernel(per="position")
@validates_pair
def transformed_teacher_kl(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    exponent: float = 1.0,
    weighted: bool = False,
) -> Float[Tensor, "*batch"]:
    r"""Compute the KL divergence of the student from the teacher's transformed distribution, in nats.

    :math:`KL(p^{(\gamma)} \| q)` with :math:`p^{(\gamma)}_c = p_c^\gamma / \sum_k p_k^\gamma` and q at temperature 1.
    The power transform is the softmax at the temperature :math:`1 / \gamma`; there is no factor T^2. With `weighted`
    each row is multiplied by the power sum :math:`U_\gamma = \sum_k p_k^\gamma`, which is 1 for a teacher that is sure
    and :math:`C^{1 - \gamma}` for a uniform one over C classes.

    At an exponent of 1 it is `kl_divergence`. A column that is -inf in both contributes nothing.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        exponent: gamma, above 0: the reciprocal of the teacher's temperature.
        weighted: Whether rows are weighted by the power sum (WTTM).

    Raises:
        LimbeckError: If the shapes differ.

    Example:
        >>> z, v = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
        >>> transformed_teacher_kl(z, v, exponent=0.5), kl_divergence(z, v / 2)
        (tensor([0.1109]), tensor([0.1109]))

    Source: Zheng and Yang, 2024, arXiv:2402.11148, equations 14 and 17.
    """
    value = kl_divergence(student, exponent * teacher)
    if not weighted:
        return value
    powers = (exponent * guarded_log_softmax(teacher, 1.0)).exp().masked_fill(teacher == -torch.inf, 0.0)
    weight = powers.sum(-1)
    # The slope of the weight is the value: where it is infinite, it would make the gradient NaN.
    return torch.where(value.isinf(), weight.detach(), weight) * value


CARD = MethodCard(
    name="ttm",
    title="Knowledge Distillation Based on Transformed Teacher Matching",
    authors="Zheng and Yang",
    year=2024,
    arxiv="2402.11148",
    venue="ICLR 2024",
    claim="The student has no temperature, only the teacher has. This adds a penalty for low Renyi entropy to ordinary "
    "distillation, and the student generalizes better; examples with smooth soft labels may have more weight (WTTM).",
    when="In place of hinton with one more number to choose. Labels are optional. The weight and the exponent of the "
    "authors depend on each other: choose both on development data.",
    bibtex="""@inproceedings{zheng2024knowledge,
  title = {Knowledge Distillation Based on Transformed Teacher Matching},
  author = {Zheng, Kaixiang and Yang, En-Hui},
  booktitle = {International Conference on Learning Representations},
  year = {2024},
  eprint = {2402.11148},
  archivePrefix = {arXiv}
}""",
    ranges={"exponent": SearchRange(0.05, 1.0, log=True), "weight": SearchRange(1.0, 100.0, log=True)},
    kernels=(
        KernelClaim(transformed_teacher_kl, hyper={"exponent": 1.0}, zero_at_equality=True, tolerance=0.0),
        KernelClaim(transformed_teacher_kl, hyper={"exponent": 0.2, "weighted": True},
                    invariances=("student_shift", "teacher_shift")),
    ),
    tasks=("classification", "segmentation", "language_modeling"),
    task_reason="the power transform is one of a distribution over classes",
)  # fmt: skip


@validates_arguments
def ttm(
    teacher: Any,
    *,
    exponent: float = 0.1,
    weight: float = 45.0,
    weighted: bool = False,
    label_weight: float = 1.0,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels and the teacher's power-transformed distribution: :math:`-v \log q_y + w KL(p^{(\gamma)} \| q)`.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        exponent: gamma, above 0: the reciprocal of the teacher's temperature; 0.1 in the authors' example for VGG13 and
            VGG8 on CIFAR-100.
        weight: w, the weight of the teacher; 45 in the same example.
        weighted: Whether each example is weighted by the teacher's power sum (WTTM), which is the larger the smoother
            its soft label is. The weight is then smaller: 4 at the exponent 0.2 in the authors' example beside CRD.
        label_weight: v, the weight of the labels; 1 in the paper. 0 leaves them out, for data without labels.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or the task has no classes.

    Example:
        >>> from torch import nn
        >>> print(*(stage.objective for stage in ttm(nn.Linear(4, 3)).stages()))
        1.0 * Loss(cross_entropy) + 45.0 * Loss(transformed_teacher_kl, exponent=0.1, weighted=False)

    Source: Zheng and Yang, 2024, arXiv:2402.11148, equations 14 and 17.
    """
    check_weight(exponent=exponent, weight=weight, label_weight=label_weight)
    if exponent == 0:
        raise ArgumentError("exponent=0 makes every soft label uniform; it is above 0.", argument="exponent")
    task = CARD.get_task(task)
    soft = Loss(transformed_teacher_kl, classes=task.classes_dim, exponent=exponent, weighted=weighted)
    objective = add_label_loss(weight * soft, task, label_weight)
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="ttm"))
