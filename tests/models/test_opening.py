"""Each form of a model's name opens the right model and runs nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from limbeck.errors import DataError, LimbeckError, UnknownNameError
from limbeck.job import TeacherSettings
from limbeck.models import build, fingerprint, get_model_spec, load, open_model, read_config, save
from limbeck.models.hub import LibraryModel
from limbeck.models.user_file import module_name

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import nn


@dataclass
class Settings:
    width: int = 4


def build(width: int = 4, classes: int = 2):
    return nn.Sequential(nn.Linear(3, Settings(width).width), nn.Linear(width, classes))


def shaped(*, input_shape, classes):
    return nn.Linear(input_shape[0], classes)


def anything(**settings):
    return nn.Linear(settings["a"], 1)


def number():
    return 3


def forest():
    return type("Forest", (), {"predict_proba": None})()


def _private():
    return nn.Linear(1, 1)


constant = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my.py"
    path.write_text(SOURCE)
    return path


def test_reference_names_take_what_the_data_give():
    model = open_model("cnn", input_shape=(1, 8, 8), classes=10, widths=[4])
    assert get_model_spec(model).arguments == {"channels": 1, "classes": 10, "widths": [4], "size": 8, "dropout": 0.0}
    assert open_model("mlp", inputs=5, classes=2, hidden=[3]).classifier.out_features == 2
    assert open_model("mlp", input_shape=(4,), classes=2, hidden=[], inputs=9).classifier.in_features == 9
    with pytest.raises(LimbeckError, match=r"mlp needs inputs=..., classes=..., hidden=..."):
        open_model("mlp")


def test_seed_decides_the_weights_of_every_new_model(file):
    for name, more in (("mlp", {"inputs": 3, "classes": 2, "hidden": [2]}), (f"{file}:build", {})):
        a, b, c = (fingerprint(open_model(name, seed=seed, **more)) for seed in (1, 1, 2))
        assert a == b != c


def test_a_function_in_a_file(file):
    model = open_model(f"{file}:build", width=6, classes=5)
    assert model[0].out_features == 6
    assert model[1].out_features == 5
    assert open_model(f"{file}:shaped", input_shape=(7,), classes=4).weight.shape == (4, 7)
    assert open_model(f"{file}:build", input_shape=(7,))[1].out_features == 2
    assert open_model(f"{file}:anything", a=3).in_features == 3


def test_a_function_with_weights(file, tmp_path):
    model = open_model(f"{file}:build", seed=3)
    save(model, tmp_path / "student")
    for weights in (tmp_path / "student", tmp_path / "student" / "model.safetensors"):
        assert fingerprint(open_model(f"{file}:build@{weights}")) == fingerprint(model)
    with pytest.raises(DataError, match="does not fit"):
        open_model(f"{file}:build@{tmp_path / 'student'}", width=9)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    with pytest.raises(LimbeckError, match="limbeck convert"):
        open_model(f"{file}:build@{tmp_path / 'w.pt'}")


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("biuld", {}, "'biuld'. Did you mean 'build'.*Known: Settings, anything, build, forest, number, shaped"),
        ("constant", {}, "Unknown function"),
        ("_private", {}, "Unknown function"),
        ("number", {}, "number returned a int; it has to return a torch.nn.Module"),
        (
            "forest",
            {},
            r"returned a Forest; it has to return a torch.nn.Module\. An estimator can be a teacher",
        ),
        ("build", {"widht": 3}, "no argument 'widht'. Did you mean 'width'"),
        ("shaped", {}, "needs input_shape=..., classes=..."),
    ],
)
def test_a_function_that_will_not_do(file, function, arguments, message):
    with pytest.raises(LimbeckError, match=message):
        open_model(f"{file}:{function}", **arguments)


def test_a_file_that_will_not_do(tmp_path, file):
    with pytest.raises(LimbeckError, match=r"There is no file .*none\.py"):
        open_model(f"{tmp_path / 'none.py'}:build")
    with pytest.raises(LimbeckError, match=r"not the function in it; type my.py:build"):
        open_model(str(file))
    for content, message in (
        ("x = (", "failed at line 1: SyntaxError"),
        ("x = 1\ny = x / 0\n", "failed at line 2: ZeroDivisionError"),
        ("import no_such_module_anywhere", "imports 'no_such_module_anywhere', which is not found"),
    ):
        file.write_text(content)
        with pytest.raises(LimbeckError, match=message):
            open_model(f"{file}:build")
        assert module_name(file) not in sys.modules
    file.write_text(SOURCE)
    open_model(f"{file}:build")
    assert module_name(file) in sys.modules


def test_only_the_named_file_runs_and_in_a_namespace_of_its_own(tmp_path, file, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong file ran')")
    (tmp_path / "__init__.py").write_text("raise SystemExit('the wrong file ran')")
    monkeypatch.chdir(tmp_path)
    open_model("my.py:build")
    path, known = sys.path[:-1], sys.modules.get("my")
    open_model("my.py:build")
    assert sys.path[:-1] == path, "what was found before is found where it was"
    assert sys.modules.get("my") is known


def test_two_files_of_one_name_stay_apart(tmp_path):
    for folder, out in (("a", 2), ("b", 5)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.py").write_text(f"from torch import nn\ndef build(): return nn.Linear(1, {out})\n")
    sizes = [open_model(f"{tmp_path / folder}/net.py:build").out_features for folder in ("a", "b")]
    assert sizes == [2, 5]


def test_a_student_folder(tmp_path):
    model = build("mlp", inputs=3, classes=2, hidden=[2])
    save(model, tmp_path / "student")
    assert fingerprint(open_model(str(tmp_path / "student"), input_shape=(3,), classes=2)) == fingerprint(model)
    with pytest.raises(LimbeckError, match="takes no arguments; got hidden"):
        open_model(str(tmp_path / "student"), hidden=[3])
    with pytest.raises(LimbeckError, match=r"my.py:build@"):
        open_model(str(tmp_path / "student" / "model.safetensors"))
    with pytest.raises(DataError, match="not a student folder"):
        open_model(str(tmp_path))


@pytest.mark.parametrize("name", ["resent20", "timm:", "hf:", "nowhere/at/all", "jax:resnet"])
def test_a_name_that_means_nothing(name):
    with pytest.raises(UnknownNameError, match="timm:NAME or hf:NAME"):
        open_model(name)


@pytest.mark.parametrize(
    ("name", "library", "extra"), [("timm:resnet18", "timm", "vision"), ("hf:gpt2", "transformers", "hf")]
)
def test_a_library_that_is_absent_names_its_extra(monkeypatch, name, library, extra):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(LimbeckError, match=rf"needs {library}; type: pip install 'limbeck\[{extra}\]'"):
        open_model(name)


@pytest.fixture
def timm(monkeypatch):
    module = ModuleType("timm")
    module.calls = []
    module.list_models = lambda: ["resnet18", "vit_tiny"]
    module.is_model = lambda name: name.split(".")[0] in module.list_models()

    def create_model(name, **arguments):
        module.calls.append((name, arguments))
        return nn.Linear(1, 1)

    module.create_model, module.get_pretrained_cfg = create_model, lambda name: None
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


def test_timm(timm):
    open_model("timm:resnet18.a1_in1k", input_shape=(1, 8, 8), classes=7, drop_rate=0.1)
    open_model("timm:vit_tiny", pretrained=False)
    open_model("timm:vit_tiny", input_shape=(3, 8, 8), classes=7, num_classes=9)
    assert timm.calls == [
        ("resnet18.a1_in1k", {"pretrained": True, "num_classes": 7, "in_chans": 1, "drop_rate": 0.1}),
        ("vit_tiny", {"pretrained": False}),
        ("vit_tiny", {"pretrained": True, "num_classes": 9, "in_chans": 3}),
    ]
    timm.list_models = lambda: [f"aimv2_{number}" for number in range(900)] + ["resnet18", "resnet10t"]
    with pytest.raises(UnknownNameError, match=r"'resnet1Ot'. The nearest: resnet10t, resnet18") as caught:
        open_model("timm:resnet1Ot")
    assert "aimv2" not in str(caught.value)


def test_a_classifier_of_timm_for_other_classes_is_asked_for_by_name(timm):
    timm.get_pretrained_cfg = lambda name: SimpleNamespace(num_classes=1000)
    with pytest.raises(LimbeckError, match="num_classes=7"):
        open_model("timm:resnet18", classes=7)
    open_model("timm:resnet18", classes=7, num_classes=7)
    open_model("timm:resnet18", classes=7, pretrained=False)
    open_model("timm:resnet18", classes=1000)


def test_weights_of_timm_that_cannot_be_had(timm):
    def create_model(name, *, pretrained, **_):
        raise RuntimeError("No pretrained weights exist for it.\nMore.")

    timm.create_model = create_model
    with pytest.raises(LimbeckError, match=r"No pretrained weights exist for it\); type pretrained=false"):
        open_model("timm:resnet18")


def test_sizes_of_timm_that_do_not_fit_are_one_sentence(timm):
    def create_model(name, *, num_heads, **_):
        return 768 // num_heads

    timm.create_model = create_model
    with pytest.raises(LimbeckError, match=r"timm:vit_tiny.*num_heads=0.*ZeroDivisionError"):
        open_model("timm:vit_tiny", pretrained=False, num_heads=0)
    with pytest.raises(LimbeckError, match=r"timm:vit_tiny.*depht=3.*num_heads"):
        open_model("timm:vit_tiny", pretrained=False, depht=3)


@pytest.mark.parametrize("where", ["file", "folder"])
@pytest.mark.parametrize("library", ["timm", "hf"])
def test_a_model_of_a_library_takes_weights_of_ones_own(timm, transformers, tmp_path, library, where):
    source = nn.Linear(1, 1)
    folder = save(source, tmp_path / "best@last")
    weights = folder if where == "folder" else folder / "model.safetensors"
    name = f"{library}:{'resnet18' if library == 'timm' else 'bert'}@{weights}"
    assert torch.equal(open_model(name).weight, source.weight)
    assert TeacherSettings(model=name).has_weights
    with pytest.raises(LimbeckError, match="leave pretrained out"):
        open_model(name, pretrained=True)
    with pytest.raises(DataError, match="There is no file"):
        open_model(name.replace("best@last", "gone"))
    if library == "timm":
        assert timm.calls[0][1]["pretrained"] is False


@pytest.mark.parametrize(
    ("name", "whose", "weights"),
    [
        ("timm:resnet10t", "resnet10t", None),
        ("timm:resnet10t@w.safetensors", "resnet10t", "w.safetensors"),
        ("timm:hf-hub:org/name@main", "hf-hub:org/name@main", None),
        ("hf:org/name@some/folder", "org/name", "some/folder"),
        ("timm:@w", "@w", None),
    ],
)
def test_names_of_libraries(name, whose, weights):
    found = LibraryModel.parse(name)
    assert (found.name, found.weights) == (whose, None if weights is None else Path(weights))
    assert str(found) == name


@pytest.fixture
def torchvision(tmp_path, monkeypatch):
    """A torchvision that raises when it is imported, as one for another torch does."""
    for name, text in {
        "torchvision/__init__.py": "raise RuntimeError('operator torchvision::nms does not exist')\n",
        "torchvision-0.29.1.dist-info/METADATA": "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.29.1\n",
        "timm/__init__.py": "import torchvision\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("torchvision", "timm"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["timm:resnet10t", "hf:bert"])
def test_a_torchvision_that_does_not_fit_is_said_with_what_to_type(torchvision, transformers, name):
    def missing(*_, **__):
        raise ModuleNotFoundError("Could not import module 'BertForSequenceClassification'.")

    transformers.AutoModelForSequenceClassification.from_pretrained = missing
    with pytest.raises(LimbeckError, match=r"torchvision 0\.29\.1 does not fit torch .*nms.*type pip") as caught:
        open_model(name)
    said = str(caught.value)
    assert "\n" not in said
    minor = int(torch.__version__.split(".")[1])
    assert f"torchvision==0.{minor + 15}.*" in said
    assert ("pip uninstall torchvision" in said) is (name == "hf:bert"), "timm cannot do without"


@pytest.mark.soak
@pytest.mark.parametrize("name", ["timm:resnet10t", "hf:bert"])
def test_the_real_libraries_beside_such_a_torchvision(torchvision, name):
    """In a process of its own, as transformers remembers what it has found."""
    pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")
    script = f"import limbeck as lb; lb.models.open_model({name!r}, pretrained=False, classes=3)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(torchvision), *sys.path])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("limbeck.errors.LimbeckError: ")
    assert "does not fit torch" in last


@pytest.fixture
def transformers(monkeypatch):
    module = ModuleType("transformers")
    module.CONFIG_MAPPING = {}
    module.calls = []
    known = {
        "bert": (["BertForSequenceClassification"], 2),
        "vit": (["ViTForImageClassification"], 10),
        "gpt": (["GPT2LMHeadModel"], 2),
        "llama": (["LlamaForCausalLM"], 2),
        "masked": (["BertForMaskedLM"], 2),
        "bare": (None, 2),
    }

    def config(name, *, trust_remote_code):
        module.calls.append(("config", name, trust_remote_code))
        if name not in known:
            raise OSError(f"{name} is not a local folder\nand more lines")
        values = {"architectures": known[name][0], "num_labels": known[name][1], "num_hidden_layers": 12}
        values["is_encoder_decoder"] = False
        found = SimpleNamespace(**values)
        found.to_dict = lambda: values
        return found

    def auto(kind):
        def opened(how):
            def call(*args, **arguments):
                module.calls.append((kind, how, args, arguments))
                model = nn.Linear(1, 1)
                return (model, {"missing_keys": set()}) if arguments.get("output_loading_info") else model

            return call

        return SimpleNamespace(from_pretrained=opened("from_pretrained"), from_config=opened("from_config"))

    module.AutoConfig = SimpleNamespace(from_pretrained=config)
    for kind in ("SequenceClassification", "ImageClassification", "CausalLM"):
        setattr(module, f"AutoModelFor{kind}", auto(kind))
    monkeypatch.setitem(sys.modules, "transformers", module)
    return module


@pytest.mark.parametrize(
    ("name", "kind"),
    [("bert", "SequenceClassification"), ("vit", "ImageClassification"), ("gpt", "CausalLM"), ("llama", "CausalLM")],
)
def test_hugging_face_by_architecture(transformers, name, kind):
    open_model(f"hf:{name}", torch_dtype="auto")
    (_, _, trusted), (called, how, args, arguments) = transformers.calls
    assert (called, how, args) == (kind, "from_pretrained", (name,))
    assert trusted is False
    assert arguments["trust_remote_code"] is False
    assert arguments["use_safetensors"] is True
    assert arguments["torch_dtype"] == "auto"


@pytest.mark.parametrize(
    "given",
    [
        {"trust_remote_code": True},
        {"use_safetensors": False},
        {"attn_implementation": "somebody/kernels"},
        {"attn_implementation": {"": "somebody/kernels"}},
        {"use_kernels": True},
    ],
    ids=lambda given: next(iter(given)),
)
def test_nothing_that_runs_code_or_opens_a_pickle_is_handed_on(transformers, given):
    with pytest.raises(LimbeckError, match=next(iter(given))):
        open_model("hf:gpt", **given)
    assert not transformers.calls


def test_hugging_face_classes(transformers):
    open_model("hf:bert", classes=2)
    with pytest.raises(LimbeckError, match=r"trained for 2 classes; the data have 3.*ignore_mismatched_sizes"):
        open_model("hf:bert", classes=3)
    open_model("hf:bert", classes=3, ignore_mismatched_sizes=True)
    assert transformers.calls[-1][3]["config"].num_labels == 3
    open_model("hf:gpt", classes=9)
    assert transformers.calls[-1][3]["config"].num_labels == 2


def test_hugging_face_heads(transformers):
    with pytest.raises(LimbeckError, match=r"names BertForMaskedLM.*head=sequence_classification"):
        open_model("hf:masked", classes=3)
    with pytest.raises(LimbeckError, match="names no architecture"):
        open_model("hf:bare")
    with pytest.raises(LimbeckError, match="Did you mean 'causal_lm'"):
        open_model("hf:masked", head="causal_llm")
    open_model("hf:masked", classes=3, head="sequence_classification")
    called, how, _, arguments = transformers.calls[-1]
    assert (called, how, arguments["config"].num_labels) == ("SequenceClassification", "from_pretrained", 3)


def test_hugging_face_untrained(transformers):
    open_model("hf:bert", classes=3, pretrained=False, num_hidden_layers=2)
    called, how, (config,), arguments = transformers.calls[-1]
    assert (called, how, arguments) == ("SequenceClassification", "from_config", {"trust_remote_code": False})
    assert (config.num_labels, config.num_hidden_layers) == (3, 2)
    with pytest.raises(LimbeckError, match=r"has no 'num_hiden_layers'. Did you mean 'num_hidden_layers'"):
        open_model("hf:bert", pretrained=False, num_hiden_layers=2)


def test_hugging_face_errors_are_one_sentence(transformers):
    with pytest.raises(LimbeckError, match=r"hf:none cannot be opened: none is not a local folder$"):
        open_model("hf:none")


@pytest.mark.parametrize("arguments", [{}, {"width": 3}])
def test_a_saved_student_of_one_s_own_class_says_what_to_type(tmp_path, arguments):
    save(nn.Sequential(nn.Linear(4, 3)), tmp_path / "student")
    with pytest.raises(LimbeckError, match=rf"Sequential.*my\.py:build@{re.escape(str(tmp_path))}/student$"):
        open_model(str(tmp_path / "student"), classes=3, **arguments)
    (tmp_path / "my.py").write_text("from torch import nn\ndef build(): return nn.Sequential(nn.Linear(4, 3))\n")
    opened = open_model(f"{tmp_path / 'my.py'}:build@{tmp_path / 'student'}", classes=3)
    assert isinstance(opened, nn.Sequential)


def test_a_student_of_a_class_in_one_s_own_file_is_called_by_the_file_s_own_name(tmp_path):
    (tmp_path / "my.py").write_text("from torch import nn\nclass Net(nn.Linear):\n    pass\n")
    folder = save(open_model(f"{tmp_path / 'my.py'}:Net", in_features=2, out_features=3), tmp_path / "student")
    assert read_config(folder)["model"] == {"class": "my.Net"}
    with pytest.raises(LimbeckError, match=r"holds a my\.Net, "):
        load(folder)


def test_a_file_imports_its_neighbors_each_its_own(tmp_path):
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "neighbor.py").write_text(f"WIDTH = {number}\n")
        (folder / "my.py").write_text(
            "import torch\nimport neighbor\n\ndef build():\n    from neighbor import WIDTH\n"
            "    return torch.nn.Linear(neighbor.WIDTH, WIDTH)\n"
        )
    for number in (1, 2, 1):
        model = open_model(f"{tmp_path / str(number) / 'my.py'}:build")
        assert (model.in_features, model.out_features) == (number, number)


def test_none_leaves_an_argument_out_that_a_function_or_network_does_not_take(file, transformers):
    assert open_model(f"{file}:build", widths=None)[0].out_features == 4
    assert open_model("mlp", inputs=3, classes=2, hidden=[2], widths=None).classifier.in_features == 2
    open_model("hf:bert", classes=3, pretrained=False, widths=None)
    with pytest.raises(LimbeckError, match="widths: null"):
        open_model("mlp", inputs=3, classes=2, hidden=[2], widths=[4])
    with pytest.raises(LimbeckError, match="hidden"):
        open_model("mlp", inputs=3, classes=2, hidden=None)
