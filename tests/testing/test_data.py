"""Checks of loaders and transforms: what is right passes, and each law catches what breaks it."""

from __future__ import annotations

import itertools

import pytest
import torch

from limbeck.batch import Batch
from limbeck.data import ArrayDataset, Chain, Crop, Flip, Loader, RandAugment, RandomShift, ShuffledLoader, TorchLoader
from limbeck.errors import LimbeckError
from limbeck.testing import LawError, check_loader, check_transform


def breaks(sentence):
    return pytest.raises(LawError, match=rf"laws? of \w+ (is|are) broken:(?s:.*)({sentence})")


ARRAYS = ArrayDataset(torch.randn(10, 2, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 3)


def test_right_sources_pass():
    check_loader(ShuffledLoader(ARRAYS, batch_size=4))
    check_loader(
        ShuffledLoader(ArrayDataset(torch.rand(7, 4, 4)), batch_size=3, augment=RandomShift(1), drop_last=True)
    )
    check_loader(
        TorchLoader(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(9, 2)), batch_size=4))
    )


class Plain(Loader):
    """A right source, of which each test breaks one thing."""

    examples_per_epoch = 6

    def __init__(self, **broken):
        super().__init__()
        self.broken = broken
        self.read = itertools.count()

    def __len__(self):
        return self.broken.get("length", 3)

    @property
    def fingerprint(self):
        return self.broken.get("mark", "plain") or str(next(self.read))

    def batches(self, epoch, start):
        for number in range(start, 3):
            id = torch.tensor([2 * number, 2 * number + 1]) % self.broken.get("ids", 100)
            inputs = torch.full((2, 1), float(number))
            if "restless" in self.broken:
                inputs = inputs + next(self.read)
            if "late" in self.broken and start:
                inputs = inputs + 1
            labels = torch.zeros(self.broken.get("labels", 2), dtype=self.broken.get("dtype", torch.int64))
            yield Batch(inputs, None if "nameless" in self.broken else id, labels=labels)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ({"length": 4}, "3 batches, not 4"),
        ({"ids": 5}, "an id occurs twice"),
        ({"nameless": 1}, "a batch has none"),
        ({"labels": 3}, "labels has 3 rows, not 2"),
        ({"dtype": torch.int32}, "labels is torch.int32"),
        ({"restless": 1}, r"peek\(\) is not the next batch"),
        ({"late": 1}, "the remaining batches differ|peek"),
        ({"mark": ""}, "fingerprint changes"),
    ],
    ids=str,
)
def test_broken_sources_are_caught(broken, sentence):
    check_loader(Plain())
    with breaks(sentence):
        check_loader(Plain(**broken))


# --- transforms


IMAGES = torch.arange(6 * 3 * 81).view(6, 3, 9, 9).remainder(251).to(torch.uint8)


def test_right_views_pass():
    check_transform(Chain(Crop(), Flip(), RandAugment()), IMAGES)

    class Columns:
        fingerprint = "columns/1"

        def __call__(self, inputs, id, view):
            return {**inputs, "x": inputs["x"] + view[:, None]}

    check_transform(Columns(), {"x": torch.zeros(4, 2), "mask": torch.ones(4, 2)})


def made(change, fingerprint="broken/1"):
    return type("Broken", (), {"fingerprint": fingerprint, "__call__": lambda self, *given: change(*given)})()


COUNT = itertools.count()


@pytest.mark.parametrize(
    ("view", "sentence"),
    [
        (made(lambda x, id, view: x, fingerprint=""), "it has no fingerprint"),
        (made(lambda x, id, view: x.add_(1)), "it writes into the inputs"),
        (made(lambda x, id, view: x + torch.randint(9, x.shape).byte()), "use counter_uniform"),
        (made(lambda x, id, view: x + next(COUNT)), "a second call gives another result"),
        (made(lambda x, id, view: x + torch.arange(len(x)).view(-1, 1, 1, 1)), "depends on the order of the batch"),
        (made(lambda x, id, view: x + len(x)), "depends on what else is in the batch"),
        (made(lambda x, id, view: x, fingerprint=property(lambda self: str(next(COUNT)))), "its fingerprint changes"),
    ],
)  # fmt: skip
def test_each_law_is_checked(view, sentence):
    with pytest.raises(AssertionError, match=rf"laws? of transforms (is|are) broken:(?s:.*){sentence}"):
        check_transform(view, IMAGES.clone())


def test_all_broken_laws_of_a_transform_are_listed_at_once():
    def change(x, id, view):
        return x.add_(1) + torch.randint(9, x.shape).byte() + len(x)

    with pytest.raises(LawError) as error:
        check_transform(made(change, fingerprint=""), IMAGES.clone())
    assert len(error.value.broken) == 4


def test_a_transform_that_fails_is_one_broken_law():
    with pytest.raises(LawError) as error:
        check_transform(made(lambda x, id, view: x + "1"), IMAGES.clone())
    assert len(error.value.broken) == 1


def test_one_example_is_not_enough():
    with pytest.raises(LimbeckError):
        check_transform(Flip(), IMAGES[:1])
