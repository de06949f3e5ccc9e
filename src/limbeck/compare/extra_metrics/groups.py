"""Accuracy of each arm in groups of test examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from limbeck.compare.arms import PREDICTIONS
from limbeck.compare.comparison_data import ComparisonData, eval_batches
from limbeck.compare.extra_metrics.context import MetricContext, over_seeds
from limbeck.compare.run_storage import seed_folder
from limbeck.errors import DataError, LimbeckError
from limbeck.job import Job
from limbeck.metrics import Predictions, group_accuracy, load_tensors

_MOST = 1000
_CLASSES = "classes"


class GroupsError(DataError):
    """An error in the option data.groups, and not in also."""


def check_groups(context: MetricContext) -> str:
    """Check the groups before training, and describe them.

    Raises:
        LimbeckError: If an example has several labels, or there are too many groups.
    """
    labels = context.material.data.test.labels
    if labels is not None and labels.ndim != 1:
        raise LimbeckError("groups need examples with one label each. Leave groups out of `also`.")
    count = len(set(_groups(context.material)))
    if count > _MOST:
        raise GroupsError(
            f"data.groups: {_group_column(context.job, context.material)} has {count:,} different values in "
            f"{len(context.material.data.test):,} test examples; at most {_MOST:,} groups are allowed."
        )
    return f"groups ({count:,} {_describe_groups(_group_column(context.job, context.material))})"


def measure_groups(context: MetricContext) -> dict[str, Any]:
    """The accuracy of every arm in every group over seeds, and the group with the lowest accuracy."""
    groups = _groups(context.material)
    rows, sizes = dict[str, Any](), dict[str, int]()
    for arm in context.job.all_arms:
        accuracies = [
            {str(item.name): item.accuracy for item in group_accuracy(predictions, groups)}
            for predictions in _predictions(context, arm)
        ]
        accuracy = {name: over_seeds([item[name].value for item in accuracies]) for name in accuracies[0]}
        sizes = {name: accuracies[0][name].count for name in accuracy}
        name = min(accuracy, key=lambda name: (accuracy[name]["mean"], -sizes[name]))
        rows[arm] = {"worst": {"name": name, "examples": sizes[name], **accuracy[name]}, "accuracy": accuracy}
    by = _group_column(context.job, context.material)
    return {"by": by, "examples": sizes, "arms": rows, "sentence": _sentence(rows, by, len(sizes))}


def _predictions(context: MetricContext, arm: str) -> list[Predictions]:
    """The saved test predictions of an arm, one per seed."""
    labels = context.material.data.test.labels
    if arm == "teacher":
        return [] if context.answers is None else [Predictions(context.answers, labels=labels)]
    folders = [seed_folder(Path(context.job.out or ""), arm, seed) for seed in range(context.job.seeds)]
    return [
        Predictions(load_tensors(folder / PREDICTIONS)["test"], labels=labels)
        for folder in folders
        if folder is not None
    ]


def _groups(material: ComparisonData) -> list[str]:
    """The group name of each test example; its class if the data have no groups."""
    if material.data.groups is None:
        names, labels = material.data.class_names, material.data.test.labels
        classes: Sequence[int] = [] if labels is None else labels.flatten().tolist()
        return [names[value] if names and 0 <= value < len(names) else str(value) for value in classes]
    columns = (batch.extra[material.data.groups] for batch in eval_batches(material.data.test))
    return [str(value) for column in columns for value in (column.tolist() if isinstance(column, Tensor) else column)]


def _group_column(job: Job, material: ComparisonData) -> str:
    if material.data.groups is None:
        return _CLASSES
    return str(job.data.get("groups")) if isinstance(job.data, dict) else material.data.groups


def _sentence(rows: dict[str, Any], by: str, count: int) -> str:
    worst = [
        f"{arm} {row['worst']['name']} {100 * row['worst']['mean']:.1f} % (of {row['worst']['examples']:,})"
        for arm, row in rows.items()
    ]
    return f"Groups: the worst of {count:,} {_describe_groups(by)}: {', '.join(worst)}."


def _describe_groups(by: str) -> str:
    return by if by == _CLASSES else f"groups by {by}"
