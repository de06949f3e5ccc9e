"""Does a rehearsal find what is wrong, touch nothing, and cost one step a stage?"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.compare.material import gather, student_of
from limbeck.compare.rehearsal import check_student, rehearse, shortened
from limbeck.compare.teaching import has_weights, open_teacher
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy
from limbeck.job import TeacherModel, make_job
from limbeck.models import build, save
from limbeck.objective import Loss
from limbeck.recipe import Recipe, Stage
from small_jobs import blobs, small_job


@pytest.fixture
def data(tmp_path):
    return blobs(tmp_path / "blobs.npz")


def rehearsed(job):
    material = gather(job)
    teacher, models = open_teacher(job, material)
    before = {name: [p.clone() for p in model.parameters()] for name, model in models.items()}
    state = torch.random.get_rng_state()
    rehearse(job, material, teacher)
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
    material = gather(job)
    first = student_of(job, material, seed=3)
    torch.manual_seed(9)
    rehearsed(job)
    second = student_of(job, material, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    other = student_of(job, material, seed=4)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def steps_of(recipe, **budget):
    run = distill(nn.Linear(3, 2), recipe, (torch.randn(20, 3), torch.arange(20) % 2), batch_size=5, **budget)
    return [report.step for report in run]


def test_every_stage_takes_one_step():
    loss = Loss(cross_entropy)
    recipe = Stage(loss, epochs=4) >> Stage(loss, steps=9) >> (lambda models: Stage(loss, epochs=2))
    assert steps_of(shortened(recipe), log_every=1) == [1, 1, 1]
    assert steps_of(recipe, log_every=100) == [16, 9, 8]


def test_groups_and_branches_take_one_step_too():
    def both(join):
        first = Stage(Loss(cross_entropy), epochs=3)
        second = Stage(Loss(cross_entropy), trains="peer", epochs=3)
        return Recipe(join(first, second), makes={"peer": lambda models: nn.Linear(3, 2)})

    together, apart = both(lambda a, b: a & b), both(lambda a, b: a | b)
    assert steps_of(shortened(together), log_every=1) == [1]
    (branches,) = shortened(apart).parts
    assert [stage.steps for stage in branches.branches[0].stages()] == [1]
    assert shortened(together).ship == together.ship
    assert shortened(together).makes == together.makes


@pytest.mark.parametrize("first", ["specialists", "born_again"])
def test_the_shuffled_control_of_a_method_that_needs_the_teachers_network_runs(data, first):
    asked = {"methods": [first, "hinton"], "arms": ["teacher", "shuffled teacher", "distilled"]}
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
    with pytest.raises(LimbeckError, match=f"The {who} mlp refuses inputs of shape 1x7x7, those of the test data"):
        rehearsed(make_job(small_job(tmp_path / "both.npz", **asked)))


def test_a_student_is_shown_two_examples(data, tmp_path):
    (tmp_path / "my.py").write_text(
        "from torch import nn\n\n\nclass Odd(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.inner = nn.Linear(36, 5)\n\n    def forward(self, x):\n"
        "        return {'classes': self.inner(x.flatten(1))}\n\n\ndef build():\n    return Odd()\n"
    )
    job = make_job(small_job(data, student=f"{tmp_path}/my.py:build"))
    with pytest.raises(LimbeckError, match="logits"):
        check_student(job, gather(job))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"model": "mlp"}, False),
        ({"model": "my.py:build"}, False),
        ({"model": "my.py:build@w.safetensors"}, True),
        ({"model": "hf:some/name"}, True),
        ({"model": "hf:some/name", "pretrained": False}, False),
        ({"model": "timm:resnet18"}, False),
        ({"model": "timm:resnet18", "pretrained": True}, True),
        ({"model": "no/such/folder"}, False),
    ],
)
def test_who_comes_with_weights(asked, expected):
    assert has_weights(TeacherModel(**asked)) is expected


def test_a_saved_folder_comes_with_weights(tmp_path):
    save(build("mlp", inputs=2, classes=2, hidden=[], seed=0), tmp_path / "a@b")
    assert has_weights(TeacherModel(model=str(tmp_path / "a@b")))
