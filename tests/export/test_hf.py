"""Stock `from_pretrained` opens an exported Hugging Face student."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

import limbeck as lb
from export_runs import finished
from limbeck.errors import LimbeckError
from limbeck.export import export_run, predict_onnx, to_hf, to_onnx
from limbeck.export.folder import reopen_hf

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")


def bert():
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, num_labels=3,
        max_position_embeddings=16,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def tokens(count, length):
    mask = torch.ones(count, length, dtype=torch.long)
    mask[::2, length // 2 :] = 0
    return {"input_ids": torch.randint(0, 30, (count, length)), "attention_mask": mask}


def test_a_folder_opens_with_stock_transformers(tmp_path, capfd):
    model = bert()
    to_hf(model, tmp_path / "student", class_names=["no", "maybe", "yes"])
    reopen_hf(tmp_path / "student")
    assert capfd.readouterr() == ("", "")  # no progress bar of transformers' own
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "student").eval()
    inputs = tokens(6, 9)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model.eval()(**inputs).logits)
    assert again.config.id2label == {0: "no", 1: "maybe", 2: "yes"}
    assert model.config.id2label[0] == "LABEL_0"
    assert (tmp_path / "student" / "model.safetensors").exists()


def test_weights_that_are_missing_are_noticed(tmp_path):
    from safetensors.torch import load_file, save_file

    to_hf(bert(), tmp_path / "student")
    file = tmp_path / "student" / "model.safetensors"
    state = load_file(file)
    state.pop("classifier.bias")
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(LimbeckError, match=r"classifier\.bias"):
        reopen_hf(tmp_path / "student")


def test_a_class_of_the_user_is_refused(tmp_path):
    class Mine(transformers.BertForSequenceClassification):
        pass

    with pytest.raises(LimbeckError, match=r"Mine is your own subclass.*--to onnx"):
        to_hf(Mine(bert().config), tmp_path / "student")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_text_classifier_as_onnx_with_masks_and_any_length(tmp_path):
    model = bert()
    parity = to_onnx(model, tokens(60, 9), tmp_path / "model.onnx")
    assert parity.nodes > 10
    other = tokens(5, 4)
    with torch.no_grad():
        ours = model.eval()(**other).logits
    torch.testing.assert_close(predict_onnx(tmp_path / "model.onnx", other), ours, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_run_whose_student_is_a_hugging_face_model(tmp_path):
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=6, patch_size=3,
        num_channels=1,
    )  # fmt: skip
    config.architectures = ["ViTForImageClassification"]
    config.save_pretrained(tmp_path / "vit")
    run = finished(tmp_path / "run", student={"model": f"hf:{tmp_path / 'vit'}", "pretrained": False})
    found = export_run(run, to="hf")
    assert found.parity.max_difference == 0
    assert found.score_after == found.score_before
    model = transformers.AutoModelForImageClassification.from_pretrained(found.path)
    assert model.config.id2label[4] == "class e"
    card = (found.path / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "transformers"
    assert "ViTForImageClassification.from_pretrained('.')" in card
    assert "limbeck" not in json.loads((found.path / "config.json").read_text())
    assert export_run(run, to="onnx").score_after == found.score_before
    assert lb.models.read_config(run / "student")["model"]["class"].startswith("transformers.")


@pytest.mark.slow
@pytest.mark.parametrize(("by", "layers"), [("channels", 2), ("layers", 1)])
def test_a_student_that_was_made_of_its_teacher_opens_with_stock_transformers(tmp_path, by, layers):
    if by == "channels":
        pytest.importorskip("torch_pruning")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=6, patch_size=3,
        num_channels=1,
    )  # fmt: skip
    config.architectures = ["ViTForImageClassification"]
    config.save_pretrained(tmp_path / "vit")
    teacher = {"model": f"hf:{tmp_path / 'vit'}", "pretrained": False, "check": False}
    student = {"from": "teacher", "size": 0.6, "by": by}
    run = finished(tmp_path / "run", teacher=teacher, student=student, budget={"epochs": 1, "batch_size": 50})
    found = export_run(run, to="hf")
    assert found.parity.max_difference < 1e-5
    assert found.score_after == found.score_before
    model = transformers.AutoModelForImageClassification.from_pretrained(found.path)
    assert model.config.num_hidden_layers == layers
    assert (model.config.intermediate_size < 24) is (by == "channels")
