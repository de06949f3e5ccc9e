"""The benchmark of the output layer's losses."""

from __future__ import annotations

import pytest
import torch

from benchmarks.head import bench_head
from benchmarks.head_contenders import HeadShape, compute_bare, make_problem, sum_dense, sum_fused
from limbeck.errors import LimbeckError

BARS = {"kl": {"bare": 1.25}, "jsd": {"bare": 1.4}, "top-64": {"dense": 0.26}}
SMALL = HeadShape("small", 16, 4, 8, 50, BARS)


@pytest.mark.parametrize("loss", ["kl", "jsd"])
def test_all_contenders_compute_the_same(loss):
    problem = make_problem(SMALL)
    values = [contender(problem, loss) for contender in (sum_fused, sum_dense)]
    torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(value, (problem.hidden, problem.weight)) for value in values]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert compute_bare(problem, loss) is None


def test_all_classes_stored_are_the_dense_loss():
    problem = make_problem(SMALL, stored=True)
    torch.testing.assert_close(sum_fused(problem, "top-64"), sum_dense(problem, "kl"), rtol=1e-2, atol=1e-2)


def test_its_keys(monkeypatch):
    monkeypatch.setattr("benchmarks.head._measure_errors", lambda: iter(()))
    result = bench_head(shapes=[SMALL], rounds=1)
    assert [row["loss"] for row in result["head"]] == ["kl", "jsd", "top-64"]
    assert {"over", "bars", "missed", "seconds", "memory_mib", "memory_bar_mib"} <= set(result["head"][0])
    assert {"bare", "dense"} <= set(result["head"][0]["over"])
    assert all(row["memory_mib"] > 0 for row in result["head"])


def test_no_round_is_refused():
    with pytest.raises(LimbeckError):
        bench_head(rounds=0)
