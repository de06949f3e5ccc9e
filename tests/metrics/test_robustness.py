"""Corruptions are the same for every model, and accuracy is counted on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.data import ArrayDataset
from limbeck.errors import DataError, LimbeckError, UnknownNameError
from limbeck.metrics import CORRUPTIONS, corrupt, robustness
from limbeck.metrics.corruptions import CorruptedPredictor, Corruption, robustness_of

SHAPES = [(28, 28), (1, 28, 28), (3, 32, 32), (3, 9, 14), (1, 1)]


def smooth(n=6, shape=(3, 32, 32)):
    """Pictures with structure: what blurs and coarse pixels take away from noise says little."""
    rows, columns = torch.meshgrid(*(torch.linspace(0, 3, side) for side in shape[-2:]), indexing="ij")
    phase = torch.arange(n).view(-1, *[1] * len(shape)) + torch.zeros(shape)
    return 0.5 + 0.4 * torch.sin(rows * 2 + phase) * torch.cos(columns * 3)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("severity", [1, 5])
def test_shape_type_and_range_stay(name, shape, severity):
    images = torch.rand(4, *shape)
    for given in (images, images.double(), (images * 255).to(torch.uint8)):
        found = corrupt(given, name, severity)
        assert (found.shape, found.dtype) == (given.shape, given.dtype)
        assert float(found.min()) >= 0
        assert float(found.max()) <= (255 if given.dtype == torch.uint8 else 1)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_it_is_a_function_of_the_example_alone(name):
    images = torch.rand(5, 3, 12, 12)
    ids, order = torch.tensor([3, 9, 4, 100, 7]), torch.tensor([4, 0, 2])
    whole = corrupt(images, name, 3, id=ids)
    assert torch.equal(corrupt(images, name, 3, id=ids), whole)
    # Sums of a batch may be taken in another order.
    assert torch.allclose(corrupt(images[order], name, 3, id=ids[order]), whole[order], atol=1e-6)


@pytest.mark.parametrize("name", ["gaussian_noise", "speckle_noise", "impulse_noise", "occlusion"])
def test_another_seed_or_example_has_other_noise(name):
    images = torch.rand(1, 20, 20).expand(2, 20, 20)
    found = corrupt(images, name, 5)
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found, corrupt(images, name, 5, seed=1))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_more_severe_the_further_from_the_image(name):
    images = smooth()
    far = [float((corrupt(images, name, severity) - images).abs().mean()) for severity in range(1, 6)]
    assert far[0] > 0
    assert far == sorted(far)


def test_noise_has_the_strength_that_is_published():
    gray = torch.full((50, 32, 32), 0.5)
    for severity, sigma in enumerate((0.04, 0.06, 0.08, 0.09, 0.10), start=1):
        off = corrupt(gray, "gaussian_noise", severity) - 0.5
        assert float(off.std()) == pytest.approx(sigma, rel=0.02)
        assert float(off.mean()) == pytest.approx(0.0, abs=0.002)
    salted = corrupt(gray, "impulse_noise", 5)
    assert float((salted == 0).float().mean()) == pytest.approx(0.035, abs=0.004)
    assert float((salted == 1).float().mean()) == pytest.approx(0.035, abs=0.004)
    assert float((corrupt(0.5 * gray, "speckle_noise", 5) - 0.25).std()) == pytest.approx(0.25 * 0.2, rel=0.02)


def test_light_by_hand():
    images = torch.tensor([[[0.0, 0.4], [0.8, 1.0]]])
    assert corrupt(images, "brightness", 5).flatten().tolist() == pytest.approx([0.3, 0.7, 1.0, 1.0])
    by_hand = [(v - 0.55) * 0.15 + 0.55 for v in (0.0, 0.4, 0.8, 1.0)]
    assert corrupt(images, "contrast", 5).flatten().tolist() == pytest.approx(by_hand)


def test_blur_is_scipy_s():
    from scipy.ndimage import gaussian_filter

    image = torch.rand(1, 32, 32)
    theirs = gaussian_filter(image[0].double().numpy(), sigma=1.0, mode="nearest", truncate=4.0)
    assert torch.allclose(corrupt(image, "gaussian_blur", 5)[0].double(), torch.from_numpy(theirs), atol=1e-6)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("shape", [(32, 32), (28, 28)])
def test_coarse_pixels_are_those_of_pillow(severity, shape):
    from PIL import Image

    picture = (torch.rand(1, *shape) * 255).to(torch.uint8)
    share, (height, width) = CORRUPTIONS["pixelate"].strengths[severity - 1], shape
    theirs = Image.fromarray(picture[0].numpy()).resize((int(width * share), int(height * share)), Image.Resampling.BOX)
    theirs = torch.from_numpy(np.array(theirs.resize((width, height), Image.Resampling.BOX))).int()
    assert int((corrupt(picture, "pixelate", severity)[0].int() - theirs).abs().max()) <= 1


def test_flat_images_stay_flat():
    flat = torch.full((1, 20, 20), 0.3)
    for name in ("pixelate", "gaussian_blur", "contrast"):
        assert torch.allclose(corrupt(flat, name, 4), flat, atol=1e-6)


def test_occlusion_is_one_gray_square():
    images = torch.zeros(40, 3, 20, 20)
    found = corrupt(images, "occlusion", 5)
    assert ((found == 0.5).sum((1, 2, 3)) == 3 * 8 * 8).all()
    corners = {tuple((image[0] == 0.5).nonzero()[0].tolist()) for image in found}
    assert len(corners) > 25


class Mean(nn.Module):
    """Says 1 where the image is light."""

    def forward(self, x):
        light = x.flatten(1).float().mean(1)
        return torch.stack([torch.full_like(light, 0.5), light], 1)


def test_accuracy_by_corruption_and_severity():
    images = torch.tensor([0.1, 0.35, 0.6, 0.9]).view(4, 1, 1).expand(4, 8, 8).contiguous()
    labels = torch.tensor([0, 0, 1, 1])
    found = robustness(Mean(), (images, labels), corruptions=["brightness", "contrast"])
    assert found.clean == (4.0, 4)
    assert [m.value for m in found.corrupted["brightness"].values()] == [1.0, 1.0, 1.0, 0.75, 0.75]
    assert [m.value for m in found.corrupted["contrast"].values()] == [1.0] * 5
    assert found.by_corruption == {"brightness": pytest.approx(0.9), "contrast": 1.0}
    assert found.mean == pytest.approx(0.95)


def test_batches_order_and_ids_change_nothing():
    torch.manual_seed(0)
    images, labels = torch.rand(30, 8, 8), torch.randint(2, (30,))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    options = {"corruptions": ["gaussian_noise", "occlusion"], "severities": [2, 5]}
    whole = robustness(model, ArrayDataset(images, labels), **options)
    split = [Batch(images[s], labels=labels[s]) for s in (slice(0, 7), slice(7, 30))]
    assert robustness(model, split, **options) == whole
    order = torch.randperm(30)
    assert robustness(model, [Batch(images[order], order, labels=labels[order])], **options) == whole
    assert robustness(model, ArrayDataset(images, labels), seed=1, **options) != whole


def test_a_corruption_that_changes_nothing_leaves_the_accuracy_as_it_is(monkeypatch):
    monkeypatch.setitem(CORRUPTIONS, "nothing", Corruption(lambda images, strength, draw: images, (0.0,) * 5))
    images, labels = (torch.rand(50, 8, 8) * 255).to(torch.uint8), torch.randint(2, (50,))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    found = robustness(
        model, ArrayDataset(images, labels), corruptions=["nothing"], preprocess=lambda b: b.inputs / 255
    )
    assert 0 < found.clean.value < 1
    assert set(found.corrupted["nothing"].values()) == {found.clean}
    assert found.mean == pytest.approx(found.clean.value)


def test_models_side_by_side_are_each_model_alone():
    images, labels = torch.rand(30, 8, 8), torch.randint(2, (30,))
    models = {name: nn.Sequential(nn.Flatten(), nn.Linear(64, 2)) for name in "ab"}
    preprocess = {"a": lambda batch: batch.inputs - 0.5, "b": None}
    options = {"corruptions": ["impulse_noise", "contrast"], "severities": [1, 4]}
    found = robustness_of(
        {name: CorruptedPredictor(model, preprocess[name]) for name, model in models.items()},
        (images, labels),
        **options,
    )
    for name, model in models.items():
        assert found[name] == robustness(model, (images, labels), preprocess=preprocess[name], **options)
    assert found["a"] != found["b"]


def test_the_model_reads_what_went_bad():
    seen = []

    def preprocess(batch):
        seen.append(batch.inputs.float().mean())
        return batch.inputs.float() / 255

    images = torch.full((2, 4, 4), 100, dtype=torch.uint8)
    robustness(
        Mean(), (images, torch.tensor([0, 1])), corruptions=["brightness"], severities=[5], preprocess=preprocess
    )
    assert [float(one) for one in seen] == [100.0, pytest.approx(100 + 0.3 * 255, abs=0.51)]


def test_what_cannot_be_done_is_reported():
    images = torch.zeros(1, 4, 4)
    with pytest.raises(UnknownNameError, match=r"corruption 'contrst'\. Did you mean 'contrast'"):
        corrupt(images, "contrst", 1)
    with pytest.raises(LimbeckError, match="severity=6"):
        corrupt(images, "contrast", 6)
    with pytest.raises(DataError, match="floats from 0 to 1"):
        corrupt(images - 1, "contrast", 1)
    with pytest.raises(LimbeckError, match="severities of 1 to 5"):
        robustness(Mean(), (images, torch.tensor([0])), severities=[])
    with pytest.raises(UnknownNameError, match="corruption 'fog'"):
        robustness(Mean(), (images, torch.tensor([0])), corruptions=["fog"])
    with pytest.raises(LimbeckError, match="needs labels"):
        robustness(Mean(), images)
