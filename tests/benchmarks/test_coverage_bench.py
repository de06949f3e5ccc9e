"""The simulation of verdicts counts what its figures are named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import coverage
from benchmarks.__main__ import main
from benchmarks.coverage import Arms, CoverageScale, bench_coverage
from benchmarks.tables import BARS
from limbeck.errors import LimbeckError
from limbeck.metrics import paired_difference

SMALL = CoverageScale(simulations=3, examples=(50,), seeds=(2, 3), methods=(1, 2), development=(10,))


def test_it_has_a_row_for_each_size_and_the_worst_of_them():
    found = bench_coverage(scale=SMALL)
    assert len(found["coverage"]) == 2 * len(coverage.ARMS)
    assert [row["methods"] for row in found["false_alarms"]] == [1, 2]
    assert found["least_coverage"] == min(row["covered"] for row in found["coverage"])
    assert found["most_false_alarms"] == max(row["helped"] for row in found["false_alarms"])


def test_an_interval_over_seeds_alone_is_detected(monkeypatch):
    def over_seeds(ours, theirs, *, largest):
        return paired_difference(ours.mean(1).tolist(), theirs.mean(1).tolist(), largest=largest)

    monkeypatch.setattr(coverage, "compare_scores", over_seeds)
    found = coverage._covered(list(coverage.ARMS).index("many differ"), 300, 10, 50)
    assert found["covered"] < 0.6


def test_a_verdict_that_pays_for_no_choice_is_detected(monkeypatch):
    """Every method is said to help where the bar is low enough."""
    monkeypatch.setattr(coverage, "verdict_of", lambda job, outcomes, examples: {"helps": len(job.method_arms) > 1})
    found = bench_coverage(scale=SMALL)
    assert [row["helped"] for row in found["false_alarms"]] == [0.0, 1.0]


def test_what_is_drawn_is_what_was_planted():
    right = Arms(better=0.1, worse=0.05, moving=0.2).draw(np.random.default_rng(0), seeds=3, examples=200_000)
    assert (right[0].mean() - right[1].mean()) == pytest.approx(0.05, abs=0.003)
    assert (right[0, 0] != right[0, 1]).mean() == pytest.approx(0.1, abs=0.01)


def test_it_speaks_json_and_prints_a_table(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.bench_coverage", lambda scale, say: bench_coverage(scale=SMALL))
    assert main(["coverage", "--simulations", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(BARS["coverage"]) <= set(found)
    assert main(["coverage", "--table"]) == 0
    printed = capsys.readouterr().out
    assert "least_coverage" in printed
    assert "half_width" in printed


def test_a_single_seed_has_nothing_to_cover():
    with pytest.raises(LimbeckError, match="2 seeds"):
        CoverageScale(seeds=(1,))
