"""The moving average against its definition."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.errors import LimbeckError, UnknownNameError
from limbeck.teachers import MovingAverage, TeacherContext


def wander(model: nn.Module, steps: int) -> Iterator[list[torch.Tensor]]:
    """Moves the model's parameters at random: what they are after each step."""
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.data = torch.randn_like(parameter)
        yield [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("decay", [0.0, 0.6, 0.999])
def test_five_steps_by_brute_force(decay):
    model = nn.Linear(3, 2).double()
    teacher = MovingAverage(decay=decay).open(TeacherContext(models={"student": model}))
    expected = [parameter.detach().clone() for parameter in model.parameters()]
    for t, walked in enumerate(wander(model, 5), start=1):
        alpha = min(1 - 1 / (t + 1), decay)
        expected = [alpha * e + (1 - alpha) * w for e, w in zip(expected, walked, strict=True)]
        teacher.after_step()
        for mine, wanted in zip(teacher.model.parameters(), expected, strict=True):
            assert torch.allclose(mine, wanted, rtol=1e-12)


def test_below_its_limit_it_is_the_plain_mean_of_all_it_saw():
    model = nn.Linear(3, 2).double()
    teacher = MovingAverage(decay=0.999).open(TeacherContext(models={"student": model}))
    seen = [model.weight.detach().clone()]
    for walked in wander(model, 6):
        seen.append(walked[0])
        teacher.after_step()
    assert torch.allclose(teacher.model.weight, torch.stack(seen).mean(0), rtol=1e-12)


def test_closed_form_with_a_constant_decay():
    """Where alpha is constant: theta'_n = alpha^n theta_0 + (1 - alpha) sum_k alpha^(n-k) theta_k."""
    model = nn.Linear(3, 2).double()
    teacher = MovingAverage(decay=0.5).open(TeacherContext(models={"student": model}))
    path = [model.weight.detach().clone()]
    for walked in wander(model, 5):
        path.append(walked[0])
        teacher.after_step()
    wanted = 0.5**5 * path[0] + sum(0.5 * 0.5 ** (5 - k) * path[k] for k in range(1, 6))
    assert torch.allclose(teacher.model.weight, wanted, rtol=1e-12)


def test_decay_zero_is_the_model_itself():
    model = nn.Linear(3, 2)
    teacher = MovingAverage(decay=0.0).open(TeacherContext(models={"student": model}))
    for walked in wander(model, 2):
        teacher.after_step()
        assert torch.equal(teacher.model.weight, walked[0])


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_running_statistics_are_the_model_s_unless_it_keeps_its_own(mode):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    teacher = MovingAverage(decay=0.5, mode=mode).open(TeacherContext(models={"student": model}))
    model.train()(torch.randn(8, 3))
    teacher.after_step()
    same = torch.equal(teacher.model[1].running_mean, model[1].running_mean)
    assert same == (mode == "eval")
    assert int(teacher.model[1].num_batches_tracked) == (1 if mode == "eval" else 0)


def test_it_answers_with_the_average_and_without_gradient():
    model = nn.Linear(3, 2)
    teacher = MovingAverage(decay=0.5).open(TeacherContext(models={"student": model}))
    x = torch.randn(4, 3)
    with teacher as answer:
        before = answer(Batch(x))["logits"]
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        assert torch.equal(answer(Batch(x))["logits"], before)
        teacher.after_step()
        assert torch.allclose(answer(Batch(x))["logits"], before / 2)
    assert not before.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_its_state_brings_it_back():
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    teacher = MovingAverage(decay=0.9).open(TeacherContext(models={"student": model}))
    for _ in wander(model, 3):
        teacher.after_step()
    again = MovingAverage(decay=0.9).open(TeacherContext(models={"student": other}))
    again.load_state_dict(teacher.state_dict())
    other.load_state_dict(model.state_dict())
    assert torch.equal(again.model.weight, teacher.model.weight)
    for one, two in ((teacher, model), (again, other)):
        nn.init.ones_(two.weight)
        one.after_step()
    assert torch.equal(again.model.weight, teacher.model.weight)


def test_a_run_that_opens_it_begins_a_new_average():
    """A stage starts from the model as it is, whatever the same teacher object averaged in an earlier run."""
    model = nn.Linear(3, 2)
    teacher, context = MovingAverage(decay=0.9), TeacherContext(models={"student": model})
    session = teacher.open(context)
    for _ in wander(model, 3):
        session.after_step()
    again = teacher.open(context)
    assert torch.equal(again.model.weight, model.weight)
    assert again.state_dict()["steps"] == 0


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_a_decay_that_is_none(decay):
    with pytest.raises(LimbeckError, match=r"at least 0 and below 1"):
        MovingAverage(decay=decay)


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'studnet'.*Did you mean 'student'"):
        MovingAverage(of="studnet").open(TeacherContext(models={"student": nn.Identity()}))


def test_without_a_run_there_is_no_average():
    with pytest.raises(UnknownNameError, match="'student'"):
        MovingAverage().open(TeacherContext())
