"""Wrong calls of kernels are refused with a helpful message."""

from __future__ import annotations

import pytest
import torch

from laws import CLAIMS
from limbeck.errors import ArgumentError, LimbeckError, UnknownNameError
from limbeck.functional import check_hyper, jensen_shannon, kl_divergence, label_smoothing, skew_kl

PAIRED = {c.kernel.__name__: c.kernel for c in CLAIMS.values() if c.takes("teacher") and len(c.shape) < 3}
TEMPERED = {name: k for name, k in PAIRED.items() if "temperature" in k.__wrapped__.__wrapped__.__annotations__}


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan"), torch.tensor(2.0), "4", None])
@pytest.mark.parametrize("k", TEMPERED.values(), ids=TEMPERED)
def test_a_temperature_that_is_none_is_refused(k, temperature):
    with pytest.raises(LimbeckError, match="temperature is a finite number above 0; got"):
        k(torch.zeros(2, 3), torch.zeros(2, 3), temperature=temperature)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_outside_0_to_1_is_refused(share):
    student = torch.zeros(2, 3)
    with pytest.raises(LimbeckError, match="mixture is a number from 0 to 1; got"):
        jensen_shannon(student, student, mixture=share)
    with pytest.raises(LimbeckError, match="skew is a number from 0 to 1; got"):
        skew_kl(student, student, skew=share)
    with pytest.raises(LimbeckError, match="smoothing is a number from 0 to 1; got"):
        label_smoothing(student, labels=torch.zeros(2, dtype=torch.long), smoothing=share)


def test_whole_numbers_are_numbers():
    student, teacher = torch.randn(2, 3), torch.randn(2, 3)
    same = kl_divergence(student, teacher, temperature=4.0)
    assert torch.equal(kl_divergence(student, teacher, temperature=4), same)


@pytest.mark.parametrize("k", PAIRED.values(), ids=PAIRED)
def test_two_counts_of_classes_are_named(k):
    with pytest.raises(LimbeckError, match=r"The student has 10 .* and the teacher 12\b"):
        k(torch.zeros(2, 10), torch.zeros(2, 12))


@pytest.mark.parametrize("k", PAIRED.values(), ids=PAIRED)
def test_nothing_is_broadcast(k):
    with pytest.raises(LimbeckError, match=r"\(2, 10\) is not the teacher's \(1, 10\)"):
        k(torch.zeros(2, 10), torch.zeros(1, 10))


def test_hyper_parameters_can_be_checked_before_there_are_tensors():
    check_hyper(temperature=4, mixture=0.0, skew=1.0, smoothing=0.5, class_temperature=0.1)
    with pytest.raises(LimbeckError, match="mixture"):
        check_hyper(temperature=4.0, mixture=2.0)


@pytest.mark.parametrize("name", ["class_temperature", "student_temperature"])
def test_a_name_that_ends_in_temperature_is_one_and_is_named(name):
    with pytest.raises(ArgumentError) as refused:
        check_hyper(**{name: 0.0})
    assert refused.value.argument == name
    assert str(refused.value).startswith(name)


@pytest.mark.parametrize("name", ["weight", "centered", "temprature", "temperatures"])
def test_a_name_without_limits_is_refused(name):
    with pytest.raises(UnknownNameError, match="check_weight"):
        check_hyper(**{name: 1.0})


def test_a_kernel_names_its_own_temperature():
    from limbeck.methods.embeddings.listwise_kl import two_temperature_kl
    from limbeck.methods.logits.mlkd import mlkd

    with pytest.raises(ArgumentError, match="teacher_temperature is"):
        two_temperature_kl(torch.zeros(2, 3), torch.zeros(2, 3), teacher_temperature=0.0)
    with pytest.raises(ArgumentError) as refused:
        mlkd(torch.nn.Linear(2, 2), temperatures=(1.0, 0.0))
    assert refused.value.argument == "temperatures"
