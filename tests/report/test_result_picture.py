"""Is the picture of a result valid, true to scale, and whole in every case?"""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from limbeck.report import arms_picture
from results import arm, result

SVG = "{http://www.w3.org/2000/svg}"


def drawn(found):
    return ElementTree.fromstring(arms_picture(found))


def texts(root):
    return ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]


def test_a_dot_for_every_seed_and_a_bar_for_every_arm():
    found = result()
    root = drawn(found)
    groups = root.findall(f"{SVG}g")
    assert [group.find(f"{SVG}text").text for group in groups] == list(found["arms"])
    for group, row in zip(groups, found["arms"].values(), strict=True):
        assert len(group.findall(f"{SVG}circle")) == len(row["accuracy"]["values"])
        assert len(group.findall(f"{SVG}line")) == 1
    assert "95.10 ± 0.14" in texts(root)
    assert "97.00" in texts(root)


def test_the_arm_of_the_verdict_stands_out_whatever_it_is_called():
    found = result({"student alone": arm([0.9]), "hinton": arm([0.91]), "hinton#2": arm([0.92])})
    for judged in ("hinton", "hinton#2"):
        found["verdict"]["arm"] = judged
        bold = {group.find(f"{SVG}text").text: group.get("class") for group in drawn(found).findall(f"{SVG}g")}
        assert bold == {name: "ours" if name == judged else "other" for name in found["arms"]}


def test_dots_stand_where_the_ticks_say():
    root = drawn(result({"distilled": arm([0.90, 0.95, 1.0])}))
    ticks = {t.text: float(t.get("x")) for t in root.iter(f"{SVG}text") if t.text.endswith(" %")}
    circles = [float(circle.get("cx")) for circle in root.iter(f"{SVG}circle")]
    assert circles[0] == pytest.approx(ticks["90 %"], abs=0.2)
    assert circles[2] == pytest.approx(ticks["100 %"], abs=0.2)
    assert circles[1] == pytest.approx((circles[0] + circles[2]) / 2, abs=0.2)


@pytest.mark.parametrize(
    "values", [[0.0], [1.0], [0.0, 1.0], [0.5, 0.5, 0.5], [0.9312], [1 / 3, 2 / 3], [0.999, 1.0], [0.0, 0.0001]]
)
def test_the_axis_holds_every_value_and_nothing_impossible(values):
    root = drawn(result({"distilled": arm(values)}))
    ticks = [float(text.removesuffix(" %")) for text in texts(root) if text.endswith(" %")]
    assert ticks == sorted(ticks)
    assert 0 <= ticks[0] <= 100 * min(values)
    assert 100 * max(values) <= ticks[-1] <= 100
    assert 2 <= len(ticks) <= 8
    assert "-0 %" not in texts(root)
    for circle in root.iter(f"{SVG}circle"):
        assert 149 <= float(circle.get("cx")) <= 641


def test_names_are_escaped():
    found = result({'a <b> & "c"': arm([0.5, 0.6])}, data="x<script>&.npz", sentence="so <\"it\"> & 'is'")
    text = arms_picture(found)
    assert "<script>" not in text
    root = ElementTree.fromstring(text)
    assert 'a <b> & "c"' in texts(root)
    assert "Test accuracy, x<script>&.npz" in texts(root)
    assert root.get("aria-label") == "so <\"it\"> & 'is'"


def test_the_verdict_is_wrapped_and_whole():
    sentence = " ".join(f"word{number}" for number in range(60))
    root = drawn(result(sentence=sentence))
    lines = [text for text in texts(root) if text.startswith("word")]
    assert len(lines) > 3
    assert " ".join(lines) == sentence
    lowest = max(float(text.get("y")) for text in root.iter(f"{SVG}text"))
    assert lowest < float(root.get("viewBox").split()[3])


def test_an_arm_without_a_number():
    root = drawn(result({"distilled": arm([None]), "teacher": arm([0.5])}))
    assert "-" in texts(root)
    assert len(list(root.iter(f"{SVG}circle"))) == 1
    assert not list(drawn(result({"distilled": arm([None, None])})).iter(f"{SVG}circle"))


def test_it_fetches_nothing_and_runs_nothing():
    text = arms_picture(result())
    assert not re.search(r"<script|href|url\(|@import|on\w+=", text)
