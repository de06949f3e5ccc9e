"""The demo: a whole job on data that comes with scikit-learn."""

from __future__ import annotations

from typing import Any

STORY = """\
Five small convolutional networks with dropout, shown 300 scanned digits that are shifted about, form the teacher.
One network, more than ten times smaller than the five, is the student. It learns alone, with smoothed labels,
and from the teacher; each way from five initial weights. 1,000 other digits decide."""


def demo_job(out: str | None, *, seeds: int = 5) -> dict[str, Any]:
    """The demo as a job: every number in it was chosen on development data.

    Args:
        out: The run's folder.
        seeds: How many times each arm is run.
    """
    return {
        "data": "digits",
        "teacher": {
            "model": "cnn", "widths": [16, 32], "dropout": 0.3, "members": 5,
            "train": {"epochs": 200, "batch_size": 64, "shift": 1, "lr": 4e-3},
        },
        "student": {"model": "cnn", "widths": [8, 16]},
        "method": {"name": "hinton", "temperature": 5.0, "weight": 0.9},
        "budget": {"epochs": 200, "batch_size": 64, "lr": 1e-2},
        "train_examples": 300,
        "development": 0.62,
        "seeds": seeds,
        "workers": 2,
        "out": out,
    }  # fmt: skip
