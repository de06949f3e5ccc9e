"""`judge`: compute an interval and a verdict from predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import DataError, LimbeckError, unknown_name_error
from limbeck.judging.judgment import ArmScores, Comparison, Judgment, Role, check_new
from limbeck.judging.scores import ScoreFunction, array_of, open_metric
from limbeck.judging.verdict import compare_with_baseline, compare_with_control
from limbeck.tasks import Score

BASELINE, TEACHER = "student alone", "teacher"
CONTROLS = ("label smoothing", "shuffled teacher")


def judge(
    predictions: Mapping[str, Any],
    targets: Any = None,
    *,
    metric: str | Callable[[Any, Any], Any] = "accuracy",
    baseline: str = BASELINE,
    controls: Sequence[str] = CONTROLS,
    development: Mapping[str, Sequence[float] | float] | None = None,
    higher_is_better: bool | None = None,
    title: str = "",
    out: str | Path | None = None,
) -> Judgment:
    """Compare predictions made outside of limbeck: by your own training loop or trees, for regression or segmentation.

    Every arm is run with the same seeds, and predicts the same test examples in the same order. The interval allows for
    other seeds and other test examples (`limbeck.metrics.compare_scores`), and for the choice of the best method.

    Args:
        predictions: For each arm by name a list with one item per seed, in the same order of seeds. An item holds the
            predictions of that run for all test examples: logits, probabilities or classes; numbers; maps. Or an array
            with a row per seed, ``[seeds, n]`` or ``[seeds, n, classes]``. The arm ``teacher`` is only shown, and has
            one item. All arms but the baseline, the controls and the teacher are methods.
        targets: The labels, numbers or maps of the test examples; -100 (labels), NaN (numbers) or None (names) where
            there is none. A NaN prediction counts as wrong (classes) or raises an error (numbers).
        metric: ``accuracy``, ``iou`` (mean over a picture's classes), ``squared_error``, ``absolute_error``; ``score``
            if the items already are scores of each example; or a function of (predictions, targets) that returns a
            score for each example, ``[n]``.
        baseline: The arm without a teacher.
        controls: The control arms; names that are not in `predictions` are ignored.
        development: For each method the metric on development data, used to choose the best. Without it the best is
            chosen on the test data, and the intervals are wider for that.
        higher_is_better: Required for your own function and for ``score``.
        title: The title of the page.
        out: A new or empty folder for the page and ``judgment.json``; see `Judgment.write`.

    Raises:
        LimbeckError: If an arm is missing or its name is not a string, if an arm has another number of seeds than the
            baseline, if the teacher has more than one item, or if `out` is not empty.
        DataError: If predictions and targets do not fit together, or no example has a target.

    Example:
        >>> import torch
        >>> labels = torch.arange(200) % 2
        >>> right, half = labels, torch.where(torch.arange(200) % 4 == 0, 1 - labels, labels)
        >>> judgment = judge({"student alone": [half] * 3, "distilled": [right] * 3}, labels)
        >>> judgment.helps, round(judgment.verdict.gain, 3)
        (True, 0.25)
    """
    if isinstance(controls, str):
        raise LimbeckError(f"controls={controls!r} must be a list of names; type controls=[{controls!r}].")
    if out is not None:
        check_new(Path(out))
    score_function = open_metric(metric, higher_is_better=higher_is_better)
    if targets is None and score_function.name != "score":
        raise LimbeckError("judge needs the targets of the test examples; only metric='score' works without them.")
    scores = _all_scores(predictions, targets, score_function)
    methods = _methods(scores, baseline, controls)
    arm, chosen_on = _choose(methods, scores, score_function, development)
    comparer = _ArmComparer(scores, score_function, baseline, len(methods))
    judgment = Judgment(
        metric=score_function.name,
        percent=score_function.percent,
        higher_is_better=bool(score_function.higher_is_better),
        seeds=len(scores[baseline]),
        examples=scores[baseline].shape[1],
        arm=arm,
        chosen_on=chosen_on,
        arms={name: _arm(rows, _role(name, baseline, controls)) for name, rows in scores.items()},
        verdict=comparer.verdict(arm, chosen_on),
        against={name: comparer.compare(arm, name) for name in controls if name in scores},
        methods={name: comparer.compare(name, baseline) for name in methods},
        title=title or f"{score_function.name} of {', '.join(methods)}",
    )
    if out is not None:
        judgment.write(out)
    return judgment


def _all_scores(predictions: Mapping[str, Any], targets: Any, metric: ScoreFunction) -> dict[str, NDArray[Any]]:
    """The scores ``[seeds, examples]`` of each arm, for the examples that have a target."""
    if not isinstance(predictions, Mapping):
        raise LimbeckError(f"predictions must be a mapping from arm names to runs; got {type(predictions).__name__}.")
    scores: dict[str, NDArray[Any]] = {}
    for name, runs in predictions.items():
        if not isinstance(name, str):
            raise LimbeckError(f"The name of an arm must be a string; got {name!r}: type {str(name)!r}.")
        rows = [_scored(name, run, targets, metric) for run in _runs(name, runs)]
        if any(row.ndim != 1 or len(row) != len(rows[0]) for row in rows):
            raise DataError(
                f"The metric of {name!r} must return one score per example; got {[r.shape for r in rows]}. "
                f"{_FIRST_DIMENSION}"
            )
        scores[name] = np.stack(rows)
    lengths = {arm_scores.shape[1] for arm_scores in scores.values()}
    if len(lengths) > 1:
        raise DataError(f"The arms predict different numbers of test examples: {sorted(lengths)}.")
    counted = _find_counted(scores)
    return {name: arm_scores[:, counted] for name, arm_scores in scores.items()}


_FIRST_DIMENSION = "The first dimension of an arm is over seeds; for one seed, give [predictions]."


def _runs(name: str, runs: Any) -> Sequence[Any]:
    """The predictions of each seed: the items of a list, or the rows of an array."""
    if isinstance(runs, (list, tuple)):
        items = runs
    elif hasattr(runs, "shape") and len(runs.shape) > 1:
        items = list(array_of(runs))
    else:
        kind = f"{type(runs).__name__} {list(runs.shape)}" if hasattr(runs, "shape") else type(runs).__name__
        raise LimbeckError(
            f"predictions[{name!r}] must be a list with one item per seed, or an array [seeds, examples, ...]; got "
            f"{kind}. {_FIRST_DIMENSION}"
        )
    if not len(items):
        raise LimbeckError(f"predictions[{name!r}] is empty; it needs one item per seed.")
    return items


def _scored(name: str, run: Any, targets: Any, metric: ScoreFunction) -> NDArray[np.float64]:
    try:
        return array_of(metric.score(run, targets)).astype(np.float64)
    except DataError as error:
        raise DataError(f"{name!r}: {error} {_FIRST_DIMENSION}") from error
    except LimbeckError:
        raise
    except Exception as error:  # a user's metric may raise anything
        raise LimbeckError(f"{metric.name} of {name!r} failed: {type(error).__name__}: {error}") from error


def _find_counted(scores: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """A mask of the examples that count: those with a score in every arm."""
    nan_scores = {name: np.isnan(row).any(0) for name, row in scores.items()}
    unscored = np.logical_and.reduce(list(nan_scores.values()))
    for name, row in nan_scores.items():
        if (row & ~unscored).any():
            raise DataError(f"{int((row & ~unscored).sum())} scores of {name!r} are NaN where other arms have one.")
    if unscored.all():
        raise DataError("No test example has a target, so no score can be computed.")
    return ~unscored


def _methods(scores: Mapping[str, NDArray[Any]], baseline: str, controls: Sequence[str]) -> list[str]:
    if baseline not in scores:
        raise unknown_name_error("baseline", baseline, scores, then="Name the arm without a teacher: baseline=...")
    methods = [name for name in scores if _role(name, baseline, controls) == "method"]
    if not methods:
        raise LimbeckError(f"No arm is a method: add one to {', '.join(scores)}.")
    if TEACHER in scores and len(scores[TEACHER]) != 1:
        raise LimbeckError(
            f"{TEACHER!r} has {len(scores[TEACHER])} items, but all runs share one teacher: give one item, or another "
            "name."
        )
    seeds = len(scores[baseline])
    for name, rows in scores.items():
        if name not in (TEACHER, baseline) and len(rows) != seeds:
            raise LimbeckError(
                f"{name!r} has {len(rows)} seeds and {baseline!r} has {seeds}; seeds are compared in pairs."
            )
    return methods


def _role(name: str, baseline: str, controls: Sequence[str]) -> Role:
    if name == baseline:
        return "baseline"
    if name in controls:
        return "control"
    return "teacher" if name == TEACHER else "method"


def _choose(
    methods: Sequence[str],
    scores: Mapping[str, NDArray[Any]],
    metric: ScoreFunction,
    development: Mapping[str, Sequence[float] | float] | None,
) -> tuple[str, str]:
    """The method of the verdict, and the data on which it was chosen."""
    sign = 1.0 if metric.higher_is_better else -1.0
    if len(methods) == 1:
        return methods[0], ""
    if development is None:
        return max(methods, key=lambda name: sign * scores[name].mean()), "the test data"
    missing = [name for name in methods if name not in development]
    if missing:
        raise LimbeckError(f"development has no value for {', '.join(missing)}; give one for each method.")
    means = {name: float(np.mean(development[name])) if np.size(development[name]) else math.nan for name in methods}
    wrong = [name for name, mean in means.items() if not math.isfinite(mean)]
    if wrong:
        raise LimbeckError(f"development[{wrong[0]!r}] is {development[wrong[0]]}; give a number, or one per seed.")
    return max(methods, key=lambda name: sign * means[name]), "development data"


def _arm(scores: NDArray[Any], role: Role) -> ArmScores:
    means = scores.mean(1)
    std = None if len(means) == 1 else float(means.std(ddof=1))
    return ArmScores(role, float(means.mean()), tuple(float(mean) for mean in means), std)


class _ArmComparer:
    """Compares two arms by the scores of their examples."""

    def __init__(self, scores: Mapping[str, NDArray[Any]], metric: ScoreFunction, baseline: str, methods: int) -> None:
        self._scores, self._baseline, self._methods = scores, baseline, methods
        self._score = Score(
            metric.name, metric.name.replace("_", " "), higher_is_better=bool(metric.higher_is_better),
            percent=metric.percent, largest=metric.largest,
        )  # fmt: skip

    def verdict(self, arm: str, chosen_on: str) -> Comparison:
        """Compare a method with the baseline."""
        chosen = f"Of {self._methods} methods {arm} is the best on {chosen_on}. " if chosen_on else ""
        verdict = compare_with_baseline(
            self._scores[arm], self._scores[self._baseline], name=self._baseline, comparisons=self._methods,
            score=self._score,
        )  # fmt: skip
        return Comparison(verdict.difference, verdict.interval, verdict.p, chosen + verdict.sentence)

    def compare(self, arm: str, other: str) -> Comparison:
        """Compare a method with any other arm."""
        verdict = compare_with_control(
            self._scores[arm], self._scores[other], name=other, arm=arm, comparisons=self._methods, score=self._score
        )
        return Comparison(verdict.difference, verdict.interval, verdict.p, verdict.sentence)
