"""Figures on a page: colors of the page, escaped text, unique ids, legends, the same bytes every time."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from matplotlib import rcParams

import limbeck.report.svg as report_svg
from limbeck.report import read_run, report_page, result_svg, write_report
from limbeck.report.arms import ArmRow, ScoreFormat, read_stat
from limbeck.report.axes import CARD, COLORS, GRID, INK, QUIET, new_axes
from limbeck.report.scores import draw_scores
from limbeck.report.svg import figure, number_drawings, page_style, style_sheet
from report_runs import planted_run
from results import arm, result

NASTY = "<script>alert(1)</script>&\"'\x00\ud800 $x^2$ 漢字"
SVG = "{http://www.w3.org/2000/svg}"


def palettes():
    """The light and the dark palette of the style sheet: variable -> color."""
    blocks = re.findall(r":root \{(.*?)\}", style_sheet(), re.S)[:2]
    return [dict(re.findall(r"(--[\w-]+): (#\w{6})", block)) for block in blocks]


def contrast(one, other):
    """The contrast of two colors as WCAG 2 defines it."""

    def luminance(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def drawn(name="a"):
    with page_style():
        return number_drawings(
            figure(
                name,
                lambda: draw_scores([ArmRow(name, "method", 2, read_stat(0.5), read_stat(None), {})], ScoreFormat()),
                "caption",
            )
        )


def test_figures_have_the_colors_of_the_page():
    light, _ = palettes()
    assert [light[f"--c{i}"] for i in range(len(COLORS))] == list(COLORS)
    assert [light[name] for name in ("--ink", "--quiet", "--grid", "--card")] == [INK, QUIET, GRID, CARD]
    text = drawn()
    assert "var(--c2)" in text
    assert not re.search(r"#[0-9a-f]{6}", text)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_marks_and_text_stand_out_in_light_and_dark(scheme):
    palette = palettes()[scheme]
    for name in ("--ink", "--quiet"):
        assert contrast(palette[name], palette["--card"]) >= 4.5
    for i in range(len(COLORS)):
        assert contrast(palette[f"--c{i}"], palette["--card"]) >= 3.0, i


def test_names_are_text():
    text = drawn(NASTY)
    root = ElementTree.fromstring(text)
    assert "script" not in [one.tag for one in root.iter()]
    words = ["".join(one.itertext()) for one in root.iter("text")]
    assert any(word.startswith('<script>alert(1)</script>&"') for word in words), words
    svg = root.find(".//svg[@role='img']")
    assert "$x^2$ 漢字" in svg.get("aria-label")
    assert "$x^2$ 漢字" in next(svg.iter("title")).text


def test_text_has_the_font_of_the_page_and_is_no_path():
    text = drawn()
    assert "font-family" not in text
    assert ">test accuracy, %</text>" in text


def test_two_drawings_share_no_id_and_their_references_exist(tmp_path):
    page = report_page([read_run(planted_run(tmp_path / name, test=100, seeds=2)) for name in ("a", "b")])
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:href="#|url\(#)([^")]+)', page)
    assert references
    assert set(references) <= set(ids)


def test_a_legend_lists_the_labeled_marks():
    with page_style():

        def draw():
            ax = new_axes(None, height=100.0)
            ax.plot([1], [1], "s", color=COLORS[0], label="filled")
            ax.plot([1], [1], "o", color=COLORS[2], markerfacecolor="none", label="a < b")
            ax.plot([1], [1], "x")
            return ax

        items = re.findall(r"<li>(.*?)</li>", figure("title", draw, "caption"))
    assert len(items) == 2
    assert "fill: var(--c0)" in items[0]
    assert "stroke: var(--c2)" in items[1]
    assert items[1].endswith("a &lt; b")


def test_the_same_folder_gives_the_same_page_whatever_the_user_has_set(tmp_path, monkeypatch):
    run = planted_run(tmp_path / "run", test=100, seeds=2)
    first = report_page([read_run(run)])
    for name, value in (("font.size", 30), ("axes.grid", False), ("lines.markersize", 1), ("text.color", "red")):
        monkeypatch.setitem(rcParams, name, value)
    before = dict(rcParams)
    assert report_page([read_run(run)]) == first
    assert dict(rcParams) == before, "the user's settings come back"


def test_without_matplotlib_the_page_has_no_figures_and_explains_why(tmp_path, monkeypatch):
    run = planted_run(tmp_path / "run", test=100, seeds=2)
    monkeypatch.setattr(report_svg, "is_installed", lambda library: False)
    text = write_report([run]).read_text()
    assert "<figure" not in text
    assert "pip install 'limbeck[report]'" in text.replace("&#x27;", "'")
    assert "All 10 classes" in text, "tables are still there"
    assert text.count("<main") == 1


class TestResult:
    """The SVG of a result, for a README."""

    def test_it_is_one_file_that_loads_and_runs_nothing_with_two_color_schemes(self):
        text = result_svg(result())
        assert not re.search(r"<script|href=\"[^#]|url\((?!#)|@import|on\w+=", text)
        assert "prefers-color-scheme: dark" in text
        root = ElementTree.fromstring(text)
        words = ["".join(one.itertext()) for one in root.iter(f"{SVG}text")]
        assert {"Test accuracy, digits", "distilled", "95.10 % ± 0.14", "97.00 %"} <= set(words)
        assert root.get("aria-label").startswith("It helped.")

    def test_names_are_escaped(self):
        found = result({'a <b> & "c"': arm([0.5, 0.6])}, data="x<script>&.npz", sentence="so <\"it\"> & 'is'")
        text = result_svg(found)
        assert "<script>" not in text
        root = ElementTree.fromstring(text)
        assert "Test accuracy, x<script>&.npz" in ["".join(one.itertext()) for one in root.iter(f"{SVG}text")]
        assert root.get("aria-label").startswith("so <\"it\"> & 'is'")

    def test_an_arm_without_a_number_is_left_out(self):
        label = ElementTree.fromstring(result_svg(result({"distilled": arm([None]), "teacher": arm([0.5])}))).get(
            "aria-label"
        )
        assert "teacher 50.00 %" in label
        assert "distilled" not in label
