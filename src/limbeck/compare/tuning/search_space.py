"""Search spaces and the next values of a search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from limbeck.compare.arm_recipes import ALONE, SMOOTHED, TEXTS, recipe_of
from limbeck.compare.language import has_no_answers
from limbeck.compare.tuning.estimator_space import (
    has_estimator_student,
    ranges_of_estimator,
    split_values,
    start_of_estimator,
)
from limbeck.errors import LimbeckError, unknown_name_error
from limbeck.job import ArmBudget, Job, MethodSettings
from limbeck.methods import method
from limbeck.methods.card import SearchRange
from limbeck.tasks import Task
from limbeck.teachers import Teacher

Space = dict[str, SearchRange]
Values = dict[str, int | float]
Ends = tuple[int | float, int | float]
_BUDGET = ("lr", "epochs")


def read_arms(job: Job) -> tuple[str, ...]:
    """The arms of a search. The student of a shuffled teacher is not among them.

    It uses the values of the first method, because only its teacher should differ.
    """
    controls = (SMOOTHED, TEXTS) if has_no_answers(job) else (ALONE, SMOOTHED)
    return tuple(arm for arm in job.all_arms if arm in controls or arm in job.method_arms)


def spaces_of(
    job: Job, ranges: Mapping[str, SearchRange], *, smoothing: float, task: Task | None = None
) -> dict[str, Space]:
    """The search space of each arm. Every default range contains the value of the job.

    The learning rate ranges from a tenth of the job's to ten times that, the epochs from a quarter of the job's up to
    the job's, so no arm trains for longer. The ranges of hyper-parameters are declared by their method.

    Raises:
        UnknownNameError: If no arm has a parameter with a name in `ranges`; the message names the nearest.
    """
    spaces = {arm: _space(job, arm, ranges) for arm in read_arms(job)}
    parameters = {name for arm in read_arms(job) for name in _usual(job, arm)}
    for name in ranges:
        if name not in parameters:
            raise unknown_name_error("parameter to tune", name, parameters)
    if task is not None and not task.has_temperature:
        spaces = {arm: {n: r for n, r in space.items() if n != "temperature"} for arm, space in spaces.items()}
    for arm, space in spaces.items():
        start = start_of(job, arm, smoothing, task=task)
        spaces[arm] = {n: r if n in ranges else r.holding(start[n]) for n, r in space.items()}
    return spaces


def start_of(job: Job, arm: str, smoothing: float, *, task: Task | None = None) -> Values:
    """The job's own values for an arm, which are the first trial."""
    if has_estimator_student(job):
        return start_of_estimator(job, arm, smoothing)
    budget = job.budget_of(arm)
    values: Values = {"lr": budget.lr, "epochs": budget.epochs}
    if arm == SMOOTHED:
        return {**values, "smoothing": smoothing}
    if arm in (ALONE, TEXTS):
        return values
    settings = job.method_arms[arm]
    parameters = method(settings.name).parameters
    typed = {n for n, v in settings.hyper.items() if not _is_number(v)}  # such as a schedule
    own = {n: p.default for n, p in parameters.items() if _is_number(p.default) and n not in typed}
    if "temperature" in own and task is not None and task.temperature is not None:
        own["temperature"] = task.temperature
    values = {**own, **{n: v for n, v in settings.hyper.items() if _is_number(v)}, **values}
    if task is not None and not task.has_temperature:
        values.pop("temperature", None)
    return values


def with_values(job: Job, arm: str, values: Mapping[str, Any]) -> Job:
    """The job with these values for one arm."""
    if has_estimator_student(job):
        student, values = split_values(job, arm, values)
        own = job.budgets.get(arm, ArmBudget())
        own = own.model_copy(update={"student": {**(own.student or {}), **student}})
        job = job.model_copy(update={"budgets": {**job.budgets, arm: own}})
    budget = {n: v for n, v in values.items() if n in _BUDGET or (n == "smoothing" and arm == SMOOTHED)}
    own = job.budgets.get(arm, ArmBudget()).model_copy(update=budget)
    update: dict[str, Any] = {"budgets": {**job.budgets, arm: own}}
    if arm in job.method_arms:
        hyper = {n: v for n, v in values.items() if n not in budget}
        learners = {n: _changed(m, hyper) if n == arm else m for n, m in job.method_arms.items()}
        update["method"] = next(iter(learners.values()))
        update["methods"] = tuple(learners.values()) if job.methods else ()
    return job.model_copy(update=update)


def check_ends(job: Job, ranges: Mapping[str, SearchRange], teacher: Teacher, task: Task) -> None:
    """Check that both ends of every range are valid values of the parameter.

    Raises:
        LimbeckError: If the method or the job refuses a value.
    """
    for arm in read_arms(job):
        for name in sorted(set(ranges) & set(_usual(job, arm))):
            for end in (ranges[name].low, ranges[name].high):
                tried = with_values(job, arm, {name: end})
                _ = recipe_of(tried, arm, teacher, task=task, smoothing=float(end) if name == "smoothing" else 0.1)
                _ = tried.budget_of(arm).make_optimizer()


def read_ranges(texts: list[str]) -> dict[str, SearchRange | Ends]:
    """Parse ranges: ``lr=1e-4..1e-2``, or ``epochs=20`` for a fixed value.

    Raises:
        LimbeckError: If a range has another form.

    Example:
        >>> read_ranges(["temperature=1..8", "epochs=20"])
        {'temperature': (1.0, 8.0), 'epochs': (20.0, 20.0)}
    """
    ranges: dict[str, SearchRange | Ends] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        low, _, high = values.partition("..")
        try:
            ends = float(low), float(high or low)
        except ValueError:
            ends = math.nan, math.nan
        if not (equals and name and all(map(math.isfinite, ends))):
            raise LimbeckError(
                f"--range takes NAME=LOW..HIGH or NAME=VALUE, such as --range lr=1e-4..1e-2; got {text!r}."
            )
        ranges[name] = ends
    return ranges


def make_ranges(job: Job, requested: Mapping[str, SearchRange | Ends]) -> dict[str, SearchRange]:
    """Turn pairs of ends into ranges of the parameter's kind: logarithmic, linear or integer.

    Raises:
        LimbeckError: If a range is empty, or has a value that its parameter cannot have.
    """
    kinds = {name: kind for arm in reversed(read_arms(job)) for name, kind in _usual(job, arm).items()}
    ranges: dict[str, SearchRange] = {}
    for name, ends in requested.items():
        if isinstance(ends, SearchRange):
            ranges[name] = ends
            continue
        kind = kinds.get(name)
        try:
            ranges[name] = SearchRange(
                *_fitted(ends, kind), log=kind is not None and kind.log, whole=bool(kind and kind.whole)
            )
        except LimbeckError as error:
            raise LimbeckError(f"{name}: {error}") from error
    return ranges


def _fitted(ends: Ends, kind: SearchRange | None) -> Ends:
    low, high = ends
    whole = kind is not None and kind.whole and float(low).is_integer() and float(high).is_integer()
    return (int(low), int(high)) if whole else (low, high)


def _space(job: Job, arm: str, ranges: Mapping[str, SearchRange]) -> Space:
    """The default ranges, replaced by those of the user."""
    usual = _usual(job, arm)
    if _knows_one_temperature(job) and "temperature" not in ranges:
        usual.pop("temperature", None)
    return {n: ranges.get(n, r) for n, r in usual.items() if n in ranges or r.low < r.high}


def _knows_one_temperature(job: Job) -> bool:
    """Whether the teacher is served and lists some tokens: the weight of the others is known at temperature 1 alone."""
    url, top_k = job.teacher.url, job.teacher.arguments.get("top_k", "some")
    return url is not None and top_k is not None


def _usual(job: Job, arm: str) -> Space:
    """The default ranges of an arm. A number without a range has its own value as the only one."""
    if has_estimator_student(job):
        return ranges_of_estimator(job, arm)
    budget = job.budget
    ranges: Space = {
        "lr": SearchRange(budget.lr / 10, budget.lr * 10, log=True),
        "epochs": SearchRange(max(1, math.ceil(budget.epochs / 4)), budget.epochs, log=True, whole=True),
    }
    if arm == SMOOTHED:
        return {**ranges, "smoothing": method("label_smoothing").card.ranges["smoothing"]}
    if arm in (ALONE, TEXTS):
        return ranges
    settings = job.method_arms[arm]
    if settings.hyper.get("epochs") is not None:
        del ranges["epochs"]  # the method sets its own length
    own = method(settings.name)
    start = start_of(job, arm, 0.0)
    fixed = {
        n: SearchRange(start[n], start[n], whole=isinstance(start[n], int))
        for n in own.parameters
        if n in start and n not in _BUDGET
    }
    searched = {n: r for n, r in own.card.ranges.items() if n in start or n not in settings.hyper}
    return {**fixed, **searched, **ranges}


def _changed(settings: MethodSettings, hyper: Mapping[str, Any]) -> MethodSettings:
    return MethodSettings(name=settings.name, **{**settings.hyper, **hyper})


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
