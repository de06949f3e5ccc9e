"""Students of the maze: the arms, their training, and what is measured of them."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.data import Rollouts, ShuffledLoader
from limbeck.engine import Run, distill
from limbeck.functional import cross_entropy, jensen_shannon, kl_divergence, reverse_kl
from limbeck.generation import GenerationConfig, generate
from limbeck.losses import Loss, Objective
from limbeck.models import seeded
from limbeck.papers.experiment import Figures, TaskFolder, load_weights, save_weights
from limbeck.papers.gkd.maze import LONGEST, PROMPT, Decoder, Maze, WalkDataset
from limbeck.random_seeds import counter_order
from limbeck.recipe import Optimizer, Stage
from limbeck.teachers import CachedTeacher

BATCH = 64
DEVELOPMENT = (1000, 1001)
"""The seeds of the students with which settings are chosen. Their development pairs are training pairs that they do not
see; the test pairs are not used. With a single student, the noise of its training chose between neighboring rates."""
LOG_EVERY = 10
_STORE = "stored"
_SAMPLES = 4  # texts of each test pair, at a temperature above 0
_LOSSES = {"forward": kl_divergence, "reverse": reverse_kl, "JSD": jensen_shannon}


@dataclass(frozen=True)
class MazeScale:
    """The sizes of everything.

    Attributes:
        cells: Cells on a side of the maze.
        test: Pairs of the test set.
        prompts: Pairs of the small training set; the large one has all that are not test pairs.
        teacher: Steps, layers and width of the teacher.
        start: Steps of cross-entropy that all students of a seed share.
        steps: Steps of an arm after that.
        rates: Learning rates among which the development pairs choose, for arms with given text.
        rollout_rates: The same for arms whose text is written anew at each step. Their best rates are lower. Both
            ranges have the best rate of earlier searches in the middle.
        shares: Shares of the student's text among which they choose, for the mixture.
    """

    cells: int = 7
    test: int = 400
    prompts: int = 300
    teacher: tuple[int, int, int] = (1000, 2, 96)
    start: int = 200
    steps: int = 300
    rates: tuple[float, ...] = (8e-3, 16e-3, 32e-3)
    rollout_rates: tuple[float, ...] = (3e-3, 6e-3, 12e-3)
    shares: tuple[float, ...] = (0.25, 0.5, 0.75)

    def rates_of(self, arm: Arm) -> tuple[float, ...]:
        """The learning rates to try for an arm."""
        return self.rollout_rates if arm.is_written_anew else self.rates


FULL = MazeScale()
QUICK = MazeScale(5, 100, 100, (200, 2, 64), 100, 60, (4e-3,), (4e-3,), (0.5,))


@dataclass(frozen=True)
class Arm:
    """A way to train a student.

    Attributes:
        loss: ``labels``, or the divergence from the teacher: ``forward``, ``reverse`` or ``JSD``.
        text: Who writes the answers: ``data``; ``teacher``, once for each prompt; ``teacher again``, a new one at each
            step; or ``student``, also a new one at each step.
        share: The probability that a batch has such a new text; the other batches have that of the data.
        seconds: Whether it takes as many seconds as on-policy JSD, not as many steps.
        stored: Whether the teacher's outputs are stored, so that the teacher runs once for each text.
        settings: The arm whose learning rate it takes; by default its own.
    """

    loss: str
    text: str = "data"
    share: float = 1.0
    seconds: bool = False
    stored: bool = False
    settings: str = ""

    @property
    def clock(self) -> str:
        """The kind of its steps, whose seconds are counted (`count_seconds`)."""
        return "stored teacher" if self.stored else self.loss

    @property
    def is_written_anew(self) -> bool:
        """Whether texts are written at each step."""
        return self.text in ("student", "teacher again")


ARMS = {
    "labels": Arm("labels"),
    "labels, equal seconds": Arm("labels", seconds=True),
    "sequence-level KD": Arm("labels", "teacher", settings="labels"),
    "supervised KD": Arm("forward"),
    "supervised KD, equal seconds": Arm("forward", seconds=True),
    "the same, teacher stored": Arm("forward", seconds=True, stored=True),
    "new text of the teacher": Arm("forward", "teacher again"),
    "on-policy forward": Arm("forward", "student"),
    "on-policy reverse": Arm("reverse", "student"),
    "on-policy JSD": Arm("JSD", "student"),
    "mixture": Arm("JSD", "student", settings="on-policy JSD"),
}
"""The arms of the table in order. The share of the mixture is chosen on development pairs."""


@cache
def maze_of(scale: MazeScale) -> Maze:
    """The maze of a scale."""
    return Maze(scale.cells, extra=scale.cells + 5, test=scale.test)


def training_pairs(scale: MazeScale, prompts: int, seed: int) -> Tensor:
    """The positions of the training pairs of a student among all training pairs."""
    return counter_order(len(maze_of(scale).train), seed=seed, epoch=0, stream="prompts")[:prompts]


def make_decoder(scale: MazeScale, *, seed: int, layers: int = 2, width: int = 32) -> Decoder:
    """Make a decoder for the maze; by default a student."""
    with seeded(seed):
        return Decoder(
            maze_of(scale).vocabulary, width=width, layers=layers, heads=width // 16, positions=PROMPT + LONGEST
        )


def _teacher(scale: MazeScale) -> Decoder:
    return make_decoder(scale, seed=0, layers=scale.teacher[1], width=scale.teacher[2])


def load_teacher(folder: TaskFolder, scale: MazeScale) -> nn.Module:
    """Load the trained teacher."""
    return load_weights(_teacher(scale), folder, "teacher")


# --- tasks ----------------------------------------------------------------------------------------------------------


def teach(folder: TaskFolder, *, scale: MazeScale) -> Figures:
    """Train the teacher by cross-entropy on all training pairs, with new shortest walks in each epoch."""
    maze, teacher = maze_of(scale), _teacher(scale)
    epochs = -(-scale.teacher[0] * BATCH // len(maze.train))
    ids = torch.arange(len(maze.train))
    walks = [walk for view in range(epochs) for walk in maze.walks(maze.train, ids=ids, seed=0, view=view)]
    data = WalkDataset(maze, maze.train.repeat(epochs, 1), walks)
    stage = Stage(Loss(cross_entropy), steps=scale.teacher[0])
    run = distill(
        teacher, stage, _loader(data, 0), out=folder.folder / "run", resume=True, optimizer=_optimizer(2e-3), seed=0,
        accelerator="cpu", checkpoint_seconds=30.0,
    )  # fmt: skip
    run.finish()
    save_weights(teacher, folder)
    return measure(teacher, maze, maze.test, seed=0)


def begin(folder: TaskFolder, *, scale: MazeScale, prompts: int, seed: int) -> Figures:
    """Train the start that all arms of a seed share: a few steps of cross-entropy."""
    student = make_decoder(scale, seed=seed + 1)
    stage = Stage(Loss(cross_entropy), steps=scale.start)
    _distill({"student": student}, stage, _data(scale, prompts, seed), rate=2e-3, seed=seed).finish()
    save_weights(student, folder)
    return _measure(student, scale, prompts, seed)


def study(
    folder: TaskFolder, *, arm: Arm, scale: MazeScale, prompts: int, seed: int, start: str, seconds: str, settings: str
) -> Figures:
    """Train one student from its start, and measure it on test pairs.

    Args:
        folder: The folder of the task.
        arm: How it is trained.
        scale: The sizes.
        prompts: The number of training pairs.
        seed: The seed.
        start: The task of its start.
        seconds: The task that counted the steps of equal seconds.
        settings: The task that chose the settings.
    """
    chosen = folder.figures_of(settings)
    key = arm.settings or next(name for name, one in ARMS.items() if one == arm)
    if arm == ARMS["mixture"]:
        arm = replace(arm, share=chosen["share of the mixture"])
    steps = folder.figures_of(seconds)["steps"][arm.clock] if arm.seconds else scale.steps
    return train(folder, arm=arm, scale=scale, prompts=prompts, seed=seed, start=start, rate=chosen[key], steps=steps)


def train(
    folder: TaskFolder, *, arm: Arm, scale: MazeScale, prompts: int, seed: int, start: str, rate: float,
    steps: int | tuple[str, str],
) -> Figures:  # fmt: skip
    """Train one student with given settings, and measure it: on development pairs if it has the seed of development.

    The seconds are those of the processor. There is no checkpoint within the task, so they are those of a whole run.
    """
    if not isinstance(steps, int):
        steps = int(folder.figures_of(steps[0])["steps"][steps[1]])
    models = _open_models(folder, scale, start)
    began = time.process_time()
    run = _make_run(arm, models, scale, prompts, seed, rate=rate, steps=steps, store=folder.folder / _STORE)
    run.finish()
    seconds = time.process_time() - began
    shutil.rmtree(folder.folder / _STORE, ignore_errors=True)
    measured = _measure(models["student"], scale, prompts, seed)
    return {**measured, "seconds": seconds, "steps": steps, "rate": rate, "share": arm.share}


def count_seconds(folder: TaskFolder, *, scale: MazeScale, prompts: int, start: str) -> Figures:
    """Count the steps of labels and of supervised KD that take as many seconds as all steps of on-policy JSD.

    The runs take turns, in blocks of a few steps, in one process, so that other programs slow all of them alike.
    The seconds are those of the processor. The counts are written down once and are those of every arm and seed.
    """
    arms = {arm.clock: replace(arm, seconds=False) for arm in ARMS.values() if arm.seconds}
    runs = {}
    for name, arm in {"on-policy": ARMS["on-policy JSD"], **arms}.items():
        models, store = _open_models(folder, scale, start), folder.folder / _STORE
        runs[name] = _make_run(arm, models, scale, prompts, DEVELOPMENT[0], rate=4e-3, steps=scale.steps, store=store)
    counts = count_steps(runs, scale.steps)
    shutil.rmtree(folder.folder / _STORE, ignore_errors=True)
    return counts


def count_steps(runs: dict[str, Run], steps: int) -> Figures:
    """Run several trainings in turn, and count how many steps of each take as long as all steps of ``on-policy``.

    Args:
        runs: The trainings by name, all with this number of steps and a report every ten.
        steps: The number of steps.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    iterators = {name: iter(run) for name, run in runs.items()}
    for _ in range(steps // LOG_EVERY):
        for name, run in iterators.items():
            began = time.process_time()
            next(run)
            seconds[name].append(time.process_time() - began)
    # The first block has the checks before the first step, too.
    mean = {name: fmean(times[1:]) / LOG_EVERY for name, times in seconds.items()}
    counts = {name: round(steps * mean["on-policy"] / one) for name, one in mean.items() if name != "on-policy"}
    return {"steps": counts, "milliseconds a step": {name: 1000 * value for name, value in mean.items()}}


def choose_settings(folder: TaskFolder, *, trials: dict[str, dict[str, list[str]]]) -> Figures:
    """Choose for each setting the value with the most right walks on development pairs, at T = 1 and greedy together.

    Args:
        folder: The folder of the task.
        trials: Setting -> value -> the tasks in which it was tried, one for each student of the development.
    """
    chosen: dict[str, Any] = {}
    for setting, values in trials.items():
        scores = {value: fmean(_score(folder.figures_of(task)) for task in tasks) for value, tasks in values.items()}
        chosen[setting] = float(max(scores, key=lambda value: scores[value]))
        chosen[f"{setting}: right walks"] = scores
    return chosen


def _score(figures: Figures) -> float:
    return (float(figures["right"]) + float(figures["greedy"])) / 2


# --- training -------------------------------------------------------------------------------------------------------


def _data(scale: MazeScale, prompts: int, seed: int) -> WalkDataset:
    """The training data of a student: one shortest walk for each of its pairs."""
    maze, which = maze_of(scale), training_pairs(scale, prompts, seed)
    pairs = maze.train[which]
    return WalkDataset(maze, pairs, maze.walks(pairs, ids=which, seed=seed))


def _loader(data: WalkDataset, seed: int) -> ShuffledLoader:
    return ShuffledLoader(data, batch_size=min(BATCH, len(data)), seed=seed, drop_last=True)


def _optimizer(rate: float) -> Optimizer:
    return Optimizer("adamw", lr=rate, warmup=20, options={"weight_decay": 0.01, "betas": (0.9, 0.98)})


def _distill(models: Any, stage: Stage, data: WalkDataset, *, rate: float, seed: int) -> Run:
    return distill(
        models,
        stage,
        _loader(data, seed),
        optimizer=_optimizer(rate),
        seed=seed,
        accelerator="cpu",
        log_every=LOG_EVERY,
    )


def _open_models(folder: TaskFolder, scale: MazeScale, start: str) -> dict[str, nn.Module]:
    return {"student": load_weights(make_decoder(scale, seed=0), folder, start), "teacher": load_teacher(folder, scale)}


def _make_run(
    arm: Arm, models: dict[str, nn.Module], scale: MazeScale, prompts: int, seed: int, *, rate: float, steps: int,
    store: Path,
) -> Run:  # fmt: skip
    """The training of one arm, as a run of limbeck."""
    maze, data = maze_of(scale), _data(scale, prompts, seed)
    sampling = GenerationConfig(max_new_tokens=LONGEST, eos_token_id=maze.end)
    if arm.text == "teacher":
        data = WalkDataset(maze, data.pairs, _write(models["teacher"], maze, data.pairs, sampling, seed=seed))
    objective: Objective = Loss(cross_entropy) if arm.loss == "labels" else Loss(_LOSSES[arm.loss])
    teacher: Any = None if arm.loss == "labels" else "teacher"
    if arm.stored:
        teacher = CachedTeacher(models["teacher"], store)
    stage = Stage(objective, teacher=teacher, steps=steps)
    if arm.is_written_anew:
        writer = arm.text.partition(" ")[0]
        stage = replace(stage, loader=Rollouts(share=arm.share, writer=writer, generation=sampling))
    if teacher != "teacher":
        models = {"student": models["student"]}
    return _distill(models, stage, data, rate=rate, seed=seed)


# --- measures -------------------------------------------------------------------------------------------------------


def _measure(student: nn.Module, scale: MazeScale, prompts: int, seed: int) -> Figures:
    """Measure on the test pairs, or for the seed of development on training pairs that it does not see, if any."""
    maze = maze_of(scale)
    if seed not in DEVELOPMENT:
        return measure(student, maze, maze.test, seed=seed)
    seen = torch.zeros(len(maze.train), dtype=torch.bool)
    seen[training_pairs(scale, prompts, seed)] = True
    if bool(seen.all()):
        return {}
    return measure(student, maze, maze.train[~seen][: scale.test], seed=seed)


def measure(model: nn.Module, maze: Maze, pairs: Tensor, *, seed: int) -> Figures:
    """Measure a model on pairs of start and goal.

    Returns:
        ``right``, ``right at T=0.5`` and ``greedy``: the percentage of right walks, sampled at temperature 1, at 0.5,
        and of the most likely tokens. ``entropy`` in nats a token, of the model's distributions on its own text at
        temperature 1. ``perplexity`` of shortest walks. ``scores``: the fraction of right walks of each pair.
    """
    scores: dict[str, list[float]] = {}
    for name, temperature in (("right", 1.0), ("right at T=0.5", 0.5), ("greedy", 0.0)):
        samples = _SAMPLES if temperature else 1
        sampling = GenerationConfig(max_new_tokens=LONGEST, eos_token_id=maze.end, temperature=temperature)
        texts = _write(model, maze, pairs.repeat(samples, 1), sampling, seed=seed)
        right = [maze.is_right(pair, text) for pair, text in zip(pairs.tolist() * samples, texts, strict=True)]
        scores[name] = torch.tensor(right).view(samples, -1).double().mean(0).tolist()
        if temperature == 1.0:
            entropy = _mean_entropy(model, WalkDataset(maze, pairs.repeat(samples, 1), texts))
    walks = maze.walks(pairs, ids=torch.arange(len(pairs)), seed=0)
    figures: dict[str, Any] = {name: 100 * fmean(values) for name, values in scores.items()}
    nats = _mean_over_labels(model, WalkDataset(maze, pairs, walks), _surprise)
    return {**figures, "entropy": entropy, "perplexity": float(torch.tensor(nats).exp()), "scores": scores}


def _write(model: nn.Module, maze: Maze, pairs: Tensor, sampling: GenerationConfig, *, seed: int) -> list[Tensor]:
    """Let a model write a walk for each pair; the draws depend on the position of the pair."""
    ids = torch.arange(len(pairs))
    written = generate(model, list(pairs), sampling, ids=ids, views=torch.zeros_like(ids), seed=seed)
    return list(written.texts)


def _mean_entropy(model: nn.Module, data: WalkDataset) -> float:
    return _mean_over_labels(model, data, lambda log_p, _: -(log_p.exp() * log_p).sum(-1))


def _surprise(log_p: Tensor, batch: Batch) -> Tensor:
    labels: Any = batch.labels
    return -log_p.gather(-1, labels.clamp_min(0)[..., None])[..., 0]


@torch.no_grad()
def _mean_over_labels(model: nn.Module, data: WalkDataset, value: Any) -> float:
    """The mean of a value over all tokens with a label."""
    batch = data.take(torch.arange(len(data)))
    log_p = model.eval()(batch.inputs["input_ids"]).logits.double().log_softmax(-1)
    return float(value(log_p, batch)[batch.mask].mean())
