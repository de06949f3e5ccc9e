"""Weighted mutual learning: peers learn from labels and from each other, and the weight of each is learned too."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limbeck.batch import IGNORED, Batch, Outputs, Progress, Requirements, Term
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import LossContext, LossTerm, all_reduce_sum, hyper_gradient
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import FreshCopy, check_count, check_share, check_weight
from limbeck.model_call import Adaptor, call, logits_of
from limbeck.random_seeds import counter_uniform
from limbeck.recipe import Models, Recipe, Stage
from limbeck.tap import FrozenParameters, get_adaptor
from limbeck.tasks import Task

CARD = MethodCard(
    name="weighted_mutual",
    title="When Babies Teach Babies: Can student knowledge sharing outperform Teacher-Guided Distillation on small "
    "datasets?",
    authors="Iyer",
    year=2024,
    arxiv="2411.16487",
    venue="BabyLM Challenge at CoNLL 2024",
    claim="Several peers learn from the labels and from each other. How much each of them counts is learned on "
    "examples that the peers do not learn from.",
    when="When there is no teacher and several models can be trained at once, some of them better than others. Give "
    'peers of other sizes by name: models={"student": a, "peer_1": b, "peer_2": c}. Its cost is that of all peers, and '
    "every few steps as many backward passes again, so compare with mutual and with a student alone at equal cost. "
    "Tests here show that the weight of a peer with wrong labels falls and that the weighted average of the outputs "
    "is then better; that peers match a teacher on 10 million words is the abstract's claim and is not shown here. The "
    "search for sizes of peers is not part of it. Where the published code differs, this follows the theorem: the "
    "code's second term of the gradient is always 0, its sign is wrong, and it cuts off negative gradients.",
    bibtex="""@inproceedings{iyer2024babies,
  title = {When Babies Teach Babies: Can student knowledge sharing outperform Teacher-Guided Distillation on small
           datasets?},
  author = {Iyer, Srikrishna},
  booktitle = {The 2nd BabyLM Challenge at the 28th Conference on Computational Natural Language Learning},
  year = {2024},
  eprint = {2411.16487},
  archivePrefix = {arXiv}
}
@inproceedings{zhang2022weighted,
  title = {Weighted Mutual Learning with Diversity-Driven Model Compression},
  author = {Zhang, Miao and Wang, Li and Campos, David and Huang, Wei and Guo, Chenjuan and Yang, Bin},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {35},
  year = {2022}
}""",
    labels="required",
    needs="several models that train at once, and examples with ids",
    ranges={"alpha": SearchRange(0.1, 0.9), "eta": SearchRange(0.0, 2.0)},
    tasks=("classification", "language_modeling"),
    task_reason="its ensemble averages logits of classes",
)

ENSEMBLE = "ensemble"
"""The name of the model that holds all peers and their weights."""


class WeightedPeers(nn.Module):
    """Several models as one. It returns the average of their logits, with the weights that were learned.

    Args:
        peers: The models.
        adaptors: For each one, the function from its output to logits, or None.

    Example:
        >>> both = WeightedPeers([nn.Linear(2, 3), nn.Linear(2, 3)])
        >>> both(torch.zeros(1, 2)).shape, both.weights.tolist()
        (torch.Size([1, 3]), [0.5, 0.5])
    """

    log_weights: Tensor

    def __init__(self, peers: Sequence[nn.Module], adaptors: Sequence[Adaptor | None] = ()) -> None:
        super().__init__()
        self.peers = nn.ModuleList(PeerLogits(peer, adaptors[i] if adaptors else None) for i, peer in enumerate(peers))
        double = any(parameter.dtype == torch.float64 for parameter in self.parameters())
        dtype = torch.float64 if double else torch.float32  # never lower: small steps would be lost
        self.register_buffer("log_weights", torch.full((len(peers),), -math.log(len(peers)), dtype=dtype))

    @property
    def weights(self) -> Float[Tensor, " peers"]:
        """The weight of each peer; they are above 0 and sum to 1."""
        return self.log_weights.softmax(0)

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """The average of the logits."""
        given: Any = named or (inputs[0] if len(inputs) == 1 else inputs)
        return average_logits([peer(given) for peer in self.peers], self.weights)

    def update(self, gradient: Float[Tensor, " peers"], eta: float) -> None:
        r"""Take a step of mirror descent on the simplex: :math:`w_i \leftarrow w_i e^{-\eta g_i} / Z`."""
        self.log_weights.copy_((self.log_weights - eta * gradient).log_softmax(0))


class PeerLogits(nn.Module):
    """A model whose output is its logits, so that they can be read by name."""

    def __init__(self, model: nn.Module, adaptor: Adaptor | None) -> None:
        super().__init__()
        self.model, self.adaptor = model, adaptor

    def forward(self, inputs: Any) -> Tensor:
        """The logits."""
        return logits_of(call(self.model, inputs), self.adaptor)


def average_logits(
    logits: Sequence[Float[Tensor, "*batch classes"]], weights: Float[Tensor, " peers"]
) -> Float[Tensor, "*batch classes"]:
    r"""Compute :math:`\sum_i w_i z_i`."""
    return torch.stack([weight * one for weight, one in zip(weights, logits, strict=True)]).sum(0)


def peer_losses(
    logits: Sequence[Float[Tensor, "rows classes"]], labels: Tensor, *, alpha: float, detach: bool
) -> Float[Tensor, "peers rows"]:
    r"""Compute what the weight of each peer multiplies.

    It is :math:`l_i = (1 - a) (-\log q_{i,y}) + a \sum_{k \ne i} KL(q_i \| q_k)`. The first part is the loss of peer i
    itself; the second part is learned by the others.

    Args:
        logits: The logits of each peer.
        labels: The labels.
        alpha: a.
        detach: Whether only peer k learns from :math:`KL(q_i \| q_k)`, and not peer i too.
    """
    losses = []
    for i, own in enumerate(logits):
        target = own.detach() if detach else own
        others = [kl_divergence(other, target) for k, other in enumerate(logits) if k != i]
        losses.append((1 - alpha) * cross_entropy(own, labels=labels) + alpha * sum(others, start=0.0 * own.sum(-1)))
    return torch.stack(losses)


class WeightedMutualLoss(LossTerm):
    """The loss of `weighted_mutual`, one value per position, and the update of the weights after a step."""

    name, per = "weighted_mutual", "position"
    # In a tuple, so that the parameters of the model do not become those of the loss.
    _context: tuple[nn.Module, Callable[[Batch], Outputs]]

    def __init__(
        self, peers: int, *, alpha: float, detach: bool, held_out: float, eta: float, every: int, warmup: int
    ) -> None:
        super().__init__()
        self.peers, self.alpha, self.detach, self.held_out = peers, alpha, detach, held_out
        self.eta, self.every, self.warmup = eta, every, warmup
        self.addresses = [f"peers.{i}" for i in range(peers)]

    @property
    def requires(self) -> Requirements:
        """The logits of all peers, the labels, and the ids, which say what is held out."""
        return Requirements(frozenset(self.addresses), frozenset(), frozenset({"labels", "id"}))

    def setup(self, context: LossContext) -> WeightedMutualLoss:
        """The loss for one stage.

        Raises:
            LimbeckError: If the model is sharded, or examples are to be held out and have no ids.
        """
        if context.model is None or context.forward is None:
            raise LimbeckError(
                "weighted_mutual reads the gradients of whole models, which FSDP and other sharding strategies split. "
                "Use one device or strategy='ddp'."
            )
        if self.held_out and context.batch.id is None:
            raise LimbeckError(
                "weighted_mutual learns the weights of its peers on examples that they do not see, chosen by id, and "
                "this loader has no ids. Use ShuffledLoader(ArrayDataset(...)), or held_out=0."
            )
        fitted = copy.copy(self)
        fitted._context = (context.model, context.forward)
        return fitted

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The losses of all peers on what they learn from, times their weights."""
        rows = self._select(batch, held_out=False)
        losses = self._losses(student, batch, rows)
        return Term((self._ensemble.weights.detach()[:, None] * losses).sum(), float(rows.sum()))

    def count(self, batch: Batch) -> float:
        """The number of positions that the peers learn from."""
        return float(self._select(batch, held_out=False).sum())

    def end_step(self, batches: Sequence[Batch], progress: Progress) -> None:
        """At every k-th step, change the weights along the gradient of the loss of the held-out examples."""
        if self.eta == 0 or (progress.step + 1) % self.every:
            return
        learned = all_reduce_sum(sum(self.count(batch) for batch in batches))
        held = all_reduce_sum(sum(float(self._select(batch, held_out=True).sum()) for batch in batches))
        if not learned or not held:
            return
        model, forward = self._context

        def inner(batch: Batch) -> Tensor:
            return self._losses(forward(batch), batch, self._select(batch, held_out=False)).sum(1) / learned

        def outer(batch: Batch, weights: Tensor) -> Tensor:
            rows, outputs = self._select(batch, held_out=True), forward(batch)
            ensemble = average_logits([outputs[address][rows] for address in self.addresses], weights)
            return cross_entropy(ensemble, labels=cast(Tensor, batch.labels)[rows]).sum() / held

        with FrozenParameters(model):  # without dropout, and running statistics stay
            gradient = hyper_gradient(
                [partial(inner, batch) for batch in batches],
                [partial(outer, batch) for batch in batches],
                list(model.parameters()), self._ensemble.weights, step_size=progress.lr or 0.0,
            )  # fmt: skip
        self._ensemble.update(gradient, self._rate(progress))

    @property
    def _ensemble(self) -> WeightedPeers:
        return cast(WeightedPeers, self._context[0])

    def _losses(self, student: Outputs, batch: Batch, rows: Tensor) -> Tensor:
        logits = [student[address][rows] for address in self.addresses]
        return peer_losses(logits, cast(Tensor, batch.labels)[rows], alpha=self.alpha, detach=self.detach)

    def _select(self, batch: Batch, *, held_out: bool) -> Bool[Tensor, "*batch"]:
        """The labeled positions of the examples that are held out, or of the others; all for both if none is."""
        labels = cast(Tensor, batch.labels)
        counted = labels != IGNORED if batch.mask is None else batch.mask.bool() & (labels != IGNORED)
        if not self.held_out:
            return counted
        is_held = is_held_out(cast(Tensor, batch.id), self.held_out).to(labels.device)
        return counted & (is_held == held_out).reshape(-1, *[1] * (labels.ndim - 1))

    def _rate(self, progress: Progress) -> float:
        """Eta at this update: a linear warm-up, then half a cosine wave to a hundredth."""
        update, last = progress.step // self.every, max(progress.steps // self.every - 1, 1)
        if update < self.warmup:
            return self.eta * (update + 1) / (self.warmup + 1)
        share = (update - self.warmup) / max(last - self.warmup, 1)
        return self.eta * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))

    def __repr__(self) -> str:
        names = ("peers", "alpha", "detach", "held_out", "eta", "every", "warmup")
        return f"WeightedMutualLoss({', '.join(f'{name}={getattr(self, name)}' for name in names)})"


def is_held_out(ids: Tensor, share: float) -> Bool[Tensor, " batch"]:
    """Whether each example is held out: a pure function of its id, so that it is the same in every epoch and run.

    Example:
        >>> int(is_held_out(torch.arange(1000), 0.1).sum())
        98
    """
    return counter_uniform(ids, torch.zeros_like(ids), seed=0, draws=1, stream="held out").squeeze(1) < share


class _MakeEnsemble:
    """Makes the model of all peers; it shares their weights."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    def __call__(self, models: Models) -> nn.Module:
        """Make the model."""
        return WeightedPeers([models[name] for name in self.names], [get_adaptor(models, name) for name in self.names])


@validates_arguments
def weighted_mutual(
    *,
    peers: int = 4,
    alpha: float = 0.5,
    eta: float = 0.25,
    every: int = 5,
    warmup: int = 5,
    held_out: float = 0.1,
    detach: bool = True,
    ship: str = "student",
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Train peers on :math:`(1 - a) \sum_i w_i (-\log q_{i,y}) + a \sum_i \sum_{j \ne i} w_j KL(q_j \| q_i)`.

    The weights w are above 0 and sum to 1. After every k-th step they take a step of mirror descent,
    :math:`w_i \leftarrow w_i e^{-\eta g_i} / Z`, along the gradient g of the cross-entropy of the weighted average of
    the logits, on held-out examples, through one gradient step of the peers (`limbeck.losses.hyper_gradient`).

    The first peer is ``student``, the others are ``peer_1``, ``peer_2``, ...; those that the run does not have are new
    ones with the architecture of the student. All peers and the weights are in the model ``ensemble``.

    Args:
        peers: The number of peers, at least 2; 4 is best in the authors' code.
        alpha: a, the share of the other peers, from 0 to 1; 0.5 in the paper. At 0 each peer learns alone.
        eta: The largest step of the weights, at least 0; 0.25 in the authors' code. It rises over the first updates and
            falls to a hundredth. At 0 the weights stay equal.
        every: k, the number of steps between two updates of the weights.
        warmup: The number of updates over which eta rises.
        held_out: The share of examples that only the weights learn from, above 0 and below 1, chosen by their ids; or
            0, where both learn from all.
        detach: Whether a peer is not changed by the loss of another one that learns from it, as in `mutual`. False is
            the authors' code.
        ship: ``student``, or ``ensemble``, the weighted average of all peers.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or the method cannot learn the task.

    Source: Iyer, 2024, arXiv:2411.16487; theorem 1 of Zhang et al., NeurIPS 2022.
    """
    check_count(peers=peers, every=every)
    check_share(alpha=alpha, held_out=held_out)
    check_weight(eta=eta, warmup=warmup)
    if peers < 2:
        raise ArgumentError(f"peers is at least 2, the student and another one; got {peers}.", argument="peers")
    if held_out == 1:
        raise ArgumentError("held_out=1 leaves nothing for the peers to learn from; use 0.1.", argument="held_out")
    if ship not in ("student", ENSEMBLE):
        raise ArgumentError(f"ship is 'student' or {ENSEMBLE!r}; got {ship!r}.", argument="ship")
    CARD.get_task(task)
    names = ["student", *(f"peer_{i}" for i in range(1, peers))]
    loss = WeightedMutualLoss(peers, alpha=alpha, detach=detach, held_out=held_out, eta=eta, every=every, warmup=warmup)
    makes: Mapping[str, Any] = {**{name: FreshCopy() for name in names[1:]}, ENSEMBLE: _MakeEnsemble(names)}
    return Recipe(Stage(loss, trains=ENSEMBLE, epochs=epochs, name="weighted_mutual"), makes=makes, ship=ship)
