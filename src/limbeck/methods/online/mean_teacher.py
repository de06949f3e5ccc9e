"""Mean teacher: the student learns from a moving average of its own weights."""

from __future__ import annotations

import copy

from jaxtyping import Float
from torch import Tensor, nn

from limbeck.functional import KernelClaim, kernel, probability_squared_error, squared_error
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_weight
from limbeck.recipe import Models, Recipe, Stage
from limbeck.schedule import sigmoid_ramp
from limbeck.tasks import MultiLabel, Regression, Task
from limbeck.teachers import MovingAverage


@kernel(per="output")
def label_probability_squared_error(
    student: Float[Tensor, "*outputs"], teacher: Float[Tensor, "*outputs"]
) -> Float[Tensor, "*outputs"]:
    r"""The consistency of labels that do not exclude each other: :math:`(\sigma(z) - \sigma(v))^2`.

    It is `probability_squared_error` of the two classes yes and no.

    Example:
        >>> import torch
        >>> label_probability_squared_error(torch.tensor([[0.0]]), torch.tensor([[100.0]])).tolist()
        [[0.25]]
    """
    return (student.sigmoid() - teacher.sigmoid()).square()


CARD = MethodCard(
    name="mean_teacher",
    title="Mean teachers are better role models: Weight-averaged consistency targets improve semi-supervised deep "
    "learning results",
    authors="Tarvainen and Valpola",
    year=2017,
    arxiv="1703.01780",
    venue="NIPS 2017",
    claim="The student learns to agree, under noise, with a moving average of its own weights. It needs few labels.",
    when="When most examples have no label (-100). The model needs noise such as dropout: without it, student and "
    "average hardly differ and there is little to learn. The final model is the average.",
    bibtex="""@inproceedings{tarvainen2017mean,
  title = {Mean teachers are better role models: Weight-averaged consistency targets improve semi-supervised deep
           learning results},
  author = {Tarvainen, Antti and Valpola, Harri},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {30},
  year = {2017},
  eprint = {1703.01780},
  archivePrefix = {arXiv}
}""",
    labels="few",
    needs="noise in the model, such as dropout",
    ranges={"decay": SearchRange(0.9, 0.999), "weight": SearchRange(0.1, 300.0, log=True)},
    tasks=("classification", "multi_label", "regression", "segmentation"),
    task_reason="it was not tried on texts",
    kernels=(KernelClaim(label_probability_squared_error, zero_at_equality=True, logits=False),),
)


@validates_arguments
def mean_teacher(
    *,
    decay: float = 0.999,
    weight: float = 100.0,
    ramp_up: float = 0.27,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Combine labels with consistency on all examples: :math:`-\log q_y + w(t) \frac1C \sum_c (q_c - p_c)^2`.

    p is the prediction of the averaged model, :math:`\theta'_t = \alpha \theta'_{t-1} + (1 - \alpha) \theta_t`, in
    training mode, so that its dropout acts as noise; :math:`w(t) = w e^{-5 (1 - t / t_r)^2}` until :math:`t_r`, then w.
    The final model is ``average``.

    The first term is the mean over the labeled examples; the authors' code divides their sum by the number of all
    examples. With a fraction f of labels their objective is f times this one at a weight of w / f.

    Args:
        decay: alpha, from 0 to below 1. The authors' code has 0.99 while it ramps up and 0.999 after. For the first ``1
            / (1 - decay)`` steps the average is the plain mean of all weights so far, so choose a smaller value for a
            short run. At 0 the average is the student itself.
        weight: w, the final weight of the consistency term; 100 in the authors' code.
        ramp_up: t_r, as a fraction of the stage; 40,000 of 150,000 steps in the authors' code.
        task: What the targets are. Consistency is of the probability of each label for several labels, of the
            probabilities at each pixel for segmentation, and of the outputs themselves for regression.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If `decay` is not in [0, 1), `weight` is negative, `ramp_up` is not in (0, 1], or the method
            cannot learn the task.

    Source: Tarvainen and Valpola, 2017, arXiv:1703.01780; ramp from arXiv:1610.02242.
    """
    check_weight(weight=weight)
    task = CARD.get_task(task)
    objective = task.supervised_loss() + sigmoid_ramp(weight, until=ramp_up) * _consistency(task)
    average = MovingAverage(decay=decay, mode="train", into="average")
    stage = Stage(objective, teacher=average, epochs=epochs, name="mean_teacher")
    return Recipe(stage, makes={"average": _copy}, ship="average")


def _consistency(task: Task) -> Loss:
    if isinstance(task, Regression):
        return Loss(squared_error, name="consistency")
    if isinstance(task, MultiLabel):
        return Loss(label_probability_squared_error, name="consistency")
    return Loss(probability_squared_error, name="consistency", classes=task.classes_dim)


def _copy(models: Models) -> nn.Module:
    return copy.deepcopy(models["student"])
