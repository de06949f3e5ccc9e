"""Which values are tried next?"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from limbeck.compare.tuning.space import Space, Values
from limbeck.compare.tuning.spread import spread
from limbeck.compare.tuning.trial import Trial
from limbeck.errors import LimbeckError
from limbeck.methods.range import Range

_SPREAD = 10  # an estimator of densities has little to say from fewer trials; Optuna's own number too


def proposed(arm: str, space: Space, start: Values, done: Sequence[Trial]) -> Values:
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
        return {name: min(max(start[name], found.low), found.high) for name, found in space.items()}
    if len(done) < _SPREAD:
        return spread(space, len(done) - 1)
    optuna = opened()
    kinds = {name: _kind(optuna, found) for name, found in space.items()}
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


def opened() -> Any:
    """Optuna.

    Raises:
        LimbeckError: If it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise LimbeckError("A search needs Optuna; type pip install 'limbeck[tune]'.") from error
    return optuna


def _kind(optuna: Any, found: Range) -> Any:
    kind = optuna.distributions.IntDistribution if found.whole else optuna.distributions.FloatDistribution
    return kind(found.low, found.high, log=found.log)


def _seed(arm: str, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{arm}/{number}".encode()).digest()[:4], "big")
