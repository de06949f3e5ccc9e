"""What the checks see: a job's arms, teacher and data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.data import Dataset, Loader, counter_order
from limbeck.engine.train_config import Fabric, TrainConfig
from limbeck.recipe import Recipe
from limbeck.teachers import CachedTeacher, Preprocess, Teacher


@dataclass(frozen=True)
class CheckedArm:
    """One arm of the job, with all that its training needs.

    Attributes:
        name: The name of the arm.
        models: Creates the initial models; they are discarded after the checks.
        recipe: The recipe of its training.
        loader: The loader of its batches; it may be over a subset of the data.
        setting: The training settings of its runs.
        runs: The number of runs in the job.
        longer: The number of batches in an epoch of all data, divided by that of `loader`.
        last: The size of the last batch in an epoch of all data.
        check_stages: Whether its stages are checked; otherwise they are only timed.
        first: Whether all other arms wait for it, as for a teacher that the job trains.
    """

    name: str
    models: Callable[[], Mapping[str, nn.Module]]
    recipe: Recipe
    loader: Loader
    setting: TrainConfig
    runs: int = 1
    longer: float = 1.0
    last: int = 0
    check_stages: bool = True
    first: bool = False


@dataclass(frozen=True)
class CheckContext:
    """A job, opened as far as possible without training.

    Attributes:
        arms: The arms of the job.
        teacher: The teacher of the arms.
        networks: The modules of the teacher.
        trained: Whether the teacher is trained already.
        train: The training data.
        development: The development data.
        classes: The number of classes.
        class_names: The class names of the data.
        preprocess: Converts a batch to model inputs.
        fabric: Device and precision.
        side_by_side: The number of runs at a time.
        stored: The teacher with its cache, and the loader of the cached examples.
        views: The number of cached views of each example.
    """

    arms: tuple[CheckedArm, ...]
    teacher: Teacher
    networks: Mapping[str, nn.Module]
    trained: bool
    train: Dataset
    development: Dataset
    classes: int
    class_names: tuple[str, ...] | None
    preprocess: Preprocess
    fabric: Fabric
    side_by_side: int = 1
    stored: tuple[CachedTeacher, Loader] | None = None
    views: int = 1

    @property
    def device(self) -> torch.device:
        """The device of the models."""
        return self.fabric.device


def draw_examples(examples: Dataset, count: int) -> Batch:
    """Draw examples at random, the same ones every time; all of them if there are fewer than `count`."""
    # The first rows of a file are often of one class.
    return examples.take(counter_order(len(examples), seed=0, epoch=0, stream="doctor")[:count])
