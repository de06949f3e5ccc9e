"""A teacher at chance level is noticed while its outputs are stored."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs
from limbeck.data import ArrayDataset, Mixup, ShuffledLoader
from limbeck.errors import LimbeckWarning
from limbeck.teachers import CachedTeacher, fill_cache
from limbeck.teachers.chance import ChanceCheck, compute_chance


class Naming(nn.Module):
    """It reads its answer off the input, turned by some classes."""

    def __init__(self, turn: int) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.tensor(float(turn)))

    def forward(self, x):
        return 5.0 * x.roll(int(self.turn), 1)


def data(count=240, *, unlabeled=0):
    labels = torch.arange(count) % 4
    inputs = torch.eye(4)[labels]
    labels[:unlabeled] = -100
    return ArrayDataset(inputs, labels)


def filled(tmp_path, turn, examples, **how):
    loader = ShuffledLoader(examples, batch_size=16)
    return list(fill_cache(CachedTeacher(Naming(turn), tmp_path / "s", **how), loader, preprocess=lambda b: b.inputs))


@pytest.mark.parametrize("how", [{}, {"encoding": {"name": "top-k", "k": 2}}])
def test_a_teacher_of_another_label_order_is_noticed(tmp_path, how):
    with pytest.warns(LimbeckWarning, match=r"0\.0 % on 240 examples.* 25\.0 %"):
        filled(tmp_path, 1, data(), **how)


def test_a_row_of_nan_is_right_about_nothing():
    tried, labels = ChanceCheck(), torch.zeros(200, dtype=torch.int64)
    batch = Batch(torch.zeros(200, 1), torch.arange(200), labels=labels)
    tried.update(batch, Outputs(logits=torch.full((200, 2), torch.nan)))
    with pytest.warns(LimbeckWarning, match=r"0\.0 % on 200 examples"):
        tried.warn_if_not_better()


def test_it_is_reported_once_and_before_all_is_paid_for(tmp_path):
    loader = ShuffledLoader(data(4000), batch_size=100)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for done in fill_cache(CachedTeacher(Naming(1), tmp_path / "s"), loader, preprocess=lambda b: b.inputs):
            if done == 1000:
                assert [one.category for one in told] == [LimbeckWarning]
    assert len(told) == 1


@pytest.mark.parametrize(
    ("turn", "examples"),
    [(0, data()), (1, data(80)), (1, ArrayDataset(torch.eye(4).repeat(60, 1))), (1, data(240, unlabeled=150))],
    ids=["right", "few", "no labels", "few labels"],
)
def test_nothing_is_reported_where_there_is_nothing_to_say(tmp_path, turn, examples):
    filled(tmp_path, turn, examples)


def test_a_mixture_has_no_label_to_be_right_about(tmp_path):
    pictures = ArrayDataset(torch.rand(240, 1, 2, 2), torch.arange(240) % 4)
    loader = ShuffledLoader(pictures, batch_size=16, mix=Mixup())
    teacher = CachedTeacher(nn.Sequential(nn.Flatten(), nn.Linear(4, 4)), tmp_path / "s")
    list(fill_cache(teacher, loader, preprocess=lambda b: b.inputs))


@pytest.mark.parametrize("accuracy", [0.6, 0.75])
def test_one_that_is_no_better_than_the_most_frequent_class_is_noticed(accuracy):
    tried, labels = ChanceCheck(), (torch.arange(200) % 4 == 0).long()
    right = (torch.arange(200) * 61) % 200 < 200 * accuracy
    said = torch.nn.functional.one_hot(torch.where(right, labels, 1 - labels), 2).float()
    for part in torch.arange(200).chunk(3):
        tried.update(Batch(torch.zeros(len(part), 1), part, labels=labels[part]), Outputs(logits=said[part]))
    with pytest.warns(LimbeckWarning, match=r"most frequent class gives 75\.0 %"):
        tried.warn_if_not_better()


def test_chance_and_how_far_luck_reaches():
    assert compute_chance(4, 300).share == 0.25
    assert compute_chance(4, 300).reach == pytest.approx(0.30)
