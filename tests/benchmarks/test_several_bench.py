"""The benchmark of several live teachers has the figures that its bars name."""

from __future__ import annotations

import math

from benchmarks.several import bench_several
from benchmarks.tables import BARS
from benchmarks.workload import Sizes


def test_it_has_the_figures_of_its_bars():
    sizes = Sizes(examples=64, inputs=8, classes=3, teacher=8, student=4, batch=16)
    found = bench_several(teachers=2, steps=4, block=1, sizes=sizes)
    assert set(BARS["several"]) <= set(found)
    assert all(math.isfinite(found[name]) for name in BARS["several"])
    assert found["steps"] == 4
    assert set(found["milliseconds"]) == {
        "student", "ensemble", "routed", "ensemble, forward alone", "routed, forward alone",
    }  # fmt: skip
