"""What all arms of a comparison share: data, teacher, the student's shape."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from limbeck.batch import IGNORED, Batch
from limbeck.compare.class_order import load_in_order
from limbeck.compare.student_init import init_student
from limbeck.data import Dataset, DataSplits, ShuffledLoader
from limbeck.engine import TrainConfig
from limbeck.errors import DataError, LimbeckError
from limbeck.job import Budget, Job, ModelSettings, add_flag_hint, train_and_development
from limbeck.metrics import predict
from limbeck.models import NoModuleError, name_classes, open_model, reference_names, seeded
from limbeck.teachers import Teacher

_ASKED = 250
"""Examples that a model is asked about at a time: with a thousand, a small network's layers no longer fit a cache."""


class ComparisonData(NamedTuple):
    """What all arms share.

    Attributes:
        data: The data set.
        train: What is learnt from.
        development: What choices and checks are made on; carved from the training data.
        input_shape: One example as the models see it.
        classes: How many classes there are.
        reordered: Whether the classes are in another order than the data alone would have them: the teacher's.
    """

    data: DataSplits
    train: Dataset
    development: Dataset
    input_shape: tuple[int, ...]
    classes: int
    reordered: bool = False


def load_comparison_data(job: Job) -> ComparisonData:
    """Open the job's data and carve the development split.

    Raises:
        LimbeckError: If the data cannot be had, or are too few.
    """
    data, reordered = load_in_order(job)
    train, development = train_and_development(job, data)
    for part, examples in {"training": train, "development": development, "test": data.test}.items():
        _check_read(data, part, examples)
    first = data.preprocess(train.take(torch.tensor([0])))
    # What a model is called with by names, such as token ids and their mask, has no one shape.
    shape = tuple(first.shape[1:]) if isinstance(first, Tensor) else ()
    classes = len(data.class_names) if data.class_names else _classes(data.train)
    if classes < 2:
        raise DataError(f"{data.name} has one class: there is nothing to tell apart.")
    _check_judged(data.test, "test", classes)
    if data.development is not None:
        _check_judged(development, "development", classes)
    return ComparisonData(data, train, development, shape, classes, reordered)


def new_model(model: ModelSettings, material: ComparisonData, *, seed: int, who: str) -> nn.Module:
    """The model by its name, with initial weights that depend on `seed` alone; `who` it is begins what is wrong."""
    if material.data.tokenizer is not None and model.model in reference_names():
        raise LimbeckError(
            f"{who} {model.model} reads one tensor, and {material.data.name} gives several by name: take a model that "
            f"is called so, such as hf:FOLDER, or hf:bert with --set {who}.pretrained=false."
        )
    try:
        with seeded(seed):
            network = open_model(
                model.model, input_shape=material.input_shape, classes=material.classes, **model.arguments
            )
            _draw_lazy(network, material, who=f"{who} {model.model}")
            return network
    except NoModuleError:
        raise
    except LimbeckError as error:
        raise add_flag_hint(error, who) from error


def _draw_lazy(model: nn.Module, material: ComparisonData, *, who: str) -> None:
    """Let lazy layers draw their weights now: a model is saved, copied and counted before it is trained."""
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        try:
            predict(model, material.development.take(torch.tensor([0])), preprocess=material.data.preprocess)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise LimbeckError(f"{who} has lazy layers, and its first call failed: {error}") from error


def student_of(job: Job, material: ComparisonData, *, seed: int, teacher: Teacher | None = None) -> nn.Module:
    """The job's student, newly made, or begun as layers of the teacher as it is now; it speaks the data's class names.

    Raises:
        LimbeckError: If it cannot be made, or is to begin as layers of a teacher that has none.
    """
    if job.student.is_shallow:
        student = init_student(job.student, teacher, seed=seed)
    else:
        student = new_model(job.student, material, seed=seed, who="student")
    return name_classes(student, material.data.class_names)


def setting_of(job: Job, budget: Budget, material: ComparisonData, *, seed: int, workers: int = 1) -> TrainConfig:
    """The budget as the engine wants it."""
    return TrainConfig(
        optimizer=budget.make_optimizer(), epochs=budget.epochs, accumulate=budget.accumulate,
        preprocess=material.data.preprocess,
        seed=seed, precision=job.precision, workers=workers,
    )  # fmt: skip


def eval_batches(examples: Dataset) -> list[Batch]:
    """All examples in order, in batches for prediction."""
    return list(ShuffledLoader(examples, batch_size=_ASKED, shuffle=False))


def lines_of(data: DataSplits) -> tuple[str, ...]:
    """What was read of the data, as lines for people; none where nobody has summed it up."""
    return data.summary.lines() if data.summary is not None else ()


def _classes(examples: Dataset) -> int:
    labels = examples.labels
    if labels is None or not bool((labels != IGNORED).any()):
        raise DataError("The training data have no labels, so nobody can tell how many classes there are.")
    return int(labels.max()) + 1


def _check_read(data: DataSplits, part: str, examples: Dataset) -> None:
    """Refuse examples that the data's own ``preprocess`` cannot read: it may be a person's function."""
    try:
        read = data.preprocess(examples.take(torch.tensor([0])))
    except LimbeckError:
        raise
    except Exception as error:  # whatever a person's function raises
        raise LimbeckError(
            f"The preprocess of {data.name} failed on an example of the {part} data: {type(error).__name__}: {error}. "
            "It is called with a lb.Batch, and returns what a model is called with: lambda batch: batch.inputs / 255."
        ) from error
    if read is None:
        raise LimbeckError(f"The preprocess of {data.name} returned None; it must return what a model is called with.")


def _check_judged(examples: Dataset, part: str, classes: int) -> None:
    labels = examples.labels
    labeled = labels is not None and bool((labels != IGNORED).any())
    if not labeled and part == "test":
        raise DataError("The test data have no labels, so no arm can be judged by them.")
    if labeled and int(labels.max()) >= classes:  # type: ignore[union-attr]
        wrong, last = int(labels.max()), classes - 1  # type: ignore[union-attr]
        raise DataError(f"Label {wrong} of the {part} data is no class of the training data (0 to {last}).")
