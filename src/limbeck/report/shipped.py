"""Which student the evidence speaks for, and where it lies."""

from __future__ import annotations

from pathlib import Path

from limbeck.job import advise, arm_folder
from limbeck.report.evidence import Evidence


def shipped(evidence: Evidence) -> tuple[str | None, str]:
    """The arm whose student this evidence speaks for, first of those that may be shipped, and why it may be.

    None that is no better than guessing.
    """
    found = advise(evidence.result)
    if found.arm is None or not found.ready:
        return None, found.why
    if not found.others:
        return found.arm, f"{found.why} Its student is in {student_folder(evidence, found.arm)}"
    places = (f"that of {arm} in {student_folder(evidence, arm)}" for arm in (found.arm, *found.others))
    return found.arm, f"{found.why} Their students: {', '.join(places)}"


def student_folder(evidence: Evidence, arm: str) -> Path:
    """Where an arm's student lies."""
    if arm == evidence.shipped_arm:
        return evidence.folder / "student"
    return arm_folder(evidence.folder, arm) / "seed-0" / "student"
