"""Every kernel keeps every law, and each law catches a kernel that breaks it."""

from __future__ import annotations

import inspect

import pytest
import torch

from laws import CLAIMS
from limbeck import functional
from limbeck.errors import ArgumentError, UnknownNameError
from limbeck.functional import KernelClaim, kernel
from limbeck.functional.kernel_claim import INVARIANCES
from limbeck.losses import Loss
from limbeck.testing import LawError, check_kernel
from limbeck.testing.invariance import TRANSFORMATIONS
from limbeck.testing.kernel_inputs import check_finite, check_one_sided


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_every_kernel_keeps_every_law(claim):
    check_kernel(claim)  # names all laws that are broken


def test_every_public_kernel_has_a_row():
    # Kernels for other tokenizers have other shapes on both sides: their laws are in test_across_tokenizers.py.
    kernels = {name: getattr(functional, name) for name in functional.__all__}
    public = {
        name
        for name, one in kernels.items()
        if inspect.isfunction(one) and hasattr(one, "per") and one.across_tokenizers is None
    }
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


@kernel(per="position", divergence=True)
def not_a_divergence(student, teacher):
    return (student.softmax(-1) - teacher.softmax(-1)).square().sum(-1)


@kernel(per="batch")
def mean_of_none(student, teacher):
    return (student - teacher).square().sum(-1).mean()


@kernel(per="position")
def in_steps(student, teacher):
    return ((student - teacher).square() / torch.finfo(student.dtype).eps).sum(-1)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (mean_of_none, "for a batch of no examples"),
        (in_steps, "inputs in float16 give another value"),
        (averaged, "shape () per position for a student of shape (4, 5), not (4,)"),
        (written_into, "writes into student"),
        (ordered, "permuted with the examples"),
        (one_class, "classes are permuted"),
        (naive, "its value for"),
        (cut, "Jacobian mismatch"),
        (never_zero, "are equal, not 0"),
        (squeezed, "float64"),
        (undeclared, "per is None"),
        (positional, "temperature must be keyword-only"),
        (not_a_divergence, "when classes are merged"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_law_catches(broken, sentence):
    with pytest.raises(LawError) as error:
        check_kernel(broken, zero_at_equality=True, largest=1e15)
    assert any(sentence in text for text in error.value.broken), error.value.broken


def test_all_broken_laws_are_listed_at_once():
    with pytest.raises(LawError, match=r"^naive\(\): \d laws of kernels are broken:\n1\. ") as error:
        check_kernel(naive, zero_at_equality=True)
    assert len(error.value.broken) >= 3
    with pytest.raises(LawError) as error:  # the other laws mean nothing without a declaration
        check_kernel(undeclared)
    assert len(error.value.broken) == 1


@kernel(per="example")
def attention_map(student, teacher):
    """Zagoruyko and Komodakis, 2016: mean squared distance of channel energies, from [batch, c, h, w]."""
    energies = (features.square().mean(dim=1).flatten(1) for features in (student, teacher))
    mine, its = (energy / energy.norm(dim=1, keepdim=True).clamp_min(1e-12) for energy in energies)
    return (mine - its).square().mean(1)


def test_a_kernel_of_maps_is_checked_on_its_own_shape():
    check_kernel(attention_map, shape=(3, 2, 4), logits=False, largest=1e5, zero_at_equality=True)
    with pytest.raises(LawError, match="raises IndexError"):
        check_kernel(attention_map, logits=False)


@kernel(per="example")
def flow(low, high, teacher_low, teacher_high):
    """Yim et al., 2017: squared distance of the inner products of two layers."""
    mine, its = (
        a.flatten(1)[:, :, None] * b.flatten(1)[:, None] for a, b in ((low, high), (teacher_low, teacher_high))
    )
    return (mine - its).square().flatten(1).mean(1)


def test_a_kernel_of_several_layers_is_checked():
    names = {"student": ("low", "high"), "teacher": ("teacher_low", "teacher_high")}
    check_kernel(flow, **names, logits=False, largest=1e7, zero_at_equality=True)
    with pytest.raises(LawError, match="low must be keyword-only"):
        check_kernel(flow, logits=False)


@kernel(per="example")
def token_distance(student, teacher, *, mask=None):
    """Mean squared distance of the tokens that count, from [batch, tokens, width]."""
    values = (student - teacher).square().mean(-1)
    mask = torch.ones_like(values) if mask is None else mask
    return (values * mask).sum(1) / mask.sum(1).clamp_min(1)


@kernel(per="example")
def forgets_the_number(student, teacher, *, mask):
    return ((student - teacher).square().mean(-1) * mask).mean(1)


@kernel(per="batch")
def centered(student, teacher, *, mask):
    student, teacher = (features[mask] - features[mask].mean(0) for features in (student, teacher))
    return (student - teacher).square().sum(-1).sum() / mask.sum().clamp_min(1)


def test_a_mask_is_checked_against_leaving_out():
    tokens = {"shape": (6, 4), "positions": 1, "logits": False, "largest": 1e15}
    check_kernel(token_distance, **tokens, zero_at_equality=True)
    with pytest.raises(LawError, match="a mask is not equivalent to leaving positions out"):
        check_kernel(forgets_the_number, **tokens)
    check_kernel(centered, logits=False, largest=1e15)


@kernel(per="pair")
def cosines(student, teacher):
    mine, its = (torch.nn.functional.normalize(x, dim=1) for x in (student, teacher))
    return (mine @ mine.T - its @ its.T).square()


def test_invariances_are_checked_by_name():
    kept = ("student_scale", "teacher_rotation", "joint_negation", "joint_channel_permutation", "student_batch_scale")
    wide = {"shape": (4,), "teacher_shape": (7,), "logits": False, "largest": 1e15, "zero_at_equality": True}
    check_kernel(cosines, **wide, invariances=kept)
    lost = ("student_shift", "teacher_translation")
    with pytest.raises(LawError) as error:
        check_kernel(cosines, **wide, invariances=kept + lost)
    assert [name for name in kept + lost if any(name in text for text in error.value.broken)] == list(lost)
    maps = {"shape": (3, 2, 4), "channels": 1, "logits": False, "largest": 1e5}
    same = ("student_channel_permutation", "joint_position_permutation", "joint_flip", "teacher_negation")
    check_kernel(attention_map, **maps, invariances=same)
    for name in ("student_position_permutation", "student_flip"):
        with pytest.raises(LawError, match=name):
            check_kernel(attention_map, **maps, invariances=(name,))


def test_a_claim_refuses_unknown_invariances_and_positions_without_features():
    with pytest.raises(UnknownNameError, match="student_shift"):
        KernelClaim(cosines, invariances=("student_shifts",))
    with pytest.raises(ArgumentError, match="positions=1"):
        KernelClaim(cosines, positions=1)
    assert set(INVARIANCES) == {
        f"{side}_{kind}" for kind in TRANSFORMATIONS for side in ("student", "teacher", "joint")
    }


@kernel(per="example")
def positional_id(student, id):
    return student.square().flatten(1).mean(1) + 0 * id


def test_the_inputs_of_a_kernel_may_be_positional():
    check_kernel(positional_id, logits=False, largest=1e15)
    assert Loss(positional_id).requires.batch == {"id"}


def test_check_kernel_raises_an_assertion_with_a_sentence():
    with pytest.raises(
        AssertionError, match=r"^cut\(\): A law of kernels is broken: .*gradient.*numerical.*\.$"
    ) as error:
        check_kernel(cut, largest=1e15, logits=False)
    assert "\n" not in str(error.value)


def test_check_kernel_names_hyper_parameters_and_the_value_that_is_expected():
    @kernel(per="position")
    def first_class(student, teacher, *, scale):
        return scale * (student - teacher)[..., 0].square()

    with pytest.raises(
        AssertionError, match=r"(?s)^first_class\(scale=2\.0\): .*classes are permuted: \[.*\], where \[.* is expected"
    ):
        check_kernel(first_class, hyper={"scale": 2.0})


@kernel(per="position")
def weighted_gap(student, teacher):
    p, log_q = teacher.softmax(-1), student.log_softmax(-1)
    return -(p * log_q).sum(-1)


def test_a_class_that_is_masked_on_one_side_must_not_give_nan():
    with pytest.raises(LawError, match=r"-inf in the teacher alone|-inf in the student alone"):
        check_one_sided(KernelClaim(weighted_gap))


@kernel(per="position")
def squared_logits(student, teacher):
    return (student.square() - teacher.square()).square().mean(-1)


def test_the_message_about_huge_logits_says_what_to_type():
    with pytest.raises(LawError, match=r"KernelClaim\(\.\.\., largest=1e\+15\)"):
        check_finite(KernelClaim(squared_logits))
