"""A recipe that is run again starts from its beginning: a run trains heads of its own."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs
from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.functional import Projector, cross_entropy, kernel, squared_error
from limbeck.integrations import DistillationLoss
from limbeck.losses import Loss, LossContext, copy_objective
from limbeck.methods import make
from limbeck.recipe import Stage

DRAW = torch.Generator().manual_seed(0)
X, Y = torch.randn(24, 5, generator=DRAW), torch.randint(3, (24,), generator=DRAW)


class Net(nn.Module):
    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body, self.classifier = nn.Linear(5, width), nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.body(x).relu())


TEACHER = Net(7, seed=9)


def make_recipe(head=None):
    hint = Loss(squared_error, student="body", teacher="body", head=head or Projector())
    return Stage(hint, teacher=TEACHER, steps=3) >> Stage(Loss(cross_entropy) + hint, teacher=TEACHER, steps=3)


def learn(recipe, seed=0):
    run = distill(Net(4, seed=1), recipe, ArrayDataset(X, Y), batch_size=8, seed=seed, accelerator="cpu").finish()
    return run, [parameter.detach().clone() for parameter in run.student.parameters()]


def head_of(run):
    (head,) = {id(leaf.head): leaf.head for s in run.stages for leaf, _ in s.objective.leaves() if leaf.head}.values()
    return head


@pytest.mark.parametrize("between", [0, 1])
def test_a_second_run_of_a_recipe_is_that_of_a_new_one(between):
    recipe = make_recipe()
    learn(recipe, seed=between)
    again, fresh = learn(recipe)[1], learn(make_recipe())[1]
    assert all(torch.equal(a, b) for a, b in zip(again, fresh, strict=True))


def test_heads_are_shared_by_the_stages_of_a_run_and_those_of_the_recipe_stay_as_they_were():
    recipe = make_recipe()
    run, _ = learn(recipe)
    assert head_of(run).map is not None
    assert all(leaf.head is None or leaf.head.map is None for s in recipe.stages() for leaf, _ in s.objective.leaves())


def test_another_seed_gives_other_heads():
    recipe = make_recipe()
    one, other = (head_of(learn(recipe, seed=seed)[0]).map.weight for seed in (0, 1))
    assert (one - other).abs().max() > 1e-3


def test_a_head_with_weights_of_the_users_begins_with_them_in_every_run():
    head = nn.Linear(4, 7)
    before = copy.deepcopy(head.state_dict())
    recipe = make_recipe(head)
    runs = [learn(recipe)[1] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert all(torch.equal(head.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("name", ["rid", "mgd", "vid", "crd", "ctkd"])
def test_methods_with_learned_parts_may_be_run_again(name):
    layers = {} if name == "ctkd" else {"at": "body", "student_at": "body"}
    recipe, fresh = (make(name, teacher=TEACHER, **layers, epochs=1) for _ in range(2))
    learn(recipe, seed=1)
    for again, new in zip(learn(recipe)[1], learn(fresh)[1], strict=True):
        assert torch.equal(again, new)


def test_the_loss_of_another_training_loop_trains_heads_of_its_own():
    objective = Loss(squared_error, student="body", teacher="body", head=Projector())
    student = Net(4, seed=1)
    for _ in range(2):
        with DistillationLoss(student, objective, TEACHER, example=(X[:4], Y[:4])) as distillation:
            assert distillation.objective.head.map is not None
    assert objective.head.map is None


def test_copies_share_what_their_originals_share_and_keep_the_kernel():
    head, memo = nn.Linear(4, 7), {}
    losses = [Loss(squared_error, student="body", teacher="body", head=head) for _ in range(2)]
    copies = [copy_objective(0.5 * loss, memo).objective for loss in losses]
    assert copies[0].head is copies[1].head is not head
    assert copies[0].kernel is losses[0].kernel
    assert copy_objective(losses[0], memo) is copies[0]


class Compares(nn.Module):
    """A head with a kernel of its own, as a method."""

    def __init__(self) -> None:
        super().__init__()
        self.map, self.scale = nn.Linear(4, 7), nn.Parameter(torch.ones(()))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.map(features)

    @kernel(per="example")
    def own_error(self, student, teacher):
        return (self.scale * student - teacher).square().mean(1)


@pytest.mark.parametrize("way", ["method", "declared later", "closure"])
def test_a_kernel_of_a_head_is_trained_with_it(way):
    head = Compares()
    function = {
        "method": head.own_error,
        "declared later": kernel(per="example")(head.own_error),
        "closure": kernel(per="example")(lambda student, teacher: head.own_error(student, teacher)),
    }[way]
    hint = Loss(function, student="body", teacher="body", head=head)
    one, other = (learn(Stage(hint, teacher=TEACHER, steps=3))[0] for _ in range(2))
    assert head.scale.item() == 1.0 != head_of(one).scale.item() == head_of(other).scale.item()
    assert hint.kernel.function is function


class Error:
    """A kernel that is an object, with a head as an attribute."""

    __name__ = "error"

    def __init__(self, head, steps=0):
        self.head, self.parts, self.itself = head, {"head": [head]}, self

    def __call__(self, student, teacher):
        assert self.parts["head"][0] is self.head
        return self.head.own_error(student, teacher)


def with_default(head):
    def error(student, teacher, *, head=head):
        return head.own_error(student, teacher)

    return error


def of_object(student, teacher, *, error):
    return error(student, teacher)


@pytest.mark.parametrize("way", ["object", "its method", "partial", "hyper-parameter", "default"])
def test_a_head_that_a_kernel_s_object_refers_to_is_copied_for_each_run(way):
    head, hyper = Compares(), {}
    error = {
        "object": Error(head), "its method": Error(head).__call__, "partial": partial(of_object, error=Error(head)),
        "hyper-parameter": of_object, "default": with_default(head),
    }[way]  # fmt: skip
    if way == "its method":
        error = lambda student, teacher, *, call=error: call(student, teacher)  # noqa: E731
    if way == "partial":
        error.__name__ = "error"
    if way == "hyper-parameter":
        hyper = {"error": Error(head)}
    hint = Loss(kernel(per="example")(error), student="body", teacher="body", head=head, **hyper)
    one, other = (learn(Stage(hint, teacher=TEACHER, steps=3))[0] for _ in range(2))
    assert head_of(one) is not head_of(other) is not head
    assert head.scale.item() == 1.0 != head_of(one).scale.item() == head_of(other).scale.item()


def test_a_layer_of_the_student_that_is_a_head_too_stays_one():
    student = Net(4, seed=1)
    deep = Loss(squared_error, student="body", teacher="classifier", head=student.classifier)
    run = distill(student, Stage(deep, teacher=TEACHER, steps=1), ArrayDataset(X, Y), batch_size=8, seed=0).finish()
    assert head_of(run) is run.student.classifier
    with DistillationLoss(student, deep, TEACHER, example=(X[:4], Y[:4])) as distillation:
        assert distillation.objective.head is student.classifier


@pytest.mark.parametrize("name", ["mgd", "crd"])
def test_what_a_loss_draws_depends_on_the_seed_of_the_run(name):
    (stage,) = make(name, teacher=TEACHER, at="body", student_at="body").stages()
    term = next(leaf for leaf, _ in stage.objective.leaves() if "cross_entropy" not in leaf.name)
    batch = Batch(X, id=torch.arange(24), labels=Y)
    context = LossContext(Outputs(body=X[:, :4]), Outputs(body=X), batch, ids=torch.arange(24))
    seeds = []
    for number in (0, 0, 1):
        torch.manual_seed(number)
        seeds.append(int(term.setup(context).seed))
    assert seeds[0] == seeds[1] != seeds[2]
