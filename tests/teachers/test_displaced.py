"""The shuffled teacher returns the outputs of other examples."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck import ArrayDataset, ModelTeacher, ShuffledLoader, ShuffledTeacher, TeacherRef
from limbeck.batch import Batch
from limbeck.errors import LimbeckError
from limbeck.teachers import CachedTeacher, TeacherContext

CPU = torch.device("cpu")


def asked(teacher, batch, requires=("logits",)):
    with teacher.open(TeacherContext(requires=frozenset(requires))) as answer:
        return answer(batch)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_each_example_gets_the_answer_to_the_next(size):
    inputs = torch.randn(size, 4)
    net = nn.Linear(4, 3)
    shown = asked(ShuffledTeacher(ModelTeacher(net)), Batch(inputs))["logits"]
    wanted = net(inputs).detach()
    for row in range(size):
        torch.testing.assert_close(shown[row], wanted[(row + 1) % size])


def test_also_within_and_of_a_batch_of_one():
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    inputs = torch.randn(3, 4)
    shown = asked(ShuffledTeacher(net), Batch(inputs), ("logits", "1"))
    torch.testing.assert_close(shown["1"], net[:2](inputs).detach().roll(-1, 0))
    torch.testing.assert_close(asked(ShuffledTeacher(net), Batch(inputs[:1]))["logits"], net(inputs[:1]).detach())


def test_kept_answers_are_displaced_and_displaced_answers_are_not_kept(tmp_path):
    net, loader = nn.Linear(4, 3), ShuffledLoader(ArrayDataset(torch.randn(12, 4)), batch_size=4)
    displaced = ShuffledTeacher(CachedTeacher(net, tmp_path / "s", encoding="float32"))
    for _ in range(2):
        with displaced.open(TeacherContext(loader=loader)) as answer, torch.no_grad():
            for batch in loader.batches(0, 0):
                torch.testing.assert_close(answer(batch)["logits"], net(batch.inputs).roll(-1, 0))
    with pytest.raises(LimbeckError, match="ShuffledTeacher"):
        CachedTeacher(ShuffledTeacher(net), tmp_path / "t")


def test_it_is_bound_hashed_and_described_as_what_it_is():
    net = nn.Linear(4, 3)
    assert ShuffledTeacher(net).fingerprint != ModelTeacher(net).fingerprint
    assert ShuffledTeacher(net).describe()["of"] == ModelTeacher(net).describe()
    peer = ShuffledTeacher(TeacherRef("peer"))
    assert peer.names == {"peer"}
    assert asked(peer.resolve({"peer": net}), Batch(torch.zeros(2, 4)))["logits"].shape == (2, 3)


def test_batches_of_one_are_refused():
    with pytest.raises(LimbeckError, match="batch_size"):
        ShuffledTeacher(nn.Linear(4, 3)).open(
            TeacherContext(loader=ShuffledLoader(ArrayDataset(torch.zeros(3, 4)), batch_size=1))
        )
