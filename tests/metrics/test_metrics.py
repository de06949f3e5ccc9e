"""Each metric against its definition and limits, and its error messages."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.batch import IGNORED
from limbeck.errors import LimbeckError, UnknownNameError
from limbeck.metrics import (
    METRICS,
    Metric,
    Predictions,
    accuracy,
    agreement,
    class_changes,
    ece,
    evaluate,
    group_accuracy,
    kl_to_teacher,
    metric,
    nll,
    top5,
)

INF = math.inf
OF_SOME_ROWS = {"agreement_where_teacher_wrong", "worst_class_accuracy"}
OF_ALL_ROWS_TOGETHER = {"ece", "mce", "worst_class_accuracy", "confidence_slope", "gradient_weight"}


def some(rows=200, classes=7, seed=0, scale=2.0):
    torch.manual_seed(seed)
    return Predictions(
        scale * torch.randn(rows, classes), scale * torch.randn(rows, classes), torch.randint(classes, (rows,))
    )


def by_hand(predictions):
    """Every measure in plain Python, in float64."""
    names = dict.fromkeys(METRICS, 0.0)
    bins = [[0, 0.0, 0] for _ in range(15)]
    copied, classes, points, missing = [], {}, [], [0.0, 0.0]
    for student, teacher, label in zip(*(part.tolist() for part in predictions), strict=True):
        q, p = softmax(student), softmax(teacher)
        order = sorted(range(len(student)), key=lambda c: (-student[c], c))
        names["accuracy"] += order[0] == label
        names["top5"] += label in order[:5]
        names["nll"] -= math.log(q[label])
        names["agreement"] += order[0] == teacher.index(max(teacher))
        names["kl_to_teacher"] += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)
        names["reverse_kl_to_teacher"] += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True) if b)
        names["brier"] += sum((b - (c == label)) ** 2 for c, b in enumerate(q))
        names["entropy"] -= sum(b * math.log(b) for b in q if b)
        names["confidence"] += max(q)
        k = teacher.index(max(teacher))
        names["relative_calibration"] += abs(q[k] - p[k])
        points.append((odds(p, k), odds(q, k)))
        names["confidence_deviation"] += points[-1][1] - points[-1][0]
        if k != label:
            copied.append(order[0] == k)
        missing = [
            total + sum(x for c, x in enumerate(side) if c != label)
            for total, side in zip(missing, (p, q), strict=True)
        ]
        classes.setdefault(label, []).append(order[0] == label)
        m = next(m for m in range(15) if max(q) <= (m + 1) / 15)
        bins[m][0] += 1
        bins[m][1] += max(q)
        bins[m][2] += order[0] == label
    n = len(predictions.student)
    names["ece"] = sum(size * abs(right / size - total / size) for size, total, right in bins if size)
    found = {name: total / n for name, total in names.items()}
    found["mce"] = max(abs(right / size - total / size) for size, total, right in bins if size)
    found["agreement_where_teacher_wrong"] = sum(copied) / len(copied) if copied else math.nan
    found["worst_class_accuracy"] = min(sum(right) / len(right) for right in classes.values())
    found["confidence_slope"] = slope(points)
    found["gradient_weight"] = 1 - missing[0] / missing[1]
    return found


def odds(p, k):
    return math.log(p[k]) - math.log(sum(x for c, x in enumerate(p) if c != k))


def slope(points):
    x, y = (sum(point[side] for point in points) / len(points) for side in (0, 1))
    spread = sum((a - x) ** 2 for a, _ in points)
    return sum((a - x) * (b - y) for a, b in points) / spread if spread else math.nan


def softmax(row):
    powers = [math.exp(x - max(row)) for x in row]
    return [p / sum(powers) for p in powers]


@pytest.mark.parametrize("classes", [2, 3, 7, 40])
@pytest.mark.parametrize("rows", [1, 2, 200])
def test_every_measure_is_its_definition(rows, classes):
    predictions = some(rows, classes)
    found = {name: m.value for name, m in evaluate(predictions, METRICS).items()}
    assert found == pytest.approx(by_hand(predictions), rel=1e-9, abs=1e-12, nan_ok=True)
    assert all(m.count == rows for name, m in evaluate(predictions, METRICS).items() if name not in OF_SOME_ROWS)
    # Each alone is what it is among the others, which share a softmax.
    assert {name: METRICS[name](predictions).value for name in METRICS} == pytest.approx(found, abs=0, nan_ok=True)


@pytest.mark.parametrize(("classes", "scale"), [(2, 1.0), (10, 1.0), (10, 3.0), (50, 0.1)])
def test_calibration_error_is_torchmetrics(classes, scale):
    from torchmetrics.functional.classification import multiclass_calibration_error

    predictions = some(500, classes, scale=scale)
    theirs = multiclass_calibration_error(
        predictions.student.double().softmax(1), predictions.labels, num_classes=classes, n_bins=15, norm="l1"
    )
    assert ece(predictions).value == pytest.approx(float(theirs), abs=1e-6)


def test_calibration_of_the_certain():
    certain = torch.tensor([[0.0, -INF], [0.0, -INF]])
    assert ece(Predictions(certain, labels=torch.tensor([0, 0]))).value == 0.0
    assert ece(Predictions(certain, labels=torch.tensor([1, 1]))).value == 1.0
    assert ece(Predictions(certain, labels=torch.tensor([0, 1]))).value == 0.5


def test_calibration_puts_certainty_with_its_neighbors():
    """A probability of exactly 1 lies in the last bin, with 0.95: one is too sure, the other not sure enough."""
    logits = torch.tensor([[0.0, -INF], [math.log(0.95), math.log(0.05)]])
    assert ece(Predictions(logits, labels=torch.tensor([0, 1]))).value == pytest.approx(abs(0 + 0.95) / 2, rel=1e-6)


def test_a_student_that_is_its_teacher():
    predictions = some()
    same = predictions._replace(teacher=predictions.student.clone())
    assert agreement(same).value == 1.0
    assert kl_to_teacher(same).value == 0.0


def test_a_shift_of_all_logits_changes_nothing():
    predictions = some()
    moved = predictions._replace(student=predictions.student + 3.0, teacher=predictions.teacher - 5.0)
    for name in METRICS:
        assert METRICS[name](moved).value == pytest.approx(METRICS[name](predictions).value, abs=1e-6)


def test_order_of_rows_changes_nothing():
    predictions = some()
    order = torch.randperm(200)
    for name in METRICS:
        turned = Predictions(*(part[order] for part in predictions))
        assert METRICS[name](turned).value == pytest.approx(METRICS[name](predictions).value, rel=1e-9)


def test_totals_and_counts_add_up():
    predictions = some()
    first, second = (Predictions(*(part[s] for part in predictions)) for s in (slice(0, 30), slice(30, None)))
    for name in set(METRICS) - OF_ALL_ROWS_TOGETHER:
        a, b, whole = (METRICS[name](p) for p in (first, second, predictions))
        assert a.count + b.count == whole.count
        assert a.total + b.total == pytest.approx(whole.total, rel=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_rows_without_label_are_left_out(name):
    predictions = some()
    labels = predictions.labels.clone()
    labels[::3] = IGNORED
    kept = labels != IGNORED
    found = METRICS[name](predictions._replace(labels=labels))
    assert found == METRICS[name](Predictions(*(part[kept] for part in predictions)))
    assert found.count == int(kept.sum()) < 200 or name in OF_SOME_ROWS


@pytest.mark.parametrize("name", METRICS)
def test_nothing_that_counts_is_not_a_number(name):
    predictions = some(4)
    found = METRICS[name](predictions._replace(labels=torch.full((4,), IGNORED)))
    assert (found.total, found.count) == (0.0, 0)
    assert math.isnan(found.value)


def test_ties_go_to_the_first_class():
    tied = Predictions(torch.zeros(8, 8), torch.zeros(8, 8), torch.arange(8))
    assert accuracy(tied).total == 1
    assert top5(tied).total == 5
    assert agreement(tied).value == 1.0
    assert nll(tied).value == pytest.approx(math.log(8))


def test_five_classes_or_fewer_are_all_among_five():
    assert top5(some(50, 5)).value == 1.0
    assert top5(some(50, 2)).value == 1.0
    assert top5(some(500, 10, scale=0.0)).value < 0.7


def test_impossible_classes():
    student = torch.tensor([[0.0, -INF, 0.0], [0.0, -INF, 0.0]])
    teacher = torch.tensor([[1.0, -INF, 1.0], [1.0, -INF, 1.0]])
    right = Predictions(student, teacher, torch.tensor([0, 2]))
    assert nll(right).value == pytest.approx(math.log(2))
    assert kl_to_teacher(right).value == 0.0
    assert ece(right).value == pytest.approx(0.0)
    assert top5(right).value == 1.0
    wrong = Predictions(student, torch.zeros(2, 3), torch.tensor([0, 1]))
    assert nll(wrong).value == INF
    assert kl_to_teacher(wrong).value == INF
    assert accuracy(wrong).value == 0.5


def test_labels_of_32_bits_will_do():
    predictions = some()
    short = predictions._replace(labels=predictions.labels.int())
    assert evaluate(short, METRICS) == evaluate(predictions, METRICS)


def test_totals_of_many_rows_are_exact():
    predictions = Predictions(torch.zeros(1, 2).expand(300_000, 2), labels=torch.zeros(300_000).long())
    assert nll(predictions).value == pytest.approx(math.log(2), rel=1e-12)


def test_units_and_directions_are_declared():
    declared = {name: (f.unit, f.higher_is_better, f.requires) for name, f in METRICS.items()}
    assert declared == {
        "accuracy": ("fraction", True, ("labels",)),
        "top5": ("fraction", True, ("labels",)),
        "nll": ("nats", False, ("labels",)),
        "brier": ("squared probability", False, ("labels",)),
        "ece": ("fraction", False, ("labels",)),
        "mce": ("fraction", False, ("labels",)),
        "confidence": ("probability", None, ()),
        "entropy": ("nats", None, ()),
        "worst_class_accuracy": ("fraction", True, ("labels",)),
        "agreement": ("fraction", True, ("teacher",)),
        "agreement_where_teacher_wrong": ("fraction", None, ("teacher", "labels")),
        "kl_to_teacher": ("nats", False, ("teacher",)),
        "reverse_kl_to_teacher": ("nats", False, ("teacher",)),
        "confidence_slope": ("ratio", None, ("teacher",)),
        "confidence_deviation": ("nats", None, ("teacher",)),
        "relative_calibration": ("probability", False, ("teacher",)),
        "gradient_weight": ("ratio", None, ("teacher", "labels")),
    }
    assert accuracy.__name__ == "accuracy"
    assert accuracy.__doc__


def test_what_is_lacking_is_said():
    logits = torch.zeros(2, 3)
    for name in (name for name in METRICS if METRICS[name].requires):
        lacking = METRICS[name].requires[0]
        with pytest.raises(LimbeckError, match=f"'{name}' needs {lacking}"):
            METRICS[name](Predictions(logits))
    with pytest.raises(LimbeckError, match="student has 3, the teacher 4"):
        agreement(Predictions(logits, torch.zeros(2, 4)))
    for wrong in (3, -1):
        with pytest.raises(LimbeckError, match=f"labels from 0 to 2 .*; got {wrong}"):
            accuracy(Predictions(logits, labels=torch.tensor([0, wrong])))
    with pytest.raises(UnknownNameError, match=r"metric 'acuracy'. Did you mean 'accuracy'"):
        evaluate(Predictions(logits), ["acuracy"])


def test_a_student_of_no_numbers_is_never_right():
    logits, labels = torch.full((4, 10), torch.nan), torch.tensor([0, 0, 3, 9])
    shown = Predictions(logits, logits, labels)
    for name in ("accuracy", "top5", "agreement"):
        assert METRICS[name](shown).value == 0.0, name
    assert math.isnan(METRICS["agreement_where_teacher_wrong"](shown).value)
    assert class_changes(shown, shown)[0].after == 0.0
    assert group_accuracy(shown, ["all"] * 4)[0].accuracy.value == 0.0
    # One class that is no number spoils its own row and no other.
    shown = Predictions(torch.eye(3).index_put((torch.tensor([0]), torch.tensor([2])), torch.tensor(torch.nan)),
                        labels=torch.arange(3))  # fmt: skip
    assert accuracy(shown) == Metric(2.0, 3)
    assert top5(shown) == Metric(2.0, 3)


def test_a_measure_of_the_user():
    @metric(unit="nats", higher_is_better=False, requires=())
    def margin(predictions):
        """The largest logit less the second."""
        first, second = predictions.student.topk(2).values.unbind(1)
        return Metric(float((first - second).sum()), len(first))

    assert margin(Predictions(torch.tensor([[3.0, 1.0]]))).value == 2.0
    assert margin(Predictions(torch.zeros(5, 4), labels=torch.tensor([0, 1, IGNORED, IGNORED, 2]))).count == 3


def test_a_measure_shows_its_value():
    found = evaluate(Predictions(torch.eye(3).repeat(500, 1), labels=torch.tensor([0, 1, 0] * 500)), ["accuracy"])
    assert str(found) == "{'accuracy': Metric(0.6667, over 1,500 rows)}"
    assert str(Metric(0.0, 0)) == "Metric(nan, over 0 rows)"
    assert Metric(2.0, 4) == (2.0, 4)
