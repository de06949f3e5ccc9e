"""Measures look at some rows at a time: the same values, and no tensor as large as the logits."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from limbeck.metrics import METRICS, Predictions, evaluate


def some(rows, classes):
    return Predictions(3 * torch.randn(rows, classes), 3 * torch.randn(rows, classes), torch.randint(classes, (rows,)))


class Largest(TorchDispatchMode):
    """How many bytes the largest tensor has that an operation makes."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        given = {
            one.untyped_storage().data_ptr() for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)
        }
        for one in tree_leaves(found):
            if isinstance(one, torch.Tensor) and one.untyped_storage().data_ptr() not in given:
                self.size = max(self.size, one.untyped_storage().nbytes())
        return found


@pytest.mark.parametrize("at_once", [1, 100, 7 * 64])
def test_the_values_do_not_depend_on_how_many_rows_are_looked_at_together(monkeypatch, at_once):
    predictions = some(150, 7)
    whole = evaluate(predictions, METRICS)
    monkeypatch.setattr("limbeck.metrics.memoize._AT_ONCE", at_once)
    for name, found in evaluate(predictions, METRICS).items():
        assert found.total == pytest.approx(whole[name].total, rel=1e-12, abs=1e-12), name
        assert found.count == whole[name].count


@pytest.mark.parametrize("name", METRICS)
def test_no_tensor_is_as_large_as_the_logits(monkeypatch, name):
    monkeypatch.setattr("limbeck.metrics.memoize._AT_ONCE", 2_000)
    predictions = some(2_000, 100)
    evaluate(predictions, [name])  # kernels keep their room to work in
    with Largest() as largest:
        evaluate(predictions, [name])
    assert largest.size <= predictions.student.nbytes / 4
