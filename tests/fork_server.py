"""Helper: a process that has imported limbeck and forks a child for each command, which so costs no imports.

Each line of the standard input is a request, as JSON; each line of the standard output is its answer: a number.
"""

from __future__ import annotations

import atexit
import functools
import importlib.metadata
import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any


@functools.cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.wait)  # so that its processor time counts as that of the tests
    atexit.register(server.kill)
    return server


def _ask(**request: Any) -> Any:
    server = _server()
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


def fork_command(words: list[str], *, cwd: Path, env: dict[str, str], out: Path, err: Path) -> int:
    """Run a script with arguments in a child: its process number, which is that of its process group as well.

    As for Python itself, the first word may be ``-c`` or ``-m``, and the second a program or a module.
    """
    for file in (out, err):
        file.touch()
    return _ask(words=words, cwd=str(cwd), env=env, out=str(out), err=str(err))


def poll_command(child: int, *, wait: bool = False) -> int | None:
    """The exit code of a child, as `subprocess` gives it; None if it runs, unless `wait` is true."""
    return _ask(child=child, wait=wait)


_STARTED: dict[int, subprocess.Popen[bytes]] = {}


def start_command(words: list[str], *, cwd: Path, env: dict[str, str], out: Path, err: Path) -> int:
    """As `fork_command`, by a new Python."""
    with out.open("wb") as stdout, err.open("wb") as stderr:
        child = subprocess.Popen(
            [sys.executable, *words], cwd=cwd, env=env, stdout=stdout, stderr=stderr, start_new_session=True,
            # What runs in the background ignores Ctrl-C, and its children would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
    _STARTED[child.pid] = child
    return child.pid


def poll_started(child: int, *, wait: bool = False) -> int | None:
    """As `poll_command`, for a command of `start_command`."""
    return _STARTED[child].wait() if wait else _STARTED[child].poll()


def _run(request: dict[str, Any]) -> None:
    """The life of a child."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, file in ((1, request["out"]), (2, request["err"])):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout.reconfigure(line_buffering=True)
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        paths = request["env"].get("PYTHONPATH", "")
        sys.path[:0] = [request["cwd"], *filter(None, paths.split(os.pathsep))]
        _execute(*request["words"])
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _execute(first: str, *rest: str) -> None:
    """Run a script, ``-c`` and a program, or ``-m`` and a module, each with its arguments."""
    sys.argv = [first, *rest[1:]] if first in ("-c", "-m") else [first, *rest]
    if first == "-c":
        sys.modules["__main__"] = module = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(module))
    elif first == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(first, run_name="__main__")


def main() -> None:
    """Serve requests until the standard input ends."""
    import torch._dynamo

    import limbeck.cli.app
    import limbeck.compare  # noqa: F401
    from limbeck.engine.train_config import import_fabric

    import_fabric()

    # As in conftest.py: no power fails, and what is installed does not change.
    os.fsync = lambda descriptor: None
    importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)
    importlib.metadata.version = functools.cache(importlib.metadata.version)
    importlib.metadata.entry_points(group="lightning.fabric.callbacks")  # a child starts with what is cached here
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        if "child" in request:
            child, status = os.waitpid(request["child"], 0 if request["wait"] else os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if child else None), flush=True)
            continue
        child = os.fork()
        if child == 0:
            _run(request)
        print(child, flush=True)


if __name__ == "__main__":
    main()
