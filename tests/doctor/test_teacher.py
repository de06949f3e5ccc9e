"""Checks of data, teacher and cached outputs find what is wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Outputs
from limbeck.data import ArrayDataset, ShuffledLoader
from limbeck.doctor import job_checks
from limbeck.doctor.context import draw_examples
from limbeck.functional import squared_error
from limbeck.losses import Loss
from limbeck.teachers import CachedTeacher, FunctionSession, ModelTeacher, Teacher, fill_cache
from patients import Sure, findings, lesson, patient, points


def found(name, **changes):
    return findings(**changes)[name]


def test_a_sound_job_is_sound():
    for one in findings().values():
        assert one.state == "ok", one


@pytest.mark.parametrize(
    ("state", "changed", "words"),
    [
        ("wrong", {"classes": 3}, "Label 3 is not a class"),
        ("look", {"classes": 5}, "1 of 5 classes have no training examples (4)"),
        ("wrong", {"class_names": ("a", "b", "b", "c")}, "Two classes have the name 'b'"),
    ],
)
def test_labels_classes_and_names_agree(state, changed, words):
    one = job_checks.check_labels(patient(**changed))
    assert one.state == state
    assert words in one.sentence


@pytest.mark.parametrize(
    ("state", "scale", "words"),
    [("look", 200.0, "data.mean"), ("look", 1e-5, "constant"), ("wrong", float("inf"), "infinite")],
)
def test_inputs_are_of_a_usual_size(state, scale, words):
    one = job_checks.check_inputs(patient(preprocess=lambda batch: scale * batch.inputs))
    assert one.state == state
    assert words in one.sentence


def test_whole_numbers_are_no_matter_of_size():
    assert (
        job_checks.check_inputs(patient(data=ArrayDataset(torch.arange(12).view(6, 2), torch.arange(6) % 4))).state
        == "ok"
    )


def test_a_teacher_that_counts_its_classes_otherwise_is_told_from_a_poor_one():
    good = job_checks.check_accuracy(patient())
    assert good.state == "ok"
    assert good.value > 0.9
    moved = job_checks.check_accuracy(patient(network=Sure((1, 2, 3, 0)), class_names=("ant", "bee", "cow", "dog")))
    assert moved.state == "wrong"
    assert "label order" in moved.sentence
    assert "its output 0 is class 1, called 'bee'" in moved.sentence
    torch.manual_seed(5)
    poor = nn.Linear(6, 4)
    nn.init.zeros_(poor.weight)
    guesses = job_checks.check_accuracy(patient(network=poor))
    assert guesses.state == "wrong"
    assert "label order" not in guesses.sentence
    assert job_checks.check_accuracy(patient(trained=False)).state == "look"


@pytest.mark.parametrize(
    ("classes", "answer"),
    [(1000, lambda ids: ids * 7919 % 997), (4, lambda ids: 0 * ids + 3)],
    ids=["luck", "one class"],
)
def test_what_luck_or_the_largest_class_gives_is_no_other_label_order(classes, answer):
    """Of many classes a naming fits some answers by luck; one class alone, by the commonest name, is no order."""
    draw = torch.Generator().manual_seed(0)
    truth = torch.randint(classes, (2000,), generator=draw)
    if classes == 4:
        truth = torch.where(torch.rand(2000, generator=draw) < 0.9, 0, truth)

    class Poor(nn.Module):
        def forward(self, inputs):
            return nn.functional.one_hot(answer(inputs[:, 0].long()), classes).float()

    told = job_checks.check_accuracy(
        patient(network=Poor(), classes=classes, development=ArrayDataset(torch.arange(2000.0)[:, None], truth))
    )
    assert told.state == "wrong"
    assert "another order" not in told.sentence


def test_a_row_of_nan_is_no_answer_of_a_teacher():
    class Broken(nn.Module):
        def forward(self, inputs):
            return torch.full((len(inputs), 4), torch.nan)

    told = job_checks.check_accuracy(patient(network=Broken()))
    assert (told.state, told.value) == ("wrong", 0.0)
    is_deterministic = job_checks.check_deterministic(patient(network=Broken()))
    assert is_deterministic.state == "wrong"
    assert "NaN for 32 of 32 examples" in is_deterministic.sentence


class Drawing(Sure):
    def forward(self, inputs):
        return super().forward(inputs) + torch.randn(len(inputs), 4)


class Mixing(Sure):
    def forward(self, inputs):
        return super().forward(inputs - inputs.mean(0))


@pytest.mark.parametrize("kind", [Drawing, Mixing])
def test_a_teacher_whose_answer_depends_on_its_neighbors_or_on_luck(kind):
    assert job_checks.check_deterministic(patient()).state == "ok"
    one = job_checks.check_deterministic(patient(network=kind()))
    assert one.state == "wrong"
    assert "in two batches" in one.sentence


class Counting(Sure):
    def __init__(self):
        super().__init__()
        self.register_buffer("asked", torch.zeros(1), persistent=False)

    def forward(self, inputs):
        self.asked += 1
        return super().forward(inputs)


class Leaking(Teacher):
    """A teacher that somebody wrote without a thought of gradients."""

    fingerprint = "leaking"

    def __init__(self, model):
        self.model = model

    def open(self, context):
        return FunctionSession(lambda batch: Outputs(logits=self.model(context.preprocess(batch))))


def test_what_moves_in_the_teacher_is_named():
    one = found("teacher unchanged", network=Counting())
    assert one.state == "wrong"
    assert "buffer teacher.asked" in one.sentence


def test_a_gradient_in_the_teacher_is_found():
    network = Sure()
    leaking = Leaking(network)
    one = found("teacher unchanged", network=network, teacher=leaking, recipe=lesson(Loss(squared_error), leaking))
    assert one.state == "wrong"
    assert "got a gradient" in one.sentence


def test_layers_that_teacher_and_student_share_are_found():
    network = Sure()
    one = found("teacher unchanged", network=network, trainer=lambda: nn.Sequential(nn.Identity(), network.inner))
    assert one.state == "wrong"
    assert "both teacher and student" in one.sentence


class Scaled(Sure):
    """What its answers depend on is in no weight."""

    scale = 1.0

    def forward(self, inputs):
        return self.scale * super().forward(inputs)


def stored(tmp_path, network, *, size=16):
    cached = CachedTeacher(ModelTeacher(network), tmp_path / "answers", encoding="float32")
    return (cached,), ShuffledLoader(points(), batch_size=size)


def test_stored_answers_are_the_teachers_own(tmp_path):
    assert job_checks.check_stored_outputs(patient()) is None, "a job without a store"
    network = Scaled()
    kept = stored(tmp_path, network)
    preprocess = patient().preprocess
    one = job_checks.check_stored_outputs(patient(network=network, stored=kept))
    assert (one.state, one.value) == ("ok", None), "none is there yet"
    for _, _done in zip(range(3), fill_cache(kept[0][0], kept[1], preprocess=preprocess), strict=False):
        pass
    lacking = job_checks.check_stored_outputs(patient(network=network, stored=kept, preprocess=preprocess))
    assert lacking.state == "look"
    assert lacking.value == 120 - 48
    for _ in fill_cache(kept[0][0], kept[1], preprocess=preprocess):
        pass
    whole = job_checks.check_stored_outputs(patient(network=network, stored=kept, preprocess=preprocess))
    assert (whole.state, whole.value) == ("ok", 1.0)
    assert (
        job_checks.check_stored_outputs(
            patient(network=network, stored=kept, preprocess=preprocess, trained=False)
        ).state
        == "look"
    )
    network.scale = 1.5
    stale = job_checks.check_stored_outputs(patient(network=network, stored=kept, preprocess=preprocess))
    assert stale.state == "wrong"
    assert "build it again" in stale.sentence
    network.scale = 1.0
    with torch.no_grad():
        network.inner.weight.add_(0.1)
    other = job_checks.check_stored_outputs(patient(network=network, stored=kept, preprocess=preprocess))
    assert other.state == "wrong"
    assert "teacher" in other.sentence


def test_the_caches_of_all_teachers_are_compared(tmp_path):
    first, second = Scaled(), Scaled()
    (one,), loader = stored(tmp_path / "first", first)
    (other,), _ = stored(tmp_path / "second", second)
    preprocess = patient().preprocess
    for cached in (one, other):
        for _ in fill_cache(cached, loader, preprocess=preprocess):
            pass
    both = patient(network=first, stored=((one, other), loader), preprocess=preprocess)
    assert job_checks.check_stored_outputs(both).state == "ok"
    second.scale = 1.5
    stale = job_checks.check_stored_outputs(both)
    assert stale.state == "wrong"
    assert str(other.where) in stale.sentence
    assert len(stale.details) == 1
    assert str(one.where) in stale.details[0]


def test_what_cannot_be_done_in_time_is_said_to_be_left_out():
    late = findings(seconds=-1.0)
    assert late["inputs"].state == "look"
    assert "distilled" in late["whole job"].sentence
    assert "terms" not in late
    assert not any(one.state == "wrong" for one in late.values())


def test_what_is_looked_at_is_drawn_from_all_examples_and_the_same_every_time():
    labels = torch.arange(1000) // 100  # as they lie: one class after the other
    data = ArrayDataset(labels.float()[:, None], labels)
    found = draw_examples(data, 64)
    assert len(found.labels.unique()) == 10
    assert found.id.equal(draw_examples(data, 64).id)
    assert len(found.id.unique()) == 64
    assert sorted(draw_examples(data, 5000).id.tolist()) == list(range(1000))
