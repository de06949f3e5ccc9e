"""ONNX files agree with the model, and differences are reported."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.batch import Batch
from limbeck.data import NormalizeImages
from limbeck.errors import LimbeckError
from limbeck.export import predict_onnx, to_onnx
from limbeck.export.onnx_file import compare_outputs, max_difference, prepare_module, strip_debug
from limbeck.export.onnx_session import silence_logging


class Two(nn.Module):
    """Two inputs by name, of which the second may be left out of the first; a dict comes out."""

    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, input_ids, attention_mask):
        weight = attention_mask.float().unsqueeze(-1)
        return {"logits": self.out((self.words(input_ids) * weight).sum(1) / weight.sum(1))}


class Branching(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


def trained_norm(model, inputs):
    """Running statistics that are not 0 and 1, so that a norm that was left out would be seen."""
    model.train()
    for _ in range(3):
        model(inputs * 2 + 1)
    return model


NETWORKS = {
    "mlp": ({"inputs": 64, "classes": 2, "hidden": [8]}, (8, 8)),
    "cnn": ({"channels": 1, "classes": 5, "widths": [4, 6], "size": 8}, (1, 8, 8)),
    "resnet8": ({"channels": 3, "classes": 10, "width": 4}, (3, 8, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_reference_networks_agree_node_by_node(name, tmp_path):
    arguments, shape = NETWORKS[name]
    inputs = torch.randn(300, *shape)
    model = trained_norm(lb.build(name, seed=0, **arguments), inputs)
    parity = to_onnx(model, inputs, tmp_path / "model.onnx")
    assert parity.max_difference < 1e-5
    assert parity.examples == 300
    assert parity.nodes >= parity.of - 1 - (name == "cnn")  # all but the last, which is an output, and a flattening
    assert model.training
    with torch.no_grad():
        for count in (1, 7, 300):  # a batch of any size
            ours = model.eval()(inputs[:count])
            torch.testing.assert_close(predict_onnx(tmp_path / "model.onnx", inputs[:count]), ours, atol=1e-5, rtol=0)


def test_tensors_by_name_and_of_any_length(tmp_path):
    model = Two()
    inputs = {"input_ids": torch.randint(0, 20, (50, 9)), "attention_mask": torch.ones(50, 9, dtype=torch.long)}
    to_onnx(model, inputs, tmp_path / "model.onnx", metadata={"class_names": ["a", "b", "c"]})
    shorter = {name: tensor[:4, :5] for name, tensor in inputs.items()}
    with torch.no_grad():
        ours = model(**shorter)["logits"]
    torch.testing.assert_close(predict_onnx(tmp_path / "model.onnx", shorter), ours, atol=1e-5, rtol=0)
    told = {one.key: json.loads(one.value) for one in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert told == {"limbeck": {"class_names": ["a", "b", "c"], "reads_included": False}}
    with pytest.raises(LimbeckError, match="attention_mask"):
        predict_onnx(tmp_path / "model.onnx", {"input_ids": shorter["input_ids"]})


def test_reading_can_be_a_part_of_the_file(tmp_path):
    model, preprocess = lb.build("mlp", inputs=16, classes=3, hidden=[5], seed=0), NormalizeImages((0.2,), (0.4,))
    images = torch.randint(0, 256, (40, 4, 4), dtype=torch.uint8)
    to_onnx(model, images, tmp_path / "model.onnx", preprocess=preprocess)
    with torch.no_grad():
        ours = model(preprocess(Batch(images)))
    torch.testing.assert_close(predict_onnx(tmp_path / "model.onnx", images), ours, atol=1e-5, rtol=0)


def test_half_precision_comes_out_in_float32(tmp_path):
    model = nn.Linear(4, 2).bfloat16()
    inputs = torch.randn(20, 4)
    to_onnx(model, inputs, tmp_path / "model.onnx")
    assert model.weight.dtype == torch.bfloat16
    assert predict_onnx(tmp_path / "model.onnx", inputs).dtype == torch.float32


@pytest.fixture(scope="module")
def program():
    """A network of three layers, exported, and what it was made from."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3))
    plain, inputs = prepare_module(model), torch.linspace(-1, 1, 120).reshape(20, 6)
    with silence_logging():
        found = torch.onnx.export(
            plain, (inputs[:2],), dynamo=True, input_names=["inputs"], output_names=["logits"],
            dynamic_shapes=(({0: torch.export.Dim("batch")},),), verbose=False,
        )  # fmt: skip
    return strip_debug(found.model_proto), found.exported_program, plain, inputs


@pytest.mark.parametrize(("layer", "named"), [(0, "linear"), (2, "linear_1"), (4, "only the output")])
def test_the_first_node_that_differs_is_named(program, layer, named):
    proto, exported, plain, inputs = program
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(proto)
    weight = next(one for one in spoilt.graph.initializer if one.name.endswith(f"{layer}.bias"))
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0] += 0.01
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    with pytest.raises(LimbeckError, match=r"differ from PyTorch's by up to .* on 20 real examples") as said:
        compare_outputs(spoilt, exported, plain, inputs, tolerance=1e-4)
    assert f"node {named!r}" in str(said.value) or named in str(said.value)
    assert compare_outputs(proto, exported, plain, inputs, tolerance=1e-4).nodes == 4


def test_a_tolerance_that_nothing_meets_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(LimbeckError, match="differ from PyTorch's by up to"):
        to_onnx(nn.Sequential(nn.Linear(4, 2), nn.Tanh()), torch.randn(200, 4), tmp_path / "m.onnx", tolerance=-1.0)
    assert not list(tmp_path.iterdir())


def test_difference():
    same = np.array([1.0, np.inf, -np.inf, np.nan])
    assert max_difference(same, same.copy()) == 0
    assert max_difference(np.array([1.0]), np.array([1.5])) == 0.5
    assert max_difference(np.array([1.0]), np.array([np.nan])) == np.inf
    assert max_difference(np.array([np.inf]), np.array([-np.inf])) == np.inf
    assert max_difference(np.zeros(2), np.zeros(3)) == np.inf


class TestRefused:
    def test_code_that_decides_by_values(self, tmp_path, capfd):
        with pytest.raises(LimbeckError, match=r"^Branching cannot .*values of a tensor at test_onnx.py, line \d+"):
            to_onnx(Branching(), torch.randn(4, 3), tmp_path / "model.onnx")
        assert capfd.readouterr() == ("", "")

    def test_an_operation_that_onnx_lacks(self, tmp_path):
        class Strange(nn.Module):
            def forward(self, x):
                return torch.linalg.eigvals(x.reshape(-1, 2, 2)).real

        with pytest.raises(LimbeckError, match="Strange cannot be exported to ONNX: "):
            to_onnx(Strange(), torch.randn(4, 4), tmp_path / "model.onnx")

    def test_no_examples(self, tmp_path):
        with pytest.raises(LimbeckError, match="have no examples"):
            to_onnx(nn.Linear(3, 2), torch.randn(0, 3), tmp_path / "model.onnx")
        with pytest.raises(LimbeckError, match="two real examples"):
            to_onnx(nn.Linear(3, 2), torch.randn(1, 3), tmp_path / "model.onnx")

    def test_a_folder_as_the_file(self, tmp_path):
        with pytest.raises(LimbeckError, match="is a folder"):
            to_onnx(nn.Linear(3, 2), torch.randn(4, 3), tmp_path)

    def test_no_onnx_file(self, tmp_path):
        (tmp_path / "text.onnx").write_text("no model")
        for name in ("text.onnx", "none.onnx"):
            with pytest.raises(LimbeckError, match=f"{name} cannot be opened"):
                predict_onnx(tmp_path / name, torch.zeros(2, 3))

    @pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
    def test_a_missing_extra(self, tmp_path, monkeypatch, missing):
        import sys

        monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(LimbeckError, match=rf"{missing}; type: pip install 'limbeck\[export\]'"):
            to_onnx(nn.Linear(3, 2), torch.randn(4, 3), tmp_path / "model.onnx")


@pytest.mark.parametrize(("size", "least"), [(1.0, 1e-4), (1e6, 0.1)])
def test_the_difference_that_is_allowed_grows_with_the_logits(tmp_path, size, least):
    net = nn.Sequential(nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight.fill_(size)
    parity = to_onnx(net, torch.randn(50, 4), tmp_path / "m.onnx")
    assert least <= parity.allowed < 1e3 * least
    assert parity.max_difference <= parity.allowed
