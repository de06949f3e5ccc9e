"""`limbeck papers`: plan, one execution per task, and the table."""

from __future__ import annotations

import json
import sys
from functools import partial
from types import ModuleType

import pytest

from limbeck.cli import main
from limbeck.errors import LimbeckError, UnknownNameError
from limbeck.papers import Experiment, ExperimentScale, Reproduction, Row, paper_names
from limbeck.papers import paper as paper_of
from limbeck.report import paper_markdown
from limbeck.task_runner import WorkItem, hash_tasks, sort_tasks
from papers.queue_tasks import count


def tasks(scale: ExperimentScale) -> list[WorkItem]:
    return [WorkItem(f"sum/seed-{seed}", partial(count, number=10 * seed + 3)) for seed in scale.seeds]


def rows(scale: ExperimentScale, found) -> list[Row]:
    values = [found[f"sum/seed-{seed}"]["number"] for seed in scale.seeds]
    return [Row("the sum", values, "errors", 12, aim=12.5), Row("its inverse", [1 / v for v in values], "points")]


@pytest.fixture
def toy(monkeypatch):
    module = ModuleType("limbeck.papers.toy2015")
    module.CLAIM, module.SEEDS = "Sums add up.", {"quick": 1, "full": 3}
    module.TITLE, module.EXPERIMENTS = "Nobody, Sums, 2015", (Experiment("sums", "Do they add up?", tasks, rows),)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names = (*paper_names(), "toy2015")
    # The search first: imported after the others, it would keep their changed names for good.
    for place in ("limbeck.papers.search", "limbeck.papers.reproduction", "limbeck.papers"):
        monkeypatch.setattr(f"{place}.paper_names", lambda: names)


def reproduce(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["papers", *words])
    return int(ended.value.code or 0)


def test_the_table_has_the_papers_number_beside_ours(toy, tmp_path, capsys):
    assert reproduce("toy2015", "--scale", "full", "--out", str(tmp_path / "r"), "--json") == 0
    told = capsys.readouterr()
    table = json.loads(told.out)["experiments"]["sums"]
    assert table["title"] == "Do they add up?"
    assert table["rows"][0] == {
        "name": "the sum",
        "paper": 12,
        "ours": {"mean": 13.0, "values": [3, 13, 23]},
        "unit": "errors",
        "lower_is_better": True,
        "aim": 12.5,
        "met": False,
        "note": "",
        "column": "",
    }
    assert (table["rows"][1]["paper"], table["rows"][1]["met"]) == (None, None)
    assert "on this machine" in told.err
    assert "sum/seed-2: number 23" in told.err
    shown = (tmp_path / "r" / "table.md").read_text()
    assert "| the sum | 12 | 13 ± 10 errors | 3, 13, 23 | ≤ 12.5 | missed |" in shown


def test_a_second_call_shows_what_is_there(toy, tmp_path, capsys):
    for _ in range(2):
        assert reproduce("toy2015", "--out", str(tmp_path / "r")) == 0
    told = capsys.readouterr().out
    assert "all done" in told
    assert (tmp_path / "r" / "sum" / "seed-0" / "calls").read_text() == "called\n"
    assert told.count("the sum") == 2


def test_a_quick_number_has_no_aim(toy, tmp_path):
    table = Reproduction("toy2015", out=tmp_path / "r", workers=1).run()
    assert [row["met"] for row in table["experiments"]["sums"]["rows"]] == [None, None]
    assert "≤" not in paper_markdown(table)


def test_a_folder_belongs_to_one_scale(toy, tmp_path):
    Reproduction("toy2015", out=tmp_path / "r")
    with pytest.raises(LimbeckError, match="scale 'quick', not 'full'"):
        Reproduction("toy2015", scale="full", out=tmp_path / "r")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(LimbeckError, match="holds no reproduction"):
        Reproduction("toy2015", out=tmp_path / "other")


@pytest.mark.parametrize("text", ["", "{}", "3", '{"sca'])
def test_a_folder_that_does_not_say_its_scale_is_refused_in_a_sentence(toy, tmp_path, text):
    (tmp_path / "reproduction.json").write_text(text)
    with pytest.raises(LimbeckError, match=r"reproduction\.json is damaged"):
        Reproduction("toy2015", out=tmp_path)


def test_what_is_unknown_is_named_with_the_nearest(tmp_path):
    with pytest.raises(UnknownNameError, match="hinton2015"):
        paper_of("hinton2016")
    with pytest.raises(UnknownNameError, match="omit3"):
        Reproduction("hinton2015", only=["omit33"], out=tmp_path / "r")
    with pytest.raises(UnknownNameError, match="full"):
        Reproduction("hinton2015", scale="ful", out=tmp_path / "r")
    with pytest.raises(LimbeckError, match="seeds=0"):
        Reproduction("hinton2015", seeds=0, out=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_every_experiment_of_the_paper_has_tasks_and_none_is_there_under_two_names():
    scale = ExperimentScale("full", (0, 1, 2))
    for experiment in paper_of("hinton2015").experiments.values():
        planned = sort_tasks(experiment.tasks(scale))
        assert all(task.seconds > 0 for task in planned), experiment.name
        assert len(planned) == len(set(hash_tasks(planned).values())), experiment.name


def test_papers_are_listed_without_a_name(toy, capsys):
    assert reproduce() == 0
    shown = capsys.readouterr().out
    for name in paper_names():
        assert f"limbeck papers {name} " in shown
    assert "sums: Do they add up?" in shown
    assert reproduce("--json") == 0
    listed = {one["name"]: one for one in json.loads(capsys.readouterr().out)["papers"]}
    assert set(listed) == {*paper_names(), "toy2015"}
    assert listed["toy2015"]["experiments"] == {"sums": "Do they add up?"}
    assert listed["o1journey"]["seeds"]["quick"] == 5
    assert listed["o1journey"]["seconds"]["full"] > listed["o1journey"]["seconds"]["quick"] > 0


def test_the_list_says_which_data_are_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert reproduce() == 0
    shown = capsys.readouterr().out
    assert " 0 s" not in shown
    part = shown.partition("limbeck papers tung2019 ")[2].partition("limbeck papers")[0]
    assert "fashion_mnist.npz" in part
    assert str(tmp_path) in part
    assert reproduce("--json") == 0
    listed = {one["name"]: one for one in json.loads(capsys.readouterr().out)["papers"]}
    assert "fashion_mnist.npz" in listed["tung2019"]["skipped"]["similarities"]
    assert listed["pouransari2020"]["skipped"] == {}
