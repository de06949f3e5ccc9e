"""Chained transforms each have their own random numbers."""

from __future__ import annotations

import pytest
import torch

from limbeck.data import Chain, Crop, CutMix, Flip, Mixup, RandomShift
from limbeck.errors import LimbeckError

IDS, VIEWS = torch.arange(40), torch.arange(40) % 3
IMAGES = (torch.arange(40 * 64).view(40, 8, 8) * 7 % 251).to(torch.uint8)


def test_each_is_of_what_the_one_before_made():
    found = Chain(RandomShift(1), Flip())(IMAGES, IDS, VIEWS)
    assert torch.equal(found, Flip()(RandomShift(1)(IMAGES, IDS, VIEWS), IDS, VIEWS))
    assert Chain(Flip(), RandomShift(1)).fingerprint != Chain(RandomShift(1), Flip()).fingerprint


def test_two_of_one_kind_draw_other_numbers():
    twice = Chain(RandomShift(2), RandomShift(2), RandomShift(2))
    offsets = [one.offsets(IDS, VIEWS) for one in twice.transforms]
    assert twice.transforms[0] == RandomShift(2)
    for one in range(3):
        for other in range(one):
            assert float((offsets[one] == offsets[other]).double().mean()) < 0.4
    assert not torch.equal(Chain(Flip(), Flip())(IMAGES, IDS, VIEWS), IMAGES)
    assert Chain(Flip(), Flip(vertical=True)).transforms[1].seed != 0


def test_seeds_that_were_given_are_kept_where_they_differ():
    assert Chain(RandomShift(2), RandomShift(2, seed=5)).transforms == (RandomShift(2), RandomShift(2, seed=5))


def test_a_chain_in_a_chain_is_one_chain():
    nested = Chain(Chain(Crop(2), Crop(2)), Chain(Crop(2), Flip()))
    assert nested == Chain(Crop(2), Crop(2), Crop(2), Flip())
    assert len({one.fingerprint for one in nested.transforms}) == 4


def test_a_view_of_the_user_is_called_as_it_is():
    class Nothing:
        fingerprint = "nothing/1"

        def __call__(self, inputs, id, view):
            return inputs

    assert torch.equal(Chain(Nothing(), Nothing())(IMAGES, IDS, VIEWS), IMAGES)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("views", "words"),
    [
        ((), "at least one transform"),
        ((RandomShift(1), lambda inputs, id, view: inputs), "a transform has a fingerprint"),
        ((Flip,), r"Flip is a class.*Flip\(\)"),
        ((Flip(), Mixup()), r"mixes two examples.*mix=Mixup\(alpha=1\.0, seed=0\)"),
        ((CutMix(),), "mixes two examples"),
    ],
)
def test_what_is_no_view_is_refused(views, words):
    with pytest.raises(LimbeckError, match=words):
        Chain(*views)
