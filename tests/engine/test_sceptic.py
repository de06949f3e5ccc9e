"""The engine in situations that are easy to forget."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.engine import distill
from limbeck.engine.checkpoint import write_checkpoint
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import Loss
from limbeck.models import load
from limbeck.recipe import Optimizer, Stage
from limbeck.tap import Tapped
from limbeck.teachers import Ensemble

INPUTS, LABELS = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
SGD = Optimizer("sgd", lr=0.1)


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(4, 3)


def test_gradients_that_were_left_behind_do_not_enter_the_first_step():
    clean, dirty = network(), network()
    dirty(INPUTS).pow(2).sum().backward()
    for model in (clean, dirty):
        distill(model, Stage(Loss(cross_entropy), steps=1, optimizer=SGD), (INPUTS, LABELS)).finish()
    assert torch.equal(clean.weight, dirty.weight)


def test_a_run_that_stopped_inside_a_step_does_not_go_on_from_there():
    calls = []

    def preprocess(batch):
        calls.append(batch)
        if len(calls) == 5:
            raise RuntimeError("planted")
        return batch.inputs

    run = distill(
        network(), Stage(Loss(cross_entropy), epochs=2), (INPUTS, LABELS), batch_size=8, preprocess=preprocess
    )
    with pytest.raises(RuntimeError, match="planted"):
        run.finish()
    with pytest.raises(LimbeckError, match="middle of a step"):
        run.finish()


class Once:
    """A loader that gives its batches in the first epoch alone."""

    def __init__(self) -> None:
        self._batches = iter([(INPUTS[:8], LABELS[:8]), (INPUTS[8:16], LABELS[8:16])])

    def __len__(self) -> int:
        return 2

    def __iter__(self):
        return self._batches


def test_a_loader_that_runs_dry_is_said():
    with pytest.raises(LimbeckError):
        distill(network(), Stage(Loss(cross_entropy), epochs=3), Once()).finish()


def test_a_lazy_student_is_written_once_it_has_weights(tmp_path):
    student = nn.Sequential(nn.LazyLinear(3))
    run = distill(student, Stage(Loss(cross_entropy), epochs=1), (INPUTS, LABELS), out=tmp_path / "run").finish()
    opened = load(tmp_path / "run" / "student", build=lambda: nn.Sequential(nn.Linear(4, 3)))
    assert torch.equal(opened(INPUTS), run.student(INPUTS))


def test_a_full_disk_is_one_sentence_and_the_checkpoint_before_it_stays(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, {"step": 1})
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(LimbeckError, match="No space left"):
        write_checkpoint(path, {"step": 2})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_an_ensemble_weighed_otherwise_is_another_run(tmp_path):
    def begun(weights, **more):
        torch.manual_seed(2)
        teacher = Ensemble(nn.Linear(4, 3), nn.Linear(4, 3), weights=weights)
        stage = Stage(Loss(kl_divergence), teacher=teacher, epochs=1)
        return distill(network(), stage, (INPUTS, LABELS), out=tmp_path / "run", **more)

    begun([0.9, 0.1]).finish()
    with pytest.raises(LimbeckError, match="weights"):
        begun([0.1, 0.9], resume=True)


def test_options_with_a_function_are_refused():
    with pytest.raises(LimbeckError, match="a function sets its own"):
        Optimizer(lambda parameters: torch.optim.SGD(parameters, lr=0.1), options={"momentum": 0.9})


def test_a_key_of_a_dict_is_not_its_method():
    class Shows(nn.Module):
        def forward(self, x):
            return {"values": x + 1}

    model = nn.ModuleDict({"inner": Shows()})
    model.forward = lambda x: model["inner"](x)["values"]
    with Tapped(model, ["inner:values"]) as tapped:
        assert torch.equal(tapped(torch.zeros(2, 3))["inner:values"], torch.ones(2, 3))
