"""KD-pt: the teacher's probability of the label, and the rest spread evenly over the other classes."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.functional import KernelClaim, check_hyper, kernel, kl_divergence
from limbeck.functional.kernel import validates_pair
from limbeck.functional.spread_targets import spread_rest
from limbeck.losses import Loss, Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_share
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task


@kernel(per="position")
@validates_pair
def label_confidence_kl(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    labels: Integer[Tensor, "*batch"],
    temperature: float = 1.0,
) -> Float[Tensor, "*batch"]:
    r"""Compute ``KL(p~ || q)`` in nats, where p~ has the teacher's probability of the label, and an even rest.

    ``q = softmax(student / T)``, ``p = softmax(teacher / T)``. The label t gets p_t, and each of the K - 1 other
    classes ``(1 - p_t) / (K - 1)``. So it is label smoothing, with a strength that the teacher chooses for each
    example. There is no factor T^2. With two classes it is `kl_divergence` over T^2. A label of -100 gives 0.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        labels: Class indices from 0 to classes - 1, or -100.
        temperature: T, above 0.

    Raises:
        LimbeckError: If the shapes differ, or `temperature` is not a finite number above 0.

    Example:
        >>> teacher = torch.tensor([[0.5, 0.3, 0.2]]).log()
        >>> student = torch.tensor([[0.5, 0.25, 0.25]]).log()
        >>> label_confidence_kl(student, teacher, labels=torch.tensor([0])).abs() < 1e-6
        tensor([True])

    Source: Tang et al., 2020, arXiv:2002.03532, KD-pt.
    """
    check_hyper(temperature=temperature)
    exists = (student != -torch.inf) | (teacher != -torch.inf)
    known = labels != IGNORED
    keep = torch.zeros_like(exists).scatter(-1, labels.masked_fill(~known, 0).long().unsqueeze(-1), True)
    target = spread_rest(teacher, keep, exists=exists, temperature=temperature)
    return kl_divergence(student / temperature, target).masked_fill(~known, 0.0)


CARD = MethodCard(
    name="kd_pt",
    title="Understanding and Improving Knowledge Distillation",
    authors="Tang, Shivanna, Zhao, Lin, Singh, Chi and Jain",
    year=2020,
    arxiv="2002.03532",
    venue="arXiv preprint",
    claim="The student learns only how sure the teacher is of the label. It shows how much of distillation is a weight "
    "for each example, and not knowledge about other classes.",
    when="To find out what a student gains from: compare with hinton (all of it), kd_sim (relations of classes) and "
    "label_smoothing (neither). It needs labels and a teacher that is not equally sure of all examples.",
    bibtex="""@article{tang2020understanding,
  title = {Understanding and Improving Knowledge Distillation},
  author = {Tang, Jiaxi and Shivanna, Rakesh and Zhao, Zhe and Lin, Dong and Singh, Anima and Chi, Ed H. and
            Jain, Sagar},
  journal = {arXiv preprint arXiv:2002.03532},
  year = {2020}
}""",
    ranges={"temperature": SearchRange(1.0, 20.0, log=True), "weight": SearchRange(0.0, 1.0)},
    labels="required",
    tasks=("classification", "segmentation", "language_modeling"),
    task_reason="it needs the teacher's probability of one label",
    kernels=(
        KernelClaim(label_confidence_kl, invariances=("student_shift", "teacher_shift")),
        KernelClaim(label_confidence_kl, hyper={"temperature": 3.0}),
    ),
    trials=("mlp",),
)


@validates_arguments
def kd_pt(
    teacher: Any,
    *,
    temperature: float = 4.0,
    weight: float = 0.9,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Minimize :math:`(1 - \lambda) (-\log softmax(z)_y) + \lambda KL(\tilde p \| \tilde q)`, in nats.

    :math:`\tilde q = softmax(z / T)`; :math:`\tilde p` has the teacher's probability of the label at temperature T,
    and spreads the rest evenly. There is no factor T², as in the paper.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run. It needs all logits.
        temperature: T, above 0.
        weight: Lambda, the weight of the teacher, from 0 to 1.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If `temperature` is not above 0, or `weight` is not from 0 to 1.

    Example:
        >>> from torch import nn
        >>> [stage.name for stage in kd_pt(nn.Linear(4, 3)).stages()]
        ['kd_pt']

    Source: Tang et al., 2020, arXiv:2002.03532.
    """
    check_hyper(temperature=temperature)
    check_share(weight=weight)
    task = CARD.get_task(task)
    soft = Loss(label_confidence_kl, temperature=temperature, classes=task.classes_dim)
    objective: Objective = weight * soft + (1 - weight) * task.supervised_loss()
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="kd_pt"))
