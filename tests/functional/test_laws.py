"""Does every kernel keep every law, and does each law catch a kernel that breaks it?"""

from __future__ import annotations

import inspect

import pytest
import torch

from laws import CLAIMS
from limbeck import functional
from limbeck.functional import kernel
from limbeck.testing import LAWS, Claim, check_kernel


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_every_kernel_keeps_every_law(claim, law):
    law(claim)


def test_every_public_kernel_has_a_row():
    public = {name for name in functional.__all__ if hasattr(getattr(functional, name), "per")}
    assert public == {claim.kernel.__name__ for claim in CLAIMS.values()}


def test_every_tempered_kernel_states_the_factor_in_its_first_line():
    for claim in CLAIMS.values():
        if "temperature" in inspect.signature(claim.kernel).parameters:
            assert "times T^2" in claim.kernel.__doc__.splitlines()[0], claim.kernel.__name__


@kernel(per="position")
def averaged(student, teacher):
    return (student - teacher).square().mean()


@kernel(per="example")
def written_into(student, teacher):
    return student.sub_(teacher).square().mean(-1)


@kernel(per="example")
def ordered(student, teacher):
    return (student - teacher).square().mean(-1) * torch.arange(1, len(student) + 1)


@kernel(per="position")
def one_class(student, teacher):
    return (student - teacher)[..., 0].square()


@kernel(per="position")
def naive(student, teacher):
    p, q = student.softmax(-1), teacher.softmax(-1)
    return (p * (p / q).log()).sum(-1)


@kernel(per="position")
def cut(student, teacher):
    return (student.detach() - teacher).square().sum(-1) + 0 * student.sum(-1)


@kernel(per="position")
def never_zero(student, teacher):
    return (student - teacher).tanh().square().sum(-1) + 1e-9


@kernel(per="position")
def squeezed(student, teacher):
    return (student.bfloat16() - teacher.bfloat16()).float().square().mean(-1)


def undeclared(student, teacher):
    return (student - teacher).square().mean(-1)


@kernel(per="example")
def positional(student, teacher, temperature=1.0):
    return (student / temperature - teacher).square().mean(-1)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (averaged, "shape () per position, not (4,)"),
        (written_into, "writes into student"),
        (ordered, "permuted with the examples"),
        (one_class, "classes are permuted"),
        (naive, "its value for"),
        (cut, "Jacobian mismatch"),
        (never_zero, "are equal, not 0"),
        (squeezed, "float64"),
        (undeclared, "per is None"),
        (positional, "temperature must be keyword-only"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_law_catches(broken, sentence):
    broken_laws = []
    for law in LAWS:
        try:
            law(Claim(broken, divergence=True, largest=1e15))
        except Exception as error:  # any error is a verdict here, gradcheck raises its own
            broken_laws.append(str(error))
    assert any(sentence in error for error in broken_laws), broken_laws


def test_check_kernel_raises_an_assertion_with_a_sentence():
    with pytest.raises(AssertionError, match=r"^averaged\(\): A law of kernels is broken: .* not .*\.$"):
        check_kernel(averaged)
    with pytest.raises(AssertionError, match=r"^naive\(\): .*, and must be finite\.$"):
        check_kernel(naive)
    with pytest.raises(AssertionError, match=r"^cut\(\): .*gradient.*numerical.*\.$") as found:
        check_kernel(cut, largest=1e15, logits=False)
    assert "\n" not in str(found.value)


def test_check_kernel_names_hyper_parameters_and_the_value_that_is_expected():
    @kernel(per="position")
    def first_class(student, teacher, *, scale):
        return scale * (student - teacher)[..., 0].square()

    with pytest.raises(
        AssertionError, match=r"^first_class\(scale=2\.0\): .*classes are permuted: \[.*\], where \[.* is expected"
    ):
        check_kernel(first_class, hyper={"scale": 2.0})
