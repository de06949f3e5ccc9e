"""A dry run finds errors, changes nothing, and takes two steps per stage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.compare.comparison_data import load_comparison_data
from limbeck.compare.dry_run import dry_run
from limbeck.compare.student_start import check_student, make_student
from limbeck.compare.teacher import open_teacher
from limbeck.engine import Run, TrainConfig, open_fabric
from limbeck.errors import LastBatchError, LimbeckError
from limbeck.functional import cross_entropy
from limbeck.job import TeacherSettings, make_job
from limbeck.losses import Loss
from limbeck.models import build, save
from limbeck.recipe import Recipe, Stage
from small_jobs import blobs, small_job


@pytest.fixture
def data(tmp_path):
    return blobs(tmp_path / "blobs.npz")


def rehearsed(job):
    material = load_comparison_data(job)
    teacher, models = open_teacher(job, material)
    before = {name: [p.clone() for p in model.parameters()] for name, model in models.items()}
    state = torch.random.get_rng_state()
    dry_run(job, material, teacher, models)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, model in models.items():
        assert all(torch.equal(a, b) for a, b in zip(before[name], model.parameters(), strict=True))
        assert all(p.requires_grad for p in model.parameters())
        assert all(module.training for module in model.modules())
        assert not any(module._forward_hooks for module in model.modules())
    return material


def test_it_leaves_the_teacher_as_it_was(data):
    rehearsed(make_job(small_job(data, teacher={"model": "cnn", "widths": [2], "members": 2, "dropout": 0.1})))


def test_students_of_one_seed_are_the_same_whoever_was_made_before(data):
    job = make_job(small_job(data))
    material = load_comparison_data(job)
    first = make_student(job, material, seed=3)
    torch.manual_seed(9)
    rehearsed(job)
    second = make_student(job, material, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    other = make_student(job, material, seed=4)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def sizes_in(recipe, makes=None, *, examples=20, **setting):
    """The sizes of the batches that the student of a rehearsal sees in its steps."""
    seen = []
    student = nn.Linear(3, 2)
    student.register_forward_hook(lambda module, given, out: seen.append(len(given[0])) if out.requires_grad else None)
    loader = lb.ShuffledLoader(lb.ArrayDataset(torch.randn(examples, 3), torch.arange(examples) % 2), batch_size=8)
    setting = TrainConfig(epochs=2, log_every=1, rehearsal=True, **setting)
    run = Run({"student": student}, Recipe(recipe, makes=makes), loader, setting=setting, fabric=open_fabric()).finish()
    return [report.step for report in run.history], seen


def test_every_stage_takes_a_first_step_and_one_on_a_last_batch():
    loss = Loss(cross_entropy)
    recipe = Stage(loss, epochs=4) >> Stage(loss, steps=9) >> (lambda models: Stage(loss, epochs=2))
    steps, seen = sizes_in(recipe)
    assert steps == [1, 2] * 3
    assert seen == [8, 8, 4] * 3, "a probe, a first step, a last batch"
    assert sizes_in(Stage(loss, steps=2))[0] == [1], "it would not come to the end of an epoch"
    assert sizes_in(Stage(loss, epochs=1), examples=16)[0] == [1], "all batches are full"
    assert sizes_in(Stage(loss, epochs=1), accumulate=3)[1] == [8, 8, 8, 4]


def test_groups_and_branches_are_rehearsed_too():
    def both(join):
        first = Stage(Loss(cross_entropy), epochs=3)
        second = Stage(Loss(cross_entropy), trains="peer", epochs=3)
        return join(first, second), {"peer": lambda models: nn.Linear(3, 2)}

    assert sizes_in(*both(lambda a, b: a & b))[0] == [1, 2]
    assert sizes_in(*both(lambda a, b: a | b), workers=1)[1][-3:] == [8, 8, 4]


OWN = """
import torch
from torch import nn


class Remembering(nn.Module):
    \"\"\"It keeps as many states as its first batch has examples.\"\"\"

    def __init__(self, classes):
        super().__init__()
        self.inner, self.state = nn.Linear(36, classes), None

    def forward(self, x):
        if not self.training:
            return self.inner(x.flatten(1))
        self.state = torch.zeros(len(x), 1) if self.state is None else self.state
        return self.inner(x.flatten(1)) + self.state


def remembering(classes):
    return Remembering(classes)


def normed(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, classes))
"""


@pytest.mark.parametrize(
    ("who", "kind", "changes"),
    [
        ("teacher", "remembering", {}),
        ("teacher", "normed", {}),
        ("student", "remembering", {}),
        ("student", "normed", {"methods": ["mutual"]}),
        ("student", "normed", {"train_examples": 129}),
    ],
)
def test_a_last_batch_that_a_model_cannot_learn_from_is_said_before_the_teacher_learns(
    data, tmp_path, who, kind, changes
):
    (tmp_path / "my.py").write_text(OWN)
    # 135 to learn from: 134 + 1, or 129 = 128 + 1.
    size = 64 if "train_examples" in changes else 67
    budget = {"epochs": 2, "lr": 0.01, "batch_size": size}
    arms = {"arms": ["teacher", "student alone", "distilled"]}
    asked = small_job(data, budget=budget, **{who: f"{tmp_path}/my.py:{kind}"}, **arms, **changes)
    with pytest.raises(LastBatchError, match=r"--set budget\.drop_last=true"):
        rehearsed(make_job(asked))
    rehearsed(make_job({**asked, "budget": {**budget, "drop_last": True}}))


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_a_job_in_a_true_precision_works_throughout(data, tmp_path, precision):
    changes = {"arms": ["teacher", "student alone", "distilled"], "seeds": 1, "out": str(tmp_path / "run")}
    result = lb.run_job(make_job(small_job(data, precision=precision, **changes)))
    student, material = lb.load(tmp_path / "run" / "student"), load_comparison_data(make_job(small_job(data)))
    shown = lb.metrics.predict(student, material.data.test, preprocess=material.data.preprocess)
    width = {"64-true": 8, "bf16-true": 2}[precision]
    assert next(student.parameters()).element_size() == width
    assert result["arms"]["distilled"]["megabytes"] == pytest.approx(
        width * sum(p.numel() for p in student.parameters()) / 1e6
    )
    assert lb.metrics.accuracy(shown).value == pytest.approx(result["arms"]["distilled"]["accuracy"]["values"][0])


@pytest.mark.parametrize("cache", [None, "answers"])
@pytest.mark.parametrize("first", ["specialists", "born_again"])
def test_the_shuffled_control_of_a_method_that_needs_the_teachers_network_runs(data, tmp_path, first, cache):
    asked = {"methods": [first, "hinton"], "arms": ["teacher", "shuffled teacher", "distilled"]}
    asked |= {} if cache is None else {"cache": {"folder": str(tmp_path / cache)}}
    rehearsed(make_job(small_job(data, teacher={"model": "mlp", "hidden": [8]}, **asked)))


def test_a_control_that_has_no_answers_to_shuffle_is_refused(data, tmp_path):
    (tmp_path / "my.py").write_text(
        "import limbeck as lb\nfrom limbeck.functional import cross_entropy\n\n\n"
        "def deaf(teacher):\n    return lb.Recipe(lb.Stage(lb.Loss(cross_entropy)))\n"
    )
    asked = {"method": f"{tmp_path}/my.py:deaf", "arms": ["teacher", "shuffled teacher", "distilled"]}
    with pytest.raises(LimbeckError, match=r"--set arms=\[teacher,distilled\]"):
        rehearsed(make_job(small_job(data, **asked)))


def test_what_an_arm_gets_wrong_is_found_before_the_teacher_learns(data, monkeypatch):
    """The same mistakes as in tests/cli, and no step of the teacher was taken."""
    from limbeck.compare import experiment

    def never(*_, **__):
        pytest.fail("the teacher was paid for")

    monkeypatch.setattr(experiment, "train_teacher", never)
    for wrong in (
        {"method": {"name": "fitnets", "hint": "layer7", "guided": "layer1"}},
        {"method": {"name": "hinton", "temperature": -1.0}},
        {"student": {"model": "cnn", "widths": [2], "dropout": 1.5}},
        {"method": "privileged"},
    ):
        with pytest.raises(LimbeckError):
            lb.run_job(make_job(small_job(data, **wrong)))


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_test_data_of_another_shape_are_refused_before_anyone_learns(tmp_path, who):
    small, large = (blobs(tmp_path / f"{size}.npz", size=size) for size in (6, 7))
    with np.load(small) as one, np.load(large) as other:
        parts = {name: one[name] for name in one.files} | {"x_test": other["x_test"]}
    np.savez(tmp_path / "both.npz", **parts)
    any_size = {"model": "resnet8"}
    asked = {"teacher": any_size, "student": any_size, who: {"model": "mlp", "hidden": [4]}}
    with pytest.raises(LimbeckError, match=f"The {who} mlp fails on inputs of shape 1x7x7, those of the test data"):
        rehearsed(make_job(small_job(tmp_path / "both.npz", **asked)))


def test_a_student_is_shown_two_examples(data, tmp_path):
    (tmp_path / "my.py").write_text(
        "from torch import nn\n\n\nclass Odd(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.inner = nn.Linear(36, 5)\n\n    def forward(self, x):\n"
        "        return {'classes': self.inner(x.flatten(1))}\n\n\ndef build():\n    return Odd()\n"
    )
    job = make_job(small_job(data, student=f"{tmp_path}/my.py:build"))
    with pytest.raises(LimbeckError, match="logits"):
        check_student(job, load_comparison_data(job))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"model": "mlp"}, False),
        ({"model": "my.py:build"}, False),
        ({"model": "my.py:build@w.safetensors"}, True),
        ({"model": "hf:some/name"}, True),
        ({"model": "hf:some/name", "pretrained": False}, False),
        ({"model": "timm:resnet18"}, True),
        ({"model": "timm:resnet18", "pretrained": False}, False),
        ({"model": "timm:resnet18@w.safetensors"}, True),
        ({"model": "hf:bert@folder", "num_hidden_layers": 2}, True),
        ({"model": "no/such/folder"}, False),
    ],
)
def test_who_comes_with_weights(asked, expected):
    assert TeacherSettings(**asked).has_weights is expected


def test_a_saved_folder_comes_with_weights(tmp_path):
    save(build("mlp", inputs=2, classes=2, hidden=[], seed=0), tmp_path / "a@b")
    assert TeacherSettings(model=str(tmp_path / "a@b")).has_weights
