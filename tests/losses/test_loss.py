"""A loss sums the values that count, for every class dimension."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import Projector, binary_likelihood_kl, cross_entropy, kernel, kl_divergence, squared_error
from limbeck.losses import Loss, LossContext, weighted_loss
from limbeck.recipe import Stage


@kernel(per="pair")
def gram(student: Tensor, teacher: Tensor) -> Tensor:
    return (student @ student.T - teacher @ teacher.T).square()


@kernel(per="batch")
def spread(student: Tensor, teacher: Tensor) -> Tensor:
    return (student.mean() - teacher.mean()).square()


def make_outputs(*shape: int) -> tuple[Outputs, Outputs]:
    student = Outputs(logits=torch.randn(*shape, dtype=torch.float64, requires_grad=True))
    return student, Outputs(logits=torch.randn(*shape, dtype=torch.float64))


def fitted(loss: Loss, student: Outputs, teacher: Outputs, batch: Batch) -> Loss:
    return loss.setup(LossContext(student, teacher, batch))


# Masks and labels: brute force over the values that count.


def test_labels_of_minus_100_do_not_count():
    student, teacher = make_outputs(5, 3)
    labels = torch.tensor([0, -100, 2, -100, 1])
    term = Loss(cross_entropy).term(student, teacher, Batch(None, labels=labels), Progress())
    kept = labels >= 0
    assert term.count == 3
    assert torch.allclose(term.total / term.count, F.cross_entropy(student["logits"][kept], labels[kept]))
    assert float(term.mean) == pytest.approx(term.total.item() / 3)


def test_labels_do_not_thin_out_a_loss_that_does_not_read_them():
    student, teacher = make_outputs(5, 3)
    batch = Batch(None, labels=torch.tensor([0, -100, 2, -100, 1]))
    loss = fitted(Loss(kl_divergence), student, teacher, batch)
    assert loss.term(student, teacher, batch, Progress()).count == 5


@pytest.mark.parametrize("positions", [(), (4,), (2, 3)])
def test_a_mask_of_examples_on_values_of_any_shape(positions):
    student, teacher = make_outputs(5, *positions, 3)
    mask = torch.tensor([True, False, True, False, False])
    batch = Batch(None, mask=mask)
    term = fitted(Loss(kl_divergence), student, teacher, batch).term(student, teacher, batch, Progress())
    values = kl_divergence(student["logits"][mask], teacher["logits"][mask])
    assert term.count == values.numel()
    assert torch.allclose(term.total, values.sum())


def test_a_mask_of_positions():
    student, teacher = make_outputs(3, 4, 5)
    mask = torch.rand(3, 4) < 0.5
    batch = Batch(None, mask=mask)
    term = fitted(Loss(kl_divergence), student, teacher, batch).term(student, teacher, batch, Progress())
    assert term.count == int(mask.sum())
    assert torch.allclose(term.total, kl_divergence(student["logits"], teacher["logits"])[mask].sum())


@pytest.mark.parametrize("shape", [(3,), (3, 4)])
def test_labels_and_mask_count_together(shape):
    student, teacher = make_outputs(3, 4, 5)
    labels = torch.randint(5, (3, 4))
    labels[0, :2] = -100
    mask = torch.rand(shape) < 0.6
    batch = Batch(None, labels=labels, mask=mask)
    term = fitted(Loss(cross_entropy), student, teacher, batch).term(student, teacher, batch, Progress())
    counts = (labels >= 0) & (mask if mask.ndim == 2 else mask[:, None])
    assert term.count == int(counts.sum())
    assert torch.allclose(term.total, cross_entropy(student["logits"], labels=labels)[counts].sum())


def test_an_example_counts_where_any_of_its_positions_does():
    student, teacher = make_outputs(3, 4)
    mask = torch.tensor([[True, False], [False, False], [False, True]])
    batch = Batch(None, mask=mask)
    term = fitted(Loss(squared_error), student, teacher, batch).term(student, teacher, batch, Progress())
    assert term.count == 2
    assert torch.allclose(term.total, squared_error(student["logits"], teacher["logits"])[[0, 2]].sum())


def test_a_mask_may_be_whole_numbers():
    student, teacher = make_outputs(3, 4)
    batch = Batch(None, mask=torch.tensor([1, 0, 1]))
    term = fitted(Loss(kl_divergence), student, teacher, batch).term(student, teacher, batch, Progress())
    assert term.count == 2
    assert torch.allclose(term.total, kl_divergence(student["logits"], teacher["logits"])[[0, 2]].sum())


@pytest.mark.parametrize(
    "batch",
    [
        Batch(None, labels=torch.full((4,), -100)),
        Batch(None, labels=torch.tensor([0, 1, 2, 0]), mask=torch.zeros(4, dtype=torch.bool)),
    ],
)
def test_where_nothing_counts_the_loss_is_a_connected_zero(batch):
    student, teacher = make_outputs(4, 3)
    terms = (0.5 * Loss(cross_entropy))(student, teacher, batch, Progress())
    loss = weighted_loss(terms, {"cross_entropy": 0.0})
    assert float(loss.detach()) == 0.0
    assert float(terms["cross_entropy"].mean) == 0.0
    (found,) = torch.autograd.grad(loss, student["logits"])
    assert torch.equal(found, torch.zeros(4, 3, dtype=torch.float64))


def test_a_kernel_that_reads_the_mask_gets_it_or_its_default():
    seen = []

    @kernel(per="example")
    def masked(student, *, mask=None):
        seen.append(mask)
        return student.sum(-1)

    student, teacher = make_outputs(2, 3)
    mask = torch.tensor([True, False])
    for given in (mask, None):
        Loss(masked).term(student, teacher, Batch(torch.zeros(2), mask=given), Progress())
    assert torch.equal(seen[0], mask)
    assert seen[1] is None


def test_a_batch_without_what_a_kernel_reads():
    student, teacher = make_outputs(2, 3)
    with pytest.raises(LimbeckError, match=r"cross_entropy needs labels, and this loader gives none"):
        Loss(cross_entropy).term(student, teacher, Batch(torch.zeros(2)), Progress())


# Positions that vary.


@pytest.mark.parametrize("mask", [None, torch.tensor([True, True])])
def test_positions_that_vary_without_a_mask_of_positions(mask):
    loss = Loss(kl_divergence)
    student, teacher = make_outputs(2, 6, 3)
    loss = loss.setup(LossContext(student, teacher, Batch(torch.zeros(2), mask=mask)))
    student, teacher = make_outputs(2, 4, 3)
    with pytest.raises(LimbeckError, match=r"number of positions changes.*Batch\.mask"):
        loss.term(student, teacher, Batch(torch.zeros(2), mask=mask), Progress())


def test_positions_that_vary_under_a_mask_are_fine():
    loss = Loss(kl_divergence)
    for positions in (6, 4):
        student, teacher = make_outputs(2, positions, 3)
        batch = Batch(torch.zeros(2), mask=torch.ones(2, positions, dtype=torch.bool))
        loss = loss.setup(LossContext(student, teacher, batch)) if positions == 6 else loss
        term = loss.term(student, teacher, batch, Progress())
        assert term.count == 2 * positions


def test_a_loss_of_several_stages_has_the_shapes_of_each():
    """What is known of shapes belongs to the stage: none sees another's, in whatever order they are used."""
    loss = Loss(kl_divergence)
    cases = [(*make_outputs(4, *positions, 3), Batch(torch.zeros(4))) for positions in ((), (5,), (2, 3), (2,))]
    all_fitted = [loss.setup(LossContext(*case)) for case in cases]
    for case, one in [*zip(cases, all_fitted, strict=True)] * 2:
        student, teacher, batch = case
        values = kl_divergence(student["logits"], teacher["logits"])
        (term,) = one(student, teacher, batch, Progress()).values()
        assert term.count == one.count(batch) == values.numel()
        assert torch.allclose(term.total, values.sum())


def test_a_fitted_sum_shares_heads_and_names():
    head = nn.Linear(3, 4).double()
    objective = 0.5 * Loss(squared_error, head=head) + Loss(squared_error, head=head)
    student, _ = make_outputs(5, 3)
    fitted = objective.setup(LossContext(student, Outputs(logits=torch.zeros(5, 4).double()), Batch(torch.zeros(5))))
    assert {id(parameter) for parameter in fitted.parameters()} == {id(parameter) for parameter in head.parameters()}
    assert list(fitted.state_dict()) == list(objective.state_dict())
    assert repr(fitted) == repr(objective)
    assert fitted.named_leaves().keys() == objective.named_leaves().keys()
    assert all(leaf is not objective.named_leaves()[name][0] for name, (leaf, _) in fitted.named_leaves().items())


def test_labels_that_do_not_fit_the_values():
    student, teacher = make_outputs(2, 3, 8, 8)
    batch = Batch(torch.zeros(2), mask=torch.ones(2, 5, dtype=torch.bool))
    for wrong in (batch, batch._replace(mask=torch.ones(2, 3, dtype=torch.bool))):
        with pytest.raises(LimbeckError, match=r"must agree.*classes="):
            Loss(kl_divergence).term(student, teacher, wrong, Progress())


# Classes elsewhere than last.


def test_classes_may_be_the_second_dimension():
    student, teacher = make_outputs(2, 5, 4, 3)
    labels = torch.randint(5, (2, 4, 3))
    labels[0, 0] = -100
    batch = Batch(None, labels=labels)
    objective = Loss(cross_entropy, classes=1) + Loss(kl_divergence, classes=1, temperature=2.0)
    objective = objective.setup(LossContext(student, teacher, batch))
    terms = objective(student, teacher, batch, Progress())
    assert torch.allclose(
        terms["cross_entropy"].total / terms["cross_entropy"].count, F.cross_entropy(student["logits"], labels)
    )
    last = (outputs["logits"].movedim(1, -1) for outputs in (student, teacher))
    assert torch.allclose(terms["kl_divergence"].total, kl_divergence(*last, temperature=2.0).sum())
    assert terms["kl_divergence"].count == 24


# Heads.


def test_a_lazy_head_takes_its_shape_once_and_stands_between():
    head = Projector()
    loss = Loss(squared_error, head=head)
    assert not list(loss.parameters())
    student, teacher = Outputs(logits=torch.randn(4, 3, requires_grad=True)), Outputs(logits=torch.randn(4, 6))
    loss = loss.setup(LossContext(student, teacher, Batch(torch.zeros(4))))
    assert set(loss.parameters()) == set(head.parameters())
    term = loss.term(student, teacher, Batch(torch.zeros(4)), Progress())
    assert torch.allclose(term.total, squared_error(head(student["logits"]), teacher["logits"]).sum())
    term.total.backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_a_plain_module_may_be_a_head():
    head = nn.Linear(3, 6)
    student, teacher = Outputs(logits=torch.randn(4, 3)), Outputs(logits=torch.randn(4, 6))
    loss = fitted(Loss(squared_error, head=head), student, teacher, Batch(torch.zeros(4)))
    assert float(loss.term(student, teacher, Batch(torch.zeros(4)), Progress()).total.detach()) > 0


# Sides that cannot be compared.


def test_different_class_counts_are_one_sentence():
    student, teacher = Outputs(logits=torch.randn(4, 3)), Outputs(logits=torch.randn(4, 6))
    with pytest.raises(LimbeckError, match=r"3 values in the last dimension.*teacher 6"):
        Loss(kl_divergence).setup(LossContext(student, teacher, Batch(torch.zeros(4))))


@pytest.mark.parametrize("value", [None, 1.5, "0.3"])
def test_a_kernel_that_returns_no_tensor_is_named(value):
    @kernel(per="example")
    def forgotten(student, teacher):
        return value

    with pytest.raises(LimbeckError, match=r"(?s)forgotten .*ensor"):
        Loss(forgotten).setup(
            LossContext(
                Outputs({"logits": torch.randn(2, 3)}), Outputs({"logits": torch.randn(2, 3)}), Batch(torch.zeros(2, 4))
            )
        )


def test_a_kernel_that_does_not_yield_what_it_declares():
    @kernel(per="example")
    def averaged(student):
        return student.mean()

    student, teacher = make_outputs(4, 3)
    with pytest.raises(LimbeckError, match=r"one value per example but returns shape \(\)"):
        Loss(averaged).setup(LossContext(student, teacher, Batch(torch.zeros(4))))


# Losses that compare examples with each other.


def test_a_pair_loss_counts_pairs_and_a_batch_loss_one():
    student, teacher = make_outputs(4, 3)
    batch = Batch(torch.zeros(4))
    objective = Loss(gram) + Loss(spread)
    objective = objective.setup(LossContext(student, teacher, batch))
    terms = objective(student, teacher, batch, Progress())
    assert (terms["gram"].count, terms["spread"].count) == (16.0, 1.0)
    assert torch.allclose(terms["gram"].total, gram(student["logits"], teacher["logits"]).sum())


def test_a_masked_example_is_in_no_pair():
    student, teacher = make_outputs(5, 3)
    mask = torch.tensor([True, False, True, True, False])
    batch = Batch(torch.zeros(5), mask=mask)
    objective = Loss(gram) + Loss(spread)
    objective = objective.setup(LossContext(student, teacher, batch))
    terms = objective(student, teacher, batch, Progress())
    kept = (student["logits"][mask], teacher["logits"][mask])
    assert terms["gram"].count == 9.0
    assert torch.allclose(terms["gram"].total, gram(*kept).sum())
    assert torch.allclose(terms["spread"].total, spread(*kept))


def test_a_batch_of_masked_examples_has_no_pairs_and_no_gradient():
    student, teacher = make_outputs(3, 3)
    batch = Batch(torch.zeros(3), mask=torch.zeros(3, dtype=torch.bool))
    terms = (Loss(gram) + Loss(spread))(student, teacher, batch, Progress())
    loss = weighted_loss(terms, {name: float(term.count) for name, term in terms.items()})
    assert float(loss.detach()) == 0.0
    (found,) = torch.autograd.grad(loss, student["logits"])
    assert torch.equal(found, torch.zeros(3, 3, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_out_of_range_is_refused_when_the_loss_is_built(temperature):
    with pytest.raises(LimbeckError, match="temperature is a finite number above 0"):
        Loss(kl_divergence, temperature=temperature)


def test_classes_that_are_not_last_are_refused_where_labels_tell():
    maps, labels = torch.randn(2, 3, 5, 4), torch.randint(0, 3, (2, 5, 4))
    shown, batch = Outputs(logits=maps), Batch(maps, labels=labels)
    with pytest.raises(LimbeckError, match="classes=1"):
        Loss(kl_divergence).setup(LossContext(shown, shown, batch))
    Loss(kl_divergence, classes=1).setup(LossContext(shown, shown, batch))


def test_a_feature_of_another_resolution_is_not_held_against_the_labels():
    maps, labels = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    shown = Outputs(logits=maps, down=torch.randn(2, 3, 4, 4))
    Loss(kl_divergence, student="down", teacher="down", classes=1).setup(
        LossContext(shown, shown, Batch(maps, labels=labels))
    )


def test_likelihoods_of_texts_cannot_be_compared_with_logits():
    data = {"input_ids": torch.zeros(4, 3, dtype=torch.int64), "labels": torch.zeros(4, 3, dtype=torch.int64)}
    network = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    objective = Loss(binary_likelihood_kl, likelihood_temperature=100.0)
    with pytest.raises(LimbeckError, match="hinton or gkd"):
        distill(network, Stage(objective, teacher=copy.deepcopy(network)), data, batch_size=4, steps=1).finish()
