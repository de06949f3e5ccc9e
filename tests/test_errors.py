"""The nearest name, and which names are listed."""

from __future__ import annotations

import pytest

from limbeck.errors import nearest, unknown_name_error


@pytest.mark.parametrize(
    ("name", "choices", "meant"),
    [
        ("resnet21", ["resnet32", "resnet20"], "resnet20"),
        ("resnet1Ot", ["resnet14t", "resnet10t"], "resnet10t"),
        ("ResNet20", ["resnet32", "resnet20"], "resnet20"),
        ("zzz", ["resnet20"], None),
    ],
)
def test_the_nearest_name_is_the_one_that_was_meant(name, choices, meant):
    assert nearest(name, choices) == meant
    assert nearest(name, reversed(choices)) == meant


def test_of_very_many_names_the_nearest_are_listed():
    names = [f"aimv2_{i}" for i in range(200)] + ["resnet10t", "resnet14t"]
    said = str(unknown_name_error("timm model", "resnet10x", names))
    assert "aimv2" not in said
    assert "resnet10t" in said
    assert "202" in said
