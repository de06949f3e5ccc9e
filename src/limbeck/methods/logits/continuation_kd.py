"""Continuation-KD: from a smoothed teacher with a margin, continuously to the labels."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import ArgumentError
from limbeck.functional import KernelClaim, kernel, logit_squared_error
from limbeck.functional.kernel import validates_pair
from limbeck.losses import Loss, Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_count, check_share, check_weight, skip_at_zero
from limbeck.recipe import Recipe, Stage
from limbeck.schedule import Schedule, ramp
from limbeck.tasks import Task


@kernel(per="position")
@validates_pair
def scaled_logit_hinge(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    scale: float = 1.0,
    margin: float = 0.0,
) -> Float[Tensor, "*batch"]:
    r"""Compute ``max(0, ||z - phi v||^2 - m phi)``: the squared distance to scaled logits, less a margin.

    z are the student's logits, v the teacher's, phi is `scale` and m `margin`. The norm is a sum over classes. Within
    the margin value and gradient are 0. At phi = 1 and m = 0 it is 2 C times `logit_squared_error`, not centered. A
    class that is -inf in both adds nothing; in only one, the value is infinite.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        scale: phi, above 0.
        margin: m, at least 0, in squared logits.

    Raises:
        LimbeckError: If the shapes differ, `scale` is not above 0, or `margin` is negative.

    Example:
        >>> z, v = torch.tensor([[1.0, 0.0]]), torch.tensor([[4.0, 2.0]])
        >>> scaled_logit_hinge(z, v, scale=0.5), scaled_logit_hinge(z, v, scale=0.5, margin=1.0)
        (tensor([2.]), tensor([1.5000]))

    Source: Jafari et al., Continuation KD, 2022, arXiv:2212.05998, equation 6; without margin: Jafari et al., Annealing
        Knowledge Distillation, 2021, arXiv:2104.07163.
    """
    check_weight(margin=margin, scale=scale)
    if scale == 0:
        raise ArgumentError("scale of the teacher's logits is above 0; got 0.", argument="scale")
    classes = ((student != -torch.inf) | (teacher != -torch.inf)).sum(-1)
    squares = 2 * classes * logit_squared_error(student, scale * teacher, centered=False)
    return (squares - margin * scale).clamp_min(0.0)


def annealed_scale(steps: int) -> Schedule:
    r"""The schedule :math:`\phi(T) = 1 - (T - 1) / T_{max}`, with T from `steps` down to 1 in equal parts of a stage.

    So phi is 1/n, 2/n, ..., 1 for n steps.

    Example:
        >>> from limbeck.batch import Progress
        >>> [annealed_scale(4)(Progress(step, 9)) for step in range(9)]
        [0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1.0, 1.0, 1.0]
    """
    return Schedule(
        lambda progress: min(math.floor(progress.fraction * steps) + 1, steps) / steps, f"annealed_scale({steps})"
    )


CARD = MethodCard(
    name="continuation_kd",
    title="Continuation KD: Improved Knowledge Distillation through the Lens of Continuation Optimization",
    authors="Jafari, Kobyzev, Rezagholizadeh, Poupart and Ghodsi",
    year=2022,
    arxiv="2212.05998",
    venue="Findings of EMNLP 2022",
    claim="The student starts with small logits of the teacher and a margin within which nothing is asked, and moves "
    "continuously to the labels: an easy problem first, and less of the teacher's noise.",
    when="For a student much smaller than its teacher, and for teachers whose logits are noisy. It needs labels, and a "
    "schedule that fits the length of the run. annealing_kd is the same in two stages without a margin.",
    bibtex="""@inproceedings{jafari2022continuation,
  title = {Continuation {KD}: Improved Knowledge Distillation through the Lens of Continuation Optimization},
  author = {Jafari, Aref and Kobyzev, Ivan and Rezagholizadeh, Mehdi and Poupart, Pascal and Ghodsi, Ali},
  booktitle = {Findings of the Association for Computational Linguistics: EMNLP},
  year = {2022},
  eprint = {2212.05998},
  archivePrefix = {arXiv}
}""",
    ranges={
        "max_temperature": SearchRange(5, 20, whole=True),
        "margin": SearchRange(0.01, 10.0, log=True),
        "labels_until": SearchRange(0.5, 1.0),
    },
    labels="required",
    tasks=("classification", "multi_label", "regression", "segmentation"),
    task_reason="it was not tried on each token of a text",
    kernels=(
        KernelClaim(scaled_logit_hinge, zero_at_equality=True, largest=1e15),
        KernelClaim(scaled_logit_hinge, hyper={"scale": 0.5, "margin": 2.0}, largest=1e15),
    ),
    trials=("mlp",),
)


@validates_arguments
def continuation_kd(
    teacher: Any,
    *,
    max_temperature: int = 20,
    margin: float = 1.0,
    labels_until: float = 0.75,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Minimize :math:`\psi (-\log q_y) + (1 - \psi) \max(0, \|z - \phi v\|^2 - m \phi)`.

    :math:`\phi = 1 - (T - 1) / T_{max}`, with T from T_max down to 1 in equal parts of the stage. Psi rises linearly
    from 0 to 1; then only the labels count, and the teacher is no longer asked.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run. It needs all logits.
        max_temperature: T_max, the number of steps of phi; 20 for images and 10 for texts in the paper.
        margin: m, at least 0, in squared logits summed over classes; 0 asks for the scaled logits exactly.
        labels_until: The fraction of the stage at which psi reaches 1; 0.75 for images in the paper.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or the method cannot learn the task.

    Example:
        >>> from torch import nn
        >>> [stage.name for stage in continuation_kd(nn.Linear(4, 3)).stages()]
        ['continuation_kd']

    Source: Jafari et al., 2022, arXiv:2212.05998, algorithm 1.
    """
    check_count(max_temperature=max_temperature)
    check_weight(margin=margin)
    check_share(labels_until=labels_until)
    if labels_until == 0:
        raise ArgumentError(
            "labels_until=0 leaves no step for the teacher; it is a fraction of the stage above 0. Without a teacher "
            "use supervised.",
            argument="labels_until",
        )
    task = CARD.get_task(task)
    hinge = Loss(scaled_logit_hinge, scale=annealed_scale(max_temperature), margin=margin, classes=task.classes_dim)
    hard = ramp(1.0, until=labels_until) * task.supervised_loss()
    objective: Objective = hard + ramp(0.0, start=1.0, until=labels_until) * skip_at_zero(hinge)
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="continuation_kd"))
