"""What the checks see: a job's arms, teacher and data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.data import Dataset, Loader, ShuffledLoader, counter_order
from limbeck.engine.train_config import Fabric, TrainConfig
from limbeck.recipe import Recipe
from limbeck.teachers import CachedTeacher, Preprocess, Teacher


@dataclass(frozen=True)
class CheckedArm:
    """One competitor, as it would learn.

    Attributes:
        name: What it is called.
        models: Makes the models that it begins with, thrown away afterwards.
        recipe: How it learns.
        loader: Where its batches come from; a part of the examples is enough to look at.
        setting: What its run holds fixed.
        runs: How many times the job runs it.
        longer: How many times as many batches an epoch of the whole data has.
        last: How many examples the last batch of an epoch of the whole data holds.
        judged: Whether its loss is looked at, or its time alone.
        first: Whether all others wait for it, as for a teacher that is trained.
    """

    name: str
    models: Callable[[], Mapping[str, nn.Module]]
    recipe: Recipe
    loader: Loader
    setting: TrainConfig
    runs: int = 1
    longer: float = 1.0
    last: int = 0
    judged: bool = True
    first: bool = False


@dataclass(frozen=True)
class CheckContext:
    """A job, opened as far as can be without paying.

    Attributes:
        arms: Its competitors.
        teacher: Who teaches them.
        networks: What the teacher is made of.
        trained: Whether the teacher has learnt what it teaches.
        train: What is learnt from.
        development: What choices are made on.
        classes: How many there are.
        class_names: What the data call them.
        preprocess: The way from a batch to inputs.
        fabric: Device and precision.
        side_by_side: How many runs go at a time.
        stored: The teacher with the answers that are kept of it, and what they are answers to.
        views: How many views of each example are kept.
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
    stored: tuple[CachedTeacher, ShuffledLoader] | None = None
    views: int = 1

    @property
    def device(self) -> torch.device:
        """Where models are asked."""
        return self.fabric.device


def draw_examples(examples: Dataset, count: int) -> Batch:
    """So many of the examples, drawn at random, the same ones every time; all of them if there are no more.

    The first as they lie are often of one class.
    """
    return examples.take(counter_order(len(examples), seed=0, epoch=0, stream="doctor")[:count])
