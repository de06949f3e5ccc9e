"""Shared by all tests: shape checks, one thread, fixed seeds, and the folder of real data."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping

from shape_checks import begin_test, install_shape_checks

install_shape_checks("limbeck", "benchmarks")

# A power failure is not among the tests, and a job waits for the disk as long as it computes. Tests of the order of
# writes replace this function by their own.
os.fsync = lambda descriptor: None

# Every run reads the metadata of installed packages, 15 ms a run, and they do not change while tests run.
importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)
importlib.metadata.version = functools.cache(importlib.metadata.version)

import pytest  # noqa: E402

# PyTorch is imported where it is used: the process that only hands out tests to others does without.

REPOSITORY = Path(__file__).resolve().parents[1]

_INTEGRATION = re.compile(
    r"^\s*(?:from|import) (?:subprocess|multiprocessing|typer\.testing|limbeck\.cli(?:\.app)? import|small_jobs|"
    r"limbeck\.(?:export|papers)\b|export_runs|report_runs|searches|killing|waiting|benchmarks)\b"
    r"|importorskip\(\"(?:transformers|lightning|peft)\"",  # several seconds to import
    re.MULTILINE,
)
_TRAINING = re.compile(
    r"\b(?:distill|run_job|check_method|exec)\(|limbeck\.integrations import"
    r"|from methods\.(?:planted|bigrams)"
    r"|def test_\w+\([^)]*\bdone\b"  # the finished job of a fixture
)
_WHOLE_RUN = re.compile(r"\btmp_path\b|torch\.compile\(")


@functools.cache
def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


@functools.cache
def _is_integration(file: Path) -> bool:
    """Whether a test file runs jobs, commands or processes, or trains; its text tells.

    The tests of the engine all train, most of them for a few steps. Only runs with a folder, or compiled, count there.
    """
    training = _WHOLE_RUN if file.parent.name == "engine" else _TRAINING
    return bool(_INTEGRATION.search(_read(file)) or training.search(_read(file)))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files that `make test-fast` leaves out are not even imported: some import transformers or lightning."""
    if "not integration" not in config.option.markexpr or not re.fullmatch(r"test_\w+\.py", collection_path.name):
        return None
    return _is_integration(collection_path) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of such files, so that nobody has to remember it."""
    files = {path: _is_integration(path) for path in {item.path for item in items}}
    for item in items:
        if files[item.path]:
            item.add_marker(pytest.mark.integration)
    # pytest adds its handlers to every logger that does not propagate, three times a test; PyTorch has fifty of them.
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.propagate = True


_JOBS = re.compile(r"\brun_job\b|\bimport .*\b(?:small_job|finished|tune)\b")
_FOLDERS = ("cli", "compare", "doctor", "export", "integrations", "job")
_FIGURES = re.compile(r"report\.html|svg|(?<!con)figure")


@functools.cache
def _is_without_figures(file: Path) -> bool:
    """Whether a test file runs jobs, and does not look at the figures of their pages; its text tells."""
    jobs = file.parent.name in _FOLDERS or bool(_JOBS.search(_read(file)))
    return jobs and not _FIGURES.search(_read(file))


def _keep_onnx_registry() -> None:
    """Read the functions of ONNX once: PyTorch reads the source of 500 of them for each export, half of its time."""
    registration = sys.modules.get("torch.onnx._internal.exporter._registration")
    if registration is None or "read_once" in vars(registration):
        return
    registry = registration.ONNXRegistry
    registration.read_once = read_once = functools.cache(registry.from_torchlib)

    def from_torchlib(*version: int, **options: int) -> Any:
        once, own = read_once(*version, **options), registry()
        own._opset_version = once.opset_version
        own.functions = {name: list(functions) for name, functions in once.functions.items()}  # an export adds its own
        return own

    registry.from_torchlib = staticmethod(from_torchlib)


@pytest.fixture(autouse=True)
def _each_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fixed seeds, one thread, and no figures where nobody looks at them.

    Figures are a third of a small job's time: tests of jobs that do not look at them run as without matplotlib.
    """
    import torch

    begin_test()
    _keep_onnx_registry()
    torch.default_generator.manual_seed(0)  # torch.manual_seed walks the stack, for GPUs that do not exist yet
    torch.set_num_threads(1)
    if not _is_without_figures(request.path):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        for module in ("limbeck.report.svg", "limbeck.report.page"):
            patch.setattr(f"{module}.has_figures", lambda: False)
        patch.setattr("limbeck.compare.experiment.result_svg", lambda result: "")
        yield


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As for a user, who has no shape checks: a wrong type reaches limbeck's own sentence.

    And nobody else draws random numbers: beartype picks the items that it looks at with Python's own generator.
    """
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def real_data() -> Path:
    """The folder with real data sets; a test that asks for it is skipped, with a sentence, where there is none."""
    folder = Path(os.environ.get("LIMBECK_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: set LIMBECK_DATA to a folder with mnist.npz (looked in {folder.name}/)")
    return folder
