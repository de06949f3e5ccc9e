"""Losses of regression and multi-label targets against their definitions and metrics."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from limbeck import ArrayDataset, Batch, Loss, Optimizer, Outputs, Progress, ShuffledLoader, Stage, distill
from limbeck.errors import LimbeckError
from limbeck.functional import binary_cross_entropy, binary_kl_divergence, squared_error, target_squared_error
from limbeck.losses import LossContext
from limbeck.metrics import Estimates, MultiLabelPredictions, predict
from limbeck.metrics.multi_label import binary_nll
from limbeck.metrics.regression import mse
from limbeck.testing import check_objective

NAN = float("nan")


def drawn(*shape: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, dtype=torch.float64)


def logistic(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def test_the_divergence_of_yes_and_no_is_its_definition():
    student, teacher = drawn(4, 3), drawn(4, 3)
    for temperature in (1.0, 2.5):
        wanted = []
        for z, v in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
            p, q = logistic(v / temperature), logistic(z / temperature)
            wanted.append(temperature**2 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))))
        value = binary_kl_divergence(student, teacher, temperature=temperature)
        torch.testing.assert_close(value.flatten(), torch.tensor(wanted, dtype=torch.float64))


def test_it_is_what_the_cross_entropy_with_the_teachers_probabilities_has_above_its_least():
    student, teacher = drawn(4, 3), drawn(4, 3)
    soft = teacher.sigmoid()
    gap = binary_cross_entropy(student, targets=soft) - binary_cross_entropy(teacher, targets=soft)
    torch.testing.assert_close(binary_kl_divergence(student, teacher), gap)


def test_the_cross_entropy_is_pytorchs_where_the_answer_is_known():
    student, answers = drawn(4, 3), torch.randint(0, 2, (4, 3))
    wanted = F.binary_cross_entropy_with_logits(student, answers.double(), reduction="none")
    torch.testing.assert_close(binary_cross_entropy(student, targets=answers), wanted)
    assert torch.equal(
        binary_cross_entropy(student, targets=answers.bool()), binary_cross_entropy(student, targets=answers)
    )


@pytest.mark.parametrize(
    ("loss", "measured"),
    [(target_squared_error, "mse"), (binary_cross_entropy, "binary_nll")],
)
def test_the_mean_that_is_learned_from_is_the_measure(loss, measured):
    student = drawn(6, 3).requires_grad_()
    targets = torch.randint(0, 2, (6, 3))
    unknown = torch.zeros(6, 3, dtype=torch.bool)
    unknown[0], unknown[3, 1] = True, True
    if measured == "mse":
        targets = targets.double().masked_fill(unknown, NAN)
        found = mse(Estimates(student.detach(), targets=targets))
    else:
        targets = targets.masked_fill(unknown, -100)
        found = binary_nll(MultiLabelPredictions(student.detach(), labels=targets))
    batch = Batch(torch.zeros(6, 1), extra={"targets": targets})
    objective = Loss(loss)
    objective = objective.setup(LossContext(Outputs(logits=student), Outputs({}), batch))
    term = objective.term(Outputs(logits=student), Outputs({}), batch, Progress())
    assert term.count == found.count == objective.count(batch) == 14
    assert float(term.mean) == pytest.approx(found.value)
    (slope,) = torch.autograd.grad(term.total, student)
    assert torch.equal(slope == 0, unknown)


def test_a_mask_and_unknown_targets_count_together():
    student, targets = drawn(4, 2), drawn(4, 2)
    targets[1, 0] = NAN
    batch = Batch(torch.zeros(4, 1), mask=torch.tensor([True, True, False, True]), extra={"targets": targets})
    term = Loss(target_squared_error).term(Outputs(logits=student), Outputs({}), batch, Progress())
    kept = torch.tensor([[1, 1], [0, 1], [0, 0], [1, 1]]).bool()
    assert term.count == 5
    torch.testing.assert_close(term.total, (student - targets)[kept].square().sum())


@pytest.mark.parametrize(
    ("loss", "student", "targets", "said"),
    [
        (target_squared_error, torch.zeros(3, 1), torch.zeros(3), "targets.unsqueeze(1)"),
        (target_squared_error, torch.zeros(3), torch.tensor([1, 2, -100]), "targets.float()"),
        (binary_cross_entropy, torch.zeros(2), torch.tensor([1, 2]), "got 2"),
        (binary_cross_entropy, torch.zeros(2), torch.tensor([0.5, -100.0]), "got -100"),
    ],
)
def test_what_is_wrong_is_reported(loss, student, targets, said):
    with pytest.raises(LimbeckError) as refused:
        inspect.unwrap(loss)(student, targets=targets)  # as without the annotations' own check, which tests turn on
    assert said in str(refused.value)


def test_a_source_without_targets_is_reported_how_to_give_them():
    run = distill(nn.Linear(2, 1), Stage(Loss(target_squared_error), epochs=1), torch.zeros(8, 2))
    with pytest.raises(LimbeckError, match=r"needs targets, and this loader gives none"):
        run.finish()


class Waves(nn.Module):
    """A teacher that knows the truth."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x[:, :1]) + x[:, 1:2] * x[:, 2:3]


def test_what_a_regressor_knows_is_worth_more_than_noisy_targets():
    inputs = torch.randn(256, 4)
    noisy = Waves()(inputs) + 2.0 * torch.randn(256, 1)
    noisy[::7] = NAN
    data, fresh = ArrayDataset(inputs, extra={"targets": noisy}), torch.randn(512, 4)
    hard, soft = Loss(target_squared_error), Loss(squared_error)
    errors = []
    for objective in (hard, 0.1 * hard + 0.9 * soft):
        with torch.random.fork_rng():
            student = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
        stage = Stage(objective, teacher=Waves(), epochs=60)
        distill(student, stage, data, batch_size=64, optimizer=Optimizer(lr=1e-2)).finish()
        errors.append(mse(Estimates(predict(student, ArrayDataset(fresh)).student, targets=Waves()(fresh))).value)
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("tokens", [3, 5], ids=["as many as labels", "others"])
@pytest.mark.parametrize("kernel", [binary_cross_entropy, binary_kl_divergence])
def test_a_mask_of_a_texts_tokens_masks_no_label_of_it(kernel, tokens):
    """One answer to a whole text has one number a label: which of its tokens are padding says nothing of them."""
    mask = torch.arange(tokens) < torch.tensor([[1], [tokens], [0]])
    kept = mask.any(1)
    shown, taught = Outputs(logits=drawn(3, 3)), Outputs(logits=drawn(3, 3))
    batch = Batch(mask.long(), torch.arange(3), mask=mask, extra={"targets": torch.ones(3, 3).double()})
    loss = Loss(kernel)
    loss = loss.setup(LossContext(shown, taught, batch))
    term = loss.term(shown, taught, batch, Progress())
    read = {"targets": batch.extra["targets"]} if kernel is binary_cross_entropy else {"teacher": taught["logits"]}
    assert term.count == loss.count(batch) == 3 * int(kept.sum())
    torch.testing.assert_close(term.total, kernel(shown["logits"], **read)[kept].sum())


@pytest.mark.parametrize("kernel", [binary_cross_entropy, binary_kl_divergence])
def test_a_mask_of_positions_counts_every_output_there(kernel):
    loss, fitted = Loss(kernel), False
    for places in (4, 6):  # texts of another length
        mask = torch.arange(places) < torch.tensor([[2], [places]])
        shown, taught = Outputs(logits=drawn(2, places, 3)), Outputs(logits=drawn(2, places, 3))
        targets = torch.ones(2, places, 3).double()
        targets[1, 0, 0] = NAN
        batch = Batch(mask.long(), torch.arange(2), mask=mask, extra={"targets": targets})
        if not fitted:
            loss = loss.setup(LossContext(shown, taught, batch))
            fitted = True
        term = loss.term(shown, taught, batch, Progress())
        known = kernel is binary_cross_entropy
        read = {"targets": targets} if known else {"teacher": taught["logits"]}
        assert term.count == loss.count(batch) == 3 * (2 + places) - known
        torch.testing.assert_close(term.total, kernel(shown["logits"], **read)[mask].sum())


@pytest.mark.parametrize("loss", [target_squared_error, binary_cross_entropy, binary_kl_divergence])
def test_lifted_it_keeps_the_laws_of_objectives(loss):
    check_objective(Loss(loss))


def test_steps_are_the_same_however_a_batch_is_split_and_wherever_targets_are_unknown():
    """Unknown targets are spread unevenly: a mean of means would step elsewhere."""
    inputs, targets = drawn(24, 4), drawn(24, 3)
    targets[:7], targets[9, 1:] = NAN, NAN
    found = []
    for batch_size, accumulate in ((12, 1), (4, 3)):
        with torch.random.fork_rng():
            student = nn.Linear(4, 3).double()
        data = ShuffledLoader(ArrayDataset(inputs, extra={"targets": targets}), batch_size=batch_size, shuffle=False)
        stage = Stage(Loss(target_squared_error), epochs=3)
        distill(student, stage, data, accumulate=accumulate, optimizer=Optimizer(lr=0.1), precision="64-true").finish()
        found.append(student.weight.detach())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-10)
