"""Memories of losses: a queue, and moving averages."""

from __future__ import annotations

import pytest
import torch

from limbeck.losses import FeatureQueue, RunningMean


def numbers(*values):
    return torch.tensor(values, dtype=torch.float32).view(-1, 1)


def test_a_queue_is_first_in_first_out_and_forgets_what_has_no_room():
    queue = FeatureQueue(3, 1)
    assert queue.rows.shape == (0, 1)
    queue.push(numbers(1, 2))
    assert queue.rows.flatten().tolist() == [1, 2]
    queue.push(numbers(3, 4))
    assert queue.rows.flatten().tolist() == [2, 3, 4]
    queue.push(numbers(5, 6, 7, 8, 9))
    assert queue.rows.flatten().tolist() == [7, 8, 9]
    queue.push(numbers())
    assert queue.rows.flatten().tolist() == [7, 8, 9]


def test_a_queue_does_not_depend_on_how_rows_are_pushed():
    whole, parts = FeatureQueue(4, 1), FeatureQueue(4, 1)
    whole.push(numbers(*range(7)))
    for value in range(7):
        parts.push(numbers(value))
    assert torch.equal(whole.rows, parts.rows)


def test_memories_are_in_the_state_and_come_back():
    queue, mean = FeatureQueue(3, 2), RunningMean(2, decay=0.9)
    queue.push(torch.randn(5, 2))
    mean.update(torch.tensor([0]), torch.tensor([2.0]))
    again = FeatureQueue(3, 2), RunningMean(2, decay=0.9)
    again[0].load_state_dict(queue.state_dict())
    again[1].load_state_dict(mean.state_dict())
    assert torch.equal(again[0].rows, queue.rows)
    again[1].update(torch.tensor([0]), torch.tensor([4.0]))
    assert again[1].value.tolist() == pytest.approx([0.9 * 2 + 0.1 * 4, 0.0])


def test_constant_values_are_a_fixed_point_of_an_average():
    mean = RunningMean(3, decay=0.99)
    for _ in range(20):
        mean.update(torch.tensor([1, 1, 2]), torch.tensor([0.7, 0.7, 0.3]))
    assert mean.value.tolist() == pytest.approx([0.0, 0.7, 0.3])
