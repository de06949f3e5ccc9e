"""A finished job of each task, trained once for all tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from limbeck.compare import run_job
from limbeck.job import make_job

TASKS = ("regression", "multi_label", "segmentation")


def write_data(folder: Path) -> dict[str, Any]:
    """The ``data:`` of a job of each task."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(160, 4)).astype(np.float32)
    y = 300 + 50 * (x[:, 0] - x[:, 1] * x[:, 2]) + draw.normal(size=160)
    lines = ["a,b,c,d,price", *(",".join(f"{value:.5f}" for value in row) for row in np.column_stack([x, y]))]
    (folder / "houses.csv").write_text("\n".join(lines) + "\n")
    labels = (x @ draw.normal(size=(4, 3)) > 0).astype(np.uint8)
    np.savez(folder / "tags.npz", x=x, y=labels, class_names=np.array(["red", "green", "blue"]))
    masks = np.zeros((40, 10, 10), np.uint8)
    for image in masks:
        top, left = draw.integers(0, 6, 2)
        image[top : top + 4, left : left + 4] = 1
    images = np.clip(masks * 120 + draw.normal(60, 20, masks.shape), 0, 255).astype(np.uint8)
    np.savez(folder / "shapes.npz", x=images, y=masks)
    return {
        "regression": {"name": str(folder / "houses.csv"), "target": "price"},
        "multi_label": str(folder / "tags.npz"),
        "segmentation": str(folder / "shapes.npz"),
    }


def job_of(task: str, data: Any, **changes: Any) -> dict[str, Any]:
    """A job of two seconds."""
    model = "fcn" if task == "segmentation" else "mlp"
    width = "widths" if task == "segmentation" else "hidden"
    return {
        "data": data,
        "teacher": {"model": model, width: [8], "train": {"epochs": 8, "lr": 0.02, "batch_size": 16}},
        "student": {"model": model, width: [3]},
        "budget": {"epochs": 3, "lr": 0.02, "batch_size": 16},
        "seeds": 2,
        **changes,
    }


@cache
def finished(task: str) -> tuple[Path, dict[str, Any]]:
    """The folder and the result of a finished job."""
    folder = Path(mkdtemp(prefix=f"limbeck-{task}-"))
    job = job_of(task, write_data(folder)[task], out=str(folder / "run"))
    return folder / "run", run_job(make_job(job))
