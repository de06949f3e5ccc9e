"""Annealing-KD: regression to the teacher's logits, which grow from small to full size, and then the labels."""

from __future__ import annotations

from typing import Any

from limbeck.functional import KernelClaim
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.logits.continuation_kd import annealed_scale, scaled_logit_hinge
from limbeck.methods.support import check_count
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task

CARD = MethodCard(
    name="annealing_kd",
    title="Annealing Knowledge Distillation",
    authors="Jafari, Rezagholizadeh, Sharma and Ghodsi",
    year=2021,
    arxiv="2104.07163",
    venue="EACL 2021",
    claim="The student follows the teacher's logits as they grow from small to full size, so that each step is easy. "
    "Then it learns from the labels alone.",
    when="For a student much smaller than its teacher. It takes two stages; continuation_kd takes one, "
    "and has a margin.",
    bibtex="""@inproceedings{jafari2021annealing,
  title = {Annealing Knowledge Distillation},
  author = {Jafari, Aref and Rezagholizadeh, Mehdi and Sharma, Pranav and Ghodsi, Ali},
  booktitle = {Conference of the European Chapter of the Association for Computational Linguistics},
  year = {2021},
  eprint = {2104.07163},
  archivePrefix = {arXiv}
}""",
    ranges={"max_temperature": SearchRange(5, 20, whole=True)},
    labels="required",
    tasks=("classification", "multi_label", "regression", "segmentation"),
    task_reason="it was not tried on each token of a text",
    kernels=(KernelClaim(scaled_logit_hinge, hyper={"scale": 0.25}, largest=1e15),),
    trials=("mlp",),
)


@validates_arguments
def annealing_kd(
    teacher: Any,
    *,
    max_temperature: int = 10,
    annealing_epochs: int | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Train in two stages: first on the teacher's scaled logits, then on the labels.

    1. :math:`\|z - \phi v\|^2`, summed over classes, with :math:`\phi = 1 - (T - 1) / T_{max}` and T from T_max down
       to 1 in equal parts of the stage.
    2. :math:`-\log softmax(z)_y`.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run. It needs all logits.
        max_temperature: T_max, the number of steps of phi; 1 asks for the logits themselves from the start.
        annealing_epochs: Passes of the first stage; the run's budget by default.
        task: What the targets are; the second stage takes its loss from it.
        epochs: Passes of the second stage; the run's budget by default.

    Raises:
        LimbeckError: If `max_temperature` is below 1, or the method cannot learn the task.

    Example:
        >>> from torch import nn
        >>> [stage.name for stage in annealing_kd(nn.Linear(4, 3)).stages()]
        ['annealing', 'labels']

    Source: Jafari et al., 2021, arXiv:2104.07163.
    """
    check_count(max_temperature=max_temperature)
    task = CARD.get_task(task)
    soft = Loss(scaled_logit_hinge, scale=annealed_scale(max_temperature), classes=task.classes_dim)
    return Recipe(
        Stage(soft, teacher=teacher, epochs=annealing_epochs, name="annealing"),
        Stage(task.supervised_loss(), epochs=epochs, name="labels"),
    )
