"""The next values of a search: Sobol points first, then TPE."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch.quasirandom import SobolEngine

from limbeck.compare.tuning.search_space import Space, Values
from limbeck.compare.tuning.trial import Trial
from limbeck.methods.card import SearchRange
from limbeck.optional_imports import import_optional

_SHARED = ("lr", "epochs")  # what every arm has: all arms try the same of these

_COLUMNS = 32


def sobol_point(space: Space, number: int) -> Values:
    """Point `number`, from 0, of a scrambled Sobol sequence over a space.

    Of the first 2^k points each 2^k-th part of every range (of its logarithm, for a range of factors) holds exactly
    one. Values drawn at random leave gaps: of seven learning rates six may lie in one half, and an arm that was unlucky
    looks worse than it is. All arms try the same learning rates.

    Source: Sobol, On the distribution of points in a cube and the approximate evaluation of integrals, 1967; scrambled
    as Matousek, On the L2-discrepancy for anchored boxes, 1998; the sequence is PyTorch's.

    Example:
        >>> space = {"lr": SearchRange(1e-4, 1.0, log=True)}
        >>> [f"{rate:.4f}" for rate in sorted(spread(space, number)["lr"] for number in range(4))]
        ['0.0006', '0.0080', '0.0503', '0.4151']
    """
    names = sorted(space, key=lambda name: (_SHARED.index(name) if name in _SHARED else len(_SHARED), name))
    engine = SobolEngine(max(_COLUMNS, len(names)), scramble=True, seed=0)
    point: list[float] = engine.draw(number + 1, dtype=torch.float64)[-1].tolist()
    return {name: _at(space[name], part) for name, part in zip(names, point, strict=False)}


def _at(search_range: SearchRange, part: float) -> int | float:
    """The value that has this fraction of a range below it."""
    aside = 0.5 if search_range.whole else 0.0
    low, high = search_range.low - aside, search_range.high + aside
    value = low * (high / low) ** part if search_range.log else low + (high - low) * part
    value = min(max(value, search_range.low), search_range.high)
    return round(value) if search_range.whole else float(value)


_SPREAD = 10  # an estimator of densities has little to say from fewer trials; Optuna's own number too


def propose(arm: str, space: Space, start: Values, done: Sequence[Trial]) -> Values:
    """The values of an arm's next trial: a pure function of those that it has had.

    The first are the job's own, or the nearest to them that are in range. The next nine are `spread` over the ranges.
    Then a tree-structured Parzen estimator proposes, seeded by the arm's name and the trial's number, so that a search
    that was killed goes on as it would have gone on.

    Args:
        arm: The arm's name.
        space: What is searched.
        start: The job's own values.
        done: The trials so far, in order.

    Source: Bergstra, Bardenet, Bengio and Kegl, Algorithms for Hyper-Parameter Optimization, NIPS 2011; as in Optuna.
    """
    if not done:
        return {
            name: min(max(start[name], search_range.low), search_range.high) for name, search_range in space.items()
        }
    if len(done) < _SPREAD:
        return sobol_point(space, len(done) - 1)
    optuna = import_optuna()
    kinds = {name: _kind(optuna, search_range) for name, search_range in space.items()}
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=_seed(arm, len(done)))
        )
        for trial in done:
            study.add_trial(optuna.trial.create_trial(params=trial.values, distributions=kinds, value=trial.accuracy))
        return dict(study.ask(kinds).params)
    finally:
        optuna.logging.set_verbosity(before)


def import_optuna() -> Any:
    """Import Optuna.

    Raises:
        MissingPackageError: If it is not installed.
    """
    return import_optional("optuna", extra="tune", purpose="A search")


def _kind(optuna: Any, search_range: SearchRange) -> Any:
    kind = optuna.distributions.IntDistribution if search_range.whole else optuna.distributions.FloatDistribution
    return kind(search_range.low, search_range.high, log=search_range.log)


def _seed(arm: str, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{arm}/{number}".encode()).digest()[:4], "big")
