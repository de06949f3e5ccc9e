"""Numbers for the figures, computed from the predictions of a run."""

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


def recommended_student(run: RunData) -> tuple[str | None, str]:
    """Return the arm whose student is recommended, and the reason.

    The arm is None if no student is better than guessing.
    """
    recommendation = recommend(run.result)
    if recommendation.arm is None or not recommendation.ready:
        return None, recommendation.why
    if not recommendation.others:
        return recommendation.arm, f"{recommendation.why} Its student is in {student_folder(run, recommendation.arm)}"
    folders = (f"that of {arm} in {student_folder(run, arm)}" for arm in (recommendation.arm, *recommendation.others))
    return recommendation.arm, f"{recommendation.why} Their students: {', '.join(folders)}"


def student_folder(run: RunData, arm: str) -> Path:
    """Return the folder of an arm's student."""
    if arm == run.shipped_arm:
        return run.folder / "student"
    return arm_folder(run.folder, arm) / "seed-0" / "student"


FALSE_DISCOVERIES = 0.05

"""Expected share of false positives among the classes that are marked as changed."""


def pooled_predictions(run: RunData, arm: str) -> Predictions | None:
    """Concatenate the predictions of an arm over its seeds; None if there are none."""
    if run.labels is None or run.teacher is None:
        return None
    if run.arms[arm].role == "teacher":
        return Predictions(run.teacher, None, run.labels)
    seeds = run.logits.get(arm)
    if not seeds:
        return None
    return Predictions(torch.cat(list(seeds.values())), None, run.labels.repeat(len(seeds)))


def reliability_bins(predictions: Predictions) -> list[Bin]:
    """Return the non-empty bins of a reliability diagram."""
    diagram = reliability(predictions)
    total = max(int(diagram.counts.sum()), 1)
    rows = zip(diagram.confidence.tolist(), diagram.accuracy.tolist(), diagram.counts.tolist(), strict=True)
    return [Bin(confidence, accuracy, count / total) for confidence, accuracy, count in rows if count]


class Disagreement(NamedTuple):
    """A test example on which teacher and student disagree.

    Attributes:
        row: Its index in the test data.
        label: Its class.
        predictions: Model -> its predicted class, and the probability of that class.
    """

    row: int
    label: int
    predictions: dict[str, tuple[int, float]]


def disagreements(run: RunData, *, most: int) -> dict[str, list[Disagreement]]:
    """Find the examples on which teacher and student disagree most, grouped by which of them is right.

    They are ordered by the sum of the two probabilities that the models give to their predicted classes.
    """
    labels, teacher, student = run.labels, run.teacher, run.student
    if labels is None or teacher is None or student is None:
        return {}
    (by_teacher, sure_teacher), (by_student, sure_student) = _top_class(teacher), _top_class(student)
    # Unlabeled examples cannot be assigned to a group.
    labeled = labels != IGNORED
    groups = {
        "The teacher is right, the student is not": (by_teacher == labels) & (by_student != labels),
        "The student is right, the teacher is not": (by_student == labels) & (by_teacher != labels),
        "Both are wrong, with different classes": (by_student != labels) & (by_teacher != labels),
    }
    confidence = (sure_teacher + sure_student) * (by_teacher != by_student)
    alone = run.logits.get(ALONE, {}).get(run.shown_seed or 0)
    others = {"teacher": teacher, ALONE: alone, str(run.method_arm): student}
    known_others = {name: logits for name, logits in others.items() if logits is not None}
    disagreements_by_title: dict[str, list[Disagreement]] = {}
    for title, which in groups.items():
        rows = (which & labeled & (by_teacher != by_student)).nonzero()[:, 0]
        order = rows[confidence[rows].argsort(descending=True, stable=True)][:most]
        disagreements_by_title[f"{title} ({len(rows):,})"] = [
            _disagreement(int(row), labels, known_others) for row in order
        ]
    return disagreements_by_title


def _disagreement(row: int, labels: Tensor, models: dict[str, Tensor]) -> Disagreement:
    votes = {}
    for name, logits in models.items():
        classes, sure = _top_class(logits[row : row + 1])
        votes[name] = (int(classes[0]), float(sure[0]))
    return Disagreement(row, int(labels[row]), votes)


def _top_class(logits: Tensor) -> tuple[Tensor, Tensor]:
    sure, classes = logits.double().softmax(1).max(1)
    return classes, sure


def confusion_rates(run: RunData, arm: str) -> np.ndarray | None:
    """Return the confusion matrix of an arm over all seeds, each row divided by its sum."""
    predictions = pooled_predictions(run, arm)
    if predictions is None:
        return None
    counts = confusion_matrix(predictions).numpy().astype(np.float64)
    return np.asarray(counts / np.maximum(counts.sum(1, keepdims=True), 1.0))


def class_rows(run: RunData, before: str, after: str) -> list[ClassRow]:
    """Compare the accuracy of each class between two arms, over the seeds of both; empty if an arm has none."""
    ours, theirs, labels = run.logits.get(before, {}), run.logits.get(after, {}), run.labels
    # Only seeds of both arms count, because the tests are paired by seed.
    pairs = sorted(seed for seed in ours if seed in theirs and ours[seed].shape == theirs[seed].shape)
    if labels is None or not pairs:
        return []
    first, second = ([Predictions(arm[seed], None, labels) for seed in pairs] for arm in (ours, theirs))
    names = [*run.classes, *(str(i) for i in range(len(run.classes), first[0].student.shape[1]))]
    changes = class_changes(first, second, rate=FALSE_DISCOVERIES)
    return [
        ClassRow(name, change.before, change.after, change.examples, change.changed, change.p_value, change.adjusted)
        for name, change in zip(names, changes, strict=False)
        if change.examples
    ]
