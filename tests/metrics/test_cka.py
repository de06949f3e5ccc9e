"""CKA against its definition and invariances; no trace in the models."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.errors import DataError, LimbeckError, MissingOutputError
from limbeck.metrics import layer_cka, linear_cka
from limbeck.metrics.cka import named_layers
from limbeck.models import build


def by_definition(x, y, *, debiased):
    """HSIC with the centering matrix written out, or Song et al.'s unbiased estimate term by term."""
    n = len(x)

    def hsic(k, m):
        if not debiased:
            h = torch.eye(n).double() - 1 / n
            return torch.trace(k @ h @ m @ h)
        k, m = (part - torch.diag(part.diagonal()) for part in (k, m))
        one = torch.ones(n).double()
        inner = torch.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return (inner - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))

    k, m = (part.double() @ part.double().T for part in (x, y))
    return float(hsic(k, m) / (hsic(k, k) * hsic(m, m)).sqrt())


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize(("n", "dx", "dy"), [(5, 3, 2), (20, 4, 50), (9, 1, 1)])
def test_it_is_its_definition(n, dx, dy, debiased):
    x = torch.randn(n, dx)
    y = torch.randn(n, dy) + x[:, :1] + 3
    assert linear_cka(x, y, debiased=debiased) == pytest.approx(by_definition(x, y, debiased=debiased), abs=1e-9)


@pytest.mark.parametrize("debiased", [True, False])
def test_rotation_scale_and_shift_are_not_seen_and_stretching_is(debiased):
    x = torch.randn(40, 6).double()
    turn = torch.linalg.qr(torch.randn(6, 6).double()).Q
    assert linear_cka(x, 3 * x @ turn + 5, debiased=debiased) == pytest.approx(1.0)
    assert linear_cka(x, x * torch.tensor([9.0, 1, 1, 1, 1, 1]).double(), debiased=debiased) < 0.95
    order = torch.randperm(40)
    y = torch.randn(40, 3).double()
    assert linear_cka(x[order], y[order], debiased=debiased) == pytest.approx(linear_cka(x, y, debiased=debiased))
    assert linear_cka(x, y, debiased=debiased) == pytest.approx(linear_cka(y, x, debiased=debiased))


def test_features_with_nothing_in_common():
    """With more features than examples the plain form sees likeness in noise; the debiased one does not."""
    pairs = [(torch.randn(20, 200), torch.randn(20, 200)) for _ in range(40)]
    assert min(linear_cka(x, y, debiased=False) for x, y in pairs) > 0.8
    assert abs(sum(linear_cka(x, y) for x, y in pairs) / 40) < 0.02


def test_feature_maps_are_flattened_and_constant_features_have_no_likeness():
    x, y = torch.randn(8, 3, 2, 2), torch.randn(8, 5)
    assert linear_cka(x, y) == pytest.approx(linear_cka(x.flatten(1), y))
    assert math.isnan(linear_cka(x, torch.full((8, 4), 2.7)))


@pytest.fixture
def two():
    return (
        nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)),
        nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3)),
    )


def test_one_batch_is_the_features_themselves(two):
    student, teacher = two
    x = torch.randn(30, 6)
    found = layer_cka(student, teacher, [Batch(x)])
    assert (found.student_layers, found.teacher_layers, found.examples) == (("0", "2"), ("0", "2", "4"), 30)
    with torch.no_grad():
        mine = [student[0](x), student(x)]
        theirs = [teacher[0](x), teacher[:3](x), teacher(x)]
    for i, left in enumerate(mine):
        for j, right in enumerate(theirs):
            assert float(found.values[i, j]) == pytest.approx(linear_cka(left, right), abs=1e-9)


def test_the_size_of_batches_moves_it_by_noise_alone(two):
    x = torch.randn(800, 6)
    found = [layer_cka(*two, list(map(Batch, x.split(size)))).values for size in (10, 100, 800)]
    assert (found[0] - found[2]).abs().max() < 0.05
    assert (found[1] - found[2]).abs().max() < 0.02


def test_a_model_and_itself_and_a_part_left_over(two):
    student, _ = two
    found = layer_cka(student, student, [Batch(torch.randn(10, 6)), Batch(torch.randn(3, 6))])
    assert found.values.diagonal().tolist() == pytest.approx([1.0, 1.0])
    assert found.examples == 10


def test_addresses_reads_and_no_trace():
    student, teacher = build("cnn", channels=1, size=8, classes=3, widths=[4, 8]), nn.Linear(64, 3)
    student.train()
    before = [len(module._forward_hooks) for module in student.modules()]
    images = torch.rand(12, 1, 8, 8)
    names = [name for name, module in student.named_modules() if isinstance(module, nn.Conv2d)]
    found = layer_cka(
        student, nn.Sequential(teacher), (images, torch.zeros(12).long()), student_layers=names[:1],
        teacher_layers=["0"], teacher_preprocess=lambda batch: batch.inputs.flatten(1),
    )  # fmt: skip
    assert found.values.shape == (1, 1)
    assert student.training
    assert before == [len(module._forward_hooks) for module in student.modules()]


def test_what_cannot_be_compared_is_said(two, unchecked):
    student, teacher = two
    with pytest.raises(LimbeckError, match="at least 4; got 3 and 3"):
        linear_cka(torch.zeros(3, 2), torch.zeros(3, 2))
    with pytest.raises(LimbeckError, match="got 5 and 6"):
        linear_cka(torch.zeros(5, 2), torch.zeros(6, 2))
    with pytest.raises(DataError, match="at least 4 examples"):
        layer_cka(student, teacher, [Batch(torch.zeros(3, 6))])
    with pytest.raises(MissingOutputError, match="No output at '9'"):
        layer_cka(student, teacher, [Batch(torch.zeros(5, 6))], student_layers=["9"])
    with pytest.raises(LimbeckError, match="no layers with weights"):
        layer_cka(nn.ReLU(), teacher, [Batch(torch.zeros(5, 6))])


class Odd(nn.Module):
    """Layers that are not called, give one row for all, or give several things; and a head that is called twice."""

    def __init__(self):
        super().__init__()
        self.places = nn.Embedding(5, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.unused = nn.Linear(8, 8)
        self.body = nn.LSTM(8, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = x + self.places(torch.arange(5))[None]
        x, _ = self.attention(x, x, x)
        x, _ = self.body(x)
        self.head(x[:, 0])
        return self.head(x[:, -1])


def test_layers_that_show_nothing_of_each_example_are_left_out():
    model = Odd()
    assert named_layers(model, Batch(torch.randn(6, 5, 8)), lambda batch: batch.inputs) == {"body": 30, "head": 3}
    found = layer_cka(model, model, [Batch(torch.randn(12, 5, 8))])
    assert found.student_layers == found.teacher_layers == ("body", "head")
    assert found.values.diagonal().tolist() == pytest.approx([1.0, 1.0])
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
