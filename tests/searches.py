"""Helpers: tuning searches for tests."""

from __future__ import annotations

import json
from itertools import accumulate
from pathlib import Path

import numpy as np
import yaml

TRIED = {"student alone": 6, "label smoothing": 6, "hinton": 6, "fitnets": 6}
"""Arm -> how many trials."""


def planted_search(run: Path, *, tried=TRIED, seed: int = 0, used: bool = True, first: float | None = None) -> Path:
    """What `limbeck tune` would have left for the settings of a run, and a job that says whether it used them.

    Args:
        run: The run's folder, with its job and result.
        tried: Arm -> how many trials.
        seed: Of the accuracies.
        used: Whether the job has the settings that were found.
        first: The accuracy of every arm's first trial.
    """
    draw = np.random.default_rng(seed)
    arms = {arm: searched(draw, count, first) for arm, count in tried.items()}
    told = {"arms": arms, "trials": max(tried.values()), "best": "best.yaml", "run": "search", "seconds": 90.5,
            "teacher": {"accuracy": 0.95, "seconds": 12.0}, "development": {"examples": 500, "luck": 0.02}}  # fmt: skip
    (run / "tuned.json").write_text(json.dumps(told))
    if used:
        job = yaml.safe_load((run / "job.yaml").read_text())
        job["budgets"] = {arm: dict(row["best"]["values"]) for arm, row in arms.items()}
        (run / "job.yaml").write_text(yaml.safe_dump({**job, "search": "somewhere"}))
    return run


def searched(draw, count, first=None):
    trials = []
    for number in range(count):
        accuracy = first if number == 0 and first is not None else float(np.round(draw.uniform(0.80, 0.92), 3))
        values = {"lr": 0.001 * (1 + number), "epochs": 20 - number}
        trials.append({"number": number, "values": values, "accuracy": accuracy, "nll": 1.0 - accuracy,
                       "seconds": 2.5, "epochs": values["epochs"]})  # fmt: skip
    accuracies = [trial["accuracy"] for trial in trials]
    best = max(trials, key=lambda trial: (trial["accuracy"], -trial["number"]))
    return {
        "searched": {"lr": [0.0001, 0.01], "epochs": [5, 20]}, "own": trials[0], "best": best, "trials": trials,
        "accuracies": accuracies, "best_so_far": list(accumulate(accuracies, max)), "diverged": 0,
        "epochs": sum(trial["epochs"] for trial in trials), "seconds": 2.5 * count,
    }  # fmt: skip
