"""What do all tests share? Shape checks on, one thread, fixed seeds, and where real data lie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
from jaxtyping import install_import_hook

install_import_hook(["limbeck", "benchmarks"], "beartype.beartype").__enter__()

import pytest  # noqa: E402
import torch  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _deterministic():
    torch.manual_seed(0)
    torch.set_num_threads(1)


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
