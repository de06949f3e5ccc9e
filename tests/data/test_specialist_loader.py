"""Loader of a specialist: half special examples, drawn again per epoch, and its oversampling factor."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.data import ArrayDataset, RandomShift, SpecialistLoader
from limbeck.errors import DataError, LimbeckError
from limbeck.testing import check_loader


def make_loader(n=100, classes=10, special=(3, 7), **options):
    data = ArrayDataset(torch.arange(n), torch.arange(n) % classes)
    return SpecialistLoader(data, special, **{"batch_size": 8, **options})


@settings(derandomize=True, database=None, deadline=None, max_examples=30)
@given(
    n=st.integers(6, 60), classes=st.integers(3, 6), special=st.sets(st.integers(0, 5), min_size=1, max_size=5),
    size=st.integers(1, 20),
)  # fmt: skip
def test_it_keeps_every_law_of_sources_and_every_even_batch_is_half_special(n, classes, special, size):
    labels = torch.arange(n) % classes
    own = torch.isin(labels, torch.tensor(sorted(special)))
    if own.all() or not own.any():
        return
    found = SpecialistLoader(ArrayDataset(torch.arange(n), labels), sorted(special), batch_size=size)
    check_loader(found)
    for batch in found:
        assert abs(2 * int(own[batch.id].sum()) - batch.size) == batch.size % 2
        assert torch.equal(batch.labels, labels[batch.id])


def test_each_special_example_comes_once_an_epoch_and_the_rest_are_others_in_every_epoch():
    found = make_loader()
    rests = []
    for _ in range(3):
        ids = torch.cat([batch.id for batch in found])
        own = torch.isin(ids % 10, torch.tensor([3, 7]))
        assert sorted(ids[own].tolist()) == [i for i in range(100) if i % 10 in (3, 7)]
        rests.append(frozenset(ids[~own].tolist()))
    assert len(set(rests)) == 3
    assert len(rests[0]) == 20


def test_where_most_are_special_these_are_drawn():
    found = make_loader(special=tuple(range(8)))
    ids = torch.cat([batch.id for batch in found])
    assert sorted(i for i in ids.tolist() if i % 10 > 7) == [i for i in range(100) if i % 10 > 7]
    assert found.examples_per_epoch == len(ids) == 40
    assert found.oversampling == 0.25


def test_seeds_differ_and_one_seed_is_one_order():
    orders = [tuple(make_loader(seed=seed).order(epoch).tolist()) for seed in (0, 1, 0) for epoch in (0, 1)]
    assert orders[:2] == orders[4:]
    assert len(set(orders)) == 4


def test_the_factor_makes_exact_posteriors_right():
    """What has learnt the true posterior of the mixture has, once corrected, that of the data."""
    counts = torch.tensor([400, 100, 50, 50, 200, 200])
    labels = torch.arange(6).repeat_interleave(counts)
    special = [1, 2, 3]
    found = SpecialistLoader(ArrayDataset(torch.arange(1000), labels), special, batch_size=10**4)
    likelihood = torch.rand(6, 12, dtype=torch.float64)
    likelihood /= likelihood.sum(1, keepdim=True)

    def posterior(prior):
        """[x, classes]: by Bayes' rule from p(x | class)."""
        joint = likelihood.T * prior
        return joint / joint.sum(1, keepdim=True)

    prior = counts.double() / counts.sum()
    seen = torch.cat([batch.labels for batch in found])
    own = torch.isin(torch.arange(6), torch.tensor(special))
    # The smaller side comes whole; the larger in its own proportions, in expectation.
    mixture = torch.where(own, prior / prior[own].sum(), prior / prior[~own].sum()) / 2
    assert torch.equal(seen.bincount(minlength=6)[own], counts[own])
    assert int(seen.bincount(minlength=6)[~own].sum()) == int(counts[own].sum())
    learnt, truth = posterior(mixture), posterior(prior)
    shift = math.log(found.oversampling)
    assert found.oversampling == 4.0
    dustbin = learnt[:, ~own].sum(1).log() + shift
    corrected = torch.cat([learnt[:, own].log(), dustbin[:, None]], 1).softmax(-1)
    wanted = torch.cat([truth[:, own], truth[:, ~own].sum(1, keepdim=True)], 1)
    torch.testing.assert_close(corrected, wanted)
    odds = [torch.log(p[:, own] / p[:, ~own].sum(1, keepdim=True)) for p in (learnt, truth)]
    torch.testing.assert_close(odds[0] - odds[1], torch.full_like(odds[0], shift))


def test_classes_may_be_given_and_examples_without_one_are_left_out():
    data = ArrayDataset(torch.arange(20))
    given_classes = torch.arange(20) % 4
    found = SpecialistLoader(data, [0], batch_size=4, classes=given_classes)
    for batch in found:
        assert torch.equal(batch.labels, given_classes[batch.id])
    labels = given_classes.clone()
    labels[:8] = -100
    some = SpecialistLoader(ArrayDataset(torch.arange(20), labels), [0], batch_size=4)
    assert some.oversampling == 9 / 3
    assert all(bool((batch.labels != -100).all()) for batch in some)


def test_views_are_those_of_the_epoch():
    images = torch.randint(0, 256, (12, 6, 6), dtype=torch.uint8)
    shift = RandomShift(2, seed=3)
    found = SpecialistLoader(ArrayDataset(images, torch.arange(12) % 3), [0], batch_size=4, augment=shift)
    for epoch in range(2):
        for batch in found:
            assert batch.view.tolist() == [epoch] * batch.size
            assert torch.equal(batch.inputs, shift(images[batch.id], batch.id, batch.view))


def test_only_so_many_views_are_handed_out():
    images = torch.randint(0, 256, (12, 6, 6), dtype=torch.uint8)
    data = ArrayDataset(images, torch.arange(12) % 3)
    found = SpecialistLoader(data, [0], batch_size=4, augment=RandomShift(2), views=2)
    assert found.fingerprint == SpecialistLoader(data, [0], batch_size=4, augment=RandomShift(2)).fingerprint
    for epoch in range(5):
        assert {view for batch in found for view in batch.view.tolist()} == {epoch % 2}


@pytest.mark.usefixtures("unchecked")
def test_what_makes_no_views_is_refused():
    with pytest.raises(LimbeckError, match="views=0"):
        make_loader(views=0)
    with pytest.raises(LimbeckError, match="RandomShift is a class"):
        make_loader(augment=RandomShift)


def test_the_fingerprint_is_that_of_examples_classes_and_view():
    images = torch.zeros(12, 3, 3)
    labels = torch.arange(12) % 3
    prints = [
        SpecialistLoader(ArrayDataset(images, labels), special, batch_size=2, **options).fingerprint
        for special, options in [
            ([0, 1], {}), ([1, 0], {"seed": 3}), ([0], {}), ([0, 1], {"augment": RandomShift(1)}),
            ([0, 1], {"classes": labels.flip(0)}),
        ]
    ]  # fmt: skip
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


@pytest.mark.parametrize(
    ("labels", "special", "sentence"),
    [
        (torch.zeros(4, dtype=torch.int64), [1, 2], r"No example is of the special classes \[1, 2\]"),
        (torch.zeros(4, dtype=torch.int64), [0, 1], r"All examples are of the special classes \[0, 1\]"),
        (None, [0], "have no labels; pass classes="),
        (torch.full((4,), -100), [0], "have no labels; pass classes="),
        (torch.zeros(4, 2, dtype=torch.int64), [0], r"classes has the shape \[4, 2\]"),
    ],
)
def test_what_cannot_be_halved(labels, special, sentence):
    with pytest.raises(DataError, match=sentence):
        SpecialistLoader(ArrayDataset(torch.zeros(4, 2), labels), special, batch_size=2)


def test_a_batch_holds_a_positive_number():
    with pytest.raises(LimbeckError, match="batch_size"):
        make_loader(batch_size=0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("special", [["a"], [1.5], [[1]], 3, [True]])
def test_what_is_no_class_is_refused_in_a_sentence(special):
    with pytest.raises(LimbeckError, match=r"special must be a list of class indices, such as \[3, 5, 8\]; got"):
        SpecialistLoader(ArrayDataset(torch.zeros(8, 2), torch.arange(8) % 4), special, batch_size=2)
