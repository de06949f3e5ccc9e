"""The page of claims has a row for each paper and each method, and what it links to exists."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

from limbeck.methods import names
from limbeck.papers import paper_names
from limbeck.papers.claim import choose_word
from tools.method_pages import LAST

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_paper_and_every_method_has_a_row():
    page = (DOCS / "claims.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    for name in paper_names():
        assert len([row for row in rows if f"`limbeck papers {name}`" in row]) == 1
    for name in names():
        assert len([row for row in rows if row.startswith(f"| [{name}](methods/{name}.md)")]) == 1


def test_what_it_links_to_exists():
    page = (DOCS / "claims.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", page) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (DOCS / link).is_file()] == []


def test_the_results_of_a_paper_are_linked():
    page = (DOCS / "claims.md").read_text(encoding="utf-8")
    for file in (DOCS / "results").glob("*.md"):
        if file.name == "index.md":
            continue
        assert f"](results/{file.name})" in page


def test_every_paper_is_in_the_index_of_results_with_its_words():
    page = (DOCS / "results" / "index.md").read_text(encoding="utf-8")
    for name in paper_names():
        (row,) = [line for line in page.splitlines() if line.startswith((f"| **[{name}]", f"| **{name}"))]
        assert ("not measured yet" in row) != (DOCS / "results" / f"{name}.json").is_file()


def test_words_of_results_follow_from_their_intervals():
    files = sorted((DOCS / "results").glob("*.json"))
    assert files
    for file in files:
        result = json.loads(file.read_text(encoding="utf-8"))
        assert result["paper"] in paper_names()
        assert file.stem in (result["paper"], f"{result['paper']}-{result['scale']}")
        assert file.stat().st_size < 20_000
        for claim in result["claims"]:
            low, high = (math.inf if end is None else end for end in claim["bounds"])
            assert claim["word"] == choose_word(claim["low"], claim["high"], (low, high)), claim["claim"]


def test_every_measured_paper_has_a_page_on_which_somebody_says_what_it_means():
    for file in (DOCS / "results").glob("*.json"):
        name = json.loads(file.read_text(encoding="utf-8"))["paper"]
        page = (DOCS / "results" / f"{name}.md").read_text(encoding="utf-8")
        words = page.rpartition(LAST)[2] if LAST in page else page
        assert len(words.split()) > 30, name
