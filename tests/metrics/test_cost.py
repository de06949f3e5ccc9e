"""Latency is a median for one example on one thread; the model is unchanged."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.errors import LimbeckError
from limbeck.metrics import answer_latency, cost_of, latency
from limbeck.models import build
from limbeck.teachers import ModelTeacher, Specialists


class Watched(nn.Module):
    """Advances a clock of its own by given milliseconds at each call."""

    def __init__(self, milliseconds):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.left, self.now, self.seen = list(milliseconds), 0.0, []

    def forward(self, x):
        self.now += self.left.pop(0) / 1e3
        self.seen.append((self.training, torch.is_grad_enabled(), torch.get_num_threads()))
        return x


@pytest.fixture
def watched(monkeypatch):
    def make(milliseconds):
        model = Watched(milliseconds)
        monkeypatch.setattr("limbeck.metrics.cost.time.perf_counter", lambda: model.now)
        return model

    return make


def test_the_median_after_warming_up_divided_by_the_batch(watched):
    model = watched([1000, 1000, 1000, 8, 4, 500])
    assert latency(model, torch.zeros(4, 2), repeats=3) == pytest.approx(2.0)
    assert model.left == []


def test_eval_mode_without_gradient_on_one_thread_and_all_of_it_put_back(watched):
    torch.set_num_threads(2)
    model = watched([1.0] * 5)
    latency(model, torch.zeros(4, 2), repeats=2)
    assert model.seen == [(False, False, 1)] * 5
    assert torch.get_num_threads() == 2
    assert model.training
    model = watched([1.0] * 5)
    latency(model, torch.zeros(4, 2), repeats=2, threads=2)
    assert model.seen == [(False, False, 2)] * 5


def test_threads_come_back_after_an_error():
    torch.set_num_threads(2)
    with pytest.raises(RuntimeError):
        latency(nn.Linear(3, 3), torch.zeros(2, 5))
    assert torch.get_num_threads() == 2


def test_a_larger_network_takes_longer():
    small = build("mlp", inputs=64, classes=10, hidden=[8])
    large = build("mlp", inputs=64, classes=10, hidden=[1500, 1500])
    x = torch.rand(64, 64)
    assert latency(small, x, repeats=7) < latency(large, x, repeats=7)


def test_cost_of_a_network():
    found = cost_of(nn.BatchNorm1d(5), torch.rand(2, 5), repeats=2)
    assert found.milliseconds > 0
    assert found.parameters == 10
    assert found.megabytes == pytest.approx((20 * 4 + 8) / 1e6)
    assert found.threads == 1
    assert cost_of(nn.Linear(2, 2), (torch.rand(3, 2),), repeats=1).parameters == 6


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"threads": 0}])
def test_what_cannot_be_measured_is_said(wrong):
    with pytest.raises(LimbeckError, match="at least 1"):
        latency(nn.Linear(2, 2), torch.zeros(1, 2), **wrong)


def test_no_example_is_reported():
    with pytest.raises(LimbeckError, match="at least one example"):
        latency(nn.Linear(2, 2), torch.zeros(0, 2))


def test_a_teacher_s_answer_is_timed_as_a_model_s_is(watched):
    model = watched([1000, 1000, 1000, 8, 4, 500])
    assert answer_latency(ModelTeacher(model), Batch(torch.zeros(4, 3)), repeats=3) == pytest.approx(2.0)
    assert all(seen == (False, False, 1) for seen in model.seen)


def test_specialists_take_longer_than_their_generalist():
    generalist = build("mlp", inputs=64, classes=10, hidden=[512, 512], seed=0)
    batch = Batch(torch.randn(200, 64))
    together = Specialists(generalist, [generalist] * 8, [[n, n + 1] for n in range(8)], active=10)
    assert answer_latency(together, batch, repeats=5) > 3 * answer_latency(ModelTeacher(generalist), batch, repeats=5)


@pytest.mark.parametrize(("size", "options"), [(0, {}), (2, {"repeats": 0}), (2, {"threads": 0})])
def test_nothing_to_time_in_an_answer(size, options):
    with pytest.raises(LimbeckError, match="answer_latency needs repeats, threads and examples of at least 1"):
        answer_latency(ModelTeacher(nn.Linear(3, 2)), Batch(torch.zeros(size, 3)), **options)
