"""Likely reasons for a verdict other than a clear yes, with evidence and a command."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from limbeck.compare.arm_recipes import ALONE, SMOOTHED
from limbeck.compare.arms import Outcome
from limbeck.compare.dry_run import FEW_STEPS, enough_epochs
from limbeck.compare.result import results_of
from limbeck.job import Job, RunLayout, export_options, read_interval, sort_controls
from limbeck.methods import method
from limbeck.metrics import interval_parts
from limbeck.report.curves import read_curves, read_losses
from limbeck.tasks import Classification, Task

_FEWEST = 10
"""Minimum number of reports per seed, so that a tenth of the training has at least one."""
_SHARE = 0.01
"""Minimum relative fall of the loss that justifies more epochs."""


class Fall(NamedTuple):
    """A loss that still falls: its mean over the last tenth of training, and over the tenth before."""

    before: float
    last: float


def find_fall(arm: Path) -> Fall | None:
    r"""Find out whether an arm's loss fell over the last tenth of its last stage, beyond noise.

    The noise of one report is estimated from second differences of the second half of the curve, which a straight
    trend leaves at zero: :math:`\sigma^2 = \overline{(l_{i+1} - 2 l_i + l_{i-1})^2} / 6`. A fall counts if it is at
    least two standard errors and 1 % of the loss.
    """
    curves = [[value for _, value in curve] for curve in read_losses(arm)]
    curves = [curve for curve in curves if len(curve) >= _FEWEST]
    if not curves:
        return None
    parts = [(curve, max(len(curve) // 10, 1)) for curve in curves]
    before = fmean(fmean(curve[-2 * k : -k]) for curve, k in parts)
    last = fmean(fmean(curve[-k:]) for curve, k in parts)
    error = math.sqrt(sum(2 * _noise(curve) / k for curve, k in parts)) / len(parts)
    fell = before - last
    return Fall(before, last) if fell > 2 * error and fell > _SHARE * abs(before) else None


def last_values(arm: Path, term: str) -> float | None:
    """A term's mean over the last tenth of training and all seeds; None if no report has the term."""
    curves = read_curves(arm).get(term)
    if not curves:
        return None
    return fmean(fmean(value for _, value in curve[-max(len(curve) // 10, 1) :]) for curve in curves)


def _noise(curve: list[float]) -> float:
    """The variance of the loss in one report."""
    half = curve[len(curve) // 2 - 1 :]
    return fmean((a - 2 * b + c) ** 2 for a, b, c in zip(half, half[1:], half[2:], strict=False)) / 6


_MOST = 4
_MANY_STEPS = 2000
"""Steps above which a loss that still falls says nothing about the temperature."""
_HOT = 2.0
"""The temperature from which on soft targets take more steps to learn (docs/methods/hinton.md, "Limits")."""


class Suggestion(NamedTuple):
    """A likely reason for a verdict, and what to do about it.

    Attributes:
        why: The reason, in a sentence.
        evidence: The measurements of this run that support it.
        type: A command to type, or None.
    """

    why: str
    evidence: str
    type: str | None


class JudgedRun(NamedTuple):
    """The input of the rules.

    Attributes:
        job: The job.
        rows: The arms' rows of the result.
        verdict: The verdict of the result.
        outcomes: The outcomes of every arm and seed.
        out: The run's folder; without it there are no training curves and no commands.
        task: The task.
    """

    job: Job
    rows: Mapping[str, Any]
    verdict: Mapping[str, Any]
    outcomes: Sequence[Outcome]
    out: Path | None
    task: Task = Classification()

    def value(self, arm: str) -> float | None:
        """An arm's mean primary metric on test data; None if it was not run."""
        return self.rows[arm][self.task.primary.name]["mean"] if arm in self.rows else None

    def format(self, value: float) -> str:
        """Format the primary metric."""
        return self.task.primary.describe(value)

    def again(self, *settings: str) -> str | None:
        """The command that runs the job again with other settings."""
        if self.out is None:
            return None
        command = "compare" if self.job.methods else "distill"
        typed = " ".join(f"--set {quote(one)}" for one in settings)
        return f"limbeck {command} {quote(str(self.out / 'job.yaml'))} {typed} --out NEW"


def suggest(run: JudgedRun) -> list[dict[str, Any]]:
    """List at most four likely reasons, the strongest first, each only if the numbers of the run support it.

    Returns:
        ``why``, ``evidence`` and ``type`` of each; nothing after a clear yes.
    """
    helps = run.verdict.get("helps")
    if run.verdict.get("difference") is None or (helps and not any(sort_controls(run.verdict))):
        return []
    rules = (_regularization, _search) if helps else _RULES
    suggestions = [suggestion for rule in rules for suggestion in rule(run)]
    return [suggestion._asdict() for suggestion in suggestions[:_MOST]]


def _one_seed(run: JudgedRun) -> Iterator[Suggestion]:
    if read_interval(run.verdict) is None and run.job.seeds == 1:
        yield Suggestion(
            "One seed cannot tell a gain from luck.", "There is no interval with one seed.", _more_seeds(run, 5)
        )


def _teacher(run: JudgedRun) -> Iterator[Suggestion]:
    teacher, alone = run.value("teacher"), run.value(ALONE)
    if teacher is None or alone is None or run.task.primary.gain(teacher, alone) > 0:
        return
    settings = run.job.teacher
    trains = not settings.has_weights and len(settings.parts) == 1 and ".py:" not in settings.model
    command = run.again("teacher.members=4") if trains else None
    better = "an ensemble is usually better than one network" if trains else "name a better one with --teacher"
    yield Suggestion(
        f"The teacher is no better than the student alone, so it has little to hand on; {better}.",
        f"Teacher {run.format(teacher)}, student alone {run.format(alone)} on the test data.", command,
    )  # fmt: skip


def _falling(run: JudgedRun) -> Iterator[Suggestion]:
    fall = _fall(run)
    if fall is not None:
        yield Suggestion(
            "The student was still learning when its training ended.",
            f"Its loss fell from {fall.before:.4g} to {fall.last:.4g} over the last tenth of its training.",
            run.again(_longer(run)),
        )


def _hot(run: JudgedRun) -> Iterator[Suggestion]:
    """For few steps, or a curve that shows that more steps were too few: a count alone proves nothing above that."""
    if not run.task.has_temperature:
        return
    settings = run.job.method_arms[run.verdict["arm"]]
    parameter = method(settings.name).parameters.get("temperature")
    temperature = settings.hyper.get("temperature")
    if temperature is None and parameter is not None:
        temperature = run.task.temperature or parameter.default
    steps = _steps(run)
    if not isinstance(temperature, (int, float)) or temperature < _HOT or steps is None or steps > _MANY_STEPS:
        return
    if steps >= FEW_STEPS and _fall(run) is None:
        return
    same = sum(one.name == settings.name for one in run.job.methods)
    typed = None if same > 1 else run.again(f"{run.job.key_of(settings)}.temperature=1")
    learning = "" if steps < FEW_STEPS else ", and its loss still fell at the end"
    yield Suggestion(
        "Few steps at a high temperature train a student too little.",
        f"{settings.name} had {steps:,} optimizer steps at temperature {temperature:g}{learning}.", typed,
    )  # fmt: skip


def _few_steps(run: JudgedRun) -> Iterator[Suggestion]:
    """For runs with too few steps to see in the curve whether the loss still falls."""
    steps = _steps(run)
    if steps is not None and steps < FEW_STEPS:
        yield Suggestion("The student had few steps to learn in.", f"It made {steps:,} optimizer steps.",
                         run.again(_longer(run)))  # fmt: skip


def _regularization(run: JudgedRun) -> Iterator[Suggestion]:
    ours, smoothed, alone = run.value(run.verdict["arm"]), run.value(SMOOTHED), run.value(ALONE)
    if ours is None or smoothed is None or alone is None:
        return
    (better, equal), gain = sort_controls(run.verdict), run.task.primary.gain
    if SMOOTHED not in better + equal or gain(smoothed, alone) <= 0:
        return
    if SMOOTHED in equal and not run.verdict.get("helps") and gain(smoothed, ours) < 0:
        return
    typed = None
    if run.out is not None:
        options = export_options(RunLayout(run.out).seed_student(SMOOTHED, 0), run.out)
        typed = f"limbeck export {quote(str(run.out))} --arm {quote(SMOOTHED)} {options}"
    words = "does better" if SMOOTHED in better else "does as well: what there is of a gain may be regularization"
    yield Suggestion(
        f"Label smoothing, which needs no teacher, {words}.",
        f"Label smoothing {run.format(smoothed)}, {run.verdict['arm']} {run.format(ours)}, student alone "
        f"{run.format(alone)} on the test data.", typed,
    )  # fmt: skip


def _wide(run: JudgedRun) -> Iterator[Suggestion]:
    interval = read_interval(run.verdict)
    if interval is None or not interval[0] <= 0 <= interval[1]:
        return
    ours, theirs = (
        np.asarray(one) for one in results_of(run.outcomes, run.verdict["arm"], ALONE, score=run.task.primary)
    )
    if ours.ndim != 2:
        return
    seeds, examples = interval_parts(ours, theirs, comparisons=int(run.verdict.get("comparisons") or 1))
    score, half = run.task.primary, (interval[1] - interval[0]) / 2
    width, of_seeds, of_examples = (score.format_difference(one).lstrip("+") for one in (half, seeds, examples))
    evidence = (
        f"Of ± {width}, the {len(ours)} seeds make {of_seeds.removesuffix(' points')} and the {ours.shape[1]:,} test "
        f"{score.examples} {of_examples.removesuffix(' points')} (they add as squares)."
    )
    if seeds == 0:
        yield Suggestion(
            "The interval is wide because the test data are few: get more. All seeds have the same difference on each "
            "of them, so more seeds would change nothing.", evidence, None,
        )  # fmt: skip
    elif seeds >= examples:
        more = min(max(2 * run.job.seeds, 5), 40)
        typed = _more_seeds(run, more) if more > run.job.seeds else None
        yield Suggestion("The interval is wide, mostly because of the seeds: run more of them.", evidence, typed)
    else:
        yield Suggestion("The interval is wide, mostly because the test data are few: get more.", evidence, None)


def _fit(run: JudgedRun) -> Iterator[Suggestion]:
    """Whether the student alone overfits, or the distilled student underfits."""
    if run.out is None or not isinstance(run.task, Classification):
        return
    if (trained := last_values(RunLayout(run.out).arm(ALONE), "cross_entropy")) is not None and ALONE in run.rows:
        tested = run.rows[ALONE]["nll"]
        if tested is not None and tested > 3 * trained and tested - trained > 0.2:
            epochs = run.job.budget_of(ALONE).epochs
            few = max(epochs // 4, 1)
            typed = f"limbeck tune {quote(str(run.out / 'job.yaml'))} --range epochs={few}..{epochs}"
            yield Suggestion(
                "The student alone learns its training data by heart; fewer epochs or more data may serve better.",
                f"Its cross-entropy is {trained:.3g} nats on training data and {tested:.3g} on test data.",
                typed if few < epochs else None,
            )
    yield from _too_small(run)


def _too_small(run: JudgedRun) -> Iterator[Suggestion]:
    arm = run.verdict["arm"]
    trained = last_values(RunLayout(run.out).arm(arm), "cross_entropy") if run.out is not None else None
    teacher, ours = run.value("teacher"), run.value(arm)
    if trained is None or teacher is None or ours is None or teacher - ours < 0.05:
        return
    tested = run.rows[arm]["nll"]
    if tested is None or trained < 0.9 * tested or trained < 0.1:
        return
    sizes = {key: value for key, value in run.job.student.arguments.items() if key in ("hidden", "widths")}
    wider = [f"student.{key}={[2 * one for one in value]}".replace(" ", "") for key, value in sizes.items()
             if isinstance(value, list) and all(isinstance(one, int) for one in value) and value]  # fmt: skip
    yield Suggestion(
        "The student may be too small to learn all from the teacher.",
        f"Its cross-entropy is {trained:.3g} nats even on training data ({tested:.3g} on test data), and the teacher "
        f"is {100 * (teacher - ours):.1f} points better.", run.again(*wider) if wider else None,
    )  # fmt: skip


def _search(run: JudgedRun) -> Iterator[Suggestion]:
    if run.job.search is None:
        typed = f"limbeck tune {quote(str(run.out / 'job.yaml'))}" if run.out is not None else None
        yield Suggestion("No search was made for the settings.",
                         "The job names no search: learning rate and the method's settings are as typed or the "
                         "defaults.", typed)  # fmt: skip


_RULES: tuple[Callable[[JudgedRun], Iterator[Suggestion]], ...] = (
    _one_seed, _teacher, _falling, _regularization, _hot, _few_steps, _wide, _fit, _search,
)  # fmt: skip


def _steps(run: JudgedRun) -> int | None:
    """The optimizer steps of the judged arm."""
    return next((one.steps for one in run.outcomes if one.arm == run.verdict["arm"]), None)


def _fall(run: JudgedRun) -> Fall | None:
    """The fall of the judged arm's loss at the end of its training, if there is one."""
    return find_fall(RunLayout(run.out).arm(run.verdict["arm"])) if run.out is not None else None


def _more_seeds(run: JudgedRun, seeds: int) -> str | None:
    if run.out is None:
        return None
    return f"limbeck resume {quote(str(run.out))} --set seeds={seeds}{' --trust' if run.job.names_files else ''}"


def _longer(run: JudgedRun) -> str:
    """A setting with enough epochs for an arm with few steps, else with three times the epochs of the judged arm."""
    arm = run.verdict["arm"]
    own = run.job.budgets.get(arm)
    key = f"budgets.{arm}.epochs" if own is not None and own.epochs is not None else "budget.epochs"
    epochs = run.job.budget_of(arm).epochs
    # Methods with several stages take more steps in an epoch; the note before training counts those of one stage.
    same = {arm, *(one for one in run.job.all_arms if run.job.budget_of(one).epochs == epochs)} - {"teacher"}
    steps = min((one.steps for one in run.outcomes if one.arm in same and one.steps), default=FEW_STEPS)
    return f"{key}={enough_epochs(epochs, steps) if steps < FEW_STEPS else 3 * epochs}"
