"""MarginMSE: the differences between the scores of a query's candidates are those of the teacher."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.functional import KernelClaim, kernel
from limbeck.functional.closed_form import is_well_scaled
from limbeck.functional.kernel import validates_pair
from limbeck.functional.row_blocks import Needed, Slopes, compute_by_rows
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard
from limbeck.recipe import Recipe, Stage


@kernel(per="position")
@validates_pair
def margin_squared_error(
    student: Float[Tensor, "*batch candidates"],
    teacher: Float[Tensor, "*batch candidates"],
    *,
    labels: Integer[Tensor, "*batch"],
) -> Float[Tensor, "*batch"]:
    r"""Compute the mean squared difference of the margins between the right candidate and each of the others.

    :math:`\frac1n \sum_{j \ne y} ((s_y - s_j) - (t_y - t_j))^2` for the scores s of the student and t of the teacher,
    with y the right candidate and n the number of others. Only differences count: both may add any number to all scores
    of a query. A candidate that is -inf on either side does not exist. A label of -100, or no other candidate, gives 0.

    Args:
        student: Scores of the student, one for each candidate.
        teacher: Scores of the teacher.
        labels: Which candidate is the right one, or -100.

    Raises:
        LimbeckError: If the shapes of the scores differ.

    Example:
        >>> s, t = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[5.0, 2.0, 4.0]])
        >>> margin_squared_error(s, t, labels=torch.tensor([0]))
        tensor([2.])

    Source: Hofstätter, Althammer, Schröder, Sertkan and Hanbury, 2020, arXiv:2010.02666, equation 5.
    """
    return compute_by_rows(_compute_margins, student, teacher, labels, find=_find_margins)


def _compute_margins(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    known = labels != IGNORED
    right = labels.masked_fill(~known, 0).long().unsqueeze(-1)
    absent = (student == -torch.inf) | (teacher == -torch.inf)
    ours, theirs = (scores.masked_fill(absent, 0.0) for scores in (student, teacher))
    apart = (ours.gather(-1, right) - ours) - (theirs.gather(-1, right) - theirs)
    # Without the right candidate there is no margin.
    counts = ~absent & ~absent.gather(-1, right) & known.unsqueeze(-1)
    counts = counts.scatter(-1, right, False)
    total = apart.masked_fill(~counts, 0.0).square().sum(-1)
    return total / counts.sum(-1).clamp_min(1)


def _find_margins(needed: Needed, student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Slopes] | None:
    """The values with the slopes; None if a score is infinite or huge, or a query has no label."""
    others = student.shape[-1] - 1
    if others < 1 or not is_well_scaled(student, teacher) or not bool((labels >= 0).all()):
        return None
    right = labels.long().unsqueeze(-1)
    apart, theirs = (scores - scores.gather(-1, right) for scores in (student, teacher))
    apart.sub_(theirs)
    value = torch.linalg.vector_norm(apart, dim=-1).square_().div_(others)
    slope = apart.mul_(2 / others)
    slope.scatter_(-1, right, -slope.sum(-1, keepdim=True))
    return value, (slope if needed[0] else None, -slope if needed[1] else None)


CARD = MethodCard(
    name="margin_mse",
    title="Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation",
    authors="Hofstätter, Althammer, Schröder, Sertkan and Hanbury",
    year=2020,
    arxiv="2010.02666",
    venue="arXiv preprint",
    claim="The student learns the margins between the scores of a right and a wrong passage. Models with scores of "
    "other sizes can then teach each other, such as a cross-encoder a bi-encoder.",
    when="For retrieval models and rerankers: the model's output is one score for each candidate of a query, and the "
    "label says which candidate is right. Choose hard negatives; they matter more than the loss.",
    bibtex="""@article{hofstatter2020improving,
  title = {Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation},
  author = {Hofst{\\"a}tter, Sebastian and Althammer, Sophia and Schr{\\"o}der, Michael and Sertkan, Mete and
            Hanbury, Allan},
  journal = {arXiv preprint arXiv:2010.02666},
  year = {2020}
}""",
    labels="required",
    kernels=(KernelClaim(margin_squared_error, zero_at_equality=True, largest=1e15,
                         invariances=("student_shift", "teacher_shift")),),
    task_reason="its outputs are the scores of candidates, of which one is right",
    models_and_data="--teacher mlp --set teacher.hidden=[64] --student mlp --set student.hidden=[16] "
    "--data candidates.npz",
)  # fmt: skip


@validates_arguments
def margin_mse(teacher: Any, *, epochs: int | None = None) -> Recipe:
    r"""Learn the teacher's margins: :math:`\frac1n \sum_{j \ne y} ((s_y - s_j) - (t_y - t_j))^2`.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        epochs: Passes over the data; by default the budget of the run.

    Example:
        >>> from torch import nn
        >>> [repr(stage.objective) for stage in margin_mse(nn.Linear(4, 3)).stages()]
        ['Loss(margin_squared_error)']

    Source: Hofstätter et al., 2020, arXiv:2010.02666, equation 5.
    """
    return Recipe(Stage(Loss(margin_squared_error), teacher=teacher, epochs=epochs, name="margin_mse"))
