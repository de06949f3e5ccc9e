"""Every divergence from every kind of teacher through the fused pass, beside brute force in float64."""

from __future__ import annotations

import pytest
import torch

from limbeck import functional as K
from limbeck.cache.encodings import make_encoding
from limbeck.errors import LimbeckError
from limbeck.functional import HiddenLogits, OutputLayer, coarse_logits, fused_linear_losses
from limbeck.mean_embedding import make_mean_embedding
from limbeck.top_k_logits import TopKLogits

TOKENS, WIDTH, VOCABULARY, KEPT = 9, 4, 17, 5


def kl(p, q):
    return torch.where(p > 0, p * (p / q).log(), 0.0).sum(-1)


def jsd(p, q, b):
    m = b * p + (1 - b) * q
    return b * kl(p, m) + (1 - b) * kl(q, m)


# kernel, hyper-parameters, the formula of probabilities p of the teacher and q of the student
DIVERGENCES = {
    "forward": (K.kl_divergence, {}, kl),
    "reverse": (K.reverse_kl, {}, lambda p, q: kl(q, p)),
    "skew": (K.skew_kl, {"skew": 0.1}, lambda p, q: kl(p, 0.1 * p + 0.9 * q)),
    "skew reverse": (K.skew_reverse_kl, {"skew": 0.1}, lambda p, q: kl(q, 0.9 * p + 0.1 * q)),
    "JSD": (K.jensen_shannon, {"mixture": 0.3}, lambda p, q: jsd(p, q, 0.3) / 0.21),
    "JSD of GKD": (K.gkd_jensen_shannon, {"mixture": 0.3}, lambda p, q: jsd(p, q, 0.3)),
    "total variation": (K.total_variation, {}, lambda p, q: 0.5 * (p - q).abs().sum(-1)),
    "alpha-beta": (
        K.alpha_beta_divergence, {"alpha": 0.2, "beta": 0.7},
        lambda p, q: (2 / 9 * p**0.9 + 7 / 9 * q**0.9 - p**0.2 * q**0.7).sum(-1) / 0.14,
    ),
}  # fmt: skip
every_divergence = pytest.mark.parametrize("name", DIVERGENCES)
every_temperature = pytest.mark.parametrize("temperature", [1.0, 2.0])


class Case:
    """Student, teacher, and which tokens count, all in float64."""

    def __init__(self, **layer):
        torch.manual_seed(0)
        self.hidden = torch.randn(TOKENS, WIDTH, dtype=torch.float64).requires_grad_()
        weight = torch.randn(VOCABULARY, WIDTH, dtype=torch.float64).requires_grad_()
        self.layer = OutputLayer(weight, torch.randn(VOCABULARY, dtype=torch.float64), **layer)
        its = OutputLayer(torch.randn(VOCABULARY, 7, dtype=torch.float64))
        self.teacher = HiddenLogits(torch.randn(TOKENS, 7, dtype=torch.float64), its)
        self.keep = torch.rand(TOKENS) > 0.2

    def freeze(self):
        self.layer = self.layer.detach()
        return self

    @property
    def parts(self):
        return [part for part in (self.hidden, self.layer.weight) if part.requires_grad]

    def check(self, compute, teacher, exact):
        """Compare values and gradients of the fused pass with those of a function of all the student's logits."""
        found = fused_linear_losses(self.hidden, self.layer, {"kd": compute}, teacher=teacher, keep=self.keep, chunk=3)[
            "kd"
        ]
        values = exact(self.layer.logits(self.hidden))[self.keep]
        torch.testing.assert_close(found.values, values.detach(), rtol=1e-9, atol=1e-12)
        ours = torch.autograd.grad(3.0 * found.total, self.parts)
        theirs = torch.autograd.grad(3.0 * values.sum(), self.parts)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def from_partial(kernel, **hyper):
    return lambda student, rows: rows.teacher.compare(kernel, student, **hyper)


def make_top(logits, temperature):
    """The top classes without rounding, and the exact rest."""
    ids = logits.topk(KEPT).indices
    buckets = coarse_logits(logits, ids, temperature=temperature)
    rest = torch.stack([buckets[:, -1:] / temperature, torch.zeros_like(buckets[:, -1:])], 1)
    top = torch.zeros(len(logits), dtype=torch.float64)
    return TopKLogits(ids, buckets[:, :-1], top, rest, classes=logits.shape[1], grid=(1 / temperature,))


def merge(p, ids):
    kept = p.gather(-1, ids)
    return torch.cat([kept, p.scatter(-1, ids, 0.0).sum(-1, keepdim=True)], -1)


@every_temperature
@every_divergence
@pytest.mark.parametrize("kind", ["live or stored hidden states", "dense logits"])
def test_all_logits_of_the_teacher(name, kind, temperature):
    kernel, hyper, formula = DIVERGENCES[name]
    case = Case(scale=1.5, softcap=6.0)
    teacher = case.teacher if kind.startswith("live") else case.teacher.to_dense()
    p = (case.teacher.to_dense() / temperature).softmax(-1)
    case.check(
        lambda student, rows: kernel(student, rows.teacher, temperature=temperature, **hyper), teacher,
        lambda logits: temperature**2 * formula(p, (logits / temperature).softmax(-1)),
    )  # fmt: skip


@every_temperature
@every_divergence
def test_trap_20_top_classes_and_the_rest_as_one_class_without_renormalizing(name, temperature):
    """The student's mass outside the k classes is compared too: no reverse KL that is lowered by moving it there."""
    kernel, hyper, formula = DIVERGENCES[name]
    case = Case()
    logits = case.teacher.to_dense()
    top = make_top(logits, temperature)
    p = merge((logits / temperature).softmax(-1), top.ids)
    case.check(
        from_partial(kernel, temperature=temperature, **hyper), top,
        lambda student: temperature**2 * formula(p, merge((student / temperature).softmax(-1), top.ids)),
    )  # fmt: skip


@every_divergence
def test_trap_20_a_student_that_leaves_the_stored_classes_pays(name):
    kernel, hyper, _ = DIVERGENCES[name]
    logits = Case().teacher.to_dense()
    top = make_top(logits, 1.0)
    away = logits.scatter(-1, top.ids, float(logits.amin()))
    same, moved = (top.compare(kernel, student, **hyper) for student in (logits, away))
    assert same.abs().max() < 1e-12
    assert (moved > 0.05).all()


@every_temperature
def test_sampled_classes(temperature):
    case = Case()
    logits = case.teacher.to_dense()
    encoding = make_encoding("sampled", classes=VOCABULARY, draws=6, power=1 / temperature)
    at = torch.arange(TOKENS)
    sampled = encoding.decode(encoding.encode(logits, id=at, view=at * 0, position=at * 0)).double()
    weights, entropy = sampled.weights(temperature), sampled.entropy(temperature)

    def exact(student):
        log_q = (student / temperature).log_softmax(-1).gather(-1, sampled.ids)
        return temperature**2 * (-(weights * log_q).sum(-1) - entropy)

    case.check(from_partial(K.kl_divergence, temperature=temperature), sampled, exact)


@every_temperature
@pytest.mark.parametrize("kind", ["hidden", "dense"])
def test_mean_embeddings_of_a_frozen_layer_are_the_exact_forward_kl(kind, temperature):
    case = Case(scale=0.7).freeze()
    teacher = case.teacher if kind == "hidden" else case.teacher.to_dense()
    mean = make_mean_embedding(teacher, case.layer, temperature=temperature)
    assert mean.mean.shape == (TOKENS, WIDTH)
    p = (case.teacher.to_dense() / temperature).softmax(-1)
    case.check(
        from_partial(K.kl_divergence, temperature=temperature), mean,
        lambda student: temperature**2 * kl(p, (student / temperature).softmax(-1)),
    )  # fmt: skip


def test_mean_embeddings_beside_another_loss_and_with_weights():
    case = Case().freeze()
    labels, weights = torch.randint(0, VOCABULARY, (TOKENS,)), torch.rand(TOKENS, dtype=torch.float64)
    losses = {"kd": from_partial(K.kl_divergence), "ce": lambda s, rows: K.cross_entropy(s, labels=rows.labels)}
    mean = make_mean_embedding(case.teacher, case.layer)
    found = fused_linear_losses(
        case.hidden, case.layer, losses, teacher=mean, labels=labels, token_weights=weights, chunk=4,
        weights={"kd": 0.9, "ce": 0.1},
    )  # fmt: skip
    student = case.layer.logits(case.hidden)
    p, q = case.teacher.to_dense().softmax(-1), student.softmax(-1)
    exact = (weights * (0.9 * kl(p, q) + 0.1 * K.cross_entropy(student, labels=labels))).sum()
    total = 0.9 * found["kd"].total + 0.1 * found["ce"].total
    torch.testing.assert_close(total, exact)
    torch.testing.assert_close(*(torch.autograd.grad(one, case.hidden)[0] for one in (total, exact)))


def test_mean_embeddings_in_half_precision_take_two_bytes_of_each_value():
    case = Case().freeze()
    mean = make_mean_embedding(case.teacher, case.layer)
    exact = kl(case.teacher.to_dense().softmax(-1), case.layer.logits(case.hidden).softmax(-1))
    mean.mean = mean.mean.half()
    found = fused_linear_losses(case.hidden, case.layer, {"kd": from_partial(K.kl_divergence)}, teacher=mean)["kd"]
    torch.testing.assert_close(found.values, exact.detach(), rtol=0, atol=5e-3)


# Cells that the mathematics does not allow.


@every_divergence
@pytest.mark.parametrize("kind", ["sampled", "mean embedding"])
def test_only_the_forward_kl_is_linear_in_the_teacher(name, kind):
    kernel, hyper, _ = DIVERGENCES[name]
    case = Case().freeze()
    if kind == "sampled":
        encoding, at = make_encoding("sampled", classes=VOCABULARY, draws=6), torch.arange(TOKENS)
        teacher = encoding.decode(encoding.encode(case.teacher.to_dense(), id=at, view=at * 0, position=at * 0))
    else:
        teacher = make_mean_embedding(case.teacher, case.layer)
    if name == "forward":
        assert teacher.invalid_reason(kernel, **hyper) is None
        return
    with pytest.raises(LimbeckError, match="not linear in the"):
        fused_linear_losses(case.hidden, case.layer, {"kd": from_partial(kernel, **hyper)}, teacher=teacher)


def test_mean_embeddings_of_a_layer_that_changes_or_is_bounded_are_refused():
    case = Case()
    with pytest.raises(LimbeckError, match="freeze"):
        make_mean_embedding(case.teacher, case.layer)
    mean = make_mean_embedding(case.teacher, case.layer.detach())
    with pytest.raises(LimbeckError, match="freeze"):
        fused_linear_losses(case.hidden, case.layer, {"kd": from_partial(K.kl_divergence)}, teacher=mean)
    with pytest.raises(LimbeckError, match="softcap"):
        make_mean_embedding(case.teacher, Case(softcap=3.0).freeze().layer)


def test_mean_embeddings_know_one_temperature_and_need_hidden_states():
    case = Case().freeze()
    mean = make_mean_embedding(case.teacher, case.layer)
    losses = {"kd": from_partial(K.kl_divergence, temperature=2.0)}
    with pytest.raises(LimbeckError, match="temperature 1"):
        fused_linear_losses(case.hidden, case.layer, losses, teacher=mean)
    with pytest.raises(LimbeckError, match="hidden states"):
        mean.compare(K.kl_divergence, case.layer.logits(case.hidden))
    with pytest.raises(LimbeckError, match="17"):
        make_mean_embedding(torch.zeros(3, 5), case.layer)
