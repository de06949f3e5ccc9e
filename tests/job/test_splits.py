"""Training batches of a budget: random, or with classes or superclasses in equal parts."""

from __future__ import annotations

import pytest
import torch

from limbeck.data import ArrayDataset, BalancedLoader, ShuffledLoader
from limbeck.errors import DataError, LimbeckError
from limbeck.job import Budget, make_job, train_loader

EXAMPLES = ArrayDataset(torch.zeros(40, 2), torch.arange(40) % 4)


def test_batches_are_random_unless_the_budget_says_how_many_examples_of_a_class_they_have():
    assert isinstance(train_loader(EXAMPLES, Budget(batch_size=8), seed=0), ShuffledLoader)
    loader = train_loader(EXAMPLES, Budget(batch_size=8, examples_per_class=4), seed=3)
    assert isinstance(loader, BalancedLoader)
    assert torch.equal(loader.order(0), BalancedLoader(EXAMPLES, batch_size=8, examples_per_class=4, seed=3).order(0))
    assert all(sorted(batch.labels.bincount(minlength=4).tolist()) == [0, 0, 4, 4] for batch in loader)


def test_superclasses_take_the_place_of_classes():
    budget = Budget(batch_size=8, examples_per_class=4, superclasses=[0, 1, 1, 0])
    for batch in train_loader(EXAMPLES, budget, seed=0):
        assert int(((batch.labels == 1) | (batch.labels == 2)).sum()) == 4
    with pytest.raises(DataError, match="3 superclasses for 4"):
        train_loader(EXAMPLES, Budget(batch_size=8, examples_per_class=4, superclasses=[0, 1, 1]), seed=0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"examples_per_class": 5, "batch_size": 64}, "60"), ({"superclasses": [0, 1]}, "examples_per_class")],
)
def test_a_budget_that_no_batch_fits_is_refused(wrong, words):
    job = {"data": "digits", "teacher": "mlp", "student": "mlp", "budget": wrong}
    with pytest.raises(LimbeckError, match=words):
        make_job(job)
