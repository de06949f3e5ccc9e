"""The benchmark of kernels measures what its figures are named, and its peers are the same mathematics."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import bench_kernels
from benchmarks.__main__ import main
from benchmarks.card_kernels import bench_card_kernels, enlarge, list_claims
from benchmarks.kernels import CASES, SHAPES
from benchmarks.peer_kernels import bench_peer_kernels
from benchmarks.peer_losses import PEER_LOSSES
from limbeck.errors import LimbeckError
from limbeck.functional import KernelClaim, squared_error
from limbeck.metrics.compute import peak_on_cpu


@pytest.mark.parametrize("name", CASES)
def test_a_peer_pulls_as_the_kernel_does(name):
    """The values may differ by what does not depend on the student; the gradients of means do not, but for a factor."""
    student, teacher, labels = torch.randn(6, 7).double(), torch.randn(6, 7).double(), torch.randint(7, (6,))
    student.requires_grad_()
    case = CASES[name]
    (ours,) = torch.autograd.grad(case.ours(student, teacher, labels).mean(), student)
    for peer in case.peers.values():
        (theirs,) = torch.autograd.grad(peer(student, teacher, labels).mean(), student)
        if name.endswith("centered"):  # what the peer does not take off
            theirs = theirs - theirs.mean(1, keepdim=True)
        torch.testing.assert_close(ours / ours.norm(), theirs / theirs.norm())


def test_a_row_for_every_kernel_and_shape():
    found = bench_kernels(shapes=[(8, 5), (4, 3)], features=[(2, 3, 4, 4)], rounds=2)
    assert [(row["kernel"], tuple(row["shape"])) for row in found["kernels"]] == [
        *((name, shape) for shape in ((8, 5), (4, 3)) for name in CASES),
        ("squared_error", (2, 3, 4, 4)),
    ]
    assert all(row["least_time"] > 0 and row["time_bar"] in (1.1, 1.3) for row in found["kernels"])
    assert all(row["time"] > 0 and row["memory"] > 0 and row["peer"] in CASES[row["kernel"]].peers
               for row in found["kernels"])  # fmt: skip
    assert json.loads(json.dumps(found)) == found


def test_a_row_for_every_kernel_of_a_card():
    claims = list_claims()
    assert {"kl_divergence", "rest_kl", "rkd_distance"} <= set(claims)
    some = [claims[name] for name in ("kl_divergence", "rest_kl", "rkd_distance", "attention_distance")]
    found = bench_card_kernels(claims=some, values=64, classes=20, rounds=2, seconds=0.01)
    assert [row["memory_bar"] for row in found["cards"]] == [3.0, 3.0, None, 3.0]
    assert all(row["time"] > 0 and row["memory"] > 0 and len(row["quartiles"]) == 2 for row in found["cards"])
    assert json.loads(json.dumps(found)) == found


def test_sizes_that_belong_together_grow_by_one_factor():
    claim = KernelClaim(squared_error, shape=(3, 2, 4), teacher_shape=(5, 2, 4), constants={"weight": (5, 3)})
    large = enlarge(claim, values=5 * 2 * 4 * 27)
    assert (large.shape, large.teacher_shape, large.constants["weight"]) == ((9, 6, 12), (15, 6, 12), (15, 9))
    assert enlarge(KernelClaim(squared_error, shape=(4,)), classes=1000).shape == (1000,)


def test_a_toolkit_that_is_absent_is_named():
    loss = PEER_LOSSES["torchdistill SPKDLoss"]
    absent = loss._replace(module="no_such_toolkit.losses")
    own = loss._replace(module="torch.nn", theirs=lambda module: lambda s, t, _: module.functional.mse_loss(s, t))
    found = bench_peer_kernels(losses={"absent": absent, "own": own}, small=True, rounds=2, seconds=0.01)
    assert [row["loss"] for row in found["peers"]] == ["own"]
    assert "no_such_toolkit" in found["absent"]


def test_the_peak_is_what_was_held_at_once():
    def call():
        one = torch.ones(1000)
        two = one + one
        del one
        return two + two

    assert peak_on_cpu(call) == pytest.approx(8000, abs=200)


def test_the_command_shows_a_table(monkeypatch, capsys):
    asked = []

    def quick(**options):
        asked.append({key: value for key, value in options.items() if key != "say"})
        return bench_kernels(shapes=[(4, 3)], features=(), rounds=1)

    monkeypatch.setattr("benchmarks.bench_kernels", quick)
    for options in (["--part", "plain"], ["--shape", "4x3", "--shape", "5x2"]):
        assert main(["kernels", "--table", *options]) == 0
        assert "skew_reverse_kl" in capsys.readouterr().out
    assert asked == [{}, {"shapes": [(4, 3), (5, 2)], "features": ()}]
    assert (256, 1000) in SHAPES


def test_memory_that_is_kept_counts():
    """The slope and two buffers, where the peer holds three or five tensors of that size."""
    (row,) = (row for row in bench_kernels(shapes=[(256, 1000)], features=(), rounds=1, seconds=0.01)["kernels"]
              if row["kernel"] == "kl_divergence")  # fmt: skip
    peer = {"soft cross-entropy": 3, "kl_div": 5}[row["peer"]]
    assert row["memory"] == pytest.approx(3 / peer, abs=0.05)


def test_sizes_make_sense(capsys):
    with pytest.raises(LimbeckError, match="at least 1"):
        bench_kernels(shapes=[(0, 3)])
    assert main(["kernels", "--shape", "4,3"]) == 1
    assert "4,3" in capsys.readouterr().err
