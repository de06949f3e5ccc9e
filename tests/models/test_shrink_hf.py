"""Smaller models of transformers: their configuration stays true, and folders open again."""

from __future__ import annotations

import copy

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")

import limbeck as lb  # noqa: E402
from limbeck.errors import LimbeckError  # noqa: E402
from limbeck.export import to_hf  # noqa: E402
from limbeck.export.folder import reopen_hf  # noqa: E402
from limbeck.models import count_parameters, get_shrink_report, shallow, shrink  # noqa: E402
from limbeck.models.hf_widths import fill_channels, find_widths  # noqa: E402


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=100, hidden_size=16, num_hidden_layers=6, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config).eval()


IDS = {"input_ids": torch.arange(1, 9)[None], "attention_mask": torch.ones(1, 8, dtype=torch.int64)}


def logits(model):
    with torch.no_grad():
        return model.eval()(**IDS).logits


def test_layers_are_those_of_shallow_and_from_pretrained_opens_them(bert, tmp_path):
    student = shrink(bert, size=0.45, by="layers", example=IDS)
    assert torch.equal(logits(student), logits(shallow(bert, 2)))
    folder = lb.save(student, tmp_path / "student")
    opened = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    torch.testing.assert_close(logits(opened), logits(student))


@pytest.mark.parametrize(("by", "size"), [("low_rank", 0.5), ("channels", 0.7), ("auto", 0.2), ("narrow", 0.3)])
def test_folders_open_without_code(bert, tmp_path, by, size):
    if by == "channels":
        pytest.importorskip("torch_pruning")
    torch.manual_seed(1)
    student = shrink(bert, size=size, by=by, example=IDS)
    report = get_shrink_report(student)
    assert report.parameters == count_parameters(student)
    assert abs(report.size - size) < 0.15 * size
    opened = lb.load(lb.save(student, tmp_path / "student"))
    torch.testing.assert_close(logits(opened), logits(student), atol=1e-6, rtol=1e-5)


def test_a_configuration_without_one_width_is_refused_in_a_sentence():
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=3)
    with pytest.raises(LimbeckError, match=r"ResNetForImageClassification.*by: layers"):
        shrink(transformers.ResNetForImageClassification(config), size=0.5, by="narrow")


@pytest.mark.parametrize(("by", "size"), [("layers", 0.45), ("narrow", 0.3), ("channels", 0.7)])
def test_what_a_configuration_can_say_is_exported_to_transformers(bert, tmp_path, by, size):
    if by == "channels":
        pytest.importorskip("torch_pruning")
    student = shrink(bert, size=size, by=by, example=IDS)
    opened = reopen_hf(to_hf(student, tmp_path / "student"))
    torch.testing.assert_close(logits(opened), logits(student))
    assert count_parameters(opened) <= 1.03 * get_shrink_report(student).parameters
    assert opened.config.intermediate_size == {"layers": 32, "narrow": 16, "channels": 9}[by]


def test_what_it_cannot_say_names_the_exports_that_work(bert, tmp_path):
    student = shrink(bert, size=0.5, by="low_rank", example=IDS)
    with pytest.raises(LimbeckError, match=r"--to onnx.*--to folder"):
        to_hf(student, tmp_path / "student")


def test_layers_of_other_widths_are_filled_with_zeros(bert):
    unequal = copy.deepcopy(bert)
    for number, layer in enumerate(unequal.bert.encoder.layer):
        width = 20 if number else 24
        layer.intermediate.dense = torch.nn.Linear(16, width)
        layer.output.dense = torch.nn.Linear(width, 16)
    assert find_widths(unequal) == {"intermediate_size": 24}
    filled = fill_channels(unequal, {"intermediate_size": 24})
    assert (filled.bert.encoder.layer[1].intermediate.dense.weight[20:] == 0).all()
    torch.testing.assert_close(logits(filled), logits(unequal))
    unequal.classifier = torch.nn.Linear(16, 4)
    assert find_widths(unequal) is None
