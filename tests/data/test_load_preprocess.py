"""A student's folder describes its preprocessing."""

from __future__ import annotations

import pytest
import torch

from limbeck.batch import Batch
from limbeck.data import NormalizeImages, load_preprocess
from limbeck.errors import LimbeckError
from limbeck.models import build, save


def test_the_reads_come_back_and_take_raw_pixels(tmp_path):
    preprocess = NormalizeImages(mean=(0.5,), std=(0.25,))
    save(
        build("mlp", inputs=16, hidden=[4], classes=2),
        tmp_path / "student",
        metadata={"preprocess": preprocess.to_dict()},
    )
    images = torch.randint(0, 256, (3, 4, 4), dtype=torch.uint8)
    assert torch.equal(load_preprocess(tmp_path / "student")(Batch(images)), preprocess(Batch(images)))


def test_a_folder_that_does_not_say_is_refused(tmp_path):
    save(build("mlp", inputs=16, hidden=[4], classes=2), tmp_path / "student")
    with pytest.raises(LimbeckError, match="no saved preprocessing"):
        load_preprocess(tmp_path / "student")
