"""Objectives add and scale like numbers, in value and gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress, Requirements
from limbeck.errors import LimbeckError, UnknownNameError
from limbeck.functional import cross_entropy, kernel, kl_divergence, label_smoothing, squared_error
from limbeck.losses import Loss, Objective, weighted_loss
from limbeck.schedule import constant, ramp

START = Progress()


@pytest.fixture
def lesson() -> tuple[Outputs, Outputs, Batch]:
    student = Outputs(logits=torch.randn(7, 4, dtype=torch.float64, requires_grad=True))
    student["hidden"] = student["logits"].sin()
    teacher = Outputs(logits=torch.randn(7, 4, dtype=torch.float64), hint=torch.randn(7, 4, dtype=torch.float64))
    labels = torch.randint(4, (7,))
    labels[2] = -100
    return student, teacher, Batch(torch.zeros(7), id=torch.arange(7), labels=labels)


def value(objective: Objective, lesson: Any, progress: Progress = START) -> torch.Tensor:
    terms = objective(*lesson, progress)
    return weighted_loss(terms, {name: float(term.count) for name, term in terms.items()})


def gradient(objective: Objective, lesson: Any, progress: Progress = START) -> torch.Tensor:
    at = lesson[0]["logits"]  # what has weight 0 is not in the graph
    (found,) = torch.autograd.grad(
        value(objective, lesson, progress), at, allow_unused=True, retain_graph=True, materialize_grads=True
    )
    return found


def both(objective: Objective, lesson: Any, progress: Progress = START) -> torch.Tensor:
    """Value and gradient in one row, so that one comparison speaks for both."""
    flat = gradient(objective, lesson, progress).flatten()
    return torch.cat([value(objective, lesson, progress).detach().view(1), flat])


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-13, atol=1e-14)


@pytest.fixture
def parts() -> tuple[Objective, Objective, Objective]:
    return (
        Loss(cross_entropy),
        Loss(kl_divergence, temperature=3.0),
        Loss(squared_error, student="hidden", teacher="hint"),
    )


def test_a_sum_is_the_sum(lesson, parts):
    a, b, c = parts
    assert close(both(a + b, lesson), both(a, lesson) + both(b, lesson))
    assert close(both((a + b) + c, lesson), both(a + (b + c), lesson))
    assert close(both(a + b, lesson), both(b + a, lesson))


@pytest.mark.parametrize("weight", [0, 0.0, 0.3, 1, 1.0, -2.5, 1e-9])
def test_a_scaled_objective_is_scaled(lesson, parts, weight):
    for part in parts:
        assert close(both(weight * part, lesson), weight * both(part, lesson))


def test_nested_weights_multiply_and_distribute(lesson, parts):
    a, b, c = parts
    wanted = 0.5 * both(a, lesson) + 0.5 * 0.2 * both(b, lesson) + 0.5 * 0.2 * 3 * both(c, lesson)
    assert close(both(0.5 * (a + 0.2 * (b + 3 * c)), lesson), wanted)


def test_an_objective_may_stand_in_a_sum_twice(lesson, parts):
    a, _, _ = parts
    assert close(both(a + 2 * a, lesson), 3 * both(a, lesson))


def test_what_composes_is_an_objective(parts):
    a, b, _ = parts
    for composed in (a + b, 0.5 * a, ramp(1.0) * a, 0.5 * (a + b)):
        assert isinstance(composed, Objective)


def test_needs_add_whatever_the_weight(parts):
    a, b, c = parts
    assert (a + b).requires == a.requires | b.requires
    assert (a + 0 * (b + ramp(1.0) * c)).requires == a.requires | b.requires | c.requires
    assert a.requires == Requirements(frozenset({"logits"}), frozenset(), frozenset({"labels"}))
    assert c.requires == Requirements(frozenset({"hidden"}), frozenset({"hint"}), frozenset())


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_weights_are_continuous_at_their_ends(lesson, parts, end):
    a, b, _ = parts

    def mixed(w: float) -> torch.Tensor:
        return both((1 - w) * a + w * b, lesson)

    for step in (1e-4, 1e-8, 1e-12):
        moved = mixed(abs(end - step))
        assert float((moved - mixed(end)).abs().max()) <= 10 * step
    assert close(mixed(end), both(b if end else a, lesson))


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_a_hyper_parameter_is_continuous_at_its_ends(lesson, end):
    def smoothed(s: float) -> torch.Tensor:
        return both(Loss(label_smoothing, smoothing=s), lesson)

    for step in (1e-4, 1e-8, 1e-12):
        assert float((smoothed(abs(end - step)) - smoothed(end)).abs().max()) <= 10 * step


def test_a_schedule_weighs_by_progress(lesson, parts):
    a, b, _ = parts
    objective = ramp(0.8, start=0.2) * a + constant(0.5) * (ramp(1.0) * b)
    for step in range(5):
        wanted = (0.2 + 0.6 * step / 4) * both(a, lesson) + 0.5 * step / 4 * both(b, lesson)
        assert close(both(objective, lesson, Progress(step, 5)), wanted)


def test_a_schedule_stands_for_a_hyper_parameter(lesson):
    objective = Loss(kl_divergence, temperature=ramp(4.0, start=1.0))
    for step in range(4):
        wanted = both(Loss(kl_divergence, temperature=1.0 + step), lesson)
        assert close(both(objective, lesson, Progress(step, 4)), wanted)


def test_names_that_repeat_are_numbered(parts):
    a, _, c = parts
    assert list((a + a + c + a).named_leaves()) == [
        "cross_entropy",
        "cross_entropy#2",
        "squared_error@hidden",
        "cross_entropy#3",
    ]


def test_no_leaf_is_lost_to_a_name_with_a_number():
    named = [Loss(cross_entropy, name=name) for name in ("a#2", "a", "a", "a#2", "a")]
    objective = named[0] + named[1] + named[2] + named[3] + named[4]
    found = objective.named_leaves()
    assert [id(leaf) for leaf, _ in found.values()] == [id(loss) for loss in named]
    assert len(set(found)) == 5


def test_every_leaf_carries_its_weight_in_the_terms(lesson, parts):
    a, b, _ = parts
    terms = (0.1 * a + 0.9 * (0.5 * b))(*lesson, Progress())
    assert {name: term.weight for name, term in terms.items()} == {
        "cross_entropy": 0.1,
        "kl_divergence": pytest.approx(0.45),
    }
    assert terms["cross_entropy"].count == 6.0
    assert terms["kl_divergence"].count == 7.0


def test_counts_are_known_before_anything_is_computed(lesson, parts):
    a, b, _ = parts
    objective = a + 0.5 * b
    terms = objective(*lesson, Progress())
    assert objective.counts(lesson[2]) == {name: term.count for name, term in terms.items()}


def test_the_weight_comes_first(parts):
    with pytest.raises(LimbeckError, match=r"Write the weight first: 0\.5 \* objective"):
        parts[0] * 0.5


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_a_weight_is_finite(parts, weight):
    with pytest.raises(LimbeckError, match=r"finite number"):
        weight * parts[0]


@pytest.mark.parametrize("other", ["a", None, cross_entropy, 2])
def test_what_is_no_objective_does_not_add(parts, other):
    with pytest.raises(TypeError):
        parts[0] + other


def test_an_objective_prints_as_it_is_written(parts):
    a, b, c = parts
    assert repr(0.1 * a + ramp(0.9) * b) == (
        "0.1 * Loss(cross_entropy) + ramp(0.9, start=0.0, until=1.0) * Loss(kl_divergence, temperature=3.0)"
    )
    assert repr(2 * (a + c)) == "2 * (Loss(cross_entropy) + Loss(squared_error, student='hidden', teacher='hint'))"


def test_heads_are_among_the_parameters():
    head = nn.Linear(4, 4)
    objective = 0.5 * (Loss(cross_entropy) + ramp(1.0) * Loss(squared_error, head=head))
    assert set(objective.parameters()) == set(head.parameters())


# What makes a kernel.


def test_a_kernel_without_per():
    def gap(student, teacher):
        return (student - teacher).abs().sum(-1)

    with pytest.raises(LimbeckError, match=r'gap\(\) .*@kernel\(per="example"\)'):
        Loss(gap)


def test_a_misspelt_hyper_parameter_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'temprature'.*Did you mean 'temperature'"):
        Loss(kl_divergence, temprature=4.0)
    with pytest.raises(UnknownNameError, match=r"hyper-parameter of cross_entropy"):
        Loss(cross_entropy, temperature=4.0)


def test_a_tensor_of_a_kernel_is_no_hyper_parameter():
    with pytest.raises(UnknownNameError, match=r"labels"):
        Loss(cross_entropy, labels=torch.zeros(3))


def test_a_kernel_whose_tensors_are_named_otherwise():
    @kernel(per="example")
    def gap(students, teacher):
        return (students - teacher).abs().sum(-1)

    with pytest.raises(LimbeckError, match=r"'students' is not one of them.*did you mean 'student'"):
        Loss(gap)


def test_a_kernel_without_tensors():
    @kernel(per="batch")
    def nothing(*, scale=1.0):
        return torch.tensor(scale)

    with pytest.raises(LimbeckError, match=r"the tensors of a kernel"):
        Loss(nothing)


def test_a_hyper_parameter_without_default_must_be_given():
    @kernel(per="example")
    def gap(student, *, margin):
        return (student.sum(-1) - margin).relu()

    with pytest.raises(LimbeckError, match=r"needs a value for margin: Loss\(\.\.\., margin="):
        Loss(gap)
    assert Loss(gap, margin=0.1).requires.student == {"logits"}


def test_the_sum_of_a_list_is_an_objective():
    parts = [Loss(cross_entropy), 0.5 * Loss(kl_divergence)]
    assert list(sum(parts).named_leaves()) == ["cross_entropy", "kl_divergence"]
    with pytest.raises(TypeError):
        1 + parts[0]
