"""Subclass distillation: a teacher that invents subclasses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.methods import make
from limbeck.methods.teachers.subclass_distillation import subclass_contrast
from limbeck.models import build
from limbeck.models.subclass_head import SubclassHead, add_subclasses
from limbeck.recipe import Optimizer


def brute_force_subclass_contrast(student, *, temperature=1.0):
    """The same with loops over pairs of examples."""
    rows = []
    for z in student.double().tolist():
        mean = sum(z) / len(z)
        norm = math.sqrt(sum((value - mean) ** 2 for value in z))
        rows.append([(value - mean) / norm for value in z])
    n, total = len(rows), 0.0
    for one in rows:
        products = [math.exp(sum(a * b for a, b in zip(one, other, strict=True)) / temperature) for other in rows]
        total += math.log(sum(products) / n) - 1 / temperature
    return torch.tensor(total / n, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_it_is_the_formula(temperature):
    z = torch.randn(7, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = brute_force_subclass_contrast(z, temperature=temperature)
    torch.testing.assert_close(subclass_contrast(z, temperature=temperature), expected)


def test_it_is_0_if_all_examples_are_alike_and_least_if_all_subclasses_are_used():
    same = torch.tensor([[1.0, 5.0, -2.0, 0.0]]).expand(6, 4)
    assert subclass_contrast(same).item() == pytest.approx(0, abs=1e-6)
    used = torch.eye(10, dtype=torch.float64).repeat(3, 1)
    assert subclass_contrast(used).item() == pytest.approx(math.log(0.1 * math.e + 0.9 * math.exp(-1 / 9)) - 1)


def test_scale_and_shift_of_an_example_do_not_matter():
    z = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(
        subclass_contrast(z * torch.tensor([[2.0], [1.0], [5.0], [0.1], [1.0]]) + 3), subclass_contrast(z)
    )


def test_a_class_has_the_sum_of_its_subclasses():
    head = SubclassHead(nn.Linear(4, 3), 5)
    x = torch.randn(6, 4)
    of_subclasses = head.subclass_logits(x).softmax(-1)
    torch.testing.assert_close(head(x).softmax(-1), of_subclasses.view(6, 3, 5).sum(-1))


def test_an_output_layer_gets_subclasses_wherever_it_is():
    assert add_subclasses(nn.Linear(4, 3), subclasses=2)(torch.zeros(1, 4)).shape == (1, 3)
    assert add_subclasses(build("mlp", inputs=4, classes=3, hidden=[5]), subclasses=2)(torch.zeros(1, 4)).shape == (
        1,
        3,
    )
    with pytest.raises(LimbeckError, match="linear output layer"):
        add_subclasses(nn.Conv2d(1, 1, 1), subclasses=2)
    with pytest.raises(LimbeckError, match="subclasses"):
        add_subclasses(nn.Linear(4, 3), subclasses=0)


@pytest.mark.parametrize(
    ("wrong", "value"),
    [
        ("subclasses", 0),
        ("temperature", 0.0),
        ("auxiliary_temperature", 0.0),
        ("weight", 2.0),
        ("auxiliary_weight", -1.0),
    ],
)
def test_a_value_out_of_range_is_refused(wrong, value):
    with pytest.raises(LimbeckError, match="temperature" if "temperature" in wrong else wrong):
        make("subclass_distillation", teacher=nn.Linear(4, 3), **{wrong: value})


class Digits:
    """Ten clusters in two classes of five: what a teacher could find out."""

    def __init__(self):
        draw = torch.Generator().manual_seed(0)
        self.centers = 2.5 * torch.randn(10, 8, generator=draw)
        self.x, self.part = self.sample(300, draw)
        self.test, self.test_part = self.sample(1000, draw)

    def sample(self, count, draw):
        part = torch.arange(count) % 10
        return self.centers[part] + torch.randn(count, 8, generator=draw), part

    def learn(self, recipe, hidden):
        student = build("mlp", inputs=8, classes=2, hidden=hidden, seed=1)
        data = ArrayDataset(self.x, (self.part >= 5).long())
        return distill(student, recipe, data, batch_size=50, epochs=20, seed=0, optimizer=Optimizer("adam", lr=1e-2),
                       log_every=10**6).finish()  # fmt: skip

    def used(self, model):
        """The number of subclasses that are the most probable one of at least 2 % of the test examples."""
        with torch.no_grad():
            logits = []
            hook = model.classifier.subclass_logits.register_forward_hook(lambda *call: logits.append(call[2]))
            model.eval()(self.test)
            hook.remove()
        return int((logits[0].argmax(1).bincount(minlength=10) >= 20).sum())


def test_the_auxiliary_loss_makes_the_teacher_use_its_subclasses_and_the_student_learns_them():
    digits, teacher = Digits(), build("mlp", inputs=8, classes=2, hidden=[64], seed=2)
    plain = digits.learn(make("subclass_distillation", teacher=teacher, auxiliary_weight=0.0), [16])
    run = digits.learn(make("subclass_distillation", teacher=teacher), [16])
    assert digits.used(run.models["subclass-teacher"]) >= digits.used(plain.models["subclass-teacher"]) + 2
    assert digits.used(run.student) >= digits.used(run.models["subclass-teacher"]) - 2
    with torch.no_grad():
        right = (run.student.eval()(digits.test).argmax(1) == (digits.test_part >= 5)).float().mean()
    assert right > 0.9


def test_a_warm_start_keeps_the_weights_below_the_output_layer():
    teacher = build("mlp", inputs=8, classes=2, hidden=[4], seed=2)
    for warm in (True, False):
        recipe = make("subclass_distillation", teacher=teacher, warm_start=warm)
        made = recipe.makes["subclass-teacher"]({})
        same = torch.equal(next(made.parameters()), next(teacher.parameters()))
        assert same == warm
        assert made(torch.zeros(1, 8)).shape == (1, 2)
