"""Fixtures of the tests of the command line."""

from __future__ import annotations

import functools

import pytest
import typer.main

from small_jobs import Typed, blobs, job_file, small_job, typed_here

# A command line is built from all functions with all their options, for each command that a test types.
typer.main.get_command = functools.cache(typer.main.get_command)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to type commands in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def limbeck(here, capsys):
    """A command typed in this process: how it ended, and what it printed where."""
    from limbeck.cli import main

    def run(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        said = capsys.readouterr()
        return Typed(int(ended.value.code or 0), said.out, said.err)

    return run


@pytest.fixture
def job(here):
    """A job file of a second, on data beside it."""
    return job_file(here / "job.yaml", small_job(blobs(here / "blobs.npz")))


@pytest.fixture(scope="session")
def done(tmp_path_factory):
    """A finished run: the folder it was typed in, and how it ended."""
    folder = tmp_path_factory.mktemp("done")
    job_file(folder / "job.yaml", small_job(blobs(folder / "blobs.npz")))
    return folder, typed_here("distill", "job.yaml", "--out", "run", "--json", cwd=folder)
