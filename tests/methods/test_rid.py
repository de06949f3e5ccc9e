"""RID: the brute force of the distance, which parts learn in which stage, and a teacher that knows nothing."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.batch import Batch, Outputs, Progress
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.losses import LossContext
from limbeck.methods import make
from limbeck.methods.features.rid import FilterLearning, Filters, RedundantInformation
from methods.planted import Planted

LAYERS = {"at": ["layer1", "layer2"], "student_at": ["layer1", "layer2"]}


def brute_force_scaled_distance(student, teacher, mask=None, *, alpha):
    values = []
    for n, (one, other) in enumerate(zip(student.double(), teacher.double(), strict=True)):
        terms = []
        for place, (s, t) in enumerate(zip(one.tolist(), other.tolist(), strict=True)):
            if mask is not None and mask.ndim == 2 and not bool(mask[n, place]):
                continue
            for a, x, y in zip(alpha.tolist(), s, t, strict=True):
                variance = math.log1p(math.exp(a)) + 1e-3
                terms.append(math.log(variance) + (x - y) ** 2 / variance)
        values.append(sum(terms) / max(len(terms), 1))
    return torch.tensor(values, dtype=torch.float64)


def terms(labels=None):
    draw = torch.Generator().manual_seed(0)
    logits, student = torch.randn(8, 3, generator=draw), torch.randn(8, 4, 6, 6, generator=draw).requires_grad_()
    outputs = Outputs({"a": student, "logits": logits}), Outputs({"b": torch.randn(8, 6, 3, 3, generator=draw)})
    batch = Batch(torch.zeros(8, 1), labels=torch.arange(8) % 3 if labels is None else labels)
    filters, context = Filters(), LossContext(*outputs, batch)
    pair = [("a", "b")]
    return (
        FilterLearning(pair, filters, 0.1).setup(context), RedundantInformation(pair, filters).setup(context),
        filters, outputs, batch,
    )  # fmt: skip


def test_each_stage_trains_its_own_filters():
    learning, distance, filters, outputs, batch = terms()
    parts = {"student": filters.student, "teacher": filters.teacher, "classifiers": filters.classifiers}
    for term, expected in ((learning, {"teacher", "classifiers"}), (distance, {"student"})):
        total = term.term(*outputs, batch, Progress(5, 10)).total
        slopes = torch.autograd.grad(
            total, [*filters.parameters(), outputs[0]["a"]], allow_unused=True, retain_graph=True
        )
        reached = {id(p) for p, slope in zip(filters.parameters(), slopes, strict=False) if slope is not None}
        assert {name for name, part in parts.items() if any(id(p) in reached for p in part.parameters())} == expected
        assert (slopes[-1] is None) == (term is learning)
        assert (id(filters.alphas[0]) in reached) == (term is distance)


def test_the_filters_learn_from_the_labels_alone_at_first():
    learning, _, filters, outputs, batch = terms()
    learning.eval()
    rows = filters.teacher[0](outputs[1]["b"]).flatten(2).mean(2)
    hard = torch.nn.functional.cross_entropy(filters.classifiers[0](rows), batch.labels, reduction="sum")
    torch.testing.assert_close(learning.term(*outputs, batch, Progress(0, 100)).total, hard)
    assert not torch.isclose(learning.term(*outputs, batch, Progress(50, 100)).total, hard)


def test_several_labels_are_refused():
    with pytest.raises(LimbeckError, match="one class for each example"):
        terms(labels=torch.zeros(8, 2, dtype=torch.int64))


@pytest.mark.parametrize("wrong", [{"every": 0}, {"alone": 1.5}, {"weight": -1.0}])
def test_wrong_arguments_are_refused_when_it_is_built(wrong):
    with pytest.raises(ArgumentError):
        make("rid", teacher="t", at="a", student_at="a", **wrong)


def test_a_teacher_that_knows_nothing_costs_less_than_with_vid():
    planted = Planted()
    nuisance = planted.student(seed=77)
    accuracies = {
        name: planted.accuracy(planted.learn(make(name, teacher=nuisance, weight=weight, **LAYERS), epochs=20).student)
        for name, weight in (("rid", 10.0), ("vid", 100.0))
    }
    assert accuracies["rid"] > accuracies["vid"] + 0.02
