"""Prune, then distill: the teacher is pruned in rounds and trained again, and then it teaches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from limbeck.errors import ArgumentError
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_count
from limbeck.methods.teachers.prepared import CopiedTeacher, make_student_recipe
from limbeck.recipe import Part, Recipe, Stage, TransformModel
from limbeck.tasks import Task

CARD = MethodCard(
    name="prune_then_distill",
    title="Prune Your Model Before Distill It",
    authors="Park and No",
    year=2021,
    arxiv="2109.14960",
    venue="ECCV 2022",
    claim="A teacher whose smallest weights were pruned away, and which was trained again, teaches a student more than "
    "the whole teacher: it is smoother, as if it had been regularized.",
    when="For a trained teacher that is much larger than its student. Each round of pruning costs a training of the "
    "teacher. The masked weights are zeros in a network of the same size, so the teacher gets no faster.",
    bibtex="""@inproceedings{park2022prune,
  title = {Prune Your Model Before Distill It},
  author = {Park, Jinhyuk and No, Albert},
  booktitle = {European Conference on Computer Vision},
  year = {2022},
  eprint = {2109.14960},
  archivePrefix = {arXiv}
}""",
    labels="required",
    needs="the trained network of the teacher, a copy of which is trained again after each round",
    example={"rounds": 2},
    ranges={"rounds": SearchRange(1, 7, whole=True), "amount": SearchRange(0.1, 0.5)},
    tasks=("classification", "multi_label", "regression", "segmentation"),
    task_reason="it was not tried on texts",
    keywords=("pruning", "sparse teacher"),
)

TEACHER = "pruned"
"""The name of the teacher in the run."""


@validates_arguments
def prune_then_distill(
    teacher: Any,
    *,
    rounds: int = 4,
    amount: float = 0.2,
    retrain_epochs: int | None = None,
    method: str = "hinton",
    settings: Mapping[str, Any] | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Prune a copy of the teacher in rounds, train it again after each, then teach the student by a method.

    Each round masks the share `amount` of the weights that are left, those of smallest absolute value over all layers
    together, and trains on the labels with the whole schedule of the learning rate (learning rate rewinding). After r
    rounds the share of zeros is :math:`1 - (1 - a)^r`: 36 %, 59 % and 79 % after 2, 4 and 7 rounds with a = 0.2. The
    model is ``pruned`` in the run; the teacher that you pass in is not changed.

    Args:
        teacher: The trained teacher: a module, a `Teacher` around one, or the name of a model in the run.
        rounds: r, the number of rounds, at least 1; see `pruning_rounds`.
        amount: a, the share of the weights that each round masks, above 0 and below 1; 0.2 in the paper.
        retrain_epochs: Passes after each round; the run's budget by default. The paper takes 130, against 200 of the
            first training.
        method: The method by which the student learns.
        settings: Hyper-parameters of that method. With `hinton` they are T = 10 and w = 0.95 by default, as in the
            paper.
        task: What the targets are.
        epochs: Passes of the student; the run's budget by default.

    Raises:
        LimbeckError: If an argument is out of range, the method takes no teacher or cannot learn the task, or the
            teacher is not one network.

    Example:
        >>> recipe = prune_then_distill(nn.Linear(4, 3), rounds=2)
        >>> [stage.name for stage in recipe.stages()]
        ['retraining 1', 'retraining 2', 'hinton']

    Source: Park and No, 2021, arXiv:2109.14960, section 4.
    """
    check_count(rounds=rounds)
    _check_amount(amount)
    task = CARD.get_task(task)
    parts: list[Part] = []
    for number in range(1, rounds + 1):
        retrain = Stage(
            task.supervised_loss(), trains=TEACHER, name=f"retraining {number}",
            epochs=epochs if retrain_epochs is None else retrain_epochs,
        )  # fmt: skip
        parts += [TransformModel(TEACHER, "prune", amount=amount), retrain]
    # The student's stage asks a plain network, without masks.
    parts.append(TransformModel(TEACHER, "remove_pruning_masks"))
    learn = make_student_recipe(
        method, TEACHER, settings, task=task, epochs=epochs, defaults={"temperature": 10.0, "weight": 0.95}
    )
    return Recipe(*parts, learn, makes={TEACHER: CopiedTeacher(teacher)})


def _check_amount(amount: float) -> None:
    if not 0 < amount < 1:
        raise ArgumentError(
            f"amount is the share of the weights that each round masks, above 0 and below 1; got {amount!r}.",
            argument="amount",
            example="0.2",
        )


def pruning_rounds(sparsity: float, *, amount: float = 0.2) -> int:
    r"""The number of rounds whose share of zeros, :math:`1 - (1 - a)^r`, is nearest to a wanted one; at least 1.

    Args:
        sparsity: The wanted share of zeros, above 0 and below 1.
        amount: a, the share that each round masks.

    Raises:
        ArgumentError: If one of them is out of range.

    Example:
        >>> [pruning_rounds(sparsity) for sparsity in (0.36, 0.59, 0.79)]
        [2, 4, 7]
    """
    _check_amount(amount)
    if not 0 < sparsity < 1:
        raise ArgumentError(
            f"sparsity is a share of zeros, above 0 and below 1; got {sparsity!r}.", argument="sparsity"
        )
    exact = math.log(1 - sparsity) / math.log(1 - amount)
    near = {max(1, math.floor(exact)), max(1, math.ceil(exact))}
    return min(sorted(near), key=lambda count: abs(1 - (1 - amount) ** count - sparsity))


def count_zeros(model: nn.Module) -> float:
    """The share of zeros among the weights of all linear layers and convolutions.

    Example:
        >>> from limbeck.models.model_transforms import prune
        >>> layer = nn.Linear(10, 10)
        >>> prune(layer, amount=0.3)
        >>> round(count_zeros(layer), 3)
        0.3
    """
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    weights = [module.weight for module in model.modules() if isinstance(module, kinds)]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    return zeros / max(sum(weight.numel() for weight in weights), 1)
