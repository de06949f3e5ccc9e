"""Write the generated parts of the pages of results: the index, and what each page has of its JSON files.

`limbeck papers NAME` writes ``claims.json``. ``docs/results/NAME.json`` is a copy of it, and ``NAME-full.json`` one of
another scale. A page without markers is written by hand as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from limbeck.papers import paper, paper_names
from limbeck.papers.claim import count_words
from limbeck.papers.reproduction import SCALES
from limbeck.report import paper_markdown
from limbeck.report.paper_results import claim_cells

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


@cache
def read_results() -> dict[str, list[dict[str, Any]]]:
    """Read the results of each paper that was measured, from scale quick to full."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(RESULTS.glob("*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        found.setdefault(result["paper"], []).append(result)
    return {name: sorted(own, key=lambda one: SCALES.index(one["scale"])) for name, own in found.items()}


def count_claims(name: str) -> str:
    """Count the words of a paper's claims: ``3 shown, 1 opposite``, for each scale."""
    counts = {one["scale"]: _counts(one["claims"]) for one in read_results().get(name, ())}
    return "; ".join(f"{scale}: {words}" if len(counts) > 1 else words for scale, words in counts.items())


def _counts(claims: list[dict[str, Any]]) -> str:
    return ", ".join(f"{count} {word}" for word, count in count_words(claims).items() if count)


def render_index() -> str:
    """Render the index of results: each claim of each paper with its word, interval and command."""
    lines = ["| paper | claim | ours | 95 % interval | word | seeds | scale |", "|---|---|--:|--:|---|--:|---|"]
    commands, results = [], read_results()
    for name in paper_names():
        link = f"[{name}]({name}.md)" if (RESULTS / f"{name}.md").is_file() else name
        state = "" if name in results else "not measured yet"
        lines.append(f"| **{link}** | {paper(name).claim} | | | {state} | | |")
        for result in results.get(name, ()):
            for claim in result["claims"]:
                sentence, _, ours, interval, word = claim_cells(claim)
                cells = (sentence, ours, interval, f"**{word}**", str(claim["seeds"]), result["scale"])
                lines.append(f"| | {' | '.join(cells)} |")
            commands.append(f"- {name}: `{result['command']}`{_cost(result)}")
    claims = [claim for own in results.values() for result in own for claim in result["claims"]]
    head = f"Measured: {len(results)} of {len(paper_names())} papers; claims: {_counts(claims)}."
    return "\n".join([head, "", *lines, "", "Commands:", "", *commands]) + "\n"


def _cost(result: Mapping[str, Any]) -> str:
    return f", {result['cpu_seconds']:,.0f} CPU seconds" if result["cpu_seconds"] else ""


def render_page(name: str) -> str:
    """Render the common part of a page of results: the paper, its claim, and the tables of each scale."""
    one = paper(name)
    lines = [f"{one.title}.", "", f"The claim: {one.claim}", ""]
    for result in read_results()[name]:
        seeds = f"{result['seeds']} paired seed{'s' if result['seeds'] > 1 else ''}"
        lines += [f"## Scale {result['scale']}", "", "```console", f"$ {result['command']}", "```", ""]
        lines += [f"{seeds}{_cost(result)}.", "", paper_markdown(_as_table(result))]
    return "\n".join(lines)


def _as_table(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result of `Reproduction.run` from its summary. Summaries of earlier versions have only claims."""
    known = {name: {"title": one.title} for name, one in paper(result["paper"]).experiments.items()}
    names = dict.fromkeys(claim["experiment"] for claim in result["claims"])
    experiments = {}
    for name, texts in (result.get("experiments") or {name: known[name] for name in names}).items():
        parts = {key: [one for one in result.get(key, ()) if one["experiment"] == name] for key in ("rows", "claims")}
        experiments[name] = {**texts, **parts}
    return {"experiments": experiments}
