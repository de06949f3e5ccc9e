"""`judge`: predictions by arm and seed in, interval and verdict out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import DataError, LimbeckError, unknown
from limbeck.judging.judgment import ArmScores, Comparison, Judgment, Role, check_new
from limbeck.judging.scores import ScoreFunction, array_of, open_metric
from limbeck.metrics import Difference, compare_scores

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
    """Judge predictions that were made anywhere: in a loop of one's own, by trees, for regression or segmentation.

    Every arm is run with the same seeds, and predicts the same test examples in the same order. The interval allows for
    other seeds and other test examples (`limbeck.metrics.compare_scores`), and for having chosen the best of several
    methods.

    Args:
        predictions: For each arm by name a list with one item for each seed, in the same order of the seeds. An item is
            what that run predicts for all test examples: logits, probabilities or classes; numbers; maps. Or an array
            with a row for each seed, ``[seeds, n]`` or ``[seeds, n, classes]``. The arm called ``teacher`` is shown,
            and has one item. All arms but the baseline, the controls and the teacher are methods.
        targets: The labels, numbers or maps of the test examples; -100 (labels), NaN (numbers) or None (names) where
            there is none. A prediction that is NaN is wrong (a class), or refused (a number).
        metric: ``accuracy``, ``iou`` (mean over a picture's classes), ``squared_error``, ``absolute_error``; ``score``
            where the items are scores of each example already; or a function of (predictions, targets) that gives a
            score for each example, ``[n]``.
        baseline: The arm without a teacher.
        controls: Arms that no method is, of those that are there.
        development: For each method the metric on development data, by which the best is chosen. Without it the best is
            chosen on the test data, which the interval pays for.
        higher_is_better: For a function of one's own, and for ``score``.
        title: What the page is called.
        out: A new or empty folder for the page and ``judgment.json``; see `Judgment.write`.

    Raises:
        LimbeckError: If an arm is missing or no text names it, one has another number of seeds than the baseline or
            the teacher more than one, or `out` holds something.
        DataError: If predictions and targets do not belong together, or no example counts.

    Example:
        >>> import torch
        >>> labels = torch.arange(200) % 2
        >>> right, half = labels, torch.where(torch.arange(200) % 4 == 0, 1 - labels, labels)
        >>> found = judge({"student alone": [half] * 3, "distilled": [right] * 3}, labels)
        >>> found.helps, round(found.verdict.gain, 3)
        (True, 0.25)
    """
    if isinstance(controls, str):
        raise LimbeckError(f"controls={controls!r} is a list of names: controls=[{controls!r}].")
    if out is not None:
        check_new(Path(out))
    measured = open_metric(metric, higher_is_better=higher_is_better)
    if targets is None and measured.name != "score":
        raise LimbeckError("judge needs the targets of the test examples; only metric='score' does without.")
    scores = _all_scores(predictions, targets, measured)
    methods = _methods(scores, baseline, controls)
    arm, chosen_on = _choose(methods, scores, measured, development)
    compare = _Comparing(scores, measured, baseline, len(methods))
    found = Judgment(
        metric=measured.name,
        percent=measured.percent,
        higher_is_better=bool(measured.higher_is_better),
        seeds=len(scores[baseline]),
        examples=scores[baseline].shape[1],
        arm=arm,
        chosen_on=chosen_on,
        arms={name: _arm(one, _role(name, baseline, controls)) for name, one in scores.items()},
        verdict=compare.verdict(arm, chosen_on),
        against={name: compare.beside(arm, name) for name in controls if name in scores},
        methods={name: compare.beside(name, baseline) for name in methods},
        title=title or f"{measured.name} of {', '.join(methods)}",
    )
    if out is not None:
        found.write(out)
    return found


def _all_scores(predictions: Mapping[str, Any], targets: Any, metric: ScoreFunction) -> dict[str, NDArray[Any]]:
    """Each arm's scores ``[seeds, examples]``, of the examples that count."""
    if not isinstance(predictions, Mapping):
        raise LimbeckError(f"predictions is a mapping from arms' names to runs; got {type(predictions).__name__}.")
    scores: dict[str, NDArray[Any]] = {}
    for name, runs in predictions.items():
        if not isinstance(name, str):
            raise LimbeckError(f"An arm's name is a text; got {name!r}: write {str(name)!r}.")
        rows = [_scored(name, run, targets, metric) for run in _runs(name, runs)]
        if any(row.ndim != 1 or len(row) != len(rows[0]) for row in rows):
            raise DataError(
                f"The metric of {name!r} has to give one score for each example; got {[r.shape for r in rows]}. {_ONE}"
            )
        scores[name] = np.stack(rows)
    lengths = {one.shape[1] for one in scores.values()}
    if len(lengths) > 1:
        raise DataError(f"The arms predict different numbers of test examples: {sorted(lengths)}.")
    known = _known(scores, targets)
    return {name: one[:, known] for name, one in scores.items()}


_ONE = "The first dimension of an arm is over seeds: of one seed, give [predictions]."


def _runs(name: str, runs: Any) -> Sequence[Any]:
    """What each seed predicts: the items of a list, or the rows of an array."""
    if isinstance(runs, (list, tuple)):
        given = runs
    elif hasattr(runs, "shape") and len(runs.shape) > 1:
        given = list(array_of(runs))
    else:
        kind = f"{type(runs).__name__} {list(runs.shape)}" if hasattr(runs, "shape") else type(runs).__name__
        raise LimbeckError(
            f"predictions[{name!r}] is a list with one item for each seed, or an array [seeds, examples, ...]; got "
            f"{kind}. {_ONE}"
        )
    if not len(given):
        raise LimbeckError(f"predictions[{name!r}] holds no seed.")
    return given


def _scored(name: str, run: Any, targets: Any, metric: ScoreFunction) -> NDArray[np.float64]:
    try:
        return array_of(metric.score(run, targets)).astype(np.float64)
    except DataError as error:
        raise DataError(f"{name!r}: {error} {_ONE}") from error
    except LimbeckError:
        raise
    except Exception as error:  # a metric of one's own may raise anything
        raise LimbeckError(f"{metric.name} of {name!r} failed: {type(error).__name__}: {error}") from error


def _known(scores: Mapping[str, NDArray[Any]], targets: Any) -> NDArray[np.bool_]:
    """Which examples count: those that every arm can be scored on."""
    unknown_to = {name: np.isnan(one).any(0) for name, one in scores.items()}
    missing = np.logical_and.reduce(list(unknown_to.values()))
    for name, one in unknown_to.items():
        if (one & ~missing).any():
            raise DataError(f"{int((one & ~missing).sum())} scores of {name!r} are NaN where other arms have one.")
    if missing.all():
        raise DataError("No test example has a target, so nothing can be judged.")
    return ~missing


def _methods(scores: Mapping[str, NDArray[Any]], baseline: str, controls: Sequence[str]) -> list[str]:
    if baseline not in scores:
        raise unknown("baseline", baseline, scores, then="Name the arm without a teacher: baseline=...")
    methods = [name for name in scores if _role(name, baseline, controls) == "method"]
    if not methods:
        raise LimbeckError(f"No arm is a method: beside {', '.join(scores)} name the one that is to be judged.")
    if TEACHER in scores and len(scores[TEACHER]) != 1:
        raise LimbeckError(
            f"{TEACHER!r} has {len(scores[TEACHER])} items, and is the one teacher of all runs: give one, or another "
            "name."
        )
    seeds = len(scores[baseline])
    for name, one in scores.items():
        if name not in (TEACHER, baseline) and len(one) != seeds:
            raise LimbeckError(
                f"{name!r} has {len(one)} seeds and {baseline!r} has {seeds}: seeds are compared in pairs."
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
    """The method that is judged, and on which data it was chosen."""
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
        raise LimbeckError(
            f"development[{wrong[0]!r}] is {development[wrong[0]]}: give a number, or one for each seed."
        )
    return max(methods, key=lambda name: sign * means[name]), "development data"


def _arm(scores: NDArray[Any], role: Role) -> ArmScores:
    seeds = scores.mean(1)
    std = None if len(seeds) == 1 else float(seeds.std(ddof=1))
    return ArmScores(role, float(seeds.mean()), tuple(float(one) for one in seeds), std)


class _Comparing:
    """One arm beside another, in words; what is positive is better."""

    def __init__(self, scores: Mapping[str, NDArray[Any]], metric: ScoreFunction, baseline: str, methods: int) -> None:
        self._scores, self._metric, self._baseline = scores, metric, baseline
        self._methods = methods
        self._is_error = not metric.higher_is_better

    def verdict(self, arm: str, chosen_on: str) -> Comparison:
        found = self._difference(arm, self._baseline)
        chosen = f"Of {self._methods} methods {arm} is the best on {chosen_on}. " if chosen_on else ""
        gain = f"{self._gain(found.mean)} {'than' if self._is_error else 'over'} {self._baseline}"
        if found.low is None or found.high is None:
            one = "One seed says" if found.pairs == 1 else "One test example says"
            more = "run more seeds" if found.pairs == 1 else "measure it on more test data"
            said = f"{chosen}Unknown. {one} {gain}, and that has no interval: {more} before believing it."
            return self._made(found, said)
        said = "Distilling helped" if found.low > 0 else "Not worth it" if found.high < 0 else "Not shown to help"
        zero = ", and zero lies inside it" if found.low <= 0 <= found.high else ""
        return self._made(found, f"{chosen}{said}: {gain} {self._interval(found)}{zero}.")

    def beside(self, arm: str, other: str) -> Comparison:
        found = self._difference(arm, other)
        gain = self._gain(found.mean)
        if found.low is None or found.high is None:
            unit = "seed" if found.pairs == 1 else "test example"
            return self._made(found, f"Beside {other}: unknown; one {unit} says {gain}.")
        said = f"beats {other}" if found.low > 0 else f"is beaten by {other}" if found.high < 0 else None
        begins = f"{arm} {said}" if said else f"Beside {other}, nothing is sure of {arm}"
        return self._made(found, f"{begins}: {gain} {self._interval(found)}.")

    def _difference(self, arm: str, other: str) -> Difference:
        ours, theirs = self._scores[arm], self._scores[other]
        pair = (ours, theirs) if self._metric.higher_is_better else (theirs, ours)
        return compare_scores(*pair, comparisons=self._methods, largest=self._metric.largest)

    def _made(self, found: Difference, sentence: str) -> Comparison:
        interval = None if found.low is None or found.high is None else (found.low, found.high)
        return Comparison(found.mean, interval, found.p, sentence)

    def _gain(self, value: float) -> str:
        name = self._metric.name.replace("_", " ")
        if self._is_error:
            return f"{abs(value):.4g} {'less' if value >= 0 else 'more'} {name}"
        return f"{100 * value:+.2f} points of {name}" if self._metric.percent else f"{value:+.4g} of {name}"

    def _interval(self, found: Difference) -> str:
        low, high = (found.low or 0.0), (found.high or 0.0)
        ends = f"{100 * low:+.2f} to {100 * high:+.2f}" if self._metric.percent else f"{low:+.4g} to {high:+.4g}"
        fall = "" if self._metric.higher_is_better else ", where + is less error"
        wider = f"; for the best of {self._methods} methods" if self._methods > 1 else ""
        return f"(95 % interval {ends}{fall}, {found.pairs} paired seeds and {found.examples:,} test examples{wider})"
