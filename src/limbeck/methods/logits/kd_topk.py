"""KD-topk: the teacher's k largest probabilities, and the rest spread evenly over the other classes."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.functional import KernelClaim, check_hyper, kernel, kl_divergence
from limbeck.functional.kernel import validates_pair
from limbeck.functional.spread_targets import spread_rest
from limbeck.losses import Loss, Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.logits.kd_pt import CARD as KD_PT
from limbeck.methods.support import check_count, check_share
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task


@kernel(per="position")
@validates_pair
def top_k_spread_kl(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    k: int = 10,
    temperature: float = 1.0,
) -> Float[Tensor, "*batch"]:
    r"""Compute ``KL(p~ || q)`` in nats, where p~ keeps the teacher's k largest probabilities and spreads the rest.

    ``q = softmax(student / T)``, ``p = softmax(teacher / T)``. Of K classes, the k most probable keep p_c, and each
    other one gets ``(1 - sum of the k) / (K - k)``. There is no factor T^2. For k of K - 1 and above it is
    `kl_divergence` over T^2. It is not 0 where both are equal, unless the teacher's tail is even.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        k: The number of classes that are kept, at least 1.
        temperature: T, above 0.

    Raises:
        LimbeckError: If the shapes differ, `k` is below 1, or `temperature` is not a finite number above 0.

    Example:
        >>> teacher = torch.tensor([[0.5, 0.3, 0.2]]).log()
        >>> top_k_spread_kl(torch.tensor([[0.5, 0.25, 0.25]]).log(), teacher, k=1).abs() < 1e-6
        tensor([True])

    Source: Tang et al., 2020, arXiv:2002.03532, KD-topk.
    """
    check_hyper(temperature=temperature)
    check_count(k=k)
    exists = (student != -torch.inf) | (teacher != -torch.inf)
    top = teacher.detach().topk(min(k, teacher.shape[-1]), dim=-1).indices
    keep = torch.zeros_like(exists).scatter(-1, top, True)
    return kl_divergence(student / temperature, spread_rest(teacher, keep, exists=exists, temperature=temperature))


CARD = MethodCard(
    name="kd_topk",
    title="Understanding and Improving Knowledge Distillation",
    authors="Tang, Shivanna, Zhao, Lin, Singh, Chi and Jain",
    year=2020,
    arxiv="2002.03532",
    venue="arXiv preprint",
    claim="The student learns the teacher's k largest probabilities. All other classes share the rest evenly, so the "
    "noise of the teacher's tail is not learned.",
    when="For many classes, where the teacher's order of unlikely classes is noise. k is a number of classes that can "
    "be confused with each other. To learn from stored top-k outputs, and to leave the tail open, take top_k_kd.",
    bibtex=KD_PT.bibtex,
    ranges={
        "k": SearchRange(1, 50, log=True, whole=True),
        "temperature": SearchRange(1.0, 20.0, log=True),
        "weight": SearchRange(0.0, 1.0),
    },
    tasks=("classification", "segmentation", "language_modeling"),
    task_reason="it ranks the classes of one softmax",
    kernels=(
        KernelClaim(top_k_spread_kl, hyper={"k": 2}, invariances=("student_shift", "teacher_shift")),
        KernelClaim(top_k_spread_kl, hyper={"temperature": 3.0}),
    ),
    trials=("mlp",),
)


@validates_arguments
def kd_topk(
    teacher: Any,
    *,
    k: int = 10,
    temperature: float = 4.0,
    weight: float = 0.9,
    labels: bool = True,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Minimize :math:`(1 - \lambda) (-\log softmax(z)_y) + \lambda KL(\tilde p \| \tilde q)`, in nats.

    :math:`\tilde q = softmax(z / T)`; :math:`\tilde p` keeps the k largest probabilities of :math:`softmax(v / T)` and
    spreads the rest evenly. There is no factor T², as in the paper. With k at the number of classes it is the soft
    target loss of `hinton` over T².

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run. It needs all logits.
        k: The number of classes whose probabilities are kept, at least 1.
        temperature: T, above 0.
        weight: Lambda, the weight of the teacher, from 0 to 1.
        labels: Whether to use labels. False drops the label term.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If `k` is below 1, `temperature` not above 0, or `weight` not from 0 to 1.

    Example:
        >>> from torch import nn
        >>> [stage.name for stage in kd_topk(nn.Linear(4, 3), k=2).stages()]
        ['kd_topk']

    Source: Tang et al., 2020, arXiv:2002.03532.
    """
    check_hyper(temperature=temperature)
    check_count(k=k)
    check_share(weight=weight)
    task = CARD.get_task(task)
    objective: Objective = weight * Loss(top_k_spread_kl, k=k, temperature=temperature, classes=task.classes_dim)
    if labels:
        objective = objective + (1 - weight) * task.supervised_loss()
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="kd_topk"))
