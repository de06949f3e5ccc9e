"""Shared by all tests: shape checks, one thread, fixed seeds, and the folder of real data."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
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
from _pytest.logging import catching_logs  # noqa: E402

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
    _log_at_the_root()


def _log_at_the_root() -> None:
    """Let all loggers propagate, and pytest add its handlers to the root alone.

    pytest looks through all loggers, six times a test, for those that do not propagate. There are a thousand of them.
    """
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.propagate = True
    enter = catching_logs.__enter__

    def enter_at_the_root(self: Any) -> Any:
        if self.level is not None:
            return enter(self)
        logging.root.addHandler(self.handler)
        self.attached_loggers.append(logging.root)
        return self.handler

    catching_logs.__enter__ = enter_at_the_root


_JOBS = re.compile(r"\brun_job\b|\bimport .*\b(?:small_job|finished|tune)\b")
_FOLDERS = ("cli", "compare", "doctor", "export", "integrations", "job")
_FIGURES = re.compile(r"report\.html|svg|(?<!con)figure")
_CACHED = re.compile(r"^@cache|\bfrom task_runs\b", re.MULTILINE)


@functools.cache
def _runs_jobs(file: Path) -> bool:
    return file.parent.name in _FOLDERS or bool(_JOBS.search(_read(file)))


@functools.cache
def _find_readers_of_figures(file: Path) -> frozenset[str]:
    """The functions of a test file that look at figures, and those that refer to such a function; their text tells."""
    text = _read(file)
    if not _FIGURES.search(text):
        return frozenset()
    nodes = [node for node in ast.parse(text).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    lines = text.splitlines()
    texts = {node.name: "\n".join(lines[node.lineno - 1 : node.end_lineno]) for node in nodes}
    readers = {name for name, one in texts.items() if _FIGURES.search(one)}
    while more := {
        name for name, one in texts.items() if name not in readers and not readers.isdisjoint(re.findall(r"\w+", one))
    }:
        readers |= more
    # The page of a job that is cached has its figures from the first test that asks for it.
    return frozenset(texts if _CACHED.search(text) else readers)


def _is_without_figures(request: pytest.FixtureRequest) -> bool:
    """Whether a test belongs to a file that runs jobs, and does not look at the figures of their pages."""
    names = {request.function.__name__} | ({request.cls.__name__} if request.cls else set())
    return _runs_jobs(request.path) and names.isdisjoint(_find_readers_of_figures(request.path))


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


def _draw_no_figures(patch: pytest.MonkeyPatch) -> None:
    """Run jobs as without matplotlib: figures are a third of a small job's time."""
    for module in ("limbeck.report.svg", "limbeck.report.page"):
        patch.setattr(f"{module}.has_figures", lambda: False)
    patch.setattr("limbeck.compare.experiment.result_svg", lambda result: "")


_TIMED = ("costs.cost_of", "costs.cost_in_full", "costs.answer_latency", "result.cost_of")


def _time_few_passes(patch: pytest.MonkeyPatch) -> None:
    """Let jobs time two passes of a model, not 110: no test of a job is about how long its models take."""
    for name in _TIMED:
        module = importlib.import_module(f"limbeck.compare.{name.partition('.')[0]}")
        measure = getattr(module, name.partition(".")[2])
        patch.setattr(f"limbeck.compare.{name}", functools.partial(_call_with_few, measure))


def _call_with_few(measure: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    return measure(*arguments, **{**options, "repeats": 2})


@pytest.fixture(autouse=True, scope="module")
def _each_file(request: pytest.FixtureRequest) -> Iterator[None]:
    """Jobs time few passes; the fixtures of a file in which nobody looks at figures draw none."""
    if not _runs_jobs(request.path):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        _time_few_passes(patch)
        if not _find_readers_of_figures(request.path):
            _draw_no_figures(patch)
        yield


@pytest.fixture(autouse=True)
def _each_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fixed seeds, one thread, and no figures where nobody looks at them."""
    import torch

    begin_test()
    _keep_onnx_registry()
    torch.default_generator.manual_seed(0)  # torch.manual_seed walks the stack, for GPUs that do not exist yet
    torch.set_num_threads(1)
    if not _is_without_figures(request):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        _draw_no_figures(patch)
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
