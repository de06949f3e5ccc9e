"""Smaller models of transformers: their configuration stays true, and folders open again."""

from __future__ import annotations

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")

import limbeck as lb  # noqa: E402
from limbeck.models import count_parameters, get_shrink_report, shallow, shrink  # noqa: E402


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
