"""Helper: the ranks of a distributed run, forked from a process that has imported everything."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any


def fork_ranks(count: int, function: Callable[..., Any], *arguments: Any, errors: str | Path) -> list[int]:
    """Start the ranks of a run: each calls `function` with its number and the arguments.

    Fabric takes them for processes that a cluster has started, and starts none itself. A rank that fails leaves
    ``ERRORS.rank0.error`` and ends with 1.

    Returns:
        Their process numbers.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(count):
        child = os.fork()
        if child:
            children.append(child)
            continue
        world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": rank, "RANK": rank, "NODE_RANK": 0,
                 "WORLD_SIZE": count, "GLOO_SOCKET_IFNAME": "lo"}  # fmt: skip
        if count > 1:
            os.environ.update({key: str(value) for key, value in world.items()})
        code = 1
        try:
            function(rank, *arguments)
            code = 0
        except BaseException as error:
            Path(f"{errors}.rank{rank}.error").write_text(f"{type(error).__name__}: {error}")
        finally:
            os._exit(code)
    return children


def run_ranks(count: int, function: Callable[..., Any], *arguments: Any, errors: str | Path) -> None:
    """Start the ranks of a run, and wait until they have ended.

    Raises:
        RuntimeError: If one of them failed.
    """
    children = fork_ranks(count, function, *arguments, errors=errors)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(codes):
        told = [file.read_text() for file in Path(errors).parent.glob(f"{Path(errors).name}.rank*.error")]
        raise RuntimeError(f"ranks ended with {codes}: {told}")
