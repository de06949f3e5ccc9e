"""Extra metrics on the command line, and their errors."""

from __future__ import annotations

import numpy as np
import pytest

from small_jobs import job_file, refused, small_job


@pytest.fixture
def grouped(here, job):
    """The same job on data whose groups have names that a terminal could take for markup."""
    found = dict(np.load(here / "blobs.npz"))
    np.savez(here / "blobs.npz", **found, region_test=np.array(["[/b]", "[red]"] * 30))
    data = {"name": "blobs.npz", "groups": "region"}
    return job_file(here / "job.yaml", small_job(data, seeds=1, arms=["student alone", "distilled"]))


def test_each_has_a_line(limbeck, grouped):
    ended = limbeck("distill", grouped, "--set", "also=[cka, corruptions]", "--out", "run")
    assert ended.code == 0, ended.err
    said = " ".join(ended.out.split())
    assert "Extra metrics at the end: cka of 60 test examples; corruptions of 60 test examples (about" in said
    for begins in (
        "Layers: the similarity (linear CKA)",
        "Corrupted images (8 corruptions at 5 severities, 60 test examples)",
        "Groups: the worst of 2 groups by region: student alone [",
        "less student alone",
    ):
        assert begins in said
    assert "[/b]" in said or "[red]" in said
    shown = limbeck("resume", "run")
    assert "Layers: the similarity" in " ".join(shown.out.split())


def test_one_object_has_a_key_for_each(limbeck, grouped):
    ended = limbeck("compare", grouped, "--methods", "hinton", "--seeds", 1, "--set", "also=cka", "--json")
    assert ended.code == 0, ended.err
    assert ended.result["groups"]["by"] == "region"
    assert "corruptions" not in ended.result
    assert {"examples", "teacher", "teacher_layers", "arms", "sentence"} == set(ended.result["cka"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "also=[ckaa]"], "Did you mean 'cka'? Known: attacks, cka, corruptions"),
        (["--set", "also=3"], "also: input should be"),
        (["--set", "data.groups=regoin"], "Did you mean 'region'?"),
        (["--set", "data.gruops=region"], "Did you mean 'groups'?"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(limbeck, grouped, words, said):
    refused(limbeck("distill", grouped, *words), said)


def test_the_doctor_tries_it(limbeck, here, grouped):
    ended = limbeck("doctor", grouped, "--set", "also=[cka, corruptions]", "--json")
    found = {one["name"]: one for one in ended.result["checks"]}["extra metrics"]
    assert found["state"] == "ok"
    assert found["sentence"].startswith("Extra metrics at the end: cka of 60 test examples; corruptions of 60")
    rows = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    np.savez(here / "rows.npz", x=rows, y=np.arange(60) % 2)
    table = job_file(here / "rows.yaml", small_job(str(here / "rows.npz")))
    ended = limbeck("doctor", table, "--set", "also=corruptions", "--json")
    found = {one["name"]: one for one in ended.result["checks"]}["extra metrics"]
    assert (ended.code, found["state"]) == (1, "wrong")
    for word in ("corruptions", "rows.npz", "a row of 3 numbers"):
        assert word in found["sentence"]
    ended = limbeck("doctor", table, "--json")
    assert "extra metrics" not in [one["name"] for one in ended.result["checks"]]
