"""A loss that reads several layers of each side."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.errors import ArgumentError, LimbeckError, UnknownNameError
from limbeck.functional import Projector, kernel, kl_divergence
from limbeck.losses import Loss, LossContext


@kernel(per="example")
def flow(low, high, first, last):
    """FSP: the products of two layers, compared between the sides (Yim et al., 2017)."""
    ours, theirs = torch.einsum("bi,bj->bij", low, high), torch.einsum("bi,bj->bij", first, last)
    return (ours - theirs).square().flatten(1).mean(1)


@pytest.fixture
def case() -> tuple[Outputs, Outputs, Batch]:
    student = Outputs(logits=torch.randn(6, 3), a=torch.randn(6, 2), b=torch.randn(6, 4))
    teacher = Outputs(logits=torch.randn(6, 3), c=torch.randn(6, 2), d=torch.randn(6, 4))
    return student, teacher, Batch(torch.zeros(6), labels=torch.zeros(6, dtype=torch.int64))


def fsp(**options) -> Loss:
    return Loss(flow, student={"low": "a", "high": "b"}, teacher={"first": "c", "last": "d"}, **options)


def test_every_tensor_has_its_own_address(case):
    student, teacher, batch = case
    loss = fsp().setup(LossContext(student, teacher, batch))
    total, count, _ = loss.term(student, teacher, batch, Progress())
    expected = flow(student["a"], student["b"], teacher["c"], teacher["d"]).sum()
    torch.testing.assert_close(total, expected)
    assert count == 6
    assert loss.requires.student == {"a", "b"}
    assert loss.requires.teacher == {"c", "d"}
    assert loss.name == "flow@a,b"
    assert "'low': 'a'" in repr(loss)


def test_masked_examples_do_not_count(case):
    student, teacher, batch = case
    mask = torch.tensor([True, False, True, True, False, True])
    loss = fsp().setup(LossContext(student, teacher, batch))
    total, count, _ = loss.term(student, teacher, batch._replace(mask=mask), Progress())
    values = flow(student["a"], student["b"], teacher["c"], teacher["d"])
    torch.testing.assert_close(total, values[mask].sum())
    assert count == 4


def test_a_head_for_each_tensor(case):
    student, teacher, batch = case
    student["a"], student["b"] = torch.randn(6, 5), torch.randn(6, 7)
    loss = fsp(head={"low": Projector(), "high": Projector()}).setup(LossContext(student, teacher, batch))
    shapes = sorted(tuple(parameter.shape) for parameter in loss.parameters())
    assert shapes == [(2,), (2, 5), (4,), (4, 7)]
    assert loss.term(student, teacher, batch, Progress()).total.requires_grad


def test_a_head_of_one_tensor_alone(case):
    student, teacher, batch = case
    loss = fsp(head={"low": nn.Linear(2, 2)}).setup(LossContext(student, teacher, batch))
    assert len(list(loss.parameters())) == 2


def test_an_unknown_tensor_names_the_parameters_of_the_kernel():
    with pytest.raises(UnknownNameError, match=r"hihg.*'high'"):
        Loss(flow, student={"low": "a", "hihg": "b"}, teacher={"first": "c", "last": "d"})
    with pytest.raises(LimbeckError, match=r"'last' is not one of them"):
        Loss(flow, student={"low": "a", "high": "b"}, teacher={"first": "c"})
    with pytest.raises(UnknownNameError, match=r"'lwo'"):
        fsp(head={"lwo": nn.Identity()})


@pytest.mark.parametrize(
    "addresses",
    [
        {"student": {"x": "a"}, "teacher": {"x": "c"}},
        {"student": {}},
        {"student": {"labels": "a"}},
    ],
)
def test_addresses_that_make_no_sense(addresses):
    with pytest.raises(ArgumentError) as caught:
        Loss(kl_divergence, **addresses)
    assert caught.value.argument in ("student", "teacher")


def test_one_address_by_name_is_the_same_as_an_address():
    assert repr(Loss(kl_divergence, student={"student": "logits"})) == repr(Loss(kl_divergence))
