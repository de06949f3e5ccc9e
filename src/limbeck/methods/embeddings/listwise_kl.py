"""List-wise KL: the softmax over a query's candidates is that of the teacher, with a temperature for each side."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.batch import LOGITS, Batch, Outputs, Progress, Requirements, Term
from limbeck.errors import LimbeckError, LimbeckWarning
from limbeck.functional import KernelClaim, check_hyper, kernel, kl_divergence, probabilities
from limbeck.functional.kernel import validates_pair
from limbeck.losses import Loss, LossContext, LossTerm
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_temperature
from limbeck.recipe import Recipe, Stage


@kernel(per="position")
@validates_pair
def two_temperature_kl(
    student: Float[Tensor, "*batch candidates"],
    teacher: Float[Tensor, "*batch candidates"],
    *,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
) -> Float[Tensor, "*batch"]:
    r"""Compute :math:`T_s^2 KL(softmax(t / T_t) \| softmax(s / T_s))` over the candidates of a query, in nats.

    Scores of student and teacher may have other sizes, such as cosines and logits, and so each side has its
    temperature. The factor makes the gradient :math:`T_s (q - p)`. A candidate that is -inf on both sides does not
    exist.

    Where the scores of a query differ by more than about 100 T on both sides, both softmaxes are 1 for one candidate
    and exactly 0 for the others in float32: value and gradient are 0, whatever the other scores are. `find_dead_rows`
    finds such queries.

    Args:
        student: Scores of the student, one for each candidate.
        teacher: Scores of the teacher.
        student_temperature: T_s, above 0.
        teacher_temperature: T_t, above 0.

    Raises:
        LimbeckError: If the shapes differ, or a temperature is not above 0.

    Example:
        >>> s, t = torch.tensor([[0.9, 0.1]]), torch.tensor([[9.0, 1.0]])
        >>> two_temperature_kl(s, t, student_temperature=0.1, teacher_temperature=1.0).abs() < 1e-6
        tensor([True])

    Source: Izacard and Grave, Distilling Knowledge from Reader to Retriever, 2020, arXiv:2012.04584, equation 4.
    """
    check_hyper(student_temperature=student_temperature, teacher_temperature=teacher_temperature)
    value = kl_divergence(student / student_temperature, teacher / teacher_temperature)
    return student_temperature**2 * value


def find_dead_rows(
    student: Float[Tensor, "*batch candidates"],
    teacher: Float[Tensor, "*batch candidates"],
    *,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Find the queries that a list-wise KL cannot learn from in float32.

    Returns:
        Two masks: where both softmaxes are equal although the relations of the scores are not, so that the gradient is
        exactly 0; and where the teacher's softmax is 1 for one candidate, so that only its best one is learned.

    Example:
        >>> s, t = torch.tensor([[500.0, 0.0, 200.0]]), torch.tensor([[900.0, 100.0, 0.0]])
        >>> find_dead_rows(s, t)
        (tensor([True]), tensor([True]))
        >>> find_dead_rows(s, t, student_temperature=100.0, teacher_temperature=100.0)
        (tensor([False]), tensor([False]))
    """
    q = probabilities(student.float(), temperature=student_temperature)
    p = probabilities(teacher.float(), temperature=teacher_temperature)
    several = (teacher != -torch.inf).sum(-1) > 1
    sure = (p.amax(-1) == 1) & several
    return sure & (p == q).all(-1), sure


CARD = MethodCard(
    name="listwise_kl",
    title="Distilling Knowledge from Reader to Retriever for Question Answering",
    authors="Izacard and Grave",
    year=2020,
    arxiv="2012.04584",
    venue="ICLR 2021",
    claim="The softmax of a query's scores over its candidates is learned from the teacher: which are better, and by "
    "how much. No candidate needs to be marked as right.",
    when="For retrieval models and rerankers with several candidates for each query and no labels. The model's output "
    "is one score for each candidate. Choose the temperatures by the size of each side's scores: a few units for "
    "logits, 0.01 to 0.1 for cosines.",
    bibtex="""@inproceedings{izacard2021distilling,
  title = {Distilling Knowledge from Reader to Retriever for Question Answering},
  author = {Izacard, Gautier and Grave, Edouard},
  booktitle = {International Conference on Learning Representations},
  year = {2021},
  eprint = {2012.04584},
  archivePrefix = {arXiv}
}""",
    labels="unused",
    ranges={
        "student_temperature": SearchRange(0.01, 20.0, log=True),
        "teacher_temperature": SearchRange(0.01, 20.0, log=True),
    },
    kernels=(
        KernelClaim(two_temperature_kl, hyper={"student_temperature": 2.0, "teacher_temperature": 2.0},
                    zero_at_equality=True, tolerance=0.0, invariances=("student_shift", "teacher_shift")),
        KernelClaim(two_temperature_kl, hyper={"student_temperature": 0.5, "teacher_temperature": 4.0}),
    ),
    task_reason="its outputs are the scores of the candidates of a query",
    models_and_data="--teacher mlp --set teacher.hidden=[64] --student mlp --set student.hidden=[16] "
    "--data candidates.npz",
    keywords=("ranking",),
)  # fmt: skip


class ListwiseKL(LossTerm):
    """`two_temperature_kl`, which looks at the scores of the first step of a stage.

    Later, and in a run that is resumed, softmaxes that are equal are what the student has learned.

    Args:
        student_temperature: T_s, above 0.
        teacher_temperature: T_t, above 0.
    """

    name, per = "two_temperature_kl", "position"

    def __init__(self, *, student_temperature: float, teacher_temperature: float) -> None:
        super().__init__()
        self.temperatures_of = {"student_temperature": student_temperature, "teacher_temperature": teacher_temperature}
        self.loss = Loss(
            two_temperature_kl, student_temperature=student_temperature, teacher_temperature=teacher_temperature
        )

    @property
    def requires(self) -> Requirements:
        """The scores of both models."""
        return self.loss.requires

    def setup(self, context: LossContext) -> ListwiseKL:
        """The loss for one stage."""
        fitted = copy.copy(self)
        fitted.loss = self.loss.setup(context)
        return fitted

    def after_step(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> None:
        """Check the scores of the first step.

        Raises:
            LimbeckError: If the gradient is exactly 0 in float32 for most queries of the first batch.
        """
        if progress.step == 0:
            self._check(student[LOGITS].detach(), teacher[LOGITS].detach())

    def _check(self, student: Tensor, teacher: Tensor) -> None:
        if student.shape != teacher.shape or not student.numel():
            return  # the loss says what is wrong
        dead, sure = (float(rows.float().mean()) for rows in find_dead_rows(student, teacher, **self.temperatures_of))
        spreads = [_find_spread(scores) for scores in (student, teacher)]
        advice = (
            f"The scores of a query differ by {spreads[0]:.3g} (student) and {spreads[1]:.3g} (teacher): try "
            f"student_temperature={spreads[0] / _SPREAD:.2g}, teacher_temperature={spreads[1] / _SPREAD:.2g}."
        )
        if dead > 0.5:
            raise LimbeckError(
                f"The loss and its gradient are exactly 0 in float32 for {dead:.0%} of the queries of the first batch: "
                f"at these temperatures both softmaxes are 1 for the same candidate. {advice}"
            )
        if sure > 0.5:
            warnings.warn(
                f"The teacher's softmax is 1 for one candidate in {sure:.0%} of the queries of the first batch, so "
                f"only its best candidate is learned, and not how good the others are. {advice}",
                LimbeckWarning,
                stacklevel=3,
            )

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The sum over the queries that count."""
        return self.loss.term(student, teacher, batch, progress)

    def count(self, batch: Batch) -> float:
        """The number of queries that count."""
        return self.loss.count(batch)

    def __repr__(self) -> str:
        return repr(self.loss)


_SPREAD = 10.0  # temperatures at which the best candidate is about e^10 times as probable as the worst


def _find_spread(scores: Tensor) -> float:
    """The median over the queries of the difference between the best and the worst score."""
    live = scores != -torch.inf
    low = scores.masked_fill(~live, torch.inf).amin(-1)
    spread = (scores.amax(-1) - low)[live.any(-1)]
    return float(spread.float().median()) if spread.numel() else 0.0


@validates_arguments
def listwise_kl(
    teacher: Any,
    *,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
    epochs: int | None = None,
) -> Recipe:
    r"""Learn the teacher's softmax over the candidates: :math:`T_s^2 KL(softmax(t / T_t) \| softmax(s / T_s))`.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        student_temperature: T_s, above 0: about a tenth of the spread of the student's scores.
        teacher_temperature: T_t, above 0: about a tenth of the spread of the teacher's scores.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If a temperature is not above 0.

    Example:
        >>> from torch import nn
        >>> [repr(stage.objective) for stage in listwise_kl(nn.Linear(4, 3), student_temperature=0.05).stages()]
        ['Loss(two_temperature_kl, student_temperature=0.05, teacher_temperature=1.0)']

    Source: Izacard and Grave, 2020, arXiv:2012.04584, equation 4, with a temperature for each side.
    """
    check_temperature(student_temperature=student_temperature)
    check_temperature(teacher_temperature=teacher_temperature)
    loss = ListwiseKL(student_temperature=student_temperature, teacher_temperature=teacher_temperature)
    return Recipe(Stage(loss, teacher=teacher, epochs=epochs, name="listwise_kl"))
