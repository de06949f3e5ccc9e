"""A classifier with other label numbers is told from a poor one."""

from __future__ import annotations

import pytest
import torch

from limbeck.metrics.classes import is_misordered, misorder_message, renamed_accuracy


def judged(said, known, classes, reach=0.3):
    found = float((said == known).double().mean())
    return is_misordered(found, renamed_accuracy(said, known, classes)[0], known, reach)


@pytest.mark.parametrize("order", [[1, 0, 2, 3, 4, 5, 6, 7], [1, 2, 3, 0, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1, 0]])
def test_a_part_of_the_classes_in_another_order_is_detected(order):
    known = torch.arange(160) % 8
    said = torch.tensor(order)[known]
    assert judged(said, known, 8)
    assert renamed_accuracy(said, known, 8)[1] == [order.index(place) for place in range(8)]


def test_a_poor_one_is_not_taken_for_one():
    draw = torch.Generator().manual_seed(0)
    for classes in (2, 10, 50):
        for right in (0.2, 0.5, 0.9):
            known = torch.randint(classes, (400,), generator=draw)
            guess = torch.randint(classes, (400,), generator=draw)
            said = torch.where(torch.rand(400, generator=draw) < right, known, guess)
            assert not judged(said, known, classes)
    known = torch.zeros(100, dtype=torch.int64)
    assert not judged(torch.ones(100, dtype=torch.int64), known, 2)


def test_numbers_are_reported_apart_from_names():
    assert misorder_message([0, 2, 1], ("0", "10", "2")) == (
        "its output 1 is class 2, called '2', its output 2 is class 1, called '10'"
    )
