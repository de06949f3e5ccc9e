"""Classes that the generalist confuses are grouped; wrong arguments are refused."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import nn

from limbeck.data import ArrayDataset, ShuffledLoader, load_data
from limbeck.engine import distill
from limbeck.errors import DataError, LimbeckError
from limbeck.methods import make
from limbeck.methods.teachers.groups import confusion_groups, prediction_covariance
from limbeck.models import build
from limbeck.recipe import Optimizer
from limbeck.teachers import SklearnTeacher


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def generalist(digits, seed):
    network = build("mlp", inputs=64, classes=10, hidden=[64], seed=seed)
    optimizer = Optimizer("adam", lr=2e-3)
    distill(
        network, make("supervised"), digits.train, epochs=8, batch_size=64, seed=seed, optimizer=optimizer,
        preprocess=digits.preprocess, log_every=10**6,
    ).finish()  # fmt: skip
    return network.eval()


def together(groups):
    return {pair for group in groups for pair in combinations(group, 2)}


def test_the_covariance_is_that_of_the_predictions():
    logits = torch.randn(50, 6, dtype=torch.float64)
    loader = ShuffledLoader(ArrayDataset(logits), batch_size=7)
    found = prediction_covariance(nn.Identity(), loader)
    torch.testing.assert_close(found, torch.cov(logits.softmax(-1).T, correction=0))
    assert loader.state_dict() == {"epoch": 0, "batch": 0}


def errors_inside(network, groups, digits):
    """The share of a network's errors on the test data whose two classes stand in one group."""
    batch = digits.test.take(torch.arange(len(digits.test)))
    with torch.no_grad():
        said = network(digits.preprocess(batch)).argmax(-1)
    wrong = said != batch.labels
    pairs = [tuple(sorted(pair)) for pair in zip(said[wrong].tolist(), batch.labels[wrong].tolist(), strict=True)]
    return sum(pair in together(groups) for pair in pairs) / len(pairs)


def test_groups_on_digits_hold_the_confusions_that_are_known(digits):
    """1 with 8, 3 with 9 and 4 with 7 or 6, for every seed; twice as many of the test errors as groups at random."""
    inside, covered = {True: 0.0, False: 0.0}, {True: 0.0, False: 0.0}
    for seed in range(3):
        network = generalist(digits, seed)
        for scaled in (True, False):
            groups = confusion_groups(
                network, digits.train, clusters=4, size=3, scaled=scaled, preprocess=digits.preprocess
            )
            inside[scaled] += errors_inside(network, groups, digits) / 3
            covered[scaled] += len(set().union(*groups)) / 3
            if scaled:
                assert {(1, 8), (3, 9)} <= together(groups), groups
                assert {(4, 6), (4, 7)} & together(groups), groups
    by_chance = 1 - (1 - 3 / 45) ** 4
    print(f"errors inside a group: {inside}, by chance {by_chance:.2f}; classes covered: {covered}")
    assert inside[True] > 1.7 * by_chance
    # The paper's covariance, where the least variances draw all groups to the same few classes.
    assert inside[True] > inside[False] + 0.05
    assert covered[True] > covered[False] + 1


def test_no_label_is_read_and_one_seed_gives_one_answer(digits):
    network = generalist(digits, 0)
    x = digits.preprocess(digits.train.take(torch.arange(400)))
    found = [confusion_groups(network, data, clusters=4, size=3, seed=5) for data in (x, (x, torch.full((400,), -100)))]
    assert found[0] == found[1] == confusion_groups(network, [x[:200], x[200:]], clusters=4, size=3, seed=5)


def test_any_teacher_can_be_the_generalist(digits):
    from sklearn.linear_model import LogisticRegression

    batch = digits.train.take(torch.arange(400))
    rows = batch.inputs.reshape(400, -1).numpy()
    forest = SklearnTeacher(LogisticRegression(max_iter=500).fit(rows, batch.labels.numpy()))
    groups = confusion_groups(forest, ArrayDataset(batch.inputs), clusters=3, size=3)
    assert [len(group) for group in groups] == [3, 3, 3]


def test_groups_may_overlap_and_leave_classes_out_unless_all_must_be_covered(digits):
    network = generalist(digits, 0)
    ask = {"clusters": 2, "size": 3, "preprocess": digits.preprocess}
    few = confusion_groups(network, digits.train, **ask)
    assert len(set().union(*few)) <= 6
    covered = confusion_groups(network, digits.train, **ask, cover=True)
    assert set().union(*covered) == set(range(10))
    assert all(any(set(one) <= set(other) for other in covered) for one in few)


def test_left_to_itself_it_makes_as_many_as_hold_each_class_a_little_more_than_once(digits):
    groups = confusion_groups(generalist(digits, 0), digits.train, preprocess=digits.preprocess)
    assert (len(groups), {len(group) for group in groups}) == (5, {3})


def test_a_generalist_that_predicts_all_alike_still_gives_groups():
    groups = confusion_groups(nn.Identity(), torch.zeros(20, 5), clusters=3, size=2)
    assert [len(group) for group in groups] == [2, 2, 2]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": 1}, "size=1"),
        ({"size": 5}, "size=5 of 5 classes"),
        ({"clusters": 6, "size": 2}, "clusters=6 is more than the 5 classes"),
        ({"clusters": 0}, "clusters is a whole number of at least 1; got 0"),
        ({"clusters": True, "size": 2}, "clusters is a whole number of at least 1; got True"),
    ],
)
def test_a_wish_that_makes_no_sense(options, sentence):
    with pytest.raises(LimbeckError, match=sentence):
        confusion_groups(nn.Identity(), torch.randn(20, 5), **options)


def test_an_empty_or_missing_transfer_set():
    with pytest.raises(DataError, match="transfer set"):
        confusion_groups(nn.Identity(), [])
    with pytest.raises(DataError):
        confusion_groups(nn.Identity(), torch.zeros(0, 5))
    with pytest.raises(DataError):
        confusion_groups(nn.Identity(), None)


def test_logits_that_are_no_rows_of_classes():
    with pytest.raises(LimbeckError, match=r"\[batch, classes\]; got \[20, 3, 5\]"):
        confusion_groups(nn.Identity(), torch.randn(20, 3, 5))
