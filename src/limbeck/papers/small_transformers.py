"""Texts of symbols, a small transformer, and students for studies of papers about transformers.

A text is a key and pairs of key and value; its class is the value that stands behind the key. Attention finds it, and
padding stands behind the last pair. The networks are `limbeck.testing.tiny_transformer.TinyBert`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from limbeck.data import ArrayDataset, ShuffledLoader
from limbeck.engine import distill
from limbeck.functional import attention_kl
from limbeck.methods import make
from limbeck.metrics import accuracy, predict
from limbeck.papers.claim import Figure
from limbeck.papers.experiment import ExperimentScale, Figures, Row, TaskFolder, load_weights, save_weights
from limbeck.recipe import Optimizer, Part
from limbeck.tap import Tapped
from limbeck.task_runner import WorkItem
from limbeck.testing.tiny_transformer import TinyBert

KEYS, VALUES, PAIRS = 5, 4, 3
LENGTH = 1 + 2 * PAIRS
EXAMPLES = "test_examples"
ACCURACY = Figure("accuracy", "accuracy", "%", resolution=0.05, examples=EXAMPLES)
ATTENTION = Figure("attention", "KL of attention maps", "nats", lower_is_better=True)


class TextSizes(NamedTuple):
    """The sizes of a study.

    Attributes:
        teacher: Training texts of the teacher.
        student: Training texts of the students.
        teacher_epochs: Epochs of the teacher.
        epochs: Epochs of a student.
        test: Test texts.
    """

    teacher: int = 4000
    student: int = 600
    teacher_epochs: int = 30
    epochs: int = 40
    test: int = 2000


SIZES = {"quick": TextSizes(teacher=3000, student=300, teacher_epochs=20, epochs=15, test=1000), "full": TextSizes()}
"""The sizes of the scales. All seeds have one teacher."""
TEACHER = "teacher/texts"
"""The task that trains the teacher."""


def draw_texts(count: int, seed: int) -> ArrayDataset:
    """Draw texts of 1 to 3 pairs, padded on the right, with the value behind the first key as class.

    Example:
        >>> draw_texts(3, seed=0).inputs["input_ids"].shape
        torch.Size([3, 7])
    """
    draw = torch.Generator().manual_seed(seed)
    keys = torch.rand(count, KEYS, generator=draw).argsort(1)[:, :PAIRS]
    values = torch.randint(VALUES, (count, PAIRS), generator=draw)
    pairs = torch.randint(1, PAIRS + 1, (count, 1), generator=draw)
    asked = (torch.rand(count, 1, generator=draw) * pairs).long()
    text = torch.stack([1 + keys, 1 + KEYS + values], 2).flatten(1)
    ids = torch.cat([1 + keys.gather(1, asked), text], 1)
    there = torch.arange(LENGTH) < 1 + 2 * pairs
    inputs = {"input_ids": ids.masked_fill(~there, 0), "attention_mask": there.long()}
    return ArrayDataset(inputs, values.gather(1, asked).squeeze(1), mask=there)


def make_transformer(*, layers: int, seed: int, width: int = 32) -> TinyBert:
    """Make a transformer for these texts."""
    return TinyBert(
        layers=layers, width=width, heads=2, classes=VALUES, vocabulary=1 + KEYS + VALUES, length=LENGTH, seed=seed
    )


def train_transformer(model: nn.Module, recipe: Part, texts: ArrayDataset, *, seed: int, epochs: int) -> float:
    """Train a model, and return the seconds of the processor that it took."""
    loader = ShuffledLoader(texts, batch_size=64, seed=seed)
    start = time.process_time()
    optimizer = Optimizer("adamw", lr=3e-3, warmup=0.05)
    distill(
        model, recipe, loader, seed=seed, epochs=epochs, optimizer=optimizer, accelerator="cpu", log_every=1000,
        workers=1,
    ).finish()  # fmt: skip
    return time.process_time() - start


def measure_transformer(
    student: nn.Module, test: ArrayDataset, teacher: nn.Module | None = None, pairs: Mapping[int, int] | None = None
) -> dict[str, float]:
    """Measure the accuracy in percent and, with a teacher, the divergence of the attention maps of pairs of layers.

    Args:
        student: The student.
        test: Test texts.
        teacher: The teacher.
        pairs: The teacher's layer of each of the student's layers.
    """
    student.eval()
    figures = {"accuracy": 100 * accuracy(predict(student, ShuffledLoader(test, batch_size=500, shuffle=False))).value}
    figures[EXAMPLES] = float(len(test))
    if teacher is None or pairs is None:
        return figures
    at = "bert.encoder.layer.{}.attention.self:1"
    batch = test.take(torch.arange(min(500, len(test))))
    with (
        torch.no_grad(),
        Tapped(student, map(at.format, pairs)) as ours,
        Tapped(teacher, map(at.format, pairs.values())) as theirs,
    ):
        mine, its = ours(batch.inputs), theirs(batch.inputs)
    values = [attention_kl(mine[at.format(s)], its[at.format(t)], batch.mask).mean() for s, t in pairs.items()]
    return {**figures, "attention": float(torch.stack(values).mean())}


def train_teacher(folder: TaskFolder, *, sizes: TextSizes) -> Figures:
    """Train the teacher on labels, and save it."""
    teacher = make_transformer(layers=4, seed=1000)
    train_transformer(
        teacher, make("supervised"), draw_texts(sizes.teacher, seed=1000), seed=0, epochs=sizes.teacher_epochs
    )
    save_weights(teacher, folder)
    return measure_transformer(teacher, draw_texts(sizes.test, seed=1))


def teacher_of(seed: int) -> tuple[str, ...]:
    """The task that trains the teacher, for `ClaimStudy.requires`."""
    del seed
    return (TEACHER,)


def load_teacher(folder: TaskFolder) -> nn.Module:
    """Load the teacher."""
    return load_weights(make_transformer(layers=4, seed=0), folder, TEACHER)


def teacher_tasks(scale: ExperimentScale) -> list[WorkItem]:
    """The task that trains the teacher, for `ClaimStudy.shared`."""
    return [WorkItem(TEACHER, partial(train_teacher, sizes=SIZES[scale.name]), (), 30.0)]


def teacher_rows(scale: ExperimentScale, results: Mapping[str, Any]) -> list[Row]:
    """A row with the accuracy of the teacher, for `ClaimStudy.rows`."""
    del scale
    return [Row("the teacher: accuracy", [results[TEACHER]["accuracy"]], "%", lower_is_better=False)]


def describe_training(scale: ExperimentScale) -> str:
    """Texts and training in a sentence, for `ClaimStudy.describe`."""
    sizes = SIZES[scale.name]
    return (
        f"Texts of 1 to {PAIRS} pairs of symbols, whose class is the value behind a key: a transformer of 4 layers, 2 "
        f"heads and width 32 learns {sizes.teacher:,} of them in {sizes.teacher_epochs} epochs and teaches all seeds; "
        f"students learn {sizes.student:,}; {sizes.test:,} test texts."
    )


def share_teachers() -> dict[str, Any]:
    """The arguments of a `ClaimStudy` whose arms share the teacher."""
    return {"shared": teacher_tasks, "requires": teacher_of, "rows": teacher_rows, "describe": describe_training}
