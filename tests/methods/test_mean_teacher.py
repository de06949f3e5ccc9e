"""The average teaches as in the paper, and is shipped."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from limbeck.data import ArrayDataset, ShuffledLoader
from limbeck.engine import distill
from limbeck.methods import make
from limbeck.models import build, load
from limbeck.recipe import Optimizer
from limbeck.testing.law import same_weights, weights
from methods.planted import Planted


def brute_force_label_probability_squared_error(student, teacher):
    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    return [
        [(sigmoid(z) - sigmoid(v)) ** 2 for z, v in zip(*rows, strict=True)]
        for rows in zip(student.tolist(), teacher.tolist(), strict=True)
    ]


def test_without_decay_and_dropout_the_average_is_the_student_and_nothing_is_inconsistent():
    planted = Planted()
    run = distill(
        planted.student(), make("mean_teacher", decay=0.0), (planted.x, planted.labels), epochs=3, log_every=1
    )
    assert [report.terms["consistency"] for report in run] == [0.0] * 3
    assert same_weights(weights(run.models["student"]), weights(run.models["average"]))


def test_it_is_the_paper_s_algorithm_step_by_step():
    planted = Planted()
    ours, theirs, average = planted.student(3), planted.student(3), planted.student(3)
    labels = planted.labels.clone()
    labels[::3] = -100
    loader = ShuffledLoader(ArrayDataset(planted.x, labels), batch_size=40, seed=4)
    batches = list(loader)
    recipe = make("mean_teacher", decay=0.6, weight=20.0, ramp_up=0.5)
    run = distill(ours, recipe, loader, optimizer=Optimizer("sgd", lr=0.1, decay="constant"), epochs=1).finish()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for step, batch in enumerate(batches):
        rise = min(step / (len(batches) - 1) / 0.5, 1.0)
        weight = 20.0 * torch.exp(torch.tensor(-5.0 * (1 - rise) ** 2))
        logits = theirs(batch.inputs)
        with torch.no_grad():
            target = average(batch.inputs).softmax(-1)
        loss = F.cross_entropy(logits, batch.labels) + weight * F.mse_loss(logits.softmax(-1), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        alpha = min(1 - 1 / (step + 2), 0.6)
        with torch.no_grad():
            for mine, now in zip(average.parameters(), theirs.parameters(), strict=True):
                mine.mul_(alpha).add_(now, alpha=1 - alpha)
    for mine, hand in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, hand, rtol=1e-5, atol=1e-6)
    for mine, hand in zip(run.student.parameters(), average.parameters(), strict=True):
        torch.testing.assert_close(mine, hand, rtol=1e-5, atol=1e-6)


def test_dropout_is_noise_for_both():
    planted = Planted()
    student = planted.student(dropout=0.5)
    run = distill(student, make("mean_teacher", decay=0.0), (planted.x, planted.labels), epochs=2, log_every=1)
    assert all(report.terms["consistency"] > 0 for report in run)


def words(count, draw, *, chosen=3, vocabulary=20, classes=4):
    """Bags of three words from a vocabulary of the class's own: no two examples need share a word."""
    labels = torch.randint(classes, (count,), generator=draw)
    picked = torch.rand(count, vocabulary, generator=draw).argsort(1)[:, :chosen] + vocabulary * labels[:, None]
    return torch.zeros(count, classes * vocabulary).scatter_(1, picked, 1.0), labels


def learn(recipe, seed):
    draw = torch.Generator().manual_seed(seed)
    (x, labels), (test, truth) = words(400, draw), words(1000, draw)
    few = torch.full_like(labels, -100)
    for label in range(4):
        few[(labels == label).nonzero()[:2, 0]] = label
    student = build("mlp", inputs=80, classes=4, hidden=[32], input_dropout=0.5, seed=seed)
    run = distill(
        student, recipe, ArrayDataset(x, few), batch_size=400, epochs=200, seed=seed,
        optimizer=Optimizer("adam", lr=1e-2), log_every=10**6,
    ).finish()  # fmt: skip
    with torch.no_grad():
        return float((run.student.eval()(test).argmax(-1) == truth).float().mean())


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_two_labels_a_class_go_further_with_unlabeled_examples(seed):
    """Unlabeled examples say which words go together; the labeled eight know few of them."""
    alone = learn(make("supervised"), seed)
    averaged = learn(make("mean_teacher", weight=5.0, decay=0.9), seed)
    print(f"seed {seed}: alone {alone:.3f}, mean teacher {averaged:.3f}")
    assert averaged > alone + 0.1


def test_the_average_is_on_disk_and_a_finished_run_still_ships_it(tmp_path):
    planted = Planted()

    def start(resume):
        return distill(
            planted.student(dropout=0.2), make("mean_teacher"), (planted.x, planted.labels),
            epochs=2, out=tmp_path / "run", resume=resume,
        )  # fmt: skip

    run = start(False).finish()
    again = start(True).finish()
    shipped = weights(run.student)
    assert not same_weights(shipped, weights(run.models["student"]))
    assert same_weights(shipped, weights(again.student))
    assert same_weights(shipped, weights(load(tmp_path / "run" / "student")))


def test_a_broken_run_goes_on_to_the_same_weights():
    planted = Planted()

    def start():
        recipe = make("mean_teacher", decay=0.9)
        return distill(
            planted.student(dropout=0.2), recipe, (planted.x, planted.labels), batch_size=40, epochs=3, log_every=1
        )

    whole, broken = start().finish(), start()
    for report in broken:
        if report.step == 4:
            break
    broken.finish()
    assert same_weights(weights(whole.student), weights(broken.student))
