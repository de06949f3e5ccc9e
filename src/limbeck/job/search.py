"""The search that chose a job's settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.atomic_io import write_text
from limbeck.checksums import read_json
from limbeck.errors import DataError
from limbeck.job.run_layout import RunLayout
from limbeck.job.schema import Job

"""The results file of `limbeck tune`; a run with the settings copies it."""


class ArmSearch(NamedTuple):
    """The trials of one arm, on development data.

    Attributes:
        chosen: The best trial's settings.
        between: Setting -> lower and upper end of its search range.
        accuracies: Accuracy of each trial in order, as fractions; the first trial has the job's own settings.
        best_so_far: The highest accuracy up to each trial.
        best_trial: Index of the best trial, from 0.
        diverged: The number of trials that diverged.
        epochs: Epochs of all trials together.
        seconds: Seconds of all trials together.
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
    """The results of `limbeck tune`.

    Attributes:
        arms: The trials of each trained arm.
        examples: The number of development examples.
        luck: How much two accuracies on this many examples can differ by chance; a fraction.
    """

    arms: Mapping[str, ArmSearch]
    examples: int
    luck: float

    def describe_effort(self, learners: Sequence[str]) -> str:
        """Describe whether all trained arms of a run had the same number of trials, in a sentence or two.

        Args:
            learners: The trained arms; the arm "shuffled teacher" has the settings of the first method.
        """
        counts = {name: len(arm.accuracies) for name, arm in self.arms.items()}
        too = ", the baselines too," if {"student alone", "label smoothing"} & set(counts) else ""
        on = f"on {self.examples:,} development examples; the test data were not used."
        if len(set(counts.values())) == 1:
            sentence = f"Equal effort: {next(iter(counts.values()))} settings tried for every arm{too} {on}"
        else:
            each = ", ".join(f"{count} for {name}" for name, count in counts.items())
            sentence = f"Unequal effort: {each} settings tried, {on} More trials alone can improve an arm."
        unsearched = [name for name in learners if name not in self.arms]
        return sentence + (
            f" Not searched, with the job's own settings: {', '.join(unsearched)}." if unsearched else ""
        )

    def list_changes(self, used: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """List the settings of a run that differ from the chosen ones, a phrase for each.

        Args:
            used: Arm -> the settings of the run.
        """
        return [
            f"{arm} ran with {name} {_number(used[arm].get(name))} in place of {value:.4g}"
            for arm, search in self.arms.items()
            for name, value in search.chosen.items()
            if arm in used and not _same(used[arm].get(name), value)
        ]


def copy_search(job: Job, out: Path) -> None:
    """Copy the results of the search into a run's folder, unless a copy is there.

    A missing or damaged file is ignored, because the job has the chosen settings.
    """
    if job.search is None or RunLayout(out).tuned.exists():
        return
    try:
        write_text(RunLayout(Path(job.search)).tuned.read_text(encoding="utf-8"), RunLayout(out).tuned)
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return


def read_search(folder: Path) -> Search | None:
    """Read the search that chose the settings of the run in a folder; None if the folder has none.

    Raises:
        DataError: If the file is damaged.
    """
    path = RunLayout(folder).tuned
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        development = content["development"]
        arms = {str(name): _arm(row) for name, row in content["arms"].items()}
        examples, luck = int(development["examples"]), float(development["luck"])
        if not math.isfinite(luck):
            raise ValueError("luck is not a number")
        return Search(arms, examples, luck) if arms else None
    except (DataError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise DataError(f"{path} is damaged: {type(error).__name__}, {error}.") from error


def collect_settings(job: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Collect the budget and the method's settings of each arm of a result.

    Args:
        job: The job as a mapping.
        rows: The result's arms.
    """
    common, own = (job.get(key) or {} for key in ("budget", "budgets"))
    return {
        arm: {
            **common,
            **(job.get("student") or {}),
            **((own.get(arm) or {}).get("student") or {}),
            **{key: value for key, value in (own.get(arm) or {}).items() if value is not None and key != "student"},
            **(row.get("method") or {}),
        }
        for arm, row in rows.items()
    }


def _arm(row: Mapping[str, Any]) -> ArmSearch:
    accuracies, best = (tuple(float(v) for v in row[key]) for key in ("accuracies", "best_so_far"))
    if not accuracies or len(best) != len(accuracies) or not all(map(math.isfinite, (*accuracies, *best))):
        raise ValueError("an arm lacks the accuracy of a trial")
    between = {str(name): (float(low), float(high)) for name, (low, high) in row["searched"].items()}
    chosen = {str(name): float(value) for name, value in row["best"]["values"].items()}
    best_trial = int(row["best"]["number"])
    if not 0 <= best_trial < len(accuracies):
        raise ValueError("the best trial of an arm does not exist")
    return ArmSearch(
        chosen, between, accuracies, best, best_trial, int(row["diverged"]), int(row["epochs"]), float(row["seconds"])
    )


def _same(used: Any, chosen: float) -> bool:
    return isinstance(used, (int, float)) and math.isclose(used, chosen, rel_tol=1e-6, abs_tol=1e-12)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else "its default" if value is None else str(value)
