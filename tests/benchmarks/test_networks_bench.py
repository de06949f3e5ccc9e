"""The benchmark of the reference networks times both orders of the same weights."""

from __future__ import annotations

from benchmarks.networks import bench_networks


def test_both_orders_take_turns():
    found = bench_networks(rounds=2, names=("fcn, 32x32",))
    assert set(found["ratio_step"]) == set(found["ratio_forward"]) == {"fcn, 32x32"}
    assert min(found["ratio_step"]["fcn, 32x32"], found["milliseconds"]["fcn, 32x32"]) > 0
