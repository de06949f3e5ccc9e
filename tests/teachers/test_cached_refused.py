"""Caches of other data or teachers are refused with a helpful message."""

from __future__ import annotations

import copy
import re
from functools import partial

import pytest
import torch
import yaml
from torch import nn

from limbeck import Ensemble, ModelTeacher, MovingAverage, RandomShift, ShuffledLoader, distill
from limbeck.data import SelectColumn, Subset, TorchLoader
from limbeck.errors import LimbeckError, MissingOutputError
from limbeck.functional import kl_divergence
from limbeck.losses import Loss
from limbeck.metrics import predict
from limbeck.recipe import Recipe, Stage
from limbeck.teachers import CachedTeacher
from limbeck.teachers.teacher import read_inputs
from teachers.asked import Counting, ask, examples, make_loader, unchanged


def other_teacher(net):
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.out.bias[0] += 1e-3
    return other


@pytest.mark.parametrize(
    ("field", "what"),
    [
        ("teacher", lambda net: (other_teacher(net), make_loader(), {})),
        ("data", lambda net: (net, ShuffledLoader(examples(25), batch_size=8), {})),
        ("data", lambda net: (net, ShuffledLoader(Subset(examples(), torch.arange(11)), batch_size=8), {})),
        ("views", lambda net: (net, make_loader(augment=RandomShift(1)), {})),
        ("preprocess", lambda net: (ModelTeacher(net, preprocess=SelectColumn("raw")), make_loader(), {})),
        ("encoding of logits", lambda net: (net, make_loader(), {"encoding": "float32"})),
    ],
)
def test_a_store_of_something_else_is_refused_by_its_field(tmp_path, field, what):
    net = Counting()
    ask(CachedTeacher(net, tmp_path / "s"), make_loader())
    teacher, stream, how = what(net)
    with pytest.raises(LimbeckError, match=rf"made for another .*{field}"):
        ask(CachedTeacher(teacher, tmp_path / "s", **how), stream)


@pytest.mark.parametrize("encoding", ["float32", "quantized"])
def test_what_the_error_about_another_encoding_says_to_type_reads_the_store(tmp_path, encoding):
    net = Counting()
    ask(CachedTeacher(net, tmp_path / "s", encoding=encoding), make_loader())
    with pytest.raises(LimbeckError) as error:
        ask(CachedTeacher(net, tmp_path / "s"), make_loader())
    (typed,) = re.findall(r"--set cache\.encoding=('.*?'|\w+),", str(error.value))
    ask(CachedTeacher(net, tmp_path / "s", encoding=yaml.safe_load(typed.strip("'"))), make_loader())


class Sides(nn.Module):
    """A network of two heads, which an adaptor chooses from."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.between, self.out = nn.Linear(16, 8), between, nn.Linear(8, 4)

    def forward(self, x):
        found = self.out(self.between(self.body(x.flatten(1))))
        return found, -found


def scaled(batch, by):
    return batch.inputs * by


def times(by):
    return lambda batch: batch.inputs * by


class Scale:
    def __init__(self, by):
        self.by, self._calls = by, 0

    def __call__(self, batch):
        self._calls += 1
        return batch.inputs * self.by


@pytest.mark.parametrize(
    ("between", "adaptor"), [(nn.Tanh(), lambda out: out[0]), (nn.ReLU(), lambda out: out[1]), (nn.ELU(2.0), None)]
)
def test_a_teacher_of_the_same_weights_that_computes_otherwise_is_another(tmp_path, between, adaptor):
    first = nn.ELU(1.0) if adaptor is None else nn.ReLU()
    for _ in range(2):
        ask(CachedTeacher(ModelTeacher(Sides(first), adaptor=lambda out: out[0]), tmp_path / "s"), make_loader())
    other = ModelTeacher(Sides(between), adaptor=adaptor or (lambda out: out[0]))
    with pytest.raises(LimbeckError, match=r"made for another .*\(teacher\)"):
        ask(CachedTeacher(other, tmp_path / "s"), make_loader())


@pytest.mark.parametrize(
    "ways",
    [
        (lambda batch: batch.inputs, lambda batch: batch.inputs * 2),
        (lambda batch: batch.inputs.flip(1), lambda batch: batch.inputs.flip(2)),
        (partial(scaled, by=1), partial(scaled, by=2)),
        (times(1.0), times(2.0)),
        (Scale(torch.ones(1)), Scale(torch.zeros(1))),
    ],
)
def test_ways_of_reading_are_distinguished_by_what_they_hold(tmp_path, ways):
    net, (one, other) = Counting(), ways
    for _ in range(2):
        ask(CachedTeacher(net, tmp_path / "s"), make_loader(), preprocess=one)
        ask(CachedTeacher(ModelTeacher(net, preprocess=one), tmp_path / "own"), make_loader())
    with pytest.raises(LimbeckError, match=r"\(preprocess\)"):
        ask(CachedTeacher(net, tmp_path / "s"), make_loader(), preprocess=other)
    with pytest.raises(LimbeckError, match=r"\(teacher\)"):
        ask(CachedTeacher(ModelTeacher(net, preprocess=other), tmp_path / "own"), make_loader())


def test_another_precision_is_refused(tmp_path):
    net = Counting()
    ask(CachedTeacher(net, tmp_path / "s"), make_loader())
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(LimbeckError, match=r"\(precision\): it has float32"):
        ask(CachedTeacher(net, tmp_path / "s"), make_loader())


def test_a_mismatch_is_detected_before_anything_is_trained(tmp_path):
    net = Counting()
    ask(CachedTeacher(net, tmp_path / "s"), make_loader(), preprocess=read_inputs)
    first = Stage(Loss(kl_divergence), teacher=net, epochs=1)
    second = Stage(Loss(kl_divergence), teacher=CachedTeacher(other_teacher(net), tmp_path / "s"), epochs=1)
    with pytest.raises(LimbeckError, match=r"\(teacher\)"):
        distill(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), Recipe(first, second), make_loader())


def test_teachers_whose_answers_cannot_be_kept_say_why(tmp_path):
    with pytest.raises(LimbeckError, match="it changes while the student learns"):
        CachedTeacher(MovingAverage(), tmp_path)
    for teacher in (
        ModelTeacher(Counting(), mode="train"),
        Ensemble(Counting(), ModelTeacher(Counting(), mode="train")),
    ):
        with pytest.raises(LimbeckError, match=r"mode=\"eval\""):
            CachedTeacher(teacher, tmp_path)
    with pytest.raises(LimbeckError, match="ids"):
        ask(CachedTeacher(Counting(), tmp_path), TorchLoader([(torch.zeros(2, 4, 4), torch.zeros(2).long())]))
    with pytest.raises(LimbeckError, match="none"):
        ask(CachedTeacher(None, tmp_path / "none"), make_loader())
    with pytest.raises(MissingOutputError, match=r"'bodi'.*Did you mean 'body'\?"):
        ask(CachedTeacher(Counting(), tmp_path), make_loader(), requires=("bodi",))


def test_it_answers_for_its_own_examples_alone(tmp_path):
    net, loader = Counting(), make_loader()
    teacher = CachedTeacher(net, tmp_path / "s")
    ask(teacher, loader)
    calls = len(net.asked)
    stored, live = (predict(one, loader, preprocess=unchanged).student for one in (teacher, Counting()))
    torch.testing.assert_close(stored, live, rtol=0.0, atol=1e-3)  # stored in 16 bits
    assert len(net.asked) == calls
    with pytest.raises(LimbeckError, match=r"TeacherContext\(loader="):
        predict(teacher, list(loader.batches(0, 0)), preprocess=unchanged)  # batches do not say whose they are
    with pytest.raises(LimbeckError):
        predict(teacher, make_loader(16), preprocess=unchanged)
