"""RID: the student learns what of the teacher's features is about the labels (redundant information distillation)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limbeck.batch import IGNORED, Batch, Progress, Requirements
from limbeck.errors import LimbeckError
from limbeck.functional import KernelClaim, kernel
from limbeck.functional.connectors import Pointwise, channels, find_counted
from limbeck.functional.feature_maps import match_positions, mean_over_positions, position_mask, to_positions
from limbeck.functional.labels import cross_entropy
from limbeck.losses import LossContext
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.feature_term import FeatureTerm
from limbeck.methods.features.layers import Layers, pair_layers
from limbeck.methods.support import check_count, check_share, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task

_SMALLEST = 1e-3
"""Added to every variance, as in the authors' code."""


@kernel(per="example")
def scaled_distance(
    student: Float[Tensor, "batch positions channels"],
    teacher: Float[Tensor, "batch positions channels"],
    mask: Bool[Tensor, "batch ..."] | None = None,
    *,
    alpha: Float[Tensor, " channels"],
) -> Float[Tensor, " batch"]:
    r"""Compute the mean over positions and channels of :math:`\log v_c + (s - t)^2 / v_c`.

    The variance is :math:`v_c = \log(1 + e^{\alpha_c}) + 0.001`. It is twice the negative log-likelihood of a Gaussian,
    in nats, without the constant.

    Args:
        student: Filtered features of the student.
        teacher: Filtered features of the teacher.
        mask: Which positions count; without an entry for each of them, all do.
        alpha: A number for each channel, learned.

    Example:
        >>> value = scaled_distance(torch.zeros(1, 1, 1), torch.ones(1, 1, 1), alpha=torch.tensor([50.0]))
        >>> round(value.item(), 4)
        3.932

    Source: Dissanayake et al., 2024, arXiv:2411.07483, equation 9. The authors' code has the square of v in place of
        its logarithm.
    """
    variance = F.softplus(alpha) + _SMALLEST
    values = variance.log() + ((student - teacher) / variance.sqrt()).square()
    return mean_over_positions(values, position_mask(mask, student))


CARD = MethodCard(
    name="rid",
    title="Quantifying Knowledge Distillation Using Partial Information Decomposition",
    authors="Dissanayake, Hamman, Halder, Sucholutsky, Zhang and Dutta",
    year=2024,
    arxiv="2411.07483",
    venue="AISTATS 2025",
    claim="A filter first keeps what of the teacher's features is about the labels, and the student learns only this: "
    "so it loses little to a teacher that knows nothing.",
    when="For features of a teacher that may be poor, or was trained for something else, where vid and fitnets copy "
    "all of them. It needs labels. limbeck.metrics.decompose_information measures what was transferred, and what is "
    "left.",
    bibtex="""@inproceedings{dissanayake2025quantifying,
  title = {Quantifying Knowledge Distillation Using Partial Information Decomposition},
  author = {Dissanayake, Pasan and Hamman, Faisal and Halder, Barproda and Sucholutsky, Ilia and Zhang, Qiuyi and
            Dutta, Sanghamitra},
  booktitle = {International Conference on Artificial Intelligence and Statistics},
  year = {2025},
  eprint = {2411.07483},
  archivePrefix = {arXiv}
}""",
    reads=("features",),
    labels="required",
    example={"at": ["layer1", "layer2"], "student_at": ["layer1", "layer2"]},
    ranges={"weight": SearchRange(1.0, 100.0, log=True)},
    task_reason="its filters are learned with a classifier of their own, so the labels are classes",
    kernels=(KernelClaim(scaled_distance, logits=False, shape=(4, 3), constants={"alpha": (3,)}, largest=1e15),),
)


class Filters(nn.Module):
    """The filters of both models, the classifiers of the teacher's, and the variances; shared by both stages."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = nn.ModuleList(), nn.ModuleList()
        self.classifiers, self.alphas = nn.ModuleList(), nn.ParameterList()

    def shape(self, ours: list[Tensor], theirs: list[Tensor], classes: int) -> None:
        """Create the layers, unless they exist already. A filter halves the teacher's channels."""
        if len(self.alphas):
            return
        for mine, its in zip(ours, theirs, strict=True):
            width = max(1, channels(its) // 2)
            self.student.append(_filter(channels(mine), width))
            self.teacher.append(_filter(channels(its), width))
            self.classifiers.append(nn.Linear(width, classes))
            self.alphas.append(nn.Parameter(torch.zeros(width)))
        self.to(theirs[0])


def _filter(width: int, out: int) -> nn.Sequential:
    """A 1x1 convolution, a BatchNorm, a ReLU and a 1x1 convolution."""
    return nn.Sequential(Pointwise([width, out], norm=True, last_activation=True), Pointwise([out, out]))


def _filtered(layers: nn.Module, features: Tensor, where: Tensor | None) -> Tensor:
    """Filtered features; tokens that do not count are no part of the statistics of the BatchNorm."""
    first, last = cast(nn.Sequential, layers)
    mapped: Tensor = last(first(features, where))
    return mapped


def _mean_of_positions(features: Tensor, where: Tensor | None) -> Float[Tensor, "batch channels"]:
    """The mean over the positions that count."""
    rows = to_positions(features)
    return rows.mean(1) if where is None else rows.masked_fill(~where, 0.0).sum(1) / where.sum(1).clamp_min(1)


class FilterLearning(FeatureTerm):
    """The cross-entropy of classifiers of the filtered teacher, and the distance to the student's filters.

    Only the teacher's filters and their classifiers learn.
    """

    name = "filter_learning"

    def __init__(self, pairs: Sequence[tuple[str, str]], filters: Filters, alone: float) -> None:
        super().__init__(pairs)
        self.filters, self.alone = filters, alone

    @property
    def requires(self) -> Requirements:
        """The layers of both models, and the labels."""
        return super().requires | Requirements(batch=frozenset({"labels"}))

    def build(self, ours: list[Tensor], theirs: list[Tensor], context: LossContext) -> None:
        """Create the filters.

        Raises:
            LimbeckError: If the number of classes is unknown, or an example has several labels.
        """
        labels = context.batch.labels
        if context.classes is None or labels is None or labels.ndim != 1:
            raise LimbeckError("rid needs one class for each example: labels [batch], and a model with logits.")
        self.filters.shape(ours, theirs, context.classes)

    def compare(
        self, ours: list[Tensor], theirs: list[Tensor], batch: Batch, progress: Progress
    ) -> Float[Tensor, " batch"]:
        """The sum over the pairs of layers."""
        labels = batch.labels if batch.labels is not None else torch.full((batch.size,), IGNORED)
        values = []
        for number, (mine, its) in enumerate(zip(ours, theirs, strict=True)):
            where = find_counted(batch.mask, its)
            filtered = _filtered(self.filters.teacher[number], its, where)
            rows = _mean_of_positions(filtered, where)
            values.append(cross_entropy(self.filters.classifiers[number](rows), labels=labels))
            if progress.fraction >= self.alone:
                with torch.no_grad():
                    fixed = _filtered(self.filters.student[number], mine, find_counted(batch.mask, mine))
                places = match_positions(fixed, filtered)
                values.append(
                    scaled_distance(
                        *places, batch.mask if where is not None else None, alpha=self.filters.alphas[number].detach()
                    )
                )
        return torch.stack(values).sum(0)

    def __repr__(self) -> str:
        return f"FilterLearning({list(self.pairs)}, alone={self.alone})"


class RedundantInformation(FeatureTerm):
    """`scaled_distance` between the filtered features of both models; the teacher's filters stay as they are."""

    name = "redundant_information"

    def __init__(self, pairs: Sequence[tuple[str, str]], filters: Filters) -> None:
        super().__init__(pairs)
        self.filters = filters

    def build(self, ours: list[Tensor], theirs: list[Tensor], context: LossContext) -> None:
        """Create the filters, if the other stage has not done so."""
        self.filters.shape(ours, theirs, context.classes or 1)

    def compare(
        self, ours: list[Tensor], theirs: list[Tensor], batch: Batch, progress: Progress
    ) -> Float[Tensor, " batch"]:
        """The sum over the pairs of layers."""
        values = []
        for number, (mine, its) in enumerate(zip(ours, theirs, strict=True)):
            where = find_counted(batch.mask, mine)
            with torch.no_grad():
                fixed = _filtered(self.filters.teacher[number], its, find_counted(batch.mask, its))
            places = match_positions(_filtered(self.filters.student[number], mine, where), fixed)
            values.append(
                scaled_distance(*places, batch.mask if where is not None else None, alpha=self.filters.alphas[number])
            )
        return torch.stack(values).sum(0)

    def __repr__(self) -> str:
        return f"RedundantInformation({list(self.pairs)})"


@validates_arguments
def rid(
    teacher: Any,
    *,
    at: Layers,
    student_at: Layers,
    weight: float = 10.0,
    every: int = 3,
    alone: float = 0.1,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Alternate on each batch: filters learn what of the teacher is about the labels, and the student learns that.

    1. ``filters``, on every third batch: :math:`\sum_k CE(h_k(f_{T,k}(t_k)), y) + d_k`. Only the teacher's filters
       :math:`f_{T,k}` and their classifiers :math:`h_k` learn.
    2. ``student``, on each batch: :math:`CE(z, y) + \lambda \sum_k d_k`. The student, its filters :math:`f_{S,k}` and
       the variances learn.

    :math:`d_k` is `scaled_distance` of :math:`f_{S,k}(s_k)` and :math:`f_{T,k}(t_k)`. The filters are dropped.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run. It needs the layers `at`.
        at: The teacher's layers, one name or a list; three in the paper.
        student_at: The student's layers, in the same order.
        weight: Lambda, at least 0; 10 in the authors' code.
        every: The filters take a step on every so many batches. The authors' code gives them a quarter of all epochs.
        alone: The share of the training in which the filters learn from the labels alone, from 0 to 1; the first of
            ten rounds in the authors' code.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If the lists have different lengths, or a number is out of range.

    Example:
        >>> recipe = rid(nn.Linear(4, 3), at="layer1", student_at="layer1")
        >>> len(recipe.parts), recipe.ship
        (1, 'student')

    Source: Dissanayake et al., 2024, arXiv:2411.07483, section 4 and algorithm 1.
    """
    check_weight(weight=weight)
    check_count(every=every)
    check_share(alone=alone)
    pairs, filters = pair_layers(at, student_at), Filters()
    learning = FilterLearning(pairs, filters, alone)
    objective = CARD.get_task(task).supervised_loss() + weight * RedundantInformation(pairs, filters)
    first = Stage(learning, teacher=teacher, epochs=epochs, every=every, name="filters")
    second = Stage(objective, teacher=teacher, epochs=epochs, name="student")
    return first & second
