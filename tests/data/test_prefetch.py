"""Results that are computed ahead: in order, the same for any number of threads, errors as they are, an end."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from limbeck.data import ArrayDataset, Crop, Dataset, Mixup, ShuffledLoader
from limbeck.data.prefetch import prefetch
from limbeck.errors import DataError, LimbeckError


def alive():
    return [thread for thread in threading.enumerate() if thread.name.startswith("limbeck-worker")]


class Slow(Dataset):
    """Numbers that take a moment each, another for each; number `broken` cannot be had."""

    def __init__(self, size=23, broken=None):
        self.inner = ArrayDataset(
            torch.arange(size * 12, dtype=torch.float32).view(size, 1, 3, 4), torch.arange(size) % 3
        )
        self.broken = broken

    def __len__(self):
        return len(self.inner)

    def take(self, index):
        time.sleep(0.002 * (int(index[0]) % 3))
        if self.broken is not None and self.broken in index.tolist():
            raise DataError(f"number {self.broken} is broken")
        return self.inner.take(index)

    fingerprint, labels, class_names = "slow", property(lambda self: self.inner.labels), None


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.id, b.id) and (a.view is None or torch.equal(a.view, b.view))
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("num_workers", [1, 2, 5])
def test_results_come_in_order_and_the_threads_end(num_workers):
    numbers = []

    def square(number):
        time.sleep(0.001 * (number % 3))
        numbers.append(number)
        return number**2

    assert list(prefetch(square, range(20), num_workers=num_workers)) == [number**2 for number in range(20)]
    assert sorted(numbers) == list(range(20))
    assert not alive()


def test_a_thread_that_cannot_be_started_ends_those_before_it(monkeypatch):
    start, begun = threading.Thread.start, []

    def refuse_the_third(thread):
        if len(begun) == 2:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        start(thread)

    errors = []

    def read():
        try:
            list(prefetch(str, range(9), num_workers=4))
        except RuntimeError as error:
            errors.append(error)

    reader = threading.Thread(target=read, daemon=True)
    monkeypatch.setattr(threading.Thread, "start", refuse_the_third)
    start(reader)
    reader.join(10)
    assert not reader.is_alive()
    assert len(begun) == 2
    assert len(errors) == 1
    assert not alive()


def test_no_more_than_two_for_each_thread_are_made_ahead():
    made = []
    ahead = prefetch(made.append, range(100), num_workers=2)
    next(ahead)
    time.sleep(0.05)
    assert len(made) <= 1 + 2 * 2
    ahead.close()
    assert not alive()


@pytest.mark.parametrize("num_workers", [0, 1, 4])
def test_batches_do_not_depend_on_the_number_of_threads(num_workers):
    def make_loader(count):
        return ShuffledLoader(Slow(), batch_size=4, seed=3, augment=Crop(1), mix=Mixup(), views=2, num_workers=count)

    expected, found = make_loader(0), make_loader(num_workers)
    for _ in range(3):
        assert same(list(expected), list(found))


@pytest.mark.parametrize("left", [1, 3, 6])
def test_a_source_goes_on_in_the_middle_of_an_epoch_exactly(left):
    whole = list(ShuffledLoader(Slow(), batch_size=4, augment=Crop(1)))
    loader = ShuffledLoader(Slow(), batch_size=4, augment=Crop(1), num_workers=3)
    begun = []
    for batch in loader:
        begun.append(batch)
        if len(begun) == left:
            break
    assert not alive()
    assert loader.state_dict() == {"epoch": 0, "batch": left}
    again = ShuffledLoader(Slow(), batch_size=4, augment=Crop(1), num_workers=2)
    again.load_state_dict(loader.state_dict())
    if left < len(loader):
        assert torch.equal(again.peek().id, whole[left].id)
    assert same(begun + list(again), whole)


def test_an_error_comes_in_its_turn_as_it_is():
    loader = ShuffledLoader(Slow(broken=17), batch_size=4, shuffle=False, num_workers=3)
    batches = iter(loader)
    taken = [next(batches) for _ in range(4)]
    with pytest.raises(DataError, match=r"^number 17 is broken$"):
        next(batches)
    assert len(taken) == 4
    assert not alive()


def test_an_interrupt_ends_the_threads():
    def run():
        for _ in ShuffledLoader(Slow(), batch_size=4, num_workers=3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        run()
    del caught  # the iterator lives as long as the error's frames
    assert not alive()


def test_each_thread_computes_alone_and_the_caller_as_before():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert set(prefetch(lambda _: torch.get_num_threads(), range(6), num_workers=2)) == {1}
        assert torch.get_num_threads() == 3
        later = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [3]
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("num_workers", [-1, 1.5, True, "2"])
def test_what_is_no_number_of_threads_is_refused(num_workers):
    with pytest.raises(LimbeckError, match="num_workers="):
        ShuffledLoader(Slow(), batch_size=4, num_workers=num_workers)
