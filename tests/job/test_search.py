"""A run records the search that its settings came from."""

from __future__ import annotations

import json

import pytest

from limbeck.errors import DataError
from limbeck.job import (
    collect_settings,
    copy_search,
    describe_arm_budgets,
    format_steps,
    make_job,
    read_search,
    with_absolute_paths,
)
from searches import planted_search

JOB = {"data": "digits", "teacher": "mlp", "student": "mlp"}
ROWS = {"student alone": {"role": "control", "method": {"name": "supervised"}},
        "label smoothing": {"role": "control", "method": {"name": "label_smoothing", "smoothing": 0.1}},
        "shuffled teacher": {"role": "control", "method": {"name": "hinton", "temperature": 3.0}},
        "hinton": {"role": "method", "method": {"name": "hinton", "temperature": 3.0}}}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "search").mkdir()
    return planted_search(tmp_path / "search", used=False)


def test_a_copy_goes_with_the_run_and_stays_what_it_was(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = make_job({**JOB, "search": "search"})
    assert with_absolute_paths(job).search == str(folder)
    out = tmp_path / "out"
    out.mkdir()
    copy_search(job, out)
    kept = (out / "tuned.json").read_bytes()
    assert kept == (folder / "tuned.json").read_bytes()
    planted_search(folder, used=False, seed=1)
    copy_search(job, out)
    assert (out / "tuned.json").read_bytes() == kept, "the search may go on, the run's settings do not"


@pytest.mark.parametrize("search", [None, "nowhere", "search/tuned.json"])
def test_without_one_a_run_goes_on(folder, tmp_path, monkeypatch, search):
    monkeypatch.chdir(tmp_path)
    copy_search(make_job({**JOB, "search": search}), tmp_path)
    assert not (tmp_path / "tuned.json").exists()
    assert read_search(tmp_path) is None


def test_it_is_read_as_it_was_written(folder):
    told, found = json.loads((folder / "tuned.json").read_text()), read_search(folder)
    assert list(found.arms) == list(told["arms"])
    for name, arm in found.arms.items():
        row = told["arms"][name]
        assert list(arm.accuracies) == row["accuracies"]
        assert list(arm.best_so_far) == row["best_so_far"]
        assert arm.chosen == row["best"]["values"]
        assert arm.accuracies[arm.best_trial] == max(arm.accuracies)
        assert arm.between == {"lr": (0.0001, 0.01), "epochs": (5.0, 20.0)}
    assert found.examples == 500


def spoilt(told, how):
    row = told["arms"]["hinton"]
    {
        "no arms": lambda: told.pop("arms"),
        "no best": lambda: row.pop("best"),
        "null": lambda: row.update(accuracies=[None]),
        "short": lambda: row.update(best_so_far=row["best_so_far"][:-1]),
        "empty": lambda: row.update(accuracies=[], best_so_far=[]),
        "list": lambda: told.update(arms=[1]),
        "ends": lambda: row.update(searched={"lr": [1]}),
        "out of range": lambda: row["best"].update(number=99),
        "no luck": lambda: told["development"].update(luck=float("nan")),
        "endless": lambda: told["development"].update(examples=float("inf")),
    }[how]()
    return told


@pytest.mark.parametrize(
    "how",
    ["no arms", "no best", "null", "short", "empty", "list", "ends", "out of range", "no luck", "endless"],
)
def test_a_damaged_one_is_reported(folder, how):
    told = spoilt(json.loads((folder / "tuned.json").read_text()), how)
    (folder / "tuned.json").write_text(json.dumps(told))
    with pytest.raises(DataError, match=r"tuned\.json is damaged"):
        read_search(folder)


@pytest.mark.parametrize("text", ["{", "[" * 100_000], ids=["open", "deep"])
def test_what_is_no_json_is_reported(folder, text):
    (folder / "tuned.json").write_text(text)
    with pytest.raises(DataError, match="damaged"):
        read_search(folder)


class TestEffort:
    def test_equal(self, folder):
        said = read_search(folder).describe_effort(["student alone", "label smoothing", "hinton", "fitnets"])
        assert said.startswith("Equal effort: 6 settings tried for every arm, the baselines too, on 500")
        assert "Not searched" not in said

    def test_without_a_baseline_none_is_claimed(self, tmp_path):
        planted_search(tmp_path, tried={"hinton": 4, "fitnets": 4}, used=False)
        said = read_search(tmp_path).describe_effort(["student alone", "hinton"])
        assert "baselines too" not in said
        assert said.endswith("Not searched, with the job's own settings: student alone.")

    def test_unequal(self, tmp_path):
        planted_search(tmp_path, tried={"student alone": 2, "hinton": 9}, used=False)
        said = read_search(tmp_path).describe_effort(["student alone", "hinton"])
        assert said.startswith("Unequal effort: 2 for student alone, 9 for hinton")
        assert "2 for student alone, 9 for hinton" in said


def test_what_was_not_used_is_reported(folder):
    found = read_search(folder)
    chosen = {arm: dict(row.chosen) for arm, row in found.arms.items()}
    assert found.list_changes(chosen) == []
    assert found.list_changes({}) == [], "an arm that did not run used nothing"
    chosen["hinton"]["lr"] *= 2
    chosen["fitnets"].pop("epochs")
    said = found.list_changes(chosen)
    assert len(said) == 2
    assert said[0].startswith("hinton ran with lr ")
    assert said[1].startswith("fitnets ran with epochs its default in place of ")


def test_used_settings_are_the_budget_the_arm_s_own_and_its_method_s():
    job = {"budget": {"lr": 0.1, "epochs": 3}, "budgets": {"hinton": {"lr": 0.2, "epochs": None, "smoothing": None}}}
    used = collect_settings(job, ROWS)
    assert (used["hinton"]["lr"], used["hinton"]["epochs"], used["hinton"]["temperature"]) == (0.2, 3, 3.0)
    assert used["student alone"]["lr"] == 0.1
    assert used["label smoothing"]["smoothing"] == 0.1
    assert collect_settings({}, ROWS)["hinton"] == ROWS["hinton"]["method"]


def test_own_budgets_in_words():
    own = {"hinton": {"lr": 0.00123456, "epochs": None}, "label smoothing": {"smoothing": 0.0}, "gone": {"lr": 1.0}}
    assert describe_arm_budgets(own, ROWS) == {
        "label smoothing": "smoothing 0", "shuffled teacher": "lr 0.001235", "hinton": "lr 0.001235"}  # fmt: skip
    assert describe_arm_budgets({}, ROWS) == {}


def test_steps_in_words():
    assert format_steps(ROWS) is None
    assert format_steps({name: {"steps": 1200} for name in ROWS}) == "1,200 for every arm"
    assert format_steps({"a": {"steps": 5}, "b": {"steps": 10}, "teacher": {}}) == "a 5; b 10"
