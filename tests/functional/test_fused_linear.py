"""Fused output layer and losses: the dense path is the reference."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from limbeck.errors import ArgumentError, LimbeckError, UnknownNameError
from limbeck.functional import (
    cross_entropy,
    gkd_jensen_shannon,
    jensen_shannon,
    kl_divergence,
    label_smoothing,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
    total_variation,
)
from limbeck.functional.fused_linear import fused_linear_losses
from limbeck.functional.output_layer import HiddenLogits, OutputLayer

DIVERGENCES = [kl_divergence, reverse_kl, jensen_shannon, gkd_jensen_shannon, skew_kl, skew_reverse_kl, total_variation]
LAYERS = {
    "plain": {},
    "bias": {"bias": True},
    "capped": {"softcap": 3.0},
    "scaled": {"scale": 0.5},
    "all": {"bias": True, "softcap": 4.0, "scale": 1.5},
}
TOKENS, WIDTH, VOCABULARY = 11, 5, 23


def make_layer(*, bias=False, dtype=torch.float64, width=WIDTH, **options):
    weight = torch.randn(VOCABULARY, width, dtype=dtype)
    return OutputLayer(weight, torch.randn(VOCABULARY, dtype=dtype) if bias else None, **options)


def of_teacher(kernel, **hyper):
    return lambda student, rows: kernel(student, rows.teacher, **hyper)


def of_labels(student, rows):
    return cross_entropy(student, labels=rows.labels)


def leaves(hidden, layer):
    return [one.requires_grad_() for one in (hidden, layer.weight, layer.bias) if one is not None]


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, dtype=torch.float64)
    teacher = HiddenLogits(torch.randn(TOKENS, 7, dtype=torch.float64), make_layer(width=7))
    return hidden, teacher, torch.randint(0, VOCABULARY, (TOKENS,)), torch.rand(TOKENS) > 0.25


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kernel", DIVERGENCES, ids=lambda kernel: kernel.__name__)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_values_and_gradients_are_those_of_all_logits_at_once(inputs, kernel, layer, temperature):
    hidden, teacher, labels, keep = inputs
    layer = make_layer(**LAYERS[layer])
    parts = leaves(hidden, layer)
    losses = {"kd": of_teacher(kernel, temperature=temperature), "ce": of_labels}
    fused = fused_linear_losses(
        hidden, layer, losses, teacher=teacher, labels=labels, keep=keep, weights={"kd": 0.9, "ce": 0.1}, chunk=4
    )
    dense = layer.logits(hidden)[keep]
    values = kernel(dense, teacher.to_dense()[keep], temperature=temperature), cross_entropy(dense, labels=labels[keep])
    torch.testing.assert_close(fused["kd"].values, values[0].detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(fused["ce"].values, values[1].detach(), rtol=1e-9, atol=1e-12)
    ours = torch.autograd.grad(0.9 * fused["kd"].total + 0.1 * fused["ce"].total, parts)
    theirs = torch.autograd.grad(0.9 * values[0].sum() + 0.1 * values[1].sum(), parts)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("factors", [(2.7, 0.3), (1.0, 0.0), (0.0, 1.0), (0.3, 5.0)])
def test_other_factors_than_expected_give_the_right_gradient(inputs, factors):
    """The first is in proportion to the expected factors, the others are not."""
    hidden, teacher, labels, _ = inputs
    layer = make_layer()
    parts = leaves(hidden, layer)
    losses = {"kd": of_teacher(kl_divergence), "ce": of_labels}
    fused = fused_linear_losses(
        hidden, layer, losses, teacher=teacher, labels=labels, weights={"kd": 0.9, "ce": 0.1}, chunk=4
    )
    dense = layer.logits(hidden)
    totals = kl_divergence(dense, teacher.to_dense()).sum(), cross_entropy(dense, labels=labels).sum()
    ours = torch.autograd.grad(factors[0] * fused["kd"].total + factors[1] * fused["ce"].total, parts)
    theirs = torch.autograd.grad(factors[0] * totals[0] + factors[1] * totals[1], parts)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)


def test_the_gradient_can_be_requested_twice(inputs):
    hidden, teacher, _, _ = inputs
    layer = make_layer()
    parts = leaves(hidden, layer)
    total = fused_linear_losses(hidden, layer, {"kd": of_teacher(kl_divergence)}, teacher=teacher)["kd"].total
    first = torch.autograd.grad(3.0 * total, parts, retain_graph=True)
    second = torch.autograd.grad(3.0 * total, parts)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_token_weights_scale_values_and_gradients(inputs):
    hidden, teacher, _, keep = inputs
    layer = make_layer()
    parts = leaves(hidden, layer)
    weights = torch.rand(TOKENS, dtype=torch.float64)
    fused = fused_linear_losses(
        hidden, layer, {"kd": of_teacher(reverse_kl)}, teacher=teacher, keep=keep, token_weights=weights, chunk=3
    )["kd"]
    values = reverse_kl(layer.logits(hidden), teacher.to_dense())[keep]
    torch.testing.assert_close(fused.values, values.detach())
    total = (values * weights[keep]).sum()
    torch.testing.assert_close(fused.total, total)
    for one, other in zip(torch.autograd.grad(fused.total, parts), torch.autograd.grad(total, parts), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("kernel", DIVERGENCES, ids=lambda kernel: kernel.__name__)
def test_equal_models_have_a_loss_and_gradients_of_exactly_zero(kernel):
    torch.manual_seed(1)
    hidden, layer = torch.randn(9, WIDTH), make_layer(dtype=torch.float32)
    teacher = HiddenLogits(hidden.clone(), layer)
    parts = leaves(hidden, layer)
    fused = fused_linear_losses(hidden, layer, {"kd": of_teacher(kernel)}, teacher=teacher, chunk=4)["kd"]
    assert fused.total.item() == 0
    for gradient in torch.autograd.grad(fused.total, parts):
        assert gradient.abs().max().item() == 0


@pytest.mark.parametrize("kernel", DIVERGENCES, ids=lambda kernel: kernel.__name__)
def test_trap_5_classes_that_are_impossible_on_both_sides_add_nothing(inputs, kernel):
    """Padded rows of a vocabulary are -inf in both models; the best known implementation gives NaN."""
    hidden, _, _, _ = inputs
    layer, its = make_layer(bias=True), make_layer(bias=True)
    for one in (layer, its):
        one.bias[-3:] = -torch.inf
    teacher = HiddenLogits(hidden + 1, its)
    parts = leaves(hidden, layer)
    fused = fused_linear_losses(hidden, layer, {"kd": of_teacher(kernel)}, teacher=teacher, chunk=4)["kd"]
    dense = kernel(layer.logits(hidden)[:, :-3], teacher.to_dense()[:, :-3])
    torch.testing.assert_close(fused.values, dense.detach())
    gradients = torch.autograd.grad(fused.total, parts)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert gradients[1][-3:].abs().max() == 0


@pytest.mark.parametrize("teacher", ["logits", "hidden", "none"])
def test_shapes_of_texts_and_every_kind_of_teacher(teacher):
    torch.manual_seed(2)
    hidden, layer = torch.randn(2, 4, WIDTH, dtype=torch.float64), make_layer()
    its = HiddenLogits(torch.randn(2, 4, 7, dtype=torch.float64), make_layer(width=7))
    labels = torch.randint(0, VOCABULARY, (2, 4))
    given = {"logits": its.to_dense(), "hidden": its, "none": None}[teacher]
    losses = {"smooth": lambda student, rows: label_smoothing(student, labels=rows.labels, smoothing=0.2)}
    if given is not None:
        losses["kd"] = of_teacher(jensen_shannon)
    fused = fused_linear_losses(hidden, layer, losses, teacher=given, labels=labels, chunk=3)
    dense = layer.logits(hidden)
    torch.testing.assert_close(fused["smooth"].total, label_smoothing(dense, labels=labels, smoothing=0.2).sum())
    if given is not None:
        torch.testing.assert_close(fused["kd"].total, jensen_shannon(dense, its.to_dense()).sum())


def test_without_a_token_that_counts_the_gradient_is_zero_and_connected(inputs):
    hidden, teacher, _, keep = inputs
    layer = make_layer()
    parts = leaves(hidden, layer)
    fused = fused_linear_losses(
        hidden, layer, {"kd": of_teacher(kl_divergence)}, teacher=teacher, keep=torch.zeros_like(keep)
    )["kd"]
    assert fused.total.item() == 0
    assert len(fused.values) == 0
    for gradient in torch.autograd.grad(fused.total, parts):
        assert gradient.abs().sum() == 0


def test_tied_embeddings_get_both_gradients():
    torch.manual_seed(3)
    weight = torch.randn(VOCABULARY, WIDTH, dtype=torch.float64, requires_grad=True)
    ids, teacher = torch.randint(0, VOCABULARY, (6,)), torch.randn(6, VOCABULARY, dtype=torch.float64)
    hidden = weight[ids].tanh()
    fused = fused_linear_losses(hidden, OutputLayer(weight), {"kd": of_teacher(kl_divergence)}, teacher=teacher)
    (ours,) = torch.autograd.grad(fused["kd"].total, weight)
    dense = kl_divergence(weight[ids].tanh() @ weight.t(), teacher).sum()
    torch.testing.assert_close(ours, torch.autograd.grad(dense, weight)[0])


def test_a_frozen_layer_has_no_gradient_and_no_product_for_it(inputs, monkeypatch):
    hidden, teacher, _, _ = inputs
    layer = make_layer()
    hidden.requires_grad_()
    shapes = []
    product = torch.Tensor.addmm_
    monkeypatch.setattr(torch.Tensor, "addmm_", lambda out, *args: shapes.append(out.shape) or product(out, *args))
    total = fused_linear_losses(hidden, layer, {"kd": of_teacher(kl_divergence)}, teacher=teacher)["kd"].total
    total.backward()
    assert hidden.grad is not None
    assert layer.weight.grad is None
    assert shapes == []


def test_half_precision_is_computed_in_float32_and_never_below_zero():
    torch.manual_seed(4)
    hidden, layer = torch.randn(40, 16).bfloat16(), make_layer(dtype=torch.float32, width=16)
    layer = layer._replace(weight=layer.weight.bfloat16())
    near = HiddenLogits(hidden + 1e-2 * torch.randn_like(hidden), layer)
    parts = leaves(hidden, layer)
    for kernel in DIVERGENCES:
        fused = fused_linear_losses(hidden, layer, {"kd": of_teacher(kernel)}, teacher=near, chunk=16)["kd"]
        wide = OutputLayer(layer.weight.double()).logits(hidden.double())
        exact = kernel(wide, OutputLayer(layer.weight.detach().double()).logits(near.hidden.double()))
        assert fused.values.dtype == torch.float32
        assert fused.values.min() >= 0
        torch.testing.assert_close(fused.values.double(), exact.detach(), rtol=1e-3, atol=2e-6)
        ours, theirs = torch.autograd.grad(fused.total, parts), torch.autograd.grad(exact.sum(), parts)
        assert [one.dtype for one in ours] == [torch.bfloat16] * 2
        for one, other in zip(ours, theirs, strict=True):
            assert (one - other).norm() <= 5e-3 * other.norm()


def test_under_autocast_products_stay_in_float32(inputs):
    hidden, teacher, _, _ = inputs
    hidden, layer = hidden.float(), make_layer(dtype=torch.float32)
    its = teacher.to_dense().float()
    plain = fused_linear_losses(hidden, layer, {"kd": of_teacher(kl_divergence)}, teacher=its)["kd"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fused_linear_losses(hidden, layer, {"kd": of_teacher(kl_divergence)}, teacher=its)["kd"]
    torch.testing.assert_close(inside.values, plain.values, rtol=0, atol=0)


def test_sums_over_many_tokens_are_exact():
    torch.manual_seed(5)
    hidden, layer = torch.randn(5000, 4), OutputLayer(torch.randn(8, 4))
    labels = torch.randint(0, 8, (5000,))
    fused = fused_linear_losses(hidden, layer, {"ce": of_labels}, labels=labels)["ce"]
    exact = cross_entropy(layer.logits(hidden).double(), labels=labels).sum()
    assert abs(fused.total.item() - exact.item()) < 1e-6 * exact.item()


@pytest.mark.parametrize(
    "wrong",
    [
        {"teacher": torch.zeros(TOKENS, VOCABULARY + 1)},
        {"labels": torch.zeros(TOKENS + 1, dtype=torch.int64)},
        {"keep": torch.ones(TOKENS, 1, dtype=torch.bool)},
        {"token_weights": torch.ones(2)},
    ],
)
def test_shapes_that_do_not_match_are_refused(inputs, wrong):
    with pytest.raises((LimbeckError, TypeCheckError)):  # the second where annotations are checked
        fused_linear_losses(inputs[0], make_layer(), {"kd": of_teacher(kl_divergence)}, **wrong)


def test_hidden_states_of_another_width_are_refused():
    with pytest.raises(LimbeckError):
        HiddenLogits(torch.zeros(3, 4), make_layer())


@pytest.mark.parametrize("chunk", [0, -1, 1.5, True])
def test_chunk_is_a_number_of_tokens(chunk):
    with pytest.raises((ArgumentError, TypeCheckError)):
        fused_linear_losses(torch.randn(4, WIDTH), make_layer(dtype=torch.float32), {}, chunk=chunk)


@pytest.mark.parametrize("reduce", [torch.Tensor.sum, lambda logits: logits, lambda logits: logits.sum(1, True)])
def test_a_loss_that_returns_no_value_for_each_row_is_refused(reduce):
    losses = {"wrong": lambda logits, rows: reduce(logits)}
    with pytest.raises(LimbeckError, match="each row"):
        fused_linear_losses(torch.randn(4, WIDTH), make_layer(dtype=torch.float32), losses)


def test_arguments_that_would_have_no_effect_or_give_nan_are_refused():
    hidden, losses = torch.randn(4, WIDTH), {"sum": lambda logits, rows: logits.sum(1)}
    with pytest.raises(UnknownNameError, match="'sum'"):
        fused_linear_losses(hidden, make_layer(dtype=torch.float32), losses, weights={"summ": 2.0})
    with pytest.raises(LimbeckError, match="softcap"):
        fused_linear_losses(hidden, make_layer(dtype=torch.float32, softcap=0.0), losses)
