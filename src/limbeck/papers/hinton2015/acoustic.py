"""Training and evaluation of one acoustic model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.batch import LOGITS
from limbeck.data import Dataset, ShuffledLoader
from limbeck.engine import Run, distill
from limbeck.methods import make
from limbeck.models import Mlp, seeded
from limbeck.papers.experiment import TaskFolder
from limbeck.papers.hinton2015.mnist import labels_of
from limbeck.papers.hinton2015.spoken_digits import COEFFICIENTS, FramePart, read_part
from limbeck.papers.hinton2015.states import AFTER, BEFORE, CLASSES, DIGITS, STATES
from limbeck.recipe import Optimizer, Recipe
from limbeck.teachers import PrecomputedTeacher, Teacher, TeacherContext, as_teacher

TEMPERATURE = 5.0
"""Temperature. On development data 5 was better than 2, the best of {1, 2, 5, 10} in the paper; 1 and 10 were not
tried."""
SOFT_WEIGHT = 2 / 3
"""The weight of the soft targets. The labels have half of it, as in the paper."""
RUN = "run"
"""The folder of the run in the folder of its task."""
_HIDDEN = [256] * 4
_DROPOUT = 0.1
_BATCH = 512
_LR = {256: 1e-3, 512: 2e-3}
STUDENT_LR = 4e-3
"""Settings of a student without dropout and with long training. On development data it kept two fifths of the gain;
with the settings of the members it kept none."""
_ASKED = 4096


def network(seed: int, *, dropout: float = _DROPOUT) -> Mlp:
    """Make the network of all models: four hidden layers of 256 units, with dropout 0.1 for training on labels."""
    inputs = (BEFORE + 1 + AFTER) * COEFFICIENTS
    with seeded(seed):
        return Mlp(inputs=inputs, classes=CLASSES, hidden=_HIDDEN, dropout=dropout)


def soft(answers: Tensor) -> Recipe:
    """Make the recipe with stored soft targets, and labels at half their weight."""
    return make("hinton", teacher=PrecomputedTeacher(answers), temperature=TEMPERATURE, weight=SOFT_WEIGHT)


def train(
    desk: TaskFolder,
    net: nn.Module,
    recipe: Recipe,
    examples: Dataset,
    *,
    seed: int,
    epochs: int,
    batch: int = _BATCH,
    lr: float | None = None,
    callback: Callable[[Run], Any] = lambda run: None,
) -> None:
    """Train `net`, or resume its training; `callback` is called after each epoch.

    The default of `lr` is 0.001 for batches of 256 and 0.002 for batches of 512.
    """
    loader = ShuffledLoader(examples, batch_size=batch, seed=seed)
    run = distill(
        net,
        recipe,
        loader,
        out=desk.folder / RUN,
        resume=True,
        seed=seed,
        epochs=epochs,
        optimizer=Optimizer("adamw", lr=_LR[batch] if lr is None else lr, warmup=0.05, options={"weight_decay": 0.01}),
        precision="bf16-mixed",
        accelerator="cpu",
        log_every=len(loader),
        checkpoint_seconds=60.0,
        workers=1,
    )
    for _ in run:
        callback(run)


def soft_targets(model: nn.Module | Teacher, examples: Dataset) -> Float[Tensor, "frames classes"]:
    """Compute the logits of all examples in order."""
    loader = ShuffledLoader(examples, batch_size=_ASKED, shuffle=False)
    teacher = as_teacher(model)
    with teacher.open(TeacherContext()) as answer:
        return torch.cat([answer(batch)[LOGITS].float() for batch in loader.batches(0, 0)])


def frame_accuracy(logits: Float[Tensor, "frames classes"], examples: Dataset) -> float:
    """Compute the frame accuracy, in percent."""
    return 100 * float((logits.argmax(1) == labels_of(examples)).double().mean())


def clip_error(logits: Float[Tensor, "frames classes"], part: FramePart) -> float:
    """Compute the fraction of clips with a wrong digit, in percent.

    The score of a digit is the sum over frames of the log-probability of all its states.
    """
    digit = logits.double().log_softmax(1).view(-1, DIGITS, STATES).logsumexp(2)
    scores = digit.new_zeros(len(part.digits), DIGITS).index_add(0, part.windows.clip, digit)
    return 100 * float((scores.argmax(1) != part.digits).double().mean())


def judge_model(model: nn.Module | Teacher, folder: Path, *, train: Dataset | None = None) -> dict[str, float]:
    """Compute frame accuracy and clip error on the development and the test part, and frame accuracy on `train`."""
    accuracies: dict[str, float] = {}
    for name in ("dev", "test"):
        part = read_part(folder, name)
        logits = soft_targets(model, part.windows)
        accuracies[f"{name}_frame_accuracy"] = frame_accuracy(logits, part.windows)
        accuracies[f"{name}_clip_error"] = clip_error(logits, part)
    if train is not None:
        accuracies["train_frame_accuracy"] = frame_accuracy(soft_targets(model, train), train)
    return accuracies
