"""What do the engine's tests share?"""

from __future__ import annotations

from collections.abc import Iterator

import jaxtyping
import pytest


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without shape checks: a wrong type reaches limbeck's own sentence, and nobody else draws random numbers.

    beartype picks the items that it looks at with Python's own generator.
    """
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
