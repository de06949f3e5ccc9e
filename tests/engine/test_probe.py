"""Is everything that can be known wrong said in one sentence before the first step, with nothing left behind?"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from engine.stories import arrays, everything, hint, hooks, network, source, weights
from limbeck.engine import distill
from limbeck.errors import LimbeckError, MissingSignalError, UnknownNameError
from limbeck.functional import cross_entropy, kernel, kl_divergence, squared_error
from limbeck.models import fingerprint
from limbeck.objective import Loss
from limbeck.recipe import Recipe, Stage
from limbeck.signal import Batch
from limbeck.sources import Arrays, Loader
from limbeck.teachers import Ensemble, Live, MovingAverage, Scikit

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
    sentence = r"The teacher of 'student' \(Live\) cannot answer.*\(8, 5\).*mat1 and mat2.*reads="
    refused(pair[0], Stage(KL, teacher=nn.Linear(9, 3), epochs=1), source(), sentence)


def test_different_class_counts(pair):
    sentence = r"student has 3 .*teacher 4"
    refused(pair[0], Stage(KL, teacher=nn.Linear(5, 4), epochs=1), source(), sentence)


@pytest.mark.parametrize(("student", "teacher"), [("9", "0"), ("0", "layer1"), ("0:7", "0")])
def test_wrong_addresses(pair, student, teacher):
    stage = Stage(Loss(squared_error, student=student, teacher=teacher), teacher=pair[1], epochs=1)
    refused(pair[0], stage, source(), r"No signal at|one tensor, not several", MissingSignalError)


def test_labels_out_of_range_anywhere_in_the_data(pair):
    labels = torch.zeros(30, dtype=torch.int64)
    labels[29] = 3
    data = Arrays(torch.randn(30, 5), labels)
    sentence = r"Label 3 is no class of the model 'student', which has 0 to 2"
    refused(pair[0], Stage(CE + 0.1 * hint(), teacher=pair[1], epochs=1), data, sentence, batch_size=4)


def test_labels_out_of_range_in_a_loader_s_batch(pair):
    refused(pair[0], Stage(CE, epochs=1), [(torch.randn(4, 5), torch.tensor([0, 1, 2, 3]))], r"Label 3 is no class")


def test_labels_that_are_needed_and_missing(pair):
    refused(pair[0], Stage(CE, epochs=1), torch.randn(8, 5), r"cross_entropy reads labels, and this source gives none")


def test_pictures_of_labels_are_checked_against_classes_not_width():
    student = nn.Conv2d(3, 21, 1)
    data = (torch.randn(4, 3, 8, 8), torch.arange(4 * 64).view(4, 8, 8) % 21)
    assert distill(student, Stage(Loss(cross_entropy, classes=1), epochs=1), data).finish().finished
    data[1][0, 0, 0] = 21
    refused(student, Stage(Loss(cross_entropy, classes=1), epochs=1), data, r"Label 21 .* 0 to 20")


def test_a_term_that_reaches_no_parameter(pair):
    student = network()
    student.requires_grad_(False)
    refused(student, Stage(CE, epochs=1), source(), r"'cross_entropy' reaches no parameter of 'student'")

    @kernel(per="example")
    def aside(teacher):
        return teacher.square().mean(-1)

    refused(pair[0], Stage(CE + Loss(aside), teacher=pair[1], epochs=1), source(), r"'aside' reaches no parameter")


def test_a_term_of_weight_zero_is_checked_too(pair):
    stage = Stage(CE + 0.0 * Loss(squared_error, student="0", teacher="nowhere"), teacher=pair[1], epochs=1)
    refused(pair[0], stage, source(), r"No signal at 'nowhere'")


def test_a_hint_without_a_head_where_shapes_differ(pair):
    stage = Stage(Loss(squared_error, student="0", teacher="0"), teacher=pair[1], epochs=1)
    refused(pair[0], stage, source(), r"student has 8 .*teacher 6.*Projector")


@pytest.mark.parametrize(("given", "near"), [({"trains": "studnet"}, "student"), ({"teacher": "studen"}, "student")])
def test_unknown_models(pair, given, near):
    stage = Stage(KL, **{"teacher": pair[1], "epochs": 1, **given})
    refused(pair[0], stage, source(), rf"Unknown model.*Did you mean '{near}'", UnknownNameError)


def test_an_unknown_model_to_ship():
    with pytest.raises(UnknownNameError, match=r"model to ship 'per'.*Did you mean 'peer'"):
        distill({"student": network(), "peer": network()}, Recipe(Stage(CE, epochs=1), ship="per"), source())


def test_no_model_at_all():
    with pytest.raises(LimbeckError, match=r"at least one model"):
        distill({}, Stage(CE, epochs=1), source())


@pytest.mark.usefixtures("unchecked")
def test_a_model_that_is_none():
    with pytest.raises(LimbeckError, match=r"'student' is a int, not a torch\.nn\.Module"):
        distill({"student": 3}, Stage(CE, epochs=1), source())


def test_a_later_stage_s_mistake_is_said_before_the_first_is_paid_for(pair):
    """What is known when the run begins is checked when it begins."""
    good = Stage(CE, epochs=1)
    for bad, sentence in [
        (Stage(Loss(squared_error, student="9"), teacher=pair[1], epochs=1), r"No signal at '9'"),
        (Stage(KL, teacher=Ensemble("per"), epochs=1), r"Unknown model 'per'"),
        (Stage(CE, trains="studnet", epochs=1), r"Unknown model 'studnet'"),
        (Stage(CE), r"How long should the stage last"),
    ]:
        refused(pair[0], good >> bad, source(), sentence)


def test_a_function_that_returns_no_stage():
    run = distill(network(), Stage(CE, epochs=1) >> (lambda models: 3), source())
    with pytest.raises(LimbeckError, match=r"<lambda>\(models\) stands in a recipe and must return a stage; it gave 3"):
        run.finish()


def test_a_function_sees_the_finished_models():
    seen = []
    student = network()
    recipe = Stage(CE, epochs=1) >> (lambda models: seen.append(weights(models["student"])) or Stage(CE, epochs=1))
    kept = [weights(student) for report in distill(student, recipe, source())]
    assert len(kept) == 2
    assert torch.equal(seen[0], kept[0])


def test_makers_wait_for_their_stage():
    order = []

    def second(models: Any) -> nn.Module:
        order.append(weights(models["student"]))
        return copy.deepcopy(models["student"])

    student = network()
    recipe = Recipe(Stage(CE, epochs=1), Stage(CE, epochs=1, trains="second"), makes={"second": second}, ship="second")
    kept = [weights(student) for report in distill(student, recipe, source())]
    assert len(order) == 1
    assert torch.equal(order[0], kept[0])


# Looking leaves no trace.


class Spy(nn.Module):
    """Notes, before each forward pass, what it is given and the state that it is in."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network(norm=True, dropout=0.5)
        self.seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append((x.clone(), weights(self.inner[1]), torch.get_rng_state()))
        return self.inner(x)


@pytest.mark.parametrize("kind", ["arrays", "loader"])
def test_the_first_step_finds_everything_as_the_probe_found_it(kind):
    """The same batch, the same running statistics; and random numbers as if nobody had looked."""
    student = Spy()
    inputs, labels = torch.randn(30, 5), torch.arange(30) % 3
    data = source() if kind == "arrays" else DataLoader(TensorDataset(inputs, labels), batch_size=8, shuffle=True)
    distill(student, Stage(CE, steps=2), data).finish()
    probe, first, second = student.seen
    assert torch.equal(probe[0], first[0])
    assert torch.equal(probe[1], first[1])
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])
    untouched = Spy()
    distill(untouched, Stage(CE, steps=1), data if kind == "arrays" else source(), seed=0).finish()
    assert torch.equal(untouched.seen[1][2], first[2]) or kind == "loader"


def test_a_moving_teacher_is_not_moved_by_the_probe():
    teacher = MovingAverage(decay=0.9, mode="train")
    student = network(norm=True)
    run = distill(student, Stage(CE + KL, teacher=teacher, steps=1), source())
    run.finish()
    assert int(teacher.model[1].num_batches_tracked) == 1
    assert teacher.state_dict()["steps"] == 1


def test_a_teacher_that_nobody_reads_is_not_asked():
    calls = []
    teacher = nn.Linear(5, 3)
    teacher.register_forward_hook(lambda *_: calls.append(1))
    distill(network(), Stage(CE, teacher=teacher, epochs=1), source()).finish()
    assert calls == []


def test_reads_are_asked_once_for_a_batch_that_both_sides_read():
    calls = []

    def reads(batch: Batch) -> torch.Tensor:
        calls.append(1)
        return batch.inputs * 2

    distill(network(), Stage(KL, teacher=network(seed=3), steps=3), source(), reads=reads).finish()
    assert len(calls) == 4


def test_each_side_reads_its_own():
    """A teacher with privileged columns, a student with others: the stage's, the run's and the teacher's own."""
    draw = torch.Generator().manual_seed(0)
    data = Arrays(
        torch.randn(30, 9, generator=draw),
        torch.arange(30) % 3,
        extra={"small": torch.randn(30, 5, generator=draw), "secret": torch.randn(30, 2, generator=draw)},
    )
    teacher = Live(nn.Linear(2, 3), reads=lambda batch: batch.extra["secret"])
    stage = Stage(CE + KL, teacher=teacher, epochs=1, reads=lambda batch: batch.extra["small"])
    assert distill(network(), stage, data).finish().finished
    assert distill(network(), Stage(CE, epochs=1), data, reads=lambda batch: batch.extra["small"]).finish().finished


def test_an_estimator_teaches_a_network():
    from sklearn.ensemble import RandomForestClassifier

    data = arrays(30)
    rows = data.take(torch.arange(30))
    forest = RandomForestClassifier(n_estimators=3, random_state=0).fit(rows.inputs.numpy(), rows.labels.numpy())
    run = distill(network(), Stage(KL, teacher=Scikit(forest), epochs=20), data, batch_size=8).finish()
    assert run.history[-1].loss < run.history[0].loss


# Models and data of every kind.


def test_tuples_and_mappings_reach_the_models():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(5, 3)

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.map(left + right)}

    left, right, labels = torch.randn(12, 5), torch.randn(12, 5), torch.arange(12) % 3
    for inputs in ((left, right), {"left": left, "right": right}):
        run = distill(Two(), Stage(CE + KL, teacher=Two(), epochs=1), Arrays(inputs, labels), batch_size=5)
        assert run.finish().finished


def test_a_lazy_student_is_shaped_by_the_probe():
    student = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(3))
    assert distill(student, Stage(CE, epochs=1), source()).finish().finished
    assert student[0].weight.shape == (4, 5)


def test_a_head_s_plain_module_learns():
    head = nn.Linear(8, 6)
    before = weights(head)
    stage = Stage(Loss(squared_error, student="0", teacher="0", head=head), teacher=network(hidden=6, seed=7), epochs=1)
    distill(network(), stage, source()).finish()
    assert not torch.equal(weights(head), before)


def test_nan_becomes_one_sentence_that_names_the_term():
    @kernel(per="example")
    def broken(student):
        return student.sum(-1) * float(np.nan)

    run = distill(network(), Stage(CE + Loss(broken), epochs=1), source(), log_every=1)
    with pytest.raises(LimbeckError, match=r"The loss became nan in stage 'student' by step 1 \(broken\)"):
        run.finish()


def test_an_empty_epoch_does_not_hang():
    class Empty:
        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Iterator[Any]:
            return iter(())

    with pytest.raises(LimbeckError, match=r"says that it has 3 batches, and gives none"):
        distill(network(), Stage(CE, epochs=1), Loader(Empty())).finish()


def test_everything_at_once_learns():
    run = distill(network(), everything(epochs=30), source(30), log_every=4).finish()
    assert run.history[-1].loss < run.history[0].loss
