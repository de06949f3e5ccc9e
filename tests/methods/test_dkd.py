"""DKD: its two parts add up to the KL divergence, and the formula is that of the paper."""

from __future__ import annotations

import pytest
import torch

from limbeck.batch import Progress
from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence
from limbeck.methods import make
from limbeck.methods.logits.dkd import decoupled_kl
from methods.row_math import kl, like, softmax, to_rows, without

DRAW = torch.Generator().manual_seed(0)
Z, V = (3 * torch.randn(6, 5, generator=DRAW, dtype=torch.float64) for _ in range(2))
Y = torch.tensor([0, 1, 2, 3, 4, -100])


def brute_force_decoupled_kl(student, teacher, *, labels, temperature=1.0, target_weight=1.0, non_target_weight=8.0):
    values = []
    for z, v, y in zip(to_rows(student), to_rows(teacher), labels.flatten().tolist(), strict=True):
        if y == -100:
            values.append(0.0)
            continue
        q, p = softmax(z, temperature)[y], softmax(v, temperature)[y]
        pairs = [(p, q), (sum(without(softmax(v, temperature), y)), sum(without(softmax(z, temperature), y)))]
        target = sum(a * torch.tensor(a / b, dtype=torch.float64).log().item() for a, b in pairs if a > 0)
        rest = kl(without(z, y), without(v, y), temperature)
        values.append(temperature**2 * (target_weight * target + non_target_weight * rest))
    return like(student, values)


@pytest.mark.parametrize("hyper", [{}, {"temperature": 4.0, "target_weight": 0.5, "non_target_weight": 2.0}])
def test_the_kernel_is_the_formula(hyper):
    value = decoupled_kl(Z, V, labels=Y, **hyper)
    torch.testing.assert_close(value, brute_force_decoupled_kl(Z, V, labels=Y, **hyper))
    maps = decoupled_kl(Z.reshape(2, 3, 5), V.reshape(2, 3, 5), labels=Y.reshape(2, 3), **hyper)
    torch.testing.assert_close(maps.flatten(), value)


def test_the_parts_add_up_to_the_divergence():
    labels = Y.clamp_min(0)
    parts = [
        decoupled_kl(Z, V, labels=labels, temperature=3.0, target_weight=a, non_target_weight=1.0 - a)
        for a in (1.0, 0.0)
    ]
    sure = (V / 3).softmax(-1).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(parts[0] + (1 - sure) * parts[1], kl_divergence(Z, V, temperature=3.0))


def test_two_classes_have_no_second_part_and_no_infinity():
    z, v = Z[:, :2], V[:, :2]
    value = decoupled_kl(z, v, labels=Y.clamp(0, 1), target_weight=1.0, non_target_weight=8.0)
    torch.testing.assert_close(value, kl_divergence(z, v))


def test_the_recipe_is_the_paper_s_and_warms_up():
    (stage,) = make("dkd", teacher=torch.nn.Linear(2, 3), warmup=0.5).stages()
    weights = {name: weigh for name, (_, weigh) in stage.objective.named_leaves().items()}
    assert [weights["decoupled_kl"](Progress(step, 101)) for step in (0, 25, 50, 100)] == [0.0, 0.5, 1.0, 1.0]
    assert weights["cross_entropy"](Progress(0, 101)) == 1.0


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_a_task_without_one_label_is_refused(task):
    with pytest.raises(LimbeckError, match="no single class"):
        make("dkd", teacher=torch.nn.Linear(2, 3), task=task)


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"non_target_weight": -1.0}, {"warmup": 1.5}])
def test_a_value_out_of_range_is_refused(wrong):
    with pytest.raises(LimbeckError, match=next(iter(wrong))):
        make("dkd", teacher=torch.nn.Linear(2, 3), **wrong)
