"""List-wise KL: a temperature for each side, and an error where float32 gives a gradient of exactly 0."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from limbeck.engine import distill
from limbeck.errors import LimbeckError, LimbeckWarning
from limbeck.methods import make
from limbeck.methods.embeddings.listwise_kl import find_dead_rows, two_temperature_kl
from methods.row_math import kl, like, to_rows

DRAW = torch.Generator().manual_seed(0)
S, T = (3 * torch.randn(6, 5, generator=DRAW, dtype=torch.float64) for _ in range(2))


def brute_force_two_temperature_kl(student, teacher, *, student_temperature=1.0, teacher_temperature=1.0):
    rows = zip(to_rows(student), to_rows(teacher), strict=True)
    values = [
        student_temperature**2 * kl([x / student_temperature for x in s], [x / teacher_temperature for x in t])
        for s, t in rows
    ]
    return like(student, values)


@pytest.mark.parametrize("temperatures", [(1.0, 1.0), (0.5, 4.0), (10.0, 0.3)])
def test_the_kernel_is_the_formula(temperatures):
    hyper = dict(zip(("student_temperature", "teacher_temperature"), temperatures, strict=True))
    value = two_temperature_kl(S, T, **hyper)
    torch.testing.assert_close(value, brute_force_two_temperature_kl(S, T, **hyper))


def test_scores_of_another_size_are_equal_at_the_right_temperatures():
    value = two_temperature_kl(S / 20, S, student_temperature=0.05, teacher_temperature=1.0)
    assert value.abs().max() < 1e-12


def test_rows_with_a_gradient_of_exactly_0_are_found():
    s = torch.tensor([[500.0, 0.0, 200.0], [0.0, 500.0, 200.0], [1.0, 0.0, 0.5]], requires_grad=True)
    t = torch.tensor([[900.0, 100.0, 0.0], [900.0, 100.0, 0.0], [2.0, 0.0, 1.0]])
    dead, sure = find_dead_rows(s.detach(), t)
    (slope,) = torch.autograd.grad(two_temperature_kl(s, t).sum(), s)
    assert dead.tolist() == [not bool(row.any()) for row in slope] == [True, False, False]
    assert sure.tolist() == [True, True, False]


class Scores(nn.Module):
    """A ranker whose scores are its inputs times a factor."""

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x):
        return self.factor * x


DATA = torch.tensor([[1.0, 0.2, 0.0], [0.1, 1.0, 0.3]]).repeat(8, 1)


def learn(student, teacher, **temperatures):
    return distill(
        Scores(student), make("listwise_kl", teacher=Scores(teacher), **temperatures), DATA, epochs=1
    ).finish()


def test_a_run_that_could_not_learn_is_refused_with_temperatures_that_can():
    with pytest.raises(
        LimbeckError, match=r"exactly 0 in float32 for 100%.*student_temperature=45, teacher_temperature=72"
    ):
        learn(500.0, 800.0)
    run = learn(500.0, 800.0, student_temperature=45.0, teacher_temperature=72.0)
    assert run.finished


def test_a_teacher_whose_softmax_is_one_candidate_is_reported():
    with pytest.warns(LimbeckWarning, match="only its best candidate is learned"):
        learn(1.0, 800.0)


@pytest.mark.parametrize("wrong", [{"student_temperature": 0.0}, {"teacher_temperature": -1.0}])
def test_a_temperature_of_0_is_refused(wrong):
    with pytest.raises(LimbeckError, match="temperature"):
        make("listwise_kl", teacher=nn.Linear(2, 3), **wrong)


@pytest.mark.filterwarnings("ignore:The teacher's softmax is 1")
def test_what_the_student_has_learned_is_no_reason_to_refuse_a_resumed_run(tmp_path):
    recipe = make("listwise_kl", teacher=Scores(800.0))
    options = {"epochs": 3, "batch_size": 8, "seed": 0, "checkpoint_seconds": 0.0, "log_every": 1}
    run = distill(Scores(1.0), recipe, DATA, out=tmp_path / "run", **options)
    for number, _ in enumerate(run):
        if number == 0:
            with torch.no_grad():
                run.student.factor.fill_(500.0)  # as after many steps
        if number == 2:
            shutil.copytree(tmp_path / "run", tmp_path / "killed")
            break
    resumed = distill(Scores(1.0), recipe, DATA, out=tmp_path / "killed", resume=True, **options)
    assert resumed.finish().student.factor > 400
