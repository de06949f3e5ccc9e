"""Born-again networks: each student becomes the teacher of the next."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.logits.hinton import hinton
from limbeck.methods.support import FreshCopy, check_count
from limbeck.recipe import Recipe
from limbeck.tasks import Task

CARD = MethodCard(
    name="born_again",
    title="Born-Again Neural Networks",
    authors="Furlanello, Lipton, Tschannen, Itti and Anandkumar",
    year=2018,
    arxiv="1805.04770",
    venue="ICML 2018",
    claim="A student learns from a teacher like itself and becomes the next teacher. The last student is kept.",
    when="When the model should get better and need not get smaller. Each generation costs a full training, and gains "
    "usually stop after two or three. Compare with a student trained alone with the same total budget.",
    bibtex="""@inproceedings{furlanello2018born,
  title = {Born-Again Neural Networks},
  author = {Furlanello, Tommaso and Lipton, Zachary C. and Tschannen, Michael and Itti, Laurent and
            Anandkumar, Anima},
  booktitle = {International Conference on Machine Learning},
  year = {2018},
  eprint = {1805.04770},
  archivePrefix = {arXiv}
}""",
    needs="a full training for each generation",
    example={"generations": 2},
    ranges={"temperature": SearchRange(1.0, 20.0, log=True), "weight": SearchRange(0.0, 1.0)},
    tasks=("classification", "multi_label", "regression", "segmentation"),
    task_reason="it was not tried on texts",
    keywords=("ban",),
)


@validates_arguments
def born_again(
    teacher: Any,
    *,
    generations: int = 3,
    temperature: float = 1.0,
    weight: float = 0.5,
    labels: bool = True,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Minimize :math:`w T^2 KL(p_{k-1} \| q_k) + (1 - w) (-\log q_{k,y})` in generation k; 0 is the teacher.

    The first generation is the run's student. Each later one has the same architecture, newly initialized, and is
    called ``generation-2``, ``generation-3``, ... The last one is the final model. With one generation it is `hinton`.

    Args:
        teacher: Generation 0; in the paper the same architecture as the student.
        generations: The number of students trained one after the other.
        temperature: T, above 0; 1 in the paper.
        weight: w, the weight of the teacher, from 0 to 1. By default labels and teacher have equal weight.
        labels: Whether to use labels. False drops the label term; with ``weight=1.0`` the students learn from the
            teacher alone, as one variant in the paper.
        task: What the targets are; the losses are those of `hinton`.
        epochs: Passes over the data of each generation; the run's budget by default.

    Raises:
        LimbeckError: If `generations` is below 1, `temperature` not above 0, `weight` is not from 0 to 1, or
            the method cannot learn the task.

    Source: Furlanello et al., 2018, arXiv:1805.04770.
    """
    check_count(generations=generations)
    task = CARD.get_task(task)
    names = ["student", *(f"generation-{number}" for number in range(2, generations + 1))]
    stages = []
    for name, former in zip(names, [teacher, *names], strict=False):
        recipe = hinton(former, temperature=temperature, weight=weight, labels=labels, task=task, epochs=epochs)
        stages += [replace(stage, trains=name, name=f"teaching {name}") for stage in recipe.stages()]
    return Recipe(*stages, makes=dict.fromkeys(names[1:], FreshCopy()), ship=names[-1])
