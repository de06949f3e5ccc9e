"""Does the check of views pass what is right, and catch what is broken?"""

from __future__ import annotations

import itertools

import pytest
import torch

from limbeck.data import Chain, Crop, Flip, RandAugment
from limbeck.testing import check_transform

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
    with pytest.raises(AssertionError, match=rf"A law of transforms is broken: .*{sentence}"):
        check_transform(view, IMAGES.clone())


def test_one_example_shows_too_little():
    with pytest.raises(AssertionError, match="give at least two"):
        check_transform(Flip(), IMAGES[:1])
