"""Tolerant teachers: the first teacher may be unsure of its second choices, and generations of students follow."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import ArgumentError
from limbeck.functional import KernelClaim, check_hyper, kernel, probabilities
from limbeck.functional.closed_form import is_well_scaled
from limbeck.functional.row_blocks import Needed, Slopes, compute_by_examples
from limbeck.losses import Loss, Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.logits.hinton import hinton
from limbeck.methods.support import FreshCopy, check_count, check_share, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task


@kernel(per="position")
def top_score_difference(student: Float[Tensor, "*batch classes"], *, top: int = 5) -> Float[Tensor, "*batch"]:
    r"""Compute the top score difference (TSD): the largest probability minus the mean of the next ones.

    ``f_(1) - 1 / (C - 1) sum_{k=2..C} f_(k)`` with ``f = softmax(student)`` sorted, largest first, and C = `top`. It is
    0 for C equal probabilities, 1 for a single one, and only depends on the C largest. With fewer classes than C, all
    count. A row with one class, or none, gives 0.

    Args:
        student: Logits.
        top: C, the number of probabilities that are compared, at least 2.

    Raises:
        LimbeckError: If `top` is below 2.

    Example:
        >>> top_score_difference(torch.tensor([[0.5, 0.3, 0.1, 0.1]]).log(), top=3)
        tensor([0.3000])

    Source: Yang, Xie, Qiao and Yuille, 2018, arXiv:1805.05551.
    """
    _check_top(top)
    count = min(top, student.shape[-1])

    def compute(logits: Tensor) -> Tensor:
        scores = probabilities(logits).topk(count, dim=-1).values
        classes = (logits != -torch.inf).sum(-1).clamp(max=top)
        # Absent classes have a probability of 0, so they add nothing to the sum.
        mean = scores[..., 1:].sum(-1) / (classes - 1).clamp_min(1)
        return (scores[..., 0] - mean).masked_fill(classes < 2, 0.0)

    if student.ndim < 2 or not student.numel():
        return compute(student)
    rows = student.flatten(0, -2)
    return compute_by_examples(compute, rows, find=functools.partial(_find_difference, count)).view(student.shape[:-1])


def _find_difference(count: int, needed: Needed, logits: Tensor) -> tuple[Tensor, Slopes] | None:
    """The values with the slopes; None if a logit is infinite or huge."""
    if count < 2 or not is_well_scaled(logits):
        return None
    q = torch.softmax(logits, -1)
    scores, places = q.topk(count, dim=-1)
    weights = scores.new_full((count,), -1 / (count - 1))
    weights[0] = 1.0
    scores.mul_(weights)
    value = scores.sum(-1)
    # Through the softmax: q (w - sum q w), and the sum is the value.
    return value, (q.mul_(-value.unsqueeze(-1)).scatter_add_(-1, places, scores) if needed[0] else None,)


def _check_top(top: int) -> None:
    check_count(top=top)
    if top < 2:
        raise ArgumentError(
            f"top is a number of classes of at least 2; got {top}. The paper uses about 5.", argument="top"
        )


CARD = MethodCard(
    name="tolerant_teacher",
    title="Knowledge Distillation in Generations: More Tolerant Teachers Educate Better Students",
    authors="Yang, Xie, Qiao and Yuille",
    year=2018,
    arxiv="1805.05551",
    venue="AAAI 2019",
    claim="A first teacher learns to leave some probability to its second choices. It is worse itself, and the "
    "students that follow it, each the teacher of the next, are better.",
    when="When the model should get better and need not get smaller, or with generations=0 to train a teacher for a "
    "smaller student. It needs classes that resemble each other: with ten very different ones there is nothing to be "
    "tolerant of. Each generation costs a full training; compare with born_again.",
    bibtex="""@inproceedings{yang2019training,
  title = {Training Deep Neural Networks in Generations: A More Tolerant Teacher Educates Better Students},
  author = {Yang, Chenglin and Xie, Lingxi and Qiao, Siyuan and Yuille, Alan L.},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year = {2019},
  eprint = {1805.05551},
  archivePrefix = {arXiv}
}""",
    ranges={
        "difference_weight": SearchRange(0.1, 2.0, log=True),
        "top": SearchRange(3, 10, whole=True),
        "weight": SearchRange(0.0, 1.0),
        "temperature": SearchRange(1.0, 20.0, log=True),
    },
    labels="required",
    needs="a full training for the teacher and for each generation",
    example={"generations": 1},
    tasks=("classification", "segmentation"),
    task_reason="it compares the largest probabilities of one softmax, and was not tried on texts",
    kernels=(KernelClaim(top_score_difference, hyper={"top": 3}, invariances=("student_shift",)),),
    trials=("mlp",),
)


@validates_arguments
def tolerant_teacher(
    *,
    generations: int = 2,
    difference_weight: float = 0.9,
    top: int = 5,
    weight: float = 0.4,
    temperature: float = 1.0,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Train a tolerant teacher (the patriarch), then generations of students of the same architecture.

    1. The patriarch: :math:`-\log f_y + \eta TSD(f)`, see `top_score_difference`.
    2. Generation k: :math:`w T^2 KL(f_{k-1} \| f_k) + (1 - w) (-\log f_{k,y})`; 0 is the patriarch.

    The first generation is the run's student. The patriarch and each later generation have its architecture, newly
    initialized. With 0 generations the run's student is the patriarch: a teacher for another student.

    Args:
        generations: The number of students trained one after the other, or 0.
        difference_weight: Eta, the weight of the top score difference; 0 gives a plain teacher.
        top: C, the number of probabilities that share; at least 2.
        weight: w, the weight of the previous generation, from 0 to 1.
        temperature: T, above 0; 1 in the paper.
        task: What the targets are.
        epochs: Passes over the data of the patriarch and of each generation; the run's budget by default.

    Raises:
        LimbeckError: If an argument is out of range, or the method cannot learn the task.

    Example:
        >>> [stage.name for stage in tolerant_teacher(generations=1).stages()]
        ['patriarch', 'teaching student']

    Source: Yang, Xie, Qiao and Yuille, 2018, arXiv:1805.05551.
    """
    if isinstance(generations, bool) or not isinstance(generations, int) or generations < 0:
        raise ArgumentError(
            f"generations is a whole number of at least 0; got {generations!r}.", argument="generations"
        )
    check_weight(difference_weight=difference_weight)
    check_share(weight=weight)
    check_hyper(temperature=temperature)
    _check_top(top)
    task = CARD.get_task(task)
    difference = Loss(top_score_difference, top=top, classes=task.classes_dim)
    strict: Objective = task.supervised_loss() + difference_weight * difference
    first = "patriarch" if generations else "student"
    names = ["student", *(f"generation-{number}" for number in range(2, generations + 1))][:generations]
    stages = [Stage(strict, trains=first, epochs=epochs, name="patriarch")]
    for name, former in zip(names, [first, *names], strict=False):
        recipe = hinton(former, temperature=temperature, weight=weight, task=task, epochs=epochs)
        stages += [replace(stage, trains=name, name=f"teaching {name}") for stage in recipe.stages()]
    made = [first, *names[1:]] if generations else []
    return Recipe(*stages, makes=dict.fromkeys(made, FreshCopy()), ship=names[-1] if names else "student")
