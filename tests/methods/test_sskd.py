"""Self-supervision: rotations, the three losses with plain loops, the selection, and both stages."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.batch import Batch
from limbeck.data import ArrayDataset, ShuffledLoader
from limbeck.data.rotated_loader import RotatedLoader
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.methods import make
from limbeck.methods.relations.sskd import (
    PRETEXT,
    rotated_kl,
    rotated_similarity_kl,
    select_by_error,
)
from limbeck.models import build
from limbeck.recipe import Optimizer
from limbeck.testing.law import weights
from methods.planted_maps import PLANTED


def brute_force_rotated_kl(student, teacher, labels, *, temperature=4.0, keep=1.0):
    rows = []
    for i in range(len(student)):
        for r in range(student.shape[1]):
            p, q = (_softmax(logits[i, r].double().tolist(), temperature) for logits in (teacher, student))
            rows.append(
                (p, int(labels[i]), temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
            )
    return _mean_of_selected(rows, keep)


def brute_force_rotated_similarity_kl(student, teacher, *, temperature=0.5, keep=0.75):
    rows = []
    for i in range(len(student)):
        for r in range(1, student.shape[1]):
            p, q = (
                _softmax([_cosine(e[i, r].tolist(), e[k, 0].tolist()) for k in range(len(e))], temperature)
                for e in (teacher.double(), student.double())
            )
            rows.append((p, i, temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))))
    return _mean_of_selected(rows, keep)


def brute_force_rotation_cross_entropy(student, *, temperature=0.5):
    values = []
    for i in range(len(student)):
        for r in range(1, student.shape[1]):
            cosines = [_cosine(student[i, r].double().tolist(), e.double().tolist()) for e in student[:, 0]]
            values.append(-math.log(_softmax(cosines, temperature)[i]))
    return torch.tensor(sum(values) / len(values), dtype=torch.float64)


def _mean_of_selected(rows, keep):
    """The mean over rows that are right, and the share of wrong ones with the least error."""
    errors = [(sum(other > p[label] for other in p), -p[label]) if label >= 0 else (0, 0.0) for p, label, _ in rows]
    wrong = sorted((error, number) for number, error in enumerate(errors) if error[0] > 0)
    left_out = {number for _, number in wrong[int(len(wrong) * keep) :]}
    values = [value for number, (_, _, value) in enumerate(rows) if number not in left_out]
    return torch.tensor(sum(values) / max(len(values), 1), dtype=torch.float64)


def _softmax(logits, temperature):
    largest = max(logits)
    powers = [math.exp((logit - largest) / temperature) for logit in logits]
    return [power / sum(powers) for power in powers]


def _cosine(x, y):
    lengths = math.hypot(*x) * math.hypot(*y)
    return sum(a * b for a, b in zip(x, y, strict=True)) / lengths if lengths else 0.0


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.75, 1.0])
def test_the_losses_are_those_of_plain_loops(keep):
    z, v, labels = draw(6, 3, 4), 3 * draw(6, 3, 4, seed=1), torch.tensor([0, 3, 1, -100, 2, 0])
    torch.testing.assert_close(rotated_kl(z, v, labels, keep=keep), brute_force_rotated_kl(z, v, labels, keep=keep))
    s, t = draw(6, 4, 3), draw(6, 4, 5, seed=2)
    expected = brute_force_rotated_similarity_kl(s, t, keep=keep)
    torch.testing.assert_close(rotated_similarity_kl(s, t, keep=keep), expected)


def test_the_selection_has_all_right_rows_and_the_least_wrong_others():
    p = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.5, 0.2], [0.45, 0.5, 0.05], [0.1, 0.2, 0.7]])
    labels = torch.zeros(
        5, dtype=torch.int64
    )  # errors: 0, 2, 1, 1 and 2; the fourth has more of the label than the third
    order = [0, 3, 2, 1, 4]
    for kept in range(5):
        selected = select_by_error(p, labels, keep=kept / 4).nonzero().flatten().tolist()
        assert selected == sorted(order[: kept + 1])


def test_rotations_stay_beside_their_labels_and_upright_images_are_marked():
    images = torch.arange(18.0).reshape(2, 1, 3, 3)
    loader = RotatedLoader(ShuffledLoader(ArrayDataset(images, torch.tensor([5, 6])), batch_size=2, shuffle=False))
    batch = loader.complete(loader.peek()._replace(mask=torch.tensor([True, False])))
    assert batch.labels.tolist() == [5, 6] * 4
    assert batch.id.tolist() == [0, 1] * 4
    assert batch.view.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert batch.extra["masks"]["upright"].tolist() == [True, False] + [False] * 6
    for turns in range(4):
        torch.testing.assert_close(batch.inputs[2 * turns + 1], images[1].rot90(turns, (1, 2)))


def test_images_without_channels_are_turned_too():
    images = torch.arange(18.0).reshape(2, 3, 3)
    loader = RotatedLoader(ShuffledLoader(ArrayDataset(images, torch.tensor([5, 6])), batch_size=2, shuffle=False))
    batch = loader.complete(loader.peek())
    assert torch.equal(batch.inputs.reshape(4, 2, 3, 3)[3], images.rot90(3, (1, 2)))


def test_images_that_are_no_squares_are_refused():
    loader = RotatedLoader(ShuffledLoader(ArrayDataset(torch.zeros(4, 6), torch.zeros(4).long()), batch_size=2))
    with pytest.raises(LimbeckError, match="square"):
        loader.complete(Batch(torch.zeros(2, 1, 3, 4)))


def problem(size=48):
    # Upright images are empty at the top, so that rotated ones are new.
    images = torch.randn(size, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images[:, :, :5] = 0.0
    teacher = build("cnn", channels=1, classes=3, widths=[8, 8], size=8, seed=5).eval()
    with torch.no_grad():
        teacher.classifier.weight.mul_(30)
        return teacher, ArrayDataset(images, teacher(images).argmax(1))


def student(seed=1):
    return build("cnn", channels=1, classes=3, widths=[4, 4], size=8, seed=seed)


def learn(recipe, data, *, epochs=3, **setting):
    options = {"batch_size": 16, "epochs": epochs, "seed": 0, "log_every": 1, "optimizer": Optimizer("adam", lr=1e-2)}
    return distill(student(), recipe, data, **options, **setting).finish()


def test_the_first_stage_trains_the_projection_and_leaves_the_teacher_as_it_is():
    teacher, data = problem()
    before = weights(teacher)
    run = learn(make("sskd", teacher=teacher, at="features", student_at="features", pretext_epochs=6), data)
    pretext = [report.loss for report in run.history if report.stage == "0 pretext"]
    assert pretext[-1] < 0.85 * pretext[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(teacher).items())
    copied = weights(run.models[PRETEXT].model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in copied.items())


def test_a_batch_in_parts_is_refused():
    teacher, data = problem()
    with pytest.raises(LimbeckError, match="accumulate"):
        learn(make("sskd", teacher=teacher, at="features", student_at="features"), data, accumulate=2)


@pytest.mark.parametrize(("name", "argument"), [("rotated_kl", "rotation"), ("rotated_similarity_kl", "similarity")])
def test_each_loss_is_learned(name, argument):
    teacher, data = problem()
    others = {"label_weight": 0.0, "weight": 0.0, "rotation_weight": 0.0, "similarity_weight": 0.0}
    settings = {"at": "features", "student_at": "features", **others, f"{argument}_weight": 10.0}
    run = learn(make("sskd", teacher=teacher, **settings), data, epochs=8)
    losses = [report.terms[name] for report in run.history if report.stage == "1 sskd"]
    assert sum(losses[-3:]) < 0.85 * sum(losses[:3])


def test_it_helps_beside_the_student_alone():
    recipe = make("sskd", teacher=PLANTED.truth, at="features", student_at="features", pretext_epochs=5)
    assert PLANTED.accuracy(PLANTED.learn(recipe).student) > PLANTED.accuracy_alone + 0.03
