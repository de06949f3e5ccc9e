"""What a run's predictions show, as numbers for figures."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.job import arm_folder, recommend
from limbeck.metrics import Predictions, class_changes, confusion_matrix, reliability
from limbeck.report.figures import Bin, ClassRow
from limbeck.report.run_data import ALONE, RunData


def recommended_student(evidence: RunData) -> tuple[str | None, str]:
    """The arm whose student this evidence speaks for, first of those that may be shipped, and why it may be.

    None that is no better than guessing.
    """
    found = recommend(evidence.result)
    if found.arm is None or not found.ready:
        return None, found.why
    if not found.others:
        return found.arm, f"{found.why} Its student is in {student_folder(evidence, found.arm)}"
    places = (f"that of {arm} in {student_folder(evidence, arm)}" for arm in (found.arm, *found.others))
    return found.arm, f"{found.why} Their students: {', '.join(places)}"


def student_folder(evidence: RunData, arm: str) -> Path:
    """Where an arm's student lies."""
    if arm == evidence.shipped_arm:
        return evidence.folder / "student"
    return arm_folder(evidence.folder, arm) / "seed-0" / "student"


FALSE_DISCOVERIES = 0.05

"""Of the classes that are called changed, at most so many are expected to be called so wrongly."""


def pooled(evidence: RunData, arm: str) -> Predictions | None:
    """The predictions of an arm with every seed, one after the other; None where there are none."""
    if evidence.labels is None or evidence.teacher is None:
        return None
    if evidence.arms[arm].role == "teacher":
        return Predictions(evidence.teacher, None, evidence.labels)
    seeds = evidence.logits.get(arm)
    if not seeds:
        return None
    return Predictions(torch.cat(list(seeds.values())), None, evidence.labels.repeat(len(seeds)))


def bins_of(predictions: Predictions) -> list[Bin]:
    """The bins of a reliability diagram that hold anything."""
    found = reliability(predictions)
    total = max(int(found.counts.sum()), 1)
    rows = zip(found.confidence.tolist(), found.accuracy.tolist(), found.counts.tolist(), strict=True)
    return [Bin(confidence, accuracy, count / total) for confidence, accuracy, count in rows if count]


class Disagreement(NamedTuple):
    """A test example on which teacher and student part.

    Attributes:
        row: Its place in the test data.
        label: Its class.
        said: Who -> the class it takes the example for, and the probability it gives that class.
    """

    row: int
    label: int
    said: dict[str, tuple[int, float]]


def disagreements(evidence: RunData, *, most: int) -> dict[str, list[Disagreement]]:
    """The examples on which the teacher and the judged arm's student part most sharply, by who is right.

    Sharply: by the probabilities that both give to their own classes, summed.
    """
    labels, teacher, student = evidence.labels, evidence.teacher, evidence.student
    if labels is None or teacher is None or student is None:
        return {}
    (by_teacher, sure_teacher), (by_student, sure_student) = _said(teacher), _said(student)
    known = labels != IGNORED
    groups = {
        "The teacher is right, the student is not": (by_teacher == labels) & (by_student != labels),
        "The student is right, the teacher is not": (by_student == labels) & (by_teacher != labels),
        "Both are wrong, each in its own way": (by_student != labels) & (by_teacher != labels),
    }
    sharp = (sure_teacher + sure_student) * (by_teacher != by_student)
    alone = evidence.logits.get(ALONE, {}).get(evidence.shown_seed or 0)
    others = {"teacher": teacher, ALONE: alone, str(evidence.judged): student}
    known_others = {name: logits for name, logits in others.items() if logits is not None}
    found: dict[str, list[Disagreement]] = {}
    for title, which in groups.items():
        rows = (which & known & (by_teacher != by_student)).nonzero()[:, 0]
        order = rows[sharp[rows].argsort(descending=True, stable=True)][:most]
        found[f"{title} ({len(rows):,})"] = [_parted(int(row), labels, known_others) for row in order]
    return found


def _parted(row: int, labels: Tensor, models: dict[str, Tensor]) -> Disagreement:
    said = {}
    for name, logits in models.items():
        classes, sure = _said(logits[row : row + 1])
        said[name] = (int(classes[0]), float(sure[0]))
    return Disagreement(row, int(labels[row]), said)


def _said(logits: Tensor) -> tuple[Tensor, Tensor]:
    sure, classes = logits.double().softmax(1).max(1)
    return classes, sure


def rates_of(evidence: RunData, arm: str) -> np.ndarray | None:
    """The share of each true class taken for each class, over all seeds of an arm."""
    predictions = pooled(evidence, arm)
    if predictions is None:
        return None
    counts = confusion_matrix(predictions).numpy().astype(np.float64)
    return np.asarray(counts / np.maximum(counts.sum(1, keepdims=True), 1.0))


def class_rows(evidence: RunData, before: str, after: str) -> list[ClassRow]:
    """Every class with its accuracy under two arms, over the seeds that both have; empty where one has none."""
    ours, theirs, labels = evidence.logits.get(before, {}), evidence.logits.get(after, {}), evidence.labels
    pairs = sorted(seed for seed in ours if seed in theirs and ours[seed].shape == theirs[seed].shape)
    if labels is None or not pairs:
        return []
    first, second = ([Predictions(arm[seed], None, labels) for seed in pairs] for arm in (ours, theirs))
    names = [*evidence.classes, *(str(i) for i in range(len(evidence.classes), first[0].student.shape[1]))]
    changes = class_changes(first, second, rate=FALSE_DISCOVERIES)
    return [
        ClassRow(name, one.before, one.after, one.examples, one.changed, one.p_value, one.adjusted)
        for name, one in zip(names, changes, strict=False)
        if one.examples
    ]
