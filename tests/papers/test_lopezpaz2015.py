"""Privileged information: the synthetic data, and the rows and claims of an experiment."""

from __future__ import annotations

import pytest
import torch

from limbeck.papers import ExperimentScale, TaskFolder, lopezpaz2015
from limbeck.papers.lopezpaz2015 import DIMENSIONS, FIGURES, KINDS, RELEVANT, SYNTHETIC, draw_examples


@pytest.mark.parametrize("kind", KINDS)
def test_labels_follow_from_the_privileged_inputs(kind):
    draw = torch.Generator().manual_seed(0)
    alpha = torch.randn(DIMENSIONS, generator=draw)
    x, better, y = draw_examples(kind, 500, alpha, draw)
    assert x.shape == (500, DIMENSIONS)
    weights = {"clean labels": torch.ones(1), "clean features": alpha}.get(kind, alpha[:RELEVANT])
    right = ((better @ weights > 0).long() == y).float().mean()
    assert right > 0.9 if kind == "clean labels" else right == 1
    if kind == "relevant features":
        assert torch.equal(better, x[:, :RELEVANT])
    if kind == "relevant features of each example":
        assert (x[:, None, :] == better[:, :, None]).any(2).all()
        assert not torch.equal(better, x[:, :RELEVANT])


def test_all_students_are_trained_and_the_claims_are_judged(monkeypatch, tmp_path):
    monkeypatch.setattr(lopezpaz2015, "TRAIN", 40)
    monkeypatch.setattr(lopezpaz2015, "TEST", 50)
    original = lopezpaz2015._compare
    monkeypatch.setattr(lopezpaz2015, "_compare", lambda *a, **k: original(*a, **{**k, "epochs": 2}))
    figures = lopezpaz2015.compare_on_synthetic(TaskFolder(tmp_path, "x"), arm="clean labels", seed=0, quick=True)
    assert set(figures) == {figure.key for figure in FIGURES}
    assert all(0 <= value <= 100 for value in figures.values())
    scale = ExperimentScale("quick", (0, 1))
    results = {task.name: figures for task in SYNTHETIC.tasks(scale)}
    claims = SYNTHETIC.judge(scale, results)
    assert len(claims) == 6
    assert {one.mean for one in claims[:1]} == {figures["distilled"] - figures["alone"]}
