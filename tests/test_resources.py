"""A disk that is full, and memory that is refused, end in a sentence; what stood there is whole."""

from __future__ import annotations

import errno
import os
import pickle
import resource
from contextlib import contextmanager

import pytest
import torch

from limbeck.atomic_io import append_text, write_text
from limbeck.cli import app as command_line
from limbeck.cli import main
from limbeck.compare import run_job, run_storage
from limbeck.engine.checkpoint import read_checkpoint, write_checkpoint
from limbeck.engine.stage_trainer import StageTrainer
from limbeck.errors import LastBatchError, LimbeckError, WriteError, is_out_of_memory
from limbeck.job import make_job
from limbeck.models import build, load, save
from small_jobs import blobs, small_job


@contextmanager
def largest_file(size: int):
    """A block in which no file may be larger, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_weights_that_do_not_fit_leave_the_old_ones(tmp_path):
    first = build("mlp", inputs=40, classes=3, hidden=[100], seed=0)
    save(first, tmp_path / "student")
    with largest_file(5000), pytest.raises(WriteError, match=r"model\.safetensors"):
        save(build("mlp", inputs=40, classes=3, hidden=[100], seed=1), tmp_path / "student")
    kept = load(tmp_path / "student").state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in first.state_dict().items())
    assert not list((tmp_path / "student").glob(".*"))


def test_a_checkpoint_that_does_not_fit_leaves_the_old_one(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, {"step": 1})
    with largest_file(5000), pytest.raises(WriteError) as raised:
        write_checkpoint(path, {"weights": torch.zeros(10_000)})
    assert raised.value.filename == str(path)
    assert read_checkpoint(path) == {"step": 1}


@pytest.mark.parametrize("write", [write_text, append_text])
def test_text_that_does_not_fit_names_its_file(write, tmp_path):
    with largest_file(100), pytest.raises(WriteError) as raised:
        write("x" * 1000, tmp_path / "page.html")
    assert raised.value.errno == errno.EFBIG
    assert raised.value.filename == str(tmp_path / "page.html")
    again = pickle.loads(pickle.dumps(raised.value))  # as from a worker process
    assert str(again) == str(raised.value)


@pytest.mark.parametrize("raised", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_folder_that_could_not_be_claimed_is_free_again(raised, tmp_path):
    def leave_student():
        (tmp_path / "student").mkdir()
        raise raised

    with pytest.raises((LimbeckError, KeyboardInterrupt)):
        run_storage.initialize_folder(
            make_job({"data": "digits", "teacher": "mlp", "student": "mlp"}), tmp_path, leave_student
        )
    assert os.listdir(tmp_path) == []


def test_memory_that_is_refused_is_known():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50, dtype=torch.uint8).fill_(0)
    assert is_out_of_memory(raised.value)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


@pytest.mark.parametrize("call", [1, 2])
def test_a_first_step_without_memory_is_a_sentence_about_memory(call, tmp_path, monkeypatch):
    """In a step on a full batch, and in one on the last of an epoch."""
    real, left = StageTrainer.step, [call]

    def fails(*arguments, **options):
        left[0] -= 1
        if left[0] == 0:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 144000000 bytes.")
        return real(*arguments, **options)

    monkeypatch.setattr(StageTrainer, "step", fails)
    job = make_job(small_job(blobs(tmp_path / "b.npz"), out=str(tmp_path / "run")))
    with pytest.raises(LimbeckError, match="not enough memory") as raised:
        run_job(job)
    assert not isinstance(raised.value, LastBatchError)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_command_without_memory_ends_in_a_sentence(error, monkeypatch, capsys):
    def fails(**_):
        raise error

    monkeypatch.setattr(command_line, "app", fails)
    with pytest.raises(SystemExit):
        main(["methods"])
    said = capsys.readouterr().err
    assert "batch_size" in said
    assert len(said.splitlines()) == 1
