"""Helpers: small jobs, data and commands for tests."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import yaml

from fork_server import fork_command, poll_command, poll_started, start_command

ARMS = ("teacher", "student alone", "label smoothing", "distilled")


def blobs(path: Path, *, classes: int = 5, train: int = 150, test: int = 60, size: int = 6, seed: int = 0) -> Path:
    """An .npz of gray pictures, one bright spot for each class, that a small network learns in two epochs."""
    draw = np.random.default_rng(seed)
    centers = np.random.default_rng(0).integers(0, 2, (classes, size, size)) * 160

    def part(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % classes
        pictures = centers[labels] + draw.normal(40, 70, (count, size, size))
        return pictures.clip(0, 255).astype(np.uint8), labels

    (x_train, y_train), (x_test, y_test) = part(train), part(test)
    names = np.array([f"class {chr(97 + i)}" for i in range(classes)])
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, class_names=names)
    return path


def small_job(data: Any, **changes: Any) -> dict[str, Any]:
    """A job of a second."""
    return {
        "data": str(data) if isinstance(data, Path) else data,
        "teacher": {"model": "mlp", "hidden": [32]},
        "student": {"model": "mlp", "hidden": [6]},
        "budget": {"epochs": 2, "lr": 0.01, "batch_size": 16},
        "seeds": 2,
        **changes,
    }


def job_file(path: Path, job: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return path


class Typed(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        lines = self.out.splitlines()
        assert len(lines) == 1, f"one JSON object on standard output, not:\n{self.out}\n{self.err}"
        return json.loads(lines[0], parse_constant=lambda name: 1 / 0)


def refused(ended: Typed, *words: str) -> str:
    """One sentence, on the right stream, with these words in it."""
    assert ended.code == 1, (ended.out, ended.err)
    *before, said = ended.err.splitlines()
    assert said.startswith("Error: ")
    assert all(
        line.startswith(("Data: ", "  ", "Training the", "Teacher loaded", "... starting")) for line in before
    ), ended.err
    for word in words:
        assert word in said
    return said


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "RANK", "COLUMNS")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}


def typed(*words: Any, cwd: Path, timeout: float = 120) -> Typed:
    """A command typed in a shell of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "limbeck", *map(str, words)],
        cwd=cwd, env=environment(), capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    return Typed(done.returncode, done.stdout, done.stderr)


def typed_here(*words: Any, cwd: Path) -> Typed:
    """A command in this process, which has imported everything already: for commands that no signal stops."""
    from limbeck.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(word) for word in words])
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Typed(code, out.getvalue(), err.getvalue())


def forked(*words: Any, cwd: Path, seconds: float = 300, fresh: bool = False) -> Typed:
    """A script that runs to its end, or kills itself, forked from a process that has imported limbeck.

    Args:
        *words: A script, or ``-c`` and a program, or ``-m`` and a module; and its arguments.
        cwd: The working folder.
        seconds: How long it may take.
        fresh: Whether it is started by a new Python, where the test is about what is imported.
    """
    start, poll = (start_command, poll_started) if fresh else (fork_command, poll_command)
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        child = start([str(word) for word in words], cwd=cwd, env=environment(), out=out, err=err)
        until = time.monotonic() + seconds
        while (code := poll(child)) is None:
            assert time.monotonic() < until, f"it does not end: {words}"
            time.sleep(0.01)
        return Typed(code, out.read_text(), err.read_text())


def stopped(words: list[Any], *, cwd: Path, when: Any, by: signal.Signals, fresh: bool = False) -> Typed | None:
    """A script that gets a signal, with all its children, as soon as `when()` holds; None if it was done before.

    Args:
        words: A script and its arguments.
        cwd: The working folder.
        when: Whether it is time.
        by: The signal.
        fresh: Whether it is started by a new Python, and not forked from one that has imported limbeck.
    """
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        start, poll = (start_command, poll_started) if fresh else (fork_command, poll_command)
        child = start([str(word) for word in words], cwd=cwd, env=environment(), out=out, err=err)
        until = time.monotonic() + 120
        code = poll(child)
        while code is None and not when():
            assert time.monotonic() < until, "the moment never came"
            time.sleep(0.002)
            code = poll(child)
        if code is not None:
            return None
        os.killpg(child, by)
        return Typed(poll(child, wait=True), out.read_text(), err.read_text())


def weights(folder: Path) -> dict[str, bytes]:
    """The raw bytes of every tensor in a student folder."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="pt") as opened:
        return {name: opened.get_tensor(name).numpy().tobytes() for name in opened.keys()}  # noqa: SIM118


def accuracies(result: dict[str, Any]) -> dict[str, list[float]]:
    return {name: arm["accuracy"]["values"] for name, arm in result["arms"].items()}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, to see that nothing was touched."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def taught_network(folder: Path) -> tuple[Any, Any]:
    """A network that has learnt the data that are then in this folder, and those data."""
    import limbeck as lb
    from limbeck.models import build

    net = build("mlp", inputs=36, classes=5, hidden=[16], seed=0)
    net.load_state_dict(_taught_weights())
    return net, lb.load_data(str(blobs(folder / "data.npz")))


@functools.cache  # the data are the same in every folder
def _taught_weights() -> dict[str, Any]:
    import limbeck as lb
    from limbeck.models import build

    with TemporaryDirectory() as folder:
        data = lb.load_data(str(blobs(Path(folder) / "data.npz")))
    net = build("mlp", inputs=36, classes=5, hidden=[16], seed=0)
    loader = lb.ShuffledLoader(data.train, batch_size=32)
    lb.distill(net, lb.methods.make("supervised"), loader, epochs=10, preprocess=data.preprocess).finish()
    return net.state_dict()
