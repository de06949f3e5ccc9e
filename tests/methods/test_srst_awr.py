"""SRST-AWR: the weight is within 0 and 1, and has the limits of the paper; few labels and a teacher are enough."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.data import ArrayDataset, Attack
from limbeck.engine import distill
from limbeck.errors import ArgumentError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import LossContext
from limbeck.methods import make
from limbeck.methods.logits.arow import label_weighted_kl
from limbeck.methods.logits.srst_awr import adaptively_weighted_kl, compute_adaptive_weight
from limbeck.metrics import robust_accuracy
from limbeck.recipe import Optimizer
from limbeck.teachers import CachedTeacher, ModelTeacher

DRAW = torch.Generator().manual_seed(0)
P, Q, T = (3 * torch.randn(6, 4, generator=DRAW, dtype=torch.float64) for _ in range(3))


def softmax(row, temperature=1.0):
    powers = [math.exp((value - max(row)) / temperature) for value in row]
    return [one / sum(powers) for one in powers]


def brute_force_adaptively_weighted_kl(clean, adversarial, teacher, mixture=0.5):
    values = []
    for z, changed, v in zip(clean.tolist(), adversarial.tolist(), teacher.tolist(), strict=True):
        p, q, t = softmax(z), softmax(changed), softmax(v)
        agreed = sum(a * b for a, b in zip(t, p, strict=True))
        changed_agreed = sum(a * b for a, b in zip(t, q, strict=True))
        weight = mixture * agreed + (1 - mixture) * (1 - changed_agreed)
        values.append(weight * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return values


def brute_force_prediction_change(clean, adversarial):
    return [
        sum(a * math.log(a / b) for a, b in zip(softmax(z), softmax(changed), strict=True))
        for z, changed in zip(clean.tolist(), adversarial.tolist(), strict=True)
    ]


def test_the_weight_is_from_0_to_1_and_has_its_limits():
    for beta in (0.0, 0.3, 1.0):
        random = compute_adaptive_weight(*(30 * torch.randn(3, 500, 4, generator=DRAW)), mixture=beta)
        assert 0 <= float(random.min()) <= float(random.max()) <= 1
        right, other = torch.tensor([[99.0, 0.0, 0.0]]), torch.tensor([[0.0, 99.0, 0.0]])
        assert float(compute_adaptive_weight(right, right, right, mixture=beta)) == pytest.approx(beta)
        assert float(compute_adaptive_weight(right, other, right, mixture=beta)) == pytest.approx(1)
        assert float(compute_adaptive_weight(other, other, right, mixture=beta)) == pytest.approx(1 - beta)
        assert float(compute_adaptive_weight(other, right, right, mixture=beta)) == pytest.approx(0, abs=1e-6)


def test_with_labels_for_the_teacher_and_no_mixture_it_is_arow_and_with_all_of_it_cow():
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    one_hot = 1000.0 * torch.nn.functional.one_hot(labels, 4).double()
    for mixture, weighting in ((0.0, "adversarial"), (1.0, "clean")):
        ours = adaptively_weighted_kl(P, Q, one_hot, mixture=mixture)
        torch.testing.assert_close(ours, label_weighted_kl(P, Q, labels, weighting=weighting))


def test_the_gradient_goes_through_the_weight():
    own = [one.clone().requires_grad_() for one in (P, Q)]
    assert torch.autograd.gradcheck(lambda p, q: adaptively_weighted_kl(p, q, T, mixture=0.3), own)


# The whole objective.

ROWS = torch.arange(12) >= 6
LABELS = torch.tensor([0, -100, -100, 3, -100, -100])
BATCH = Batch(
    torch.zeros(12, 1), id=torch.arange(12) % 6, labels=LABELS.repeat(2),
    extra={"adversarial": ROWS, "masks": {"clean": ~ROWS, "adversarial": ROWS}},
)  # fmt: skip
STUDENT = torch.cat([P, Q])


def compute(teacher=None, **settings):
    """The loss, where the teacher's logits of the adversarial rows are anything."""
    anything = torch.randn(6, 4, generator=DRAW, dtype=torch.float64)
    outputs = Outputs(logits=STUDENT), Outputs(logits=torch.cat([T if teacher is None else teacher, anything]))
    objective = next(make("srst_awr", teacher=nn.Identity(), **settings).stages()).objective
    fitted = objective.setup(LossContext(*outputs, BATCH))
    return sum(float(term.weight * term.total / term.count) for term in fitted(*outputs, BATCH, Progress()).values())


def test_the_objective_is_the_formula_over_labels_and_over_all_examples():
    smooth = 0.0
    for row in (0, 3):
        log_p = [math.log(one) for one in softmax(P[row].tolist())]
        smooth -= (0.8 * log_p[int(LABELS[row])] + 0.2 * sum(log_p) / 4) / 2
    soft = 0.0
    for z, v in zip(P.tolist(), T.tolist(), strict=True):
        t, p = softmax(v, 1.5), softmax(z, 1.5)
        soft += sum(a * math.log(a / b) for a, b in zip(t, p, strict=True)) / 6
    moved = sum(brute_force_adaptively_weighted_kl(P, Q, T, 0.3)) / 6
    ours = compute(weight=5.0, soft_weight=2.0, temperature=1.5, smoothing=0.2, mixture=0.3)
    assert ours == pytest.approx(smooth + 2.0 * soft + 5.0 * moved, rel=1e-9)


def test_without_the_regularization_it_is_semi_supervised_distillation():
    labels = cross_entropy(P[[0, 3]], labels=LABELS[[0, 3]]).mean()
    soft = kl_divergence(P, T, temperature=2.0).mean() / 4
    ours = compute(weight=0.0, soft_weight=3.0, temperature=2.0, smoothing=0.0)
    assert ours == pytest.approx(float(labels + 3 * soft), rel=1e-9)


def test_an_equal_weight_is_semi_supervised_trades_with_distillation():
    moved = sum(brute_force_prediction_change(P, Q)) / 6
    assert compute(weight=5.0, adaptive=False) - compute(weight=0.0) == pytest.approx(5.0 * moved, rel=1e-9)


def test_few_labels_and_a_teacher_make_a_robust_student_with_an_average(tmp_path):
    """Six of 240 examples have a label, and the teacher is accurate, not robust."""
    draw = torch.Generator().manual_seed(1)
    classes = torch.randint(2, (240,), generator=draw)
    side = 2 * classes.float() - 1
    x = torch.rand(240, 2, generator=draw) * 0.02
    x[:, 0] += 0.49 + 0.05 * side  # within the reach of the attack
    flip = torch.where(torch.rand(240, generator=draw) < 0.1, -1.0, 1.0)
    x[:, 1] += 0.49 + 0.4 * side * flip  # out of reach, and right for nine of ten
    steep = nn.Linear(2, 2)
    with torch.no_grad():
        steep.weight.copy_(100 * torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
        steep.bias.copy_(torch.tensor([50.0, -50.0]))
    few = ArrayDataset(x, classes.masked_fill(torch.arange(240) >= 6, -100))
    attack = Attack(0.15, steps=10)
    teacher = CachedTeacher(ModelTeacher(steep), tmp_path)  # is asked anew
    recipe = make(
        "srst_awr",
        teacher=teacher,
        epsilon=0.15,
        attack_steps=2,
        step_size=0.1,
        weight=6.0,
        soft_weight=1.0,
        average_decay=0.9,
    )
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
    run = distill(net, recipe, few, epochs=12, batch_size=40, seed=0, optimizer=Optimizer("adamw", lr=0.02)).finish()
    assert run.student is run.models["average"]
    data = ArrayDataset(x, classes)
    theirs, ours = (robust_accuracy(model, data, attack) for model in (steep, run.student))
    assert theirs.clean.value > 0.99
    assert ours.robust.value > theirs.robust.value + 0.3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        {"epsilon": 0.0}, {"epsilon": math.inf}, {"weight": -1.0}, {"soft_weight": math.nan}, {"temperature": 0.0},
        {"smoothing": -0.1}, {"mixture": 1.1}, {"attack_steps": 0}, {"average_decay": 1.0}, {"step_size": 0.0},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(changes):
    with pytest.raises(ArgumentError) as raised:
        make("srst_awr", teacher=nn.Identity(), **changes)
    assert raised.value.argument == next(iter(changes))
