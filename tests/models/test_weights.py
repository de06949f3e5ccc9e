"""Weights are loaded only if they fit, and pickles are refused."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import logging
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from limbeck.errors import DataError, LimbeckError, LimbeckWarning, UnknownNameError
from limbeck.models import convert_pickle, fingerprint, load_weights, save
from limbeck.models.pickle_conversion import Placeholder
from limbeck.models.weights import is_pickle, is_safetensors, read_header


def net():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.embed.weight


class Trap:
    """A pickle that makes a file when it is opened by an unsafe reader."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_weights_are_copied_and_keep_the_models_dtype(tmp_path):
    source, target = net(), net().double()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    assert load_weights(target, tmp_path / "w.safetensors") is target
    assert torch.equal(target[0].weight, source[0].weight.double())
    assert fingerprint(load_weights(net(), str(tmp_path / "w.safetensors"))) == fingerprint(source)


def test_a_student_folder_will_do(tmp_path):
    source = net()
    save(source, tmp_path / "s")
    assert fingerprint(load_weights(net(), tmp_path / "s")) == fingerprint(source)


@pytest.mark.parametrize("kept", ["embed.weight", "out.weight"])
def test_shared_tensors_may_be_in_the_file_once_under_either_name(tmp_path, kept):
    weight = torch.rand(7, 4)
    save_file({kept: weight}, tmp_path / "w.safetensors")
    model = load_weights(Tied(), tmp_path / "w.safetensors")
    assert torch.equal(model.embed.weight, weight)
    assert model.out.weight is model.embed.weight


def test_what_does_not_fit_is_named(tmp_path):
    state = net().state_dict()
    state["0.wieght"] = state.pop("0.weight")
    state["1.bias"] = torch.zeros(5)
    save_file(state, tmp_path / "w.safetensors")
    before = fingerprint(model := net())
    with pytest.raises(DataError) as caught:
        load_weights(model, tmp_path / "w.safetensors")
    text = str(caught.value)
    assert "lacks 0.weight (it may be 0.wieght)" in text
    assert "also has 0.wieght" in text
    assert "has 1.bias as [5], the model as [3]" in text
    assert fingerprint(model) == before


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.bin", "w.ckpt", "w.pkl", "w.safetensors", "weights"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_whatever_its_suffix(tmp_path, name, zipped):
    file = tmp_path / name
    torch.save(net().state_dict(), file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(LimbeckError) as caught:
        load_weights(net(), file)
    assert hashlib.sha256(file.read_bytes()).hexdigest() in str(caught.value)
    assert f"limbeck convert {file} --yes" in str(caught.value)


def test_a_pickle_is_never_opened_to_find_out_what_it_is(tmp_path):
    file = tmp_path / "w.pt"
    file.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    for attempt in (
        lambda: load_weights(net(), file),
        lambda: convert_pickle(file, yes=False),
        lambda: convert_pickle(file, yes=True),
    ):
        with pytest.raises(LimbeckError):
            attempt()
    assert not (tmp_path / "sprung").exists()
    assert not (tmp_path / "w.safetensors").exists()


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580])
def test_a_safetensors_file_whose_length_looks_like_a_pickle_is_opened(tmp_path, length):
    """A header of 640 bytes begins with 0x80 0x02, the first two bytes of a pickle."""
    source, file = net(), tmp_path / "w.safetensors"
    padding = ""
    while True:
        save_file(source.state_dict(), file, metadata={"padding": padding})
        missing = length - int.from_bytes(file.read_bytes()[:8], "little")
        if missing <= 0:
            break
        padding += "x" * missing
    assert missing == 0
    assert file.read_bytes()[0] == 0x80
    assert is_safetensors(file)
    assert not is_pickle(file)
    assert fingerprint(load_weights(net(), file)) == fingerprint(source)


def test_what_is_neither_is_refused(tmp_path):
    for name, content in {"a.safetensors": b"", "b.safetensors": b"hello, world", "c": b"\x00" * 64}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="not a whole safetensors file"):
            load_weights(net(), tmp_path / name)
    with pytest.raises(DataError, match="There is no file"):
        load_weights(net(), tmp_path / "nowhere.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="There is no file"):
        load_weights(net(), tmp_path / "empty")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s, "optimizer": {"lr": 0.1}},
        lambda s: {"model": {"state_dict": s}},
        lambda s: {f"module.{n}": t for n, t in s.items()},
        lambda s: {"model_state_dict": {f"_orig_mod.module.{n}": t for n, t in s.items()}},
    ],
)
def test_conversion_unwraps_and_keeps_every_bit(tmp_path, wrap, caplog):
    source, file = net(), tmp_path / "w.pth"
    torch.save(wrap(source.state_dict()), file)
    with caplog.at_level(logging.INFO, logger="limbeck"):
        out = convert_pickle(file, yes=True)
    assert out == tmp_path / "w.safetensors"
    assert f"Wrote {out}: 7 tensors" in caplog.text
    assert fingerprint(load_weights(net(), out)) == fingerprint(source)
    assert read_header(out)["converted_from_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_prefix_that_only_some_names_have_stays(tmp_path):
    torch.save({"module.a": torch.zeros(1), "b": torch.ones(1)}, tmp_path / "w.pt")
    out = convert_pickle(tmp_path / "w.pt", tmp_path / "other.safetensors", yes=True)
    model = nn.Module()
    model.module = nn.ParameterDict({"a": torch.ones(1)})
    model.b = nn.Parameter(torch.zeros(1))
    load_weights(model, out)
    assert model.b.item() == 1.0


def test_conversion_of_shared_tensors(tmp_path):
    source = Tied()
    torch.save(source.state_dict(), tmp_path / "w.pt")
    out = convert_pickle(tmp_path / "w.pt", yes=True)
    assert fingerprint(load_weights(Tied(), out)) == fingerprint(source)


def test_conversion_waits_for_yes(tmp_path):
    file = tmp_path / "w.pt"
    torch.save(net().state_dict(), file)
    with pytest.raises(LimbeckError, match=hashlib.sha256(file.read_bytes()).hexdigest()):
        convert_pickle(file, yes=False)
    assert [p.name for p in tmp_path.iterdir()] == ["w.pt"]


def test_what_cannot_be_converted_is_reported(tmp_path):
    with pytest.raises(DataError, match="There is no file"):
        convert_pickle(tmp_path / "nowhere.pt", yes=True)
    file = tmp_path / "w.pt"
    torch.save(net(), file)  # a whole module: needs code
    with pytest.raises(LimbeckError, match="holds more than weights") as caught:
        convert_pickle(file, yes=True)
    assert "\n" not in str(caught.value)
    torch.save({"epoch": 3, "lr": 0.1}, file)
    with pytest.raises(LimbeckError, match="a mapping with epoch, lr"):
        convert_pickle(file, yes=True)
    torch.save([torch.zeros(2)], file)
    with pytest.raises(LimbeckError, match="holds a list"):
        convert_pickle(file, yes=True)
    file.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(LimbeckError, match="damaged"):
        convert_pickle(file, yes=True)
    save_file({"a": torch.zeros(1)}, tmp_path / "s.bin")
    with pytest.raises(DataError, match="safetensors"):
        convert_pickle(tmp_path / "s.bin", yes=True)
    assert not (tmp_path / "w.safetensors").exists()


def test_conversion_overwrites_nothing(tmp_path):
    torch.save(net().state_dict(), tmp_path / "w.pt")
    (tmp_path / "w.safetensors").write_text("mine")
    with pytest.raises(LimbeckError, match=r"--out"):
        convert_pickle(tmp_path / "w.pt", yes=True)
    assert (tmp_path / "w.safetensors").read_text() == "mine"


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda file: torch.save(net(), file), r"it names torch\.nn\.modules\.container\.Sequential"),
        (lambda file: file.write_bytes(file.read_bytes()[:200]), "damaged: it ends too early"),
        (lambda file: file.write_bytes(b""), "damaged: it ends too early"),
        (lambda file: file.write_bytes(b"<html>not found"), "no pickle of tensors by name"),
    ],
)
def test_a_bad_pickle_is_reported_in_our_own_words(tmp_path, spoil, sentence):
    file = tmp_path / "w.pt"
    torch.save(net().state_dict(), file)
    spoil(file)
    with pytest.raises(LimbeckError, match=sentence) as caught:
        convert_pickle(file, yes=True)
    said = str(caught.value)
    assert said.isprintable()
    assert "weights_only" not in said
    assert "safetensors.torch.save_model" in said


# What training scripts keep beside the weights, and how they call these.


@pytest.fixture
def config(monkeypatch):
    """A mapping that is pickled as one of a library that is not installed here."""
    module = types.ModuleType("yacs.config")
    module.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    return module.CfgNode(lr=0.1)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": {f"model.{n}": t for n, t in s.items()}, "pytorch-lightning_version": "2.4"},
        lambda s: {"state_dict": {**{f"net.{n}": t for n, t in s.items()}, "criterion.weight": torch.ones(4)}},
        lambda s: {"state_dict": {f"student.{n}": t for n, t in s.items()}},
        lambda s: {"state_dict": {f"a.b.module.{n}": t for n, t in s.items()}},
        lambda s: {"n_averaged": torch.tensor(3), **{f"module.{n}": t for n, t in s.items()}},
        lambda s: {"n_averaged": torch.tensor(3), **{f"module.module.{n}": t for n, t in s.items()}},
        lambda s: {"state_dict_ema": s, "epoch": 3},
        lambda s: {"epoch": 1, "ema": {"module": s, "updates": 7}},
        lambda s: {"opt": argparse.Namespace(lr=0.05, milestones=[1, 2]), "model": s},
        lambda s: {"model": s, "best_acc": np.float64(75.6), "seen": np.int64(3), "curve": np.ones(3)},
        lambda s: {"model": s, "out": Path("runs"), "options": types.SimpleNamespace(when=datetime.date.today())},
        lambda s: {"model": s, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}},
    ],
)
@pytest.mark.filterwarnings("ignore::limbeck.errors.LimbeckWarning")
def test_checkpoints_that_training_scripts_leave_are_loaded(tmp_path, wrap):
    source, file = net(), tmp_path / "w.pth"
    torch.save(wrap(source.state_dict()), file)
    assert fingerprint(load_weights(net(), convert_pickle(file, yes=True))) == fingerprint(source)


def test_a_checkpoint_of_the_lightning_bridge_opens_in_the_student_alone(tmp_path):
    """Its names are those of the module, and its options an AttributeDict of Lightning."""
    data = pytest.importorskip("lightning_fabric.utilities.data")
    source, student = net(), net()
    state = {f"student.{n}": t for n, t in source.state_dict().items()} | {"objective.head.weight": torch.ones(2, 2)}
    torch.save({"state_dict": state, "hyper_parameters": data.AttributeDict(lr=0.1), "loops": {}}, tmp_path / "a.ckpt")
    with pytest.warns(LimbeckWarning, match=r"left out: objective\.head\.weight"):
        load_weights(student, convert_pickle(tmp_path / "a.ckpt", yes=True))
    assert fingerprint(source) == fingerprint(student)


def test_of_several_weights_the_usual_are_taken_and_the_others_named(tmp_path):
    plain, averaged = net(), net()
    with torch.no_grad():
        next(averaged.parameters()).add_(1)
    torch.save({"state_dict": plain.state_dict(), "state_dict_ema": averaged.state_dict()}, tmp_path / "w.pth")
    with pytest.warns(LimbeckWarning, match="--key state_dict_ema"):
        out = convert_pickle(tmp_path / "w.pth", yes=True)
    assert fingerprint(load_weights(net(), out)) == fingerprint(plain)
    other = convert_pickle(tmp_path / "w.pth", tmp_path / "ema.safetensors", yes=True, key="state_dict_ema")
    assert fingerprint(load_weights(net(), other)) == fingerprint(averaged)
    with pytest.raises(UnknownNameError, match="state_dict_ema"):
        convert_pickle(tmp_path / "w.pth", tmp_path / "no.safetensors", yes=True, key="ema")


def test_two_networks_of_one_shape_are_distinguished_by_their_prefix(tmp_path):
    student, teacher = net(), net()
    with torch.no_grad():
        next(teacher.parameters()).add_(1)
    both = {
        f"{who}.{n}": t
        for who, one in (("student", student), ("teacher", teacher))
        for n, t in one.state_dict().items()
    }
    torch.save({"state_dict": both}, tmp_path / "w.ckpt")
    out = convert_pickle(tmp_path / "w.ckpt", yes=True)
    with pytest.raises(DataError, match=r"--prefix student\."):
        load_weights(net(), out)
    taught = convert_pickle(tmp_path / "w.ckpt", tmp_path / "t.safetensors", yes=True, prefix="teacher.")
    assert fingerprint(load_weights(net(), taught)) == fingerprint(teacher)
    with pytest.raises(UnknownNameError, match=r"student\."):
        convert_pickle(tmp_path / "w.ckpt", tmp_path / "n.safetensors", yes=True, prefix="studnt.")


def test_what_stands_beside_the_weights_is_neither_imported_nor_called(tmp_path, config, monkeypatch):
    """The allowed names are looked up in a list: a library that they belong to is not needed."""
    source, file = net(), tmp_path / "w.pth"
    torch.save({"model": source.state_dict(), "config": config}, file)
    for name in ("yacs", "yacs.config"):
        monkeypatch.delitem(sys.modules, name)
    assert fingerprint(load_weights(net(), convert_pickle(file, yes=True))) == fingerprint(source)
    assert "yacs" not in sys.modules
    assert vars(Placeholder(1, two=2)) == {}
