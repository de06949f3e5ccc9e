"""Splits of a dataset keep ids, are disjoint, and keep the class shares."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.data import ArrayDataset, split, subsample
from limbeck.errors import DataError

property_test = settings(derandomize=True, database=None, deadline=None, max_examples=50)


def _examples(labels: list[int] | None, n: int = 12) -> ArrayDataset:
    labels = None if labels is None else torch.tensor(labels)
    return ArrayDataset(torch.arange(n if labels is None else len(labels)) * 10, labels)


def test_a_subset_keeps_the_ids_of_the_whole():
    whole = _examples([0, 1] * 6)
    part = whole.select(torch.tensor([9, 2, 5]))
    batch = part.take(torch.tensor([2, 0]))
    assert batch.id.tolist() == [5, 9]
    assert batch.inputs.tolist() == [50, 90]
    assert part.ids.tolist() == [9, 2, 5]
    assert part.labels.tolist() == [1, 0, 1]
    inner = part.select(torch.tensor([1]))
    assert inner.take(torch.tensor([0])).id.tolist() == inner.ids.tolist() == [2]


def test_a_subsets_fingerprint_depends_on_whole_and_choice():
    whole, other = _examples([0, 1] * 6), _examples([1, 0] * 6)
    parts = [whole.select(torch.tensor(i)) for i in ([1, 2], [2, 1], [1])] + [other.select(torch.tensor([1, 2]))]
    assert len({part.fingerprint for part in parts} | {whole.fingerprint}) == 5
    assert parts[0].fingerprint == whole.select(torch.tensor([1, 2])).fingerprint


@pytest.mark.parametrize(
    ("index", "sentence"), [([], "No examples"), ([12], "Position 12"), ([-1], "-1"), ([1, 1], "twice")]
)
def test_a_wrong_choice_is_refused(index, sentence):
    with pytest.raises(DataError, match=sentence):
        _examples(None).select(torch.tensor(index, dtype=torch.int64))


@property_test
@given(
    labels=st.lists(st.sampled_from([-100, 0, 1, 2, 7]), min_size=2, max_size=60),
    fraction=st.floats(0.001, 0.999),
    seed=st.integers(-5, 5),
)
def test_a_split_is_disjoint_whole_deterministic_and_stratified(labels, fraction, seed):
    whole = _examples(labels)
    rest, held = split(whole, fraction=fraction, seed=seed)
    assert sorted(rest.ids.tolist() + held.ids.tolist()) == list(range(len(labels)))
    assert len(held) == min(max(round(fraction * len(labels)), 1), len(labels) - 1)
    again = split(whole, fraction=fraction, seed=seed)
    assert torch.equal(again[1].ids, held.ids)
    for label in set(labels):
        share = labels.count(label) * len(held) / len(labels)
        assert abs(int((held.labels == label).sum()) - share) < 1


def test_seeds_give_other_parts_and_unlabeled_sets_split_too():
    whole = _examples(None, n=100)
    parts = {tuple(split(whole, fraction=0.3, seed=seed)[1].ids.tolist()) for seed in range(5)}
    assert len(parts) == 5
    assert all(len(part) == 30 for part in parts)


def test_every_example_is_held_out_equally_often():
    whole = _examples([0] * 8 + [1] * 4)
    counts = torch.zeros(12)
    for seed in range(800):
        counts[split(whole, fraction=0.25, seed=seed)[1].ids] += 1
    assert float((counts / 800 - 0.25).abs().max()) < 0.05


def test_subsample_is_stratified_and_at_most_the_whole():
    whole = _examples([0] * 30 + [1] * 10)
    part = subsample(whole, 8, 3)
    assert part.labels.bincount().tolist() == [6, 2]
    assert torch.equal(part.ids, subsample(whole, 8, 3).ids)
    assert len(subsample(whole, 1000, 0)) == 40
    with pytest.raises(DataError, match="positive"):
        subsample(whole, 0, 0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 20.0, float("nan")])
def test_a_fraction_is_between_0_and_1(fraction):
    with pytest.raises(DataError, match="must be between 0 and 1"):
        split(_examples(None), fraction=fraction, seed=0)


def test_one_example_cannot_be_split():
    with pytest.raises(DataError, match="cannot be split"):
        split(_examples(None, n=1), fraction=0.5, seed=0)
