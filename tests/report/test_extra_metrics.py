"""The page shows the extra metrics of the result."""

from __future__ import annotations

import copy
import json
import logging

import pytest

from limbeck.report import calibration, classes, costs, html, read_run, report_page, scores, summary, training
from report_runs import besides, planted_run

TITLES = ("Layers: teacher and student alone", "Layers: teacher and hinton", "Accuracy on corrupted images",
          "The group with the lowest accuracy of each arm")  # fmt: skip


@pytest.fixture(autouse=True)
def _only_their_figures(monkeypatch):
    """Those of the other sections are most of the time of a page, and the same in all tests."""
    for module in (calibration, classes, costs, scores, summary, training):
        monkeypatch.setattr(module, "figure", lambda title, *_, **__: html.tag("h3", title))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return planted_run(tmp_path_factory.mktemp("besides") / "run", test=200, seeds=2)


def page(folder, found):
    """The page of the run as if this had been measured besides."""
    evidence = read_run(folder)
    text = report_page([evidence.__class__(**{**evidence.__dict__, "result": {**evidence.result, **found}})])
    assert "<script" not in text
    return text


def section(text):
    return text.split('<section id="extra-metrics"')[1].split("</section>")[0]


def test_each_has_its_figure_or_table_and_its_sentence(folder):
    text = section(page(folder, besides()))
    assert all(title in text for title in TITLES)
    assert "Layers: as planted." in text
    assert "Bad images: as planted." in text
    assert "Groups by region." in text
    assert "Sharpness: as planted." in text
    assert "Attacks: as planted." in text
    assert text.count("<svg") >= 3
    assert "gaussian noise" in text


def test_a_layer_that_is_constant_is_a_dash_that_is_explained(folder):
    found = besides()
    assert "A dash" not in section(page(folder, found))
    found["cka"]["arms"]["hinton"]["values"][1] = [None] * 4
    assert section(page(folder, found)).count("A dash marks a layer") == 1


def test_a_page_without_them_is_as_it_was(folder):
    text = page(folder, {})
    assert "Extra metrics" not in text
    assert "extra-metrics" not in text.split("</nav>")[0].split("</style>")[1]
    some = page(folder, {"groups": besides()["groups"]})
    assert "Layers: teacher" not in some
    assert 'href="#extra-metrics"' in some


def test_a_sentence_alone_is_reported(folder):
    assert "Not known: cka. RuntimeError: full" in page(
        folder, {"cka": {"sentence": "Not known: cka. RuntimeError: full"}}
    )


@pytest.mark.parametrize("name", ["attacks", "cka", "corruptions", "faithfulness", "groups", "sharpness"])
@pytest.mark.parametrize("broken", [None, 3, "x", [], {}, {"arms": []}, {"arms": {}}, {"arms": {"a": None}}])
def test_what_cannot_be_read_is_reported(folder, name, broken, caplog):
    with caplog.at_level(logging.DEBUG, logger="limbeck"):
        text = page(folder, {name: broken})
    assert f"{name} of this result cannot be shown" in text
    assert caplog.records[0].exc_info[0].__name__ in text


@pytest.mark.parametrize("damages", [3, pytest.param(100, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", ["attacks", "cka", "corruptions", "faithfulness", "groups", "sharpness"])
def test_a_part_that_is_damaged_takes_no_page_away(folder, name, damages):
    whole = besides()[name]

    def places(value, way=()):
        yield way
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(
            value, list) else ():  # fmt: skip
            yield from places(inner, (*way, key))

    every = [way for way in places(whole) if way and len(way) < 5]
    for way in every[:: max(1, len(every) // damages)]:
        found = copy.deepcopy(whole)
        inner = found
        for key in way[:-1]:
            inner = inner[key]
        inner[way[-1]] = None
        assert "Extra metrics" in page(folder, {name: found})


def test_names_are_text(folder):
    found = json.loads(json.dumps(besides()).replace("class 0", "<b>x").replace("layer0.0", "<i>y"))
    text = page(folder, found)
    assert "&lt;b&gt;x" in text
    assert "<b>x" not in text
    assert "<i>y" not in text
