"""Fixtures of the tests of experiments."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

import limbeck.engine


@pytest.fixture(scope="module", autouse=True)
def _in_float32() -> Iterator[None]:
    """Train in float32 where an experiment asks for bfloat16: processors without instructions for it take four times
    as long, and no test of an experiment is about precision."""
    module = sys.modules["limbeck.engine.distill"]
    open_fabric = limbeck.engine.open_fabric

    def open_in_float32(**options: str) -> limbeck.engine.Fabric:
        return open_fabric(**{**options, "precision": "32-true"})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "open_fabric", open_in_float32)
        yield
