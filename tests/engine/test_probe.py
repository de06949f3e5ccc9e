"""Errors are found before the first step, with nothing left behind."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from engine.stories import hint, hooks, make_loader, network, weights
from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.errors import LimbeckError, MissingOutputError, UnknownNameError
from limbeck.functional import cross_entropy, kernel, kl_divergence, squared_error
from limbeck.integrations import DistillationLoss
from limbeck.losses import Loss
from limbeck.models import fingerprint
from limbeck.recipe import Recipe, Stage
from limbeck.teachers import Ensemble

CE, KL = Loss(cross_entropy), Loss(kl_divergence)


class Untouched:
    """Models that must end a refused run as they began it."""

    def __init__(self, *models: nn.Module) -> None:
        self.models = models
        self.before = self.state()

    def state(self) -> list[Any]:
        flags = [module.training for model in self.models for module in model.modules()]
        learning = [parameter.requires_grad for model in self.models for parameter in model.parameters()]
        return [flags, learning, hooks(self.models), [fingerprint(model) for model in self.models]]


@pytest.fixture
def pair() -> Iterator[tuple[nn.Module, nn.Module]]:
    student, teacher = network(norm=True, dropout=0.5), network(hidden=6, seed=7, norm=True).train()
    student[1].eval()
    untouched = Untouched(student, teacher)
    yield student, teacher
    assert untouched.state() == untouched.before


def refused(
    student: nn.Module, recipe: Any, data: Any, sentence: str, kind: type = LimbeckError, **setting: Any
) -> None:
    reports: list[Any] = []
    with pytest.raises(kind, match=sentence) as found:
        reports.extend(distill(student, recipe, data, **setting))
    assert "\n" not in str(found.value)
    assert reports == []


def test_a_student_that_refuses_the_inputs(pair):
    data = (torch.randn(8, 9), torch.zeros(8, dtype=torch.int64))
    sentence = r"The model 'student' \(Sequential\) refused inputs of shape \(8, 9\) \(float32\): mat1 and mat2"
    refused(pair[0], Stage(CE, epochs=1), data, sentence)


def test_a_teacher_that_refuses_the_inputs(pair):
    sentence = r"The teacher of 'student' \(ModelTeacher\) cannot answer.*\(8, 5\).*mat1 and mat2.*preprocess="
    refused(pair[0], Stage(KL, teacher=nn.Linear(9, 3), epochs=1), make_loader(), sentence)


def test_different_class_counts(pair):
    sentence = r"student has 3 .*teacher 4"
    refused(pair[0], Stage(KL, teacher=nn.Linear(5, 4), epochs=1), make_loader(), sentence)


@pytest.mark.parametrize(("student", "teacher"), [("9", "0"), ("0", "layer1"), ("0:7", "0")])
def test_wrong_addresses(pair, student, teacher):
    stage = Stage(Loss(squared_error, student=student, teacher=teacher), teacher=pair[1], epochs=1)
    refused(pair[0], stage, make_loader(), r"No output at|one tensor, not several", MissingOutputError)


def test_labels_out_of_range_anywhere_in_the_data(pair):
    labels = torch.zeros(30, dtype=torch.int64)
    labels[29] = 3
    data = ArrayDataset(torch.randn(30, 5), labels)
    sentence = r"Label 3 is no class of the model 'student', which has 0 to 2"
    refused(pair[0], Stage(CE + 0.1 * hint(), teacher=pair[1], epochs=1), data, sentence, batch_size=4)


def test_labels_out_of_range_in_a_loader_s_batch(pair):
    refused(pair[0], Stage(CE, epochs=1), [(torch.randn(4, 5), torch.tensor([0, 1, 2, 3]))], r"Label 3 is no class")


def test_labels_that_are_needed_and_missing(pair):
    refused(pair[0], Stage(CE, epochs=1), torch.randn(8, 5), r"cross_entropy needs labels, and this loader gives none")


def test_images_of_labels_are_checked_against_classes_not_width():
    student = nn.Conv2d(3, 21, 1)
    data = (torch.randn(4, 3, 8, 8), torch.arange(4 * 64).view(4, 8, 8) % 21)
    assert distill(student, Stage(Loss(cross_entropy, classes=1), epochs=1), data).finish().finished
    data[1][0, 0, 0] = 21
    refused(student, Stage(Loss(cross_entropy, classes=1), epochs=1), data, r"Label 21 .* 0 to 20")


def test_a_term_that_reaches_no_parameter(pair):
    student = network()
    student.requires_grad_(False)
    refused(student, Stage(CE, epochs=1), make_loader(), r"'cross_entropy' reaches no parameter of 'student'")

    @kernel(per="example")
    def aside(teacher):
        return teacher.square().mean(-1)

    refused(pair[0], Stage(CE + Loss(aside), teacher=pair[1], epochs=1), make_loader(), r"'aside' reaches no parameter")


def test_a_term_of_weight_zero_is_checked_too(pair):
    stage = Stage(CE + 0.0 * Loss(squared_error, student="0", teacher="nowhere"), teacher=pair[1], epochs=1)
    refused(pair[0], stage, make_loader(), r"No output at 'nowhere'")


def test_a_hint_without_a_head_where_shapes_differ(pair):
    stage = Stage(Loss(squared_error, student="0", teacher="0"), teacher=pair[1], epochs=1)
    refused(pair[0], stage, make_loader(), r"student has 8 .*teacher 6.*Projector")


@pytest.mark.parametrize(("given", "near"), [({"trains": "studnet"}, "student"), ({"teacher": "studen"}, "student")])
def test_unknown_models(pair, given, near):
    stage = Stage(KL, **{"teacher": pair[1], "epochs": 1, **given})
    refused(pair[0], stage, make_loader(), rf"Unknown model.*Did you mean '{near}'", UnknownNameError)


def test_an_unknown_model_to_ship():
    with pytest.raises(UnknownNameError, match=r"model to ship 'per'.*Did you mean 'peer'"):
        distill({"student": network(), "peer": network()}, Recipe(Stage(CE, epochs=1), ship="per"), make_loader())


def test_no_model_at_all():
    with pytest.raises(LimbeckError, match=r"at least one model"):
        distill({}, Stage(CE, epochs=1), make_loader())


@pytest.mark.usefixtures("unchecked")
def test_a_model_that_is_none():
    with pytest.raises(LimbeckError, match=r"'student' is a int, not a torch\.nn\.Module"):
        distill({"student": 3}, Stage(CE, epochs=1), make_loader())


def test_a_later_stage_s_mistake_is_reported_before_the_first_is_paid_for(pair):
    """What is known when the run begins is checked when it begins."""
    good = Stage(CE, epochs=1)
    for bad, sentence in [
        (Stage(Loss(squared_error, student="9"), teacher=pair[1], epochs=1), r"No output at '9'"),
        (Stage(KL, teacher=Ensemble("per"), epochs=1), r"Unknown model 'per'"),
        (Stage(CE, trains="studnet", epochs=1), r"Unknown model 'studnet'"),
        (Stage(CE), r"How long should the stage last"),
    ]:
        refused(pair[0], good >> bad, make_loader(), sentence)


def test_a_function_that_returns_no_stage():
    run = distill(network(), Stage(CE, epochs=1) >> (lambda models: 3), make_loader())
    with pytest.raises(LimbeckError, match=r"<lambda>\(models\) .*must return a stage.* 3"):
        run.finish()


def test_a_function_sees_the_finished_models():
    seen = []
    student = network()
    recipe = Stage(CE, epochs=1) >> (lambda models: seen.append(weights(models["student"])) or Stage(CE, epochs=1))
    kept = [weights(student) for report in distill(student, recipe, make_loader())]
    assert len(kept) == 2
    assert torch.equal(seen[0], kept[0])


def test_makers_wait_for_their_stage():
    order = []

    def second(models: Any) -> nn.Module:
        order.append(weights(models["student"]))
        return copy.deepcopy(models["student"])

    student = network()
    recipe = Recipe(Stage(CE, epochs=1), Stage(CE, epochs=1, trains="second"), makes={"second": second}, ship="second")
    kept = [weights(student) for report in distill(student, recipe, make_loader())]
    assert len(order) == 1
    assert torch.equal(order[0], kept[0])


def test_bytes_that_a_network_refuses_name_the_reads_that_they_need():
    pixels, labels = torch.zeros(8, 3, 4, 4, dtype=torch.uint8), torch.arange(8) % 2
    make = lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 2))  # noqa: E731
    for teacher in (None, make()):
        objective = CE if teacher is None else KL
        stage = Stage(objective, teacher=teacher, epochs=1)
        with pytest.raises(LimbeckError, match=r"data\.preprocess.*lb\.NormalizeImages"):
            distill(make(), stage, ArrayDataset(pixels, labels)).finish()
        with (
            DistillationLoss(make(), objective, teacher) as distillation,
            pytest.raises(LimbeckError, match=r"data\.preprocess.*lb\.NormalizeImages"),
        ):
            distillation((pixels, labels))
