"""Other toolkits that can run the benchmark's training job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.workload import PRECISIONS, Blocks

_ABSENT = "not installed: pip install -e '.[bench]'"


@dataclass(frozen=True)
class Peer:
    """Another toolkit's loop.

    Attributes:
        blocks: Its loop on the benchmark's job.
        version: Which version is installed.
        note: How the job was put to it.
        precisions: In which precisions it can run it.
    """

    blocks: Blocks
    version: str
    note: str
    precisions: tuple[str, ...] = tuple(PRECISIONS)


def find_peers() -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers that are installed, and for each that is not, why."""
    peers: dict[str, Peer] = {}
    skipped: dict[str, str] = {}
    for name, package, look in _KNOWN:
        try:
            peers[name] = look()
        except ImportError as error:
            missing = getattr(error, "name", None)
            skipped[name] = _ABSENT if missing == package else f"does not import: {error}"
    return peers, skipped


def _textbrewer() -> Peer:
    from importlib.metadata import version

    import textbrewer  # noqa: F401 - raises where it is missing

    from benchmarks.textbrewer_loop import NOTE, textbrewer_blocks

    return Peer(textbrewer_blocks, version("textbrewer"), NOTE, precisions=("float32",))


def _model_optimizer() -> Peer:
    from importlib.metadata import version

    import modelopt.torch.distill  # noqa: F401 - raises where it is missing

    from benchmarks.model_optimizer_loop import NOTE, model_optimizer_blocks

    return Peer(model_optimizer_blocks, version("nvidia-modelopt"), NOTE)


_KNOWN: tuple[tuple[str, str, Callable[[], Peer]], ...] = (
    ("textbrewer", "textbrewer", _textbrewer),
    ("model-optimizer", "modelopt", _model_optimizer),
)
