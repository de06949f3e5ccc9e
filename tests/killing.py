"""Helpers: what a kill leaves on disk at every change of a folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

CALLS = [(os, name) for name in ("replace", "rename", "mkdir", "rmdir", "unlink", "fsync", "ftruncate", "truncate")]


def states_at_kills(folder: Path, go: Callable[[], Any], kept: Path) -> list[Path]:
    """Copies of a folder as a SIGKILL leaves it, before every call that changes it and in the midst of every write.

    Nothing is killed: what is on disk at such a moment is what a kill leaves there, cleaning up being all that it
    prevents. Between two of these moments the disk does not change, but for a partial file that a library writes.

    Args:
        folder: What is looked at.
        go: What changes it, in this process.
        kept: Where the copies go, one for each state that differs from the one before.
    """
    states: list[Path] = []
    last: dict[str, bytes] | None = None
    looking = False

    def look() -> None:
        nonlocal last, looking
        if looking or not folder.exists():
            return
        looking = True
        now = {str(one.relative_to(folder)): b"" if one.is_dir() else one.read_bytes() for one in folder.rglob("*")}
        if now != last:
            states.append(kept / str(len(states)))
            shutil.copytree(folder, states[-1])
            last = now
        looking = False

    def looked(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            look()
            return real(*args, **kwargs)

        return call

    def write(descriptor: int, data: Any, real: Callable[..., int] = os.write) -> int:
        look()
        done = real(descriptor, data[: len(data) // 2])
        look()
        return done + real(descriptor, data[done:])

    def write_bytes(path: Path, data: bytes, real: Callable[..., int] = Path.write_bytes) -> int:
        look()
        real(path, data[: len(data) // 2])
        look()
        return real(path, data)

    patches = [patch.object(where, name, looked(getattr(where, name))) for where, name in CALLS]
    patches += [patch.object(os, "write", write), patch.object(Path, "write_bytes", write_bytes)]
    for one in patches:
        one.start()
    try:
        go()
    finally:
        for one in patches:
            one.stop()
    look()
    return states
