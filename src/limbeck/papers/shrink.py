"""Students made from their teacher against students of equal size that were designed by hand; an experiment of our own.

A residual network on a part of CIFAR-100 and a transformer of six layers on SST-2 become four times smaller. Both kinds
of students learn from the same teacher, with the same seeds, data and epochs.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from limbeck.data import ArrayDataset, DataSplits, ShuffledLoader, load_data, subsample
from limbeck.engine import distill
from limbeck.methods import make
from limbeck.metrics import accuracy, predict
from limbeck.models import build, count_parameters, open_hf, seeded, shrink
from limbeck.optional_imports import install_command, is_installed
from limbeck.papers.claim import Claim, Figure
from limbeck.papers.claim_study import ClaimStudy, Results
from limbeck.papers.experiment import ExperimentScale, Figures, Row, TaskFolder, load_weights, renumbered, save_weights
from limbeck.papers.small_images import (
    ACCURACY,
    CIFAR_RESNET,
    SECONDS,
    images_of,
    make_network,
    train_network,
)
from limbeck.recipe import Optimizer, Part
from limbeck.task_runner import WorkItem

SIZE = 0.25
PARAMETERS = Figure("parameters", "parameters", "", lower_is_better=True)
FIGURES = (ACCURACY, PARAMETERS, SECONDS)
_MARGIN = -1.0
"""A student is no worse if the interval of the difference lies above minus one point."""

# --- images ---------------------------------------------------------------------------------------------------------

IMAGES = replace(CIFAR_RESNET, train=16_000, test=5000, student_images=0)
IMAGE_TEACHER = "teacher/cifar100"
_IMAGES = {"quick": (10, 8, 10, 3), "full": (100, 16, 20, 10)}
"""Classes of CIFAR-100, channels of the teacher's first stage, epochs of the teacher and of the students."""
IMAGE_ARMS = {
    "shrink": "the strongest channels of the teacher, `shrink(teacher, size=0.25)`",
    "narrow": "the teacher's architecture at half its width, new weights",
    "shallow": "one block for each stage (resnet8), of equal size, new weights",
}


def make_image_student(arm: str, teacher: nn.Module, *, seed: int) -> nn.Module:
    """The student of an arm, with about a quarter of the teacher's parameters."""
    setting: Any = teacher
    spec = setting.spec
    if arm == "shrink":
        return shrink(teacher, size=SIZE)
    if arm == "narrow":
        with seeded(seed):
            return shrink(teacher, size=SIZE, by="narrow")
    arguments = {key: value for key, value in spec.arguments.items() if key != "width"}
    goal = SIZE * count_parameters(teacher)
    options = [build("resnet8", seed=seed, **arguments, width=width) for width in range(2, spec.arguments["width"] + 3)]
    return min(options, key=lambda option: abs(count_parameters(option) - goal))


@cache
def few_classes(part: str, classes: int) -> ArrayDataset:
    """The training or test images of the first classes."""
    splits = images_of(IMAGES)
    whole = splits.train if part == "train" else splits.test
    labels: Any = whole.labels
    return renumbered(whole.select((labels < classes).nonzero().squeeze(1)))


def _make_image_teacher(quick: bool) -> nn.Module:
    _, width, _, _ = _IMAGES["quick" if quick else "full"]
    return make_network(("resnet20", {"width": width}), IMAGES, 1000)


def _train_image(net: nn.Module, recipe: Part, *, quick: bool, seed: int, epochs: int) -> tuple[nn.Module, Figures]:
    """Train a network, and measure it on the test images of its classes."""
    classes = _IMAGES["quick" if quick else "full"][0]
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    shipped, seconds = train_network(
        net, recipe, IMAGES, seed=seed, epochs=epochs, examples=few_classes("train", classes)
    )
    loader = ShuffledLoader(few_classes("test", classes), batch_size=500, shuffle=False)
    percent = 100 * accuracy(predict(shipped, loader, preprocess=images_of(IMAGES).preprocess)).value
    return shipped, {"accuracy": percent, "parameters": count_parameters(shipped), "seconds": seconds}


def train_image_teacher(folder: TaskFolder, *, quick: bool) -> Figures:
    """Train the residual network on labels."""
    epochs = _IMAGES["quick" if quick else "full"][2]
    teacher, figures = _train_image(
        _make_image_teacher(quick), make("supervised"), quick=quick, seed=1000, epochs=epochs
    )
    save_weights(teacher, folder)
    return figures


def train_image_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train one student of the residual network."""
    epochs = _IMAGES["quick" if quick else "full"][3]
    teacher = load_weights(_make_image_teacher(quick), folder, IMAGE_TEACHER)
    student = make_image_student(arm, teacher, seed=seed)
    recipe = make("hinton", teacher=teacher, temperature=4.0, weight=0.9)
    return _train_image(student, recipe, quick=quick, seed=seed, epochs=epochs)[1]


def _image_teacher(scale: ExperimentScale) -> list[WorkItem]:
    seconds = 22.0 if scale.quick else 700.0
    return [WorkItem(IMAGE_TEACHER, partial(train_image_teacher, quick=scale.quick), (), seconds)]


# --- texts ----------------------------------------------------------------------------------------------------------

TEACHER = "teacher/sst2"
_WIDTH, _HEADS, _VOCABULARY, _LENGTH = 64, 4, 2000, 32
_TEXTS = {"quick": (2000, 1000, 4, 3), "full": (6920, 1821, 8, 12)}
"""Training and test texts, epochs of the teacher and of the students."""
TEXT_ARMS = {
    "shrink": "some layers of the teacher at a low rank, `shrink(teacher, size=0.25)`",
    "hand-designed": "two narrower layers of equal size, new weights",
}


@cache
def load_texts() -> DataSplits:
    """The sentences of SST-2 as tokens."""
    return load_data({"name": "sst2_sentences", "vocabulary": _VOCABULARY, "max_length": _LENGTH})


def make_bert(layers: int, width: int, *, seed: int) -> nn.Module:
    """A classifier of sentences with the architecture of BERT."""
    with seeded(seed):
        return open_hf(
            "bert", classes=2, pretrained=False, vocab_size=_VOCABULARY, hidden_size=width, num_hidden_layers=layers,
            num_attention_heads=_HEADS, intermediate_size=2 * width, max_position_embeddings=_LENGTH,
        )  # fmt: skip


def make_text_student(arm: str, teacher: nn.Module, *, seed: int) -> nn.Module:
    """The student of an arm, with about a quarter of the teacher's parameters."""
    if arm == "shrink":
        first = load_texts().train.take(torch.arange(2))
        return shrink(teacher, size=SIZE, example=load_texts().preprocess(first))
    goal = SIZE * count_parameters(teacher)
    options = [make_bert(2, width, seed=seed) for width in range(_HEADS, _WIDTH, _HEADS)]
    return min(options, key=lambda option: abs(count_parameters(option) - goal))


def _train_text(model: nn.Module, recipe: Part, *, texts: int, seed: int, epochs: int) -> float:
    """Train a classifier, and return the seconds of the processor that it took."""
    loader = ShuffledLoader(subsample(load_texts().train, texts, seed=0), batch_size=32, seed=seed)
    start = time.process_time()
    distill(
        model, recipe, loader, seed=seed, epochs=epochs, optimizer=Optimizer("adamw", lr=1e-3, warmup=0.1),
        accelerator="cpu", preprocess=load_texts().preprocess, log_every=1000, workers=1,
    ).finish()  # fmt: skip
    return time.process_time() - start


def _measure_text(model: nn.Module, texts: int) -> float:
    loader = ShuffledLoader(subsample(load_texts().test, texts, seed=0), batch_size=200, shuffle=False)
    return 100 * accuracy(predict(model.eval(), loader, preprocess=load_texts().preprocess)).value


def train_text_teacher(folder: TaskFolder, *, quick: bool) -> Figures:
    """Train the transformer of six layers on labels."""
    train, test, epochs, _ = _TEXTS["quick" if quick else "full"]
    teacher = make_bert(6, _WIDTH, seed=1000)
    seconds = _train_text(teacher, make("supervised"), texts=train, seed=1000, epochs=epochs)
    save_weights(teacher, folder)
    return {"accuracy": _measure_text(teacher, test), "seconds": seconds, "parameters": count_parameters(teacher)}


def train_text_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train one student of the transformer."""
    train, test, _, epochs = _TEXTS["quick" if quick else "full"]
    teacher = load_weights(make_bert(6, _WIDTH, seed=1000), folder, TEACHER)
    student = make_text_student(arm, teacher, seed=seed)
    recipe = make("hinton", teacher=teacher, temperature=2.0, weight=0.5)
    seconds = _train_text(student, recipe, texts=train, seed=seed, epochs=epochs)
    return {"accuracy": _measure_text(student, test), "parameters": count_parameters(student), "seconds": seconds}


def _text_teacher(scale: ExperimentScale) -> list[WorkItem]:
    seconds = 16.0 if scale.quick else 130.0
    return [WorkItem(TEACHER, partial(train_text_teacher, quick=scale.quick), (), seconds)]


def _teacher_row(task: str, scale: ExperimentScale, results: Results) -> list[Row]:
    del scale
    return [Row("the teacher: accuracy", [results[task]["accuracy"]], "%", lower_is_better=False)]


def _why_no_texts(scale: ExperimentScale) -> str:
    del scale
    if not is_installed("transformers"):
        return f"It needs transformers: {install_command('hf')}."
    try:
        load_texts()
    except Exception as error:  # missing files, or a library that does not fit
        return str(error)
    return ""


def _claims(arms: tuple[str, ...]) -> list[Claim]:
    no_worse = [
        Claim.of_difference(
            "shrink", other, ACCURACY, margin=_MARGIN, sentence=f"shrink is at most 1 point worse than {other}"
        )
        for other in arms
    ]
    return [*no_worse, *(Claim.of_difference("shrink", other, ACCURACY) for other in arms)]


IMAGE_STUDY = ClaimStudy(
    "images", "Is a four times smaller ResNet-20 as good as students of equal size that were designed by hand?",
    IMAGE_ARMS, train_image_arm, FIGURES, _claims(("narrow", "shallow")), {"quick": 6.0, "full": 290.0},
    shared=_image_teacher, requires=lambda _: (IMAGE_TEACHER,), rows=partial(_teacher_row, IMAGE_TEACHER),
    skip=IMAGES.why_skipped,
)  # fmt: skip
TEXT_STUDY = ClaimStudy(
    "texts", "Is a four times smaller transformer of six layers as good as one of equal size designed by hand?",
    TEXT_ARMS, train_text_arm, FIGURES, _claims(("hand-designed",)), {"quick": 7.0, "full": 95.0},
    shared=_text_teacher, requires=lambda _: (TEACHER,), rows=partial(_teacher_row, TEACHER), skip=_why_no_texts,
)  # fmt: skip
TITLE = "Students made from their teacher, against students designed by hand: an experiment of limbeck"
CLAIM = (
    "A student made of its teacher, four times smaller, is no worse than one of equal size that was designed by hand."
)
EXPERIMENTS = (IMAGE_STUDY.experiment(), TEXT_STUDY.experiment())
