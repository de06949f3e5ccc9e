"""Traps of losses over a vocabulary that other toolkits fell into (the numbers are those of our list)."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.nn import functional as F

from limbeck import functional as K
from limbeck.functional import HiddenLogits, OutputLayer, fused_linear_losses
from limbeck.functional.row_figures import (
    compute_agreement,
    compute_entropy,
    compute_mass,
    compute_overlap,
)
from limbeck.methods import make, method

VOCABULARY = 40
KERNELS = {
    name: getattr(K, name) for name in K.__all__ if getattr(getattr(K, name), "divergence", False)
}  # fmt: skip
every_kernel = pytest.mark.parametrize("name", KERNELS)


@pytest.fixture
def rows():
    torch.manual_seed(0)
    return torch.randn(6, VOCABULARY, dtype=torch.float64) * 2, torch.randn(6, VOCABULARY, dtype=torch.float64) * 2


def fused(kernel, student, teacher, **options):
    """One value a row through the fused pass, with the identity as output layer: logits are the hidden states."""
    layer = OutputLayer(torch.eye(student.shape[1], dtype=student.dtype))
    losses = {"kd": lambda logits, rows: kernel(logits, rows.teacher)}
    return fused_linear_losses(student, layer, losses, teacher=teacher, **options)["kd"]


def test_trap_1_probabilities_are_mixed_not_their_logarithms(rows):
    p, q = (side.softmax(-1) for side in reversed(rows))
    m = 0.5 * (p + q)
    exact = 0.5 * (p * (p / m).log()).sum(-1) + 0.5 * (q * (q / m).log()).sum(-1)
    torch.testing.assert_close(fused(K.gkd_jensen_shannon, *rows).values, exact)


def test_trap_1_the_size_of_the_gradient_does_not_depend_on_the_mixture(rows):
    """GKD's form has 0.1 % of the gradient at 0.001; the normalized form has that of KL."""
    student, teacher = rows[0].requires_grad_(), rows[1]
    sizes = []
    for mixture in (0.0, 1e-3, 0.5, 0.999, 1.0):
        value = K.jensen_shannon(student, teacher, mixture=mixture).sum()
        sizes.append(float(torch.autograd.grad(value, student)[0].norm()))
    assert max(sizes) < 4 * min(sizes)
    small = K.gkd_jensen_shannon(student, teacher, mixture=1e-3).sum()
    assert float(torch.autograd.grad(small, student)[0].norm()) < 2e-3 * max(sizes)


@every_kernel
def test_trap_2_the_factor_of_the_temperature_is_stated_and_inside_once(name, rows):
    kernel = KERNELS[name]
    assert "times T^2" in kernel.__doc__.splitlines()[0]
    plain = kernel(rows[0] / 3, rows[1] / 3)
    torch.testing.assert_close(kernel(*rows, temperature=3.0), 9 * plain, rtol=1e-9, atol=1e-12)


def test_trap_2_the_temperature_of_a_divergence_is_no_sampling_temperature():
    for name in ("distillm", "abkd", "gkd", "hinton"):
        assert "temperature" in method(name).parameters
    stage = next(make("gkd", teacher=torch.nn.Linear(2, 2), temperature=3.0, sampling_temperature=0.5).stages())
    assert stage.objective.temperatures == {3.0}
    assert stage.loader.generation.temperature == 0.5


@every_kernel
def test_trap_3_a_divergence_is_no_cross_entropy_and_its_floor_is_0(name, rows):
    found = fused(KERNELS[name], rows[1].clone(), rows[1])
    assert found.values.abs().max() == 0


def test_trap_3_cross_entropy_is_the_divergence_and_the_entropy(rows):
    student, teacher = rows
    soft = F.cross_entropy(student, teacher.softmax(-1), reduction="none")
    torch.testing.assert_close(soft, K.kl_divergence(student, teacher) + compute_entropy(teacher))


@every_kernel
def test_trap_4_a_value_is_a_sum_over_the_vocabulary(name, rows):
    """Twice the classes, each half as likely, is the same distribution: a mean over classes would halve the value."""
    wide = [torch.cat([side, side], -1) for side in rows]
    if name == "alpha_beta_divergence":  # its exponents do not add up to 1 by default
        both = [K.alpha_beta_divergence(*pair, alpha=0.3, beta=0.7) for pair in (rows, wide)]
    else:
        both = [KERNELS[name](*pair) for pair in (rows, wide)]
    torch.testing.assert_close(*both)


@every_kernel
def test_trap_5_impossible_classes_on_both_sides_are_as_if_they_were_not_there(name, rows):
    student, teacher = (torch.cat([side, side.new_full((6, 3), -torch.inf)], -1) for side in rows)
    student.requires_grad_()
    value = KERNELS[name](student, teacher)
    torch.testing.assert_close(value.detach(), KERNELS[name](*rows))
    slope = torch.autograd.grad(value.sum(), student)[0]
    assert slope.isfinite().all()
    assert slope[:, -3:].abs().max() == 0


@every_kernel
def test_trap_6_bfloat16_models_have_losses_of_float32(name):
    """Equal models have a loss of 0 and close ones a positive one, at a vocabulary of 150,000 and peaked logits."""
    torch.manual_seed(1)
    layer = OutputLayer((torch.randn(150_000, 8) * 2).bfloat16())
    hidden = torch.randn(4, 8).bfloat16()
    losses = {"kd": lambda logits, rows: KERNELS[name](logits, rows.teacher)}
    equal = fused_linear_losses(hidden, layer, losses, teacher=HiddenLogits(hidden, layer))["kd"]
    assert equal.values.abs().max() == 0
    near = HiddenLogits(hidden + torch.tensor(0.01).bfloat16(), layer)
    found = fused_linear_losses(hidden, layer, losses, teacher=near)["kd"].values
    wide = OutputLayer(layer.weight.double())
    exact = KERNELS[name](wide.logits(hidden.double()), wide.logits(near.hidden.double()))
    assert found.dtype == torch.float32
    assert (found > 0).all()
    torch.testing.assert_close(found.double(), exact, rtol=2e-2, atol=2e-6)


def test_trap_7_sums_are_taken_by_row_and_then_in_float64():
    torch.manual_seed(2)
    student, teacher = torch.randn(3000, 50), torch.randn(3000, 50)
    total = fused(K.kl_divergence, student, teacher).total
    exact = K.kl_divergence(student.double(), teacher.double()).sum()
    assert abs(float(total) - float(exact)) < 2e-7 * float(exact)


@every_kernel
def test_trap_8_no_term_of_a_sum_over_classes_is_clipped(name):
    """A class that the student gets very wrong counts in full, and the value stays what the formula says."""
    student, teacher = torch.zeros(1, 4, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
    values = []
    for depth in (5.0, 10.0, 20.0, 40.0):
        student[0, 0], teacher[0, 0] = -depth, depth
        values.append(float(KERNELS[name](student, teacher)))
    assert all(value > 0 for value in values)
    assert values == sorted(values)
    if name in ("kl_divergence", "reverse_kl"):
        assert values[-1] > 3 * values[0]


@pytest.mark.parametrize("layer", [{"softcap": 5.0}, {"scale": 0.25}, {"softcap": 5.0, "scale": 3.0}])
def test_trap_9_what_a_model_does_to_its_logits_is_in_the_fused_loss(layer):
    torch.manual_seed(3)
    hidden = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(VOCABULARY, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(VOCABULARY, dtype=torch.float64, requires_grad=True)
    output, teacher = OutputLayer(weight, bias, **layer), torch.randn(5, VOCABULARY, dtype=torch.float64)
    losses = {"kd": lambda logits, rows: K.reverse_kl(logits, rows.teacher)}
    total = fused_linear_losses(hidden, output, losses, teacher=teacher)["kd"].total
    logits = (hidden @ weight.t() + bias) * layer.get("scale", 1.0)
    logits = layer["softcap"] * torch.tanh(logits / layer["softcap"]) if "softcap" in layer else logits
    exact = K.reverse_kl(logits, teacher).sum()
    parts = (hidden, weight, bias)
    for one, other in zip(torch.autograd.grad(total, parts), torch.autograd.grad(exact, parts), strict=True):
        torch.testing.assert_close(one, other)


def test_trap_10_the_mixture_of_a_skew_divergence_is_differentiated(rows):
    student, teacher = rows[0].requires_grad_(), rows[1]
    q, p = student.softmax(-1), teacher.softmax(-1)

    def gradient(value):
        return torch.autograd.grad(value.sum(), student, retain_graph=True)[0]

    found = gradient(K.skew_reverse_kl(student, teacher, skew=0.1))
    full = gradient((q * (q / (0.9 * p + 0.1 * q)).log()).sum(-1))
    cut = gradient((q * (q / (0.9 * p + 0.1 * q.detach())).log()).sum(-1))
    torch.testing.assert_close(found, full)
    assert (full - cut).norm() > 1e-2 * full.norm()


def test_trap_10_divergences_are_positive_in_both_orders(rows):
    for kernel in KERNELS.values():
        assert (kernel(*rows) > 0).all()
        assert (kernel(*reversed(rows)) > 0).all()


@pytest.mark.parametrize("k", [1, 4, 16])
def test_trap_15_the_number_of_stored_classes_is_no_divisor(rows, k):
    """With the teacher's mass on few classes, all k that hold it give the divergence itself, for every k."""
    teacher = torch.full_like(rows[1], -1e3)
    teacher[:, 0] = 0.0
    ids = torch.arange(k).expand(6, k)
    merged = (K.coarse_logits(side, ids) for side in (rows[0], teacher))
    torch.testing.assert_close(K.kl_divergence(*merged), K.kl_divergence(rows[0], teacher))


def test_trap_15_masked_tokens_are_divided_by_once(rows):
    keep = torch.tensor([True, False, True, True, False, True])
    found = fused(K.kl_divergence, *rows, keep=keep)
    assert len(found.values) == 4
    torch.testing.assert_close(found.total, K.kl_divergence(*rows)[keep].sum())


@pytest.mark.parametrize("tokens", [1, 3, 700])
def test_trap_26_no_buffer_is_larger_than_the_problem(tokens, monkeypatch):
    """Logits of at most `chunk` tokens are held, and of no more tokens than there are."""
    sizes = []
    empty = torch.empty

    def recorded(*shape, **options):
        made = empty(*shape, **options)
        sizes.append(made.numel())
        return made

    hidden, layer = torch.randn(tokens, 4), OutputLayer(torch.randn(VOCABULARY, 4))
    monkeypatch.setattr(torch, "empty", recorded)
    losses = {"kd": lambda logits, rows: K.kl_divergence(logits, rows.teacher)}
    fused_linear_losses(hidden, layer, losses, teacher=HiddenLogits(hidden + 1, layer), chunk=256)
    assert max(sizes) <= max(min(tokens, 256) * VOCABULARY, tokens * 4)
    assert "chunk" in inspect.signature(fused_linear_losses).parameters


# Figures of rows in the same pass.


def test_figures_of_rows_are_their_definitions(rows):
    student, teacher = rows
    p, q = teacher.softmax(-1), student.softmax(-1)
    top = teacher.topk(5).indices
    torch.testing.assert_close(compute_entropy(student), torch.special.entr(q).sum(-1))
    torch.testing.assert_close(compute_mass(student, top), q.gather(-1, top).sum(-1))
    assert compute_agreement(student, teacher).tolist() == (q.argmax(-1) == p.argmax(-1)).double().tolist()
    shared = [len(set(a) & set(b)) / 5 for a, b in zip(top.tolist(), student.topk(5).indices.tolist(), strict=True)]
    torch.testing.assert_close(compute_overlap(student, top), torch.tensor(shared, dtype=torch.float64))


def test_figures_come_from_the_pass_of_the_loss_and_change_no_gradient(rows):
    student, teacher = rows[0].requires_grad_(), rows[1]
    layer = OutputLayer(torch.eye(VOCABULARY, dtype=torch.float64))
    losses = {
        "kd": lambda logits, rows: K.kl_divergence(logits, rows.teacher),
        "entropy": lambda logits, rows: compute_entropy(logits),
        "teacher's entropy": lambda logits, rows: compute_entropy(rows.teacher),
        "agreement": lambda logits, rows: compute_agreement(logits, rows.teacher),
        "mass": lambda logits, rows: compute_mass(logits, rows.teacher.topk(5).indices),
        "overlap": lambda logits, rows: compute_overlap(logits, rows.teacher.topk(5).indices),
    }
    found = fused_linear_losses(
        student, layer, losses, teacher=teacher, chunk=4, weights=dict.fromkeys([*losses][1:], 0.0)
    )
    torch.testing.assert_close(found["entropy"].values, compute_entropy(student.detach()))
    torch.testing.assert_close(found["teacher's entropy"].values, compute_entropy(teacher))
    torch.testing.assert_close(found["agreement"].values, compute_agreement(student.detach(), teacher))
    exact = K.kl_divergence(student, teacher).sum()
    torch.testing.assert_close(*(torch.autograd.grad(one, student)[0] for one in (found["kd"].total, exact)))


def test_figures_of_rows_are_finite_for_impossible_classes():
    logits = torch.tensor([[0.0, 1.0, -torch.inf], [-torch.inf] * 3])
    assert compute_entropy(logits).isfinite().all()
    assert compute_mass(logits, torch.tensor([[0, 2], [0, 1]]))[1] == 0
