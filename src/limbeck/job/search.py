"""The search that a job's settings came from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.atomic_io import write_text
from limbeck.checksums import read_json
from limbeck.errors import DataError
from limbeck.job.schema import Job

TUNED = "tuned.json"
"""What `limbeck tune` leaves in its folder, and a run of its job keeps a copy of."""


class ArmSearch(NamedTuple):
    """What was tried for one arm, on development data.

    Attributes:
        chosen: The best trial's settings.
        between: Setting -> the ends between which it was searched.
        accuracies: Of every trial in order, fractions; the first has the job's own settings.
        best_so_far: The highest of them up to each trial.
        best_trial: Which trial was the best, from 0.
        diverged: How many trials ended without a number.
        epochs: Of all trials together.
        seconds: Of all trials together.
    """

    chosen: Mapping[str, float]
    between: Mapping[str, tuple[float, float]]
    accuracies: tuple[float, ...]
    best_so_far: tuple[float, ...]
    best_trial: int
    diverged: int
    epochs: int
    seconds: float


class Search(NamedTuple):
    """What `limbeck tune` tried.

    Attributes:
        arms: What was tried for each arm that learns.
        examples: How many development examples decided.
        luck: Two accuracies on so many examples may differ by so much without a cause; a fraction.
    """

    arms: Mapping[str, ArmSearch]
    examples: int
    luck: float

    def describe_effort(self, learners: Sequence[str]) -> str:
        """Whether all arms that learn in a run had as much of it, in a sentence or two.

        Args:
            learners: The arms that learn; a shuffled teacher's takes what the first method's is given.
        """
        counts = {name: len(arm.accuracies) for name, arm in self.arms.items()}
        too = ", the baselines too," if {"student alone", "label smoothing"} & set(counts) else ""
        on = f"on {self.examples:,} development examples; the test data were not read."
        if len(set(counts.values())) == 1:
            sentence = f"Equal effort: {next(iter(counts.values()))} settings tried for every arm{too} {on}"
        else:
            each = ", ".join(f"{count} for {name}" for name, count in counts.items())
            sentence = f"Unequal effort: {each} settings tried, {on} What one arm gains may be its longer search's."
        unsearched = [name for name in learners if name not in self.arms]
        return sentence + (
            f" Not searched, with the job's own settings: {', '.join(unsearched)}." if unsearched else ""
        )

    def list_changes(self, used: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """What a run used in place of the settings that were chosen, a phrase for each.

        Args:
            used: Arm -> the settings that it ran with.
        """
        return [
            f"{arm} ran with {name} {_number(used[arm].get(name))} in place of {value:.4g}"
            for arm, search in self.arms.items()
            for name, value in search.chosen.items()
            if arm in used and not _same(used[arm].get(name), value)
        ]


def copy_search(job: Job, out: Path) -> None:
    """Copy what was tried into a run's folder, so that it goes where the run goes; a copy that is there stays.

    A search that is gone, or whose file is damaged, stops no run: its settings stand in the job.
    """
    if job.search is None or (out / TUNED).exists():
        return
    try:
        write_text((Path(job.search) / TUNED).read_text(encoding="utf-8"), out / TUNED)
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return


def read_search(folder: Path) -> Search | None:
    """What was tried for the settings of the run in a folder; None where nothing of it was kept.

    Raises:
        DataError: If the file is not what `limbeck tune` writes.
    """
    path = folder / TUNED
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        development = content["development"]
        arms = {str(name): _arm(row) for name, row in content["arms"].items()}
        examples, luck = int(development["examples"]), float(development["luck"])
        if not math.isfinite(luck):
            raise ValueError("luck is no number")
        return Search(arms, examples, luck) if arms else None
    except (DataError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise DataError(f"{path} is damaged, so the search is not known: {type(error).__name__}, {error}.") from error


def collect_settings(job: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each arm of a result with its budget and its method's settings.

    Args:
        job: The job as a mapping.
        rows: The result's arms.
    """
    common, own = (job.get(key) or {} for key in ("budget", "budgets"))
    return {
        arm: {**common, **{k: v for k, v in (own.get(arm) or {}).items() if v is not None}, **(row.get("method") or {})}
        for arm, row in rows.items()
    }


def _arm(row: Mapping[str, Any]) -> ArmSearch:
    accuracies, best = (tuple(float(v) for v in row[key]) for key in ("accuracies", "best_so_far"))
    if not accuracies or len(best) != len(accuracies) or not all(map(math.isfinite, (*accuracies, *best))):
        raise ValueError("an arm has no number for every trial")
    between = {str(name): (float(low), float(high)) for name, (low, high) in row["searched"].items()}
    chosen = {str(name): float(value) for name, value in row["best"]["values"].items()}
    best_trial = int(row["best"]["number"])
    if not 0 <= best_trial < len(accuracies):
        raise ValueError("the best trial is none of an arm's")
    return ArmSearch(
        chosen, between, accuracies, best, best_trial, int(row["diverged"]), int(row["epochs"]), float(row["seconds"])
    )


def _same(used: Any, chosen: float) -> bool:
    return isinstance(used, (int, float)) and math.isclose(used, chosen, rel_tol=1e-6, abs_tol=1e-12)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else "its default" if value is None else str(value)
