"""All sources that a run used are cited, and no others."""

from __future__ import annotations

import re

import pytest
import torch
import yaml

import limbeck as lb
from limbeck.cli.results import run_cite
from limbeck.errors import LimbeckError
from limbeck.export import bibtex, cite
from limbeck.export import citations as tables_of
from limbeck.export.citations import _METRICS, _network, _papers, citations, read_entries
from limbeck.export.finished_run import open_finished
from limbeck.functional import kl_divergence
from limbeck.job import MethodSettings, make_job
from limbeck.methods import method, names
from limbeck.metrics import METRICS
from limbeck.testing.method import require_bibtex

ENTRY = re.compile(r"@\w+\{[^,\s]+,\n(  \w+ = \{.*(\n {10,}.*)*\},?\n)+\}")


SAMPLED = {"name": "sampled", "draws": 8}


def changed(done, **changes):
    """The same run, as if its job had asked for other things."""
    opened = open_finished(done)
    job = yaml.safe_load((done / "job.yaml").read_text())
    job = {key: value for key, value in job.items() if key != "methods" or value}
    return opened._replace(job=make_job({**job, **changes}))


def used(found):
    return {one.key: one.used for one in found}


def test_a_run_as_it_is(done):
    found = cite(done)
    assert used(found)["hinton2015distilling"] == "method hinton"
    assert used(found)["limbeck"] == "limbeck"
    assert {"stanton2021does", "guo2017calibration"} <= set(used(found))
    assert not {"szegedy2016rethinking", "he2016deep", "lecun1998gradient"} & set(used(found))
    # Data of one's own have no entry that limbeck knows; it says so, and makes none up.
    assert [one.used for one in found if one.bibtex is None] == ["data blobs.npz"]
    assert "% data blobs.npz: limbeck has no entry" in bibtex(found)


def test_what_was_used_is_cited_once(done):
    run = changed(
        done, data="mnist", student={"model": "resnet8"}, teacher={"model": "resnet20"},
        arms=["teacher", "label smoothing", "distilled"], method={"name": "function_matching"},
        budget={"mix": "mixup", "augment": ["crop", {"cut_out": {"size": 2}}]}, cache={"encoding": SAMPLED},
    )  # fmt: skip
    found = used(citations(run))
    assert found["he2016deep"] == "student resnet8, teacher resnet20"
    wanted = {"lecun1998gradient", "zhang2018mixup", "devries2017improved", "szegedy2016rethinking"}
    assert {*wanted, "anshumann2025sparse", "beyer2022knowledge"} <= set(found)
    assert "hinton2015distilling" not in found
    text = bibtex(citations(run, to="int8"))
    assert text.count("@inproceedings{he2016deep") == 1
    assert "jacob2018quantization" in text


def test_a_student_of_its_teacher_s_layers_cites_who_did_so_first(done):
    run = changed(done, student={"model": "shallow", "layers": 1}, teacher={"model": "hf:bert", "pretrained": False})
    assert used(citations(run))["sanh2019distilbert"] == "student shallow"


def test_every_method_of_a_comparison(done):
    job = yaml.safe_load((done / "job.yaml").read_text())
    job.pop("method")
    run = open_finished(done)._replace(job=make_job({**job, "methods": ["hinton", "logit_matching", "born_again"]}))
    assert {"hinton2015distilling", "ba2014deep", "bucilua2006model", "furlanello2018born"} <= set(used(citations(run)))


def test_a_method_that_is_gone_is_no_error(done):
    run = open_finished(done)
    (own,) = citations(
        run._replace(job=run.job.model_copy(update={"method": MethodSettings(name="/nowhere/own.py:soft")}))
    )[:1]
    assert (own.used, own.bibtex) == ("method own.py:soft", None)


def test_every_entry_is_whole():
    tables = (tables_of.__dict__[name] for name in ("_DATA", "_TRANSFORMS", "_METRICS", "_EXTRA_METRICS", "_ENCODINGS"))
    keys = {key for table in tables for keys in table.values() for key in keys.split()}
    keys |= {tables_of._INT8, "he2016deep", "sanh2019distilbert", "li2017pruning", "fang2023depgraph"}
    assert keys == set(_papers())
    for entry in _papers().values():
        assert ENTRY.fullmatch(entry), entry
        assert entry.count("{") == entry.count("}")
        assert "year = {" in entry


def test_the_entry_of_every_card_is_whole():
    for name in names():
        require_bibtex(method(name).card.bibtex)


def test_methods_of_one_paper_share_its_entry():
    entries = {}
    for name in names():
        card = method(name).card
        if card.arxiv:
            assert card.bibtex is entries.setdefault(card.arxiv, card.bibtex), name


@pytest.mark.parametrize("name", METRICS)
def test_a_measure_cites_whom_it_names_as_its_source(name):
    named = re.findall(r"(?:Source: |; )([A-Z][a-z]+)(?:,| et al)", " ".join((METRICS[name].__doc__ or "").split()))
    cited = re.findall(r"author = \{(\w+)", read_entries(_METRICS.get(name, "")))
    assert cited == named


def test_what_was_measured_besides_is_cited(done):
    run = open_finished(done)
    assert "hendrycks2019benchmarking" not in used(citations(run))
    found = used(citations(run._replace(result={**run.result, "cka": {}, "corruptions": {}})))
    assert found["kornblith2019similarity"] == found["nguyen2021wide"] == "metric cka"
    assert found["hendrycks2019benchmarking"] == "metric corruptions"
    assert found["lukasik2022teachers"] == "metric agreement_where_teacher_wrong, metric worst_class_accuracy"


@pytest.mark.parametrize("name", ["resnet8", "resnet110"])
def test_networks(name):
    assert "he2016deep" in (_network(name) or "")
    assert _network("resnetish") is None


def test_no_run(tmp_path):
    with pytest.raises(LimbeckError, match="no run at"):
        cite(tmp_path / "none")


def test_a_run_made_in_python(tmp_path, capsys):
    data, teacher = (torch.randn(8, 3), torch.arange(8) % 2), torch.nn.Linear(3, 2)
    by_hand = lb.Stage(lb.Loss(kl_divergence, temperature=2.0), teacher=teacher, epochs=1)
    for name, recipe in (("made", lb.methods.make("logit_matching", teacher=teacher, epochs=1)), ("own", by_hand)):
        lb.distill(torch.nn.Linear(3, 2), recipe, data, out=tmp_path / name).finish()
    assert {"ba2014deep", "bucilua2006model", "limbeck"} == {one.key for one in cite(tmp_path / "made")} - {None}
    assert {"hinton2015distilling", "limbeck"} == {one.key for one in cite(tmp_path / "own")} - {None}
    run_cite(str(tmp_path / "own"), as_json=False)
    assert "your script" in capsys.readouterr().out
    (tmp_path / "own" / "run.json").write_text("[")
    with pytest.raises(LimbeckError, match=r"run\.json"):
        cite(tmp_path / "own")
