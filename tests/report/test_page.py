"""The page is complete, valid and short for every kind of run."""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
import time
from html.parser import HTMLParser

import pytest
import yaml

from limbeck.errors import LimbeckError
from limbeck.report import read_run, report_page, write_report
from limbeck.report.summary import answers, headline, recommended_student
from report_runs import planted_run, with_result
from results import result as old_result
from searches import planted_search

VOID = {"meta", "link", "img", "br", "hr", "input", "col"}
NASTY = ("<script>alert(1)</script>", "b & \"c\" 'd'")


sentences = pytest.mark.usefixtures("without_figures")


class Page(HTMLParser):
    """A strict reader: every element that opens closes, in order, and ids are single."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.links, self.tags, self.texts, self.fetched = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        assert len(given) == len(attributes), f"{tag} has an attribute twice"
        assert not [name for name in given if name.startswith("on")]
        self.tags.append((tag, given))
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"][1:]] if given.get("href", "").startswith("#") else []
        self.fetched += [v for k, v in attributes if k in ("src", "href") and not v.startswith(("#", "data:"))]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(self.texts)


def checked(*runs):
    """The page of these runs, read strictly."""
    text = report_page([read_run(run) for run in runs])
    page = Page(text)
    assert len(set(page.ids)) == len(page.ids)
    assert set(page.links) <= set(page.ids)
    assert page.fetched == []
    names = [tag for tag, _ in page.tags]
    assert names.count("h1") == names.count("main") == 1
    assert "script" not in names
    assert not re.search(r"@import|url\((?!#)|https?://", text)
    for tag, given in page.tags:
        assert tag != "svg" or given.get("aria-hidden") or len(given["aria-label"]) > 10
        assert tag != "img" or given["alt"]
        assert tag != "th" or given["scope"] in ("col", "row")
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b\.\d", page.text)
    return page


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"classes": 2, "names": NASTY, "judged": "distilled", "arms": {"student alone": 0.5, "distilled": 0.9}},
        {"classes": 100, "test": 800, "seeds": 1},
        {"seeds": 1},
        {"development": False},
        {"predictions": False, "pictures": False},
        {"arms": {"distilled": 1.0}, "judged": "distilled"},
        {"arms": {"student alone": 1.0, "hinton": 1.1, "a <b>": 1.0}},
    ],
)
def test_it_is_whole_whatever_the_run_holds(tmp_path, given):
    page = checked(planted_run(tmp_path / "run", **{"test": 200, "seeds": 2, **given}))
    for question in ("worth it?", "Which method", "How certain", "Which classes", "How fast", "Which student to ship"):
        assert question.lower() in page.text.lower()
    assert "What is not known" in page.text


def test_class_names_are_text(tmp_path):
    run = planted_run(tmp_path / "run", classes=2, names=NASTY, test=200)
    text = report_page([read_run(run)])
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert NASTY[0] in checked(run).text


@sentences
def test_an_old_result_is_shown_for_what_it_holds(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "result.json").write_text(json.dumps(old_result()))
    page = checked(tmp_path / "old")
    assert "has no predictions" in page.text
    assert "There is no job.yaml" in page.text or "The job is not known" in page.text


@pytest.mark.parametrize("broken", [None, [], "x", {"values": [None]}, {"mean": None, "values": [None, 0.5]}])
def test_measures_that_are_no_numbers_are_dashes(tmp_path, broken):
    def spoil(found):
        for arm in found["arms"].values():
            arm.update(accuracy=broken, nll=None, agreement=None, milliseconds=None, megabytes=0, development=broken)
            arm["measures"] = dict.fromkeys(arm["measures"], broken)
        found["verdict"].update(difference=None, interval=None, helps=None, methods=[], against={"x": None})

    page = checked(with_result(planted_run(tmp_path / "run", test=100), spoil))
    assert "No verdict" in page.text


def verdict(mean, low, high, against=None):
    interval = None if low is None else [low, high]
    return {"arm": "hinton", "difference": mean, "interval": interval, "helps": None, "sentence": "So it is.",
            "against": against or {}}  # fmt: skip


BEATEN = {"label smoothing": {"difference": -0.02, "interval": [-0.03, -0.01], "sentence": ""}}
EVEN = {"label smoothing": {"difference": 0.001, "interval": [-0.01, 0.02], "sentence": ""}}


@pytest.mark.parametrize(
    ("found", "kind", "words", "ship"),
    [
        (verdict(0.02, 0.01, 0.03), "yes", "Yes", "hinton"),
        (verdict(0.02, 0.01, 0.03, BEATEN), "unsure", "label smoothing does better", "label smoothing"),
        (verdict(0.02, 0.01, 0.03, EVEN), "unsure", "label smoothing may do as well", "hinton"),
        (verdict(0.02, -0.01, 0.05), "unsure", "Not shown", "hinton"),
        (verdict(-0.02, -0.03, -0.01), "no", "worse", "student alone"),
        (verdict(0.02, None, None), "unsure", "one test example", "hinton"),
        (verdict(None, None, None), "unsure", "No verdict", "hinton"),
    ],
)
@sentences
def test_the_headline_explains_what_the_intervals_say(tmp_path, found, kind, words, ship):
    run = with_result(planted_run(tmp_path / "run", test=100), lambda result: result.update(verdict=found))
    evidence = read_run(run)
    said = headline(evidence)
    assert said.kind == kind
    assert words in said.words
    assert recommended_student(evidence)[0] == ship
    assert len(answers(evidence, [])) == 6
    checked(run)


@sentences
def test_with_one_seed_no_class_surely_loses(tmp_path):
    worse = {"student alone": 3.0, "hinton": 0.3}
    one = checked(planted_run(tmp_path / "one", seeds=1, arms=worse, test=2000)).text
    assert "One seed compares two models, not two methods" in one
    assert "beyond chance: " not in one
    five = checked(planted_run(tmp_path / "five", seeds=5, arms=worse, test=2000)).text
    assert "lose accuracy, beyond chance: " in five


@sentences
def test_one_seed_withholds_its_interval(tmp_path):
    page = checked(planted_run(tmp_path / "run", test=100, seeds=1))
    assert "One seed gives no interval" in page.text
    assert "±" not in re.sub(r"mean over seeds ±|mean ±|± one standard deviation", "", page.text)


@sentences
def test_budgets_of_arms_and_their_steps_are_in_the_protocol(tmp_path):
    def steps(found):
        for count, arm in enumerate(found["arms"].values()):
            arm["steps"] = 100 * count or None

    run = with_result(planted_run(tmp_path / "run", test=100), steps)
    job = yaml.safe_load((run / "job.yaml").read_text())
    own = {"student alone": {"lr": 0.003, "epochs": 12, "smoothing": None}, "hinton": {"epochs": 7}}
    (run / "job.yaml").write_text(yaml.safe_dump({**job, "budgets": own}))
    texts = checked(run).texts
    for arm, said in (
        ("student alone", "epochs 12, lr 0.003"),
        ("hinton", "epochs 7"),
        ("shuffled teacher", "epochs 7"),
    ):
        assert texts[texts.index(f"budget of {arm}") + 1] == f"{said}; otherwise as above"
    assert "budget of fitnets" not in texts
    said = "student alone 100; label smoothing 200; shuffled teacher 300; hinton 400; fitnets 500"
    assert ("optimizer steps", said) in itertools.pairwise(texts)
    assert texts[texts.index("settings") + 1].startswith("those of the job file; ")


class TestSearched:
    """A run whose settings came from `limbeck tune`."""

    def test_the_search_is_shown(self, tmp_path):
        page = checked(planted_search(planted_run(tmp_path / "run", test=100)))
        assert "How the settings were chosen" in page.texts
        assert "Best accuracy so far" in page.texts
        assert "search" in page.links
        assert "Equal effort: 6 settings tried for every arm, the baselines too" in page.text
        assert "did not use all chosen settings" not in page.text
        chosen = json.loads((tmp_path / "run" / "tuned.json").read_text())["arms"]["hinton"]["best"]["values"]
        assert f"lr {chosen['lr']:.4g}" in page.texts

    @sentences
    def test_a_run_without_one_says_nothing_of_it(self, tmp_path):
        page = checked(planted_run(tmp_path / "run", test=100))
        assert "search" not in page.links
        assert "How the settings were chosen" not in page.text

    @sentences
    def test_settings_that_were_not_used_are_reported(self, tmp_path):
        page = checked(planted_search(planted_run(tmp_path / "run", test=100), used=False))
        assert "This run did not use all chosen settings" in page.text
        assert re.search(r"hinton ran with (lr|epochs) \S+ in place of", page.text)

    @sentences
    def test_an_arm_that_was_not_searched_is_reported(self, tmp_path):
        run = planted_search(
            planted_run(tmp_path / "run", test=100), tried={"student alone": 3, "hinton": 5, "gone": 3}
        )
        text = checked(run).text
        assert "Unequal effort: 3 for student alone, 5 for hinton, 3 for gone" in text
        assert "Not searched, with the job's own settings: label smoothing, fitnets." in text

    def test_trials_below_the_figure_are_counted(self, tmp_path):
        run = planted_search(planted_run(tmp_path / "run", test=100), first=0.1)
        found = re.search(r"(\d+) trials are below the figure; the lowest accuracy is 10\.00 %\.", checked(run).text)
        assert 4 <= int(found[1]) < 24

    @sentences
    def test_a_search_that_is_gone_or_damaged_is_not_known(self, tmp_path):
        run = planted_search(planted_run(tmp_path / "run", test=100))
        (run / "tuned.json").write_text("{}")
        assert re.search(r"search is not known: \S*tuned\.json is damaged", checked(run).text)
        (run / "tuned.json").unlink()
        text = checked(run).text
        assert "which did not exist when this run started" in text
        assert "from a search that is not available" in text

    @sentences
    def test_several_runs_of_which_one_was_searched(self, tmp_path):
        runs = [planted_run(tmp_path / name, test=100) for name in ("one", "two")]
        planted_search(runs[0])
        page = checked(*runs)
        assert page.texts.count("How the settings were chosen") == 1


@sentences
def test_as_fast_as_it_is(tmp_path):
    for slow, said in ((9.0, "9.0 times as fast"), (1.02, "As fast"), (0.5, "2.0 times as slow")):
        run = planted_run(tmp_path / said, test=100)
        with_result(run, lambda found, slow=slow: found["arms"]["teacher"].update(milliseconds=0.02 * slow))
        assert said in checked(run).texts


@sentences
def test_examples_that_are_not_there_any_more(tmp_path):
    run = planted_run(tmp_path / "run", test=100)
    (run / "pictures.npz").unlink()
    page = checked(run)
    assert "The examples cannot be shown" in page.text
    assert not [tag for tag, _ in page.tags if tag == "img"]


@sentences
def test_data_that_have_changed_are_not_shown(tmp_path):
    run, other = (planted_run(tmp_path / name, test=size) for name, size in (("run", 100), ("other", 120)))
    job = yaml.safe_load((run / "job.yaml").read_text())
    (run / "job.yaml").write_text(yaml.safe_dump({**job, "data": str(other / "pictures.npz")}))
    assert "the data set has changed" in checked(run).text


@sentences
def test_examples_are_images_texts_or_rows(tmp_path):
    assert [tag for tag, _ in checked(planted_run(tmp_path / "pictures", test=100)).tags if tag == "img"]
    run = planted_run(tmp_path / "rows", test=100)
    names = [f"class {i}" for i in range(10)]
    labels = read_run(run).labels.tolist()
    rows = "".join(f"{i / 7:.3f},{'town' if i % 2 else 'land'},{names[label]}\n" for i, label in enumerate(labels))
    header = "height,place,kind\n"
    (tmp_path / "test.csv").write_text(header + rows)
    (tmp_path / "train.csv").write_text(header + "".join(f"1,town,{n}\n2,land,{n}\n" for n in names))
    job = yaml.safe_load((run / "job.yaml").read_text())
    data = {"name": str(tmp_path / "train.csv"), "test": str(tmp_path / "test.csv"), "target": "kind"}
    (run / "job.yaml").write_text(yaml.safe_dump({**job, "data": data}))
    pytest.importorskip("pyarrow", reason="Tables need pyarrow, which is not installed.")
    page = checked(run)
    assert "height" in page.texts
    assert {"town", "land"} & set(page.texts)


def test_several_runs_stand_side_by_side(tmp_path):
    runs = [planted_run(tmp_path / name, test=100, seed=i) for i, name in enumerate(("narrow", "wide"))]
    page = checked(*runs)
    assert "runs show that distillation is worth it" in page.text
    assert {"narrow", "wide"} <= set(page.texts)


@sentences
def test_runs_of_one_name_are_distinguished(tmp_path):
    runs = [planted_run(tmp_path / name / "run", test=100) for name in ("a", "b")]
    assert {str(run) for run in runs} <= set(checked(*runs).texts)


@pytest.mark.parametrize("other", [{"test": 80}, {"classes": 5}])
@sentences
def test_runs_of_different_data_are_refused(tmp_path, other):
    one = planted_run(tmp_path / "one", test=100)
    with pytest.raises(LimbeckError, match="different test data"):
        write_report([one, planted_run(tmp_path / "two", **{"test": 100, **other})])


@sentences
def test_it_writes_over_a_report_and_over_nothing_else(tmp_path):
    run = planted_run(tmp_path / "run", test=100)
    assert write_report([run]) == write_report([run]) == run / "report.html"
    for path, said in ((run / "job.yaml", "is not a report"), (run, "is a folder")):
        with pytest.raises(LimbeckError, match=said):
            write_report([run], path)
    assert "data:" in (run / "job.yaml").read_text()
    with pytest.raises(LimbeckError, match="at least one run"):
        write_report([])


@pytest.mark.soak
def test_ten_runs_are_quick_and_light(tmp_path):
    runs = [planted_run(tmp_path / f"run {i}", test=1000, seeds=5, seed=i) for i in range(10)]
    best = math.inf
    for _ in range(2):  # the first also imports what it needs
        began = time.process_time()
        path = write_report(runs, tmp_path / "page.html")
        best = min(best, time.process_time() - began)
    assert best < 5
    assert path.stat().st_size < 6_000_000


def test_commands_that_read_python_files_of_a_job_have_the_option(tmp_path, monkeypatch):
    run = planted_run(tmp_path / "run")
    page = write_report([run]).read_text()
    assert "limbeck cite" in page
    assert "--trust" not in page
    monkeypatch.setattr(sys.modules["limbeck.job.opening_code"], "_names_files", lambda folder: True)
    assert re.search(r"limbeck cite \S+ --trust<", write_report([run]).read_text())
