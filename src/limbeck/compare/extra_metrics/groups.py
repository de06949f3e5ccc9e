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
    """Groups that the data's own option asks for: the option to change is data.groups, not also."""


def check_groups(seen: MetricContext) -> str:
    """Look at the groups before anything is paid for, and say what they are.

    Raises:
        LimbeckError: If an example has several labels, or there are more groups than anybody looks at.
    """
    labels = seen.material.data.test.labels
    if labels is not None and labels.ndim != 1:
        raise LimbeckError("groups are of examples with one label each. Leave groups out of `also`.")
    count = len(set(_groups(seen.material)))
    if count > _MOST:
        raise GroupsError(
            f"data.groups: {_by(seen.job, seen.material)} says {count:,} different things of "
            f"{len(seen.material.data.test):,} test examples; groups are {_MOST:,} at most."
        )
    return f"groups, which are {count:,} {_called(_by(seen.job, seen.material))}"


def groups_of(seen: MetricContext) -> dict[str, Any]:
    """The accuracy of every arm in every group, over its seeds, and the group in which it is lowest."""
    groups = _groups(seen.material)
    rows, sizes = dict[str, Any](), dict[str, int]()
    for arm in seen.job.all_arms:
        found = [
            {str(one.name): one.accuracy for one in group_accuracy(shown, groups)} for shown in _predictions(seen, arm)
        ]
        accuracy = {name: over_seeds([one[name].value for one in found]) for name in found[0]}
        sizes = {name: found[0][name].count for name in accuracy}
        name = min(accuracy, key=lambda name: (accuracy[name]["mean"], -sizes[name]))
        rows[arm] = {"worst": {"name": name, "examples": sizes[name], **accuracy[name]}, "accuracy": accuracy}
    by = _by(seen.job, seen.material)
    return {"by": by, "examples": sizes, "arms": rows, "sentence": _sentence(rows, by, len(sizes))}


def _predictions(seen: MetricContext, arm: str) -> list[Predictions]:
    """What an arm answered to the test data, seed by seed, as its runs left it."""
    labels = seen.material.data.test.labels
    if arm == "teacher":
        return [] if seen.answers is None else [Predictions(seen.answers, labels=labels)]
    folders = [seed_folder(Path(seen.job.out or ""), arm, seed) for seed in range(seen.job.seeds)]
    return [Predictions(load_tensors(one / PREDICTIONS)["test"], labels=labels) for one in folders if one is not None]


def _groups(material: ComparisonData) -> list[str]:
    """The group of each test example, by name: its class where the data know no other."""
    if material.data.groups is None:
        names, labels = material.data.class_names, material.data.test.labels
        found: Sequence[int] = [] if labels is None else labels.flatten().tolist()
        return [names[one] if names and 0 <= one < len(names) else str(one) for one in found]
    columns = (batch.extra[material.data.groups] for batch in eval_batches(material.data.test))
    return [str(one) for column in columns for one in (column.tolist() if isinstance(column, Tensor) else column)]


def _by(job: Job, material: ComparisonData) -> str:
    if material.data.groups is None:
        return _CLASSES
    return str(job.data.get("groups")) if isinstance(job.data, dict) else material.data.groups


def _sentence(rows: dict[str, Any], by: str, count: int) -> str:
    said = [
        f"{arm} {row['worst']['name']} {100 * row['worst']['mean']:.1f} % (of {row['worst']['examples']:,})"
        for arm, row in rows.items()
    ]
    return f"Groups: the worst of {count:,} {_called(by)}: {', '.join(said)}."


def _called(by: str) -> str:
    return by if by == _CLASSES else f"groups by {by}"
