"""A tracker gets every report once, from one process, without effect on the loop."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
import torch

from engine.stories import SGD, everything, make_loader, network, weights
from limbeck.engine import TensorBoard, Tracker, distill, track
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy
from limbeck.losses import Loss
from limbeck.recipe import Stage
from small_jobs import forked


class Heard:
    """A tracker that remembers."""

    def __init__(self):
        self.values, self.closed = [], 0

    def log(self, values, step):
        self.values.append((step, dict(values)))

    def close(self):
        self.closed += 1


def run_of(out=None, *, resume=False, epochs=3, **setting):
    first = Stage(Loss(cross_entropy), epochs=1, name="first")
    options = {"optimizer": SGD, "log_every": 1, "checkpoint_seconds": 0.0, **setting}
    return distill(
        network(),
        first >> everything(epochs=epochs - 1, name="second"),
        make_loader(),
        out=out,
        resume=resume,
        **options,
    )


def scalars(folder):
    """All that TensorBoard itself would read: (name, step) -> values."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found: dict[tuple[str, int], list[float]] = {}
    for path in sorted(folder.glob("events*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found.setdefault((value.tag, event.step), []).append(value.tensor.float_val[0])
    return found


def test_it_hears_what_the_run_says():
    heard, reports = Heard(), []
    for report in track(run_of(), heard):
        reports.append(report)
        assert len(heard.values) == len(reports), "a report is logged before it is handed on"
    assert [step for step, _ in heard.values] == [report.step for report in reports]
    for report, (_, values) in zip(reports, heard.values, strict=True):
        assert values[f"{report.stage}/loss"] == report.loss
        assert {name.rpartition("/")[2]: v for name, v in values.items() if "/term/" in name} == report.terms
        assert values[f"{report.stage}/lr"] == report.lr
    assert heard.closed == 1
    assert isinstance(heard, Tracker)


def test_the_loop_is_still_the_reader_s(tmp_path):
    """A break closes, the same run goes on, and ends in the weights of one that nobody tracked."""
    run, heard = run_of(tmp_path / "run"), Heard()
    for _ in track(run, heard):
        break
    assert heard.closed == 1
    assert not run.finished
    for _ in track(run, heard):
        pass
    assert run.finished
    assert len(heard.values) == len(run.history)
    assert torch.equal(weights(run.student), weights(run_of().finish().student))


def test_an_error_in_the_loop_closes_too():
    heard = Heard()
    reports = track(run_of(), heard)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        for report in reports:
            1 / (report.step - 1)
    reports.close()
    assert heard.closed == 1


def test_tensorboard_reads_what_was_reported(tmp_path):
    run = run_of()
    for _ in track(run, TensorBoard(tmp_path / "board")):
        pass
    found = scalars(tmp_path / "board")
    for report in run.history:
        assert found[f"{report.stage}/loss", report.step] == pytest.approx([report.loss], rel=1e-6)
    assert {name.partition("/")[0] for name, _ in found} == {"1 first", "2 second"} or len(run.history) > 0


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
def test_a_resumed_run_writes_nothing_twice(tmp_path, checkpoint_seconds):
    """Also where the checkpoint is older than what was logged, so that steps are passed once more."""
    options = {"out": tmp_path / "run", "checkpoint_seconds": checkpoint_seconds}
    reports = track(run_of(**options), TensorBoard(tmp_path / "board"))
    for _ in range(7):
        next(reports)
    for path in (tmp_path / "board").glob("events*"):  # as a kill leaves it: the run itself never hears of it
        (tmp_path / "kept").write_bytes(path.read_bytes())
    state = tmp_path / "run" / "checkpoint.safetensors"
    held = state.read_bytes() if state.exists() else None
    reports.close()
    if held is not None:
        state.write_bytes(held)
    resumed = run_of(**options, resume=True)
    for _ in track(resumed, TensorBoard(tmp_path / "board", resume=True)):
        pass
    whole = run_of()
    for _ in track(whole, TensorBoard(tmp_path / "whole")):
        pass
    found, wanted = scalars(tmp_path / "board"), scalars(tmp_path / "whole")
    assert set(found) == set(wanted)
    assert set(Counter({key: len(values) for key, values in found.items()}).values()) == {1}
    assert all(found[key] == wanted[key] for key in found if not key[0].endswith("/rate"))


def test_what_a_kill_cut_off_is_written_again(tmp_path):
    board = TensorBoard(tmp_path)
    for step in range(1, 4):
        board.log({"a": float(step)}, step)
    board.close()
    (path,) = tmp_path.glob("events*")
    path.write_bytes(path.read_bytes()[:-5])
    again = TensorBoard(tmp_path, resume=True)
    for step in range(1, 5):
        again.log({"a": float(step)}, step)
    again.close()
    assert scalars(tmp_path) == {("a", step): [float(step)] for step in range(1, 5)}


def test_a_report_is_on_disk_before_the_loop_goes_on(tmp_path):
    for report in track(run_of(), TensorBoard(tmp_path)):
        assert (f"{report.stage}/loss", report.step) in scalars(tmp_path)
        if report.step > 1:
            break


def test_nothing_is_made_before_the_first_report(tmp_path):
    reports = track(run_of(), TensorBoard(tmp_path / "board"))
    assert not (tmp_path / "board").exists()
    next(reports)
    assert (tmp_path / "board").is_dir()
    reports.close()


def test_two_runs_in_one_folder_are_refused(tmp_path):
    board = TensorBoard(tmp_path)
    board.log({"a": 1.0}, 1)
    board.close()
    with pytest.raises(LimbeckError, match=r"already holds events.*resume=True"):
        TensorBoard(tmp_path)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LimbeckError, match="is a file"):
        TensorBoard(tmp_path / "file")


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_tracker_is_refused_at_once():
    run = run_of().finish()
    with pytest.raises(LimbeckError, match=r"log\(values, step\) and close\(\); str has not"):
        track(run, "tensorboard")


def test_without_the_extra_it_explains_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(LimbeckError, match=r"pip install 'limbeck\[tensorboard\]'"):
        TensorBoard(tmp_path)


SCRIPT = """
import os, sys, torch
from forked_ranks import run_ranks
from limbeck.engine import TensorBoard, distill, open_fabric, track
from limbeck.functional import cross_entropy
from limbeck.losses import Loss
from limbeck.recipe import Stage

def play(rank):
    fabric = open_fabric(devices=2, strategy="ddp", accelerator="cpu")
    torch.manual_seed(0)
    data = torch.randn(24, 5), torch.randint(3, (24,))
    stage = Stage(Loss(cross_entropy), epochs=2)
    run = distill(torch.nn.Linear(5, 3), stage, data, batch_size=8, fabric=fabric, log_every=1)
    seen = sum(1 for _ in track(run, TensorBoard(sys.argv[1])))
    os.write(1, f"{fabric.global_rank} {seen}\\n".encode())  # in one piece: two processes share the pipe

run_ranks(2, play, errors=sys.argv[1])
"""


@pytest.mark.slow
def test_of_two_ranks_one_writes(tmp_path):
    done = forked("-c", SCRIPT, tmp_path / "board", cwd=tmp_path)
    assert done.code == 0, done.err[-3000:]
    assert "0 6" in done.out
    assert "1 6" in done.out
    assert len(list((tmp_path / "board").iterdir())) == 1
    found = scalars(tmp_path / "board")
    assert {step for _, step in found} == set(range(1, 7))
    assert all(len(values) == 1 for values in found.values())
