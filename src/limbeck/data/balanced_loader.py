"""`BalancedLoader`: batches with equally many examples of each of some classes, superclasses or clusters."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import final

import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.data.dataset import Dataset
from limbeck.data.loader import DatasetLoader
from limbeck.data.transform import BatchMix, Transform
from limbeck.errors import ArgumentError, DataError
from limbeck.random_seeds import counter_order, counter_uniform


@final
class BalancedLoader(DatasetLoader):
    """Batches that have the same number of examples of each of their classes.

    For losses that compare examples with each other: of 100 classes, a random batch of 64 hardly has two of a class.
    Each batch draws ``batch_size / examples_per_class`` classes, all with the same chance and none twice, and takes
    `examples_per_class` examples of each. So rare classes are seen as often as frequent ones.

    An epoch has as many examples as that of a `ShuffledLoader`, of which some are seen several times and others not.
    The examples of a class come in a new random order whenever it begins again, and none is in a batch twice, unless
    its class has fewer than `examples_per_class` examples. Classes, order and views are a pure function of (seed,
    epoch).

    Args:
        examples: The dataset.
        batch_size: Examples per batch, a multiple of `examples_per_class`.
        examples_per_class: Examples of each class in a batch.
        groups: The group of each example, in place of its class: superclasses (`group_by_superclass`), or clusters of
            a teacher's features. Examples of the group -100 are never drawn.
        seed: Seed of the classes and the order.
        drop_last: Drop the last batch of an epoch if it is smaller.
        augment: A transform, applied to every example.
        mix: Mixes each example with another one of the batch.
        views: Number of views of each example: epoch e uses view e mod `views`; None means a new view in every epoch.
        num_workers: Number of threads that prefetch batches.

    Raises:
        ArgumentError: If `batch_size` is no multiple of `examples_per_class`.
        DataError: If the examples have not one class each, or fewer classes than a batch.

    Example:
        >>> from limbeck.data import ArrayDataset
        >>> examples = ArrayDataset(torch.zeros(12, 2), torch.arange(12) % 3)
        >>> loader = BalancedLoader(examples, batch_size=4, examples_per_class=2)
        >>> [sorted(batch.labels.bincount(minlength=3).tolist()) for batch in loader]
        [[0, 2, 2], [0, 2, 2], [0, 2, 2]]

    Source: the class-uniform and superclass-uniform samplers of Peng et al., 2019, arXiv:1904.01802, section 3.4;
        `ShuffledLoader` is their uniform-random one.
    """

    repeats = True

    def __init__(
        self,
        examples: Dataset,
        *,
        batch_size: int,
        examples_per_class: int,
        groups: Int[Tensor, " n"] | None = None,
        seed: int = 0,
        drop_last: bool = False,
        augment: Transform | None = None,
        mix: BatchMix | None = None,
        views: int | None = None,
        num_workers: int | None = None,
    ) -> None:
        super().__init__(
            examples, batch_size=batch_size, seed=seed, drop_last=drop_last, augment=augment, mix=mix, views=views,
            num_workers=num_workers,
        )  # fmt: skip
        each = examples_per_class
        if isinstance(each, bool) or not isinstance(each, int) or each < 1 or batch_size % each:
            raise ArgumentError(
                f"examples_per_class={each!r} does not divide batch_size={batch_size}: a batch has a whole number of "
                "classes with as many examples each. Example: batch_size=64, examples_per_class=4.",
                argument="examples_per_class",
            )
        self.examples_per_class = each
        own = _check_groups(examples, groups)
        self._members = [(own == group).nonzero()[:, 0] for group in own[own != IGNORED].unique()]
        if batch_size // each > len(self._members):
            raise DataError(
                f"A batch of {batch_size} with {each} of each class needs {batch_size // each} classes, and there are "
                f"{len(self._members)}. Use batch_size={len(self._members) * each} or less, or a larger "
                "examples_per_class."
            )

    def order(self, epoch: int) -> Int[Tensor, " n"]:
        """The positions of the examples in the order of `epoch`."""
        drawn = self._draw_groups(epoch).flatten()
        order = torch.empty(len(drawn), self.examples_per_class, dtype=torch.int64)
        for group in range(len(self._members)):
            places = (drawn == group).nonzero()[:, 0]
            order[places] = self._take_examples(group, epoch, len(places))
        return order.flatten()[: self.examples_per_epoch]

    def _draw_groups(self, epoch: int) -> Int[Tensor, "batches groups"]:
        """The groups of each batch: those with the smallest random numbers."""
        batches = torch.arange(len(self))
        draws = counter_uniform(
            batches, torch.full_like(batches, epoch), seed=self.seed, draws=len(self._members), stream="groups"
        )
        return draws.argsort(dim=1, stable=True)[:, : self.batch_size // self.examples_per_class]

    def _take_examples(self, group: int, epoch: int, times: int) -> Int[Tensor, "times each"]:
        """Take examples of a group for as many batches; what is left of a pass is too few for a batch."""
        own, each, passes = self._members[group], self.examples_per_class, []
        whole = max(len(own) // each, 1)
        for number in range(-(-times // whole)):
            shuffled = own[counter_order(len(own), seed=self.seed, epoch=epoch, stream=f"group {group} {number}")]
            repeated = shuffled.repeat(-(-each // len(own)))
            passes.append(repeated[: whole * each].unflatten(0, (whole, each)))
        return torch.cat(passes)[:times] if passes else own.new_empty(0, each)


def group_by_superclass(examples: Dataset, superclasses: Sequence[int]) -> Int[Tensor, " n"]:
    """The superclass of each example, for `BalancedLoader`.

    Args:
        examples: The dataset.
        superclasses: The superclass of each class.

    Raises:
        DataError: If the examples have not one class each, or there is not one superclass for each class.

    Example:
        >>> from limbeck.data import ArrayDataset
        >>> group_by_superclass(ArrayDataset(torch.zeros(4, 1), torch.tensor([0, 1, 2, 1])), [0, 7, 7])
        tensor([0, 7, 7, 7])
    """
    labels = _check_groups(examples, None)
    if not all(isinstance(one, Integral) for one in superclasses):
        raise DataError(f"Superclasses are whole numbers, one for each class; got {list(superclasses)!r}.")
    names = examples.class_names
    classes = len(names) if names else int(labels.max()) + 1
    if len(superclasses) != classes:
        raise DataError(f"There are {len(superclasses)} superclasses for {classes} classes; give one for each class.")
    known = labels != IGNORED
    return torch.as_tensor(superclasses)[labels.masked_fill(~known, 0)].masked_fill(~known, IGNORED)


def _check_groups(examples: Dataset, groups: Tensor | None) -> Int[Tensor, " n"]:
    own = examples.labels if groups is None else groups
    if not isinstance(own, Tensor) or own.is_floating_point() or own.ndim != 1 or not bool((own != IGNORED).any()):
        raise DataError("Batches with classes in equal parts need one class for each example; these have none.")
    if len(own) != len(examples):
        raise DataError(f"There are {len(examples)} examples, but {len(own)} groups.")
    return own.to("cpu", torch.int64)
