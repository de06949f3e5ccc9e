"""Feature methods with learned parts: tokens that are padding do not count, neither in a loss nor in its BatchNorm."""

from __future__ import annotations

import pytest
import torch

from limbeck.functional.connectors import Pointwise
from limbeck.methods import make
from methods.transformers import losses, pair, text_batch, with_other_padding


@pytest.mark.parametrize("name", ["vid", "ofd", "rid"])
def test_padding_does_not_count(name):
    student, teacher = pair()
    recipe = make(name, teacher=teacher, at="bert.encoder.layer.3", student_at="bert.encoder.layer.1")
    found = []
    for batch in (text_batch(), with_other_padding(text_batch())):
        recipe = make(name, teacher=teacher, at="bert.encoder.layer.3", student_at="bert.encoder.layer.1")
        found.append(losses(recipe, student, teacher, batch))
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_tokens_that_do_not_count_become_0_and_are_no_part_of_the_statistics():
    layers = Pointwise([3, 5], norm=True)
    tokens, where = torch.randn(2, 4, 3), torch.tensor([[True, True, False, False], [True, True, True, False]])
    mapped = layers(tokens, where.unsqueeze(-1))
    torch.testing.assert_close(mapped[where], layers(tokens[where]))
    assert bool((mapped[~where] == 0).all())
