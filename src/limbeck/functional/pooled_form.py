"""How is the sum of divergences from a generalist and from lumped specialists made least?"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from limbeck.functional.closed_form import log_softmax

FLOOR = -600.0  # nats; its exponential, and the quotient of two such, are still float64
_TOLERANCE = 1e-10  # how far one step may still move a probability
_CYCLES = 200


class Problem(ABC):
    """One row's sums: of what is known of each class, and of each dustbin; a convex function of q to be minimised."""

    def __init__(self, known: Tensor, dustbin: Tensor, active: Tensor, special: Tensor) -> None:
        self.known, self.dustbin, self.active, self.special = known, dustbin, active, special
        self.count = 1 + active.sum(-1, keepdim=True)

    def rows(self, index: Tensor) -> Problem:
        """The same of some rows."""
        return type(self)(self.known[index], self.dustbin[index], self.active[index], self.special)

    def outside(self, q: Tensor) -> Tensor:
        """The mass of q that falls into each dustbin."""
        return (q @ (1 - self.special).T).clamp_min(1e-300)

    @abstractmethod
    def start(self) -> Tensor:
        """Where to begin; log q."""

    @abstractmethod
    def step(self, log_q: Tensor) -> Tensor:
        """A log q that is nowhere worse."""

    @abstractmethod
    def value(self, log_q: Tensor) -> Tensor:
        """What is minimised, up to a constant."""


class Arithmetic(Problem):
    """KL(p, q), summed: `known` and `dustbin` hold sums of probabilities. Its step is that of EM."""

    def start(self) -> Tensor:
        """Where to begin."""
        # In the generalist's proportions outside, which makes the first step exact where one specialist is active.
        return (self.known / self.known.sum(-1, keepdim=True)).log()

    def step(self, log_q: Tensor) -> Tensor:
        """A log q that is nowhere worse."""
        q = log_q.exp()
        share = self.active * self.dustbin / self.outside(q)
        return ((self.known + q * (share @ (1 - self.special))) / self.count).log()

    def value(self, log_q: Tensor) -> Tensor:
        """What is minimised, up to a constant."""
        by_dustbin = self.active * self.dustbin * self.outside(log_q.exp()).log()
        return -(self.known * log_q).sum(-1) - by_dustbin.sum(-1)


class Geometric(Problem):
    """KL(q, p), summed: `known` and `dustbin` hold sums of log-probabilities. Its step is that of mirror descent."""

    def start(self) -> Tensor:
        """Where to begin."""
        return torch.log_softmax(self.known / self.count, -1)

    def step(self, log_q: Tensor) -> Tensor:
        """A log q that is nowhere worse."""
        off = self.active * (self.outside(log_q.exp()).log() - self.dustbin)
        lumped = self.active @ (1 - self.special)
        return torch.log_softmax((lumped * log_q + self.known - off @ (1 - self.special)) / self.count, -1)

    def value(self, log_q: Tensor) -> Tensor:
        """What is minimised, up to a constant."""
        q = log_q.exp()
        s = self.outside(q)
        knowing = 1 + self.active @ self.special
        return (q * (knowing * log_q - self.known)).sum(-1) + (self.active * s * (s.log() - self.dustbin)).sum(-1)


def solved(problem: Problem) -> Tensor:
    """The log q of every row; rows leave as they converge, so that no answer depends on its neighbours."""
    found = problem.start()
    left = torch.arange(len(found), device=found.device)
    for _ in range(_CYCLES):
        part, log_q = problem.rows(left), found[left]
        found[left], moved = _cycle(part, log_q)
        left = left[moved > _TOLERANCE]
        if not len(left):
            break
    return log_softmax(found)


def _cycle(problem: Problem, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """Two steps, then the extrapolation that they suggest, if it is better; and how far a plain step still moves."""
    one = problem.step(log_q)
    two = problem.step(one)
    q, change = two.exp(), one - log_q
    bend = two - one - change
    ratio = (q * change.square()).sum(-1, keepdim=True) / (q * bend.square()).sum(-1, keepdim=True).clamp_min(1e-300)
    reach = ratio.sqrt().clamp(1.0, 1e6)
    far = torch.log_softmax(log_q + 2 * reach * change + reach.square() * bend, -1).clamp_min(FLOOR)
    three = problem.step(far)
    better = problem.value(three) < problem.value(two)
    return torch.where(better.unsqueeze(-1), three, two), (q - one.exp()).abs().amax(-1)
