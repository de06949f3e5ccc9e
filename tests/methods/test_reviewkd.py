"""ReviewKD: the brute force of the hierarchical loss, fusions of layers of other sizes, and what a student learns."""

from __future__ import annotations

import pytest
import torch

from limbeck.batch import Batch, Outputs, Progress
from limbeck.errors import ArgumentError
from limbeck.losses import LossContext
from limbeck.methods import make
from limbeck.methods.features.reviewkd import KnowledgeReview, hierarchical_context_loss
from methods.planted_maps import PLANTED


def brute_force_hierarchical_context_loss(student, teacher):
    values = []
    for one, other in zip(student.double(), teacher.double(), strict=True):
        channels, height, width = one.shape
        total, weights = _mean_square(one - other), 1.0
        for side, weight in ((4, 0.5), (2, 0.25), (1, 0.125)):
            if side >= height:
                continue
            pooled = torch.zeros(channels, side, side, dtype=torch.float64)
            for i in range(side):
                for j in range(side):
                    rows = slice(i * height // side, -(-(i + 1) * height // side))
                    columns = slice(j * width // side, -(-(j + 1) * width // side))
                    for c in range(channels):
                        part = (one - other)[c, rows, columns].flatten().tolist()
                        pooled[c, i, j] = sum(part) / len(part)
            total, weights = total + weight * _mean_square(pooled), weights + weight
        values.append(total / weights)
    return torch.tensor(values, dtype=torch.float64)


def _mean_square(x):
    return sum(v * v for v in x.flatten().tolist()) / x.numel()


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 6), (8, 8)])
def test_it_is_the_brute_force_at_any_size(size):
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 2, *size, generator=draw, dtype=torch.float64)
    expected = brute_force_hierarchical_context_loss(student, teacher)
    torch.testing.assert_close(hierarchical_context_loss(student, teacher), expected)


def test_each_layer_of_the_teacher_reaches_the_deeper_layers_of_the_student():
    student = {"a": torch.randn(4, 3, 8, 8), "b": torch.randn(4, 6, 4, 4), "c": torch.randn(4, 6)}
    teacher = {"a": torch.randn(4, 5, 8, 8), "b": torch.randn(4, 7, 2, 2), "c": torch.randn(4, 9)}
    ours = Outputs({key: value.requires_grad_() for key, value in student.items()})
    batch = Batch(torch.zeros(4, 1))
    term = KnowledgeReview([(key, key) for key in "abc"], 8).setup(LossContext(ours, Outputs(teacher), batch))
    fused, left = [], None
    for number, key in reversed(list(enumerate("abc"))):
        maps, size = (x[:, :, None, None] if x.ndim == 2 else x for x in (student[key], teacher[key]))
        out, left = term.fusions[number](maps, left, tuple(size.shape[2:]))
        fused.append(hierarchical_context_loss(out, size))
    value = term.term(ours, Outputs(teacher), batch, Progress()).total
    torch.testing.assert_close(value, torch.stack(fused).sum())
    slopes = torch.autograd.grad(fused[-1].sum(), list(student.values()))
    assert all(bool((slope != 0).any()) for slope in slopes)


@pytest.mark.parametrize("wrong", [{"warmup": 1.5}, {"mid": 0}, {"weight": -1.0}])
def test_wrong_arguments_are_refused_when_it_is_built(wrong):
    with pytest.raises(ArgumentError):
        make("reviewkd", teacher="t", at="a", student_at="a", **wrong)


def test_a_student_that_reviews_learns_from_fewer_labels():
    layers = ["layer1", "layer2"]
    recipe = make("reviewkd", teacher=PLANTED.truth, at=layers, student_at=layers, mid=8, weight=5.0)
    assert PLANTED.accuracy(PLANTED.learn(recipe).student) > PLANTED.accuracy_alone + 0.02
