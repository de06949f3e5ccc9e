"""SubDistill: the relevant subspace, both kernels by plain loops, and the limits of the loss."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.batch import Batch, Outputs, Progress
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.losses import LossContext
from limbeck.methods import make
from limbeck.methods.features.relevant_subspace import as_rows, computing_gradients, find_subspace
from limbeck.methods.features.subdistill import SubspaceLoss, centered_code_error, subtask_kl
from limbeck.models import build
from methods.planted import Planted
from methods.transformers import kept_tokens, random, row_kl


def brute_force_subtask_kl(student, teacher, *, subtask, temperature=1.0):
    columns = list(range(len(subtask))) if student.shape[-1] == len(subtask) else list(subtask)
    values = []
    for s, t in zip(student.reshape(-1, student.shape[-1]), teacher.reshape(-1, teacher.shape[-1]), strict=True):
        p = [math.exp(float(t[c]) / temperature) for c in subtask]
        q = [math.exp(float(s[c]) / temperature) for c in columns]
        values.append(temperature**2 * row_kl(p, q))
    return torch.tensor(values, dtype=torch.float64)


def brute_force_centered_code_error(student, teacher, mask=None):
    kept = [kept_tokens(mask, n, student.shape[1]) for n in range(len(student))]
    rows = [student[n, i].tolist() for n, own in enumerate(kept) for i in own]
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    examples = []
    for n, own in enumerate(kept):
        errors = [
            sum((float(s) - m - float(t)) ** 2 for s, m, t in zip(student[n, i], mean, teacher[n, i], strict=True))
            for i in own
        ]
        if errors:
            examples.append(sum(errors) / len(errors))
    return sum(examples) / len(examples)


def test_both_kernels_are_those_of_the_loops():
    s, t = random(4, 3), random(4, 6, seed=1)
    torch.testing.assert_close(
        subtask_kl(s, t, subtask=(5, 0, 2), temperature=3.0),
        brute_force_subtask_kl(s, t, subtask=(5, 0, 2), temperature=3.0),
    )
    s, t = random(4, 3, 5), random(4, 3, 5, seed=1)
    mask = torch.arange(3) < torch.tensor([[3], [1], [0], [2]])
    for given in (None, mask):
        assert float(centered_code_error(s, t, given)) == pytest.approx(brute_force_centered_code_error(s, t, given))


def test_a_direction_of_little_variance_comes_first_if_the_decision_depends_on_it():
    a = random(400, 6) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.2, 0.1])
    c = torch.zeros(400, 6, dtype=torch.float64)
    c[:, 4] = a[:, 4].sign()
    relevant = find_subspace(a, c, 1).basis[:, 0]
    assert abs(float(relevant[4])) > 0.95
    assert abs(float(torch.linalg.eigh(a.T @ a).eigenvectors[4, -1])) < 0.2  # PCA


def test_the_matrix_has_no_negative_eigenvalue_and_the_basis_is_orthonormal():
    a, c = random(50, 5), random(50, 5, seed=1)
    a = a - a.mean(0)
    ratio = ((c**2).sum() / (a**2).sum()).sqrt()
    matrix = (a.T @ c + c.T @ a + 2 * ratio * a.T @ a + 2 / ratio * c.T @ c) / 50
    values, vectors = torch.linalg.eigh(matrix)
    assert values.min() > 0
    basis = find_subspace(a + 7, c, 3).basis
    torch.testing.assert_close(basis.T @ basis, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(basis.abs(), vectors.flip(1)[:, :3].abs())
    assert find_subspace(torch.ones(4, 2), torch.zeros(4, 2), 2).variance == 0


def test_the_mean_gives_1_and_a_rotated_copy_gives_0():
    t = random(200, 4).float()
    turn, _ = torch.linalg.qr(random(4, 4, seed=1).float())
    loss = SubspaceLoss("s", "t", find_subspace(t, random(200, 4, seed=2), 4))
    batch = Batch(torch.zeros(200, 1), id=torch.arange(200))
    constant, copied = torch.full((200, 4), 3.0), 5 + (t - t.mean(0)) @ loss.basis @ turn.T
    fitted = loss.setup(LossContext(Outputs(s=constant), Outputs(t=t), batch))
    means = [fitted.term(Outputs(s=constant), Outputs(t=t), batch, Progress()).mean]
    fitted.rotation.weight = turn.T
    means.append(fitted.term(Outputs(s=copied), Outputs(t=t), batch, Progress()).mean)
    assert [float(mean) for mean in means] == pytest.approx([1.0, 0.0], abs=1e-5)


def test_a_frozen_teacher_has_gradients_of_activations_and_stays_frozen():
    network = build("mlp", inputs=4, classes=3, hidden=[5], seed=0).requires_grad_(False)
    before = [parameter.clone() for parameter in network.parameters()]
    with computing_gradients(network):
        assert network(torch.zeros(2, 4)).requires_grad
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True))
    assert as_rows(torch.zeros(2, 3, 4, 5)).shape == (2, 20, 3)


def test_a_narrow_student_of_two_classes_learns_them():
    planted = Planted()
    student = build("mlp", inputs=10, classes=2, hidden=[6, 6], seed=0)
    recipe = make("subdistill", teacher=planted.truth, at="layer2", student_at="layer2", classes=[1, 3])
    run = planted.learn(recipe, student=student, epochs=15)
    with torch.no_grad():
        best = planted.truth(planted.test)[:, [1, 3]].argmax(-1)
        agreement = float((run.student.eval()(planted.test).argmax(-1) == best).float().mean())
    assert agreement > 0.75
    assert all(math.isfinite(report.loss) for report in run.history)


def test_wrong_arguments_are_refused():
    options = {"teacher": torch.nn.Linear(2, 2), "at": "a", "student_at": "b"}
    for wrong in ({"classes": [1]}, {"classes": [0, 0]}, {"at": ["a", "c"]}, {"at": [], "student_at": []}):
        with pytest.raises(ArgumentError):
            make("subdistill", **options | wrong)
    with pytest.raises(LimbeckError, match="narrower"):
        find_subspace(random(5, 3), random(5, 3), 4)
    planted = Planted(train=40)
    wide = build("mlp", inputs=10, classes=4, hidden=[32, 64], seed=0)
    with pytest.raises(LimbeckError, match="narrower"):
        planted.learn(
            make("subdistill", teacher=planted.truth, at="layer2", student_at="layer2"), student=wide, epochs=1
        )


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_it_trains_in_every_precision(precision):
    planted = Planted(train=40)
    recipe = make("subdistill", teacher=planted.truth, at="layer2", student_at="layer2")
    student = planted.student()
    before = student.classifier.weight.detach().clone()
    shipped = planted.learn(recipe, student=student, epochs=1, precision=precision).student
    assert not torch.equal(shipped.classifier.weight.double(), before.double())


def test_a_class_that_the_teacher_lacks_is_refused():
    planted = Planted(train=40)
    recipe = make("subdistill", teacher=planted.truth, at="layer2", student_at="layer2", classes=[0, 9])
    with pytest.raises(ArgumentError):
        planted.learn(recipe, epochs=1)
