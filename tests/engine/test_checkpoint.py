"""Checkpoints restore the complete state, or nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from engine.stories import SGD, everything, make_loader, network, weights
from limbeck.data import TorchLoader
from limbeck.engine import distill
from limbeck.engine.checkpoint import keep_memory_format, read_checkpoint, write_checkpoint
from limbeck.errors import LimbeckError, LimbeckWarning
from limbeck.functional import cross_entropy
from limbeck.losses import Loss
from limbeck.models import build, load
from limbeck.recipe import Optimizer, Stage

CE = Loss(cross_entropy)

STATE = {
    "numbers": [1, 2.5, float("inf"), None, True, "text"],
    "pair": (1, ("a", torch.arange(3))),
    "tensors": {"float": torch.randn(2, 3), "empty": torch.zeros(0, 2), "scalar": torch.tensor(1.5)},
    "whole numbers": {0: {"step": torch.tensor(3.0)}, 7: {}},
    "half": torch.randn(3).bfloat16(),
    "truth": torch.tensor([True, False]),
}


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def test_nested_state_comes_back_as_it_was(tmp_path):
    write_checkpoint(tmp_path / "c", STATE)
    assert same(read_checkpoint(tmp_path / "c"), STATE)
    assert os.listdir(tmp_path) == ["c"]


def test_what_an_optimizer_keeps_has_the_memory_format_of_its_parameter():
    def stepped():
        layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(layer.parameters())
        layer(torch.randn(2, 3, 5, 5)).square().sum().backward()
        optimizer.step()
        return layer.weight, optimizer

    weight, optimizer = stepped()
    saved = optimizer.state_dict()
    before = saved["state"][0]["exp_avg"]
    assert before.stride() == weight.stride() != before.contiguous().stride()
    saved["state"][0] = {name: value.contiguous() for name, value in saved["state"][0].items()}  # as from a file
    other, again = stepped()
    again.load_state_dict(saved)
    keep_memory_format(again)
    assert again.state[other]["exp_avg"].stride() == other.stride()
    assert torch.equal(again.state[other]["exp_avg"], before)


@pytest.mark.parametrize("name", ["cnn", "resnet8"])
def test_convolutions_go_on_in_the_same_bits(name, tmp_path):
    sizes = {"widths": [8, 8], "size": 8} if name == "cnn" else {"width": 4}
    data = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 3

    def start(**options):
        student = build(name, channels=1, classes=3, seed=0, **sizes)
        settings = {"epochs": 2, "batch_size": 8, "log_every": 1, "optimizer": Optimizer("adam", lr=0.01)}
        return distill(student, Stage(CE), data, **settings, **options)

    whole = start().finish()
    for report in start(out=tmp_path / "run"):
        if report.step == 3:
            break
    assert weights(start(out=tmp_path / "run", resume=True).finish().student).equal(weights(whole.student))


def test_tied_and_strided_tensors_come_back(tmp_path):
    weight = torch.randn(4, 6)
    state = {"a": weight, "b": weight, "view": weight[:, ::2], "turned": weight.T, "learns": nn.Parameter(weight)}
    write_checkpoint(tmp_path / "c", state)
    found = read_checkpoint(tmp_path / "c")
    for key, value in state.items():
        assert torch.equal(found[key], value), key


def test_an_optimizer_s_state_comes_back(tmp_path):
    model = network()
    for name in ("adam", "sgd", "rmsprop"):
        optimizer = Optimizer(name).make(model.parameters())
        model(torch.randn(4, 5)).sum().backward()
        optimizer.step()
        write_checkpoint(tmp_path / "c", optimizer.state_dict())
        assert same(read_checkpoint(tmp_path / "c"), optimizer.state_dict())


def test_what_cannot_be_stored_is_reported():
    with pytest.raises(LimbeckError, match=r"got a set"):
        write_checkpoint(Path("nowhere"), {"a": {1, 2}})


# Damage.


@pytest.fixture
def run(tmp_path) -> Path:
    """A run that stopped in its midst."""
    for report in distill(network(), everything(epochs=2), make_loader(), out=tmp_path / "run", log_every=1):
        if report.step == 3:
            break
    return tmp_path / "run"


def taken_up(run: Path, student: nn.Module | None = None, stage: Stage | None = None, **options):
    return distill(student or network(), stage or everything(epochs=2), make_loader(**options), out=run, resume=True)


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_checkpoint_is_one_sentence(run, keep):
    file = run / "checkpoint.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(LimbeckError, match=r"checkpoint\.safetensors is damaged"):
        taken_up(run)


@pytest.mark.parametrize("place", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_a_flipped_byte_anywhere_is_one_sentence(run, place):
    file = run / "checkpoint.safetensors"
    whole = bytearray(file.read_bytes())
    whole[int(place * len(whole))] ^= 0x10
    file.write_bytes(whole)
    with pytest.raises(LimbeckError, match=r"is damaged|is not a limbeck checkpoint"):
        taken_up(run)


def test_a_file_that_is_no_checkpoint(run):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, run / "checkpoint.safetensors")
    with pytest.raises(LimbeckError, match=r"is not a limbeck checkpoint"):
        taken_up(run)
    (run / "checkpoint.safetensors").write_bytes(b"not at all")
    with pytest.raises(LimbeckError, match=r"is damaged"):
        taken_up(run)


def test_a_checkpoint_that_is_missing(tmp_path):
    with pytest.raises(LimbeckError, match=r"holds no checkpoint to continue from \(c is missing\)"):
        read_checkpoint(tmp_path / "c")


# Taking up a run.


def test_a_run_in_another_process_ends_as_the_unbroken_one(run, tmp_path):
    """As test_kill does with a kill; here new objects stand for a new process."""
    again = taken_up(run).finish()
    whole = distill(network(), everything(epochs=2), make_loader(), out=tmp_path / "whole", log_every=50).finish()
    assert torch.equal(weights(again.student), weights(whole.student))
    assert torch.equal(weights(load(run / "student", build=network)), weights(again.student))


def test_a_finished_run_taken_up_has_nothing_left(tmp_path):
    done = distill(network(), everything(epochs=1), make_loader(), out=tmp_path / "run").finish()
    again = distill(network(seed=5), everything(epochs=1), make_loader(), out=tmp_path / "run", resume=True)
    assert again.finished
    assert list(again) == []
    assert torch.equal(weights(again.student), weights(done.student))


def test_resume_where_there_is_nothing_begins(tmp_path):
    run = distill(network(), Stage(CE, epochs=1), make_loader(), out=tmp_path / "run", resume=True).finish()
    assert run.finished
    assert (tmp_path / "run" / "student" / "config.json").exists()


def test_a_folder_that_holds_a_run_is_left_alone(run):
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    with pytest.raises(LimbeckError, match=r"already holds a run\. .*distill\(\.\.\., out=.*resume=True\)"):
        distill(network(), everything(epochs=2), make_loader(), out=run)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_a_run_killed_before_its_first_checkpoint_begins_again_without_old_reports(tmp_path):
    out = tmp_path / "run"
    for _ in distill(network(), Stage(CE, epochs=2), make_loader(), out=out, log_every=1):
        break
    (out / "checkpoint.safetensors").unlink()
    distill(network(), Stage(CE, epochs=2), make_loader(), out=out, log_every=1, resume=True).finish()
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 9))


def test_lines_after_the_checkpoint_are_written_once(run):
    with open(run / "metrics.jsonl", "a") as opened:
        opened.write('{"step": 4}\n{"st')
    distill(network(), everything(epochs=2), make_loader(), out=run, resume=True, log_every=1).finish()
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 9))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"student": network(hidden=9)}, r"other models or another recipe.*size mismatch"),
        ({"stage": Stage(CE, epochs=2)}, r"belongs to another run: recipe.0.objective"),
        ({"stage": everything(epochs=3)}, r"belongs to another run: recipe.0.epochs was 2 and is 3"),
        ({"batch_size": 4}, r"belongs to another run: batch_sizes.0 was 8 and is 4"),
        ({"stage": everything(epochs=2, optimizer=SGD)}, r"belongs to another run: recipe.0.optimizer"),
    ],
    ids=["student", "objective", "epochs", "batch size", "optimizer"],
)
def test_taken_up_with_something_else(run, changed, sentence):
    with pytest.raises(LimbeckError, match=sentence):
        taken_up(run, **changed).finish()


def test_a_loader_without_a_state_is_refused_by_name(tmp_path):
    def make_loader() -> DataLoader:
        return DataLoader(TensorDataset(torch.randn(30, 5), torch.arange(30) % 3), batch_size=8)

    with pytest.warns(LimbeckWarning, match="DataLoader"):  # before the first step
        run = distill(network(), Stage(CE, epochs=2), make_loader(), out=tmp_path / "run", log_every=1)
    for _ in run:
        break
    with pytest.raises(LimbeckError, match=r"cannot be resumed.*DataLoader"):
        distill(network(), Stage(CE, epochs=2), make_loader(), out=tmp_path / "run", resume=True)
    load(tmp_path / "run" / "student", build=network)


def test_a_stage_on_a_loader_without_a_state_is_refused_too(tmp_path):
    def stage() -> Stage:
        batches = [(torch.randn(4, 5), torch.tensor([0, 1, 2, 0])) for _ in range(4)]
        return Stage(CE, epochs=2, loader=TorchLoader(batches))

    with pytest.warns(LimbeckWarning, match="list"):
        run = distill(network(), stage(), make_loader(), out=tmp_path / "run", log_every=1)
    for _ in run:
        break
    with pytest.raises(LimbeckError, match=r"cannot be resumed"):
        distill(network(), stage(), make_loader(), out=tmp_path / "run", resume=True)


class Stateful:
    """A loader that knows its place, as torchdata's does."""

    def __init__(self) -> None:
        self.place = 0

    def __len__(self) -> int:
        return 4

    def __iter__(self):
        while self.place < 4:
            self.place += 1
            draw = torch.Generator().manual_seed(self.place)
            yield torch.randn(8, 5, generator=draw), torch.arange(8) % 3
        self.place = 0

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state["place"]


@pytest.mark.parametrize("at", [1, 3, 4, 6])
def test_a_loader_with_a_state_is_taken_up(tmp_path, at):
    whole = distill(network(), Stage(CE, epochs=2, optimizer=SGD), Stateful()).finish()
    for report in distill(network(), Stage(CE, epochs=2, optimizer=SGD), Stateful(), out=tmp_path / "run", log_every=1):
        if report.step == at:
            break
    again = distill(network(), Stage(CE, epochs=2, optimizer=SGD), Stateful(), out=tmp_path / "run", resume=True)
    assert torch.equal(weights(again.finish().student), weights(whole.student))
