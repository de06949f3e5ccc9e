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
        blocks: The toolkit's loop for the benchmark's job.
        version: The installed version.
        note: How the job is written with the toolkit.
        precisions: The precisions that it supports.
    """

    blocks: Blocks
    version: str
    note: str
    precisions: tuple[str, ...] = tuple(PRECISIONS)


def find_peers() -> tuple[dict[str, Peer], dict[str, str]]:
    """The installed peers, and the reason for each that is missing."""
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
