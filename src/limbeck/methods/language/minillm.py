"""MiniLLM: the reverse KL divergence of whole texts that the student writes, by policy gradient."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.batch import IGNORED, LOGITS, Batch, Outputs, Progress, Requirements, Term
from limbeck.errors import ArgumentError, DataError, unknown_name_error
from limbeck.functional import cross_entropy, reverse_kl
from limbeck.functional.closed_form import guarded_log_softmax
from limbeck.losses import Loss, LossContext, LossTerm, Objective
from limbeck.losses.distributed import all_reduce_tensor
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_share, check_weight, make_rollouts
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task

CARD = MethodCard(
    name="minillm",
    title="MiniLLM: Knowledge Distillation of Large Language Models",
    authors="Gu, Dong, Wei and Huang",
    year=2023,
    arxiv="2306.08543",
    venue="ICLR 2024",
    claim="The student writes, and minimizes the reverse KL divergence of whole texts: a token is also judged by "
    "what it makes the student write after it.",
    when="When a student should keep to what its teacher thinks likely, and one wrong token spoils the rest of a text. "
    "Start from a student that was trained on the data. Its gradient is noisy: compare with gkd, which stops at the "
    "next token, at equal cost. Tests here show that the estimator is unbiased, and that it lowers the divergence of "
    "whole texts; the scores of the paper for GPT-2 are not shown here. The loss on a second corpus of pre-training "
    "texts is not part of it.",
    bibtex="""@inproceedings{gu2024minillm,
  title = {{MiniLLM}: Knowledge Distillation of Large Language Models},
  author = {Gu, Yuxian and Dong, Li and Wei, Furu and Huang, Minlie},
  booktitle = {International Conference on Learning Representations},
  year = {2024},
  eprint = {2306.08543},
  archivePrefix = {arXiv}
}""",
    labels="unused",
    needs="prompts, and a student that can write",
    ranges={"clip": SearchRange(0.0, 0.5), "share": SearchRange(0.1, 1.0)},
    example={"max_new_tokens": 4},
    trials=("language",),
    tasks=("language_modeling",),
    task_reason="it needs texts that the student writes",
)

_IMPORTANCE = ("token", "prefix", "none")


def policy_gradient_terms(
    student: Float[Tensor, "batch length vocabulary"],
    teacher: Float[Tensor, "batch length vocabulary"],
    tokens: Int[Tensor, "batch length"],
    counted: Bool[Tensor, "batch length"],
    behavior: Float[Tensor, "batch length"],
    *,
    length_normalized: bool = True,
    importance: str = "token",
    clip: float = 0.0,
    whiten: bool = False,
) -> Float[Tensor, "batch length"]:
    r"""Compute values per token whose gradient estimates that of the reverse KL divergence of whole texts.

    With q of the student, p of the teacher, b of the writer, :math:`r_t = \log p(y_t) - \log q(y_t)`, and weights
    :math:`\rho`, the gradient at token t is

    .. math:: \rho_{<t} \nabla KL(q_t \| p_t) - \rho_t R_{t+1} \nabla \log q(y_t), \qquad R_{t+1} = \sum_{t' > t}
    r_{t'}.

    The first part is exact for the next token: it sums over the vocabulary. The second one is what the token does to
    the rest of the text. The *value* of a token is its divergence, :math:`\rho_{<t} KL(q_t \| p_t)`, in nats.

    With ``importance="prefix"`` and neither `length_normalized` nor `clip`, the expectation of the sum over a text,
    under the writer b, is exactly the gradient of :math:`KL(q \| p)` of whole texts, whatever b is, as long as it can
    write all that q can. If the student has just written the text (b = q), so it is for every `importance`.

    Args:
        student: The student's logits.
        teacher: The teacher's logits.
        tokens: The token that was written at each position.
        counted: Where a token was written; the tokens of a text are in order.
        behavior: The log-probability of each token under its writer.
        length_normalized: Whether :math:`R_{t+1}` is the mean over the tokens that follow, and not the sum: else long
            texts have larger rewards, and the student learns to stop early.
        importance: The weights. ``token``: :math:`\rho = q(y_t) / b(y_t)` in both parts, the paper's approximation.
            ``prefix``: products over all tokens so far, exact and of high variance. ``none``: 1.
        clip: With ``token``, the bound of :math:`|\rho - 1|` beyond which the second part has no gradient, as in PPO; 0
            for no bound.
        whiten: Whether the rewards :math:`R_{t+1}` are shifted and scaled to mean 0 and variance 1 over all tokens of
            the batch and of all ranks. It lowers the variance of the gradient, and changes its size.
    """
    # In float32 at least: ratios of probabilities, and their products, need its digits.
    keep = counted.to(torch.promote_types(student.dtype, torch.float32))
    log_q = _log_probability(student, tokens) * keep
    log_p = _log_probability(teacher, tokens).detach() * keep
    behavior = behavior.to(keep.dtype).masked_fill(~counted, 0.0)
    log_ratio = log_q.detach() - behavior
    reward = (log_p - log_q.detach()) * keep

    def following(values: Tensor) -> Tensor:
        after = _sum_after(values, keep, length_normalized)
        return _whiten(after, keep) if whiten else after

    if importance == "prefix":
        through = log_ratio.cumsum(1)
        before = (through - log_ratio).exp()
        surrogate = following(through.exp() * reward) * log_q
    elif importance == "token":
        before = log_ratio.exp()
        surrogate = _clipped((log_q - behavior).exp(), following(reward), clip)
    else:
        before = torch.ones_like(reward)
        surrogate = following(reward) * log_q
    divergence = before * reverse_kl(student, teacher.detach())
    # The second part has the value 0, so that reports show the divergence.
    return (divergence - (surrogate - surrogate.detach())).masked_fill(~counted, 0.0)


def _log_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return guarded_log_softmax(logits, 1.0).gather(-1, tokens.clamp_min(0).unsqueeze(-1)).squeeze(-1)


def _sum_after(values: Tensor, keep: Tensor, mean: bool) -> Tensor:
    """The sum, or the mean, of the values behind each position."""

    def behind(column: Tensor) -> Tensor:
        return column.flip(1).cumsum(1).flip(1) - column

    total = behind(values)
    return total / behind(keep).clamp_min(1.0) if mean else total


def _whiten(values: Tensor, keep: Tensor) -> Tensor:
    """The values with mean 0 and variance 1 over the positions that count, on all ranks; others are 0."""
    sums = torch.stack([keep.sum(), (values * keep).sum(), (values * values * keep).sum()])
    count, total, squares = all_reduce_tensor(sums.cpu().double()).tolist()
    mean = total / max(count, 1.0)
    variance = max(squares / max(count, 1.0) - mean * mean, 1e-8)
    return (values - mean) * variance**-0.5 * keep


def _clipped(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    if not clip:
        return ratio * advantage
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


class PolicyGradientLoss(LossTerm):
    """The mean over written tokens of `policy_gradient_terms`.

    The tokens that were written are the labels, with ``Batch.extra["behavior_logprobs"]`` (`limbeck.data.Rollouts`). Of
    batches with given texts nothing counts.
    """

    name, per = "policy_gradient", "position"

    def __init__(
        self, *, length_normalized: bool = True, importance: str = "token", clip: float = 0.0, whiten: bool = False
    ) -> None:
        super().__init__()
        self.length_normalized, self.importance, self.clip = length_normalized, importance, clip
        self.whiten = whiten

    @property
    def requires(self) -> Requirements:
        """The logits of both models, and the written tokens."""
        return Requirements(frozenset({LOGITS}), frozenset({LOGITS}), frozenset({"labels"}))

    def setup(self, context: LossContext) -> PolicyGradientLoss:
        """Check that a model writes the texts.

        Raises:
            DataError: If the batches are not those of rollouts.
        """
        if "written_by" not in context.batch.extra or context.batch.labels is None:
            raise DataError(
                "The policy gradient needs texts that a model writes while it learns, and the batches of this loader "
                "have given ones. Use Stage(..., loader=Rollouts(...)), as minillm() does."
            )
        return self

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The terms of all written tokens."""
        counted, labels = self._counted(batch), batch.labels
        if labels is None or "behavior_logprobs" not in batch.extra:
            return Term(student[LOGITS].sum() * 0.0, 0.0)  # given texts; zero, but connected to the graph
        values = policy_gradient_terms(
            student[LOGITS], teacher[LOGITS], labels, counted, batch.extra["behavior_logprobs"],
            length_normalized=self.length_normalized, importance=self.importance, clip=self.clip, whiten=self.whiten,
        )  # fmt: skip
        return Term(values.sum(), float(counted.sum()))

    def count(self, batch: Batch) -> float:
        """The number of written tokens."""
        return float(self._counted(batch).sum()) if "behavior_logprobs" in batch.extra else 0.0

    @staticmethod
    def _counted(batch: Batch) -> Tensor:
        labels = torch.full((batch.size, 1), IGNORED) if batch.labels is None else batch.labels
        return labels != IGNORED if batch.mask is None else batch.mask.bool() & (labels != IGNORED)

    def __repr__(self) -> str:
        own = f"length_normalized={self.length_normalized}, importance={self.importance!r}, clip={self.clip}"
        own += ", whiten=True" * self.whiten
        return f"PolicyGradientLoss({own})"


@validates_arguments
def minillm(
    teacher: Any,
    *,
    share: float = 1.0,
    length_normalized: bool = True,
    importance: str = "token",
    clip: float = 0.2,
    whiten: bool = False,
    teacher_share: float = 0.2,
    label_weight: float = 1.0,
    max_new_tokens: int = 64,
    sampling_temperature: float = 1.0,
    writer: str = "student",
    replay: int = 0,
    task: str | Task = "language_modeling",
    epochs: int | None = None,
) -> Recipe:
    r"""Minimize :math:`KL(q(y) \| p(y))` of whole texts y that the student writes, by its policy gradient.

    p is the teacher, q the student. The gradient at a token has an exact part for the next token and one for what
    follows it, with the reward :math:`\log p(y_t) - \log q(y_t)`, see `policy_gradient_terms`. The mean is over all
    tokens of a step. Batches of given texts, for a `share` below 1, are learned by their cross-entropy.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        share: The share of the batches with written texts, above 0 and at most 1.
        length_normalized: Whether the reward of what follows is its mean per token, as in the paper; without it, it is
            the sum, whose expectation is the gradient of whole texts.
        importance: How texts of another writer, or of before, are weighted: ``token``, the paper's approximation;
            ``prefix``, exact; ``none``.
        clip: With ``token``, the bound of the ratio in the second part, at least 0; 0 for none. The authors' code has
            0.2.
        whiten: Whether the rewards of what follows are shifted and scaled to mean 0 and variance 1 over the batch.
        teacher_share: The share of the teacher in the mixture from which each token is drawn, from 0 to below 1 (alpha
            of the paper, 0.2 there), for ``writer="student"``. It keeps a weak student from rewards for texts that are
            no texts. With 0 only the student writes.
        label_weight: The weight of the cross-entropy of given texts, at least 0.
        max_new_tokens: The largest number of tokens that are written; longer texts are cut off.
        sampling_temperature: The temperature at which texts are written. The weights of `importance` know it.
        writer: Who writes: ``student``, or ``teacher``, with `importance`.
        replay: The number of written texts that are kept and used again, in half of the batches; 0 for none.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or the teacher cannot be asked about new texts.

    Example:
        >>> from torch import nn
        >>> stage = next(minillm(nn.Linear(4, 3), clip=0.1).stages())
        >>> repr(stage.objective).partition(" + ")[0]
        "PolicyGradientLoss(length_normalized=True, importance='token', clip=0.1)"

    Source: Gu, Dong, Wei and Huang, 2023, arXiv:2306.08543, section 2.2.
    """
    CARD.get_task(task)
    check_weight(clip=clip, label_weight=label_weight)
    check_share(share=share)
    if share == 0:
        raise ArgumentError("share=0 leaves no text that a model writes; minillm learns from these.", argument="share")
    if importance not in _IMPORTANCE:
        raise unknown_name_error("importance", importance, _IMPORTANCE, argument="importance")
    rollouts, teacher = make_rollouts(
        teacher, share=share, writer=writer, max_new_tokens=max_new_tokens, sampling_temperature=sampling_temperature,
        replay=replay, replay_share=0.5, teacher_share=0.0 if writer == "teacher" else teacher_share,
    )  # fmt: skip
    written = PolicyGradientLoss(length_normalized=length_normalized, importance=importance, clip=clip, whiten=whiten)
    objective: Objective = written + label_weight * Loss(cross_entropy, where="given")
    return Recipe(Stage(objective, teacher=teacher, loader=rollouts, epochs=epochs, name="minillm"))
