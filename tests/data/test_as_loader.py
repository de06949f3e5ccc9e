"""Anything that holds data becomes the right loader, or a readable error."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from limbeck.data import ArrayDataset, Mixup, RandomShift, ShuffledLoader, TorchLoader, as_loader
from limbeck.errors import DataError, LimbeckError

X, Y = torch.zeros(10, 4, 4), torch.arange(10) % 2


@pytest.mark.parametrize(
    "data", [ArrayDataset(X, Y), X, X.numpy(), (X, Y), (X.numpy(), Y.tolist()), {"x": X, "labels": Y}, ((X, X), Y)]
)
def test_examples_and_arrays_are_shuffled(data):
    loader = as_loader(data, batch_size=4, seed=7)
    assert isinstance(loader, ShuffledLoader)
    assert (loader.batch_size, loader.seed, loader.shuffle, len(loader)) == (4, 7, True, 3)
    labels = loader.peek().labels
    assert labels is None or set(labels.tolist()) <= {0, 1}


def test_labels_are_taken_from_a_mapping():
    batch = as_loader({"x": X, "labels": Y}, batch_size=10, shuffle=False).peek()
    assert set(batch.inputs) == {"x"}
    assert torch.equal(batch.labels, Y)


def test_options_reach_the_source():
    loader = as_loader(X, batch_size=4, shuffle=False, drop_last=True, augment=RandomShift(1))
    assert (loader.shuffle, loader.drop_last, loader.augment) == (False, True, RandomShift(1))
    mixing = as_loader(X, batch_size=4, mix=Mixup(), views=3)
    assert (mixing.mix, mixing.views) == (Mixup(), 3)


def test_loaders_and_lists_of_batches_are_read_as_they_are():
    for data in (DataLoader(TensorDataset(X, Y), batch_size=5), [(X, Y)], [X, X, X]):
        assert isinstance(as_loader(data, batch_size=4), TorchLoader)


def test_a_source_is_returned():
    loader = ShuffledLoader(ArrayDataset(X), batch_size=2)
    assert as_loader(loader, batch_size=4) is loader


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("mnist", r"load_data\('mnist'\)"),
        ([X, Y], "use a tuple"),
        (TensorDataset(X), r"DataLoader\(data"),
        (3, "The data are int"),
        ((X, Y, Y), "a tuple of 3"),
        ({"labels": Y}, "a mapping"),
        (None, "NoneType"),
    ],
)
def test_anything_else_gets_a_sentence(data, sentence):
    with pytest.raises(DataError, match=sentence):
        as_loader(data, batch_size=4)


def test_options_that_cannot_apply_are_refused():
    with pytest.raises(LimbeckError, match="augment="):
        as_loader([X], batch_size=4, augment=RandomShift(1))
    with pytest.raises(LimbeckError, match="mix= requires examples with ids"):
        as_loader([X], batch_size=4, mix=Mixup())
    with pytest.raises(LimbeckError, match="views= requires examples with ids"):
        as_loader([X], batch_size=4, views=3)
    for data in (X, ShuffledLoader(ArrayDataset(X), batch_size=4)):
        with pytest.raises(LimbeckError, match="to_batch="):
            as_loader(data, batch_size=4, to_batch=lambda item: item)


@pytest.mark.parametrize("option", [{"augment": RandomShift(1)}, {"mix": Mixup()}, {"views": 3}])
def test_a_source_is_reported_itself_how_it_makes_views(option):
    made = ShuffledLoader(ArrayDataset(X), batch_size=4)
    with pytest.raises(LimbeckError, match=f"Pass {next(iter(option))}= to the ShuffledLoader") as raised:
        as_loader(made, batch_size=4, **option)
    assert "ids" not in str(raised.value), "a Shuffled has ids"
    assert as_loader(made, batch_size=4) is made
