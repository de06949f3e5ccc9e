"""Reading a run's `result.json`, and which student to ship."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

from limbeck.checksums import read_json
from limbeck.errors import DataError, LimbeckError
from limbeck.job.opening_code import trust_option
from limbeck.job.run_layout import ROUNDED, RunLayout
from limbeck.tasks import Score, Task, task_from_dict
from limbeck.teachers.chance import compute_chance

_LARGEST = 2**63
"""Larger integers cannot be measurements and are read as None."""


def read_result(folder: Path, *, arms: bool = True) -> dict[str, Any]:
    """Read and clean the result in a run's folder.

    ``arms`` is a mapping of mappings; ``verdict``, its ``against`` and ``methods``, and ``data`` are mappings, empty
    if the file lacks them; numbers are finite or None; strings contain no control characters. The file may come from
    an untrusted source, so all of this is checked.

    Args:
        folder: The run's folder.
        arms: Whether the result must have arms.

    Raises:
        DataError: If the file cannot be read, is not a mapping, or lacks the arms.
    """
    path = RunLayout(folder).result
    try:
        result = _plain(read_json(path))
    except DataError as error:
        raise DataError(f"{error} {_then(folder)}") from error
    rows = _mapping(result.get("arms"))
    whole = bool(rows) and all(isinstance(row, dict) for row in rows.values())
    if arms and not whole:
        raise DataError(f"{path} has no arms, so it is not the result of a job. {_then(folder)}")
    verdict = _mapping(result.get("verdict"))
    for key in ("against", "methods"):
        if key in verdict:
            verdict[key] = {name: one for name, one in _mapping(verdict[key]).items() if isinstance(one, dict)}
    if "arm" in verdict:
        verdict["arm"] = str(verdict["arm"])
    return {**result, "arms": rows if whole else {}, "verdict": verdict, "data": _mapping(result.get("data"))}


def read_task(result: Mapping[str, Any]) -> Task:
    """Read the task of a result; classification for results without one, and for tasks of later versions.

    Args:
        result: The result of a job.
    """
    values = result.get("task")
    try:
        return task_from_dict(values if isinstance(values, Mapping) else None)
    except (LimbeckError, TypeError, ValueError):
        return task_from_dict(None)


def list_custom_metrics(result: Mapping[str, Any]) -> list[str]:
    """List the user's own metrics in a result: all that are not limbeck's.

    Args:
        result: The result of a job.
    """
    known = read_task(result).metrics
    rows = (_mapping(_mapping(row).get("measures")) for row in _mapping(result.get("arms")).values())
    return list(dict.fromkeys(str(name) for row in rows for name in row if name not in known))


def read_size_notes(result: Mapping[str, Any]) -> list[str]:
    """Read the notes on the sizes of arms, each without a full stop.

    Args:
        result: The result of a job.
    """
    rows = {name: _mapping(row).get("size_note") for name, row in _mapping(result.get("arms")).items()}
    notes = dict.fromkeys(note for note in rows.values() if isinstance(note, str))
    return [f"{', '.join(name for name, one in rows.items() if one == note)}: {note}" for note in notes]


def is_run(folder: Path) -> bool:
    """Whether the folder is a run of a job. A job file alone is not enough: it may be stored beside the runs."""
    return RunLayout(folder).job.is_file() and RunLayout(folder).student.is_dir()


def _then(folder: Path) -> str:
    """What to do about an unreadable result: `limbeck resume` writes it again from the arms' own files."""
    if RunLayout(folder).job.is_file() and RunLayout(folder).outcomes.is_file():
        again = f"limbeck resume {folder}{trust_option(folder)}"
        return f"Remove it and type `{again}`, which writes it again from the results of the arms."
    return "Run the job again into another folder."


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_spoken(key): _plain(one) for key, one in value.items()}
    if isinstance(value, str):
        return _spoken(value)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return None if isinstance(value, int) and abs(value) >= _LARGEST else value


def _spoken(text: str) -> str:
    """Remove control characters, which could control a terminal."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


_NO_ALONE = "There is no student alone to compare it with."
_ALONE, _SHUFFLED, _TEXTS = "student alone", "shuffled teacher", "teacher texts"


class Recommendation(NamedTuple):
    """Which student to ship.

    Attributes:
        arm: The arm whose student is in the run's ``student/``; None if no arm was distilled.
        ready: Whether the student should be shipped at all: not if it is no better than guessing.
        why: The reason, in a sentence.
        others: Arms that are not shown to be better or worse, whose students may be shipped as well.
    """

    arm: str | None
    ready: bool
    why: str
    others: tuple[str, ...] = ()

    @property
    def answer(self) -> str:
        """The arms whose student may be shipped: all that are not shown to be worse."""
        if self.arm is None or not self.ready:
            return "Nothing yet"
        *first, last = (self.arm, *self.others)
        return f"{', '.join(first)} or {last}" if first else last

    @property
    def sentence(self) -> str:
        """The recommendation in a sentence."""
        if self.arm is None or not self.ready:
            return f"Nothing to ship yet. {self.why}"
        lies = f" `student/` contains the student of {self.arm}." if self.others else ""
        return f"To ship: {self.answer}. {self.why}{lies}"


def recommend(result: Mapping[str, Any]) -> Recommendation:
    """Recommend the student to ship.

    This is the student of the compared method, unless a control without a teacher is significantly better. If no
    difference is significant, all these arms are named.

    Args:
        result: The result of a job, with ``verdict``, ``arms`` and ``data``.
    """
    recommendation = _preferred(result)
    guesses = None if recommendation.arm is None else _no_better_than_guessing(result, recommendation.arm)
    return recommendation if guesses is None else Recommendation(recommendation.arm, False, guesses)


def read_suggestions(result: Mapping[str, Any], folder: Path) -> list[dict[str, str | None]]:
    """Read the likely reasons for an unclear verdict, each with its evidence and a command; empty for old results.

    Args:
        result: The result of a job.
        folder: The run's current folder, for the commands.
    """
    verdict = result.get("verdict")
    advice = verdict.get("advice") if isinstance(verdict, Mapping) else None
    then = str(result.get("run"))
    suggestions = []
    for one in advice if isinstance(advice, list) else ():
        if isinstance(one, Mapping) and all(isinstance(one.get(key), str) for key in ("why", "evidence")):
            typed = one.get("type")
            typed = _moved(typed, then, str(folder)) if isinstance(typed, str) else None
            suggestions.append({"why": one["why"], "evidence": one["evidence"], "type": typed})
    return suggestions


def split_rerun(command: str) -> tuple[str, str] | None:
    """Split a command that runs a job again into a new folder: the command without settings, and the settings.

    Example:
        >>> split_rerun("limbeck distill runs/mine/job.yaml --set budget.epochs=6 --out NEW")
        ('limbeck distill runs/mine/job.yaml --out NEW', '--set budget.epochs=6')
        >>> split_rerun("limbeck resume runs/mine --set seeds=5")
    """
    start, sets, rest = command.partition(" --set ")
    if not sets or not rest.endswith(" --out NEW"):
        return None
    return f"{start} --out NEW", f"--set {rest.removesuffix(' --out NEW')}"


def _moved(command: str, then: str, now: str) -> str:
    """Replace the run's earlier path `then` in a command with its current path."""
    for name in ("/job.yaml", ""):
        before, after = f" {quote(then + name)} ", f" {quote(now + name)} "
        if before in f"{command} ":
            return f"{command} ".replace(before, after, 1).rstrip()
    return command


def sort_controls(verdict: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The controls that are significantly better than the compared arm, and those without a significant difference."""
    better, equal = [], []
    against = verdict.get("against")
    for name, comparison in (against if isinstance(against, Mapping) else {}).items():
        interval = read_interval(comparison)
        if interval is not None and interval[1] < 0:
            better.append(str(name))
        elif interval is not None and interval[0] <= 0:
            equal.append(str(name))
    return better, equal


def read_interval(verdict: Any) -> tuple[float, float] | None:
    """Read the confidence interval of a verdict, if it has one."""
    interval = verdict.get("interval") if isinstance(verdict, Mapping) else None
    if (
        isinstance(interval, (list, tuple))
        and len(interval) == 2
        and all(isinstance(end, (int, float)) for end in interval)
    ):
        return float(interval[0]), float(interval[1])
    return None


def _preferred(result: Mapping[str, Any]) -> Recommendation:
    verdict, arms = result.get("verdict") or {}, result.get("arms") or {}
    arm = _find_judged_arm(verdict, arms)
    if arm is None:
        return Recommendation(None, False, "There is no distilled student in this run.")
    better, equal = ([name for name in names if name != _SHUFFLED and name in arms] for names in sort_controls(verdict))
    interval = read_interval(verdict)
    if better:
        beaten = interval is not None and interval[1] < 0 and _ALONE in arms
        rest = (*better[1:], *([_ALONE] if beaten else []))
        needs = "the texts of the teacher alone" if _TEXTS in (better[0], *rest) else "no teacher"
        who, verb = ("Both are", "need") if rest else ("It is", "needs")
        # What is only rounded was taught by the teacher too.
        free = "" if ROUNDED in (better[0], *rest) else f" and {verb} {needs}"
        why = f"{who} better than {arm}{free}."
        return Recommendation(better[0], True, why, rest)
    if isinstance(arms[arm], Mapping) and arms[arm].get("role") == "control":
        return Recommendation(arm, True, "No method was compared with it.")
    if _ALONE not in arms or not isinstance(verdict.get("difference"), (int, float)):
        why = "It was not compared with the student alone." if _ALONE in arms else _NO_ALONE
        return Recommendation(arm, True, why)
    if interval is None:
        return Recommendation(
            arm,
            True,
            f"{_one_of(arms[arm], read_task(result).primary.name)} does not tell which is better.",
            (_ALONE, *_untold(verdict, arms)),
        )
    if interval[1] < 0:
        return Recommendation(_ALONE, True, f"It is better than {arm} and needs no teacher.")
    if interval[0] <= 0:
        which = "either" if not equal else "any"
        return Recommendation(arm, True, f"It is not shown that {which} of them is better.", (_ALONE, *equal))
    sentence = f"{arm} is shown to be better than the {_ALONE}"
    if equal:
        return Recommendation(arm, True, f"{sentence}, but not than {' and '.join(equal)}.", tuple(equal))
    return Recommendation(arm, True, f"{sentence}.")


def _untold(verdict: Mapping[str, Any], arms: Mapping[str, Any]) -> list[str]:
    """The controls that may be shipped if no control has an interval."""
    return [str(name) for name in verdict.get("against") or () if name != _SHUFFLED and name in arms]


def _one_of(row: Any, metric: str) -> str:
    """The reason why a verdict has no interval, from the row of the compared arm."""
    score = row.get(metric) if isinstance(row, Mapping) else None
    values = score.get("values") if isinstance(score, Mapping) else None
    return "One test example" if isinstance(values, list) and len(values) > 1 else "One seed"


def _find_judged_arm(verdict: Mapping[str, Any], arms: Mapping[str, Any]) -> str | None:
    named = verdict.get("arm")
    if named in arms:
        return str(named)
    roles = {name: row.get("role") for name, row in arms.items() if isinstance(row, Mapping)}
    return next((str(name) for name, role in roles.items() if role == "method"), None)


def _no_better_than_guessing(result: Mapping[str, Any], arm: str) -> str | None:
    """A sentence about a student that is no better than guessing; None if it is better, or if this is unknown."""
    row, data = (result.get("arms") or {}).get(arm), result.get("data") or {}
    score = read_task(result).primary
    if score.name != "accuracy":
        return _no_better_than_chance(row, arm, score)
    accuracy = row.get("accuracy") if isinstance(row, Mapping) else None
    mean = accuracy.get("mean") if isinstance(accuracy, Mapping) else None
    classes, examples, most = data.get("classes"), data.get("test"), _most_frequent(data)
    if not isinstance(mean, (int, float)) or not isinstance(classes, int) or not isinstance(examples, int):
        return None
    if classes < 2 or mean == 1 or mean > (chance := compute_chance(classes, examples, most_frequent=most)).reach:
        return None
    return (
        f"{arm} has {100 * mean:.1f} % accuracy, and {chance.sentence}: try more epochs, another learning rate or a "
        "larger student."
    )


def _no_better_than_chance(row: Any, arm: str, score: Score) -> str | None:
    value = row.get(score.name) if isinstance(row, Mapping) else None
    mean = value.get("mean") if isinstance(value, Mapping) else None
    if score.chance is None or not isinstance(mean, (int, float)) or score.gain(mean, score.chance) > 0:
        return None
    return (
        f"{arm} has the {score.title} {score.format(mean)}, and always predicting the mean gives "
        f"{score.format(score.chance)}: try more epochs, another learning rate or a larger student."
    )


def _most_frequent(data: Mapping[str, Any]) -> float:
    """The share of the most frequent class of the test data; 0 if an older result lacks it."""
    shares = data.get("most_frequent")
    share = shares.get("test") if isinstance(shares, Mapping) else None
    return float(share) if isinstance(share, (int, float)) else 0.0
