"""Embedding distillation: distances of embeddings, and a projection that is shipped with the student."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import nn

from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.methods import make
from limbeck.methods.embeddings.embedding_distillation import (
    cosine_distance,
    embedding_distillation,
    euclidean_distance,
)
from limbeck.models import build
from limbeck.recipe import Optimizer
from limbeck.teachers import Ensemble
from methods.row_math import to_rows

DRAW = torch.Generator().manual_seed(0)
Z, V = (3 * torch.randn(6, 5, generator=DRAW, dtype=torch.float64) for _ in range(2))


def pairs(student, teacher):
    return zip(to_rows(student), to_rows(teacher), strict=True)


def brute_force_cosine_distance(student, teacher):
    values = []
    for z, v in pairs(student, teacher):
        dot, lengths = sum(a * b for a, b in zip(z, v, strict=True)), [math.hypot(*x) for x in (z, v)]
        values.append(0.0 if lengths[1] == 0 else 1.0 if lengths[0] == 0 else 1 - dot / (lengths[0] * lengths[1]))
    return torch.tensor(values, dtype=torch.float64)


def brute_force_euclidean_distance(student, teacher):
    return torch.tensor([math.dist(z, v) for z, v in pairs(student, teacher)], dtype=torch.float64)


@pytest.mark.parametrize("kernel", [cosine_distance, euclidean_distance])
def test_the_kernels_are_the_formulas(kernel):
    reference = globals()[f"brute_force_{kernel.__name__}"]
    z, v = Z.clone(), V.clone()
    z[0], v[1], v[2] = 0.0, 0.0, z[2]
    torch.testing.assert_close(kernel(z, v), reference(z, v))


def test_embeddings_of_zeros_have_no_direction():
    zeros = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True)
    assert cosine_distance(Z[:1], torch.zeros(1, 5, dtype=torch.float64)) == 0
    value = cosine_distance(zeros, V[:1])
    assert value == 1
    assert torch.autograd.grad(value.sum(), zeros)[0].isfinite().all()


def encoders(width=3, dimension=5):
    student = build("mlp", inputs=4, classes=width, hidden=[16], seed=0)
    teacher = build("mlp", inputs=4, classes=dimension, hidden=[16], seed=1)
    return student, teacher, torch.randn(64, 4, generator=DRAW)


@pytest.mark.parametrize("loss", ["cosine", "l2", "mse"])
def test_a_narrow_student_is_shipped_with_its_projection_and_learns(loss):
    student, teacher, data = encoders()
    recipe = make("embedding_distillation", teacher=teacher, loss=loss)
    run = distill(
        student, recipe, data, batch_size=32, epochs=40, seed=0, optimizer=Optimizer("adam", lr=1e-2)
    ).finish()
    with torch.no_grad():
        ours, theirs = run.student.eval()(data), teacher.eval()(data)
    assert ours.shape == theirs.shape
    alone = torch.randn(64, 5, generator=DRAW)
    assert cosine_distance(ours, theirs).mean() < 0.5 * cosine_distance(alone, theirs).mean()


def test_without_a_projection_the_student_is_shipped_as_it_is():
    student, teacher, data = encoders(width=5)
    recipe = make("embedding_distillation", teacher=teacher, projection=False)
    run = distill(student, recipe, data, batch_size=32, epochs=1, seed=0).finish()
    assert list(run.student.state_dict()) == list(student.state_dict())


def test_embeddings_of_other_sizes_need_a_projection():
    student, teacher, data = encoders()
    with pytest.raises(LimbeckError, match="3 values in the last dimension"):
        distill(student, make("embedding_distillation", teacher=teacher, projection=False), data, epochs=1).finish()


def test_an_output_with_positions_is_no_embedding():
    maps = nn.Conv2d(1, 2, 1)
    with pytest.raises(LimbeckError, match="pool it over"):
        distill(maps, make("embedding_distillation", teacher=maps), torch.randn(8, 1, 4, 4), epochs=1).finish()


def test_an_unknown_loss_gets_the_nearest_name():
    with pytest.raises(LimbeckError, match="Did you mean 'cosine'"):
        make("embedding_distillation", teacher=nn.Linear(2, 3), loss="cosin")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_projection_has_the_type_of_the_student(dtype):
    student, teacher, data = encoders()
    recipe = make("embedding_distillation", teacher=teacher.to(dtype))
    run = distill(student.to(dtype), recipe, data.to(dtype), batch_size=32, epochs=1, seed=0).finish()
    assert {tensor.dtype for tensor in run.student.parameters()} == {dtype}


@pytest.mark.parametrize("wrong", [{"dimension": "5"}, {"dimension": 1.5}, {"dimension": 0}, {"loss": ["mse"]}])
def test_a_value_of_another_kind_is_refused(wrong):
    with pytest.raises(LimbeckError):
        inspect.unwrap(embedding_distillation)(nn.Linear(2, 3), **wrong)


def test_a_teacher_of_unknown_size_says_what_to_type():
    student, teacher, data = encoders()
    pair = Ensemble(teacher, teacher)
    with pytest.raises(LimbeckError, match="dimension="):
        distill(student, make("embedding_distillation", teacher=pair), data, epochs=1).finish()
    recipe = make("embedding_distillation", teacher=pair, dimension=5)
    assert distill(student, recipe, data, batch_size=32, epochs=1, seed=0).finish().finished
