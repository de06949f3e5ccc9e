"""Which student does the evidence speak for?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.job import arm_folder
from limbeck.report.evidence import ALONE, Evidence
from limbeck.teachers.guessing import chance_of


def shipped(evidence: Evidence) -> tuple[str | None, str]:
    """The arm whose student this evidence speaks for, and why it is that one; none that is no better than guessing."""
    arm, why = _preferred(evidence)
    guesses = None if arm is None else _no_better_than_chance(evidence, arm)
    return (arm, why) if guesses is None else (None, guesses)


def _no_better_than_chance(evidence: Evidence, arm: str) -> str | None:
    """What there is to say of a student that has learnt nothing; None of any other, or where it is not known."""
    found, classes, examples = evidence.arms[arm].accuracy.mean, len(evidence.classes), evidence.data.get("test")
    if found is None or classes < 2 or not isinstance(examples, int):
        return None
    chance = chance_of(classes, examples)
    if found > chance.reach or found == 1:
        return None
    return (
        f"{arm} finds {100 * found:.1f} %, and guessing {100 * chance.share:.1f} %, up to {100 * chance.reach:.1f} % "
        "on so few examples: it needs more epochs, another learning rate or more weights."
    )


def _preferred(evidence: Evidence) -> tuple[str | None, str]:
    """The arm that the differences speak for, and why."""
    judged, interval = evidence.judged, interval_of(evidence.verdict)
    if judged is None:
        return None, "There is no distilled student in this run."
    better, _ = rivals(evidence)
    trained = [name for name in better if name != "shuffled teacher"]
    if trained:
        return trained[
            0
        ], f"It beats {judged}, and needs no teacher; its student is in {student_folder(evidence, trained[0])}"
    if interval is None:
        return (
            judged,
            f"For the time being, as one seed proves nothing: its student is in {student_folder(evidence, judged)}",
        )
    if interval[0] <= 0 and ALONE in evidence.arms:
        return (
            ALONE,
            f"It is not shown to be worse, and is the simpler; its student is in {student_folder(evidence, ALONE)}",
        )
    return judged, f"Its student is complete, in {student_folder(evidence, judged)}"


def student_folder(evidence: Evidence, arm: str) -> Path:
    """Where an arm's student lies."""
    if arm == evidence.judged:
        return evidence.folder / "student"
    return arm_folder(evidence.folder, arm) / "seed-0" / "student"


def rivals(evidence: Evidence) -> tuple[list[str], list[str]]:
    """The controls that beat the judged arm for sure, and those that it is not shown to beat."""
    better, equal = [], []
    against = evidence.verdict.get("against")
    for name, found in (against if isinstance(against, Mapping) else {}).items():
        interval = interval_of(found)
        if interval is not None and interval[1] < 0:
            better.append(str(name))
        elif interval is not None and interval[0] <= 0:
            equal.append(str(name))
    return better, equal


def interval_of(found: Any) -> tuple[float, float] | None:
    """The interval in a verdict, if there is one."""
    given = found.get("interval") if isinstance(found, Mapping) else None
    if isinstance(given, list) and len(given) == 2 and all(isinstance(end, (int, float)) for end in given):
        return float(given[0]), float(given[1])
    return None
