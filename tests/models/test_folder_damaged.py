"""Student folders that are damaged or were being written are refused or whole."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import limbeck as lb
from fork_server import fork_command, poll_command
from fuzzing import read_as_good
from limbeck import atomic_io
from limbeck.errors import DataError, LimbeckError
from limbeck.models import build, fingerprint, load, read_config, save
from limbeck.models import folder as folder_module
from small_jobs import environment, forked
from waiting import within


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
        (
            {"model": {"name": "mlp", "arguments": {"inputs": 6, "classes": 4, "hidden": [4]}}},
            "has classifier.weight as",
        ),
        ({"model": {"name": "mlp", "arguments": {"inputs": 6, "classes": 3, "hidden": []}}}, "also has layer1"),
        ({"model": {"name": "mlp", "arguments": {"inputs": 6, "classes": 3, "hidden": [4, 4]}}}, "lacks layer2"),
        ({"model": {"name": "mlp", "arguments": {"inputs": 10**9, "classes": 3, "hidden": [10**6]}}}, "the model as"),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path, changes, message):
    folder = save(small(), tmp_path / "s")
    change(folder, **changes)
    with pytest.raises(DataError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_json_that_is_nested_too_deeply_is_one_sentence(tmp_path):
    folder = save(small(), tmp_path / "s")
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"config\.json is damaged"):
        load(folder)


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
        (atomic_io.os, "replace"),
        (atomic_io.os, "fsync"),
        (folder_module, "write_text"),
        (folder_module, "write_weights"),
        (atomic_io, "publish_file"),
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
    folder = tmp_path / "student"
    for round_ in range(3):
        said = tmp_path / f"said{round_}"
        words = ["-c", program, str(folder)]
        child = fork_command(words, cwd=tmp_path, env=environment(), out=said, err=Path(os.devnull))
        try:
            assert within(30, lambda said=said: said.read_text() == "ready\n" and folder.exists())
            time.sleep(rolls.uniform(0.0, 0.1))
        finally:
            os.kill(child, signal.SIGKILL)
            poll_command(child, wait=True)
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
    done = forked("-c", program, folder, cwd=tmp_path)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert len(lines) == 6
    assert all("config.json is damaged: mlp needs" in line for line in lines)


@pytest.mark.soak
def test_no_harmed_student_is_read_as_good(tmp_path):
    """Its answers to raw pixels, what it reads, and what its classes are called."""
    told = {"class_names": ["benign", "malign"], "preprocess": lb.NormalizeImages((0.5,), (0.25,)).to_dict()}
    lb.save(lb.build("mlp", inputs=4, classes=2, hidden=[4], dropout=0.25, seed=0), tmp_path / "s", metadata=told)
    pictures = lb.Batch(torch.arange(16, dtype=torch.uint8).reshape(4, 2, 2) * 15)

    def look():
        student = lb.load(tmp_path / "s")
        metadata = read_config(tmp_path / "s")["metadata"]
        train = student.train()(torch.ones(4, 4)).shape, [part.p for part in student.modules() if hasattr(part, "p")]
        return [student.eval()(lb.load_preprocess(tmp_path / "s")(pictures)).tolist(), metadata, train], ""

    assert read_as_good(tmp_path / "s", "*", look, 400) == []
