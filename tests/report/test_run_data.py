"""A run's folder is read completely, and nothing else."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from limbeck.errors import LimbeckError
from limbeck.metrics import load_tensors, save_tensors
from limbeck.report import read_run, report_page
from limbeck.report.arms import half_width, read_stat
from limbeck.report.curves import downsample, read_curves
from limbeck.report.summary import answers, headline
from report_runs import planted_run, with_result


@pytest.fixture
def run(tmp_path):
    return planted_run(tmp_path / "run", test=120, seeds=2)


def test_what_is_there_is_read(run):
    found = read_run(run)
    assert found.method_arm == "hinton"
    assert found.seeds == 2
    assert found.unknown == ()
    assert list(found.arms) == ["teacher", "student alone", "label smoothing", "shuffled teacher", "hinton", "fitnets"]
    assert [arm.role for arm in found.arms.values()] == ["teacher", "control", "control", "control", "method", "method"]
    for name, seeds in found.logits.items():
        right = [float((one.argmax(1) == found.labels).double().mean()) for one in seeds.values()]
        assert right == pytest.approx(found.arms[name].score.values), name
    assert len({arm.style for arm in found.arms.values()}) == 6


def test_the_arm_of_the_verdict_has_its_own_color(run):
    with_result(run, lambda result: result["verdict"].update(arm="fitnets"))
    found = read_run(run)
    assert found.method_arm == "fitnets"
    assert [name for name, arm in found.arms.items() if arm.style == 0] == ["fitnets"]


def test_seeds_are_distinguished_by_their_number(run):
    shutil.rmtree(run / "arms" / "hinton" / "seed-0")
    found = read_run(run)
    assert list(found.logits["hinton"]) == [1]
    assert found.shown_seed == 1
    path = run / "arms" / "hinton" / "seed-1" / "predictions.safetensors"
    assert torch.equal(found.student, load_tensors(path)["test"])


def test_the_shipped_seed_is_the_one_that_the_result_names(run):
    with_result(run, lambda result: result.update(shipped={"arm": "hinton", "seed": 1}))
    assert read_run(run).shown_seed == 1
    with_result(run, lambda result: result.update(shipped={"arm": "hinton", "seed": 7}))
    assert read_run(run).shown_seed == 0


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda path: path.write_bytes(b"none"), "damaged"),
        (lambda path: save_tensors({"test": torch.zeros(3, 10)}, path), "damaged"),
        (lambda path: save_tensors({"test": torch.full((120, 10), torch.nan)}, path), "damaged"),
        (lambda path: save_tensors({"test": torch.zeros(120, 2)}, path), "damaged"),
        (lambda path: save_tensors({"other": torch.zeros(120, 10)}, path), "damaged"),
        (lambda path: path.unlink(), "for 1 of 2 seeds"),
    ],
)
@pytest.mark.usefixtures("without_figures")
def test_a_spoilt_file_is_left_out_and_reported(run, spoil, word):
    spoil(run / "arms" / "hinton" / "seed-0" / "predictions.safetensors")
    found = read_run(run)
    assert list(found.logits["hinton"]) == [1]
    assert len(found.unknown) == (word is not None)
    assert word is None or word in found.unknown[0]
    assert "<h1>" in report_page([found])


@pytest.mark.parametrize("teacher", [b"none", None])
def test_without_the_teachers_answers_the_rest_is_shown(run, teacher):
    path = run / "teacher" / "answers.safetensors"
    path.unlink() if teacher is None else path.write_bytes(teacher)
    found = read_run(run)
    assert found.labels is None
    assert len(found.unknown) == 1
    page = report_page([found])
    assert "Not known" in page
    assert found.unknown[0].split(":")[0] in page


@pytest.mark.parametrize(
    "labels",
    [torch.zeros(0, dtype=torch.int64), torch.full((120,), torch.nan), torch.full((120,), -5), torch.zeros(3, 4)],
)
def test_labels_that_are_none_are_left_out(run, labels):
    path = run / "teacher" / "answers.safetensors"
    save_tensors({"test": load_tensors(path)["test"][: len(labels)], "test_labels": labels}, path)
    found = read_run(run)
    assert found.labels is None
    assert "one label for each test example" in found.unknown[0]
    assert "<h1>" in report_page([found])


def test_the_teacher_may_rule_classes_out(run):
    path = run / "teacher" / "answers.safetensors"
    kept = load_tensors(path)
    kept["test"][:, 3] = -torch.inf
    save_tensors(kept, path)
    found = read_run(run)
    assert found.unknown == ()
    assert "<h1>" in report_page([found])


@pytest.mark.parametrize(
    ("said", "make"),
    [
        ("does not exist", lambda folder: None),
        ("not the folder of a finished run", lambda folder: folder.mkdir()),
        ("limbeck resume", lambda folder: (folder.mkdir(), (folder / "job.yaml").write_text("data: digits"))),
        ("is a search: `limbeck compare", lambda folder: (folder.mkdir(), (folder / "search.json").write_text("{}"))),
        ("cannot be read", lambda folder: (folder.mkdir(), (folder / "result.json").write_text("{"))),
        ("has no arms", lambda folder: (folder.mkdir(), (folder / "result.json").write_text('{"arms": {}}'))),
        (r"result\.json.* a list", lambda folder: (folder.mkdir(), (folder / "result.json").write_text("[]"))),
        ("has no arms", lambda folder: (folder.mkdir(), (folder / "result.json").write_text('{"arms": {"a": 1}}'))),
    ],
)
def test_what_is_no_finished_run_is_refused(tmp_path, said, make):
    make(tmp_path / "run")
    with pytest.raises(LimbeckError, match=said):
        read_run(tmp_path / "run")


def test_a_figure_is_what_its_values_are():
    assert read_stat(0.5) == ((0.5,), 0.5, None)
    assert read_stat({"values": [1.0, 3.0]})[1:] == (2.0, pytest.approx(2**0.5))
    assert read_stat({"values": [1.0, None]}) == ((1.0,), None, None)
    assert read_stat(None) == read_stat({}) == read_stat("x") == read_stat(float("nan")) == ((), None, None)
    # t(0.975, 1) = 12.706, and the standard error of (1, 3) is 1.
    assert half_width([1.0, 3.0]) == pytest.approx(12.7062, abs=1e-4)


def test_curves_go_on_from_stage_to_stage(tmp_path):
    (tmp_path / "seed-0").mkdir()
    rows = [("a", 10, 1.0), ("a", 20, 2.0), ("b", 10, 3.0), ("b", 20, None)]
    lines = [json.dumps({"stage": s, "step": n, "terms": {"loss": v}}) for s, n, v in rows]
    (tmp_path / "seed-0" / "metrics.jsonl").write_text("\n".join([*lines, '{"stage": "b", "st']))
    assert read_curves(tmp_path) == {"loss": [[(10.0, 1.0), (20.0, 2.0), (30.0, 3.0)]]}
    assert read_curves(tmp_path / "none") == {}


def test_a_thinned_curve_keeps_its_mean():
    curve = [(float(i), float(i % 7)) for i in range(700)]
    short = downsample(curve, points=100)
    assert len(short) == 100
    assert sum(v for _, v in short) / 100 == pytest.approx(3.0)
    assert downsample(curve[:50], points=100) == curve[:50]


@pytest.mark.parametrize(
    ("teacher", "ours", "said"),
    [
        (0.90, 0.85, "It closes 50 % of the gap to the teacher (90.00 %)."),
        (0.801, 0.85, "The teacher has 80.10 %: the gap is closed."),
        (0.79, 0.85, "The teacher is no better than the student alone, so there was little to distill."),
    ],
)
def test_how_much_of_the_gap_is_closed(run, teacher, ours, said):
    means = {"teacher": teacher, "student alone": 0.80, "hinton": ours}

    def change(result):
        for name, mean in means.items():
            result["arms"][name]["accuracy"] = {"mean": mean, "std": 0.0, "values": [mean] * 2}

    worth = answers(read_run(with_result(run, change)), [])[0]
    assert worth.why.endswith(said)


def test_the_table_says_who_learns_without_the_teacher(run):
    assert "trained without the teacher" not in report_page([read_run(run)])

    def change(result):
        result["arms"]["fitnets"]["method"] = {"name": "mutual"}

    page = report_page([read_run(with_result(run, change))])
    assert page.count("trained without the teacher") == 1
    assert "distilled from the teacher" in page


@pytest.mark.parametrize(("second", "lucky"), [([0.90, 0.92], True), ([0.70, 0.71], False), ([0.93, 0.80], True)])
def test_a_choice_that_the_seeds_do_not_bear_out_is_reported_as_one(run, second, lucky):
    def change(result):
        for name, values in (("hinton", [0.91, 0.92]), ("fitnets", second)):
            result["arms"][name]["development"] = {"mean": sum(values) / 2, "std": 0.0, "values": values}

    which = answers(read_run(with_result(run, change)), [])[1]
    assert which.why.endswith("may be chance." if lucky else "Second best: fitnets.")


def test_a_student_that_is_no_better_than_the_most_frequent_class_is_not_to_be_shipped(run):
    def change(result):
        result["data"]["most_frequent"] = {"development": 0.99, "test": 0.99}

    evidence = read_run(with_result(run, change))
    ships = answers(evidence, [])[-1]
    assert ships.answer == "Nothing yet"
    assert "99.0 %" in ships.why
    assert "most frequent class: 99.00 %" in report_page([evidence])


def test_a_student_at_chance_is_not_to_be_shipped(run):
    def change(result):
        for name in ("student alone", "hinton"):
            result["arms"][name]["accuracy"] = {"mean": 0.11, "std": 0.0, "values": [0.11, 0.11]}

    evidence = read_run(with_result(run, change))
    ships = answers(evidence, [])[-1]
    assert ships.answer == "Nothing yet"
    assert "limbeck export" not in report_page([evidence])
    assert "10.0 %, up to 15.5 % on so few" in ships.why


def test_one_test_example_is_not_called_one_seed(run):
    def change(result):
        result["verdict"] |= {"interval": None, "helps": None}

    evidence = read_run(with_result(run, change))
    said = [headline(evidence).words, *(f"{one.answer} {one.why}" for one in answers(evidence, []))]
    assert "one test example" in said[0]
    assert not any("ne seed" in one for one in said)
    assert any("more test data" in one for one in said)
