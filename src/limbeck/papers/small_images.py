"""Images, networks, teachers and students for studies of papers, small enough for two cores.

Three settings, each with a quick and a full size: `FASHION_MLP` (perceptrons), `FASHION_CNN` (plain convolutions) and
`CIFAR_RESNET` (ResNet-20 and ResNet-8 with the stem for images of 32 x 32). The hidden layers of all networks are
``layer1``, ``layer2``, ..., ``features`` and ``classifier``. A paper's function that trains one arm is usually

.. code-block:: python

    def train_arm(folder, *, arm, seed, quick):
        setting = FASHION_CNN.at(quick)
        teacher = load_teacher(folder, setting, seed)
        recipes = {"alone": make("supervised"), "kd": make("hinton", teacher=teacher), "ours": ...}
        return train_student(recipes[arm], setting, seed=seed, teacher=teacher)

with ``**share_teachers(FASHION_CNN)`` among the arguments of its `ClaimStudy`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from limbeck.data import Chain, Dataset, DataSplits, Flip, RandomShift, ShuffledLoader, load_data, subsample
from limbeck.data.builtin_datasets import IMAGE_DATASETS, data_folders
from limbeck.engine import Run, distill
from limbeck.methods import make
from limbeck.metrics import accuracy, agreement, ece, kl_to_teacher, nll, predict
from limbeck.models import build, fit_arguments
from limbeck.papers.claim import Figure
from limbeck.papers.experiment import (
    ExperimentScale,
    Figures,
    Row,
    TaskFolder,
    fewer,
    load_weights,
    renumbered,
    save_weights,
)
from limbeck.recipe import Optimizer, Part
from limbeck.task_runner import WorkItem

EXAMPLES = "test_examples"
"""The key of the number of test images, which says how fine a percentage of them is."""
ACCURACY = Figure("accuracy", "accuracy", "%", resolution=0.05, examples=EXAMPLES)
NLL = Figure("nll", "NLL", "nats", lower_is_better=True)
ECE = Figure("ece", "ECE", "%", lower_is_better=True)
AGREEMENT = Figure("agreement", "agreement", "%", resolution=0.05, examples=EXAMPLES)
KL = Figure("kl", "KL to teacher", "nats", lower_is_better=True)
SECONDS = Figure("seconds", "CPU time", "s", lower_is_better=True)
FIGURES = (ACCURACY, NLL, ECE, AGREEMENT, KL, SECONDS)
"""What `train_student` measures on test images. CPU seconds are those of training."""
OF_TEACHER = Figure("teacher", "accuracy of the teacher", "%", resolution=0.05)
PREPARED_FIGURES = (ACCURACY, NLL, KL, OF_TEACHER, SECONDS)
"""What `train_prepared` measures. An arm without a teacher has neither its accuracy nor the divergence."""


@dataclass(frozen=True)
class ImageSetting:
    """Data, networks and training of a small study.

    Attributes:
        data: The name of a built-in image data set.
        train: Training images.
        test: Test images.
        teacher: The name of a reference network and its arguments.
        student: The same of the student.
        teacher_epochs: Epochs of the teacher.
        epochs: Epochs of a student.
        student_images: Training images of the students, the first of those of the teacher; 0 for all.
        batch_size: Images of a batch.
        augment: Whether images are shifted by up to 4 pixels and flipped.
        optimizer: The optimizer of teacher and students.
        one_teacher: Whether all seeds have one teacher, for teachers that take minutes.
        teacher_seconds: The estimated seconds of a teacher.
        development: Whether students are measured on further training images, which no network learns from, in place of
            the test images.
        development_images: The number of these images; 0 for as many as test images. Two students differ by about a
            point on 2,000 images by chance alone, so a search needs more.
        precision: The precision of training; by default 32 bits for perceptrons, and mixed for other networks.
        quick: The fields that differ at scale ``quick``.
    """

    data: str
    train: int
    test: int
    teacher: tuple[str, Mapping[str, Any]]
    student: tuple[str, Mapping[str, Any]]
    teacher_epochs: int
    epochs: int
    student_images: int = 0
    batch_size: int = 64
    augment: bool = False
    optimizer: Optimizer = field(default_factory=lambda: Optimizer("adamw", lr=2e-3, warmup=0.05))
    one_teacher: bool = False
    teacher_seconds: float = 10.0
    development: bool = False
    development_images: int = 0
    precision: str = ""
    quick: Mapping[str, Any] = field(default_factory=dict)

    def at(self, quick: bool, *, development: bool = False, lr: float | None = None) -> ImageSetting:
        """The setting at scale ``quick`` or ``full``, with the data or a rate of a `SettingsSearch`."""
        own = replace(self, **(self.quick if quick else {}), quick={}, development=development)
        return own if lr is None else replace(own, optimizer=replace(own.optimizer, lr=lr))

    def teacher_of(self, seed: int) -> tuple[str, ...]:
        """The task that trains the teacher of a seed, for `ClaimStudy.requires`."""
        return (f"teacher/{self.data}-{self.teacher[0]}/seed-{0 if self.one_teacher else seed}",)

    def why_skipped(self, scale: ExperimentScale) -> str:
        """The reason why a study with this setting is skipped, for `ClaimStudy.skip`; empty if the data are there."""
        del scale
        info = IMAGE_DATASETS[self.data]
        files = [f"{self.data}.npz", *([f"{info.subset}.npz"] if info.subset else [])]
        folders = data_folders(None)
        if any((folder / file).is_file() for folder in folders for file in files):
            return ""
        return f"Put {' or '.join(files)} into {folders[0]}, or set LIMBECK_DATA to the folder that has it."

    def describe(self, scale: ExperimentScale) -> str:
        """Data, networks and training in a sentence, for `ClaimStudy.describe`."""
        own = self.at(scale.quick)
        first, second = (f"`{name} {dict(arguments)}`" for name, arguments in (own.teacher, own.student))
        return (
            f"{self.data}: a teacher {first} learns {own.train:,} images in {own.teacher_epochs} epochs, students "
            f"{second} learn {own.student_images or own.train:,} of them in {own.epochs} epochs with batches of "
            f"{own.batch_size}{' of shifted and flipped images' if own.augment else ''}; {own.test:,} test images; "
            f"{own.describe_development()}"
            f"{'one teacher for all seeds' if own.one_teacher else 'a teacher for each seed'}."
        )

    def describe_development(self) -> str:
        """The development images in a few words; empty if there are as many as test images."""
        return f"settings are chosen on {self.development_images:,} others; " if self.development_images else ""


FASHION_MLP = ImageSetting(
    "fashion_mnist", 10_000, 2000, ("mlp", {"hidden": [400, 400]}), ("mlp", {"hidden": [20, 20]}), 12, 40,
    student_images=4000, teacher_seconds=15.0,
    quick={"train": 4000, "student_images": 1500, "teacher_epochs": 8, "epochs": 25, "teacher_seconds": 3.0},
)  # fmt: skip
"""Perceptrons on Fashion-MNIST: the fastest."""
FASHION_CNN = ImageSetting(
    "fashion_mnist", 10_000, 2000, ("cnn", {"widths": [16, 32, 64]}), ("cnn", {"widths": [4, 8, 16]}), 12, 30,
    student_images=4000, augment=True, optimizer=Optimizer("adamw", lr=5e-3, warmup=0.05), teacher_seconds=30.0,
    quick={"train": 5000, "student_images": 2000, "teacher_epochs": 6, "epochs": 15, "teacher_seconds": 6.0},
)  # fmt: skip
"""Plain convolutional networks on Fashion-MNIST."""
CIFAR_RESNET = ImageSetting(
    "cifar100", 16_000, 2000, ("resnet20", {}), ("resnet8", {"width": 8}), 20, 10,
    student_images=4000, augment=True, one_teacher=True, teacher_seconds=700.0,
    optimizer=Optimizer(
        "sgd", lr=0.1, warmup=0.05, options={"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
    ),
    quick={
        "train": 1000, "test": 500, "student_images": 500, "teacher_epochs": 2, "epochs": 2,
        "teacher": ("resnet8", {"width": 16}), "teacher_seconds": 3.0,
    },
)  # fmt: skip
"""Residual networks on the subset of CIFAR-100. At scale ``quick`` the teacher is small and hardly trained, so only
numbers of scale ``full`` mean something."""


@cache
def load_images(data: str, train: int, test: int, development: bool = False) -> DataSplits:
    """Load a fixed subset of a built-in data set, in memory.

    Args:
        data: The name of the data set.
        train: The number of training images.
        test: The number of test images.
        development: Whether the test images are further training images, for a choice of settings.

    Raises:
        DataError: If its file is missing, or has no training images left for development.
    """
    whole = load_data(data)
    if development:
        used = subsample(whole.train, min(train, len(whole.train)), seed=0).index
        rest = torch.ones(len(whole.train), dtype=torch.bool).index_fill(0, used, False)
        whole = replace(whole, test=whole.train.select(rest.nonzero()[:, 0]))
    return fewer(whole, train=min(train, len(whole.train)), test=min(test, len(whole.test)))


def make_network(network: tuple[str, Mapping[str, Any]], setting: ImageSetting, seed: int) -> nn.Module:
    """Make a reference network for the images of a setting, in channels-last format if it has convolutions."""
    name, arguments = network
    fixed = fit_arguments(name, image_shape(setting), len(images_of(setting).class_names or ()))
    net: Any = build(name, seed=seed, **fixed, **arguments)
    placed: nn.Module = net if name == "mlp" else net.to(memory_format=torch.channels_last)
    return placed


def images_of(setting: ImageSetting) -> DataSplits:
    """The training and test images of a setting."""
    test = (setting.development and setting.development_images) or setting.test
    return load_images(setting.data, setting.train, test, setting.development)


def image_shape(setting: ImageSetting) -> tuple[int, ...]:
    """The shape of one preprocessed image: channels, height, width."""
    splits = images_of(setting)
    batch = splits.test.take(torch.arange(1))
    return tuple(torch.as_tensor(splits.preprocess(batch)).shape[1:])


def student_images(setting: ImageSetting) -> Dataset:
    """The training images of the students: those of the teacher, or a fixed part of them."""
    whole = images_of(setting).train
    part = setting.student_images
    return renumbered(subsample(whole, part, seed=1)) if part and part < len(whole) else whole


def make_loader(setting: ImageSetting, examples: Dataset, seed: int) -> ShuffledLoader:
    """Make a loader of training images, with the augmentation of the setting."""
    augment = Chain(RandomShift(4, seed=seed), Flip(seed=seed)) if setting.augment else None
    return ShuffledLoader(examples, batch_size=setting.batch_size, seed=seed, augment=augment)


def train_network(
    models: nn.Module | dict[str, nn.Module], recipe: Part, setting: ImageSetting, *, seed: int, epochs: int,
    examples: Dataset | None = None, data: Any = None,
) -> tuple[nn.Module, float]:  # fmt: skip
    """Train a network, and return the one that is shipped, with the seconds of the processor that it took.

    Args:
        models: The student, or several models by name.
        recipe: The recipe.
        setting: The setting.
        seed: The seed of the order and the augmentation.
        epochs: Passes over the data, for recipes without a length.
        examples: The training images; by default those of the students.
        data: A loader in place of the examples.
    """
    run, seconds = run_recipe(models, recipe, setting, seed=seed, epochs=epochs, examples=examples, data=data)
    return run.student, seconds


def run_recipe(
    models: nn.Module | dict[str, nn.Module], recipe: Part, setting: ImageSetting, *, seed: int, epochs: int,
    examples: Dataset | None = None, data: Any = None,
) -> tuple[Run, float]:  # fmt: skip
    """Run a recipe as `train_network` does, and return the whole run, for the models that it makes."""
    loader = data or make_loader(setting, student_images(setting) if examples is None else examples, seed)
    start = time.process_time()
    run = distill(
        models, recipe, loader, seed=seed, epochs=epochs, optimizer=setting.optimizer, accelerator="cpu",
        preprocess=images_of(setting).preprocess, log_every=100, workers=1,
        precision=setting.precision or ("32-true" if setting.student[0] == "mlp" else "bf16-mixed"),
    ).finish()  # fmt: skip
    return run, time.process_time() - start


def measure_network(student: nn.Module, setting: ImageSetting, teacher: nn.Module | None = None) -> dict[str, float]:
    """Measure a network on the test images: the figures of `FIGURES` without seconds, in percent and nats.

    Without a teacher there are no agreement and no KL divergence.
    """
    splits = images_of(setting)
    loader = ShuffledLoader(splits.test, batch_size=500, shuffle=False)
    found = predict(student, loader, preprocess=splits.preprocess)
    figures = {"accuracy": 100 * accuracy(found).value, "nll": nll(found).value, "ece": 100 * ece(found).value}
    figures[EXAMPLES] = float(len(splits.test))
    if teacher is None:
        return figures
    both = found._replace(teacher=predict(teacher, loader, preprocess=splits.preprocess).student)
    return {**figures, "agreement": 100 * agreement(both).value, "kl": kl_to_teacher(both).value}


def train_student(
    recipe: Part, setting: ImageSetting, *, seed: int, teacher: nn.Module | None = None,
    student: nn.Module | None = None, epochs: int | None = None, examples: Dataset | None = None,
) -> dict[str, float]:  # fmt: skip
    """Train a student by a recipe, and measure it: all figures of `FIGURES`.

    Args:
        recipe: The recipe, such as ``make("hinton", teacher=teacher)``.
        setting: The setting.
        seed: The seed of its weights, of the order and of the augmentation, equal for all arms.
        teacher: The teacher that it is compared with, also for arms that do not learn from it.
        student: The student; by default that of the setting.
        epochs: Passes over the data; by default those of the setting.
        examples: Its training images; by default those of the setting.
    """
    network = make_network(setting.student, setting, seed) if student is None else student
    length = setting.epochs if epochs is None else epochs
    shipped, seconds = train_network(network, recipe, setting, seed=seed, epochs=length, examples=examples)
    return {**measure_network(shipped, setting, teacher), "seconds": seconds}


def train_prepared(recipe: Part, setting: ImageSetting, *, seed: int, teacher: str = "") -> dict[str, float]:
    """Train a student by a recipe that makes its own teacher, and measure both: `PREPARED_FIGURES`.

    Args:
        recipe: The recipe.
        setting: The setting; teacher and student see the same images.
        seed: As for `train_student`.
        teacher: The name of the teacher among the models of the run; empty for a student without one.
    """
    student = make_network(setting.student, setting, seed)
    run, seconds = run_recipe(student, recipe, setting, seed=seed, epochs=setting.epochs)
    if not teacher:
        return {**measure_network(run.student, setting), "seconds": seconds}
    taught = run.models[teacher].eval()
    figures = measure_network(run.student, setting, taught)
    return {**figures, "teacher": measure_network(taught, setting)["accuracy"], "seconds": seconds}


def train_teacher(folder: TaskFolder, *, setting: ImageSetting, seed: int) -> Figures:
    """Train the teacher of a seed on labels, and save it."""
    net, examples = make_network(setting.teacher, setting, 1000 + seed), images_of(setting).train
    net, seconds = train_network(
        net, make("supervised"), setting, seed=1000 + seed, epochs=setting.teacher_epochs, examples=examples
    )
    save_weights(net, folder)
    return {**measure_network(net, setting), "seconds": seconds}


def load_teacher(folder: TaskFolder, setting: ImageSetting, seed: int) -> nn.Module:
    """Load the teacher of a seed, which is a task that the arm requires."""
    return load_weights(make_network(setting.teacher, setting, 0), folder, setting.teacher_of(seed)[0])


def teacher_tasks(setting: ImageSetting, scale: ExperimentScale) -> list[WorkItem]:
    """The tasks that train the teachers of a setting, for `ClaimStudy.shared`: one for each seed, or one."""
    own = setting.at(scale.quick)
    return [
        WorkItem(own.teacher_of(seed)[0], partial(train_teacher, setting=own, seed=seed), (), own.teacher_seconds)
        for seed in (scale.seeds[:1] if own.one_teacher else scale.seeds)
    ]


def teacher_rows(setting: ImageSetting, scale: ExperimentScale, results: Mapping[str, Figures]) -> list[Row]:
    """A row with the accuracy of the teachers, for `ClaimStudy.rows`."""
    tasks = [task.name for task in teacher_tasks(setting, scale)]
    return [Row("the teacher: accuracy", [results[task]["accuracy"] for task in tasks], "%", lower_is_better=False)]


def share_teachers(setting: ImageSetting) -> dict[str, Any]:
    """The arguments of a `ClaimStudy` whose arms share the teachers of a setting."""
    return {
        "shared": partial(teacher_tasks, setting), "requires": setting.teacher_of,
        "rows": partial(teacher_rows, setting), "skip": setting.why_skipped, "describe": setting.describe,
    }  # fmt: skip
