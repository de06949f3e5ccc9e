"""ARoW: the weight of an example grows as it is less robust; CoW, TRADES and label smoothing are limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.data import ArrayDataset, Attack
from limbeck.engine import distill
from limbeck.errors import ArgumentError, LimbeckError, UnknownNameError
from limbeck.functional import kl_divergence, label_smoothing
from limbeck.losses import LossContext
from limbeck.methods import make
from limbeck.methods.logits.adversarial_pairs import AdversarialPairs
from limbeck.methods.logits.arow import label_weighted_kl
from limbeck.metrics import robust_accuracy
from limbeck.recipe import Optimizer

DRAW = torch.Generator().manual_seed(0)
P, Q = (torch.randn(6, 4, generator=DRAW, dtype=torch.float64) for _ in range(2))
Y = torch.tensor([0, 1, 2, 3, 0, 1])


def softmax(row):
    top = max(row)
    powers = [math.exp(value - top) for value in row]
    return [one / sum(powers) for one in powers]


def brute_force_label_weighted_kl(clean, adversarial, labels, weighting):
    values = []
    for z, changed, label in zip(clean.tolist(), adversarial.tolist(), labels.tolist(), strict=True):
        p, q = softmax(z), softmax(changed)
        weight = {"adversarial": 1 - q[label], "clean": p[label], "none": 1.0}[weighting]
        values.append(weight * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return values


def test_the_gradient_goes_through_the_weight():
    for weighting in ("adversarial", "clean", "none"):
        own = [one.clone().requires_grad_() for one in (P, Q)]
        assert torch.autograd.gradcheck(lambda p, q, w=weighting: label_weighted_kl(p, q, Y, weighting=w), own)


def test_the_weights_of_two_examples_that_move_alike():
    """An example that is fooled has nearly the weight 1, one that stays right has nearly none."""
    sure, fooled = torch.tensor([[9.0, 0.0]]), torch.tensor([[-9.0, 0.0]])
    moved = kl_divergence(fooled, sure)
    assert float(label_weighted_kl(sure, fooled, torch.tensor([0]))) == pytest.approx(float(moved), rel=1e-3)
    assert float(label_weighted_kl(sure, fooled, torch.tensor([1]))) < 1e-3 * float(moved)
    assert float(label_weighted_kl(sure, fooled, torch.tensor([-100]))) == 0
    assert float(label_weighted_kl(sure, sure, torch.tensor([0]))) == 0


def test_no_nan_where_the_weight_is_0_and_the_divergence_infinite():
    clean = torch.tensor([[0.0, 1.0]], requires_grad=True)
    changed = torch.tensor([[0.0, -torch.inf]], requires_grad=True)
    value = label_weighted_kl(clean, changed, torch.tensor([0]))
    value.sum().backward()
    assert value.tolist() == [0.0]
    assert not bool(clean.grad.isnan().any())
    assert not bool(changed.grad.isnan().any())


# The loss of pairs, and the whole objective.

LOGITS = torch.cat([P, Q]).float()
ROWS = torch.arange(12) >= 6
LABELS = torch.tensor([0, 1, -100, 3, -100, 1])
BATCH = Batch(
    torch.zeros(12, 1), id=torch.arange(12) % 6, labels=LABELS.repeat(2),
    extra={"adversarial": ROWS, "masks": {"clean": ~ROWS, "adversarial": ROWS}},
)  # fmt: skip


def compute(objective, batch=BATCH, student=LOGITS, teacher=None):
    outputs = Outputs(logits=student), Outputs() if teacher is None else Outputs(logits=teacher)
    fitted = objective.setup(LossContext(*outputs, batch))
    terms = fitted(*outputs, batch, Progress())
    return sum(float(term.weight * term.total / term.count) for term in terms.values())


@pytest.mark.parametrize("weighting", ["adversarial", "clean", "none"])
def test_the_objective_is_the_formula_over_the_examples_with_a_label(weighting):
    objective = next(make("arow", weight=3.0, smoothing=0.1, weighting=weighting).stages()).objective
    known = LABELS >= 0
    labels = label_smoothing(P[known], labels=LABELS[known], smoothing=0.1).mean()
    moved = brute_force_label_weighted_kl(P[known], Q[known], LABELS[known], weighting)
    assert compute(objective) == pytest.approx(float(labels) + 3.0 * sum(moved) / len(moved), rel=1e-5)


def test_a_weight_of_0_is_label_smoothing():
    objective = next(make("arow", weight=0.0, smoothing=0.3).stages()).objective
    alone = next(make("label_smoothing", smoothing=0.3).stages()).objective
    clean = BATCH.rows(torch.arange(6))
    assert compute(objective) == pytest.approx(compute(alone, clean, LOGITS[:6]), rel=1e-6)


def test_pairs_do_not_depend_on_the_order_of_the_rows_and_masked_examples_do_not_count():
    loss = AdversarialPairs(label_weighted_kl)
    order = torch.tensor([6, 0, 7, 1, 2, 8, 3, 9, 10, 4, 5, 11])
    assert compute(loss, BATCH.rows(order), LOGITS[order]) == pytest.approx(compute(loss), rel=1e-6)
    masked = BATCH._replace(mask=(torch.arange(12) % 6 > 0))
    keep = torch.tensor([1, 2, 3, 4, 5, 7, 8, 9, 10, 11])
    assert compute(loss, masked) == pytest.approx(compute(loss, BATCH.rows(keep), LOGITS[keep]), rel=1e-6)


def test_batches_without_pairs_are_refused():
    stage = next(make("arow", epsilon=0.1, attack_steps=1).stages())
    for loader in (None, Attack(0.1, steps=1, keep_clean=False)):
        with pytest.raises(LimbeckError, match=r"Attack|masks"):
            distill(
                nn.Linear(3, 2), type(stage)(AdversarialPairs(label_weighted_kl), loader=loader),
                (torch.rand(8, 3), torch.arange(8) % 2), epochs=1, batch_size=4,
            ).finish()  # fmt: skip


def test_the_student_is_more_robust_than_one_of_labels_alone():
    """Twelve columns are always right and within the reach of the attack; one is right for nine of ten, out of it."""
    draw = torch.Generator().manual_seed(1)
    labels = torch.randint(2, (200,), generator=draw)
    side = 2 * labels.float().unsqueeze(1) - 1
    flip = torch.where(torch.rand(200, 1, generator=draw) < 0.1, -1.0, 1.0)
    data = ArrayDataset(torch.cat([0.06 * side.expand(-1, 12), 0.4 * side * flip], 1), labels)
    robust = {}
    for name, recipe in {
        "labels": make("supervised"),
        "arow": make("arow", epsilon=0.075, attack_steps=2, step_size=0.05, weight=6.0, low=-1.0),
    }.items():
        torch.manual_seed(0)
        fast = Optimizer("adamw", lr=0.1)
        run = distill(nn.Linear(13, 2), recipe, data, epochs=10, batch_size=50, seed=0, optimizer=fast).finish()
        robust[name] = robust_accuracy(run.student, data, Attack(0.075, steps=10, low=-1.0)).robust.value
    assert robust["labels"] == 0
    assert robust["arow"] > 0.8


def test_the_average_is_the_final_model():
    data = ArrayDataset(torch.rand(32, 3, generator=DRAW), torch.arange(32) % 2)
    torch.manual_seed(0)
    first = nn.Linear(3, 2)
    kept = first.weight.detach().clone()
    recipe = make("arow", epsilon=0.1, attack_steps=1, average_decay=0.999)
    run = distill(first, recipe, data, epochs=1, batch_size=16, seed=0).finish()  # two steps: a plain mean of three
    last, mean = run.models["student"].weight, run.models["average"].weight
    assert torch.equal(run.student.weight, mean)
    assert not torch.equal(mean, last)
    assert not torch.equal(mean, kept)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"epsilon": 0.0}, ArgumentError), ({"epsilon": math.nan}, ArgumentError), ({"epsilon": -0.1}, ArgumentError),
        ({"weight": -1.0}, ArgumentError), ({"smoothing": 1.5}, ArgumentError), ({"attack_steps": 0}, ArgumentError),
        ({"average_decay": 1.0}, ArgumentError), ({"average_decay": math.nan}, ArgumentError),
        ({"weighting": "cleen"}, UnknownNameError), ({"attack": "kl"}, UnknownNameError),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(changes, kind):
    with pytest.raises(kind) as raised:
        make("arow", **changes)
    name = next(iter(changes))
    assert raised.value.argument == {"attack": "loss"}.get(name, name)
