"""SE-KD: distillation at the positions where the student is least sure."""

from __future__ import annotations

from typing import Any

from limbeck.functional import check_hyper
from limbeck.functional.row_figures import check_positive_share
from limbeck.losses import Objective, SelectiveLoss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_share
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task, get_task

CARD = MethodCard(
    name="se_kd",
    title="Rethinking Selective Knowledge Distillation",
    authors="Tavor, Ebenspanger, Cnaan and Geva",
    year=2026,
    arxiv="2602.01395",
    venue="arXiv",
    claim="The student learns from its teacher only at the positions of a text where it is least sure itself, selected "
    "again at each step.",
    when="When most tokens of the texts are easy, and the teacher's output layer is large: without labels (weight 1) "
    "the layer is computed at the selected positions alone. Compare with hinton at temperature 1. To select once, so "
    "that a cache has only these positions, see limbeck.data.select_positions.",
    bibtex="""@article{tavor2026rethinking,
  title = {Rethinking Selective Knowledge Distillation},
  author = {Tavor, Almog and Ebenspanger, Itay and Cnaan, Neil and Geva, Mor},
  journal = {arXiv preprint arXiv:2602.01395},
  year = {2026}
}""",
    ranges={"share": SearchRange(0.05, 1.0, log=True), "weight": SearchRange(0.5, 1.0)},
    tasks=("language_modeling", "segmentation"),
)


@validates_arguments
def se_kd(
    teacher: Any,
    *,
    share: float = 0.2,
    score: str = "entropy",
    temperature: float = 1.0,
    weight: float = 1.0,
    task: str | Task = "language_modeling",
    epochs: int | None = None,
) -> Recipe:
    r"""Match the teacher at selected positions: :math:`w T^2 \frac{1}{|S|} \sum_{t \in S} KL(p_t \| q_t)`, and labels.

    In nats. S has, of each text with n positions that count, the :math:`\lceil s n \rceil` with the largest entropy of
    the current student's :math:`q_t`. The labels, :math:`(1 - w) (-\log q_y)`, are learned at all positions.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        share: s, the share of the positions of each text, above 0 and at most 1; 0.2 in the paper.
        score: What positions are selected by: ``entropy`` of the student, as in the paper; ``nll`` of the next token;
            ``loss``, the divergence itself, which is largest where the student disagrees with its teacher.
        temperature: T, above 0.
        weight: w, the weight of the divergence, from 0 to 1; the rest is that of the labels.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range.

    Example:
        >>> from torch import nn
        >>> [repr(stage.objective) for stage in se_kd(nn.Linear(4, 3)).stages()]
        ["1.0 * SelectiveLoss(Loss(kl_divergence, temperature=1.0), share=0.2, score='entropy')"]

    Source: Tavor, Ebenspanger, Cnaan and Geva, 2026, arXiv:2602.01395.
    """
    check_hyper(temperature=temperature)
    check_positive_share(share)
    check_share(weight=weight)
    task = get_task(task)
    divergence = SelectiveLoss(task.distillation_loss(temperature=temperature), share=share, score=score)
    objective: Objective = weight * divergence
    if weight < 1:  # a label term of weight 0 would still be computed, and with it the divergence at all positions
        objective = objective + (1 - weight) * task.supervised_loss()
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="se_kd"))
