"""Exported students of segmentation read images with channels first or last: read.py, and the code on the card."""

from __future__ import annotations

import csv
import io
import re

import numpy as np
import pytest
import torch

import limbeck as lb
from export_runs import front, read_alone
from limbeck.export import export_run
from limbeck.metrics import predict


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished job whose file has colored images with channels last."""
    folder, draw = tmp_path_factory.mktemp("segmentation"), np.random.default_rng(0)
    masks = np.zeros((50, 10, 12), np.uint8)
    images = draw.integers(0, 60, (50, 10, 12, 3)).astype(np.uint8)
    for image, mask in zip(images, masks, strict=True):
        (top, left), color = draw.integers(0, 6, 2), int(draw.integers(0, 2))
        mask[top : top + 4, left : left + 4] = color + 1
        image[top : top + 4, left : left + 4, color] += 150
    np.savez(folder / "shapes.npz", x=images, y=masks, class_names=np.array(["ground", "red", "green"]))
    job = {
        "task": "segmentation",
        "data": str(folder / "shapes.npz"),
        "teacher": {"model": "fcn", "widths": [6]},
        "student": {"model": "fcn", "widths": [4, 4]},
        "budget": {"epochs": 4, "lr": 0.03, "batch_size": 10},
        "seeds": 1,
        "arms": ["teacher", "distilled"],
        "out": str(folder / "run"),
    }
    lb.run_job(lb.make_job(job))
    return folder / "run", images[:5]


@pytest.mark.parametrize("to", ["folder", "onnx"])
def test_images_with_channels_first_or_last(done, to, tmp_path, monkeypatch):
    run, images = done
    first = torch.from_numpy(images).movedim(-1, 1)
    preprocess = lb.load_preprocess(run / "student")
    shape = (5, 10, 12, 3)  # predictions have a row for each pixel
    wanted = predict(lb.load(run / "student"), first, preprocess=lambda b: preprocess(b), classes=1).student
    expected = wanted.reshape(shape).numpy()

    exported = export_run(run, to=to, out=tmp_path / "export")
    folder = tmp_path / "export"
    monkeypatch.chdir(folder)
    _, card = front(exported)
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    for given in (images, images.transpose(0, 3, 1, 2)):
        found = {"images": given, "examples": torch.from_numpy(given)}
        exec(code, found)
        logits = found["logits"].detach().numpy() if to == "folder" else found["logits"]
        np.testing.assert_allclose(np.moveaxis(logits, 1, -1), expected, rtol=1e-4, atol=1e-4)

        np.save(tmp_path / "some.npy", given)
        read = read_alone(folder, tmp_path / "some.npy", "--masks", tmp_path / "masks.npy")
        masks = np.load(tmp_path / "masks.npy")
        assert np.array_equal(masks, expected.argmax(-1))
        names, *rows = csv.reader(io.StringIO(read.out))
        assert names == ["ground", "red", "green"]
        shares = [[(mask == number).mean() for number in range(3)] for mask in masks]
        np.testing.assert_allclose(np.array(rows, dtype=float), shares)
