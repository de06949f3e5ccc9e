"""Losses of logits that are not multiplied out are those of the dense logits: values, gradients, masks, weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck import functional as K
from limbeck.batch import IGNORED, LOGITS, Batch, Outputs, Progress
from limbeck.cache.encodings import make_encoding
from limbeck.errors import ArgumentError, LimbeckError, UnknownNameError
from limbeck.functional import HiddenLogits, OutputLayer, cross_entropy, fused_linear, kernel, kl_divergence
from limbeck.losses import Loss, LossContext, Objective, setup_objective, weighted_loss
from limbeck.losses.bound_kernel import BoundKernel
from limbeck.losses.row_loss import works_on_rows
from limbeck.mean_embedding import make_mean_embedding
from limbeck.schedule import ramp

B, T, WIDTH, WORDS = 3, 5, 6, 29
CPU = torch.device("cpu")


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def layer(dtype: torch.dtype = torch.float64, *, seed: int = 1, **more: float) -> OutputLayer:
    weight, bias = normal(WORDS, WIDTH, seed=seed, dtype=dtype), normal(WORDS, seed=seed + 1, dtype=dtype)
    return OutputLayer(weight.requires_grad_(), bias.requires_grad_(), **more)


def batch(*, masked: bool = True) -> Batch:
    draw = torch.Generator().manual_seed(3)
    labels = torch.randint(WORDS, (B, T), generator=draw)
    labels[0, 1] = labels[2, 3] = IGNORED
    mask = torch.rand(B, T, generator=draw) > 0.3 if masked else None
    return Batch(torch.zeros(B, T), labels=labels, mask=mask, extra={"masks": {"text": torch.ones(B, T).bool()}})


def teacher(form: str, dtype: torch.dtype = torch.float64) -> Outputs:
    hidden = HiddenLogits(normal(B, T, 4, seed=7, dtype=dtype), OutputLayer(normal(WORDS, 4, seed=8, dtype=dtype)))
    if form == "hidden":
        return Outputs.of({LOGITS: hidden})
    dense = hidden.to_dense()
    if form == "dense":
        return Outputs(logits=dense)
    name, option = {"top-k": ("top-k", {"k": 5, "bits": 32}), "sampled": ("sampled", {"draws": 6, "power": 1.0})}[form]
    encoding = make_encoding(name, classes=WORDS, **option)
    rows = torch.arange(B * T)
    encoded = encoding.encode(dense.flatten(0, 1).float(), id=rows, view=rows * 0, position=rows * 0)
    return Outputs.of({LOGITS: encoding.decode(encoded).reshape(B, T)})


def compute(
    objective: Objective,
    form: str,
    *,
    fused: bool,
    dtype: torch.dtype = torch.float64,
    given: Batch | None = None,
    **more: float,
) -> tuple[torch.Tensor, dict[str, float], list[torch.Tensor]]:
    """The minimized value, the means, and the gradients of hidden states, weight and bias."""
    hidden, own, given = normal(B, T, WIDTH, dtype=dtype).requires_grad_(), layer(dtype, **more), given or batch()
    logits = HiddenLogits(hidden, own, requires_grad=True)
    student = Outputs.of({"logits:in": hidden, LOGITS: logits} if fused else {LOGITS: logits.to_dense()})
    its = teacher(form, dtype)
    ready = setup_objective(objective, LossContext(student, its, given))
    terms = ready(student, its, given, Progress())
    assert fused == (LOGITS not in student), "the logits are computed in the dense path alone"
    loss = weighted_loss(terms, {name: float(term.count) for name, term in terms.items()})
    loss.backward()
    means = {name: float(term.mean) for name, term in terms.items()}
    return loss.detach(), means, [hidden.grad, own.weight.grad, own.bias.grad]


KERNELS = {
    "kl": Loss(kl_divergence, temperature=2.0),
    "reverse": Loss(K.reverse_kl),
    "skew": Loss(K.skew_kl, skew=0.1),
    "skew reverse": Loss(K.skew_reverse_kl, skew=0.1),
    "jsd": Loss(K.jensen_shannon),
    "gkd": Loss(K.gkd_jensen_shannon),
    "tv": Loss(K.total_variation),
    "alpha-beta": Loss(K.alpha_beta_divergence),
}


@pytest.mark.parametrize("form", ["dense", "hidden", "top-k"])
@pytest.mark.parametrize("name", KERNELS)
def test_trap_16_fused_and_plain_paths_agree(name, form):
    """Each is a drift between two copies where it is not a test (TRL #5731, #6629, #7063)."""
    objective = 0.3 * Loss(cross_entropy) + 0.7 * KERNELS[name]
    for dtype, close in ((torch.float64, 1e-9), (torch.float32, 3e-5)):
        if form == "top-k" and dtype == torch.float64:
            close = 1e-6  # stored in float32
        loss, means, gradients = compute(objective, form, fused=True, dtype=dtype)
        wanted, own, dense = compute(objective, form, fused=False, dtype=dtype)
        torch.testing.assert_close(loss, wanted, rtol=close, atol=close)
        assert means == pytest.approx(own, rel=close)
        for one, other in zip(gradients, dense, strict=True):
            torch.testing.assert_close(one, other, rtol=close, atol=close)


@pytest.mark.parametrize("more", [{"softcap": 3.0}, {"scale": 0.25}, {"softcap": 2.0, "scale": 0.5}])
def test_bound_and_factor_of_the_logits(more):
    objective = Loss(cross_entropy) + Loss(kl_divergence)
    loss, _, gradients = compute(objective, "hidden", fused=True, **more)
    wanted, _, dense = compute(objective, "hidden", fused=False, **more)
    torch.testing.assert_close(loss, wanted, rtol=1e-10, atol=1e-10)
    for one, other in zip(gradients, dense, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_a_temperature_that_changes_is_that_of_the_step():
    hidden, own = normal(B, T, WIDTH), layer()
    loss, given, its = Loss(kl_divergence, temperature=ramp(4.0, start=1.0)), batch(), teacher("dense")
    logits = HiddenLogits(hidden, own, requires_grad=True)
    totals = []
    for student in (Outputs.of({LOGITS: logits}), Outputs(logits=logits.to_dense())):
        ready = loss.setup(LossContext(student, its, given))
        totals.append([ready(student, its, given, Progress(step, 3))["kl_divergence"].total for step in range(3)])
    torch.testing.assert_close(totals[0], totals[1], rtol=1e-10, atol=1e-10)
    assert len({round(float(total.detach()), 6) for total in totals[0]}) == 3


def test_sampled_classes_of_a_teacher():
    loss, _, gradients = compute(1.0 * Loss(kl_divergence), "sampled", fused=True)
    wanted, _, dense = compute(1.0 * Loss(kl_divergence), "sampled", fused=False)
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=1e-6)
    for one, other in zip(gradients, dense, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_one_pass_serves_all_terms(monkeypatch):
    passes = []
    compute_chunks = fused_linear._compute_chunks
    monkeypatch.setattr(fused_linear, "_compute_chunks", lambda *args: passes.append(1) or compute_chunks(*args))
    compute(0.1 * Loss(cross_entropy) + 0.9 * Loss(kl_divergence), "hidden", fused=True)
    assert len(passes) == 1, "not one for each term, and none again in the backward pass"


def test_masks_of_their_own_for_two_losses():
    objective = Loss(cross_entropy) + Loss(kl_divergence, where="text", name="everywhere") + Loss(kl_divergence)
    _, means, gradients = compute(objective, "dense", fused=True)
    _, own, dense = compute(objective, "dense", fused=False)
    assert own["everywhere"] != pytest.approx(own["kl_divergence"])
    assert means == pytest.approx(own, rel=1e-9)
    for one, other in zip(gradients, dense, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_logits_without_positions():
    """A classifier with very many classes has one row for each example."""
    hidden, own = normal(B, WIDTH).requires_grad_(), layer()
    logits, given = (
        HiddenLogits(hidden, own, requires_grad=True),
        Batch(torch.zeros(B), labels=torch.tensor([1, 2, -100])),
    )
    losses = []
    for student in (Outputs.of({LOGITS: logits}), Outputs(logits=logits.to_dense())):
        ready = setup_objective(Loss(cross_entropy), LossContext(student, Outputs(), given))
        losses.append(ready(student, Outputs(), given, Progress())["cross_entropy"])
    torch.testing.assert_close(losses[0].total, losses[1].total)
    assert losses[0].count == losses[1].count == 2


def test_a_weight_of_zero_adds_nothing_and_is_reported():
    _, means, gradients = compute(Loss(cross_entropy) + 0.0 * Loss(kl_divergence), "dense", fused=True)
    _, own, dense = compute(Loss(cross_entropy) + 0.0 * Loss(kl_divergence), "dense", fused=False)
    assert means["kl_divergence"] == pytest.approx(own["kl_divergence"], rel=1e-9)
    torch.testing.assert_close(gradients, dense, rtol=1e-9, atol=1e-10)


def test_trap_14_a_micro_batch_without_a_token_gives_a_zero_on_the_graph():
    """torchtune returns a constant, so that a rank waits for gradients that never come."""
    nothing = batch()._replace(mask=torch.zeros(B, T).bool())
    loss, means, gradients = compute(Loss(cross_entropy) + Loss(kl_divergence), "hidden", fused=True, given=nothing)
    assert not loss.any()
    assert not any(means.values())
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_trap_13_counts_of_the_whole_step_are_the_divisor():
    """A mean for each micro-batch would give tokens of short micro-batches more weight (TRL #4719)."""
    hidden, own, given = normal(B, T, WIDTH), layer(), batch()
    objective = 0.3 * Loss(cross_entropy) + 0.7 * Loss(kl_divergence)
    total, weight = [], []
    for parts in ([slice(0, B)], [slice(0, 1), slice(1, B)]):
        own.weight.grad = None
        start = Outputs.of({LOGITS: HiddenLogits(hidden, own, requires_grad=True)})
        ready = setup_objective(objective, LossContext(start, teacher("hidden"), given))
        cuts = [given.rows(torch.arange(B)[part]) for part in parts]
        counts = {name: sum(ready.counts(cut)[name] for cut in cuts) for name in ready.named_leaves()}
        value = 0.0
        for part, cut in zip(parts, cuts, strict=True):
            student = Outputs.of({LOGITS: HiddenLogits(hidden[part], own, requires_grad=True)})
            its = Outputs.of({LOGITS: teacher("hidden").hidden[LOGITS][part]})
            loss = weighted_loss(ready(student, its, cut, Progress(), counts), counts)
            loss.backward()
            value += float(loss.detach())
        total.append(value)
        weight.append(own.weight.grad.clone())
    assert total[0] == pytest.approx(total[1], rel=1e-12)
    torch.testing.assert_close(weight[0], weight[1], rtol=1e-10, atol=1e-12)


def test_trap_25_a_frozen_output_layer_gets_no_gradient(monkeypatch):
    """Its gradient is as large as the layer, and nobody reads it (Liger, axolotl)."""
    seen = []
    compute_all = fused_linear._compute
    monkeypatch.setattr(fused_linear, "_compute", lambda *args: seen.append(args[3]) or compute_all(*args))
    hidden, own = normal(B, T, WIDTH).requires_grad_(), layer().detach()
    student = Outputs.of({LOGITS: HiddenLogits(hidden, own, requires_grad=True)})
    ready = setup_objective(Loss(cross_entropy), LossContext(student, Outputs(), batch()))
    ready(student, Outputs(), batch(), Progress())["cross_entropy"].total.backward()
    assert seen == [(True, False, False)]
    assert hidden.grad is not None


def test_trap_27_going_back_twice_and_with_other_proportions():
    """A gradient that is scaled in place is wrong the second time; reports go back once for each term."""
    hidden, own = normal(B, T, WIDTH).requires_grad_(), layer()
    student = Outputs.of({LOGITS: HiddenLogits(hidden, own, requires_grad=True)})
    objective = 0.3 * Loss(cross_entropy) + 0.7 * Loss(kl_divergence)
    ready = setup_objective(objective, LossContext(student, teacher("dense"), batch()))
    terms = ready(student, teacher("dense"), batch(), Progress())
    loss = weighted_loss(terms, {name: float(term.count) for name, term in terms.items()})
    at = [hidden, own.weight, own.bias]
    first = torch.autograd.grad(loss, at, retain_graph=True)
    apart = [
        torch.autograd.grad(term.total * term.weight / term.count, at, retain_graph=True) for term in terms.values()
    ]
    scaled = torch.autograd.grad(1024.0 * loss, at, retain_graph=True)  # as AMP's scaler does
    again = torch.autograd.grad(loss, at)
    for one, other, ce, kl, large in zip(first, again, *apart, scaled, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(ce + kl, one, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(large, 1024 * one)


def test_trap_27_no_gradient_is_computed_without_a_graph(monkeypatch):
    seen = []
    compute_all = fused_linear._compute
    monkeypatch.setattr(fused_linear, "_compute", lambda *args: seen.append(args[3]) or compute_all(*args))
    student = Outputs.of({LOGITS: HiddenLogits(normal(B, T, WIDTH), layer(), requires_grad=True)})
    ready = setup_objective(Loss(cross_entropy), LossContext(student, Outputs(), batch()))
    with torch.no_grad():
        ready(student, Outputs(), batch(), Progress())
    assert not any(seen[-1])


def test_a_loss_that_was_not_set_up_reads_dense_logits():
    student = Outputs.of({LOGITS: HiddenLogits(normal(B, T, WIDTH), layer(), requires_grad=True)})
    given = batch(masked=False)
    dense = Outputs(logits=student.hidden[LOGITS].to_dense())
    ready = Loss(kl_divergence).setup(LossContext(dense, teacher("dense"), given))
    total = ready(student, teacher("hidden"), given, Progress())["kl_divergence"].total
    torch.testing.assert_close(total, ready(dense, teacher("dense"), given, Progress())["kl_divergence"].total)
    assert LOGITS in student


@kernel(per="position")
def neighbors(student, teacher):
    return (
        (student - teacher).square().mean(-1).cumsum(1) if student.ndim == 3 else (student - teacher).square().mean(-1)
    )


@kernel(per="position")
def mean_of_batch(student):
    return (student - student.mean(0)).square().mean(-1)


@kernel(per="position")
def random(student):
    return torch.rand(student.shape[:-1])


class Stateful(nn.Module):
    per, divergence = "position", False

    def __call__(self, student):
        return student.sum(-1)


@pytest.mark.parametrize(
    ("function", "expected"),
    [(kl_divergence, True), (cross_entropy, True), (neighbors, False), (mean_of_batch, False), (random, False),
     (Stateful(), False)],
)  # fmt: skip
def test_kernels_that_look_at_other_rows_are_not_computed_row_by_row(function, expected):
    bound = BoundKernel(function, {}, frozenset({"student", "teacher"}))
    before = torch.get_rng_state()
    assert works_on_rows(bound, WORDS, CPU) is expected
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "loss",
    [
        Loss(cross_entropy, classes=1),
        Loss(kl_divergence, head=nn.Linear(WORDS, WORDS)),
        Loss(K.state_squared_error, student="a"),
        Loss(kl_divergence, teacher="other"),
    ],
)
def test_losses_that_need_whole_logits(loss):
    assert not loss.takes_rows(WORDS, CPU)


def test_setup_computes_a_few_rows_alone():
    """What is too large for memory would fail before the first step, though no step needs it."""
    seen = []

    @kernel(per="position")
    def watched(student, *, labels):
        seen.append(student.shape)
        return cross_entropy(student, labels=labels)

    hidden = normal(20, 50, WIDTH)
    student = Outputs.of({LOGITS: HiddenLogits(hidden, layer(), requires_grad=True)})
    given = Batch(torch.zeros(20, 50), labels=torch.ones(20, 50, dtype=torch.int64))
    ready = Loss(watched).setup(LossContext(student, Outputs(), given))
    assert max(shape[:-1].numel() for shape in seen) <= 32
    assert ready.count(given) == 1000


def test_an_unknown_mask_is_refused_with_the_choices():
    given = batch()
    context = LossContext(Outputs(logits=normal(B, T, WORDS)), teacher("dense"), given)
    with pytest.raises(UnknownNameError, match="text"):
        Loss(kl_divergence, where="tekst").setup(context)
    with pytest.raises(ArgumentError, match="where"):
        Loss(kl_divergence, where="text").setup(LossContext(context.student, context.teacher, given._replace(extra={})))
    assert "where='text'" in repr(Loss(kl_divergence, where="text"))


def test_a_mask_of_its_own_decides_which_values_count():
    given = batch()
    student = Outputs(logits=normal(B, T, WORDS))
    ready = Loss(kl_divergence, where="text").setup(LossContext(student, teacher("dense"), given))
    term = ready.term(student, teacher("dense"), given, Progress())
    assert term.count == ready.count(given) == B * T
    torch.testing.assert_close(term.total, kl_divergence(student[LOGITS], teacher("dense")[LOGITS]).sum())


def test_partial_logits_that_a_kernel_cannot_read_are_refused():
    @kernel(per="position")
    def distance(student, teacher):
        return (student - teacher).square().sum(-1)

    student = Outputs.of({LOGITS: HiddenLogits(normal(B, T, WIDTH), layer(), requires_grad=True)})
    with pytest.raises(LimbeckError, match="top-k"):
        Loss(distance).setup(LossContext(student, teacher("top-k"), batch()))


def test_mean_embeddings_of_a_frozen_output_layer():
    hidden, own, given = normal(B, T, WIDTH), layer().detach(), batch()
    student, dense = Outputs.of({LOGITS: HiddenLogits(hidden, own, requires_grad=True)}), teacher("dense")
    means = Outputs.of({LOGITS: make_mean_embedding(dense[LOGITS], own)})
    objective = Loss(cross_entropy) + Loss(kl_divergence)
    totals = []
    for its in (means, dense):
        ready = setup_objective(objective, LossContext(student, its, given))
        totals.append([term.total for term in ready(student, its, given, Progress()).values()])
    torch.testing.assert_close(totals[0], totals[1], rtol=1e-10, atol=1e-10)
    with pytest.raises(LimbeckError, match="fuse_output_layer"):
        Loss(kl_divergence).setup(LossContext(Outputs(logits=student[LOGITS]), means, given))
