"""The tasks and the table of the maze."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from limbeck.metrics.statistics import compare_scores
from limbeck.papers.claim import ClaimResult, judge_difference
from limbeck.papers.experiment import Experiment, ExperimentScale, Figures, Row
from limbeck.papers.gkd.students import (
    ARMS,
    DEVELOPMENT,
    FULL,
    QUICK,
    Arm,
    MazeScale,
    begin,
    choose_settings,
    count_seconds,
    study,
    teach,
    train,
)
from limbeck.task_runner import WorkItem

_TEACHER = "teacher"
_SETTINGS = "settings"
_MEASURES = {"right": "right, T=1", "right at T=0.5": "right, T=0.5", "greedy": "right, greedy"}
_ON_POLICY = ("on-policy forward", "on-policy reverse", "on-policy JSD")
_CLAIMS = ("right", "greedy")
_STEP = {"labels": 0.006, "teacher": 0.012, "student": 0.024, "teacher again": 0.026}
"""Seconds of a step on the reference machine, by who writes the text; ``teacher`` is a step with its logits."""


def _sizes(scale: ExperimentScale) -> MazeScale:
    return QUICK if scale.quick else FULL


def _name(*words: object) -> str:
    return "/".join(str(word).replace(" ", "-").replace(",", "") for word in words)


def _seconds(arm: Arm, sizes: MazeScale) -> float:
    """Estimate the seconds of an arm on the reference machine."""
    who = arm.text if arm.text in _STEP and arm.text != "teacher" else "labels" if arm.loss == "labels" else "teacher"
    return 1 + sizes.steps * (_STEP["student"] if arm.seconds else _STEP[who])


def _starts(sizes: MazeScale, prompts: int, seeds: Sequence[int]) -> list[WorkItem]:
    seconds = 1 + sizes.start * _STEP["labels"]
    return [
        WorkItem(
            _name(prompts, "start", f"seed-{seed}"),
            partial(begin, scale=sizes, prompts=prompts, seed=seed),
            (),
            seconds,
        )
        for seed in seeds
    ]


def _trials(sizes: MazeScale) -> tuple[list[WorkItem], dict[str, dict[str, list[str]]]]:
    """The tasks that try settings on development pairs; and setting -> value -> tasks."""
    tried = [(name, rate, arm, rate) for name, arm in ARMS.items() if not arm.settings for rate in sizes.rates_of(arm)]
    mixture = ARMS["mixture"]
    middle = sizes.rollout_rates[len(sizes.rollout_rates) // 2]
    for share in sizes.shares:
        tried.append(("share of the mixture", share, Arm(mixture.loss, mixture.text, share), middle))
    tasks: list[WorkItem] = []
    names: dict[str, dict[str, list[str]]] = {}
    for setting, value, arm, rate in tried:
        for seed in DEVELOPMENT:
            task = _trial(sizes, _name("trials", setting, f"{value:g}", f"seed-{seed}"), arm, rate, seed)
            names.setdefault(setting, {}).setdefault(f"{value:g}", []).append(task.name)
            tasks.append(task)
    return tasks, names


def _trial(sizes: MazeScale, name: str, arm: Arm, rate: float, seed: int) -> WorkItem:
    start, counted = _name(sizes.prompts, "start", f"seed-{seed}"), _name(sizes.prompts, "seconds")
    steps = (counted, arm.clock) if arm.seconds else sizes.steps
    work = partial(train, arm=arm, scale=sizes, prompts=sizes.prompts, seed=seed, start=start, rate=rate, steps=steps)
    requires = (start, _TEACHER, counted) if arm.seconds else (start, _TEACHER)
    return WorkItem(name, work, requires, _seconds(arm, sizes))


def _tasks(scale: ExperimentScale, *, small: bool) -> list[WorkItem]:
    sizes = _sizes(scale)
    trials, names = _trials(sizes)
    choose = partial(choose_settings, trials=names)
    tasks = [
        WorkItem(_TEACHER, partial(teach, scale=sizes), (), sizes.teacher[0] * 0.026),
        *_starts(sizes, sizes.prompts, DEVELOPMENT),
        _count(sizes, sizes.prompts),
        *trials,
        WorkItem(_SETTINGS, choose, tuple(task.name for task in trials), 0.1),
    ]
    prompts = sizes.prompts if small else _all_prompts(sizes)
    if not small:
        tasks += [*_starts(sizes, prompts, DEVELOPMENT[:1]), _count(sizes, prompts)]
    tasks += _starts(sizes, prompts, scale.seeds)
    return tasks + [_study(sizes, prompts, name, seed) for seed in scale.seeds for name in ARMS]


def _all_prompts(sizes: MazeScale) -> int:
    cells = sizes.cells**2
    return cells * (cells - 1) - sizes.test


def _count(sizes: MazeScale, prompts: int) -> WorkItem:
    start = _name(prompts, "start", f"seed-{DEVELOPMENT[0]}")
    seconds = 1 + sizes.steps * (_STEP["student"] + _STEP["teacher"] + _STEP["labels"])
    work = partial(count_seconds, scale=sizes, prompts=prompts, start=start)
    return WorkItem(_name(prompts, "seconds"), work, (start, _TEACHER), seconds)


def _study(sizes: MazeScale, prompts: int, name: str, seed: int) -> WorkItem:
    start, seconds = _name(prompts, "start", f"seed-{seed}"), _name(prompts, "seconds")
    work = partial(
        study, arm=ARMS[name], scale=sizes, prompts=prompts, seed=seed, start=start, seconds=seconds, settings=_SETTINGS
    )
    requires = (start, _TEACHER, seconds, _SETTINGS)
    return WorkItem(_task(prompts, name, seed), work, requires, _seconds(ARMS[name], sizes))


def _task(prompts: int, name: str, seed: int) -> str:
    return _name(prompts, name, f"seed-{seed}")


# --- rows -----------------------------------------------------------------------------------------------------------


def _rows(scale: ExperimentScale, results: Mapping[str, Figures], *, small: bool) -> list[Row]:
    sizes = _sizes(scale)
    prompts = sizes.prompts if small else _all_prompts(sizes)
    of_arm = {name: [results[_task(prompts, name, seed)] for seed in scale.seeds] for name in ARMS}
    rows = _columns("the teacher", [results[_TEACHER]], trained=False)
    rows += _columns(
        "the start", [results[_name(prompts, "start", f"seed-{seed}")] for seed in scale.seeds], trained=False
    )
    for name, figures in of_arm.items():
        rows += _columns(name, figures, trained=True)
    for other in ("the same, teacher stored", "new text of the teacher", "labels, equal seconds", "sequence-level KD"):
        rows += _differences("on-policy JSD", other, of_arm)
    return rows + (_tried(results[_SETTINGS]) if small else [])


def _tried(settings: Figures) -> list[Row]:
    """What each setting gave on development pairs, in right walks at T = 1 and greedy together."""
    ending = ": right walks"
    return [
        Row(f"development pairs, {name.removesuffix(ending)} {value}", [score], "%", lower_is_better=False)
        for name, scores in settings.items() if name.endswith(ending) for value, score in scores.items()
    ]  # fmt: skip


def _columns(name: str, figures: Sequence[Figures], *, trained: bool) -> list[Row]:
    """The measures of an arm side by side."""

    def row(key: str, column: str, unit: str) -> Row:
        return Row(name, [run[key] for run in figures], unit, lower_is_better=unit != "%", column=column)

    rows = [row(key, column, "%") for key, column in _MEASURES.items()]
    rows += [row("entropy", "entropy", "nats"), row("perplexity", "perplexity", "")]
    if not trained:
        return rows
    return [*rows, row("steps", "steps", "steps"), row("seconds", "time", "s"), row("rate", "learning rate", "")]


def _judge(scale: ExperimentScale, results: Mapping[str, Figures], *, small: bool) -> list[ClaimResult]:
    """The claims: text of the student is ahead of given text at equal seconds, for three divergences."""
    sizes = _sizes(scale)
    prompts = sizes.prompts if small else _all_prompts(sizes)
    arms = (*_ON_POLICY, "supervised KD, equal seconds")
    of_arm = {name: [results[_task(prompts, name, seed)] for seed in scale.seeds] for name in arms}
    return [_compare(ours, arms[-1], of_arm, measure) for ours in _ON_POLICY for measure in _CLAIMS]


def _compare(ours: str, theirs: str, of_arm: Mapping[str, Sequence[Figures]], measure: str) -> ClaimResult:
    """The difference of two arms.

    Intervals are over seeds and test pairs, and are corrected for the number of on-policy arms and measures.
    """
    scores = [[run["scores"][measure] for run in of_arm[name]] for name in (ours, theirs)]
    comparisons = len(_ON_POLICY) * len(_CLAIMS)
    difference = compare_scores(*scores, largest=1.0, comparisons=comparisons)
    by_seed = [a[measure] - b[measure] for a, b in zip(of_arm[ours], of_arm[theirs], strict=True)]
    return judge_difference(
        f"{ours} over {theirs}: {_MEASURES[measure]}", difference, scale=100.0, values=by_seed, comparisons=comparisons
    )


def _differences(ours: str, theirs: str, of_arm: Mapping[str, Sequence[Figures]]) -> list[Row]:
    """The differences of two arms, with their intervals as remarks."""
    rows = []
    for found in (_compare(ours, theirs, of_arm, measure) for measure in _CLAIMS):
        interval = "" if found.low is None else f"95 % interval {found.low:.1f} to {found.high:.1f}"
        note = f"{interval}, for {found.comparisons} comparisons" if interval else ""
        rows.append(Row(found.claim, found.values, "points", lower_is_better=False, note=note))
    return rows


MAZE_FEW = Experiment(
    "maze-300",
    "Is text of the student worth more than given text, when there are few prompts?",
    partial(_tasks, small=True),
    partial(_rows, small=True),
    claims=partial(_judge, small=True),
)
MAZE_ALL = Experiment(
    "maze-1952", "And when there are enough prompts?", partial(_tasks, small=False), partial(_rows, small=False),
    claims=partial(_judge, small=False),
)  # fmt: skip
