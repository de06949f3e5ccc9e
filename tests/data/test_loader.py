"""The shuffled loader yields every example once and resumes exactly."""

from __future__ import annotations

import copy
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.data import ArrayDataset, RandomShift, ShuffledLoader
from limbeck.errors import LimbeckError

property_test = settings(derandomize=True, database=None, deadline=None, max_examples=40)


def _data(n: int) -> ArrayDataset:
    return ArrayDataset(torch.arange(n) * 2, torch.arange(n) % 3)


def _ids(batches) -> list[list[int]]:
    return [batch.id.tolist() for batch in batches]


@property_test
@given(n=st.integers(1, 40), size=st.integers(1, 50), seed=st.integers(-9, 9), epochs=st.integers(1, 3))
def test_an_epoch_is_every_example_once_and_a_pure_function_of_seed_and_epoch(n, size, seed, epochs):
    loader, again = (ShuffledLoader(_data(n), batch_size=size, seed=seed) for _ in range(2))
    for epoch in range(epochs):
        found = _ids(loader)
        assert sorted(chain(*found)) == list(range(n))
        assert len(found) == len(loader)
        again.load_state_dict({"epoch": epoch, "batch": 0})
        assert _ids(again) == found
    assert loader.state_dict() == {"epoch": epochs, "batch": 0}


@property_test
@given(n=st.integers(1, 30), size=st.integers(1, 7), stop=st.integers(0, 60), augmented=st.booleans())
def test_an_interrupted_and_restored_source_gives_exactly_the_remaining_batches(n, size, stop, augmented):
    data = ArrayDataset(torch.arange(n * 9).view(n, 3, 3), torch.arange(n) % 3)
    new = lambda: ShuffledLoader(data, batch_size=size, seed=1, augment=RandomShift(1) if augmented else None)  # noqa: E731
    whole = [batch for loader in [new()] for _ in range(3) for batch in loader]
    loader, state, used = new(), None, 0
    for _ in range(3):
        for _batch in loader:
            used += 1
            if used == stop:
                break
        if used == stop:
            break
    state = copy.deepcopy(loader.state_dict())
    restored = new()
    restored.load_state_dict(state)
    rest = [batch for _ in range(3 - state["epoch"]) for batch in restored]
    assert len(rest) == len(whole) - used
    for one, two in zip(whole[used:], rest, strict=True):
        assert torch.equal(one.id, two.id)
        assert torch.equal(one.inputs, two.inputs)
        assert (one.view is None) == (not augmented)
        assert one.view is None or torch.equal(one.view, two.view)


def test_a_state_taken_while_a_batch_is_used_counts_it():
    loader = ShuffledLoader(_data(5), batch_size=2)
    seen = [loader.state_dict() for _ in loader]
    assert seen == [{"epoch": 0, "batch": n} for n in (1, 2, 3)]
    loader.load_state_dict(seen[-1])
    assert list(loader) == []
    assert loader.state_dict() == {"epoch": 1, "batch": 0}


def test_an_iterator_left_early_is_continued():
    loader = ShuffledLoader(_data(9), batch_size=2, seed=5)
    first = _ids([next(iter(loader))])
    assert sorted(chain(*first, *_ids(loader))) == list(range(9))


def test_peeking_uses_nothing_up():
    loader = ShuffledLoader(_data(4), batch_size=2)
    seen = _ids([loader.peek(), loader.peek()])
    assert seen[0] == seen[1]
    assert loader.state_dict() == {"epoch": 0, "batch": 0}
    assert _ids(loader)[0] == seen[0]
    loader.load_state_dict({"epoch": 0, "batch": 2})
    at_end = _ids([loader.peek()])
    assert list(loader) == []
    assert _ids(loader)[0] == at_end[0]


def test_sizes():
    data = _data(10)
    assert [b.size for b in ShuffledLoader(data, batch_size=4)] == [4, 4, 2]
    assert [b.size for b in ShuffledLoader(data, batch_size=4, drop_last=True)] == [4, 4]
    assert [b.size for b in ShuffledLoader(data, batch_size=64)] == [10]
    assert ShuffledLoader(data, batch_size=4).examples_per_epoch == 10
    assert ShuffledLoader(data, batch_size=4, drop_last=True).examples_per_epoch == 8
    assert _ids(ShuffledLoader(data, batch_size=10, shuffle=False)) == [list(range(10))]


def test_seeds_and_epochs_give_other_orders():
    orders = [
        tuple(ShuffledLoader(_data(50), batch_size=50, seed=seed).order(epoch).tolist())
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len(set(orders)) == 4


def test_global_random_numbers_are_neither_read_nor_moved():
    before = torch.get_rng_state()
    loader = ShuffledLoader(_data(20), batch_size=3)
    one = _ids(loader)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert _ids(ShuffledLoader(_data(20), batch_size=3)) == one


def test_a_view_is_that_of_the_epoch():
    images = torch.randint(0, 256, (7, 6, 6), dtype=torch.uint8)
    shift = RandomShift(2, seed=3)
    loader = ShuffledLoader(ArrayDataset(images), batch_size=4, augment=shift)
    for epoch in range(3):
        for batch in loader:
            assert batch.view.tolist() == [epoch] * batch.size
            assert torch.equal(batch.inputs, shift(images[batch.id], batch.id, batch.view))


@property_test
@given(views=st.integers(1, 5), epochs=st.integers(1, 8), stop=st.integers(0, 20))
def test_only_so_many_views_are_handed_out_and_a_restored_source_knows_which(views, epochs, stop):
    images = torch.arange(6 * 25).view(6, 5, 5)
    shift = RandomShift(2)
    new = lambda: ShuffledLoader(ArrayDataset(images), batch_size=4, augment=shift, views=views)  # noqa: E731
    loader, found = new(), []
    for epoch in range(epochs):
        assert sorted(chain(*(batch.id.tolist() for batch in new().batches(epoch, 0)))) == list(range(6))
        for batch in loader:
            assert batch.view.tolist() == [epoch % views] * batch.size
            assert torch.equal(batch.inputs, shift(images[batch.id], batch.id, batch.view))
            found.append(batch)
    restored = new()
    stop = min(stop, len(found))
    restored.load_state_dict({"epoch": stop // 2, "batch": stop % 2})
    again = [batch for _ in range(epochs - stop // 2) for batch in restored]
    assert len(again) == len(found) - stop
    for one, two in zip(found[stop:], again, strict=True):
        assert torch.equal(one.inputs, two.inputs)
        assert torch.equal(one.view, two.view)


def test_how_many_views_there_are_changes_neither_what_one_is_nor_the_order():
    data = ArrayDataset(torch.arange(8 * 9).view(8, 3, 3))
    few, many = (ShuffledLoader(data, batch_size=3, augment=RandomShift(1), views=views) for views in (2, None))
    assert few.fingerprint == many.fingerprint
    for epoch in range(5):
        assert torch.equal(few.order(epoch), many.order(epoch))
    plain = ShuffledLoader(data, batch_size=3, views=2)
    assert plain.fingerprint == data.fingerprint
    assert plain.peek().view is None


def test_the_fingerprint_is_that_of_examples_and_view():
    data = ArrayDataset(torch.zeros(4, 3, 3))
    plain = ShuffledLoader(data, batch_size=2).fingerprint
    assert plain == data.fingerprint == ShuffledLoader(data, batch_size=3, seed=8).fingerprint
    views = {ShuffledLoader(data, batch_size=2, augment=RandomShift(n)).fingerprint for n in (1, 2)}
    assert len(views | {plain}) == 3


def test_a_subset_keeps_its_ids_in_a_source():
    part = _data(10).select(torch.tensor([3, 8, 9]))
    assert sorted(chain(*_ids(ShuffledLoader(part, batch_size=2)))) == [3, 8, 9]


@pytest.mark.parametrize("size", [0, -3, True])
def test_a_batch_holds_a_positive_number(size):
    with pytest.raises(LimbeckError, match="batch_size"):
        ShuffledLoader(_data(3), batch_size=size)


def test_drop_last_must_leave_a_batch():
    with pytest.raises(LimbeckError, match="leaves no batch"):
        ShuffledLoader(_data(3), batch_size=4, drop_last=True)


@pytest.mark.parametrize(
    "state", [{}, {"epoch": 0}, {"epoch": 0, "batch": 4}, {"epoch": -1, "batch": 0}, {"epoch": 0, "batch": "1"}]
)
def test_a_position_of_another_source_is_refused(state):
    with pytest.raises(LimbeckError, match="is not a valid position"):
        ShuffledLoader(_data(6), batch_size=2).load_state_dict(state)
