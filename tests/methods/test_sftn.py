"""Student-friendly teachers: branches on the teacher's layers, whose gradients reach the teacher."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from limbeck.batch import LOGITS, Batch, Outputs, Progress
from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import cross_entropy
from limbeck.losses import Loss, weighted_loss
from limbeck.methods import make
from limbeck.methods.teachers.branched_network import BranchedNetwork, StudentBranch
from limbeck.methods.teachers.sftn import branch_divergence
from limbeck.models import build
from limbeck.recipe import Stage
from limbeck.testing.law import hooks_in, same_weights, weights

DRAW = torch.Generator().manual_seed(0)
X, Y = torch.randn(48, 6, generator=DRAW), torch.randint(3, (48,), generator=DRAW)
DATA = ArrayDataset(X, Y)


def networks(kind="mlp"):
    if kind == "mlp":
        return (build("mlp", inputs=6, classes=3, hidden=[width, width], seed=1) for width in (4, 8))
    return (build("resnet8", channels=1, classes=3, width=width, seed=1) for width in (2, 4))


def learn(student, recipe, data=DATA, **options):
    return distill(student, recipe, data, **{"batch_size": 16, "epochs": 2, "seed": 3, **options}).finish()


def brute_force_branch_divergence(branch, network):
    values = []
    for r, p in zip(branch.double().tolist(), network.double().tolist(), strict=True):
        log_r, log_p = ([z - math.log(sum(math.exp(v - max(row)) for v in row)) - max(row) for z in row]
                        for row in (r, p))  # fmt: skip
        values.append(sum(math.exp(a) * (a - b) for a, b in zip(log_p, log_r, strict=True)))
    return torch.tensor(values, dtype=torch.float64)


def test_the_divergence_has_a_gradient_in_the_network_too():
    branch, network = (torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    torch.autograd.gradcheck(branch_divergence, (branch, network))


def test_a_branch_is_the_student_from_a_layer_on():
    """With the student's own features and an identity between, it gives the student's logits."""
    student, _ = networks()
    branch = StudentBranch(student, "layer1", None, theirs=(4,), ours=(4,))
    branch.connector = nn.Identity()
    features = student.layer1(X)
    torch.testing.assert_close(branch(features, X), student(X), rtol=0, atol=0)
    slopes = torch.autograd.grad(branch(features, X).sum(), list(student.parameters()), allow_unused=True)
    assert not hooks_in(student)
    assert torch.is_grad_enabled()
    # The student's own layers before the branch were run without gradients, those in `features` count once.
    whole = torch.autograd.grad(student(X).sum(), list(student.parameters()))
    torch.testing.assert_close(slopes, whole)


@pytest.mark.parametrize("kind", ["mlp", "resnet"])
def test_the_branches_reach_the_teacher_and_leave_its_output_alone(kind):
    student, teacher = networks(kind)
    inputs = X if kind == "mlp" else torch.randn(16, 1, 8, 8)
    teacher.eval(), student.eval()
    shapes = [module.get_submodule("layer1")(inputs).shape[1:] if kind == "mlp" else None
              for module in (teacher, student)]  # fmt: skip
    theirs, ours = shapes if kind == "mlp" else ((4, 8, 8), (2, 8, 8))
    branched = BranchedNetwork(teacher, ["layer1"], [StudentBranch(student, "layer1", None, theirs=theirs, ours=ours)])
    read = []
    branched.branches[0].register_forward_hook(lambda module, given, output: read.append(output))
    assert torch.equal(branched(inputs), teacher(inputs))
    (slope,) = torch.autograd.grad(read[0].sum(), next(iter(teacher.layer1.parameters())))
    assert slope.abs().sum() > 0
    detached = BranchedNetwork(teacher, ["layer1"], list(branched.branches), detach=True)
    detached(inputs)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(read[-1].sum(), next(iter(teacher.layer1.parameters())))


def test_without_weights_the_teacher_is_trained_as_alone():
    student, teacher = networks()
    recipe = make("sftn", teacher=teacher, at="layer1", student_at="layer1", kl_weight=0.0, label_weight=0.0,
                  pretrained=True)  # fmt: skip
    ours = learn(student, recipe).models["student-friendly"]
    plain = learn(copy.deepcopy(teacher), Stage(Loss(cross_entropy))).student
    assert same_weights(weights(ours), weights(plain))


def test_the_teacher_s_objective_is_that_of_the_paper():
    stage = next(make("sftn", teacher=nn.Linear(4, 3), at=["a", "b"], student_at=["c", "d"], kl_weight=3.0,
                      label_weight=0.5).stages())  # fmt: skip
    z, one, two = (torch.randn(6, 4, dtype=torch.float64) for _ in range(3))
    batch = Batch(z, labels=torch.arange(6) % 4)
    outputs = Outputs.of({LOGITS: z, "branches.0": one, "branches.1": two})
    terms = stage.objective(outputs, Outputs(), batch, Progress())
    own = -z.log_softmax(-1)[torch.arange(6), batch.labels].mean()
    kl = sum(brute_force_branch_divergence(branch, z).mean() for branch in (one, two)) / 2
    labels = sum(-branch.log_softmax(-1)[torch.arange(6), batch.labels].mean() for branch in (one, two)) / 2
    found = weighted_loss(terms, stage.objective.counts(batch))
    torch.testing.assert_close(found, own + 3.0 * kl + 0.5 * labels)


def test_the_teacher_comes_nearer_to_the_student():
    """The divergence of the teacher from its branch is smaller if it learns to be followed."""
    student, teacher = networks()
    found = {}
    for weight in (0.0, 5.0):
        recipe = make("sftn", teacher=teacher, at="layer1", student_at="layer1", kl_weight=weight, teacher_epochs=15)
        run = learn(copy.deepcopy(student), recipe, epochs=1)
        branched, read = run.models["student-friendly-branched"].eval(), []
        branched.branches[0].register_forward_hook(lambda module, given, output, read=read: read.append(output))
        with torch.no_grad():
            found[weight] = float(branch_divergence(read[0], branched(X)).mean()) if branched(X) is not None else 0.0
    assert found[5.0] < 0.8 * found[0.0]


def test_a_branch_that_fits_nowhere_is_refused_before_training():
    student, teacher = networks("resnet")
    images = ArrayDataset(torch.randn(32, 1, 8, 8), Y[:32])
    for at, student_at in (("layer1", "features"), ("layer2", "layer1")):
        recipe = make("sftn", teacher=teacher, at=at, student_at=student_at)
        with pytest.raises(LimbeckError, match=rf"(?s){student_at}.*\["):
            learn(student, recipe, images)
    with pytest.raises(ArgumentError, match="student_at"):
        make("sftn", teacher=teacher, at=["layer1", "layer2"], student_at="layer1")
    with pytest.raises(LimbeckError, match="layer9"):
        learn(student, make("sftn", teacher=teacher, at="layer9", student_at="layer1"), images)
