"""The page of claims has a row for each paper and each method, and what it links to exists."""

from __future__ import annotations

import re
from pathlib import Path

from limbeck.methods import names
from limbeck.papers import paper_names

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
        assert f"](results/{file.name})" in page
