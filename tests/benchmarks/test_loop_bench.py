"""The benchmark of the loop compares loops of the same mathematics and prints all its figures."""

from __future__ import annotations

import json
import math

import pytest
import torch

from benchmarks import (
    Plan,
    Sizes,
    bench_loop,
    check_agreement,
    distance,
    engine_blocks,
    make_work,
    plain_blocks,
)
from benchmarks import peers as peers_module
from benchmarks import plain_loop as plain_module
from benchmarks.__main__ import main
from benchmarks.interleave import interleave, paired_quartiles, ratio
from limbeck.errors import LimbeckError

TINY = Sizes(examples=100, inputs=12, classes=4, teacher=16, student=8, batch=32)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_engine_and_plain_loop_compute_the_same(precision):
    # 20 steps of 32 of 100 examples: over several epochs, each with a last batch that is smaller.
    apart = check_agreement(engine_blocks, make_work(TINY), Plan(20, 5, precision))
    assert apart.weights < 0.02


def test_two_runs_of_one_loop_are_nowhere_apart():
    assert distance(plain_blocks, make_work(TINY), Plan(6, 3)) == (0.0, 0.0, 0.0)


def no_square(shown, taught, labels):
    hard, soft = untouched(shown, taught, labels)
    return hard, soft / 16.0


def labels_astray(shown, taught, labels):
    return untouched(shown, taught, (labels + 1) % shown.shape[-1])


def sides_exchanged(shown, taught, labels):
    hard, _ = untouched(shown, taught, labels)
    return hard, untouched(taught, shown, labels)[1]


untouched = plain_module.losses


@pytest.mark.parametrize("wrong", [no_square, labels_astray, sides_exchanged])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_loop_that_computes_something_else_is_detected(monkeypatch, wrong, precision):
    monkeypatch.setattr(plain_module, "losses", wrong)
    with pytest.raises(LimbeckError, match="cannot be compared"):
        check_agreement(engine_blocks, make_work(TINY), Plan(20, 5, precision))


def test_a_loop_with_another_learning_rate_is_detected(monkeypatch):
    monkeypatch.setattr(plain_module, "PEAK", 0.9e-3)
    with pytest.raises(LimbeckError, match="cannot be compared"):
        check_agreement(engine_blocks, make_work(TINY), Plan(20, 5))


def test_all_keys_are_there_and_are_json():
    said = []
    result = json.loads(json.dumps(bench_loop(steps=3, block=2, sizes=TINY, threads=1, say=said.append)))
    assert (result["steps"], result["block"], result["threads"]) == (4, 2, 1)
    assert result["torch"] == torch.__version__
    for precision in ("float32", "bfloat16"):
        figures = [result[f"ratio_{precision}"], result[f"cpu_ratio_{precision}"], *result[f"quartiles_{precision}"]]
        assert all(math.isfinite(figure) and figure > 0 for figure in figures)
        assert {"plain", "engine"} <= set(result["milliseconds"][precision])
    found, skipped = peers_module.find_peers()
    assert set(result["peers"]) == {*found, *skipped} == {"textbrewer", "model-optimizer"}
    for name, reason in skipped.items():
        assert result["peers"][name] == {"skipped": reason}
    for name, peer in found.items():
        _is_timed(result["peers"][name], peer)
    assert any("bfloat16" in text for text in said)


def _is_timed(said, peer):
    assert "skipped" not in said
    assert (said["version"], said["note"]) == (peer.version, peer.note)
    assert set(said["agreement"]) == set(peer.precisions)
    for precision in peer.precisions:
        figures = [said[f"ratio_{precision}"], said[f"cpu_ratio_{precision}"], *said[f"quartiles_{precision}"]]
        assert all(math.isfinite(figure) and figure > 0 for figure in figures)


def test_a_peer_that_is_there_is_timed_and_one_that_is_not_explains_why(monkeypatch):
    """Whatever is installed here: one peer is the plain loop itself, in one precision."""
    there = peers_module.Peer(plain_module.plain_blocks, "1.0", "the plain loop", precisions=("float32",))

    def absent():
        raise ModuleNotFoundError("No module named 'nowhere'", name="nowhere")

    monkeypatch.setattr(peers_module, "_KNOWN", (("there", "somewhere", lambda: there), ("gone", "nowhere", absent)))
    result = bench_loop(steps=2, block=2, sizes=TINY, threads=1)
    assert result["peers"]["gone"] == {"skipped": "not installed: pip install -e '.[bench]'"}
    _is_timed(result["peers"]["there"], there)
    assert result["peers"]["there"]["agreement"]["float32"]["weights"] == 0.0
    assert "there" not in result["milliseconds"]["bfloat16"]


def test_without_peers_none_is_looked_for():
    assert bench_loop(steps=2, block=2, sizes=TINY, peers=False)["peers"] == {}


def test_a_peer_that_is_absent_explains_what_to_install(monkeypatch):
    from benchmarks import peers

    def absent():
        raise ModuleNotFoundError("No module named 'textbrewer'", name="textbrewer")

    def broken():
        raise ModuleNotFoundError("No module named 'regex'", name="regex")

    known = (("one", "textbrewer", absent), ("two", "modelopt", broken))
    monkeypatch.setattr(peers, "_KNOWN", known)
    found, skipped = peers.find_peers()
    assert found == {}
    assert skipped["one"] == "not installed: pip install -e '.[bench]'"
    assert skipped["two"] == "does not import: No module named 'regex'"


@pytest.mark.parametrize("peer", ["textbrewer", "model-optimizer"])
def test_a_peer_that_is_installed_learns_the_same(peer):
    from benchmarks.peers import find_peers

    found, skipped = find_peers()
    if peer not in found:
        pytest.skip(f"{peer}: {skipped[peer]}")
    apart = distance(found[peer].blocks, make_work(TINY), Plan(20, 5))
    assert apart.weights < 1e-4


def test_loops_take_turns_in_alternating_order():
    ran = []

    def loop(name):
        while True:
            ran.append(name)
            yield 0.0

    times = interleave({"a": loop("a"), "b": loop("b")}, rounds=2)
    assert "".join(ran) == "ab" + "ab" + "ba"
    assert [len(time.wall) for time in times.values()] == [2, 2]


def test_a_ratio_is_of_medians_and_its_quartiles_are_of_pairs():
    assert ratio([1.0, 2.0, 300.0], [1.0, 1.0, 1.0]) == 2.0
    assert paired_quartiles([2.0, 4.0, 6.0], [1.0, 1.0, 1.0]) == (3.0, 5.0)
    assert paired_quartiles([2.0], [4.0]) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: Sizes(batch=0), "batch"),
        (lambda: Sizes(examples=10), "larger"),
        (lambda: Plan(5, 2), "whole blocks"),
        (lambda: Plan(4, 2, "float16"), "float16"),
        (lambda: bench_loop(steps=0), "steps"),
    ],
)
def test_what_makes_no_sense_is_refused(build, named):
    with pytest.raises(LimbeckError, match=named):
        build()


def test_the_command_prints_a_table_or_one_json_object(monkeypatch, capsys):
    import benchmarks as bench

    monkeypatch.setattr(bench, "bench_loop", lambda **given: bench_loop(block=2, sizes=TINY, **given))
    assert main(["loop", "--steps", "2", "--threads", "1"]) == 0
    assert "ratio_float32" in json.loads(capsys.readouterr().out)
    assert main(["loop", "--steps", "2", "--threads", "1", "--table"]) == 0
    shown = capsys.readouterr().out
    assert "engine" in shown
    assert "at most 1.05" in shown
