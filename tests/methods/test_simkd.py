"""SimKD: the teacher's classifier is shipped unchanged, and equal features are equal logits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.compare import run_job
from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.export import open_student
from limbeck.functional.feature_maps import mean_squared_distance
from limbeck.job import make_job
from limbeck.methods import make
from limbeck.models import build
from limbeck.models.reused_classifier import ReusedClassifier, make_projector
from limbeck.testing.law import same_weights, weights
from limbeck.testing.trials import get_trial
from methods.planted import Planted
from small_jobs import blobs, small_job

MAPS = {"at": "layer3", "student_at": "layer3"}


@pytest.mark.parametrize("layer", ["layer3", "logits:in"])
def test_equal_features_are_the_teacher_s_logits(layer):
    student, teacher, data = get_trial("resnet")[1]()
    run = distill(student, make("simkd", teacher=teacher, at=layer, student_at=layer), data, epochs=1).finish()
    shipped = run.student.eval()
    assert same_weights(weights(shipped.classifier), weights(teacher.classifier))
    assert not any(parameter.requires_grad for parameter in shipped.classifier.parameters())
    maps = teacher.layer3(teacher.layer2(teacher.layer1(teacher.stem(data.inputs))))
    features = maps if layer == "layer3" else teacher.features(maps)
    shipped.read_features, shipped.projector = lambda x: features, nn.Identity()
    torch.testing.assert_close(shipped(data.inputs), teacher(data.inputs))
    assert mean_squared_distance(features, features).max() == 0


def test_the_shipped_student_has_a_projector_and_no_layer_of_its_own_for_logits():
    student, teacher, data = get_trial("resnet")[1]()
    run = distill(student, make("simkd", teacher=teacher, **MAPS, reduction=4), data, epochs=1).finish()
    widths = student.classifier.in_features, teacher.classifier.in_features
    projector = sum(p.numel() for p in make_projector(*widths, 4, maps=True).parameters())
    body = sum(p.numel() for p in student.parameters()) - sum(p.numel() for p in student.classifier.parameters())
    own = sum(p.numel() for p in teacher.classifier.parameters())
    assert isinstance(run.student, ReusedClassifier)
    assert sum(p.numel() for p in run.student.parameters()) == body + projector + own


def test_labels_are_not_used():
    student, teacher, data = get_trial("resnet")[1]()
    runs = [
        distill(student, make("simkd", teacher=teacher, **MAPS), ArrayDataset(data.inputs, labels), epochs=1, seed=0)
        for labels in (data.labels, None)
    ]
    first, second = (weights(run.finish().student) for run in runs)
    assert same_weights(first, second)


def test_a_larger_map_of_the_student_is_averaged_to_the_teacher_s():
    body = nn.Sequential(nn.Conv2d(1, 4, 1))
    model = ReusedClassifier(body, "0", (2, 2), make_projector(4, 6, 2, maps=True), nn.Linear(6, 3))
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert not model.body[0]._forward_hooks


def test_a_teacher_whose_logits_are_no_mean_of_features_is_refused():
    student, teacher, data = get_trial("cnn")[1]()  # its classifier reads each pixel
    with pytest.raises(LimbeckError, match="before the global average"):
        distill(student, make("simkd", teacher=teacher, at="layer2", student_at="layer2"), data, epochs=1).finish()
    strange = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Softplus())
    with pytest.raises(LimbeckError):
        distill(student, make("simkd", teacher=strange), data, epochs=1).finish()


def test_maps_are_not_compared_with_rows():
    student, teacher, data = get_trial("resnet")[1]()
    with pytest.raises(LimbeckError, match="maps with maps"):
        distill(student, make("simkd", teacher=teacher, at="layer3"), data, epochs=1).finish()


def test_a_reduction_below_1_is_refused():
    with pytest.raises(ArgumentError):
        make("simkd", teacher="t", reduction=0)


@pytest.mark.parametrize("place", ["layer2:in", "layer2:0", "logits"])
def test_a_layer_that_is_no_output_of_a_module_is_refused(place):
    with pytest.raises(ArgumentError):
        make("simkd", teacher=nn.Linear(4, 3), at="logits:in", student_at=place)


def test_the_student_s_own_last_layer_is_refused():
    planted = Planted(train=40)
    with pytest.raises(LimbeckError, match="logits:in"):
        planted.learn(make("simkd", teacher=planted.truth, student_at="classifier"), epochs=1)


def test_the_reused_classifier_is_better_than_the_labels():
    planted = Planted()
    alone = planted.accuracy(planted.alone(epochs=30))
    wide = build("mlp", inputs=10, classes=4, hidden=[32, 32], seed=3)
    run = planted.learn(make("simkd", teacher=planted.truth), student=wide, epochs=30)
    assert planted.accuracy(run.student) > alone + 0.05


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore::limbeck.errors.LimbeckWarning")
def test_a_job_counts_all_that_is_shipped_and_opens_it_again(tmp_path):
    job = small_job(blobs(tmp_path / "blobs.npz"), method={"name": "simkd"}, seeds=1, out=str(tmp_path / "run"))
    result = run_job(make_job(job))
    arms = result["arms"]
    assert arms["distilled"]["parameters"] > arms["student alone"]["parameters"]
    student = open_student(tmp_path / "run")
    assert isinstance(student, ReusedClassifier)
    assert sum(p.numel() for p in student.parameters()) == arms["distilled"]["parameters"]
