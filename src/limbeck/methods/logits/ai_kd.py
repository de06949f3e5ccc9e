"""AI-KD: self-distillation from a trained copy and from the previous epoch, with a critic of the outputs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from limbeck.batch import LOGITS, Batch, Outputs, Progress, Requirements, Term
from limbeck.errors import LimbeckError
from limbeck.functional import check_hyper, cross_entropy, kl_divergence, probabilities
from limbeck.functional.closed_form import guarded_log_softmax
from limbeck.losses import Loss, LossContext, LossTerm, Objective, RowIndex, all_gather
from limbeck.losses.logit_rows import count_logit_rows, find_counted
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_count, check_share, check_weight
from limbeck.random_seeds import counter_uniform, draw_seed
from limbeck.recipe import Recipe, Stage

CARD = MethodCard(
    name="ai_kd",
    title="AI-KD: Adversarial learning and Implicit regularization for self-Knowledge Distillation",
    authors="Kim, Suh, Baek, Kim, Jeong, Cho and Kim",
    year=2022,
    arxiv="2211.10938",
    venue="Knowledge-Based Systems 293, 2024",
    claim="A network learns from a trained copy of its own architecture and from its own predictions of the previous "
    "epoch, while a critic makes the distribution of its outputs like that of the copy.",
    when="To train a network again with itself as the teacher, when there is no larger one. It needs labels, and one "
    "row of memory for each training example. Without the critic and the copy it is PS-KD, progressive "
    "self-distillation.",
    bibtex="""@article{kim2024aikd,
  title = {{AI-KD}: Adversarial learning and Implicit regularization for self-Knowledge Distillation},
  author = {Kim, Hyungmin and Suh, Sungho and Baek, Sunghyun and Kim, Daehwan and Jeong, Daun and Cho, Hansang and
            Kim, Junmo},
  journal = {Knowledge-Based Systems},
  volume = {293},
  pages = {111692},
  year = {2024},
  eprint = {2211.10938},
  archivePrefix = {arXiv}
}""",
    labels="required",
    needs="a trained network of the same architecture",
    ranges={
        "temperature": SearchRange(1.0, 20.0, log=True),
        "weight": SearchRange(0.01, 10.0, log=True),
        "previous_share": SearchRange(0.0, 0.9),
        "adversarial_weight": SearchRange(0.001, 1.0, log=True),
    },
    task_reason="it keeps one row of predictions for each example",
)


def get_ids(batch: Batch) -> Int[Tensor, " batch"]:
    """The ids of the examples of a batch.

    Raises:
        LimbeckError: If the loader gives none.
    """
    if batch.id is None:
        raise LimbeckError(
            "ai_kd needs the ids of the examples, and this loader gives none: use ShuffledLoader(ArrayDataset(...))."
        )
    return batch.id


class PreviousPredictions(LossTerm):
    r"""The cross-entropy of labels that are softened by the predictions of the previous epoch.

    :math:`(1 - a_t) (-\log q_y) + a_t H(\bar q, q)`, with :math:`\bar q` the student's prediction at its last visit to
    the example, and :math:`a_t` growing linearly from 0 to the share. An example that was not visited yet has the label
    alone.

    Its buffers are the logits of the last visit of each example.

    Args:
        share: The share of the previous predictions at the end of the stage.
    """

    name, per = "previous_predictions", "example"
    rows: RowIndex
    previous: Tensor
    visited: Tensor

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    @property
    def requires(self) -> Requirements:
        """The logits of the student, labels and ids."""
        return Requirements(frozenset({LOGITS}), frozenset(), frozenset({"labels", "id"}))

    def setup(self, context: LossContext) -> PreviousPredictions:
        """The loss for one stage, with a row of memory for each example.

        Raises:
            LimbeckError: If the loader does not know the ids of its examples.
        """
        logits = context.student[LOGITS]
        fitted = copy.copy(self)
        fitted.rows = RowIndex(context.ids)
        size = len(fitted.rows)
        fitted.register_buffer("previous", torch.zeros(size, logits.shape[-1], dtype=_wide(logits).dtype))
        fitted.register_buffer("visited", torch.zeros(size, dtype=torch.bool))
        return fitted

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The sum over the examples with a label."""
        if batch.labels is None:
            raise LimbeckError("ai_kd needs labels, and this loader gives none.")
        logits, rows = _wide(student[LOGITS]), self.rows(batch.id)
        share = progress.fraction * self.share * self.visited[rows].to(logits.dtype)
        target = probabilities(self.previous[rows].to(logits))
        soft = -(target * guarded_log_softmax(logits, 1.0)).sum(-1)
        values = (1 - share) * cross_entropy(logits, labels=batch.labels) + share * soft
        counted = find_counted(batch, labeled=True)
        return Term(values[counted].sum(), self.count(batch))

    def count(self, batch: Batch) -> float:
        """The number of examples with a label."""
        return count_logit_rows(batch, 1, labeled=True)

    def after_step(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> None:
        """Keep the predictions of this visit."""
        rows = self.rows(all_gather(get_ids(batch)[batch.valid]))
        self.previous[rows] = all_gather(_wide(student[LOGITS][batch.valid]).detach()).to(self.previous)
        self.visited[rows] = True

    def __repr__(self) -> str:
        return f"PreviousPredictions(share={self.share})"


class Critic(LossTerm):
    r"""A critic of logits that tells the student from the teacher, and the student's loss against it.

    With D a network of two hidden layers, :math:`D^*` the same without a gradient for its parameters, z the student's
    logits and v the teacher's, one example has the value

    .. math:: -w D^*(z) + [D(z^*) - D(v) + \lambda (\|\nabla D(\hat x)\| - 1)^2]

    where :math:`z^*` has no gradient and :math:`\hat x` is a random point between z* and v. The part in brackets trains
    the critic (Wasserstein, with a gradient penalty), the first part the student. Both take a step at once.

    Args:
        weight: w, the weight of the student's part.
        penalty: lambda, the weight of the gradient penalty.
        hidden: The width of the critic's layers.
    """

    name, per = "critic", "example"
    network: nn.Sequential
    seed: Tensor

    def __init__(self, *, weight: float, penalty: float, hidden: int) -> None:
        super().__init__()
        self.weight, self.penalty, self.hidden = weight, penalty, hidden

    @property
    def requires(self) -> Requirements:
        """The logits of both models, and ids, which the random points depend on."""
        return Requirements(frozenset({LOGITS}), frozenset({LOGITS}), frozenset({"id"}))

    def setup(self, context: LossContext) -> Critic:
        """The loss for one stage, with a new critic."""
        logits = _wide(context.student[LOGITS])
        kind: dict[str, Any] = {"dtype": logits.dtype, "device": logits.device}
        fitted = copy.copy(self)
        fitted.network = nn.Sequential(
            nn.Linear(logits.shape[-1], self.hidden, **kind), nn.LeakyReLU(0.2),
            nn.Linear(self.hidden, self.hidden, **kind), nn.LeakyReLU(0.2), nn.Linear(self.hidden, 1, **kind),
        )  # fmt: skip
        fitted.register_buffer("seed", draw_seed().to(logits.device))
        return fitted

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The sum over the examples that count."""
        valid = batch.valid
        ours, theirs = (_without_absent(_wide(outputs[LOGITS])[valid]) for outputs in (student, teacher))
        ids = get_ids(batch)[valid]
        values = self.student_values(ours) + self.critic_values(ours.detach(), theirs, ids, step=progress.step)
        return Term(values.sum(), self.count(batch))

    def student_values(self, student: Float[Tensor, "rows classes"]) -> Float[Tensor, " rows"]:
        """The student's part of the loss: the critic's parameters have no gradient."""
        frozen = {name: parameter.detach() for name, parameter in self.network.named_parameters()}
        judged: Tensor = functional_call(self.network, frozen, (student,))
        return -self.weight * judged.squeeze(-1)

    def critic_values(
        self,
        student: Float[Tensor, "rows classes"],
        teacher: Float[Tensor, "rows classes"],
        ids: Int[Tensor, " rows"],
        *,
        step: int = 0,
    ) -> Float[Tensor, " rows"]:
        """The critic's part of the loss, one value for each example."""
        steps = torch.full_like(ids, step)
        share = counter_uniform(ids, steps, seed=int(self.seed), draws=1, stream="critic").to(student)
        between = (share * student + (1 - share) * teacher).detach().requires_grad_()
        with torch.enable_grad():
            judged = self.network(between).sum()
            (slope,) = torch.autograd.grad(judged, between, create_graph=True)
        length = slope.square().sum(-1).clamp_min(torch.finfo(slope.dtype).tiny).sqrt()
        gap = self.network(student) - self.network(teacher)
        return gap.squeeze(-1) + self.penalty * (length - 1).square()

    def count(self, batch: Batch) -> float:
        """The number of examples that count."""
        return float(batch.valid.sum())

    def __repr__(self) -> str:
        return f"Critic(weight={self.weight}, penalty={self.penalty}, hidden={self.hidden})"


def _without_absent(logits: Tensor) -> Tensor:
    """The logits with 0 for classes that do not exist, because a network of -inf is not a number."""
    return logits.masked_fill(logits == -torch.inf, 0.0)


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


@validates_arguments
def ai_kd(
    teacher: Any,
    *,
    temperature: float = 4.0,
    weight: float = 0.1,
    previous_share: float = 0.8,
    adversarial_weight: float = 0.01,
    penalty: float = 10.0,
    critic_width: int = 64,
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels, previous predictions, a trained copy, and to look like it to a critic.

    :math:`(1 - a_t) (-\log q_y) + a_t H(\bar q, q) + w T^2 KL(p \| q) - \omega D(z)`, with :math:`\bar q` the
    prediction of the previous epoch, p and q in the third term at temperature T, and D a critic that is trained beside
    it.

    With `adversarial_weight` 0 and `weight` 0 it is progressive self-distillation (PS-KD), with `previous_share` 0 as
    well it is `supervised`.

    Args:
        teacher: The trained network, usually of the student's architecture.
        temperature: T, above 0.
        weight: w, the weight of the trained network's soft targets.
        previous_share: a_T, the share of the previous predictions at the end, from 0 to 1; 0.8 in PS-KD.
        adversarial_weight: omega, the weight of the critic's opinion in the student's loss. 0 for no critic.
        penalty: The weight of the critic's gradient penalty; 10 as in WGAN-GP.
        critic_width: The width of the critic's two hidden layers.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range.

    Example:
        >>> from torch import nn
        >>> [repr(stage.objective) for stage in ai_kd(nn.Linear(4, 3), weight=0.0, adversarial_weight=0.0).stages()]
        ['PreviousPredictions(share=0.8)']

    Source: Kim et al., 2022, arXiv:2211.10938; Kim, Ji, Yoon and Hwang (PS-KD), 2020, arXiv:2006.12000.
    """
    check_hyper(temperature=temperature)
    check_weight(weight=weight, adversarial_weight=adversarial_weight, penalty=penalty)
    check_share(previous_share=previous_share)
    check_count(critic_width=critic_width)
    objective: Objective = PreviousPredictions(previous_share) if previous_share else Loss(cross_entropy)
    if weight:
        objective = objective + weight * Loss(kl_divergence, temperature=temperature)
    if adversarial_weight:
        objective = objective + Critic(weight=adversarial_weight, penalty=penalty, hidden=critic_width)
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="ai_kd"))
