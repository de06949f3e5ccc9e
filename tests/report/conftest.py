"""Fixtures of the tests of the report."""

from __future__ import annotations

import pytest


@pytest.fixture
def without_figures(monkeypatch):
    """As without matplotlib, for tests that read sentences: figures are most of the time of a page."""
    for module in ("svg", "page"):
        monkeypatch.setattr(f"limbeck.report.{module}.has_figures", lambda: False)
