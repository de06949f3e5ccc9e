"""The benchmark of losses measures what its figures are called, and its peers are the same mathematics."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from limbeck.bench import bench_kernels
from limbeck.bench.kernels import CASES, SHAPES
from limbeck.cli.app import app
from limbeck.errors import LimbeckError
from limbeck.measure.compute import peak_on_cpu


@pytest.mark.parametrize("name", CASES)
def test_a_peer_pulls_as_the_kernel_does(name):
    """The values may differ by what does not depend on the student; the gradients of means do not, but for a factor."""
    student, teacher, labels = torch.randn(6, 7).double(), torch.randn(6, 7).double(), torch.randint(7, (6,))
    student.requires_grad_()
    case = CASES[name]
    (ours,) = torch.autograd.grad(case.ours(student, teacher, labels).mean(), student)
    for peer in case.peers.values():
        (theirs,) = torch.autograd.grad(peer(student, teacher, labels).mean(), student)
        if name.endswith("centred"):  # what the peer does not take off
            theirs = theirs - theirs.mean(1, keepdim=True)
        torch.testing.assert_close(ours / ours.norm(), theirs / theirs.norm())


def test_a_row_for_every_kernel_and_shape():
    found = bench_kernels(shapes=[(8, 5), (4, 3)], rounds=2)
    assert [(row["kernel"], tuple(row["shape"])) for row in found["kernels"]] == [
        (name, shape) for shape in ((8, 5), (4, 3)) for name in CASES
    ]
    assert all(row["time"] > 0 and row["memory"] > 0 and row["peer"] in CASES[row["kernel"]].peers
               for row in found["kernels"])  # fmt: skip
    assert json.loads(json.dumps(found)) == found


def test_the_peak_is_what_was_held_at_once():
    def call():
        one = torch.ones(1000)
        two = one + one
        del one
        return two + two

    assert peak_on_cpu(call) == pytest.approx(8000, abs=200)


def test_the_command_shows_a_table(monkeypatch):
    monkeypatch.setattr("limbeck.bench.bench_kernels", lambda **_: bench_kernels(shapes=[(4, 3)], rounds=1))
    shown = CliRunner().invoke(app, ["bench", "kernels"])
    assert shown.exit_code == 0
    assert "skew_reverse_kl" in shown.output
    assert (256, 1000) in SHAPES


def test_sizes_make_sense():
    with pytest.raises(LimbeckError, match="at least 1"):
        bench_kernels(shapes=[(0, 3)])
