"""`limbeck compare`: several methods and a report page."""

from __future__ import annotations

import pytest
import yaml

from limbeck.checksums import read_json
from small_jobs import refused, typed_here

EVERY = ["teacher", "student alone", "label smoothing", "shuffled teacher", "hinton", "logit_matching"]


@pytest.fixture(scope="module")
def compared(done):
    """A comparison in the folder where a job lies: how it ended, and its folder."""
    folder, _ = done
    ended = typed_here(
        "compare", "job.yaml", "--methods", "hinton, logit_matching", "--seeds", 2,
        "--set", "methods.hinton.temperature=3", "--out", "both", "--json", cwd=folder,
    )  # fmt: skip
    return ended, folder / "both"


def test_one_object_speaks_the_shape_of_a_single_job_and_names_the_page(compared, done):
    ended, run = compared
    assert ended.code == 0, ended.err
    single = done[1].result
    assert set(ended.result) == set(single)
    assert list(ended.result["arms"]) == EVERY
    assert ended.result["arms"]["hinton"]["method"] == {"name": "hinton", "temperature": 3}
    assert set(ended.result["verdict"]["against"]) == {"label smoothing", "shuffled teacher"}
    assert set(ended.result["verdict"]["methods"]) == {"hinton", "logit_matching"}
    assert ended.result["report"] == "both/report.html"
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert all(name in page for name in EVERY)
    assert read_json(run / "result.json") == ended.result


def test_it_goes_on_where_it_was_stopped_and_changes_nothing_that_is_done(compared, done):
    ended, run = compared
    (run / "result.json").unlink()
    again = typed_here("resume", "both", "--json", cwd=done[0])
    assert again.code == 0, again.err
    for name in EVERY:
        assert again.result["arms"][name]["accuracy"] == ended.result["arms"][name]["accuracy"]
    assert again.result["shipped"] == ended.result["shipped"]


def test_five_seeds_and_every_control_unless_the_job_says_otherwise(limbeck, job):
    found = yaml.safe_load(limbeck("compare", job, "--methods", "logit_matching,hinton", "--print-job").out)
    assert found["seeds"] == 2, "as the file says"
    assert found["arms"] == ["teacher", "student alone", "label smoothing", "shuffled teacher", "distilled"]
    assert found["method"]["name"] == "logit_matching"
    bare = limbeck("compare", "--data", "digits", "--teacher", "mlp", "--student", "mlp", "--print-job").out
    assert yaml.safe_load(bare)["seeds"] == 5
    kept = limbeck("compare", job, "--set", "arms=[student alone, distilled]", "--print-job").out
    assert yaml.safe_load(kept)["arms"] == ["student alone", "distilled"]


def test_a_method_without_a_teacher_has_no_shuffled_one(limbeck, job):
    found = yaml.safe_load(limbeck("compare", job, "--methods", "mutual", "--print-job").out)
    assert "shuffled teacher" not in found["arms"]


def test_a_method_whose_texts_a_model_writes_has_no_shuffled_one(limbeck, job):
    """Its answers would be about texts that are not written before, so the whole comparison would be refused."""
    for words, has_one in (
        (["gkd,distillspec"], False), (["gkd", "--set", "methods.gkd.share=0"], True), (["distillm"], True),
        (["distillm", "--set", "methods.distillm.share=0.5"], False), (["hinton,gkd"], True),
    ):  # fmt: skip
        found = limbeck("compare", job, "--task", "language_modeling", "--methods", *words, "--print-job")
        assert found.code == 0, found.err
        assert ("shuffled teacher" in yaml.safe_load(found.out)["arms"]) == has_one, words


def test_a_method_may_stand_twice_with_other_settings(limbeck, job):
    words = ["--methods", "hinton,hinton", "--set", "methods.hinton#2.temperature=9", "--print-job"]
    assert [one.get("temperature") for one in yaml.safe_load(limbeck("compare", job, *words).out)["methods"]] == [
        None,
        9,
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "hinton,hintn"], "hintn"),
        (["--methods", " , "], "--methods hinton,logit_matching"),
        (["--methods", "hinton,logit_matching, hinton"], "hinton is listed twice"),
        (["--methods", "hinton,fitnets"], "--set methods.fitnets.hint=..."),
        (["--methods", "hinton,logit_matching", "--set", "methods.temperature=3"], "methods.NAME.KEY=VALUE"),
        (["--methods", "hinton,logit_matching", "--set", "methods.hintn.weight=1"], "one of hinton, logit_matching"),
        (["--methods", "hinton,logit_matching", "--set", "methods.hinton.temprature=3"], "temperature"),
    ],
)  # fmt: skip
def test_what_makes_no_comparison_is_reported_in_one_sentence(limbeck, job, words, said):
    refused(limbeck("compare", job, *words), said)
