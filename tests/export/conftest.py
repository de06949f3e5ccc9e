"""Fixtures of the tests of exports: runs that are made once."""

from __future__ import annotations

import pytest

from export_runs import finished
from limbeck.export import export_run


@pytest.fixture(scope="session")
def done(tmp_path_factory):
    """A finished run of a small network, whose exports lie beside it."""
    student = {"model": "mlp", "hidden": [64, 32]}
    return finished(tmp_path_factory.mktemp("done"), student=student, arms=["teacher", "student alone", "distilled"])


@pytest.fixture(scope="session")
def exports(done):
    """That run in every format that it has, by name."""
    return {to: export_run(done, to=to) for to in ("folder", "onnx", "int8")}
