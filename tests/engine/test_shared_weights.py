"""A student that shares with its teacher what learns or counts is refused; what stands still may be shared."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from engine.stories import arrays, make_loader
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, kl_divergence, squared_error
from limbeck.integrations import DistillationLoss
from limbeck.losses import Loss
from limbeck.recipe import Recipe, Stage
from limbeck.teachers import CachedTeacher, Ensemble, ModelTeacher, MovingAverage, ShuffledTeacher

SOFT = 0.5 * Loss(cross_entropy) + 0.5 * Loss(kl_divergence)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def layers(teacher: nn.Sequential) -> nn.Module:
    return nn.Sequential(teacher[0], teacher[1], nn.ReLU(), nn.Linear(8, 3))


def storage(teacher: nn.Sequential) -> nn.Module:
    student = network()
    for mine, its in zip(student.parameters(), teacher.parameters(), strict=True):
        mine.data = its.data
    return student


def part_of_a_storage(teacher: nn.Sequential) -> nn.Module:
    student = network()
    student[3].weight.data = teacher[3].weight.data[:, :8]
    student[3].bias.data = teacher[3].bias.data.view(-1)
    return student


def one_parameter(teacher: nn.Sequential) -> nn.Module:
    student = network()
    student[3].bias = teacher[3].bias
    return student


def buffer_that_learns(teacher: nn.Sequential) -> nn.Module:
    student = network()
    student[1].weight.data = teacher[1].running_mean
    return student


def statistics(teacher: nn.Sequential) -> nn.Module:
    for parameter in teacher[:2].parameters():
        parameter.requires_grad_(False)
    return layers(teacher)


class Calls(nn.Module):
    """A student that asks the teacher in its own mode, without holding it."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.last, self._teacher = nn.Linear(3, 3), (teacher,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self._teacher[0].train()
            return_to = self._teacher[0](x)
            self._teacher[0].eval()
        return self.last(return_to)


SHARED = [
    layers,
    storage,
    part_of_a_storage,
    one_parameter,
    buffer_that_learns,
    statistics,
    Calls,
    lambda teacher: teacher,
]


def set_going(student: nn.Module, teacher: object, way: str, *, early: bool) -> None:
    stage = Stage(SOFT, teacher=teacher, epochs=1)
    if way == "distillation":
        DistillationLoss(student, SOFT, teacher, example=arrays(8).take(torch.arange(8)))
    elif way == "later" and early:
        distill(student, Stage(Loss(cross_entropy), epochs=1) >> stage, make_loader())
    else:
        distill(student, stage, make_loader()).finish()


@pytest.mark.parametrize("make", SHARED)
@pytest.mark.parametrize("way", ["live", "ensemble", "displaced", "cached", "distillation", "later"])
def test_what_would_move_the_teacher_is_refused(make, way, tmp_path):
    teacher = network().eval()
    student = make(teacher)
    before = copy.deepcopy(teacher.state_dict())
    taught = {
        "ensemble": lambda: Ensemble(network(), ModelTeacher(teacher)),
        "displaced": lambda: ShuffledTeacher(teacher),
    }
    taught |= {"cached": lambda: CachedTeacher(teacher, tmp_path / "answers")}
    given = taught.get(way, lambda: teacher)()
    student.train()
    with pytest.raises(LimbeckError, match="teacher"):
        set_going(student, given, way, early=make not in (statistics, Calls))
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_a_head_that_is_the_teachers_layer_is_refused():
    teacher = network().eval()
    hint = Loss(squared_error, student="2", teacher="3", head=teacher[3])
    with pytest.raises(LimbeckError, match="are the teacher's own"):
        distill(network(), Stage(hint, teacher=teacher, steps=1), make_loader())


def test_a_model_that_an_earlier_stage_made_of_the_students_layers_is_refused():
    student = network()
    both = Stage(Loss(cross_entropy), trains="other", steps=1) >> Stage(SOFT, teacher="other", steps=1)
    recipe = Recipe(*both.parts, makes={"other": lambda models: nn.Sequential(*models["student"][:3], nn.Linear(8, 3))})
    with pytest.raises(LimbeckError, match="are the teacher's own"):
        distill(student, recipe, make_loader()).finish()


def frozen_layers(teacher: nn.Sequential) -> nn.Module:
    teacher[0].requires_grad_(False)
    return nn.Sequential(teacher[0], nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def statistics_at_rest(teacher: nn.Sequential) -> nn.Module:
    student = statistics(teacher).train()
    student[1].eval()
    return student


def other_part_of_a_storage(teacher: nn.Sequential) -> nn.Module:
    both, student = torch.randn(2, 3), network()
    teacher[3].bias.data, student[3].bias.data = both[0], both[1]
    return student


@pytest.mark.parametrize("make", [frozen_layers, statistics_at_rest, other_part_of_a_storage, copy.deepcopy])
def test_what_stands_still_may_be_shared(make):
    teacher = network().eval()
    student = make(teacher)
    before = copy.deepcopy(teacher.state_dict())
    distill(student, Stage(SOFT, teacher=teacher, epochs=2), make_loader()).finish()
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_who_is_named_as_its_own_teacher_is_meant_so():
    for teacher in ("student", MovingAverage(), MovingAverage(into="average")):
        models = {"student": network(), "average": network()}
        distill(models, Stage(SOFT, teacher=teacher, steps=2), make_loader()).finish()
    trunk = nn.Linear(5, 8)
    peers = {name: nn.Sequential(trunk, nn.ReLU(), nn.Linear(8, 3)) for name in ("one", "two")}
    both = Stage(SOFT, trains="one", teacher="two", steps=2) & Stage(SOFT, trains="two", teacher="one", steps=2)
    distill(peers, both, make_loader()).finish()


def test_a_bert_of_the_teachers_layers_is_refused():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, vocab_size=20, num_labels=2
    )
    teacher, student = (transformers.BertForSequenceClassification(config) for _ in range(2))
    student.bert.encoder.layer = nn.ModuleList([teacher.bert.encoder.layer[0]])
    data = {"input_ids": torch.randint(20, (8, 4)), "labels": torch.arange(8) % 2}
    with pytest.raises(LimbeckError, match="are the teacher's own"):
        distill(student, Stage(SOFT, teacher=teacher, steps=1), [data])
