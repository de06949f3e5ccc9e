"""Class names of a model are read."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence
from limbeck.models import find_first_moved, get_class_names, match_order, read_class_names
from limbeck.models.folder import describe_model


def named(*names):
    return describe_model(nn.Linear(3, len(names)), {"class_names": list(names)})


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("no", "yes"), True), (("LABEL_0", "LABEL_1"), False), (("0", "1"), False), (("class_0", "class_1"), False),
        (("1", "0"), True), (("a", "a"), False),
    ],
)  # fmt: skip
def test_names_that_are_numbers_alone_say_nothing(names, said):
    assert get_class_names(named(*names)) == (names if said else None)


def test_names_come_from_a_configuration_a_description_or_a_folder(tmp_path):
    assert get_class_names(describe_model(nn.Linear(2, 2), {"class_names": ["b", "a"]})) == ("b", "a")
    lb.save(
        lb.models.build("mlp", inputs=2, classes=2, hidden=[2]), tmp_path / "a", metadata={"class_names": ["b", "a"]}
    )
    assert read_class_names(tmp_path / "a") == ("b", "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/config.json").write_text(json.dumps({"architectures": ["X"], "id2label": {"1": "a", "0": "b"}}))
    assert read_class_names(tmp_path / "b") == ("b", "a")
    for damaged in ("[]", "{", '{"id2label": {"x": 1}}', '{"id2label": 5}'):
        (tmp_path / "b/config.json").write_text(damaged)
        assert read_class_names(tmp_path / "b") is None
    assert read_class_names(tmp_path / "nowhere") is None


def test_names_are_matched_whatever_their_case():
    assert match_order(["Refund", "block_card"], ["block card", "refund"]) == ("block_card", "Refund")
    assert match_order(["a", "b"], ["a", "c"]) is None
    assert match_order(["a", "A"], ["a", "b"]) is None
    assert find_first_moved(["neg", "pos"], ["negative", "positive"]) is None
    assert find_first_moved(["a", "b", "c"], ["A", "c", "b"]) == (1, "b", "c")


def test_two_models_with_other_orders_are_refused_where_their_logits_are_compared():
    student, teacher = named("negative", "positive"), named("Positive", "negative")
    data = torch.randn(8, 3)
    for whole in (teacher, lb.Ensemble(lb.ModelTeacher(teacher), lb.ModelTeacher(named("negative", "positive")))):
        stage = lb.Stage(lb.Loss(kl_divergence), teacher=whole, epochs=1)
        with pytest.raises(LimbeckError, match="Class 0 is 'negative'"):
            lb.distill(student, stage, data, batch_size=4, accelerator="cpu").finish()
    for fine in (named("negative", "positive"), named("LABEL_0", "LABEL_1"), nn.Linear(3, 2), named("neg", "pos")):
        stage = lb.Stage(lb.Loss(kl_divergence), teacher=fine, epochs=1)
        lb.distill(student, stage, data, batch_size=4, accelerator="cpu").finish()


def test_a_distillation_loss_refuses_them_too():
    from limbeck.integrations import DistillationLoss

    with pytest.raises(LimbeckError, match="different orders"):
        DistillationLoss(named("a", "b"), lb.Loss(kl_divergence), named("b", "a"))
