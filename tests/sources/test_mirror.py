"""Is a mirrored image the right one, and do augmentations follow each other?"""

from __future__ import annotations

import pytest
import torch

from limbeck.errors import DataError, LimbeckError
from limbeck.sources import InTurn, Mirror, Shift, View

IDS, VIEWS = torch.arange(40), torch.arange(40) % 3


@pytest.mark.parametrize("shape", [(40, 5, 6), (40, 3, 5, 6)])
def test_an_image_is_swapped_left_for_right_or_left_alone(shape):
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    kept = images.clone()
    found, swapped = Mirror(seed=1)(images, IDS, VIEWS), Mirror(seed=1).mirrored(IDS, VIEWS)
    assert 0 < int(swapped.sum()) < 40
    for row, is_swapped in enumerate(swapped.tolist()):
        wanted = torch.stack(images[row].unbind(-1)[::-1], -1) if is_swapped else images[row]
        assert torch.equal(found[row], wanted)
    assert torch.equal(images, kept)


def test_half_of_them_are_and_others_in_another_view_or_with_another_seed():
    ids = torch.arange(20_000)
    zero, one = torch.zeros_like(ids), torch.ones_like(ids)
    first = Mirror().mirrored(ids, zero)
    assert abs(float(first.double().mean()) - 0.5) < 0.02
    for other in (Mirror().mirrored(ids, one), Mirror(seed=1).mirrored(ids, zero)):
        assert abs(float((first == other).double().mean()) - 0.5) < 0.02


def test_it_does_not_depend_on_the_batch():
    images, some = torch.randint(0, 256, (40, 4, 4)), torch.tensor([30, 2, 11])
    both = InTurn(Shift(2), Mirror())
    assert torch.equal(both(images, IDS, VIEWS)[some], both(images[some], IDS[some], VIEWS[some]))


def test_views_follow_each_other():
    images = torch.randint(0, 256, (40, 4, 4))
    found = InTurn(Shift(1), Mirror())(images, IDS, VIEWS)
    assert torch.equal(found, Mirror()(Shift(1)(images, IDS, VIEWS), IDS, VIEWS))
    assert isinstance(InTurn(Mirror()), View)
    assert InTurn(Mirror(), Shift(1)).fingerprint != InTurn(Shift(1), Mirror()).fingerprint


def test_what_is_no_image_or_no_view_is_refused():
    with pytest.raises(DataError, match=r"Mirror wants images .* got \[2, 3\]"):
        Mirror()(torch.zeros(2, 3), IDS[:2], VIEWS[:2])
    with pytest.raises(DataError, match="channels before height"):
        Mirror()(torch.zeros(2, 8, 8, 3), IDS[:2], VIEWS[:2])
    with pytest.raises(LimbeckError, match="at least one"):
        InTurn()
    with pytest.raises(LimbeckError, match="fingerprint"):
        InTurn(Shift(1), lambda inputs, id, view: inputs)


@pytest.mark.usefixtures("unchecked")
def test_a_class_of_views_is_no_view():
    with pytest.raises(LimbeckError, match=r"Mirror, a class.*Mirror\(\)"):
        InTurn(Shift(1), Mirror)
