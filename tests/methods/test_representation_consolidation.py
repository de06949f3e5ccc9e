"""Representation consolidation: heads of their own sizes, balanced weights, features on one scale."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence
from limbeck.losses import LossContext
from limbeck.methods import make
from limbeck.methods.teachers.representation_consolidation import MemberHeads, balance_teachers
from limbeck.recipe import Optimizer

DRAW = torch.Generator().manual_seed(0)
BODY = torch.randn(6, 5, generator=DRAW)
FEATURES = 100 * torch.randn(6, 4, generator=DRAW) + 30
FEATURES[:, 3] = 7.0  # constant
TEACHER = Outputs({"all.logits": torch.randn(6, 3, generator=DRAW), "cars.logits": torch.randn(6, 2, generator=DRAW),
                   "deep.layer1": FEATURES})  # fmt: skip
BATCH = Batch(torch.zeros(6, 1), id=torch.arange(6), mask=torch.tensor([True] * 5 + [False]))
TEACHERS = {"all": nn.Linear(1, 3), "cars": nn.Linear(1, 2), "deep": nn.Linear(1, 4)}


def fitted(**options):
    options = {"student_at": "features", "generalist": "all", "features": {"deep": "layer1"}, **options}
    recipe = make("representation_consolidation", teacher=TEACHERS, **options)
    torch.manual_seed(0)
    return next(recipe.stages()).objective.setup(LossContext(Outputs(features=BODY), TEACHER, BATCH))


def test_each_head_has_its_own_size_and_the_loss_is_the_weighted_sum():
    loss = fitted(temperature=3.0)
    layers = {name.removeprefix("head_"): layer for name, layer in loss.heads_by_name.layers.items()}
    assert {name: layer.out_features for name, layer in layers.items()} == {"all": 3, "cars": 2, "deep": 4}
    assert loss.weights == {"all": 0.5, "cars": 0.25, "deep": 0.25}
    loss.after_step(Outputs(features=BODY), TEACHER, BATCH, Progress())
    term = loss.term(Outputs(features=BODY), TEACHER, BATCH, Progress())
    known = FEATURES[:5].double()
    spread = (known.square().mean(0) - known.mean(0).square()).sqrt()
    scaled = (FEATURES.double() - known.mean(0)) / spread.clamp_min(1e-9)
    scaled[:, 3] = 0.0
    values = (
        0.5 * kl_divergence(layers["all"](BODY), TEACHER["all.logits"], temperature=3.0)
        + 0.25 * kl_divergence(layers["cars"](BODY), TEACHER["cars.logits"], temperature=3.0)
        + 0.25 * (layers["deep"](BODY) - scaled.float()).square().mean(1)
    )
    torch.testing.assert_close(term.total, values[:5].sum(), rtol=1e-4, atol=1e-4)
    assert term.count == 5


def test_the_scale_of_a_teachers_features_changes_nothing():
    totals = []
    for factor in (1.0, 1e4):
        teacher = Outputs({**TEACHER, "deep.layer1": factor * FEATURES})
        loss = fitted()
        for _ in range(2):
            loss.after_step(Outputs(features=BODY), teacher, BATCH, Progress())
        totals.append(loss.term(Outputs(features=BODY), teacher, BATCH, Progress()).total)
    torch.testing.assert_close(*totals)


def test_a_weight_of_0_leaves_a_teacher_out_and_balance_is_a_half_for_the_generalist():
    loss = fitted(weights={"cars": 0.0})
    assert loss.requires.teacher == {"all.logits", "deep.layer1"}
    assert balance_teachers(["a", "b", "c"], None) == {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}


def test_the_second_stage_changes_the_output_layer_alone():
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    x, y = torch.randn(60, 4, generator=DRAW), torch.randint(3, (60,), generator=DRAW)
    teachers = {"all": nn.Linear(4, 3), "cars": nn.Linear(4, 2)}
    bodies = []
    for probe in (False, True):
        torch.manual_seed(0)
        student = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
        recipe = make("representation_consolidation", teacher=teachers, student_at="1", probe=probe)
        bodies.append(distill(student, recipe, ArrayDataset(x, y), epochs=2, batch_size=20, seed=0).finish().student)
    assert torch.equal(bodies[0][0].weight, bodies[1][0].weight)
    assert not torch.equal(bodies[0][2].weight, bodies[1][2].weight)


def test_a_generalist_keeps_what_specialists_alone_lose():
    """Six classes; each specialist tells two of them apart, the generalist all."""
    centers = 2.5 * torch.randn(6, 8, generator=DRAW)
    labels = torch.arange(600) % 6
    x = centers[labels] + torch.randn(600, 8, generator=DRAW)

    def linear(classes):
        layer = nn.Linear(8, len(classes))
        with torch.no_grad():
            layer.weight.copy_(centers[classes])
            layer.bias.copy_(-centers[classes].square().sum(1) / 2)
        return layer

    specialists = {"a": linear([0, 1]), "b": linear([1, 0])}
    accuracies = []
    for teachers, generalist in ((specialists, None), ({**specialists, "all": linear(range(6))}, "all")):
        torch.manual_seed(1)
        student = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 6))
        recipe = make("representation_consolidation", teacher=teachers, student_at="1", generalist=generalist)
        run = distill(student, recipe, ArrayDataset(x[:300], labels[:300]), epochs=40, batch_size=50, seed=0,
                      optimizer=Optimizer("adam", lr=0.01), log_every=10**6).finish()  # fmt: skip
        accuracies.append(float((run.student(x[300:]).argmax(1) == labels[300:]).float().mean()))
    assert accuracies[1] > accuracies[0] + 0.1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"generalist": "al"}, "Did you mean 'all'"),
        ({"features": {"deap": "x"}}, "Did you mean 'deep'"),
        ({"weights": {"all": -1.0}}, r"weights\.all"),
        ({"weights": dict.fromkeys(TEACHERS, 0.0)}, "All weights"),
        ({"teacher": nn.Linear(1, 1)}, "ModelTeacher"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, words):
    with pytest.raises(LimbeckError, match=words):
        make("representation_consolidation", **{"teacher": TEACHERS, "student_at": "1", **changes})


def test_a_teacher_may_have_the_name_of_a_method_of_dictionaries():
    heads = MemberHeads()
    heads.add("keys", BODY, TEACHER["cars.logits"])
    assert len(heads.layers) == 1
