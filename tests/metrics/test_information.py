"""Partial information decomposition: canonical gates, identities, and features that are known."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.errors import LimbeckError
from limbeck.metrics import decompose_information, estimate_information

GATES = {
    "xor": (lambda t, s: t ^ s, (0.0, 0.0, 0.0, 1.0)),
    "and": (lambda t, s: t & s, (0.3112781, 0.0, 0.0, 0.5)),
    "the teacher alone": (lambda t, s: t, (0.0, 1.0, 0.0, 0.0)),
    "the student alone": (lambda t, s: s, (0.0, 0.0, 1.0, 0.0)),
    "both bits": (lambda t, s: 2 * t + s, (0.0, 1.0, 1.0, 0.0)),
}


def information(joint):
    joint = joint.double() / joint.sum()
    total = 0.0
    for i in range(joint.shape[0]):
        for j in range(joint.shape[1]):
            if joint[i, j] > 0:
                total += float(joint[i, j] * (joint[i, j] / (joint[i].sum() * joint[:, j].sum())).log2())
    return total


@pytest.mark.parametrize("gate", GATES)
def test_the_parts_of_canonical_gates_are_known(gate):
    function, expected = GATES[gate]
    joint = torch.zeros(2, 2, 4)
    for t in (0, 1):
        for s in (0, 1):
            joint[t, s, function(t, s)] += 1
    assert decompose_information(joint) == pytest.approx(expected, abs=1e-3)


def test_a_copy_is_redundant():
    joint = torch.zeros(3, 3, 3)
    for i in range(3):
        joint[i, i, i] = 5
    assert decompose_information(joint) == pytest.approx((math.log2(3), 0, 0, 0), abs=1e-6)


def test_the_identities_hold_and_no_part_is_negative():
    draw = torch.Generator().manual_seed(0)
    for _ in range(5):
        joint = torch.rand(3, 2, 4, generator=draw).pow(3)
        parts = decompose_information(joint)
        assert min(parts) >= 0
        assert parts.redundant + parts.unique_teacher == pytest.approx(information(joint.sum(1)), abs=1e-6)
        assert parts.redundant + parts.unique_student == pytest.approx(information(joint.sum(0)), abs=1e-6)
        assert sum(parts) == pytest.approx(information(joint.reshape(6, 4)), abs=1e-6)


def test_the_minimum_is_that_of_a_grid():
    # With two values each, Q has one free number for each label: the mass moved along the diagonal.
    joint = torch.tensor([[[3.0, 1.0], [1.0, 2.0]], [[2.0, 1.0], [1.0, 4.0]]])
    p = joint.double() / joint.sum()
    sign = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    smallest = math.inf
    for a in torch.linspace(-0.2, 0.2, 81).tolist():
        for b in torch.linspace(-0.2, 0.2, 81).tolist():
            q = p + torch.stack([a * sign, b * sign], -1)
            if float(q.min()) >= 0:
                smallest = min(smallest, information(q.reshape(4, 2)))
    parts = decompose_information(joint)
    assert parts.redundant + parts.unique_teacher + parts.unique_student == pytest.approx(smallest, abs=1e-4)


@pytest.mark.parametrize("joint", [torch.zeros(2, 2, 2), -torch.ones(2, 2, 2), torch.full((2, 2, 2), float("nan"))])
def test_what_is_no_distribution_is_refused(joint):
    with pytest.raises(LimbeckError):
        decompose_information(joint)


def test_features_of_a_teacher_alone_are_unique_to_it():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    knows = 3 * torch.nn.functional.one_hot(labels).float() + 0.1 * torch.randn(300, 3, generator=draw)
    noise = torch.randn(300, 4, 2, 2, generator=draw)
    parts = estimate_information(knows, noise, labels)
    assert parts.unique_teacher > 1.5
    assert parts.redundant < 0.05
    both = estimate_information(knows, 10 * knows.flip(1), labels)
    assert both.redundant == pytest.approx(math.log2(3), abs=0.01)
    labels = labels.masked_fill(torch.arange(300) >= 30, -100)
    assert estimate_information(knows, knows, labels).redundant == pytest.approx(math.log2(3), abs=0.01)


def test_fewer_examples_than_clusters_are_refused():
    with pytest.raises(LimbeckError, match="fewer than clusters=3"):
        estimate_information(torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64))
