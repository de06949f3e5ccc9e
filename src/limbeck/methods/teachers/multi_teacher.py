"""Several teachers with weights: fixed, by confidence for each example, learned, or given by a learned gate."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch, Outputs, Progress, Requirements, Term
from limbeck.errors import ArgumentError, unknown_name_error
from limbeck.functional import check_hyper, cross_entropy
from limbeck.losses import LossContext, LossTerm
from limbeck.losses.logit_rows import count_logit_rows
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_share, check_weight, find_ensemble, read_teachers
from limbeck.methods.teachers.member_outputs import (
    MemberRows,
    MemberShares,
    describe_members,
    member_addresses,
    member_divergences,
    member_losses,
    read_members,
)
from limbeck.recipe import Recipe, Stage

CARD = MethodCard(
    name="multi_teacher",
    title="Confidence-Aware Multi-Teacher Knowledge Distillation",
    authors="Zhang, Chen and Wang",
    year=2022,
    arxiv="2201.00007",
    venue="ICASSP 2022",
    claim="Of several teachers, each example learns most from those whose predictions are near its label. The weights "
    "can also be fixed, learned for all examples, or come from a learned gate.",
    when="For several teachers of different quality, or that are good at different examples. The weights `confidence` "
    "(the paper's) need labels and learn nothing; `learned` finds one weight for each teacher, low for a bad one; "
    "`gate` finds weights for each example, also where its label is wrong. All are measured on the training "
    "labels, so a teacher that was trained on them looks better than it is. Hidden layers of teachers, of which the "
    "paper matches one as well, are not used.",
    bibtex="""@inproceedings{zhang2022confidence,
  title = {Confidence-Aware Multi-Teacher Knowledge Distillation},
  author = {Zhang, Hailin and Chen, Defang and Wang, Can},
  booktitle = {IEEE International Conference on Acoustics, Speech and Signal Processing},
  year = {2022},
  eprint = {2201.00007},
  archivePrefix = {arXiv}
}
@article{jacobs1991adaptive,
  title = {Adaptive Mixtures of Local Experts},
  author = {Jacobs, Robert A. and Jordan, Michael I. and Nowlan, Steven J. and Hinton, Geoffrey E.},
  journal = {Neural Computation},
  volume = {3},
  pages = {79--87},
  year = {1991}
}""",
    ranges={"temperature": SearchRange(1.0, 10.0, log=True), "weight": SearchRange(0.1, 1.0)},
    labels="required",
    needs="two teachers or more",
    trials=("several",),
    keywords=("ca-mkd", "camkd", "mixture of experts", "gate", "ensemble", "weights"),
)

POLICIES = ("confidence", "fixed", "learned", "gate")


def confidence_weights(losses: Float[Tensor, "teachers rows"]) -> Float[Tensor, "teachers rows"]:
    r"""Compute :math:`w_k = \frac{1}{K - 1} \left( 1 - \frac{e^{l_k}}{\sum_j e^{l_j}} \right)` from cross-entropies.

    They sum to 1 over the teachers. Teachers with equal losses have equal weights; with two teachers the weights are
    the softmax of minus the losses.

    Args:
        losses: :math:`l_k`, the cross-entropy of each teacher in nats; two teachers or more.

    Example:
        >>> confidence_weights(torch.tensor([[0.0], [0.0], [50.0]])).squeeze(1)
        tensor([0.5000, 0.5000, 0.0000])

    Source: Zhang, Chen and Wang, 2022, arXiv:2201.00007, equation 3.
    """
    return (1 - losses.clamp_max(1e4).softmax(0)) / (len(losses) - 1)


class TeacherGate(nn.Module):
    """Weights of teachers: one for each, or a linear function of what is known of an example.

    Args:
        names: The names of the teachers.
        per_example: Whether the weights depend on the example.

    Attributes:
        shares: The mean weights of the last steps.
    """

    def __init__(self, names: Sequence[str], *, per_example: bool) -> None:
        super().__init__()
        self.per_example = per_example
        self.shares = MemberShares(names)
        self.weight: nn.Parameter | None = None
        self.bias: nn.Parameter | None = None

    def shape(self, features: Float[Tensor, "teachers rows features"]) -> None:
        """Begin with equal weights, for features of this width."""
        teachers, _, width = features.shape
        self.bias = nn.Parameter(features.new_zeros(teachers))
        self.weight = nn.Parameter(features.new_zeros(teachers, width)) if self.per_example else None
        self.shares.to(features.device)

    def forward(self, features: Float[Tensor, "teachers rows features"]) -> Float[Tensor, "teachers rows"]:
        """The logarithms of the weights, which sum to 1 over the teachers."""
        scores = cast(Tensor, self.bias).unsqueeze(1).expand(features.shape[:2])
        if self.weight is not None:
            scores = scores + (features * self.weight.unsqueeze(1)).sum(-1)
        return scores.log_softmax(0)


class WeightedTeachers(LossTerm):
    """The loss of `multi_teacher`, one value for each example, and that of its gate."""

    name, per = "multi_teacher", "example"

    def __init__(
        self, names: Sequence[str], *, weights: str, fixed: Sequence[float], temperature: float, weight: float,
        gate_lr: float, embedding: str | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.names, self.weights, self.fixed = tuple(names), weights, tuple(fixed)
        self.temperature, self.weight, self.gate_lr, self.embedding = temperature, weight, gate_lr, embedding
        self.own_temperatures = frozenset({1.0, temperature})
        self.gate = TeacherGate(names, per_example=weights == "gate")
        if weights in ("learned", "gate"):
            self.optimizer_options: Mapping[str, Any] = {"lr": gate_lr}

    @property
    def requires(self) -> Requirements:
        """The logits of the student and of each teacher, and labels."""
        teacher = member_addresses(self.names, self.embedding)
        return Requirements(frozenset({LOGITS}), teacher, frozenset({"labels"}))

    def setup(self, context: LossContext) -> WeightedTeachers:
        """The loss for one stage, with a gate that begins with equal weights."""
        features = self._describe(self._read(context.student, context.teacher, context.batch))
        if self.weights in ("learned", "gate"):
            self.gate.shape(features)
        return copy.copy(self)

    def _read(self, student: Outputs, teacher: Outputs, batch: Batch) -> MemberRows:
        return read_members(student, teacher, batch, self.names, method="multi_teacher", embedding=self.embedding)

    def _describe(self, rows: MemberRows) -> Tensor:
        """What the gate reads: not the label, which it would have to do without in a new example."""
        return describe_members(rows)[..., :-1]

    def log_weights(self, rows: MemberRows) -> Float[Tensor, "teachers rows"]:
        """The logarithms of the weights of each example, with a graph to the gate."""
        if self.weights == "fixed":
            fixed = torch.tensor(self.fixed, device=rows.student.device, dtype=rows.student.dtype)
            return fixed.log().unsqueeze(1).expand(rows.teachers.shape[:2])
        if self.weights == "confidence":
            return confidence_weights(member_losses(rows)).log()
        log_weights: Tensor = self.gate(self._describe(rows))
        return log_weights

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The weighted divergences, the loss of the labels, and minus the likelihood of the labels under the gate."""
        rows = self._read(student, teacher, batch)
        log_weights = self.log_weights(rows)
        weights = log_weights.detach().exp()
        divergences = member_divergences(rows, self.temperature)
        taught = (weights * divergences.where(weights > 0, 0.0)).sum(0)
        values = self.weight * taught + (1 - self.weight) * cross_entropy(rows.student, labels=rows.labels)
        if self.weights in ("learned", "gate"):
            values = values - torch.logsumexp(log_weights - member_losses(rows).clamp_max(50.0), 0)
        return Term(values.sum(), self.count(batch))

    def count(self, batch: Batch) -> float:
        """The number of labeled examples."""
        return count_logit_rows(batch, 1, labeled=True)

    def after_step(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> None:
        """Follow the mean weights."""
        self.gate.shares.update_by_rows(self.log_weights(self._read(student, teacher, batch)).exp())

    def __repr__(self) -> str:
        names = ("names", "weights", "fixed", "temperature", "weight", "gate_lr", "embedding")
        return f"WeightedTeachers({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


@validates_arguments
def multi_teacher(
    teacher: Any,
    *,
    weights: str = "confidence",
    temperature: float = 4.0,
    weight: float = 0.5,
    gate_lr: float = 0.05,
    embedding: str | None = None,
    epochs: int | None = None,
) -> Recipe:
    r"""Learn from all teachers with weights: :math:`a \sum_k w_k T^2 KL(p_k \| q) + (1 - a) (-\log q_y)`.

    The weights are at least 0 and sum to 1. With ``learned`` and ``gate`` they have no gradient of the student's loss,
    and maximize the likelihood of the labels under the mixture, :math:`\log \sum_k w_k p_{k,y}`: a mixture of experts.

    The mean weights of the last steps, by teacher: ``run.stages[0].objective.gate.shares.by_name``, with the run that
    `distill` returned.

    Args:
        teacher: An `Ensemble` with names (``teachers:`` in a job), a mapping from names to teachers, or a list.
        weights: ``confidence``, the paper's, from the loss of each teacher for the example (`confidence_weights`);
            ``fixed``, those of the ensemble; ``learned``, one number for each teacher; or ``gate``, a linear function
            of the teachers' probabilities, or of `embedding`.
        temperature: T, above 0.
        weight: a, from 0 to 1.
        gate_lr: The learning rate of learned weights, above 0.
        embedding: A layer of a teacher, ``NAME.LAYER``, which the gate reads beside each teacher's probabilities. By
            default it reads the probabilities of all teachers.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If there are fewer than two teachers, or an argument is out of range.

    Example:
        >>> recipe = multi_teacher({"a": nn.Linear(4, 3), "b": nn.Linear(4, 3)}, weights="learned")
        >>> next(recipe.stages()).objective.gate.shares.by_name
        {'a': 0.5, 'b': 0.5}

    Source: Zhang, Chen and Wang, 2022, arXiv:2201.00007; Jacobs et al., 1991, for the gate.
    """
    check_hyper(temperature=temperature)
    check_share(weight=weight)
    check_weight(gate_lr=gate_lr)
    if gate_lr == 0:
        raise ArgumentError("gate_lr is above 0; for weights that stay, use weights=fixed.", argument="gate_lr")
    if weights not in POLICIES:
        raise unknown_name_error("weights", weights, POLICIES, argument="weights")
    source, names = read_teachers(teacher, "multi_teacher")
    if weight == 0:
        raise ArgumentError("weight=0 leaves the labels alone; use the method supervised.", argument="weight")
    if embedding is not None and weights != "gate":
        raise ArgumentError(f"embedding is what a gate reads; weights={weights} has none.", argument="embedding")
    loss = WeightedTeachers(
        names, weights=weights, fixed=find_ensemble(source).weights, temperature=temperature, weight=weight,
        gate_lr=gate_lr, embedding=embedding,
    )  # fmt: skip
    return Recipe(Stage(loss, teacher=source, epochs=epochs, name="multi_teacher"))
