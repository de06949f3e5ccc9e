"""Methods learn other tasks with the losses of those, and refuse the rest with a reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.compare import run_job
from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import probability_squared_error
from limbeck.job import make_job
from limbeck.methods import check_task, make
from limbeck.methods.online.mean_teacher import label_probability_squared_error
from limbeck.models import build
from limbeck.tasks import LanguageModeling, MultiLabel, Regression
from limbeck.testing.law import same_weights, weights
from task_runs import job_of, write_data

TASKS = ("multi_label", "regression", "segmentation")
DRAW = torch.Generator().manual_seed(0)
X = torch.randn(48, 4, generator=DRAW)
Y = X @ torch.randn(4, 3, generator=DRAW)
IMAGES = torch.randn(48, 1, 4, 4, generator=DRAW)

DATA = {
    "multi_label": ArrayDataset(X, extra={"targets": (Y > 0).long()}),
    "regression": ArrayDataset(X, extra={"targets": Y}),
    "segmentation": ArrayDataset(IMAGES, (IMAGES[:, 0] > 0).long()),
}
FITTED = {
    "multi_label": MultiLabel(labels=3),
    "regression": Regression().fit(DATA["regression"]),
    "segmentation": "segmentation",
}


def network(task, seed, dropout=0.0):
    if task == "segmentation":
        return build("fcn", channels=1, classes=2, widths=[4], seed=seed)
    return build("mlp", inputs=4, classes=3, hidden=[8], dropout=dropout, seed=seed)


def learn(task, method, dropout=0.0, **arguments):
    torch.manual_seed(0)
    recipe = make(method, task=FITTED[task], **arguments)
    return distill(network(task, 0, dropout), recipe, DATA[task], batch_size=16, epochs=2, seed=1).finish()


def same(one, other):
    return same_weights(weights(one), weights(other))


@pytest.mark.parametrize("task", TASKS)
def test_at_weight_0_peers_learn_alone(task):
    alone = learn(task, "supervised").student
    assert same(learn(task, "mutual", weight=0.0).student, alone)
    assert same(learn(task, "mean_teacher", weight=0.0).models["student"], alone)


@pytest.mark.parametrize("task", TASKS)
def test_each_method_learns_from_its_teacher_or_peer(task):
    alone = learn(task, "supervised", dropout=0.2).student
    for method in ("mutual", "mean_teacher"):
        run = learn(task, method, dropout=0.2, weight=10.0)
        assert not same(run.models["student"], alone)
        assert all(bool(tensor.isfinite().all()) for tensor in weights(run.student).values())


@pytest.mark.parametrize("task", TASKS)
def test_one_generation_is_hinton(task):
    teacher = network(task, 7)
    one = learn(task, "born_again", teacher=teacher, generations=1, temperature=2.0, weight=0.3)
    assert same(one.student, learn(task, "hinton", teacher=teacher, temperature=2.0, weight=0.3).student)
    two = learn(task, "born_again", teacher=teacher, generations=2)
    assert not same(two.student, two.models["student"])


@pytest.mark.filterwarnings("ignore:function_matching is about views")
@pytest.mark.parametrize("task", TASKS)
def test_function_matching_is_hinton_without_labels(task):
    teacher = network(task, 7)
    ours = learn(task, "function_matching", teacher=teacher, temperature=2.0)
    theirs = learn(task, "hinton", teacher=teacher, temperature=2.0, weight=1.0, labels=False)
    assert same(ours.student, theirs.student)


def test_the_consistency_of_a_label_is_that_of_its_two_classes():
    z, v = torch.randn(2, 6, 5, dtype=torch.float64, generator=DRAW)
    pairs = [torch.stack([logits, torch.zeros_like(logits)], -1) for logits in (z, v)]
    torch.testing.assert_close(label_probability_squared_error(z, v), probability_squared_error(*pairs))
    assert torch.equal(label_probability_squared_error(z, z), torch.zeros_like(z))
    assert torch.autograd.gradcheck(label_probability_squared_error, (z.requires_grad_(), v))


@pytest.mark.parametrize(
    ("method", "task"),
    [(name, "language_modeling") for name in ("mutual", "mean_teacher", "born_again", "function_matching")],
)
def test_a_task_that_a_method_cannot_learn_is_refused_when_it_is_built(method, task):
    teacher = {"teacher": nn.Linear(2, 2)} if method in ("born_again", "function_matching") else {}
    with pytest.raises(LimbeckError, match="it was not tried on texts"):
        make(method, task=task, **teacher)


def test_a_refused_method_names_those_for_the_task():
    with pytest.raises(LimbeckError) as caught:
        check_task("mutual", LanguageModeling())
    assert "distillm" in str(caught.value)
    assert "born_again" not in str(caught.value)
    check_task("distillm", LanguageModeling())


@pytest.mark.parametrize("task", TASKS)
def test_specialists_are_of_classes_and_say_why(tmp_path, task):
    job = job_of(task, write_data(tmp_path)[task], method={"name": "specialists", "groups": [[0, 1], [1, 2]]})
    with pytest.raises(LimbeckError, match="some of the classes"):
        run_job(make_job(job))


@pytest.mark.parametrize(
    ("task", "method"), [("regression", "mutual"), ("multi_label", "mean_teacher"), ("segmentation", "born_again")]
)
def test_a_job_passes_its_task(tmp_path, task, method):
    job = job_of(task, write_data(tmp_path)[task], method=method, seeds=1, arms=["teacher", "distilled"])
    result = run_job(make_job({**job, "out": str(tmp_path / "run")}))
    assert all(torch.tensor(row["values"]).isfinite().all() for row in result["arms"]["distilled"]["measures"].values())
