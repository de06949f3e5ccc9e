"""Saved students are loaded as they were; damaged folders are refused."""

from __future__ import annotations

import inspect
import json
import sys

import pytest
import torch
from safetensors import safe_open
from torch import nn

from limbeck.errors import DataError, LimbeckError
from limbeck.models import build, fingerprint, is_student_folder, load, read_config, reinitialize, save


class Tied(nn.Module):
    def __init__(self, words=7):
        super().__init__()
        self.embed = nn.Embedding(words, 4)
        self.out = nn.Linear(4, words, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x):
        return self.out(self.embed(x))


def small(seed=0, **more):
    return build("mlp", inputs=6, classes=3, hidden=[4], seed=seed, **more)


@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [
        ("mlp", {"inputs": 6, "classes": 3, "hidden": [4], "dropout": 0.5}, (2, 6)),
        ("cnn", {"channels": 1, "classes": 3, "widths": [4], "size": 8}, (2, 1, 8, 8)),
        ("resnet8", {"channels": 3, "classes": 3, "width": 4}, (2, 3, 8, 8)),
    ],
)
def test_a_reference_network_comes_back_bit_for_bit(tmp_path, name, arguments, shape):
    model = build(name, **arguments)
    model(torch.rand(shape))  # moves BatchNorm's statistics
    again = load(save(model, tmp_path / "deep" / "student"))
    assert fingerprint(again) == fingerprint(model)
    assert not any(m.training for m in again.modules())
    x = torch.rand(shape)
    assert torch.equal(again(x), model.eval()(x))
    assert all(p.requires_grad and not p.is_meta for p in again.parameters())


def test_loading_draws_no_random_number(tmp_path):
    save(build("resnet8", channels=1, classes=2), tmp_path / "s")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load(tmp_path / "s")
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes_come_back(tmp_path, dtype):
    model = small().to(dtype)
    assert fingerprint(load(save(model, tmp_path / "s"))) == fingerprint(model)
    assert fingerprint(load(tmp_path / "s", build=small)) == fingerprint(model)


def test_a_loaded_student_can_be_saved_trained_and_made_anew(tmp_path):
    model = load(save(small(), tmp_path / "s"))
    model(torch.rand(2, 6)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert fingerprint(reinitialize(model, seed=0)) == fingerprint(small(seed=0))
    save(model, tmp_path / "s")


def test_what_the_folder_says(tmp_path):
    folder = save(small(), tmp_path / "s", metadata={"classes": ["a", "b", "c"], "epoch": 3})
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    written = json.loads((folder / "config.json").read_text())
    assert len(written.pop("checksum")) == 64
    assert written["format"] == 1
    assert written["model"]["name"] == "mlp"
    assert written["model"]["arguments"]["hidden"] == [4]
    assert written["metadata"] == {"classes": ["a", "b", "c"], "epoch": 3}
    assert "sha256" not in written
    config = read_config(folder)
    assert config == {**written, "sha256": fingerprint(small())}
    assert is_student_folder(folder)
    assert not is_student_folder(tmp_path)
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"  # what transformers looks for


def test_files_are_as_readable_as_any_other_new_file(tmp_path):
    folder = save(small(), tmp_path / "s")
    (tmp_path / "plain").touch()
    modes = {(path.stat().st_mode & 0o777) for path in folder.iterdir()}
    assert modes == {(tmp_path / "plain").stat().st_mode & 0o777}


def test_saving_again_replaces_weights_and_metadata(tmp_path):
    folder = save(small(seed=0), tmp_path / "s", metadata={"epoch": 1})
    save(small(seed=1), folder, metadata={"epoch": 2})
    assert fingerprint(load(folder)) == fingerprint(small(seed=1))
    assert read_config(folder)["metadata"] == {"epoch": 2}
    assert json.loads((folder / "config.json").read_text())["metadata"] == {"epoch": 2}
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_folder_with_other_files_is_saved_into(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    save(small(), tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert fingerprint(load(tmp_path)) == fingerprint(small())


def test_another_model_is_not_overwritten(tmp_path):
    folder = save(small(), tmp_path / "s")
    with pytest.raises(LimbeckError, match="holds another model"):
        save(build("mlp", inputs=6, classes=3, hidden=[5]), folder)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(LimbeckError, match=r"not written by limbeck\.save"):
        save(small(), tmp_path / "hf")
    (tmp_path / "file").touch()
    with pytest.raises(LimbeckError, match="is a file"):
        save(small(), tmp_path / "file")


def test_metadata_have_to_be_json_and_nothing_is_written_if_not(tmp_path):
    with pytest.raises(LimbeckError, match="JSON"):
        save(small(), tmp_path / "s", metadata={"weights": torch.zeros(2)})
    assert list(tmp_path.iterdir()) == []


def test_shared_tensors_are_written_once_and_come_back_shared(tmp_path):
    model = Tied()
    folder = save(model, tmp_path / "s")
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert list(file.keys()) == ["embed.weight"]
    again = load(folder, build=Tied)
    assert again.out.weight is again.embed.weight
    assert fingerprint(again) == fingerprint(model)
    assert read_config(folder)["sha256"] == fingerprint(model)


def test_shared_in_the_file_but_not_in_the_model(tmp_path):
    def untied():
        model = Tied()
        model.out.weight = nn.Parameter(torch.zeros(7, 4))
        return model

    model = Tied()
    again = load(save(model, tmp_path / "s"), build=untied)
    assert torch.equal(again.out.weight, model.embed.weight)


def test_views_of_one_storage_are_written_as_their_own_values(tmp_path):
    def views():
        model = nn.Module()
        whole = torch.arange(12.0).reshape(3, 4)
        model.register_buffer("whole", whole)
        model.register_buffer("column", whole[:, 1])
        model.register_buffer("turned", whole.T)
        return model

    again = load(save(views(), tmp_path / "s"), build=views)
    assert again.column.tolist() == [1.0, 5.0, 9.0]
    assert torch.equal(again.turned, views().turned)


def test_a_class_of_the_user_needs_build(tmp_path):
    folder = save(Tied(), tmp_path / "s")
    assert json.loads((folder / "config.json").read_text())["model"]["class"].endswith(".Tied")
    with pytest.raises(LimbeckError, match=r"limbeck\.load\('.*s', build=build\)"):
        load(folder)
    with pytest.raises(LimbeckError, match=r"build=my\.py:Tied is no function"):
        inspect.unwrap(load)(folder, build="my.py:Tied")
    with pytest.raises(LimbeckError, match="returned a int"):
        load(folder, build=lambda: 3)
    with pytest.raises(DataError, match=r"it has embed.weight as \[7, 4\], the model as \[9, 4\]"):
        load(folder, build=lambda: Tied(9))


def test_no_code_named_in_a_folder_is_imported(tmp_path, monkeypatch):
    folder = save(Tied(), tmp_path / "s")
    (tmp_path / "trap.py").write_text("import pathlib; pathlib.Path('sprung').touch()\nclass Net: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for model in ({"class": "trap.Net"}, {"name": "trap.py:Net", "arguments": {}}, {"name": "timm:x", "arguments": {}}):
        config = json.loads((folder / "config.json").read_text()) | {"model": model}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(LimbeckError):
            load(folder)
    assert not (tmp_path / "sprung").exists()
    assert "trap" not in sys.modules
