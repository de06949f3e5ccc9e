"""Tasks: targets, losses and scores, each against a direct computation in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, jaccard_score, r2_score
from torch import nn

from limbeck import ArrayDataset
from limbeck.batch import IGNORED, Batch, Outputs, Progress
from limbeck.errors import DataError, LimbeckError, UnknownNameError
from limbeck.losses.objective import LossContext
from limbeck.metrics.metric import linear_scores
from limbeck.tasks import (
    Classification,
    MultiLabel,
    Regression,
    Score,
    Segmentation,
    get_task,
    task_from_dict,
    task_names,
)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(*shape, classes=3, seed=0):
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed))


def cases():
    """Each task with outputs of a model, the dataset, and the primary metric of an independent implementation."""
    logits, y = random(40, 3), labels(40)
    yield Classification(3), logits, ArrayDataset(logits, y), float((logits.argmax(1) == y).double().mean())

    y = (random(40, 4, seed=1) > 0.5).long()
    logits = random(40, 4)
    truth = f1_score(y.numpy(), (logits > 0).numpy(), average="micro")
    yield MultiLabel(4), logits, ArrayDataset(logits, extra={"targets": y}), truth

    y = random(40, 2, seed=2) * 5 + 100
    task = Regression().fit(ArrayDataset(y, extra={"targets": y}))
    outputs = (y - torch.tensor(task.mean)) / torch.tensor(task.std) + random(40, 2) * 0.3
    estimates = outputs.double() * torch.tensor(task.std) + torch.tensor(task.mean)
    yield task, outputs, ArrayDataset(outputs, extra={"targets": y}), r2_score(y.numpy(), estimates.numpy())

    logits, y = random(7, 3, 5, 6), labels(7, 5, 6)
    truth = jaccard_score(y.flatten().numpy(), logits.argmax(1).flatten().numpy(), average="macro")
    yield Segmentation(3), logits, ArrayDataset(logits, y), truth


CASES = {task.name: (task, *rest) for task, *rest in cases()}


def test_every_task_has_a_case_here_or_its_own_file():
    assert {*task_names()} - {*CASES} == {"language_modeling"}  # test_language_modeling.py


@pytest.mark.parametrize("name", CASES)
def test_the_primary_metric_is_that_of_scikit_learn(name):
    task, _, data, truth = CASES[name]
    assert task.evaluate(nn.Identity(), data).measures[task.primary.name] == pytest.approx(truth, abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_the_mean_of_the_scores_is_the_primary_metric(name):
    task, _, data, truth = CASES[name]
    evaluation = task.evaluate(nn.Identity(), data)
    assert evaluation.scores.shape == (len(data),)
    assert evaluation.scores.mean() == pytest.approx(truth, abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_batches_do_not_change_an_evaluation(name):
    task, _, data, _ = CASES[name]
    whole = task.evaluate(nn.Identity(), data)
    batches = [data.take(index) for index in torch.arange(len(data)).split(3)]
    split = task.evaluate(nn.Identity(), batches)
    assert split.measures == pytest.approx(whole.measures)
    assert split.scores.tolist() == pytest.approx(whole.scores.tolist())
    assert torch.equal(split.outputs, whole.outputs)


@pytest.mark.parametrize("name", CASES)
def test_stored_outputs_give_the_same_scores(name):
    task, _, data, truth = CASES[name]
    evaluation = task.evaluate(nn.Identity(), data)
    targets = task.stored_targets(data)
    assert task.scores(evaluation.outputs, targets).tolist() == pytest.approx(evaluation.scores.tolist())
    assert task.measure(evaluation.outputs, targets)[task.primary.name] == pytest.approx(truth, abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_a_student_equal_to_its_teacher_is_faithful(name):
    task, _, data, _ = CASES[name]
    kept = task.evaluate(nn.Identity(), data).outputs
    fidelity = task.evaluate(nn.Identity(), data, teacher=kept).measures[task.headline[2]]
    assert fidelity == (1.0 if task.metrics[task.headline[2]].higher_is_better else 0.0)


@pytest.mark.parametrize("name", CASES)
def test_the_direction_of_the_primary_metric_is_that_of_its_table(name):
    task = CASES[name][0]
    assert task.metrics[task.primary.name].higher_is_better == task.primary.higher_is_better
    assert all(column in task.metrics for column in task.headline)


@pytest.mark.parametrize("name", CASES)
def test_a_task_comes_back_from_a_file(name):
    task = CASES[name][0]
    assert task_from_dict(task.to_dict()) == task


@pytest.mark.parametrize("name", CASES)
def test_the_loss_to_an_equal_teacher_is_zero_and_the_supervised_loss_is_finite(name):
    task, logits, data, _ = CASES[name]
    outputs = {"logits": logits}
    batch = data.take(torch.arange(len(data)))
    student, teacher = Outputs(outputs), Outputs(outputs)
    context = LossContext(student, teacher, batch)
    soft = task.distillation_loss(temperature=2.0).setup(context)
    assert float(soft.term(student, teacher, batch, Progress()).mean) == pytest.approx(0.0, abs=1e-6)
    hard = task.supervised_loss().setup(context).term(student, teacher, batch, Progress())
    assert 0 < float(hard.mean) < 10


def test_the_loss_of_regression_is_that_of_standardized_targets():
    task, outputs, data, _ = CASES["regression"]
    batch = data.take(torch.arange(len(data)))
    side = Outputs(logits=outputs)
    loss = task.supervised_loss().setup(LossContext(side, side, batch)).term(side, side, batch, Progress()).mean
    y = (batch.extra["targets"] - torch.tensor(task.mean)) / torch.tensor(task.std)
    assert float(loss) == pytest.approx(float((outputs - y).square().mean()), rel=1e-5)


def test_unknown_targets_count_nowhere():
    y = torch.tensor([[1.0], [2.0], [float("nan")], [4.0]])
    task = Regression(standardize=False).fit(ArrayDataset(torch.zeros(4, 1), extra={"targets": y}))
    evaluation = task.evaluate(
        nn.Identity(), ArrayDataset(torch.tensor([[1.0], [2.5], [9.0], [4.0]]), extra={"targets": y})
    )
    truth = r2_score([1, 2, 4], [1, 2.5, 4])
    assert len(evaluation.scores) == 3
    assert evaluation.scores.mean() == pytest.approx(truth)

    several = MultiLabel(2)
    targets, logits = torch.tensor([[1, -100], [-100, -100]]), torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    assert several.scores(logits, targets).tolist() == [1.0]

    maps = Segmentation(2)
    masks = torch.tensor([[[0, -100]], [[-100, -100]]])
    logits = torch.zeros(2, 2, 1, 2)
    evaluation = maps.evaluate(nn.Identity(), [Batch(logits, labels=masks)])
    assert evaluation.measures["pixel_accuracy"] == 1.0
    assert len(evaluation.scores) == 1


def test_linear_scores_estimate_the_variance_of_a_ratio():
    draw = np.random.default_rng(0)
    a, b = draw.uniform(0, 1, (400, 2)), draw.uniform(1, 2, (400, 2))

    def mean_ratio(rows):
        return (a[rows].sum(0) / b[rows].sum(0)).mean()

    scores = linear_scores(mean_ratio(slice(None)), a, b)
    resampled = [mean_ratio(draw.integers(0, 400, 400)) for _ in range(400)]
    assert scores.std() / 20 == pytest.approx(np.std(resampled), rel=0.12)


def test_a_score_knows_its_direction():
    error = Score("nll", "negative log-likelihood", higher_is_better=False)
    assert error.gain(0.5, 0.7) == pytest.approx(0.2)
    assert error.rank(0.5) > error.rank(0.7) > error.rank(float("nan"))


@pytest.mark.parametrize(
    ("task", "data", "value"),
    [
        (MultiLabel(), {"targets": torch.tensor([[0, 2], [1, 0]])}, "2"),
        (MultiLabel(), {"targets": torch.tensor([[0.0, 0.5], [1.0, 0.0]])}, "0.5"),
        (Regression(), {"targets": torch.tensor([[3.0], [3.0]])}, "constant"),
        (Regression(), {}, "targets"),
        (MultiLabel(), {"targets": torch.zeros(2, 3, dtype=torch.int64)}, "0"),
        (MultiLabel(), {"targets": torch.tensor([[0.0, 1.0], [torch.inf, 0.0]])}, "row 1 .* inf"),
        (Regression(), {"targets": torch.tensor([[3.0], [torch.inf]])}, "Row 1"),
        (Regression(), {"targets": torch.tensor([[1e300], [3.0]], dtype=torch.float64)}, "Row 0"),
        (Regression(), {"targets": torch.zeros(2, 0)}, r"\[2, 0\]"),
    ],
)
def test_targets_that_do_not_fit_are_refused(task, data, value):
    with pytest.raises(DataError, match=value):
        task.fit(ArrayDataset(torch.zeros(2, 1), extra=data))


def test_masks_of_another_shape_are_refused():
    with pytest.raises(DataError, match=r"\[2\]"):
        Segmentation().fit(ArrayDataset(torch.zeros(2, 1), torch.tensor([0, 1])))
    with pytest.raises(DataError, match="Label 5"):
        Segmentation(2).check(ArrayDataset(torch.zeros(1, 1), torch.tensor([[[5]]])), "test")


def test_masks_and_predictions_that_do_not_fit_are_refused_when_they_are_scored():
    task, images = Segmentation(2), torch.zeros(1, 2, 3, 3)
    masks, small = torch.zeros(1, 3, 3, dtype=torch.uint8), torch.zeros(1, 2, 3, dtype=torch.uint8)
    with pytest.raises(DataError, match="Label 5"):
        task.evaluate(nn.Identity(), [Batch(images, labels=torch.full((1, 3, 3), 5))])
    with pytest.raises(DataError, match=r"teacher.*\[1, 2, 3\]"):
        task.evaluate(nn.Identity(), [Batch(images, labels=masks.long())], teacher=small)
    with pytest.raises(DataError, match=r"\[1, 2, 3\]"):
        task.measure(masks, small)
    with pytest.raises(DataError, match=r"teacher.*\[1, 2, 3\]"):
        task.measure(masks, masks, small)
    with pytest.raises(DataError, match=r"\[1, 2, 3\]"):
        task.scores(masks, small)


def test_a_single_target_of_a_regression_may_have_no_column():
    task, inputs, y = Regression(mean=(0.0,), std=(1.0,)), random(6, 1), random(6, seed=1)
    flat, column = (task.evaluate(nn.Identity(), [Batch(inputs, extra={"targets": t})]) for t in (y, y.unsqueeze(1)))
    assert flat.measures == column.measures
    assert flat.measures["mse"] == pytest.approx(float((inputs[:, 0] - y).square().mean()))


def test_what_a_task_does_not_have_has_a_reason():
    for task in (MultiLabel(), Regression()):
        with pytest.raises(LimbeckError, match="label smoothing"):
            task.smoothed_loss(0.1)
    with pytest.raises(UnknownNameError, match="regression"):
        get_task("regresion")
    with pytest.raises(UnknownNameError, match="standardize"):
        get_task("regression", standardise=True)
    with pytest.raises(LimbeckError, match="'yes'"):
        get_task("regression", standardize="yes")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0, 127, 254], r"3 values found: 0, 127, 254: renumber as 0, 1, 2"),
        ([0, 128, IGNORED], r"2 values found: 0, 128 \(255 means no label\)"),
        ([0, IGNORED], r"one class.* Values found: 0 \(255 means no label\)"),
    ],
)
def test_masks_of_gray_values_are_refused(values, words):
    masks = torch.tensor(values).repeat(12).reshape(4, 3, -1)
    data = ArrayDataset(torch.zeros(4, *masks.shape[1:]), masks)
    with pytest.raises(DataError, match=words):
        Segmentation().fit(data)


def test_classes_that_a_small_sample_lacks_are_no_gray_values():
    masks = torch.tensor([0, 5, 15, IGNORED]).repeat(9).reshape(4, 3, -1)
    data = ArrayDataset(torch.zeros(4, *masks.shape[1:]), masks)
    assert Segmentation().fit(data).outputs == 16
