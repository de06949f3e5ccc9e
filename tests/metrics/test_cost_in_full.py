"""Multiply-adds, memory, bytes and percentiles have known values."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.metrics import cost_in_full, disk_bytes, latencies, macs, peak_bytes
from limbeck.models import build, save


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)

    def forward(self, x):
        return self.layer(x).mean(1)


KNOWN = {
    "linear": (nn.Linear(7, 5), (7,), 35),
    "convolution": (nn.Conv2d(3, 8, 3, padding=1, stride=2), (3, 10, 10), 5 * 5 * 8 * 3 * 9),
    "grouped": (nn.Conv1d(4, 8, 3, groups=2), (4, 12), 10 * 8 * 2 * 3),
    "normalized": (nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU()), (4,), 24),
    "recurrent": (nn.LSTM(6, 7, batch_first=True), (5, 6), 5 * 4 * 7 * (6 + 7)),
    "gated": (nn.GRU(6, 7, batch_first=True), (5, 6), 5 * 3 * 7 * (6 + 7)),
    # Queries, keys, values and the way out; the feed-forward part; scores and their sums.
    "attention": (Attention(), (5, 16), 5 * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 5 * 5 * 16),
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("batch", [1, 4])
def test_multiply_adds_of_known_layers(name, batch):
    model, shape, expected = KNOWN[name]
    if name in ("recurrent", "gated"):
        model = Output(model)
    assert macs(model, torch.zeros(batch, *shape)) == expected


class Output(nn.Module):
    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, x):
        return self.inside(x)[0]


def test_counting_leaves_model_and_settings_as_they_were():
    from torch.backends import mha

    model = build("cnn", channels=1, size=8, classes=3, widths=[4, 8])
    model.train()
    before = (mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled, torch.backends.cuda.flash_sdp_enabled())
    environment = dict(os.environ)
    cost_in_full(model, torch.rand(2, 1, 8, 8), repeats=2)
    after = (mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled, torch.backends.cuda.flash_sdp_enabled())
    assert after == before
    assert model.training
    assert dict(os.environ) == environment
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


def test_memory_of_known_layers():
    x = torch.zeros(8, 100)
    one = nn.Linear(100, 50, bias=False)
    assert peak_bytes(one, x) == 4 * (100 * 50 + 8 * 100 + 8 * 50)
    # The first output is still there while the second is made, and gone when the third is.
    deep = nn.Sequential(*(nn.Linear(100, 100, bias=False) for _ in range(3)))
    assert peak_bytes(deep, x) == 4 * (3 * 100 * 100 + 8 * 100 + 2 * 8 * 100)
    tied = nn.Sequential(deep[0], deep[0])
    assert peak_bytes(tied, x) == 4 * (100 * 100 + 8 * 100 + 2 * 8 * 100)


def test_memory_repeats_grows_with_the_batch_and_holds_no_gradients():
    model = build("cnn", channels=1, size=8, classes=3, widths=[4, 8])
    small, large = torch.rand(1, 1, 8, 8), torch.rand(64, 1, 8, 8)
    assert peak_bytes(model, large) == peak_bytes(model, large) > peak_bytes(model, small)
    deep = nn.Sequential(*(nn.Linear(100, 100, bias=False) for _ in range(30)))
    assert peak_bytes(deep, torch.zeros(1000, 100)) < 4 * (30 * 100 * 100 + 4 * 1000 * 100)


def test_looking_at_memory_says_nothing(capfd):
    peak_bytes(nn.Linear(3, 3), torch.zeros(1, 3))
    assert capfd.readouterr() == ("", "")


def test_bytes_on_disk_are_those_of_a_student_s_file(tmp_path):
    model = build("mlp", inputs=20, classes=3, hidden=[16])
    save(model, tmp_path / "student")
    (file,) = (tmp_path / "student").glob("*.safetensors")
    weights = 4 * sum(p.numel() for p in model.parameters())
    assert weights < disk_bytes(model) <= file.stat().st_size < disk_bytes(model) + 1000


def test_percentiles_of_whole_batches(monkeypatch):
    class Clock(nn.Module):
        now, sizes = 0.0, []

        def forward(self, x):
            self.sizes.append(len(x))
            Clock.now += len(self.sizes) / 1e3  # each pass takes a millisecond more than the last
            return x

    model = Clock()
    monkeypatch.setattr("limbeck.metrics.cost.time.perf_counter", lambda: Clock.now)
    found = latencies(model, torch.zeros(3, 2), batches=[64], repeats=101)
    assert set(model.sizes) == {64}
    assert found[64] == (pytest.approx(3 + 51), pytest.approx(3 + 96))


def test_all_of_it():
    model = build("mlp", inputs=20, classes=3, hidden=[16])
    found = cost_in_full(model, torch.rand(5, 20), repeats=3)
    assert (found.parameters, found.macs, found.threads) == (20 * 16 + 16 + 16 * 3 + 3, 20 * 16 + 16 * 3, 1)
    assert all(0 < one.p50 <= one.p95 for one in found.latency.values())
    assert found.as_dict().keys() == {
        "parameters", "macs", "threads", "disk_bytes", "milliseconds_p50_batch_1", "milliseconds_p95_batch_1",
        "milliseconds_p50_batch_64", "milliseconds_p95_batch_64", "peak_bytes_batch_1", "peak_bytes_batch_64",
    }  # fmt: skip
    assert found.as_dict()["peak_bytes_batch_64"] == found.peak_bytes[64] > found.peak_bytes[1]


def test_several_inputs_by_name():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = nn.Linear(4, 2)

        def forward(self, left, right):
            return self.inside(left + right)

    inputs = {"left": torch.rand(3, 4), "right": torch.rand(3, 4)}
    found = cost_in_full(Two(), inputs, repeats=1, batches=[2])
    assert (found.macs, set(found.latency)) == (8, {2})


@pytest.mark.parametrize("wrong", [{"batches": [0]}, {"repeats": 0}, {"threads": 0}])
def test_what_cannot_be_measured_is_said(wrong):
    with pytest.raises(LimbeckError, match="at least 1"):
        latencies(nn.Linear(2, 2), torch.zeros(1, 2), **wrong)
    for function in (macs, peak_bytes, cost_in_full):
        with pytest.raises(LimbeckError, match="at least one example"):
            function(nn.Linear(2, 2), torch.zeros(0, 2))
    with pytest.raises(LimbeckError, match="at least one example"):
        latencies(nn.Linear(2, 2), torch.zeros(0, 2))
