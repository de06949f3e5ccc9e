"""A run locks its folder, and no lock outlives its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.stories import SGD, make_loader, network, weights
from fork_server import fork_command, poll_command
from limbeck.atomic_io import folder_lock
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy
from limbeck.losses import Loss
from limbeck.recipe import Recipe, Stage
from small_jobs import environment
from waiting import within

HOLDER = """
import os, sys, time
from pathlib import Path
from limbeck.atomic_io import folder_lock
with folder_lock(Path(sys.argv[1])):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


def run(out: Path, **options):
    stage = Stage(Loss(cross_entropy), epochs=2, optimizer=SGD)
    return distill(network(), stage, make_loader(), out=out, log_every=1, **options)


def test_two_runs_of_one_process_do_not_share_a_folder(tmp_path):
    first = run(tmp_path / "run")
    reports = iter(first)
    next(reports)
    with pytest.raises(LimbeckError, match="being run already, by another run of this process"):
        run(tmp_path / "run", resume=True)
    for _ in reports:
        pass
    assert first.finished


def test_a_run_that_was_overtaken_reports_it(tmp_path):
    whole = run(None).finish()
    first = run(tmp_path / "run")
    for _ in first:
        break
    second = run(tmp_path / "run", resume=True).finish()
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes().count(b"\n") == 8
    assert weights(second.student).equal(weights(whole.student))
    with pytest.raises(LimbeckError, match="Another run has continued in"):
        first.finish()
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes().count(b"\n") == 8


def test_the_second_that_was_built_is_refused_while_the_first_runs(tmp_path):
    first = run(tmp_path / "run")
    for _ in first:
        break
    second = run(tmp_path / "run", resume=True)
    reports = iter(first)
    next(reports)
    with pytest.raises(LimbeckError, match="being run already"):
        second.finish()
    reports.close()


@pytest.mark.usefixtures("unchecked")
def test_an_error_or_a_break_lets_go(tmp_path):
    for _ in run(tmp_path / "run"):
        break
    failed = run(tmp_path / "run", resume=True)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        for _ in failed:
            1 / 0  # noqa: B018
    assert run(tmp_path / "run", resume=True).finish().finished
    assert not (tmp_path / "run" / ".lock").exists()


def test_another_process_holds_it_until_it_is_killed(tmp_path):
    """Also where it has forked a child that lives on, as data loaders do."""
    for _ in run(tmp_path / "run"):
        break
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(LimbeckError, match=rf"by another process \(process {holder.pid} on .*Wait until it ends"):
            run(tmp_path / "run", resume=True)
    finally:
        holder.kill()
        holder.wait()
    try:
        assert run(tmp_path / "run", resume=True).finish().finished
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


def test_a_branch_is_alone_in_its_own_folder(tmp_path):
    def both(**options):
        parts = [Stage(Loss(cross_entropy), trains=name, epochs=1, optimizer=SGD) for name in "ab"]
        models = {"a": network(), "b": network(seed=1)}
        return distill(models, Recipe(parts[0] | parts[1]), make_loader(), out=tmp_path / "run", workers=1, **options)

    (tmp_path / "run" / "branches" / "0-1").mkdir(parents=True)
    with (
        folder_lock(tmp_path / "run" / "branches" / "0-1"),
        pytest.raises(LimbeckError, match="0-1 is being run already"),
    ):
        both().finish()
    assert both(resume=True).finish().finished


BRANCHES = """
import sys
from engine.stories import network, make_loader
from limbeck.engine import distill
from limbeck.functional import cross_entropy
from limbeck.losses import Loss
from limbeck.recipe import Stage

a, b = (Stage(Loss(cross_entropy), trains=name, steps=10_000_000) for name in "ab")
distill({"a": network(), "b": network()}, a | b, make_loader(), out=sys.argv[1], workers=2).finish()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process does not learn that its parent has ended")
def test_branches_in_processes_end_with_a_run_that_is_killed(tmp_path):
    words, nowhere = ["-c", BRANCHES, str(tmp_path / "run")], Path(os.devnull)
    begun = fork_command(words, cwd=tmp_path, env=environment(), out=nowhere, err=nowhere)
    locks = (tmp_path / "run" / "branches").glob
    try:
        assert within(120, lambda: len(list(locks("*/.lock"))) == 2)
        branches = [lock.parent for lock in locks("*/.lock")]
    finally:
        os.kill(begun, signal.SIGKILL)
        poll_command(begun, wait=True)
    assert within(20, lambda: all(_is_free(branch) for branch in branches))


def _is_free(folder):
    try:
        with folder_lock(folder):
            return True
    except LimbeckError:
        return False
