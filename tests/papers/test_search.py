"""Papers are found by name, author, year, arXiv number and method, and a search runs nothing."""

from __future__ import annotations

import pytest

from limbeck.cli import experiments
from limbeck.errors import UnknownNameError
from limbeck.papers import paper, paper_names
from limbeck.papers.search import find_papers


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("hinton2015", "hinton2015"), ("HINTON 2015", "hinton2015"), ("1503.02531", "hinton2015"),
        ("arXiv:2002.03936", "muller2020"), ("Müller", "muller2020"), ("muller 2020", "muller2020"),
        ("eskd", "cho2019"), ("subclass_distillation", "muller2020"), ("Hariharan", "cho2019"), ("B-MTARD", "mtard"),
        ("knowledge selection", "wang2022"),
    ],
)  # fmt: skip
def test_a_paper_is_found(query, name):
    assert name in find_papers(query)


@pytest.mark.parametrize("name", paper_names())
def test_every_paper_is_found_by_its_name_alone_and_by_its_first_author(name):
    assert find_papers(name) == (name,)
    assert name in find_papers(paper(name).title.split(",")[0].split()[0])


def test_words_that_no_paper_has_find_none():
    assert find_papers("zzz") == find_papers("") == find_papers("hinton 1888") == ()


def test_a_search_lists_papers_and_runs_none(monkeypatch, capsys):
    monkeypatch.setattr("limbeck.papers.Reproduction", None)
    experiments.run_papers("eskd", only=[], scale="quick", seeds=None, out=None, workers=None, as_json=False)
    printed = capsys.readouterr().out
    assert "limbeck papers cho2019 " in printed
    assert "muller2020" not in printed


def test_a_misspelled_name_has_the_nearest():
    with pytest.raises(UnknownNameError, match="'hinton2015'"):
        experiments.run_papers("hintn2015", only=[], scale="quick", seeds=None, out=None, workers=None, as_json=False)
