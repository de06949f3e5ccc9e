"""Knowledge selection: an actor weighs kinds of knowledge in each phase, and a critic learns what weights are worth."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch, Outputs, Progress, Requirements, Term
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import check_hyper, cross_entropy, kl_divergence, squared_error
from limbeck.functional.connectors import Pointwise, channels
from limbeck.functional.feature_maps import to_positions
from limbeck.losses import LossContext, LossTerm
from limbeck.losses.distributed import all_reduce_tensor
from limbeck.losses.logit_rows import find_counted
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.fsp import fsp_distance
from limbeck.methods.features.layers import Layers, pair_layers
from limbeck.methods.online.weighted_mutual import is_held_out
from limbeck.methods.support import FreshCopy, check_count, check_share, check_weight
from limbeck.methods.teachers.knowledge_selector import MEMORY, KnowledgeSelector
from limbeck.random_seeds import counter_uniform
from limbeck.recipe import Recipe, Stage

CARD = MethodCard(
    name="knowledge_selection",
    title="Improved Knowledge Distillation for Pre-trained Language Models via Knowledge Selection",
    authors="Wang, Lu, Mu, Hu, Xiao and Zhu",
    year=2022,
    arxiv="2302.00444",
    venue="Findings of EMNLP 2022",
    claim="Labels, soft targets, hidden features and relations of layers are kinds of knowledge, and which of them "
    "helps changes while a student learns. An actor gives each a weight from 0 to 1; a critic learns from the loss of "
    "held-out examples what weights are worth.",
    when="When several kinds of knowledge of one teacher could be combined and nobody knows which of them helps. It "
    "costs one more training of the student for each episode of practice, so compare it at equal cost. A search with "
    "limbeck tune over fixed weights is the simpler way. In the planted case of the claim the actor did not find the "
    "useless kind.",
    bibtex="""@inproceedings{wang2022improved,
  title = {Improved Knowledge Distillation for Pre-trained Language Models via Knowledge Selection},
  author = {Wang, Chenglong and Lu, Yi and Mu, Yongyu and Hu, Yimin and Xiao, Tong and Zhu, Jingbo},
  booktitle = {Findings of the Association for Computational Linguistics: EMNLP},
  year = {2022},
  eprint = {2302.00444},
  archivePrefix = {arXiv}
}""",
    reads=("logits", "features"),
    labels="required",
    needs="a layer of both networks, and examples with ids",
    example={
        "at": ["layer1", "layer2"], "student_at": ["layer1", "layer2"], "episodes": 1, "phases": 2, "held_out": 0.3
    },
    ranges={"temperature": SearchRange(1.0, 10.0, log=True)},
    keywords=("reinforcement", "actor-critic", "ddpg", "knowledge types"),
)  # fmt: skip

KINDS = ("labels", "soft_targets", "features", "relations")


class SelectedKnowledge(LossTerm):
    """The loss of `knowledge_selection`, one value for each example, and the phases of its weights."""

    name, per = "knowledge_selection", "example"
    connectors: nn.ModuleList

    def __init__(
        self, selector: KnowledgeSelector, pairs: Sequence[tuple[str, str]], *, temperature: float, phases: int,
        held_out: float, noise: float, exploration: float, selector_lr: float, learns: bool, episode: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.selector, self.pairs, self.temperature, self.phases = selector, tuple(pairs), temperature, phases
        self.held_out, self.noise, self.exploration = held_out, noise, exploration
        self.selector_lr, self.learns, self.episode = selector_lr, learns, episode
        self.own_temperatures = frozenset({temperature})

    @property
    def requires(self) -> Requirements:
        """Logits and layers of both models, labels, and the ids, which say what is held out."""
        ours, theirs = zip(*self.pairs, strict=True)
        return Requirements(frozenset({LOGITS, *ours}), frozenset({LOGITS, *theirs}), frozenset({"labels", "id"}))

    def setup(self, context: LossContext) -> SelectedKnowledge:
        """The loss for one stage, with new connectors; the selector keeps what it has learned.

        Raises:
            LimbeckError: If there are no labels or ids.
        """
        if context.batch.id is None or context.batch.labels is None:
            raise LimbeckError(
                "knowledge_selection needs labels, and ids by which examples are held out: use an ArrayDataset with "
                "both."
            )
        fitted = copy.copy(self)
        tensors = [(context.student[ours], context.teacher[theirs]) for ours, theirs in self.pairs]
        wide = torch.promote_types(tensors[0][0].dtype, torch.float32)
        fitted.connectors = nn.ModuleList(
            Pointwise([channels(ours), channels(theirs)]).to(ours.device, wide) for ours, theirs in tensors
        )
        last = tensors[-1]
        self.selector.shape(channels(last[0]), channels(last[1]), last[0].device)
        return fitted

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The weighted sum of all kinds, over the examples that are learned from."""
        rows = self._select(batch, held_out=False)
        weights = self.selector.action.to(student[LOGITS].device)
        values = self._losses(student, teacher, batch, rows)
        # A weight of 0 leaves a kind out, also where its loss is infinite.
        total = sum(
            (weight * value.sum() for weight, value in zip(weights, values, strict=True) if weight > 0), start=0.0
        )
        connected = sum((0.0 * parameter.sum() for parameter in self.connectors.parameters()), start=0.0)
        return Term(total + connected + 0.0 * student[LOGITS].nan_to_num(0.0, 0.0, 0.0).sum(), self.count(batch))

    def count(self, batch: Batch) -> float:
        """The number of labeled examples that are not held out."""
        return float(self._select(batch, held_out=False).sum())

    def _losses(self, student: Outputs, teacher: Outputs, batch: Batch, rows: Tensor) -> list[Float[Tensor, " rows"]]:
        logits, labels = student[LOGITS][rows], cast(Tensor, batch.labels)[rows]
        values = [
            cross_entropy(logits, labels=labels),
            kl_divergence(logits, teacher[LOGITS][rows], temperature=self.temperature),
        ]
        with torch.autocast(logits.device.type, enabled=False):
            ours = [
                connector(_widen(student[address][rows]))
                for connector, (address, _) in zip(self.connectors, self.pairs, strict=True)
            ]
            theirs = [_widen(teacher[address][rows]) for _, address in self.pairs]
            values.append(squared_error(ours[-1], theirs[-1]))
            flows = [
                fsp_distance(*own, *other) / (channels(other[0]) * channels(other[1]))
                for own, other in zip(pairwise(ours), pairwise(theirs), strict=True)
            ]
        return [*values, sum(flows[1:], start=flows[0])] if flows else values

    def _select(self, batch: Batch, *, held_out: bool) -> Tensor:
        counted = find_counted(batch, labeled=True)
        held = is_held_out(cast(Tensor, batch.id), self.held_out)
        return (held == held_out) if counted is None else counted & (held == held_out).to(counted.device)

    def after_step(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> None:
        """Add the features and the loss of held-out examples to those of the phase."""
        valid = batch.valid
        features = [
            to_positions(_widen(outputs[address]))[valid.to(outputs[address].device)].mean(1).double()
            for outputs, address in zip((student, teacher), self.pairs[-1], strict=True)
        ]
        held = self._select(batch, held_out=True)
        losses = cross_entropy(student[LOGITS][held], labels=cast(Tensor, batch.labels)[held]).double()
        own = torch.cat([*(part.sum(0) for part in features), _pair(float(valid.sum()), losses)])
        self.selector.sums[:-1] += all_reduce_tensor(torch.cat([own, own.new_tensor([float(len(losses))])]))

    def end_step(self, batches: Sequence[Batch], progress: Progress) -> None:
        """At the end of a phase, keep its reward, learn from all of them, and choose the weights of the next."""
        phase, following = (step * self.phases // progress.steps for step in (progress.step, progress.step + 1))
        own = self.selector
        size = len(own.state)
        if phase == following or not own.sums[size] or not own.sums[size + 2]:
            return
        state = torch.nn.functional.layer_norm((own.sums[:size] / own.sums[size]).float(), (size,))
        loss, before = float(own.sums[size + 1] / own.sums[size + 2]), float(own.sums[size + 3])
        last = following == self.phases
        action, chosen = own.action.clone(), self._choose(state, following)
        if self.learns and phase > 0:
            similar = float(
                torch.cosine_similarity(action, own.memory[(int(own.seen) - 1) % MEMORY][size:][: len(action)], 0)
            )
            bonus = self.exploration * (1 - similar) if phase > 1 else 0.0
            own.remember(action, before - loss + bonus, state, chosen, last=last)
            own.learn(self.selector_lr)
            chosen = self._choose(state, following)
        own.state = state
        own.action.copy_(chosen)
        own.sums.zero_()
        own.sums[size + 3] = loss

    def _choose(self, state: Tensor, phase: int) -> Tensor:
        """The actor's weights, with noise while it learns."""
        weights = self.selector.act(state.unsqueeze(0)).squeeze(0)
        if not self.learns or not self.noise:
            return weights
        draw = counter_uniform(
            torch.tensor([phase]),
            torch.tensor([self.episode]),
            seed=0,
            draws=len(weights),
            stream="knowledge_selection",
        )[0]
        return (weights + self.noise * (2 * draw.to(weights) - 1)).clamp(0.0, 1.0)

    def __repr__(self) -> str:
        names = (
            "pairs", "temperature", "phases", "held_out", "noise", "exploration", "selector_lr", "learns", "episode"
        )  # fmt: skip
        own = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"SelectedKnowledge({own}, gamma={self.selector.gamma})"


def _pair(count: float, losses: Tensor) -> Tensor:
    return torch.stack([losses.new_tensor(count), losses.sum()])


def _widen(features: Tensor) -> Tensor:
    return features.to(torch.promote_types(features.dtype, torch.float32))


@validates_arguments
def knowledge_selection(
    teacher: Any,
    *,
    at: Layers,
    student_at: Layers,
    temperature: float = 2.0,
    phases: int = 20,
    episodes: int = 2,
    held_out: float = 0.1,
    gamma: float = 0.9,
    noise: float = 0.4,
    exploration: float = 0.01,
    selector_lr: float = 0.005,
    epochs: int | None = None,
) -> Recipe:
    r"""Minimize :math:`\sum_i a_i L_i` with weights :math:`a \in [0, 1]^n` that an actor chooses in each phase.

    The kinds of knowledge are labels (cross-entropy), soft targets (:math:`T^2 KL`), features of the last pair of
    layers (mean squared error behind a linear connector), and with two pairs or more the FSP matrices of neighboring
    pairs (mean squared error). A phase is a part of the steps. Its reward is the fall of the cross-entropy of held-out
    examples since the phase before, and a bonus for weights unlike those before. The critic fits
    :math:`Q(s, a) = \gamma r + Q(s', a')`, the paper's, with the factor on the reward; the actor goes up
    :math:`Q(s, \mu(s))`. First new copies of the student practice, one for each episode, then the actor is fixed and
    the student learns.

    The weights of the last phase: ``run.stages[-1].objective.selector.by_name``, with the run that `distill` returned.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run. It needs the layers `at`.
        at: The teacher's layers in order, one or more.
        student_at: The student's layers in the same order.
        temperature: T, above 0.
        phases: The number of phases of an episode, 2 or more.
        episodes: The number of copies that practice. At 0 the actor learns while the student does.
        held_out: The share of examples that only rewards are measured on, above 0 and below 1, chosen by their ids.
        gamma: The factor of a reward, at least 0.
        noise: How far weights of practice are moved at random, 0 to 1.
        exploration: The weight of the bonus, at least 0: 1 less the cosine of the weights of two neighboring phases.
        selector_lr: The learning rate of actor and critic, above 0.
        epochs: Passes over the data of each episode and of the student; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or the layers do not pair up.

    Example:
        >>> recipe = knowledge_selection(nn.Linear(4, 3), at="features", student_at="features", episodes=2)
        >>> [stage.name for stage in recipe.stages()]
        ['practice_1', 'practice_2', 'knowledge_selection']

    Source: Wang et al., 2022, arXiv:2302.00444.
    """
    check_hyper(temperature=temperature)
    check_share(held_out=held_out, noise=noise)
    check_weight(gamma=gamma, exploration=exploration, selector_lr=selector_lr, episodes=episodes)
    check_count(phases=phases)
    pairs = pair_layers(at, student_at)
    for name, wrong, aim in (
        ("held_out", held_out in (0, 1), "above 0 and below 1"), ("selector_lr", selector_lr == 0, "above 0"),
        ("phases", phases < 2, "2 or more"), ("episodes", episodes != int(episodes), "a whole number"),
    ):  # fmt: skip
        if wrong:
            raise ArgumentError(f"{name} is {aim}.", argument=name)
    selector = KnowledgeSelector(KINDS[: 3 + (len(pairs) > 1)], gamma=gamma)

    def loss(*, learns: bool, episode: int) -> SelectedKnowledge:
        return SelectedKnowledge(
            selector, pairs, temperature=temperature, phases=phases, held_out=held_out, noise=noise,
            exploration=exploration, selector_lr=selector_lr, learns=learns, episode=episode,
        )  # fmt: skip

    practice = [f"practice_{number}" for number in range(1, episodes + 1)]
    stages = [
        Stage(loss(learns=True, episode=number), trains=name, teacher=teacher, epochs=epochs, name=name)
        for number, name in enumerate(practice)
    ]
    final = Stage(
        loss(learns=not practice, episode=episodes), teacher=teacher, epochs=epochs, name="knowledge_selection"
    )
    return Recipe(*stages, final, makes={name: FreshCopy() for name in practice})
