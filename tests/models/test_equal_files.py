"""Equal weights give equal files, byte for byte."""

from __future__ import annotations

import pytest
import torch

import limbeck as lb
from limbeck.engine.checkpoint import write_checkpoint
from limbeck.functional import cross_entropy

TOLD = {"class_names": ["é", 'a "b"\n\x01'], "preprocess": {"preprocess": "unchanged"}, "epoch": 3}


def written(folder):
    return (folder / "model.safetensors").read_bytes(), (folder / "config.json").read_bytes()


@pytest.mark.parametrize("tied", [False, True])
def test_the_same_model_saved_often_and_opened_again_is_one_file(tmp_path, tied):
    def made():
        net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3))
        if tied:
            net[2].weight = net[0].weight
        return net

    net, found = made(), set()
    for number in range(6):
        told = TOLD if number % 2 else dict(reversed(TOLD.items()))
        found.add(written(lb.save(net, tmp_path / f"{number}", metadata=told))[0])
        again = lb.load(tmp_path / f"{number}", build=made)
        found.add(written(lb.save(again, tmp_path / f"{number} again", metadata=told))[0])
    assert len(found) == 1


def test_an_interrupted_run_that_goes_on_leaves_the_files_of_one_that_was_not(tmp_path):
    inputs = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(32) % 3

    def run(out):
        student = lb.build("mlp", inputs=4, classes=3, hidden=[4], seed=0)
        stage = lb.Stage(lb.Loss(cross_entropy), epochs=3)
        return lb.distill(
            student, stage, (inputs, labels), out=out, batch_size=8, log_every=1, resume=True, metadata=TOLD
        )

    run(tmp_path / "whole").finish()
    for number, _ in enumerate(run(tmp_path / "broken")):
        if number == 5:
            break
    run(tmp_path / "broken").finish()
    assert written(tmp_path / "whole" / "student") == written(tmp_path / "broken" / "student")


def test_checkpoints_of_one_state_are_one_file(tmp_path):
    state = {"weights": torch.arange(3.0), "step": 3, "name": "é\n"}
    found = set()
    for number in range(6):
        write_checkpoint(tmp_path / f"{number}", state)
        found.add((tmp_path / f"{number}").read_bytes())
    assert len(found) == 1
