"""Does the page show what was measured besides, as it is in the result, and nothing where nothing was?"""

from __future__ import annotations

import copy
import json
import logging
import math
from xml.etree import ElementTree

import pytest

from limbeck.report import read_run, report_page
from limbeck.report.figures import Decline, cka_figure, corruptions_figure
from report_runs import besides, planted_run

NASTY = "<script>alert(1)</script>&\"'"
TITLES = ("Layers: teacher and student alone", "Layers: teacher and hinton", "Accuracy on corrupted images",
          "The group with the lowest accuracy of each arm")  # fmt: skip


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


def drawn(markup):
    return ElementTree.fromstring(markup)


def classes_of(root, word):
    return [one for one in root.iter() if word in one.get("class", "").split()]


def test_each_has_its_figure_or_table_and_its_sentence(folder):
    text = section(page(folder, besides()))
    assert all(title in text for title in TITLES)
    assert "Layers: as planted." in text
    assert "Bad images: as planted." in text
    assert "Groups by region." in text
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


def test_a_sentence_alone_is_said(folder):
    assert "Not known: cka. RuntimeError: full" in page(
        folder, {"cka": {"sentence": "Not known: cka. RuntimeError: full"}}
    )


@pytest.mark.parametrize("name", ["cka", "corruptions", "groups"])
@pytest.mark.parametrize("broken", [None, 3, "x", [], {}, {"arms": []}, {"arms": {}}, {"arms": {"a": None}}])
def test_what_cannot_be_read_is_said(folder, name, broken, caplog):
    with caplog.at_level(logging.DEBUG, logger="limbeck"):
        text = page(folder, {name: broken})
    assert f"{name} of this result cannot be shown" in text
    assert caplog.records[0].exc_info[0].__name__ in text


@pytest.mark.parametrize("name", ["cka", "corruptions", "groups"])
def test_a_part_that_is_damaged_takes_no_page_away(folder, name):
    whole = besides()[name]

    def places(value, way=()):
        yield way
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(
            value, list) else ():  # fmt: skip
            yield from places(inner, (*way, key))

    every = [way for way in places(whole) if way and len(way) < 5]
    for way in every[:: max(1, len(every) // 12)]:
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


def test_cells_are_shaded_from_0_to_1_whatever_else_is_there():
    root = drawn(cka_figure([[0.25, 1.2], [-0.1, math.nan]], ["a", "b"], ["c", "d"], who=NASTY))
    assert [float(cell.get("fill-opacity")) for cell in classes_of(root, "cell")] == [0.25, 1.0, 0.0, 0.0]
    assert [one.text for one in classes_of(root, "cell-text")] == ["0.25", "1.20", "-0.10", "-"]
    assert "a 1.20, b -0.10" in root.get("aria-label")


def test_many_layers_become_one_picture():
    values = [[1 / (1 + i + j) for j in range(60)] for i in range(30)]
    markup = cka_figure(values, [f"a.{i}.x" for i in range(30)], [f"b.{i}.x" for i in range(60)], who="x")
    root = drawn(markup)
    assert len(list(root.iter("image"))) == 1
    assert [one.text for one in classes_of(root, "tick")] == ["0.x", "29.x", "0.x", "59.x"]
    assert len(markup) < 8000


def test_lines_go_through_the_accuracies_and_bars_stay_below_100():
    arms = [Decline(NASTY, 2, [0.99, 0.9, 0.5], [0.05, 0.05, None]), Decline("b", 0, [0.9, 0.8, 0.7], [None] * 3)]
    root = drawn(corruptions_figure(arms))
    assert len(classes_of(root, "mark")) == 6
    assert len(classes_of(root, "whisker")) == 2
    ticks = {one.text: float(one.get("y")) - 4 for one in classes_of(root, "tick") if one.get("text-anchor") == "end"}
    # Of values the line through two ticks tells the place.
    (low, high), (first, last) = sorted(map(float, ticks))[:2], sorted(ticks.values(), reverse=True)[:2]
    place = lambda value: first + (value - low) * (last - first) / (high - low)  # noqa: E731
    points = [tuple(map(float, pair.split(","))) for line in root.iter("polyline") for pair in
              line.get("points").split()]  # fmt: skip
    assert [y for _, y in points] == pytest.approx([place(v) for v in (99, 90, 50, 90, 80, 70)], abs=0.2)
    assert min(float(one.get("y2")) for one in classes_of(root, "whisker")) == pytest.approx(place(100), abs=0.2)
    assert "from 99.0 to 50.0 %" in root.get("aria-label")
