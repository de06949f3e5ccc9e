"""RL-KD: a policy selects the teachers of each example, and is trained by what the student gains."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch, Outputs, Progress, Requirements, Term
from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.functional import check_hyper, cross_entropy
from limbeck.losses import LossContext, LossTerm, all_reduce_sum
from limbeck.losses.distributed import all_reduce_tensor
from limbeck.losses.logit_rows import count_logit_rows
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_share, check_weight, read_teachers
from limbeck.methods.teachers.member_outputs import (
    MemberRows,
    MemberShares,
    describe_members,
    member_addresses,
    member_divergences,
    read_members,
)
from limbeck.random_seeds import counter_uniform
from limbeck.recipe import Recipe, Stage
from limbeck.tap import FrozenParameters

CARD = MethodCard(
    name="rl_kd",
    title="Reinforced Multi-Teacher Selection for Knowledge Distillation",
    authors="Yuan, Shou, Pei, Lin, Gong, Fu and Jiang",
    year=2020,
    arxiv="2012.06048",
    venue="AAAI 2021",
    claim="A policy selects for each example which teachers the student learns from. It is trained by policy "
    "gradients: the reward is what the student has gained on the example.",
    when="For several teachers that are good at different examples, or of which some may be bad and nobody knows "
    "which. Each step costs a further forward pass of the student. If one set of weights would do for all examples, "
    "multi_teacher learns them with fewer examples, by the likelihood of the labels.",
    bibtex="""@inproceedings{yuan2021reinforced,
  title = {Reinforced Multi-Teacher Selection for Knowledge Distillation},
  author = {Yuan, Fei and Shou, Linjun and Pei, Jian and Lin, Wutao and Gong, Ming and Fu, Yan and Jiang, Daxin},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  year = {2021},
  eprint = {2012.06048},
  archivePrefix = {arXiv}
}""",
    ranges={
        "temperature": SearchRange(1.0, 10.0, log=True),
        "weight": SearchRange(0.1, 1.0),
        "policy_lr": SearchRange(0.01, 2.0, log=True),
    },
    labels="required",
    needs="two teachers or more, and examples with ids",
    trials=("several",),
    keywords=("reinforcement", "policy gradient", "ensemble", "selection"),
)

REWARDS = ("labels", "both")


class SelectionPolicy(nn.Module):
    r"""The probability that a teacher is selected for an example: :math:`\pi_k = \sigma(A_k F_k + b_k)`.

    Args:
        names: The names of the teachers.

    Attributes:
        shares: The mean probabilities of the last steps.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.shares = MemberShares(names)
        self.shares.mean.fill_(0.5)
        self.register_buffer("weight", torch.zeros(0))
        self.register_buffer("bias", torch.zeros(0))

    def shape(self, features: Float[Tensor, "teachers rows features"]) -> None:
        """Begin with equal probabilities of 1/2, for features of this width."""
        teachers, _, width = features.shape
        self.weight = features.new_zeros(teachers, width)
        self.bias = features.new_zeros(teachers)
        self.shares.to(features.device)

    def forward(self, features: Float[Tensor, "teachers rows features"]) -> Float[Tensor, "teachers rows"]:
        """The probabilities."""
        return ((features * self.weight.unsqueeze(1)).sum(-1) + self.bias.unsqueeze(1)).sigmoid()

    def step(self, gradients: tuple[Tensor, Tensor], rate: float) -> None:
        """Go up the gradients of the expected reward by the weights and the biases."""
        self.weight.add_(rate * gradients[0])
        self.bias.add_(rate * gradients[1])


def policy_gradient(
    features: Float[Tensor, "teachers rows features"],
    chosen: Float[Tensor, "teachers rows"],
    probability: Float[Tensor, "teachers rows"],
    advantage: Float[Tensor, " rows"],
) -> tuple[Float[Tensor, "teachers features"], Float[Tensor, " teachers"]]:
    r"""Compute REINFORCE's estimate of the gradient of the expected reward, summed over examples.

    For independent choices with :math:`\pi = \sigma(A F + b)` it is :math:`\sum_i r_i (a_{ik} - \pi_{ik}) F_{ik}` for
    :math:`A_k`, and the same without F for :math:`b_k`.

    Args:
        features: F.
        chosen: a, 1 where a teacher was selected, else 0.
        probability: The probability with which it was.
        advantage: r, the reward less a baseline that does not depend on the choice.

    Example:
        >>> one = torch.ones(1, 2, 1)
        >>> policy_gradient(one, torch.tensor([[1.0, 0.0]]), torch.full((1, 2), 0.5), torch.tensor([2.0, 0.0]))
        (tensor([[1.]]), tensor([1.]))
    """
    slope = (chosen - probability) * advantage
    return (slope.unsqueeze(-1) * features).sum(1), slope.sum(1)


class SelectedTeachers(LossTerm):
    """The loss of `rl_kd`, one value for each example, and the update of its policy after a step."""

    name, per = "rl_kd", "example"
    # In a tuple, so that the parameters of the model do not become those of the loss.
    _context: tuple[nn.Module, Callable[[Batch], Outputs]]
    _seen: list[tuple[MemberRows, Tensor, Tensor, Tensor]]

    def __init__(
        self, names: Sequence[str], *, temperature: float, weight: float, reward: str, warmup: float, policy_lr: float,
        embedding: str | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.names, self.temperature, self.weight, self.reward = tuple(names), temperature, weight, reward
        self.warmup, self.policy_lr, self.embedding = warmup, policy_lr, embedding
        self.own_temperatures = frozenset({1.0, temperature})
        self.policy = SelectionPolicy(names)

    @property
    def requires(self) -> Requirements:
        """The logits of the student and of each teacher, labels and ids."""
        teacher = member_addresses(self.names, self.embedding)
        return Requirements(frozenset({LOGITS}), teacher, frozenset({"labels", "id"}))

    def setup(self, context: LossContext) -> SelectedTeachers:
        """The loss for one stage, with a policy that selects each teacher with probability 1/2.

        Raises:
            LimbeckError: If the model is sharded, or there are no ids, by which selections are drawn.
        """
        if context.model is None or context.forward is None:
            raise LimbeckError(
                "rl_kd runs the student again after each step, which FSDP and other sharding strategies split. Use one "
                "device or strategy='ddp'."
            )
        if context.batch.id is None:
            raise LimbeckError("rl_kd draws its selections by id, and this loader has none: use an ArrayDataset.")
        fitted = copy.copy(self)
        fitted.policy.shape(describe_members(self._read(context.student, context.teacher, context.batch)))
        fitted._context, fitted._seen = (context.model, context.forward), []
        return fitted

    def _read(self, student: Outputs, teacher: Outputs, batch: Batch) -> MemberRows:
        return read_members(student, teacher, batch, self.names, method="rl_kd", embedding=self.embedding)

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The losses of the selected teachers and of the labels."""
        rows = self._read(student, teacher, batch)
        chosen, _ = self._select(describe_members(rows), batch, rows.counted, progress)
        return Term(self._losses(rows, chosen).sum(), self.count(batch))

    def count(self, batch: Batch) -> float:
        """The number of labeled examples."""
        return count_logit_rows(batch, 1, labeled=True)

    def _losses(self, rows: MemberRows, chosen: Tensor) -> Float[Tensor, " rows"]:
        taught = _selected_mean(member_divergences(rows, self.temperature), chosen)
        return self.weight * taught + (1 - self.weight) * cross_entropy(rows.student, labels=rows.labels)

    def _is_warmup(self, progress: Progress) -> bool:
        return progress.step < self.warmup * progress.steps

    def _select(
        self, features: Tensor, batch: Batch, counted: Bool[Tensor, " batch"], progress: Progress
    ) -> tuple[Tensor, Tensor]:
        """Which teachers are selected for each example, 0 or 1, and the probabilities of that."""
        probability = self.policy(features)
        if self._is_warmup(progress):
            return torch.ones_like(probability), probability
        ids = cast(Tensor, batch.id)[counted.to(cast(Tensor, batch.id).device)]
        views = torch.full_like(ids, progress.step)
        drawn = counter_uniform(ids, views, seed=0, draws=len(self.names), stream="rl_kd").T
        return (drawn.to(probability) < probability).to(probability), probability

    def after_step(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> None:
        """Keep what the policy did, and the losses before the step, which are its baseline."""
        rows = self._read(student, teacher, batch)
        features = describe_members(rows)
        chosen, probability = self._select(features, batch, rows.counted, progress)
        self._seen.append((rows, features, chosen, probability))

    def end_step(self, batches: Sequence[Batch], progress: Progress) -> None:
        """Let the student answer again, and go up the gradient of its gains."""
        seen, self._seen = self._seen, []
        model, forward = self._context
        gains = []
        with FrozenParameters(model):  # without dropout, and running statistics stay
            for (rows, _, chosen, _), batch in zip(seen, batches, strict=True):
                logits = forward(batch)[LOGITS][rows.counted].to(rows.student)
                gains.append(
                    self._loss_for_reward(rows, chosen) - self._loss_for_reward(rows._replace(student=logits), chosen)
                )
        self._update(seen, gains, learns=not self._is_warmup(progress))

    def _loss_for_reward(self, rows: MemberRows, chosen: Tensor) -> Float[Tensor, " rows"]:
        own = cross_entropy(rows.student, labels=rows.labels)
        if self.reward == "labels":
            return own
        return own + _selected_mean(member_divergences(rows, self.temperature), chosen)

    def _update(self, seen: Sequence[Any], gains: Sequence[Tensor], *, learns: bool) -> None:
        number = all_reduce_sum(sum(float(gain.isfinite().sum()) for gain in gains))
        if not number:
            return
        mean = all_reduce_sum(sum(float(gain[gain.isfinite()].sum()) for gain in gains)) / number
        # An infinite loss says nothing about the choice, and would end the policy.
        gains = [gain.where(gain.isfinite(), mean) for gain in gains]
        spread = (all_reduce_sum(sum(float((gain - mean).square().sum()) for gain in gains)) / number) ** 0.5
        totals: list[Tensor] = []
        for (_, features, chosen, probability), gain in zip(seen, gains, strict=True):
            advantage = (gain - mean) / max(spread, 1e-12)
            parts = (*policy_gradient(features, chosen, probability, advantage), probability.sum(1))
            totals = [a + b for a, b in zip(totals, parts, strict=True)] if totals else list(parts)
        weight, bias, probability = (all_reduce_tensor(total) / number for total in totals)
        self.policy.shares.update(probability)
        if learns:
            self.policy.step((weight, bias), self.policy_lr)

    def __repr__(self) -> str:
        names = ("names", "temperature", "weight", "reward", "warmup", "policy_lr", "embedding")
        return f"SelectedTeachers({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


def _selected_mean(values: Float[Tensor, "teachers rows"], chosen: Float[Tensor, "teachers rows"]) -> Tensor:
    """The mean over the selected teachers of each example; 0 if there is none."""
    kept = values.where(chosen > 0, 0.0)  # 0 times an infinite divergence would be NaN
    return kept.sum(0) / chosen.sum(0).clamp_min(1)


@validates_arguments
def rl_kd(
    teacher: Any,
    *,
    temperature: float = 1.0,
    weight: float = 0.5,
    reward: str = "labels",
    warmup: float = 0.1,
    policy_lr: float = 0.2,
    embedding: str | None = None,
    epochs: int | None = None,
) -> Recipe:
    r"""Learn from the teachers that a policy selects: :math:`\frac{a}{|S|} \sum_{k \in S} T^2 KL(p_k \| q)` and labels.

    The loss of the labels has the weight 1 - a. The set S is drawn anew for each example and step: teacher k is in it
    with probability :math:`\pi_k = \sigma(A_k F_k + b_k)`, where F has features of the example, the teacher's
    probabilities and its loss. If S is empty, the labels alone count. After the step the policy goes up the policy
    gradient (REINFORCE). Its reward for an example is minus the student's loss; the baseline is the same before the
    step, and rewards are scaled to variance 1 over the batch.

    The probabilities of the last steps, by teacher: ``run.stages[0].objective.policy.shares.by_name``, with the run
    that `distill` returned.

    Args:
        teacher: An `Ensemble` with names (``teachers:`` in a job), a mapping from names to teachers, or a list.
        temperature: T, above 0.
        weight: a, from 0 to 1.
        reward: ``labels`` for minus the cross-entropy of the labels, or ``both`` for that and minus the divergence
            from the selected teachers. The paper's third version, with the accuracy on development data, has one number
            for all examples and is not here.
        warmup: The share of the steps at the beginning in which all teachers are selected and the policy rests.
        policy_lr: The length of a step of the policy, at least 0.
        embedding: A layer of a teacher, ``NAME.LAYER``, whose output describes an example. By default the probabilities
            of all teachers do.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If there are fewer than two teachers, or an argument is out of range.

    Example:
        >>> recipe = rl_kd({"a": nn.Linear(4, 3), "b": nn.Linear(4, 3)})
        >>> next(recipe.stages()).objective.policy.shares.by_name
        {'a': 0.5, 'b': 0.5}

    Source: Yuan et al., 2020, arXiv:2012.06048.
    """
    check_hyper(temperature=temperature)
    check_share(weight=weight, warmup=warmup)
    check_weight(policy_lr=policy_lr)
    if reward not in REWARDS:
        raise unknown_name_error("reward", reward, REWARDS, argument="reward")
    source, names = read_teachers(teacher, "rl_kd")
    if weight == 0:
        raise ArgumentError("weight=0 leaves the labels alone; use the method supervised.", argument="weight")
    loss = SelectedTeachers(
        names, temperature=temperature, weight=weight, reward=reward, warmup=warmup, policy_lr=policy_lr,
        embedding=embedding,
    )  # fmt: skip
    return Recipe(Stage(loss, teacher=source, epochs=epochs, name="rl_kd"))
