"""A DataLoader is read as it is, and refused where it cannot do what is needed."""

from __future__ import annotations

from collections import UserDict

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from limbeck.batch import Batch
from limbeck.data import TorchLoader
from limbeck.errors import DataError, LimbeckError

X, Y = torch.arange(20.0).view(10, 2), torch.arange(10) % 3


class Stateful:
    """A loader that keeps its own place, as some libraries' loaders do."""

    def __init__(self) -> None:
        self.place, self.restored = 0, False

    def __len__(self) -> int:
        return 4

    def __iter__(self):
        if not self.restored:
            self.place = 0
        self.restored = False
        while self.place < 4:
            self.place += 1
            yield Batch(torch.full((2,), self.place))

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place, self.restored = state["place"], True


def test_a_data_loader_gives_its_own_batches():
    loader = TorchLoader(DataLoader(TensorDataset(X, Y), batch_size=4))
    batches = list(loader)
    assert torch.equal(torch.cat([b.inputs for b in batches]), X)
    assert torch.equal(torch.cat([b.labels for b in batches]), Y)
    assert len(loader) == 3
    assert loader.examples_per_epoch == 10
    assert not loader.has_ids
    assert not loader.resumable
    assert TorchLoader(DataLoader(TensorDataset(X), batch_size=4, drop_last=True)).examples_per_epoch == 8


def test_torchs_seed_governs_a_shuffling_loader():
    new = lambda: DataLoader(TensorDataset(X, Y), batch_size=3, shuffle=True)  # noqa: E731
    torch.manual_seed(5)
    bare = [[x for x, _ in new()] for _ in range(2)]
    torch.manual_seed(5)
    loader = TorchLoader(new())
    torch.manual_seed(5)
    read = [[b.inputs for b in loader], [b.inputs for b in TorchLoader(new())]]
    assert all(torch.equal(a, b) for one, two in zip(bare, read, strict=True) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize(
    ("item", "inputs", "labels"),
    [
        (X, X, None),
        (X.numpy(), X, None),
        ([X], X, None),
        ((X, Y), X, Y),
        ([X, Y.numpy()], X, Y),
        ((X, Y.to(torch.uint8)), X, Y),
        (((X, X), Y), (X, X), Y),
        (({"a": X}, Y), {"a": X}, Y),
        ({"a": X, "labels": Y}, {"a": X}, Y),
        ({"a": X, "label": Y}, {"a": X}, Y),
        ({"a": X}, {"a": X}, None),
        (UserDict({"input_ids": Y, "labels": Y}), {"input_ids": Y}, Y),
    ],
)
def test_an_item_becomes_a_batch(item, inputs, labels):
    batch = next(iter(TorchLoader([item])))
    torch.testing.assert_close(batch.inputs, inputs)
    if labels is None:
        assert batch.labels is None
    else:
        assert torch.equal(batch.labels, labels)
        assert batch.labels.dtype == torch.int64
    assert batch.id is None


def test_ids_and_texts_of_a_mapping_find_their_place():
    loader = TorchLoader([{"x": X, "id": torch.arange(10), "text": ["t"] * 10}])
    assert loader.has_ids
    batch = next(iter(loader))
    assert batch.id.tolist() == list(range(10))
    assert set(batch.inputs) == {"x"}
    assert batch.extra == {"text": ["t"] * 10}


@pytest.mark.parametrize(
    ("item", "shown"),
    [
        ((X, Y, Y), r"a tuple of 3: \(Tensor\[10, 2\] float32, Tensor\[10\] int64"),
        ((X, X), r"Tensor\[10, 2\] float32"),
        ((X, ["cat"]), "a list of 1: .*str"),
        ("text", "is str"),
        (None, "NoneType"),
        ({"a": X, "labels": X}, "labels must be class indices"),
        ({"text": ["a"]}, "no column is a tensor"),
        ((np.array(["a"]).tolist(), Y), "a list of 1"),
    ],
)
def test_an_item_that_could_mean_several_things_is_shown(item, shown):
    with pytest.raises(DataError, match=shown) as error:
        list(TorchLoader([item]))
    assert "to_batch=" in str(error.value)


def test_adapt_is_the_way_in_for_anything_else():
    loader = TorchLoader([(X, Y, Y > 0)], to_batch=lambda item: Batch(item[0], labels=item[1], mask=item[2]))
    assert torch.equal(next(iter(loader)).mask, Y > 0)
    with pytest.raises(DataError, match=r"must return a limbeck.Batch; it returned Tensor"):
        list(TorchLoader([X], to_batch=lambda item: item))


def test_peeking_loses_and_repeats_nothing():
    loader = TorchLoader([torch.tensor([n]) for n in range(3)])
    assert loader.peek().inputs.tolist() == [0]
    assert [b.inputs.item() for b in loader] == [0, 1, 2]
    assert loader.peek().inputs.tolist() == [0]
    assert [b.inputs.item() for b in loader] == [0, 1, 2]


def test_an_iterator_left_early_goes_on_where_it_was():
    loader = TorchLoader([torch.tensor([n]) for n in range(4)])
    for batch in loader:
        if batch.inputs.item() == 1:
            break
    assert loader.peek().inputs.item() == 2
    assert [b.inputs.item() for b in loader] == [2, 3]
    assert [b.inputs.item() for b in loader] == [0, 1, 2, 3]


def test_peeking_after_the_last_batch_is_the_next_epoch():
    loader = TorchLoader([torch.tensor([n]) for n in range(2)])
    for batch in loader:
        if batch.inputs.item() == 1:
            break
    assert loader.peek().inputs.item() == 0
    assert [b.inputs.item() for b in loader] == [0, 1]


def test_without_a_state_it_cannot_be_resumed_and_says_the_way_out():
    loader = TorchLoader(DataLoader(TensorDataset(X, Y)))
    for ask in (loader.state_dict, lambda: loader.load_state_dict({"epoch": 0, "batch": 0})):
        with pytest.raises(LimbeckError, match=r"DataLoader cannot be resumed.*lb.ArrayDataset"):
            ask()


@pytest.mark.parametrize("stop", [0, 1, 3, 4])
@pytest.mark.parametrize("peek", [False, True])
def test_a_loader_with_a_state_continues_exactly(stop, peek):
    loader = TorchLoader(Stateful())
    assert loader.resumable
    if stop:
        for used, _ in enumerate(loader, start=1):
            if used == stop:
                break
    if peek and stop < 4:
        loader.peek()
    state = loader.state_dict()
    assert (state["epoch"], state["batch"]) == (0, stop)
    restored = TorchLoader(Stateful())
    restored.load_state_dict(state)
    assert [int(b.inputs[0]) for b in restored] == list(range(stop + 1, 5))
    assert [int(b.inputs[0]) for b in restored] == [1, 2, 3, 4]


def test_the_start_of_an_epoch_needs_no_state_of_the_loader():
    loader = TorchLoader(Stateful())
    next(iter(loader))
    loader.load_state_dict({"epoch": 3, "batch": 0})
    assert [int(b.inputs[0]) for b in loader] == [1, 2, 3, 4]
    assert loader.state_dict()["epoch"] == 4
    with pytest.raises(LimbeckError, match="inside an epoch"):
        loader.load_state_dict({"epoch": 3, "batch": 1})


def test_a_length_is_needed():
    with pytest.raises(LimbeckError, match="generator has no length"):
        TorchLoader(x for x in [X])
    with pytest.raises(LimbeckError, match="has no batches"):
        TorchLoader([])


def test_the_fingerprint_is_what_was_given_or_a_description():
    assert TorchLoader([X], fingerprint="mine").fingerprint == "mine"
    assert TorchLoader([X]).fingerprint != TorchLoader([X, X]).fingerprint


def test_an_item_of_three_columns_says_how_ids_are_passed():
    item = (torch.zeros(2, 3), torch.tensor([0, 1]), torch.tensor([7, 8]))
    with pytest.raises(DataError, match=r"id=item\[2\]"):
        TorchLoader([item]).peek()
    batch = TorchLoader([item], to_batch=lambda item: Batch(inputs=item[0], labels=item[1], id=item[2])).peek()
    assert batch.id.tolist() == [7, 8]
