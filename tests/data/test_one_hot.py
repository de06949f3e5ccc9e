"""One-hot labels are refused with a message whose advice works."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.errors import DataError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import Loss
from limbeck.recipe import Optimizer, Stage
from limbeck.teachers import ModelTeacher

X, Y = torch.randn(12, 4), torch.arange(12) % 3
ONE_HOT = nn.functional.one_hot(Y, 3)
SOFT = torch.tensor([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7], [0.0, 1.0, 0.0]])[Y]


@pytest.mark.parametrize("labels", [ONE_HOT, ONE_HOT.float(), SOFT], ids=["whole", "float", "soft"])
@pytest.mark.parametrize(
    "held",
    [
        lambda labels: (X, labels),
        lambda labels: DataLoader(TensorDataset(X, labels), batch_size=4),
        lambda labels: [{"input": X, "labels": labels}],
    ],
    ids=["arrays", "loader", "mapping"],
)
def test_they_are_refused_with_what_to_type(labels, held):
    with pytest.raises(DataError, match=r"one number per class.*labels\.argmax\(-1\).*preprocess=lambda batch"):
        distill(nn.Linear(4, 3), Stage(Loss(cross_entropy), epochs=1), held(labels)).finish()


def test_what_to_type_works():
    stage = Stage(Loss(cross_entropy), epochs=1)
    assert distill(nn.Linear(4, 3), stage, (X, ONE_HOT.argmax(-1))).finish().finished
    teacher = ModelTeacher(nn.Identity(), preprocess=lambda batch: batch.extra["soft"].log())
    student = nn.Linear(4, 3)
    mover = Optimizer("adam", lr=0.3)
    data = ArrayDataset(torch.eye(4)[Y], extra={"soft": SOFT})
    distill(student, Stage(Loss(kl_divergence), teacher=teacher, optimizer=mover, epochs=200), data).finish()
    assert torch.allclose(student(torch.eye(4)[Y]).softmax(-1), SOFT, atol=0.01)


def test_other_labels_at_every_position_are_not_taken_for_them():
    logits, labels = nn.Conv1d(2, 3, 1), torch.randint(3, (6, 3))
    stage = Stage(Loss(cross_entropy, classes=1), epochs=1)
    assert distill(logits, stage, (torch.randn(6, 2, 3), labels)).finish().finished
