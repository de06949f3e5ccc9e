"""Soft targets as regularizers on 3 % of the data."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from limbeck.data import Subset
from limbeck.data.dataset import stratified_split
from limbeck.engine import Run
from limbeck.methods import make
from limbeck.models import load, read_config, save
from limbeck.papers.experiment import Experiment, ExperimentScale, Figures, Row, TaskFolder
from limbeck.papers.hinton2015.speech import (
    FRAMES,
    NET,
    RUN,
    frame_accuracy,
    frames_task,
    judge_model,
    member,
    member_task,
    network,
    soft,
    soft_targets,
    train,
)
from limbeck.papers.hinton2015.spoken_digits import CLASSES, FramePart, read_part
from limbeck.task_runner import WorkItem

FRACTION = 0.03
_BATCH = 256
_BEST = "best"
_HARD, _SOFT = "regularizer/hard/seed-{}", "regularizer/soft/seed-{}"
_SECONDS_PER_EPOCH = 0.13
"""Seconds per epoch of the frames of 3 % of the clips, at one speed."""
_DEV_SECONDS = 0.38
_LEAST_GAIN = 0.01
"""A tolerance in points: about one test frame."""


def few(part: FramePart, *, seed: int) -> Subset:
    """Select 3 % of the clips, at all speeds, with the same proportions of digits."""
    clips = len(part.digits) // part.copies
    chosen = stratified_split(part.digits[:clips], max(round(FRACTION * clips), 1), seed=seed)
    among = torch.zeros(clips, dtype=torch.bool)
    among[chosen] = True
    return part.windows.select(among.repeat(part.copies)[part.windows.clip].nonzero()[:, 0])


def overfit(desk: TaskFolder, *, seed: int, epochs: int) -> Figures:
    """Train on hard targets; evaluate the last epoch and the best epoch on the development part."""
    part, net = read_part(desk.of(FRAMES), "train"), network(seed)
    examples, dev = few(part, seed=seed), read_part(desk.of(FRAMES), "dev")
    best = desk.folder / _BEST
    for folder in (
        best,
        desk.folder / RUN,
    ):  # After an interruption some epochs may not have been evaluated, so start again.
        shutil.rmtree(folder, ignore_errors=True)

    def keep(run: Run) -> None:
        accuracy = frame_accuracy(soft_targets(net, dev.windows), dev.windows)
        if accuracy > _accuracy_of(best):
            save(net, best, metadata={"dev_frame_accuracy": accuracy, "epoch": run.history[-1].epoch + 1})

    train(desk, net, make("supervised"), examples, seed=seed, epochs=epochs, batch=_BATCH, callback=keep)
    accuracies: dict[str, Any] = dict(judge_model(net, desk.of(FRAMES), train=examples))
    stopped = judge_model(load(best), desk.of(FRAMES), train=examples)
    accuracies |= {f"stopped_{name}": value for name, value in stopped.items()}
    return accuracies | {"stopped_epoch": read_config(best)["metadata"]["epoch"], "frames": len(examples)}


def soften(desk: TaskFolder, *, teacher: str, seed: int, epochs: int) -> Figures:
    """Train on soft targets of the network trained on all data; evaluate the last epoch."""
    part, net = read_part(desk.of(FRAMES), "train"), network(seed)
    examples = few(part, seed=seed)
    answers = torch.full((len(part.windows), CLASSES), torch.nan)  # the other frames are never needed
    answers[examples.ids] = soft_targets(load(desk.of(teacher) / NET), examples)
    train(desk, net, soft(answers), examples, seed=seed, epochs=epochs, batch=_BATCH)
    return judge_model(net, desk.of(FRAMES), train=examples)


def _accuracy_of(best: Path) -> float:
    """Read the best development accuracy so far; 0 if there is none."""
    return float(read_config(best)["metadata"]["dev_frame_accuracy"]) if best.is_dir() else 0.0


def _epochs(scale: ExperimentScale) -> int:
    return scale.pick(15, 40)


def _tasks(scale: ExperimentScale) -> list[WorkItem]:
    tasks = [frames_task(scale)]
    epochs = _epochs(scale)
    seconds = epochs * scale.pick(1, 3) * _SECONDS_PER_EPOCH
    for seed in scale.seeds:
        teacher, own = member(0, seed), 1000 * seed + 950
        tasks.append(member_task(scale, 0, seed))
        hard = partial(overfit, seed=own, epochs=epochs)
        tasks.append(WorkItem(_HARD.format(seed), hard, (FRAMES,), 3 + seconds + epochs * _DEV_SECONDS))
        easy = partial(soften, teacher=teacher, seed=own, epochs=epochs)
        tasks.append(WorkItem(_SOFT.format(seed), easy, (FRAMES, teacher), 3 + seconds))
    return tasks


def _rows(scale: ExperimentScale, results: Mapping[str, Figures]) -> list[Row]:
    baseline = [results[member(0, seed)] for seed in scale.seeds]
    hard = [results[_HARD.format(seed)] for seed in scale.seeds]
    gentle = [results[_SOFT.format(seed)] for seed in scale.seeds]
    epochs = ", ".join(str(run["stopped_epoch"]) for run in hard)
    rows = [
        *_both("baseline, 100 % of the data", baseline, "", "63.4 % and 58.9 %"),
        *_both("3 %, hard targets, early stopped", hard, "stopped_", f"67.3 % and 44.5 %; here after epoch {epochs}"),
        *_both("3 %, hard targets, last epoch", hard, "", ""),
        *_both("3 %, soft targets, last epoch", gentle, "", "65.4 % and 57.0 %"),
    ]
    gain = [run[_TEST] - other["stopped_" + _TEST] for run, other in zip(gentle, hard, strict=True)]
    note = "early-stopped hard targets against the last epoch of soft ones; paper, on its data: 12.5"
    return [
        *rows,
        Row("gain of soft targets, test", gain, "points", lower_is_better=False, note=note),
        Row("  the least over seeds", [min(gain)], "points", lower_is_better=False, aim=_LEAST_GAIN),
    ]


_TEST = "test_frame_accuracy"


def _both(name: str, figures: Sequence[Figures], which: str, paper: str) -> list[Row]:
    """Make the rows of frame accuracy on training and test data."""
    note = f"paper, train and test, on its data: {paper}" if paper else ""
    return [
        Row(f"{name}: train", [run[f"{which}train_frame_accuracy"] for run in figures], "%", lower_is_better=False),
        Row(f"{name}: test", [run[which + _TEST] for run in figures], "%", lower_is_better=False, note=note),
    ]


REGULARIZER = Experiment(
    "regularizer", "Do soft targets keep a network from overfitting 3 % of the data?", _tasks, _rows
)
