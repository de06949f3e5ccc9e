"""Benchmark of judging: the cost of metrics in a run, and of a report of several runs."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.clock import clocked
from benchmarks.workload import check_counts
from limbeck.compare import run_job
from limbeck.errors import LimbeckError
from limbeck.job import ARMS, Job, make_job

PARTS: Mapping[str, tuple[str, ...]] = {
    "evaluations": ("limbeck.tasks.task:Task.evaluate", "limbeck.compare.teacher:ask"),
    "costs": ("limbeck.metrics.cost", "limbeck.metrics.cost_in_full", "limbeck.metrics.compute"),
    "measures": ("limbeck.metrics", "limbeck.compare.extra_metrics"),
    "page": ("limbeck.report",),
}
"""The parts of a run besides training, and their functions."""


@dataclass(frozen=True)
class JudgingScale:
    """The sizes of the benchmark; the defaults are those of the figures in the documentation.

    Attributes:
        train: Number of training examples of the timed run: images of 28 x 28 pixels.
        test: Number of its test examples.
        epochs: Number of epochs of its teacher and every arm.
        seeds: Number of seeds of every arm.
        shown: Number of test examples of the runs on a page.
        shown_seeds: Number of seeds of their arms.
        runs: Number of runs on a page.
        repeats: Number of times that the page is made.
    """

    train: int = 6_000
    test: int = 1_000
    epochs: int = 5
    seeds: int = 2
    shown: int = 10_000
    shown_seeds: int = 5
    runs: int = 10
    repeats: int = 5

    def __post_init__(self) -> None:
        check_counts(self)


def bench_judging(*, scale: JudgingScale | None = None, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Measure the share of the metrics in the time of a comparison, and the time of a page about ten comparisons.

    A real comparison of small convolutional networks, with two methods and three controls, runs in this process, and
    every call of the metrics is timed. (A second run without metrics would differ by more than the metrics take.)
    The folder of another comparison, of small perceptrons on many test examples, is copied, and `limbeck report` makes
    a page of all copies in a separate process, several times.

    Args:
        scale: The sizes.
        say: Gets messages about the progress.

    Returns:
        ``measures_over_run``: processor time of evaluations, own metrics and costs over that of the rest of the run;
        ``report_seconds``: the median wall-clock time of the process that makes the page, and
        ``report_cpu_seconds`` its processor time; ``report_megabytes``: the size of the page. And ``cpu_seconds_run``
        and of each of its parts, ``report_seconds_each``, ``runs``, ``threads``, ``torch``.

    Raises:
        LimbeckError: If the page cannot be made.
    """
    size = scale or JudgingScale()
    folder = Path(tempfile.mkdtemp(prefix="limbeck-bench-"))
    try:
        say(f"a comparison of five arms with {size.seeds} seeds, on {size.train:,} pictures, every measure timed")
        figures = _measured(folder / "timed", size)
        say(f"a comparison with {size.shown_seeds} seeds that is judged on {size.shown:,} pictures")
        run = _judged(folder / "judged", size)
        say(f"{size.repeats} pages about {size.runs} copies of it")
        figures |= _reported(run, folder, size)
        return figures | {"runs": size.runs, "threads": torch.get_num_threads(), "torch": torch.__version__}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measured(folder: Path, size: JudgingScale) -> dict[str, Any]:
    job = _comparison(
        folder, train=size.train, test=size.test, seeds=size.seeds, student={"model": "cnn", "widths": [8, 16]},
        teacher={"model": "cnn", "widths": [16, 32], "check": False},
        budget={"epochs": size.epochs, "batch_size": 64, "lr": 3e-3},
    )  # fmt: skip
    began = time.process_time()
    with clocked("limbeck.compare", PARTS, clock=time.process_time) as seconds:
        run_job(job)
    whole = time.process_time() - began
    added = sum(seconds[part] for part in ("evaluations", "measures", "costs"))
    return {
        "measures_over_run": round(added / (whole - added), 4),
        "cpu_seconds_run": round(whole, 3),
        **{f"cpu_seconds_{part}": round(spent, 3) for part, spent in seconds.items()},
    }


def _judged(folder: Path, size: JudgingScale) -> Path:
    job = _comparison(
        folder, train=min(3000, 10 * size.shown), test=size.shown, seeds=size.shown_seeds,
        student={"model": "mlp", "hidden": [16]}, teacher={"model": "mlp", "hidden": [64], "check": False},
        budget={"epochs": 10, "batch_size": 32, "lr": 3e-3},
    )  # fmt: skip
    run_job(job)
    return folder / "run"


def _comparison(folder: Path, *, train: int, test: int, **job: Any) -> Job:
    folder.mkdir()
    return make_job({
        "data": str(_pictures(folder / "pictures.npz", train, test)), "methods": ["hinton", "logit_matching"],
        "arms": list(ARMS), "out": str(folder / "run"), **job,
    })  # fmt: skip


def _reported(run: Path, folder: Path, size: JudgingScale) -> dict[str, Any]:
    copies = [shutil.copytree(run, folder / f"run-{number}") for number in range(size.runs)]
    page = folder / "report.html"
    _ = _page(copies, page)  # the first page reads its files from the disk
    times = [_page(copies, page) for _ in range(size.repeats)]
    wall, cpu = zip(*times, strict=True)
    return {
        "report_seconds": round(statistics.median(wall), 3),
        "report_cpu_seconds": round(statistics.median(cpu), 3),
        "report_megabytes": round(page.stat().st_size / 1e6, 3),
        "report_seconds_each": [round(one, 3) for one in wall],
    }


def _page(runs: list[Path], page: Path) -> tuple[float, float]:
    """The wall-clock and processor time, in seconds, of a process that makes a page of these runs."""
    words = [sys.executable, "-m", "limbeck", "report", *map(str, runs), "--out", str(page)]
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    whole, after = time.perf_counter() - began, os.times()
    if done.returncode:
        raise LimbeckError(f"`limbeck report` failed: {' '.join(done.stderr.split())[-300:]}")
    children = ("children_user", "children_system")
    return whole, sum(getattr(after, part) - getattr(before, part) for part in children)


def _pictures(path: Path, train: int, test: int) -> Path:
    """Noisy images of ten classes; a small network trained on 3,000 of them errs on one or two in ten."""
    draw = np.random.default_rng(0)
    kinds = draw.normal(0, 10, (10, 28, 28))

    def part(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % 10
        noise = draw.normal(128, 80, (count, 28, 28)).astype(np.float32)
        return (kinds[labels] + noise).clip(0, 255).astype(np.uint8), labels

    (x_train, y_train), (x_test, y_test) = part(train), part(test)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path
