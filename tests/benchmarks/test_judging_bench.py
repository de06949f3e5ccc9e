"""The benchmark of judging measures what its figures are named."""

from __future__ import annotations

import functools
import json
import sys
import time
import types

import pytest

from benchmarks import bench_judging
from benchmarks.__main__ import main
from benchmarks.clock import clocked
from benchmarks.judging import JudgingScale, _measured, _page
from benchmarks.tables import BARS
from limbeck.errors import LimbeckError
from limbeck.tasks import classification

SMALL = JudgingScale(train=400, test=60, epochs=3, seeds=1, shown=60, shown_seeds=1, runs=2, repeats=1)


@pytest.fixture
def planted(monkeypatch):
    """A package whose one module calls another's functions; each takes as long as it says."""
    now = [0.0]
    tools, caller = types.ModuleType("tools.slow"), types.ModuleType("caller.inner")

    def work(seconds):
        now[0] += seconds

    def both(seconds):
        caller.work(seconds)
        now[0] += seconds

    for function in (work, both):
        function.__module__ = "tools.slow"
        setattr(tools, function.__name__, function)
        setattr(caller, function.__name__, function)
    monkeypatch.setitem(sys.modules, "tools.slow", tools)
    monkeypatch.setitem(sys.modules, "caller.inner", caller)
    return tools, caller, lambda: now[0]


def test_calls_are_timed_once_and_put_back(planted):
    tools, caller, clock = planted
    before = caller.work
    with clocked("caller", {"one": ("tools.slow:both",), "rest": ("tools",)}, clock=clock) as seconds:
        caller.work(2.0)
        caller.both(5.0)  # the call inside it is its own
        tools.work(100.0)  # nobody of the package called that
    assert seconds == {"one": 10.0, "rest": 2.0}
    assert caller.work is before
    caller.work(1.0)
    assert seconds["rest"] == 2.0


def test_methods_are_timed_in_the_class_that_has_them(planted, monkeypatch):
    tools, _, clock = planted
    tools.Parent = type("Parent", (), {"run": lambda self: tools.work(3.0)})
    tools.Child = type(
        "Child", (tools.Parent,), {"run": lambda self: (super(tools.Child, self).run(), tools.work(1.0))}
    )
    before = vars(tools.Child)["run"]
    with clocked("caller", {"runs": ("tools.slow:Parent.run",)}, clock=clock) as seconds:
        tools.Child().run()
        tools.Parent().run()
    assert seconds == {"runs": 7.0}
    assert vars(tools.Child)["run"] is before


def test_an_error_is_timed_too_and_all_is_put_back(planted):
    _, caller, clock = planted
    before = vars(caller).copy()
    with pytest.raises(TypeError), clocked("caller", {"all": ("tools",)}, clock=clock):
        caller.work("long")
    assert vars(caller) == before


@pytest.mark.soak
def test_every_figure_that_has_a_bar_is_there():
    found = bench_judging(scale=SMALL)
    assert set(BARS["judging"]) <= set(found)
    assert all(found[f"cpu_seconds_{part}"] > 0 for part in ("evaluations", "costs", "page"))
    spent = sum(found[f"cpu_seconds_{part}"] for part in ("evaluations", "measures", "costs"))
    assert found["measures_over_run"] == pytest.approx(spent / (found["cpu_seconds_run"] - spent), rel=0.02)
    assert 0.05 < found["report_megabytes"] < 6
    assert found["report_seconds"] == found["report_seconds_each"][0] > 0.3
    assert json.loads(json.dumps(found)) == found


@pytest.mark.soak
def test_slow_measures_would_be_detected(monkeypatch, tmp_path):
    real = classification.measure_classes

    @functools.wraps(real)
    def slow(*what, **how):
        until = time.process_time() + 0.5
        while time.process_time() < until:
            pass
        return real(*what, **how)

    monkeypatch.setattr(classification, "measure_classes", slow)
    assert _measured(tmp_path / "run", SMALL)["cpu_seconds_evaluations"] > 11 * 0.5  # five arms and the teacher, twice


def test_a_page_that_cannot_be_made_is_no_figure(tmp_path):
    with pytest.raises(LimbeckError, match=r"`limbeck report` failed: .*none'"):
        _page([tmp_path / "none"], tmp_path / "page.html")


def test_sizes_make_sense():
    with pytest.raises(LimbeckError, match="runs must be at least 1"):
        JudgingScale(runs=0)


def test_what_misses_its_bar_is_reported(monkeypatch, capsys):
    found = {"measures_over_run": 0.05, "report_seconds": 7.5, "report_megabytes": 1.7, "cpu_seconds_run": 60.0,
             "cpu_seconds_evaluations": 2.0, "cpu_seconds_measures": 0.5, "cpu_seconds_costs": 0.4, "runs": 10,
             "report_seconds_each": [7.4, 7.5, 7.6], "report_cpu_seconds": 3.0, "threads": 1, "torch": "2"}  # fmt: skip
    monkeypatch.setattr("benchmarks.bench_judging", lambda say: found)
    assert main(["judging", "--table"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert lines["report_seconds"].endswith("missed")
    assert lines["measures_over_run"].rstrip().endswith("met")
    assert main(["judging"]) == 0
    assert json.loads(capsys.readouterr().out) == found
