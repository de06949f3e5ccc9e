"""What do the tests of exports share? Runs that are done once."""

from __future__ import annotations

import pytest

from export_runs import finished


@pytest.fixture(scope="session")
def done(tmp_path_factory):
    """A finished run of a small network, whose exports lie beside it."""
    student = {"model": "mlp", "hidden": [64, 32]}
    return finished(tmp_path_factory.mktemp("done"), student=student, arms=["teacher", "student alone", "distilled"])
