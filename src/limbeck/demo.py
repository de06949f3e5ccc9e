"""The job of `limbeck demo`: small images of digits, so that nothing is downloaded."""

from __future__ import annotations

from typing import Any

from limbeck.optional_imports import is_installed

DESCRIPTION = """\
The teacher is an ensemble of five small convolutional networks, trained on 300 digits with random shifts.
The student is one network, more than ten times smaller than the ensemble. It is trained alone, with label
smoothing, and with distillation, five times each with other initial weights. 1,000 other digits are the test set."""


def demo_job(out: str | None, *, seeds: int = 5) -> dict[str, Any]:
    """Return the demo as a job. Every number in it was chosen on development data.

    The data are scikit-learn's digits, or drawn ones where it is not installed: the demo runs with the core alone.

    Args:
        out: The output folder.
        seeds: Number of runs of each arm.
    """
    return {
        "data": "digits" if is_installed("sklearn") else "drawn_digits",
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
