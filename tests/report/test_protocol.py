"""The settings of a job as words in the table of the protocol."""

from __future__ import annotations

import pytest

from limbeck.report.protocol import _plain


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "mlp", "hidden": [32, 16], "quantize": None}, "mlp, hidden [32, 16]"),
        (
            {"model": "mlp", "train": {"epochs": 3, "lr": 0.01, "augment": None, "options": {}}, "check": True},
            "mlp, train (epochs 3, lr 0.01), check true",
        ),
        ({"epochs": 3, "options": {"betas": [0.9, 0.98]}}, "epochs 3, options (betas [0.9, 0.98])"),
        ({"model": "teachers", "ensemble": {"a": {"model": "mlp"}}}, "teachers, ensemble (a (model mlp))"),
        ("hinton", "hinton"),
        (None, "-"),
    ],
)
def test_settings_are_words_and_no_json(settings, words):
    assert _plain(settings) == words
