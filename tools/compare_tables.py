"""Write the tables of all methods in docs/results from folders of `limbeck compare`.

``python tools/compare_tables.py NAME FOLDER`` reads a finished comparison of ``examples/tables/NAME.yaml`` and writes
``docs/results/tables/NAME.json``. Without arguments, the pages are written again from these files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.job import RunLayout
from limbeck.job.run_layout import PREDICTIONS
from limbeck.metrics import load_tensors
from limbeck.metrics.multiple_comparisons import holm_comparisons
from limbeck.metrics.statistics import Difference, compare_scores
from limbeck.papers.claim import choose_word

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
PLAIN, ALONE = "hinton", "student alone"
FIRST, LAST = "<!-- from the comparison: `make docs` writes what follows -->\n", "<!-- end of the comparison -->"
_WORDS = {"shown": "better", "opposite": "worse", "not shown": "-"}


def summarize(name: str, folder: Path) -> dict[str, Any]:
    """Summarize a finished comparison: each arm's accuracy by seed, seconds, and differences to plain KD and alone.

    Differences are over seeds and test examples (`compare_scores`), and corrected for all methods (Holm).
    """
    layout, result = RunLayout(folder), json.loads(RunLayout(folder).result.read_text())
    labels = load_tensors(layout.teacher_outputs)["test_labels"].numpy()
    right = {
        arm: np.stack([_right(layout, arm, seed, labels) for seed in range(result["seeds"])])
        for arm, values in result["arms"].items() if values["role"] != "teacher"
    }  # fmt: skip
    rows = {arm: _row(result["arms"][arm]) for arm in result["arms"]}
    for other in (PLAIN, ALONE):
        methods = [arm for arm in right if result["arms"][arm]["role"] == "method" and arm != other]
        for arm, found in _differences(right, methods, other).items():
            rows[arm][f"over {other}"] = {
                "mean": 100 * found.mean, "low": _points(found.low), "high": _points(found.high),
                "word": choose_word(found.low, found.high),
            }  # fmt: skip
    packages = result["environment"]["packages"]
    return {
        "table": name, "seeds": result["seeds"], "examples": len(labels), "seconds": result["seconds"],
        "packages": f"torch {packages['torch']}, {result['environment']['platform']}", "arms": rows,
    }  # fmt: skip


def _right(layout: RunLayout, arm: str, seed: int, labels: np.ndarray) -> np.ndarray:
    logits = load_tensors(layout.seed(arm, seed) / PREDICTIONS)["test"].numpy()
    return (logits.argmax(1) == labels).astype(float)


def _row(values: Mapping[str, Any]) -> dict[str, Any]:
    row = {"role": values["role"], "accuracy": [round(100 * one, 2) for one in values["accuracy"]["values"]]}
    return row | {key: values[key] for key in ("nll", "seconds", "parameters") if values.get(key) is not None}


def _differences(right: Mapping[str, np.ndarray], arms: Sequence[str], other: str) -> dict[str, Difference]:
    alone = {arm: compare_scores(right[arm], right[other], largest=1.0) for arm in arms}
    counts = holm_comparisons([1.0 if one.p is None else one.p for one in alone.values()])
    return {
        arm: compare_scores(right[arm], right[other], largest=1.0, comparisons=count)
        for arm, count in zip(arms, counts, strict=True)
    }


def _points(value: float | None) -> float | None:
    return None if value is None else 100 * value


def render(summary: Mapping[str, Any]) -> str:
    """Render a summary as Markdown: all arms by mean accuracy, the methods' differences, and their cost."""
    arms = summary["arms"]
    plain = arms[PLAIN].get("seconds")
    order = sorted(arms, key=lambda arm: -float(np.mean(arms[arm]["accuracy"])))
    lines = [
        f"{summary['seeds']} paired seeds, {summary['examples']:,} test examples, last epoch, {summary['packages']}. "
        f"{_count(arms, PLAIN)} {_count(arms, ALONE)} {_sizes(arms)}".rstrip(), "",
        "| arm | accuracy (%) | over plain KD (points) | | over the student alone (points) | | time |",
        "|---|--:|--:|---|--:|---|--:|",
    ]  # fmt: skip
    for arm in order:
        row = arms[arm]
        title = f"**{arm}**" if row["role"] != "method" else f"[{arm}](../methods/{arm}.md)"
        cells = [title, _spread(row["accuracy"])]
        for other in (PLAIN, ALONE):
            cells += _cells(row.get(f"over {other}"))
        cells.append(
            f"{row['seconds'] / plain:.2f} x" if plain and row.get("seconds") and row["role"] != "teacher" else ""
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _count(arms: Mapping[str, Any], other: str) -> str:
    words = [row[f"over {other}"]["word"] for row in arms.values() if f"over {other}" in row]
    than = "plain KD" if other == PLAIN else "the student alone"
    better, worse = words.count("shown"), words.count("opposite")
    return f"Of {len(words)} methods {better} are shown to be better than {than}, and {worse} to be worse."


def _sizes(arms: Mapping[str, Any]) -> str:
    """Name the methods whose shipped student has another size than the student alone."""
    size = arms[ALONE].get("parameters")
    others = {name: row.get("parameters") for name, row in arms.items() if row["role"] == "method"}
    listed = ", ".join(f"{name} {count:,}" for name, count in others.items() if count not in (None, size))
    return f"Students have {size:,} parameters as shipped, but: {listed}." if listed else ""


def _spread(values: Sequence[float]) -> str:
    deviation = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{deviation}"


def _cells(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return ["", ""]
    interval = "" if found["low"] is None else f" ({found['low']:+.2f} to {found['high']:+.2f})"
    return [f"{found['mean']:+.2f}{interval}", _WORDS[found["word"]]]


def updated_pages() -> dict[Path, str]:
    """The current text of the page of each table that was measured."""
    pages = {}
    for file in sorted((RESULTS / "tables").glob("*.json")):
        path = RESULTS / f"table_{file.stem}.md"
        new = f"# All methods on {file.stem}\n\n{FIRST}{LAST}\n"
        text = path.read_text(encoding="utf-8") if path.is_file() else new
        before, found, rest = text.partition(FIRST)
        if not found or LAST not in rest:
            raise ValueError(f"{path} needs a part between {FIRST!r} and {LAST!r}")
        table = render(json.loads(file.read_text(encoding="utf-8")))
        pages[path] = f"{before}{FIRST}\n{table}\n{LAST}{rest.partition(LAST)[2]}"
    return pages


if __name__ == "__main__":
    if len(sys.argv) > 1:
        name, folder = sys.argv[1:]
        (RESULTS / "tables").mkdir(exist_ok=True)
        text = json.dumps(summarize(name, Path(folder)), indent=1)
        (RESULTS / "tables" / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    for path, page in updated_pages().items():
        path.write_text(page, encoding="utf-8")
