"""Does a saved student come back as it was, at any moment, and are damaged folders refused?"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors import safe_open
from torch import nn

from limbeck.errors import DataError, LimbeckError
from limbeck.models import build, fingerprint, fresh, is_student_folder, load, read_config, safefile, save
from limbeck.models import folder as folder_module


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
    assert fingerprint(fresh(model, seed=0)) == fingerprint(small(seed=0))
    save(model, tmp_path / "s")


def test_what_the_folder_says(tmp_path):
    folder = save(small(), tmp_path / "s", metadata={"classes": ["a", "b", "c"], "epoch": 3})
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    written = json.loads((folder / "config.json").read_text())
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


def test_a_class_of_ones_own_needs_build(tmp_path):
    folder = save(Tied(), tmp_path / "s")
    assert json.loads((folder / "config.json").read_text())["model"]["class"].endswith(".Tied")
    with pytest.raises(LimbeckError, match=r"limbeck\.load\('.*s', build=build\)"):
        load(folder)
    with pytest.raises(LimbeckError, match="returned a int"):
        load(folder, build=lambda: 3)
    with pytest.raises(DataError, match=r"embed.weight is \[7, 4\] there and \[9, 4\] in the model"):
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


def change(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has the format 2; this version of limbeck reads 1"),
        ({"model": 3}, r"not written by limbeck\.save"),
        ({"model": {"name": "mpl", "arguments": {}}}, "'mpl', which this version of limbeck cannot build"),
        ({"model": {"name": "mlp", "arguments": {"inputs": 6}}}, "config.json is damaged: mlp needs"),
        ({"model": {"name": "mlp", "arguments": [6]}}, "cannot build"),
        ({"model": {"name": "mlp", "arguments": {"inputs": 6, "classes": 4, "hidden": [4]}}}, "classifier.weight is"),
        ({"model": {"name": "mlp", "arguments": {"inputs": 6, "classes": 3, "hidden": []}}}, "has besides layer1"),
        ({"model": {"name": "mlp", "arguments": {"inputs": 6, "classes": 3, "hidden": [4, 4]}}}, "lacks layer2"),
        ({"model": {"name": "mlp", "arguments": {"inputs": 10**9, "classes": 3, "hidden": [10**6]}}}, "there and"),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path, changes, message):
    folder = save(small(), tmp_path / "s")
    change(folder, **changes)
    with pytest.raises(DataError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match="not a student folder"):
        load(tmp_path / "nowhere")
    folder = save(small(), tmp_path / "s")
    (folder / "config.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        load(folder)
    folder = save(small(), tmp_path / "t")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"There is no file .*model\.safetensors"):
        load(folder)


def test_truncated_weights_are_refused_at_every_length(tmp_path):
    folder = save(small(), tmp_path / "s")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(DataError):
            load(folder)


def test_a_changed_byte_among_the_weights_is_noticed(tmp_path):
    folder = save(small(), tmp_path / "s")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for place in range(start, len(whole), 5):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DataError, match="SHA-256"):
            load(folder)


def test_a_changed_byte_in_the_header_is_never_another_exception(tmp_path):
    folder = save(small(), tmp_path / "s")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    rolls = random.Random(0)
    for place in range(8 + int.from_bytes(whole[:8], "little")):
        file.write_bytes(whole[:place] + bytes([rolls.randrange(256)]) + whole[place + 1 :])
        try:
            again = load(folder)
        except LimbeckError:
            continue
        assert fingerprint(again) == fingerprint(small())


class Killed(BaseException):
    pass


@pytest.mark.parametrize("first", [True, False])
def test_the_folder_is_valid_after_a_death_at_every_step(tmp_path, monkeypatch, first):
    """Every call that touches the disk dies once; the folder is then absent, the old one, or the new one."""
    old, new = small(seed=0), small(seed=1)
    steps = [
        (safefile.os, "replace"),
        (safefile.os, "fsync"),
        (folder_module, "write_text"),
        (folder_module, "write_weights"),
        (safefile, "_settle"),
    ]
    for number, (where, what) in enumerate(steps):
        for call in range(4):
            folder = tmp_path / f"{number}-{call}"
            if not first:
                save(old, folder, metadata={"epoch": 0})
            real, seen = getattr(where, what), []

            def dying(*args, _real=real, _seen=seen, _call=call, **kwargs):
                _seen.append(1)
                if len(_seen) == _call + 1:
                    raise Killed
                return _real(*args, **kwargs)

            with monkeypatch.context() as patch:
                patch.setattr(where, what, dying)
                with contextlib.suppress(Killed):
                    save(new, folder, metadata={"epoch": 1})
            if folder.exists():
                epoch = read_config(folder)["metadata"]["epoch"]
                assert fingerprint(load(folder)) == fingerprint((old, new)[epoch])
            else:
                assert first
            save(new, folder, metadata={"epoch": 1})
            assert fingerprint(load(folder)) == fingerprint(new)
            assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL on this system")
def test_the_folder_is_valid_after_a_real_kill(tmp_path):
    program = (
        "import sys, torch; from limbeck.models import build, save\n"
        "torch.set_num_threads(1)\n"
        "models = [build('mlp', inputs=500, classes=3, hidden=[400], seed=s) for s in (0, 1)]\n"
        "print('ready', flush=True)\n"
        "n = 0\n"
        "while True:\n"
        "    save(models[n % 2], sys.argv[1], metadata={'epoch': n % 2}); n += 1\n"
    )
    known = [fingerprint(build("mlp", inputs=500, classes=3, hidden=[400], seed=s)) for s in (0, 1)]
    rolls = random.Random(0)
    for round_ in range(3):
        folder = tmp_path / "student"
        process = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE)
        try:
            process.stdout.readline()
            deadline = time.monotonic() + 30
            while not folder.exists() and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(rolls.uniform(0.0, 0.1))
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
        assert fingerprint(load(folder)) == known[read_config(folder)["metadata"]["epoch"]], round_


def test_wrong_types_in_an_untrusted_configuration_are_refused_without_shape_checks(tmp_path):
    """The tests' own type checks would answer first, so this one runs in a process without them."""
    folder = save(small(), tmp_path / "s")
    program = (
        "import sys, json; from pathlib import Path\n"
        "from limbeck.models import load; from limbeck.errors import DataError\n"
        "folder = Path(sys.argv[1]); file = folder / 'config.json'; config = json.loads(file.read_text())\n"
        "bad = [{'hidden': 'ab'}, {'hidden': [1.5]}, {'hidden': [True]}, {'inputs': '6'}, {'dropout': 'x'}]\n"
        "for wrong in bad + [{'hidden': None}]:\n"
        "    arguments = config['model']['arguments'] | wrong\n"
        "    file.write_text(json.dumps(config | {'model': {'name': 'mlp', 'arguments': arguments}}))\n"
        "    try: load(folder)\n"
        "    except DataError as error: print(error)\n"
        "    else: print('accepted', wrong)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    assert all("config.json is damaged: mlp needs" in line for line in lines)
