"""Predictions from anywhere are judged as a job's are: the same intervals, both ways of being better, one page."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import limbeck as lb
from limbeck.errors import DataError, LimbeckError, UnknownNameError
from limbeck.judging import METRICS
from limbeck.metrics import compare_scores


def drawn_classes(accuracy, *, seeds=4, n=400, seed=0):
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    wrong = (labels + 1) % 3
    return [np.where(draw.random(n) < accuracy, labels, wrong) for _ in range(seeds)], labels


def arms(**accuracies):
    made = {name.replace("_", " "): drawn_classes(a, seed=i) for i, (name, a) in enumerate(accuracies.items())}
    return {name: runs for name, (runs, _) in made.items()}, next(iter(made.values()))[1]


def test_it_is_the_interval_of_the_statistics_beneath():
    predictions, labels = arms(student_alone=0.7, distilled=0.9)
    found = lb.judge(predictions, labels)
    right = {name: np.stack([run == labels for run in runs]) for name, runs in predictions.items()}
    expected = compare_scores(right["distilled"], right["student alone"], largest=1.0)
    assert found.interval == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.helps is True
    assert found.verdict.gain == pytest.approx(expected.mean)
    assert "Distilling helped" in found.sentence


def test_logits_probabilities_and_classes_are_the_same_predictions():
    predictions, labels = arms(student_alone=0.7, distilled=0.9)
    logits = {name: [torch.nn.functional.one_hot(torch.as_tensor(r), 3).float() * 5 for r in runs]
              for name, runs in predictions.items()}  # fmt: skip
    found = lb.judge(predictions, labels), lb.judge(logits, torch.as_tensor(labels))
    assert found[0].as_dict() == found[1].as_dict()


def test_of_errors_less_is_better():
    draw = np.random.default_rng(0)
    targets = draw.normal(size=300)
    worse, better = ([targets + s * draw.normal(size=300) for _ in range(4)] for s in (1.0, 0.5))
    found = lb.judge({"student alone": worse, "trees": better}, targets, metric="squared_error")
    assert found.helps is True
    assert found.verdict.gain == pytest.approx(0.75, abs=0.15)
    assert lb.judge({"student alone": better, "trees": worse}, targets, metric="squared_error").helps is False
    assert "less squared error than student alone" in found.sentence


def test_a_column_of_predictions_is_not_spread_over_all_targets():
    targets = np.arange(50.0)
    runs = {"student alone": [targets[:, None]] * 2, "mine": [targets[:, None]] * 2}
    assert lb.judge(runs, targets, metric="absolute_error").arms["mine"].mean == 0.0


def test_iou_is_that_of_each_image():
    targets = np.zeros((2, 2, 2), dtype=int)
    targets[0, 0] = 1
    exact, half = targets, np.zeros_like(targets)
    scores = METRICS["iou"].score(half, targets)
    assert scores == pytest.approx([(0.5 + 0) / 2, 1.0])
    assert METRICS["iou"].score(exact, targets) == pytest.approx([1, 1])
    logits = torch.stack([torch.as_tensor(1.0 - targets), torch.as_tensor(1.0 * targets)], 1)
    assert METRICS["iou"].score(logits, targets) == pytest.approx([1, 1])
    ignored = targets.copy()
    ignored[1] = -100
    assert np.isnan(METRICS["iou"].score(exact, ignored)[1])


def test_unlabeled_examples_count_nowhere():
    predictions, labels = arms(student_alone=0.7, distilled=0.9)
    known = labels.copy()
    known[::4] = -100
    kept = known != -100
    some = {name: [run[kept] for run in runs] for name, runs in predictions.items()}
    assert lb.judge(predictions, known).as_dict() == lb.judge(some, labels[kept]).as_dict()


def test_a_label_of_nan_counts_nowhere():
    predictions, labels = arms(student_alone=0.7, distilled=0.9)
    known = np.where(np.arange(len(labels)) % 4 == 0, -100, labels)
    as_floats = np.where(known == -100, np.nan, known)
    assert lb.judge(predictions, as_floats).as_dict() == lb.judge(predictions, known).as_dict()


def test_one_test_example_is_no_single_run():
    found = lb.judge({"student alone": [np.array([1])] * 3, "mine": [np.array([0])] * 3}, np.array([0]))
    assert (found.helps, found.interval) == (None, None)
    assert "test example" in found.sentence


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_is_a_share(confidence):
    with pytest.raises(LimbeckError):
        compare_scores(np.eye(3), np.ones((3, 3)), confidence=confidence)


def test_one_seed_is_unknown():
    predictions, labels = arms(student_alone=0.7, distilled=0.9)
    found = lb.judge({name: runs[:1] for name, runs in predictions.items()}, labels)
    assert (found.helps, found.interval) == (None, None)
    assert "Unknown" in found.sentence


def test_choosing_among_methods_is_paid_for():
    predictions, labels = arms(student_alone=0.7, a=0.75, b=0.76, c=0.72, label_smoothing=0.7, teacher=0.95)
    predictions["teacher"] = predictions["teacher"][:1]
    alone = lb.judge({name: predictions[name] for name in ("student alone", "b")}, labels)
    several = lb.judge(predictions, labels)
    assert several.arm == "b"
    assert several.chosen_on == "the test data"
    assert several.interval[0] < alone.interval[0] < alone.interval[1] < several.interval[1]
    assert several.arms["teacher"].role == "teacher"
    assert set(several.against) == {"label smoothing"}
    chosen = lb.judge(predictions, labels, development={"a": [0.9, 0.8], "b": 0.7, "c": 0.6})
    assert (chosen.arm, chosen.chosen_on) == ("a", "development data")


def test_false_alarms_are_few_where_nothing_works():
    helped = 0
    for trial in range(60):
        draw = np.random.default_rng(trial)
        labels, hard = np.zeros(300, dtype=int), draw.random(300)
        predictions = {
            name: [(draw.random(300) < hard).astype(int) for _ in range(3)]
            for name in ("student alone", "a", "b", "c", "d")
        }
        helped += bool(lb.judge(predictions, labels).helps)
    assert helped <= 5


def test_a_metric_of_the_user_names_which_way_is_better():
    predictions, labels = arms(student_alone=0.7, distilled=0.9)

    def misses(given, wanted):
        return given != wanted

    found = lb.judge(predictions, labels, metric=misses, higher_is_better=False)
    assert found.helps is True
    assert found.metric == "misses"
    with pytest.raises(LimbeckError):
        lb.judge(predictions, labels, metric=misses)


def test_the_page_stands_for_itself(tmp_path):
    draw = np.random.default_rng(0)
    targets = draw.normal(size=200)
    runs = {name: [targets + s * draw.normal(size=200) for _ in range(3)]
            for name, s in (("student alone", 0.02), ("<b>mine", 0.01), ("label smoothing", 0.02))}  # fmt: skip
    lb.judge(runs, targets, metric="squared_error", title="Houses", out=tmp_path / "judged")
    page = (tmp_path / "judged" / "report.html").read_text()
    assert "<b>mine" not in page
    assert "&lt;b&gt;mine" in page
    assert "Yes: it is worth it" in page
    assert "<script" not in page
    stored = json.loads((tmp_path / "judged" / "judgment.json").read_text())
    assert stored["verdict"]["helps"] is True


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda p, y: lb.judge({"distilled": p["distilled"]}, y), UnknownNameError),
        (lambda p, y: lb.judge({"student alone": p["student alone"]}, y), LimbeckError),
        (lambda p, y: lb.judge({**p, "distilled": p["distilled"][:2]}, y), LimbeckError),
        (lambda p, y: lb.judge(p, y[:10]), DataError),
        (lambda p, y: lb.judge(p, np.full_like(y, -100)), DataError),
        (lambda p, y: lb.judge(p, y, metric="acuracy"), UnknownNameError),
        (lambda p, y: lb.judge(p), LimbeckError),
        (lambda p, y: lb.judge(p, np.array(["a", "b", "c"])[y]), DataError),
        (lambda p, y: lb.judge({name: [run / 7 for run in runs] for name, runs in p.items()}, y), DataError),
        (lambda p, y: lb.judge({name: [run[:, None] / 7 for run in runs] for name, runs in p.items()}, y), DataError),
        (lambda p, y: lb.judge(p, y, higher_is_better=False), LimbeckError),
        (lambda p, y: lb.judge({**p, "mine": p["distilled"]}, y, controls="mine"), LimbeckError),
        (
            lambda p, y: lb.judge(
                {**p, "mine": p["distilled"]}, y, development={"mine": 0.9, "distilled": float("nan")}
            ),
            LimbeckError,
        ),
        (lambda p, y: lb.judge({**p, "distilled": p["distilled"][0]}, y), LimbeckError),
        (lambda p, y: lb.judge({**p, "distilled": np.zeros((0, 400))}, y), LimbeckError),
        (lambda p, y: lb.judge({**p, "distilled": np.eye(3)[p["distilled"][0]]}, y), DataError),
        (lambda p, y: lb.judge({**p, "distilled": p["distilled"][0].tolist()}, y), DataError),
        (lambda p, y: lb.judge({**p, "teacher": p["distilled"][:2]}, y), LimbeckError),
        (lambda p, y: lb.judge({**p, 3: p["distilled"]}, y), LimbeckError),
        (lambda p, y: lb.judge({**p, None: p["distilled"]}, y), LimbeckError),
        (lambda p, y: lb.judge(p, np.array(["a", "b", "c"], dtype=object)[y]), DataError),
        (lambda p, y: lb.judge(p, [["a"], ["b", "c"]]), DataError),
        (
            lambda p, y: lb.judge(
                {**p, "distilled": [run + np.nan for run in p["distilled"]]}, y + 0.5, metric="absolute_error"
            ),
            DataError,
        ),
        (
            lambda p, y: lb.judge({name: [np.full(400, np.nan)] * 4 for name in p}, y * 1.0, metric="squared_error"),
            DataError,
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(change, error):
    predictions, labels = arms(student_alone=0.7, distilled=0.9)
    with pytest.raises(error):
        change(predictions, labels)


@pytest.mark.parametrize("made", [np.stack, lambda runs: torch.stack([torch.as_tensor(run) for run in runs])])
def test_an_array_with_a_row_for_each_seed_is_a_list_of_them(made):
    predictions, labels = arms(student_alone=0.7, distilled=0.9)
    logits = {name: [np.eye(3)[run] for run in runs] for name, runs in predictions.items()}
    expected = lb.judge(predictions, labels).as_dict()
    for given in (predictions, logits):
        assert lb.judge({name: made(runs) for name, runs in given.items()}, labels).as_dict() == expected
    with_teacher = {**predictions, "teacher": made(predictions["distilled"][:1])}
    assert lb.judge(with_teacher, labels).interval == lb.judge(predictions, labels).interval


def test_labels_are_names_as_well_as_numbers():
    predictions, labels = arms(student_alone=0.7, distilled=0.9)
    names = np.array(["cat", "dog", "eel"])
    expected = lb.judge(predictions, labels).as_dict()
    for kind in (str, object):
        named = {name: [names[run].astype(kind) for run in runs] for name, runs in predictions.items()}
        assert lb.judge(named, names[labels].astype(kind)).as_dict() == expected
        assert lb.judge(named, names[labels].tolist()).as_dict() == expected
    without = names[labels].astype(object)
    without[::4] = None
    numbers = np.where(np.arange(len(labels)) % 4 == 0, -100, labels)
    assert lb.judge(named, without).as_dict() == lb.judge(predictions, numbers).as_dict()
    assert lb.judge(predictions, numbers.astype(float)).as_dict() == lb.judge(predictions, numbers).as_dict()


def test_huge_logits_are_distinguished_and_nan_is_wrong():
    labels = np.array([0, 1, 0, 1])
    huge = torch.tensor([[2.0, 1.0], [-2.0, -1.0], [1.0, 0.0], [float("nan"), 1.0]], dtype=torch.float64) * 1e300
    found = lb.judge({"student alone": [labels] * 2, "mine": [huge] * 2}, labels)
    assert found.arms["mine"].mean == 0.75


def test_a_prediction_that_is_no_number_is_never_taken_for_a_missing_target():
    targets = np.arange(12.0).reshape(6, 2)
    good = [targets + 0.1] * 2
    for bad in (np.nan, np.inf):
        wrong = [np.where(np.arange(12).reshape(6, 2) == 3, bad, targets)] * 2
        for runs in ({"student alone": good, "mine": wrong}, {"student alone": wrong, "mine": wrong}):
            with pytest.raises(DataError) as error:
                lb.judge(runs, targets, metric="squared_error")
            assert "'mine'" in str(error.value) or "'student alone'" in str(error.value)


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    predictions, labels = arms(student_alone=0.7, distilled=0.9)
    out = tmp_path / "judged"
    found = lb.judge(predictions, labels, out=out)
    before = (out / "judgment.json").read_bytes()
    for again in (lambda: lb.judge(predictions, labels, out=out), lambda: found.write(out)):
        with pytest.raises(LimbeckError, match="out="):
            again()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(LimbeckError, match="out="):
        lb.judge(predictions, labels, out=tmp_path / "file")
    assert (out / "judgment.json").read_bytes() == before


def test_scores_have_no_direction_of_their_own():
    assert METRICS["score"].higher_is_better is None
    scores = {"student alone": [np.zeros(40)] * 2, "mine": [np.arange(40) / 40] * 2}
    with pytest.raises(LimbeckError, match="higher_is_better"):
        lb.judge(scores, metric="score")
    up, down = (lb.judge(scores, metric="score", higher_is_better=way) for way in (True, False))
    assert (up.helps, down.helps) == (True, False)
    assert up.interval == tuple(-end for end in reversed(down.interval))


@pytest.mark.parametrize("right", [0.9, 0.7, 0.5])
def test_its_verdict_begins_as_that_of_a_job_does(right):
    from limbeck.judging.verdict import compare_with_baseline as judge_job

    draw = np.random.default_rng(0)
    alone, ours = (draw.random((3, 500)) < 0.7).astype(float), (draw.random((3, 500)) < right).astype(float)
    for seeds in (1, 3):
        mine = lb.judge({"student alone": list(alone[:seeds]), "distilled": list(ours[:seeds])}, metric="score",
                        higher_is_better=True)  # fmt: skip
        theirs = judge_job(ours[:seeds] > 0, alone[:seeds] > 0)
        begins = min(mine.sentence.find(":") % 99, mine.sentence.find(".") % 99)
        assert mine.sentence[:begins] == theirs.sentence[:begins]
        assert mine.helps == theirs.helps
