"""Readers of jobs, settings, stores and students under seeded changes: nothing but a LimbeckError leaves one."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import limbeck as lb
from fuzzing import ODD, changed_bytes, changed_json, changed_value, untyped
from limbeck.cache import CacheReader
from limbeck.cache.column import Column
from limbeck.cache.encodings import encoding
from limbeck.cache.location import Location
from limbeck.cache.manifest import Manifest, TeacherProvenance
from limbeck.cache.shard import Keys, write_shard
from limbeck.checksums import digest
from limbeck.job import job_text, make_job, read_job, with_settings
from limbeck.job.schema import job_keys

TIMES = [1, pytest.param(20, marks=pytest.mark.soak)]
pytestmark = pytest.mark.filterwarnings("ignore")

JOB: dict[str, Any] = {
    "data": {"name": "digits", "size": [8, 8]},
    "teacher": {"model": "mlp", "hidden": [32], "train": {"epochs": 2, "lr": 0.01}, "check": False},
    "student": {"model": "mlp", "hidden": [6]},
    "methods": ["hinton", {"name": "fitnets", "hint": "layer1", "guided": "layer1"}],
    "budget": {"epochs": 2, "lr": 0.01, "batch_size": 16, "augment": ["flip"]},
    "budgets": {"distilled": {"lr": 0.1}},
    "cache": {"folder": "answers", "encoding": "float16"},
    "seeds": 2, "out": "run",
}  # fmt: skip


@pytest.mark.parametrize("times", TIMES)
def test_settings(times: int) -> None:
    keys = [key.name for key in job_keys()]

    def read(draw: random.Random) -> None:
        key = (
            draw.choice(keys)
            if draw.random() < 0.9
            else draw.choice(["", ".", "a..b", "data.", "\ud800", "methods.x.y"])
        )
        value = draw.choice(ODD)
        text = draw.choice(
            [str(value), json.dumps(value), changed_bytes(b"[1, {a: &x 2}, *x]", draw).decode("latin-1")]
        )
        job_text(make_job(with_settings(JOB, [f"{key}={text}"])))

    assert untyped(read, 300 * times) == {}


@pytest.mark.parametrize("times", TIMES)
def test_a_job_file(tmp_path: Path, times: int) -> None:
    file = tmp_path / "a.yaml"

    def read(draw: random.Random) -> None:
        text = yaml.safe_dump(changed_value(JOB, draw) if draw.random() < 0.7 else JOB).encode(errors="surrogatepass")
        file.write_bytes(changed_bytes(text, draw) if draw.random() < 0.6 else text)
        job_text(make_job(read_job(file)))

    assert untyped(read, 100 * times) == {}


def a_store(folder: Path) -> tuple[Manifest, bytes]:
    (folder / "shards").mkdir(parents=True)
    column = Column(encoding("float16", classes=3), (), ())
    keys = Keys(np.arange(5), np.full(5, -1))
    rows = column.encode(torch.randn(5, 3), id=torch.arange(5), view=torch.full((5,), -1))
    shard = write_shard(Location(folder), "shards/000000.safetensors", keys, {"logits": rows})
    origin = TeacherProvenance("t", "d", None, "preprocess", "float32", {"logits": column.spec})
    manifest = Manifest(origin, {"examples": 5}, (shard,))
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    return manifest, (folder / shard.file).read_bytes()


def read_store(folder: Path) -> None:
    store = CacheReader(folder)
    wrong = store.verify()
    rows = store.rows(np.arange(5), -1)
    rows = rows[rows >= 0]
    for address in store.columns:
        store.read(rows, address)
    if wrong:
        raise wrong[0]


@pytest.mark.parametrize("checksum", ["as it was", "none", "made again"])
@pytest.mark.parametrize("times", TIMES)
def test_a_manifest(tmp_path: Path, times: int, checksum: str) -> None:
    a_store(tmp_path / "s")
    file = tmp_path / "s" / "manifest.json"
    whole = file.read_bytes()

    def read(draw: random.Random) -> None:
        changed = changed_json(whole, draw)
        if checksum != "as it was":
            try:
                body = json.loads(changed)
                body = dict(body)
                body.pop("sha256", None)
                if checksum == "made again":
                    plain = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
                    body["sha256"] = hashlib.sha256(plain).hexdigest()
                changed = (json.dumps(body, indent=1) + "\n").encode()
            except (ValueError, TypeError):
                pass
        file.write_bytes(changed)
        read_store(tmp_path / "s")

    assert untyped(read, 100 * times) == {}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("times", TIMES)
def test_the_header_of_a_shard(tmp_path: Path, times: int, signed: bool) -> None:
    manifest, whole = a_store(tmp_path / "s")
    file = tmp_path / "s" / manifest.shards[0].file
    size = int.from_bytes(whole[:8], "little")

    def read(draw: random.Random) -> None:
        header = changed_json(whole[8 : 8 + size], draw)
        length = len(header) if draw.random() < 0.9 else draw.choice([0, size, 2**40, 2**63, 2**64 - 1])
        data = length.to_bytes(8, "little") + header + whole[8 + size :]
        file.write_bytes(data)
        if signed:
            own = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "keys": manifest.shards[0].keys}
            shard = manifest.shards[0].__class__(manifest.shards[0].file, 5, **own)
            (tmp_path / "s" / "manifest.json").write_bytes(Manifest(manifest.origin, {}, (shard,)).to_bytes())
        read_store(tmp_path / "s")

    assert untyped(read, 100 * times) == {}


@pytest.mark.parametrize("checksum", ["as it was", "none", "made again"])
@pytest.mark.parametrize("network", ["mlp", "cnn"])
@pytest.mark.parametrize("times", TIMES)
def test_the_configuration_of_a_student(tmp_path: Path, times: int, network: str, checksum: str) -> None:
    sizes = {"inputs": 4, "hidden": [3]} if network == "mlp" else {"channels": 1, "size": 8, "widths": [2]}
    lb.save(lb.build(network, classes=3, **sizes), tmp_path / "s", metadata={"class_names": ["a", "b", "c"]})
    file = tmp_path / "s" / "config.json"
    whole = file.read_bytes()

    def read(draw: random.Random) -> None:
        changed = changed_json(whole, draw)
        if checksum != "as it was":
            try:
                body = json.loads(changed)
                body = dict(body)
                body.pop("checksum", None)
                changed = json.dumps({**body, "checksum": digest(body)} if checksum == "made again" else body).encode()
            except (ValueError, TypeError):
                pass
        file.write_bytes(changed)
        lb.load(tmp_path / "s")

    assert untyped(read, 60 * times) == {}


@pytest.mark.parametrize("who", ["save", "save_pretrained"])
@pytest.mark.parametrize("times", TIMES)
def test_the_configuration_of_a_hugging_face_model(tmp_path: Path, times: int, who: str) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf).")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    kinds = {
        "bert": transformers.BertForSequenceClassification(
            transformers.BertConfig(vocab_size=30, num_labels=3, max_position_embeddings=16, **sizes)
        ),
        "vit": transformers.ViTForImageClassification(
            transformers.ViTConfig(image_size=8, patch_size=4, num_labels=3, **sizes)
        ),
        "llama": transformers.LlamaForCausalLM(
            transformers.LlamaConfig(vocab_size=30, num_key_value_heads=2, max_position_embeddings=16, **sizes)
        ),
    }
    for name, model in kinds.items():
        folder = tmp_path / name
        lb.save(model, folder) if who == "save" else model.save_pretrained(folder)
    whole = {name: (tmp_path / name / "config.json").read_bytes() for name in kinds}

    def read(draw: random.Random) -> None:
        name = draw.choice(sorted(kinds))
        (tmp_path / name / "config.json").write_bytes(changed_json(whole[name], draw))
        lb.load(tmp_path / name)

    assert untyped(read, 40 * times) == {}
