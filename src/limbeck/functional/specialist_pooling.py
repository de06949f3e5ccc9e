"""Pooling of the distributions of a generalist and specialists."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.errors import LimbeckError, unknown_name_error
from limbeck.functional.closed_form import log_softmax

FLOOR = -600.0  # nats; its exponential and quotients of such values are representable in float64

_TOLERANCE = 1e-10  # largest change of a probability per step at convergence

_CYCLES = 200


class PoolingProblem(ABC):
    """A convex function of q to minimize, given sums over models for each class and each dustbin."""

    def __init__(self, class_sums: Tensor, dustbin: Tensor, active: Tensor, special: Tensor) -> None:
        self.class_sums, self.dustbin, self.active, self.special = class_sums, dustbin, active, special
        self.count = 1 + active.sum(-1, keepdim=True)

    def rows(self, index: Tensor) -> PoolingProblem:
        """Select some rows."""
        return type(self)(self.class_sums[index], self.dustbin[index], self.active[index], self.special)

    def outside(self, q: Tensor) -> Tensor:
        """Compute the probability of each dustbin under q."""
        return (q @ (1 - self.special).T).clamp_min(1e-300)

    @abstractmethod
    def start(self) -> Tensor:
        """Return the initial log q."""

    @abstractmethod
    def step(self, log_q: Tensor) -> Tensor:
        """Return a log q with a value that is not larger in any row."""

    @abstractmethod
    def value(self, log_q: Tensor) -> Tensor:
        """Compute the minimized value, up to a constant."""


class Arithmetic(PoolingProblem):
    """The sum of KL(p, q): `class_sums` and `dustbin` are sums of probabilities. The step is EM."""

    def start(self) -> Tensor:
        """Return the initial log q."""
        # The generalist's proportions make the first step exact if one specialist is active.
        return (self.class_sums / self.class_sums.sum(-1, keepdim=True)).log()

    def step(self, log_q: Tensor) -> Tensor:
        """Return a log q with a value that is not larger in any row."""
        q = log_q.exp()
        share = self.active * self.dustbin / self.outside(q)
        return ((self.class_sums + q * (share @ (1 - self.special))) / self.count).log()

    def value(self, log_q: Tensor) -> Tensor:
        """Compute the minimized value, up to a constant."""
        by_dustbin = self.active * self.dustbin * self.outside(log_q.exp()).log()
        return -(self.class_sums * log_q).sum(-1) - by_dustbin.sum(-1)


class Geometric(PoolingProblem):
    """The sum of KL(q, p): `class_sums` and `dustbin` are sums of log-probabilities. The step is mirror descent."""

    def start(self) -> Tensor:
        """Return the initial log q."""
        return torch.log_softmax(self.class_sums / self.count, -1)

    def step(self, log_q: Tensor) -> Tensor:
        """Return a log q with a value that is not larger in any row."""
        off = self.active * (self.outside(log_q.exp()).log() - self.dustbin)
        lumped = self.active @ (1 - self.special)
        return torch.log_softmax((lumped * log_q + self.class_sums - off @ (1 - self.special)) / self.count, -1)

    def value(self, log_q: Tensor) -> Tensor:
        """Compute the minimized value, up to a constant."""
        q = log_q.exp()
        s = self.outside(q)
        knowing = 1 + self.active @ self.special
        return (q * (knowing * log_q - self.class_sums)).sum(-1) + (self.active * s * (s.log() - self.dustbin)).sum(-1)


def newton_solve(problem: PoolingProblem) -> Tensor:
    """Compute log q of every row. Converged rows are removed, so that no result depends on other rows."""
    log_q_all = problem.start()
    open_rows = torch.arange(len(log_q_all), device=log_q_all.device)
    for _ in range(_CYCLES):
        part, log_q = problem.rows(open_rows), log_q_all[open_rows]
        log_q_all[open_rows], moved = _cycle(part, log_q)
        open_rows = open_rows[moved > _TOLERANCE]
        if not len(open_rows):
            break
    return log_softmax(log_q_all)


def _cycle(problem: PoolingProblem, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """Do two steps and an extrapolation, if it is better; also return the change of a plain step."""
    first = problem.step(log_q)
    second = problem.step(first)
    q, change = second.exp(), first - log_q
    bend = second - first - change
    ratio = (q * change.square()).sum(-1, keepdim=True) / (q * bend.square()).sum(-1, keepdim=True).clamp_min(1e-300)
    reach = ratio.sqrt().clamp(1.0, 1e6)
    far = torch.log_softmax(log_q + 2 * reach * change + reach.square() * bend, -1).clamp_min(FLOOR)
    third = problem.step(far)
    better = problem.value(third) < problem.value(second)
    return torch.where(better.unsqueeze(-1), third, second), (q - first.exp()).abs().amax(-1)


MEANS = ("arithmetic", "geometric")


def pooled(
    generalist: Float[Tensor, "batch classes"],
    specialists: Float[Tensor, "batch specialists classes"],
    special: Bool[Tensor, "specialists classes"],
    active: Bool[Tensor, "batch specialists"],
    *,
    mean: str = "arithmetic",
) -> Float[Tensor, "batch classes"]:
    r"""Compute the distribution q that is closest to those of the generalist and the active specialists.

    With :math:`p^g` the generalist's distribution, :math:`p^m` that of specialist m over its classes :math:`S^m` and a
    dustbin, :math:`\tilde q^m` the same of q (its mass outside :math:`S^m` summed into the dustbin), and A the active
    specialists, q minimizes, in nats,

    * ``"arithmetic"``: :math:`KL(p^g \| q) + \sum_{m \in A} KL(p^m \| \tilde q^m)`, as in the paper;
    * ``"geometric"``: :math:`KL(q \| p^g) + \sum_{m \in A} KL(\tilde q^m \| p^m)`, with exchanged arguments.

    If every specialist knows every class, q is the mean of that name. Without an active specialist it is bitwise equal
    to the generalist's row.

    The first is the maximum likelihood of partly merged counts, so expectation-maximization never increases it:
    :math:`q_c \leftarrow (p^g_c + \sum_m t^m_c) / (1 + |A|)` with :math:`t^m_c = p^m_c` for c in :math:`S^m`, else
    :math:`p^m_{dustbin} q_c / \sum_{c' \notin S^m} q_{c'}`. The second is minimized by mirror descent with step
    :math:`1 / (1 + |A|)`. Both use squared extrapolation where it is better, and stop for each row if a plain step
    changes no probability by more than 1e-10, or after 600 steps.

    Args:
        generalist: Log-probabilities.
        specialists: Log-probabilities of each specialist over all classes. Only the sum outside its own classes is
            used.
        special: Mask of the classes of each specialist.
        active: Mask of the active specialists for each example. The others are ignored.
        mean: The direction of the divergences.

    Returns:
        log q, in the generalist's dtype. It is computed in float64, with probabilities of at least exp(-600), so it is
        finite wherever a specialist is active.

    Raises:
        LimbeckError: If `mean` is unknown, or the shapes do not match.

    Example:
        >>> g, s = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[[0.2, 0.6, 0.2]]])
        >>> everything, asked = torch.tensor([[True, True, True]]), torch.tensor([[True]])
        >>> pooled(g.log(), s.log(), everything, asked).exp()
        tensor([[0.3500, 0.4500, 0.2000]])

    Source: Hinton, Vinyals and Dean, 2015, arXiv:1503.02531, section 5.4 (the problem). Dempster, Laird and Rubin,
    1977, J. R. Stat. Soc. B 39 (its solution). Varadhan and Roland, 2008, Scand. J. Stat. 35 (the acceleration).
    """
    if specialists.shape[:2] != active.shape or special.shape != specialists.shape[1:]:
        raise LimbeckError(
            f"specialists {tuple(specialists.shape)} is [batch, specialists, classes]; active {tuple(active.shape)} "
            f"and special {tuple(special.shape)} do not match it."
        )
    pool = Pool(generalist, special, mean=mean)
    for number in range(len(special)):
        rows = active[:, number].nonzero()[:, 0]
        pool.add(number, rows, specialists[rows, number])
    return pool.log_q()


class Pool:
    """Accumulates the distributions of a generalist and specialists: `add` each, then read `log_q`.

    It stores sums over specialists, not ``[batch, specialists, classes]``.

    Args:
        generalist: Log-probabilities.
        special: Mask of the classes of each specialist.
        mean: As in `pooled`.

    Raises:
        UnknownNameError: If `mean` is unknown.
    """

    def __init__(
        self,
        generalist: Float[Tensor, "batch classes"],
        special: Bool[Tensor, "specialists classes"],
        *,
        mean: str = "arithmetic",
    ) -> None:
        if mean not in MEANS:
            raise unknown_name_error("mean", mean, MEANS)
        self._generalist = generalist
        self._linear = mean == "arithmetic"
        self._special = special.to(generalist.device)
        first = generalist.double().clamp_min(FLOOR)
        self._class_sums = first.exp() if self._linear else first
        self._dustbin = first.new_zeros(len(generalist), len(special))
        self._active = torch.zeros_like(self._dustbin, dtype=torch.bool)

    def add(self, number: int, rows: Int[Tensor, " rows"], log_p: Float[Tensor, "rows classes"]) -> None:
        """Add the log-probabilities of specialist `number` over all classes, for some rows of the batch."""
        if not len(rows):
            return
        own = self._special[number]
        wide = log_p.double().clamp_min(FLOOR)
        dustbin = torch.logsumexp(wide.masked_fill(own, -torch.inf), -1).clamp_min(FLOOR)
        inside = (wide.exp() if self._linear else wide).masked_fill(~own, 0.0)
        self._class_sums.index_add_(0, rows, inside)
        self._dustbin[rows, number] = dustbin.exp() if self._linear else dustbin
        self._active[rows, number] = True

    def log_q(self) -> Float[Tensor, "batch classes"]:
        """Compute the logarithm of the pooled distribution; the generalist's row if no specialist was added."""
        rows = self._active.any(-1).nonzero()[:, 0]
        if not len(rows):
            return self._generalist
        kind = Arithmetic if self._linear else Geometric
        problem = kind(self._class_sums[rows], self._dustbin[rows], self._active[rows].double(), self._special.double())
        log_q = self._generalist.clone()
        log_q[rows] = newton_solve(problem).to(log_q.dtype)
        return log_q
