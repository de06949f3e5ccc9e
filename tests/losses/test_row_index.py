"""Ids of examples to rows of a memory bank."""

from __future__ import annotations

import pytest
import torch

from limbeck.errors import LimbeckError
from limbeck.losses import RowIndex


def test_every_id_has_the_row_of_its_place():
    ids = torch.randperm(1000)[:300] + 7
    index = RowIndex(ids)
    places = torch.randint(300, (50,))
    assert torch.equal(index(ids[places]), places)
    assert len(index) == 300
    assert not index.state_dict()  # it follows from the data


def test_an_id_that_is_none_of_the_examples():
    for other in (3, 11, 40):
        with pytest.raises(LimbeckError, match=f"Example {other} "):
            RowIndex(torch.tensor([5, 10, 20]))(torch.tensor([10, other]))


def test_ids_that_are_missing_or_equal():
    with pytest.raises(LimbeckError, match=r"does not know the ids"):
        RowIndex(None)
    with pytest.raises(LimbeckError, match=r"have no ids"):
        RowIndex(torch.arange(3))(None)
    with pytest.raises(LimbeckError, match=r"same id"):
        RowIndex(torch.tensor([1, 2, 1]))


@pytest.mark.parametrize(
    "ids", [torch.empty(0, dtype=torch.int64), torch.arange(6).view(3, 2), torch.tensor(3), torch.rand(3)]
)
def test_ids_that_are_no_column_of_whole_numbers(ids, unchecked):
    with pytest.raises(LimbeckError):
        RowIndex(ids)
