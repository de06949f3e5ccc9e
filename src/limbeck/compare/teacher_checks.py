"""The checks of a teacher on development data: better than chance, and with the label order of the data."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.compare.comparison_data import ComparisonData, is_language
from limbeck.compare.language import unigram_nll
from limbeck.data import Dataset
from limbeck.errors import LimbeckError
from limbeck.metrics import Predictions, accuracy
from limbeck.metrics.classes import is_misordered, misorder_message, renamed_accuracy
from limbeck.metrics.memoize import predicted_class
from limbeck.tasks import Classification, LanguageModeling
from limbeck.teachers.chance import compute_chance, most_frequent_share


def judge_teacher(
    outputs: Tensor, material: ComparisonData, *, loaded: bool, places: Sequence[str] = ("teacher.train",)
) -> tuple[float, str]:
    """Check the teacher on development data; returns its primary metric, NaN without targets, and a sentence.

    Args:
        outputs: The teacher's outputs for development data.
        material: The data.
        loaded: Whether all its models came with weights.
        places: The keys of the budgets of its training, for the message.

    Raises:
        LimbeckError: If the teacher is no better than a model that ignores its inputs.
    """
    task, examples = material.task, material.development
    if isinstance(task, Classification):
        value = check_teacher(outputs, examples, classes=material.classes, loaded=loaded, places=places)
        return value, describe_accuracy(value, examples.labels)
    written = isinstance(task, LanguageModeling) and task.written_by_teacher
    if isinstance(task, LanguageModeling):  # the divergence of a teacher from itself says nothing
        task = task.without_teacher()
    score, count = task.primary, task.check(examples, "development")
    if not count:
        return math.nan, "Teacher: not checked, as no development example has a target."
    value = task.measure(outputs, task.stored_targets(examples))[score.name]
    chance, simplest = score.chance, "always predicting the mean"
    origin = "another input normalization, or on targets in another unit (task.standardize=false)"
    if is_language(task):
        chance, simplest = unigram_nll(material.train, examples, task.outputs), "counting the tokens, without context,"
        origin = "another tokenizer (data.tokenizer=FOLDER), or on texts of another kind"
    if chance is not None and score.rank(value) <= score.rank(chance):
        why = f"Was it trained with {origin}?" if loaded else _ask_for_training(places)
        raise LimbeckError(
            f"The teacher's {score.title} on {count} development {'texts' if is_language(task) else 'examples'} is "
            f"{score.format(value)}, and {simplest} gives {score.format(chance)}. {why} To continue anyway, type "
            "--set teacher.check=false."
        )
    if written:
        return 0.0, f"Teacher: {score.title} {score.format(value)} on its own texts for the development prompts."
    return value, f"Teacher: {score.title} {score.format(value)} on development data."


def check_teacher(
    teacher_logits: Tensor,
    examples: Dataset,
    *,
    classes: int,
    loaded: bool,
    places: Sequence[str] = ("teacher.train",),
) -> float:
    """Compute and check the teacher's accuracy on development data; NaN without labels.

    Raises:
        LimbeckError: If the teacher is no better than chance, within two standard errors, or than the most frequent
            class; or if a loaded teacher is far better with its classes in another order.
    """
    labels = examples.labels
    if labels is None or not bool((labels != IGNORED).any()):
        return float("nan")
    teacher_accuracy = accuracy(Predictions(teacher_logits, None, labels)).value
    if loaded and labels.ndim == 1:
        _check_renamed(teacher_logits, labels, teacher_accuracy, classes)
    count = int((labels != IGNORED).sum())
    chance = compute_chance(classes, count, most_frequent=most_frequent_share(labels))
    if (
        teacher_accuracy <= chance.reach and teacher_accuracy < 1.0
    ):  # a perfect teacher must not fail for too few examples
        why = "Was it trained with another input normalization or label order?" if loaded else _ask_for_training(places)
        raise LimbeckError(
            f"The teacher's accuracy on {count} development examples is {100 * teacher_accuracy:.1f} %, and "
            f"{chance.sentence}. {why} To continue anyway, type --set teacher.check=false."
        )
    return teacher_accuracy


def _ask_for_training(places: Sequence[str]) -> str:
    keys = ", ".join(f"{place}.{key}" for place in places for key in ("epochs", "lr"))
    return f"Does it need more epochs or another learning rate ({keys})?"


def describe_accuracy(accuracy: float, labels: Tensor | None) -> str:
    """Describe the teacher's accuracy on development data, next to that of the most frequent class."""
    if labels is None or math.isnan(accuracy):
        return "Teacher: not checked, as no development example has a label."
    return (
        f"Teacher: {100 * accuracy:.1f} % on development data (the most frequent class: "
        f"{100 * most_frequent_share(labels):.1f} %)."
    )


def _check_renamed(logits: Tensor, labels: Tensor, teacher_accuracy: float, classes: int) -> None:
    """Raise if the accuracy would be far higher with the teacher's classes in another order."""
    labeled = labels != IGNORED
    guesses, truth = predicted_class(logits)[labeled], labels[labeled]
    better, order = renamed_accuracy(guesses, truth, classes)
    if is_misordered(teacher_accuracy, better, truth, compute_chance(classes, len(truth)).reach):
        raise LimbeckError(
            f"The teacher's accuracy on {len(truth)} development examples is {100 * teacher_accuracy:.1f} %, and with "
            f"its classes in another order it would be {100 * better:.1f} %: its label order is not that of the data ("
            f"{misorder_message(order, None)}). Give them one order, with --set 'data.class_names=[...]' for tables, "
            "texts and pictures; or, to continue anyway, --set teacher.check=false."
        )
