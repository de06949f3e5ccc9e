"""The benchmark of images measures what its figures are named, with and without torchvision."""

from __future__ import annotations

import json
import time

import pytest
import torch

from benchmarks import ImageSizes, bench_images
from benchmarks.__main__ import main
from benchmarks.images import _alike, _waiting
from benchmarks.tables import BARS
from limbeck.batch import Batch
from limbeck.errors import LimbeckError

pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install 'limbeck[image]'")
SMALL = {"images": 4, "height": 20, "width": 20, "crop": 12, "rounds": 2}
SMALL |= {"files": 24, "side": 8, "batch_size": 4, "pause": 1}

PLANTED = """
import time

class RandomResizedCrop:
    def __init__(self, size):
        self.size = size

    def __call__(self, image):
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
"""


def test_figures_are_what_they_are_called(tmp_path, monkeypatch):
    (tmp_path / "torchvision" / "transforms").mkdir(parents=True)
    (tmp_path / "torchvision" / "__init__.py").write_text("__version__ = '9.9'\n")
    (tmp_path / "torchvision" / "transforms" / "__init__.py").write_text("")
    (tmp_path / "torchvision" / "transforms" / "v2.py").write_text(PLANTED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = bench_images(sizes=ImageSizes(**SMALL))
    assert found["torchvision"].startswith("9.9 ")
    assert found["torchvision_milliseconds"] >= 50
    assert 0 < found["resized_crop_over_torchvision"] < 1
    assert found["same_bits"] == 1.0
    assert all(0 <= found[name] <= 1 for name in ("waiting", "waiting_no_workers", "waiting_data_loader"))
    assert set(BARS["images"]) < set(found)
    json.dumps(found)


def test_what_a_device_waits_for_is_the_time_between_its_batches():
    def slow():
        for number in range(5):
            time.sleep(0.03)
            yield number

    assert 0.3 < _waiting(slow(), 30) < 0.7
    assert _waiting(range(5), 20) < 0.2


def test_batches_of_other_bits_are_noticed():
    one = Batch(torch.zeros(2), torch.arange(2), torch.zeros(2, dtype=torch.int64), torch.arange(2))
    assert _alike(one, one)
    assert not _alike(one, one._replace(inputs=torch.tensor([0.0, 1e-7])))
    assert not _alike(one, one._replace(id=torch.tensor([1, 0])))


def test_an_interpreter_that_is_none_is_refused(tmp_path):
    with pytest.raises(LimbeckError, match="nowhere"):
        bench_images(sizes=ImageSizes(**SMALL), torchvision_python=str(tmp_path / "nowhere"))
    with pytest.raises(LimbeckError, match="files"):
        ImageSizes(files=0)


def test_without_torchvision_the_rest_is_printed(monkeypatch, capsys):
    lacking = {"resized_crop_over_torchvision": None, "torchvision": "not measured: no module", "waiting": 0.01}
    lacking |= {"same_bits": 1.0, "resized_crop_milliseconds": 0.3, "waiting_no_workers": 0.3, "num_workers": 2}
    lacking |= {"waiting_data_loader": 0.1, "torch": "2.13"}
    monkeypatch.setattr("benchmarks.bench_images", lambda **_: lacking)
    assert main(["images", "--table"]) == 0
    shown = capsys.readouterr().out
    assert "not measured" in shown
    assert "missed" not in shown
