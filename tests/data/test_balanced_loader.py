"""Batches with classes in equal parts: what each has, that epochs are pure functions, and superclasses."""

from __future__ import annotations

from itertools import chain, pairwise

import pytest
import torch
from jaxtyping import TypeCheckError

from limbeck.data import ArrayDataset, BalancedLoader, Mixup, RandomShift, ShuffledLoader, group_by_superclass
from limbeck.errors import ArgumentError, DataError
from limbeck.testing import check_loader

LABELS = torch.tensor([0] * 40 + [1] * 12 + [2] * 7 + [3] * 3 + [-100] * 4)
EXAMPLES = ArrayDataset(torch.arange(66.0)[:, None], LABELS)


def make_loader(**options):
    return BalancedLoader(EXAMPLES, **{"batch_size": 8, "examples_per_class": 4, **options})


def test_it_keeps_the_laws_of_loaders():
    check_loader(make_loader())


def test_each_batch_has_as_many_examples_of_each_of_its_classes():
    loader = make_loader()
    for epoch in range(3):
        for batch in list(loader.batches(epoch, 0))[:-1]:
            counts = batch.labels.bincount(minlength=4)
            assert sorted(counts.tolist()) == [0, 0, 4, 4]
            own = batch.id[batch.labels != 3]  # class 3 has fewer examples than a batch takes of it
            assert len(own.unique()) == len(own)
    assert len(loader) == len(ShuffledLoader(EXAMPLES, batch_size=8)) == 9
    assert sum(batch.size for batch in loader.batches(0, 0)) == len(EXAMPLES) == 66
    assert len(make_loader(drop_last=True)) == 8


def test_classes_are_drawn_evenly_and_all_their_examples_are_seen():
    loader, counts, seen = make_loader(), torch.zeros(4), set()
    for epoch in range(60):
        order = loader.order(epoch)
        counts += LABELS[order[:64]].bincount(minlength=4) / 4
        seen |= set(order.tolist())
    share = counts / counts.sum()
    assert (share - 0.25).abs().max() < 4 * (0.25 * 0.75 / float(counts.sum())) ** 0.5
    assert seen == set(range(62))


def test_a_class_is_seen_as_a_whole_before_it_begins_again():
    loader = BalancedLoader(EXAMPLES, batch_size=12, examples_per_class=3)  # all classes in each batch
    drawn = [batch.id[batch.labels == 1].tolist() for batch in loader.batches(5, 0)]
    for start in range(0, len(drawn) - 3, 4):
        assert sorted(chain.from_iterable(drawn[start : start + 4])) == list(range(40, 52))


def test_batches_are_a_function_of_seed_and_epoch_from_any_start():
    loader, other = make_loader(), make_loader()
    whole = [batch.id for batch in loader.batches(2, 0)]
    late = [batch.id for batch in other.batches(2, 4)]
    assert all(torch.equal(a, b) for a, b in zip(whole[4:], late, strict=True))
    orders = [make_loader(seed=seed).order(epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(not torch.equal(a, b) for a, b in pairwise(orders))


def test_it_has_the_same_examples_as_a_shuffled_loader_so_that_caches_fit():
    assert make_loader().fingerprint == ShuffledLoader(EXAMPLES, batch_size=8).fingerprint
    images = ArrayDataset(torch.zeros(8, 1, 4, 4, dtype=torch.uint8), torch.arange(8) % 2)
    options = {"batch_size": 4, "augment": RandomShift(1, seed=0), "mix": Mixup()}
    loader = BalancedLoader(images, examples_per_class=2, **options)
    assert loader.fingerprint == ShuffledLoader(images, **options).fingerprint
    assert loader.peek().mixed


def test_superclasses_take_the_place_of_classes():
    groups = group_by_superclass(EXAMPLES, [5, 9, 9, 5])
    assert groups.unique().tolist() == [-100, 5, 9]
    for batch in make_loader(groups=groups, drop_last=True).batches(0, 0):
        assert groups[batch.id].bincount(minlength=10)[[5, 9]].tolist() == [4, 4]


@pytest.mark.parametrize("wrong", [{"examples_per_class": 3}, {"examples_per_class": 0}, {"examples_per_class": True}])
def test_a_number_that_does_not_divide_a_batch_is_refused(wrong):
    with pytest.raises(ArgumentError, match="examples_per_class"):
        make_loader(**wrong)


def test_more_classes_than_there_are_are_refused_with_the_batch_that_fits():
    with pytest.raises(DataError, match="batch_size=8"):
        make_loader(batch_size=12, examples_per_class=2)


@pytest.mark.parametrize("labels", [None, torch.zeros(6, 2, dtype=torch.int64), torch.full((6,), -100)])
def test_examples_without_one_class_each_are_refused(labels):
    with pytest.raises(DataError, match="one class"):
        BalancedLoader(ArrayDataset(torch.zeros(6, 1), labels), batch_size=2, examples_per_class=1)


def test_groups_and_superclasses_of_another_length_are_refused():
    with pytest.raises(DataError, match="66 examples, but 5"):
        make_loader(groups=torch.arange(5))
    with pytest.raises(DataError, match="3 superclasses for 4"):
        group_by_superclass(EXAMPLES, [0, 0, 1])
    for groups in ([0] * 66, torch.zeros(66)):
        with pytest.raises((DataError, TypeCheckError)):  # the checks of shapes in tests may come first
            make_loader(groups=groups)
    for wrong in ([0, 1.5, 2, 2], ["a", "b", "b", "a"]):
        with pytest.raises((DataError, TypeCheckError)):
            group_by_superclass(EXAMPLES, wrong)


@pytest.mark.parametrize("seed", ["a", 1.5, None, True])
def test_a_seed_is_a_whole_number(seed):
    examples = ArrayDataset(torch.zeros(12, 2), torch.arange(12) % 3)
    for make in (
        lambda: BalancedLoader(examples, batch_size=4, examples_per_class=2, seed=seed),
        lambda: ShuffledLoader(examples, batch_size=4, seed=seed),
    ):
        # The tests check annotations before the loader does, which lets True pass as a whole number.
        with pytest.raises((ArgumentError, TypeCheckError)):
            make()
