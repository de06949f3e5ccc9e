"""Image corruptions, and the accuracy of models on corrupted images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from limbeck.batch import Batch, Inputs
from limbeck.data.transforms.color import restore_dtype, to_float
from limbeck.data.transforms.common import check_pixels
from limbeck.errors import LimbeckError, unknown_name_error
from limbeck.metrics.classification import accuracy
from limbeck.metrics.metric import Metric
from limbeck.metrics.predictions import as_batches, predict
from limbeck.model_call import Adaptor
from limbeck.random_seeds import counter_uniform

Images = Float[Tensor, "batch c h w"]

Draw = Callable[[int], Float[Tensor, "batch draws"]]

"""Draw this many uniform numbers for each image."""


class Corruption(NamedTuple):
    """One kind of corruption.

    Attributes:
        function: Maps images from 0 to 1, a strength and random numbers to images. The result is clipped to 0 to 1.
        strengths: The strengths of severities 1 to 5.
    """

    function: Callable[[Images, float, Draw], Images]
    strengths: tuple[float, float, float, float, float]


def corrupt(
    images: Shaped[Tensor, " batch *image"],
    name: str,
    severity: int,
    *,
    id: Int[Tensor, " batch"] | None = None,
    seed: int = 0,
) -> Shaped[Tensor, " batch *image"]:
    """Corrupt images: a pure function of the images, their ids, the severity and the seed.

    Args:
        images: Bytes, or floats from 0 to 1: ``[batch, h, w]`` or ``[batch, c, h, w]`` with one channel or three.
        name: One of `CORRUPTIONS`.
        severity: From 1 (mild) to 5. The random numbers are the same at all severities.
        id: The ids of the examples, which determine the noise. By default the positions in the batch.
        seed: The seed of the noise.

    Returns:
        Images of the same shape and type.

    Raises:
        UnknownNameError: If there is no such corruption. The message suggests the nearest name.
        LimbeckError: If `severity` is not 1, 2, 3, 4 or 5.
        DataError: If the inputs are not images.

    Example:
        >>> corrupt(torch.full((1, 2, 2), 100, dtype=torch.uint8), "brightness", 3).flatten().tolist()
        [138, 138, 138, 138]

    Source: Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations,
    2019, arXiv:1903.12261. The strengths are those of CIFAR-10-C, for 32 x 32 pixels. Here brightness is added to every
    channel (there to the value in HSV), and occlusion is not in the paper.
    """
    if name not in CORRUPTIONS:
        raise unknown_name_error("corruption", name, CORRUPTIONS)
    if severity not in (1, 2, 3, 4, 5):
        raise LimbeckError(f"corrupt(severity={severity!r}): severities are 1, 2, 3, 4 and 5.")
    check_pixels(images, who=f"The corruption {name}")
    who = torch.arange(len(images)) if id is None else id

    def draw(count: int) -> Tensor:
        same = torch.zeros_like(who)
        return counter_uniform(who, same, seed=seed, draws=count, stream=f"corruption/{name}").to(images.device)

    function, strengths = CORRUPTIONS[name]
    pixels, top = to_float(images)
    return restore_dtype(function(pixels / top, strengths[severity - 1], draw).clamp(0.0, 1.0) * top, images)


def _gaussian_noise(images: Images, strength: float, draw: Draw) -> Images:
    return images + strength * _normal(images, draw)


def _speckle_noise(images: Images, strength: float, draw: Draw) -> Images:
    return images + images * strength * _normal(images, draw)


def _impulse_noise(images: Images, strength: float, draw: Draw) -> Images:
    number = draw(images[0].numel()).view(images.shape)
    dark = torch.where(number < strength / 2, 0.0, images)
    return torch.where(number >= 1 - strength / 2, 1.0, dark)


def _gaussian_blur(images: Images, strength: float, draw: Draw) -> Images:
    # The width is for 32 pixels; it grows with the image, otherwise the blur would be invisible on large images.
    sigma = strength * max(1.0, min(images.shape[2:]) / 32)
    reach = int(4 * sigma + 0.5)
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=images.device) / sigma) ** 2).to(images.dtype)
    bell = (bell / bell.sum()).expand(images.shape[1], 1, 1, -1)
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    across = F.conv2d(padded, bell, groups=images.shape[1])
    return F.conv2d(across, bell.transpose(2, 3), groups=images.shape[1])


def _contrast(images: Images, strength: float, draw: Draw) -> Images:
    mean = images.mean((2, 3), keepdim=True)
    return (images - mean) * strength + mean


def _brightness(images: Images, strength: float, draw: Draw) -> Images:
    return images + strength


def _pixelate(images: Images, strength: float, draw: Draw) -> Images:
    height, width = (_cells(side, strength).to(images) for side in images.shape[2:])
    return height @ images @ width.T


def _cells(side: int, share: float) -> Float[Tensor, "side side"]:
    """Make the matrix whose row x averages the pixels of x's cell, for ``side * share`` cells of about equal width."""
    cell = ((torch.arange(side) + 0.5) * (max(1, int(side * share)) / side)).long()
    together = (cell[:, None] == cell[None, :]).double()
    return together / together.sum(1, keepdim=True)


def _occlusion(images: Images, strength: float, draw: Draw) -> Images:
    """Put a gray square at a random position; its side is a fraction of the shorter side of the image."""
    height, width = images.shape[2:]
    side = max(1, round(strength * min(height, width)))
    corner = draw(2).double()
    row, column = (corner[:, 0] * (height - side + 1)).long(), (corner[:, 1] * (width - side + 1)).long()
    down, right = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    rows = (down >= row[:, None]) & (down < row[:, None] + side)
    columns = (right >= column[:, None]) & (right < column[:, None] + side)
    return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], 0.5, images)


def _normal(images: Images, draw: Draw) -> Images:
    # Half a step up: the quantile of 0 is infinite.
    uniform = draw(images[0].numel()).double() + 2.0**-25
    return torch.special.ndtri(uniform).to(images.dtype).view(images.shape)


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "speckle_noise": Corruption(_speckle_noise, (0.06, 0.10, 0.12, 0.16, 0.20)),
    "impulse_noise": Corruption(_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "gaussian_blur": Corruption(_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "contrast": Corruption(_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "brightness": Corruption(_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "pixelate": Corruption(_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "occlusion": Corruption(_occlusion, (0.15, 0.2, 0.25, 0.3, 0.4)),
}

"""All corruptions by name."""


SEVERITIES = (1, 2, 3, 4, 5)


class Robustness(NamedTuple):
    """Accuracy on clean and on corrupted images.

    Attributes:
        clean: The accuracy on clean images.
        corrupted: The accuracy by corruption and severity.
    """

    clean: Metric
    corrupted: Mapping[str, Mapping[int, Metric]]

    @property
    def mean(self) -> float:
        """The mean accuracy over corruptions and severities."""
        values = [accuracy.value for row in self.corrupted.values() for accuracy in row.values()]
        return sum(values) / len(values)

    @property
    def by_corruption(self) -> dict[str, float]:
        """The mean accuracy over severities, by corruption."""
        return {name: sum(m.value for m in row.values()) / len(row) for name, row in self.corrupted.items()}


class CorruptedPredictor(NamedTuple):
    """A model with its preprocessing.

    Attributes:
        model: Any module or teacher, as for `predict`.
        preprocess: Maps a batch to the inputs of the model.
        adaptor: Maps the raw output to logits.
    """

    model: Any
    preprocess: Callable[[Batch], Inputs] | None = None
    adaptor: Adaptor | None = None


def robustness(
    model: Any,
    data: Any,
    *,
    corruptions: Iterable[str] | None = None,
    severities: Sequence[int] = SEVERITIES,
    preprocess: Callable[[Batch], Inputs] | None = None,
    adaptor: Adaptor | None = None,
    seed: int = 0,
) -> Robustness:
    """Compute the accuracy of a model on corrupted images, for several corruptions and severities.

    The data are read once. The noise is a pure function of the id of an example and the seed, so that models are
    compared on the same images. For batches without ids it depends on the position in the data.

    Args:
        model: Any module or teacher, as for `predict`.
        data: Raw labeled images: bytes, or floats from 0 to 1. They are corrupted before `preprocess`.
        corruptions: Names of `CORRUPTIONS`; by default all.
        severities: Severities from 1 to 5.
        preprocess: Maps a batch to the inputs of the model, for example by standardizing.
        adaptor: Maps the raw output to logits.
        seed: The seed of the noise.

    Raises:
        UnknownNameError: If there is no such corruption.
        LimbeckError: If there are no corruptions, severities or labels.
        DataError: If the inputs are not images.

    Example:
        >>> images, labels = torch.rand(4, 8, 8), torch.tensor([0, 1, 0, 1])
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
        >>> robustness(model, (images, labels), corruptions=["contrast"], severities=[5]).clean.count
        4

    Source: Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations,
    2019, arXiv:1903.12261.
    """
    models = {"model": CorruptedPredictor(model, preprocess, adaptor)}
    return robustness_of(models, data, corruptions=corruptions, severities=severities, seed=seed)["model"]


def robustness_of(
    models: Mapping[str, CorruptedPredictor],
    data: Any,
    *,
    corruptions: Iterable[str] | None = None,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
) -> dict[str, Robustness]:
    """Compute `robustness` of several models. Each image is corrupted once for all models.

    Args:
        models: The models by name.
        data: As for `robustness`.
        corruptions: As for `robustness`.
        severities: As for `robustness`.
        seed: As for `robustness`.

    Raises:
        LimbeckError: As for `robustness`.
    """
    names = list(CORRUPTIONS if corruptions is None else corruptions)
    _check(names, severities)
    nothing, seen = Metric(0.0, 0), 0
    clean = dict.fromkeys(models, nothing)
    results = {who: {name: dict.fromkeys(severities, nothing) for name in names} for who in models}
    for batch in as_batches(data):
        ids = torch.arange(seen, seen + batch.size) if batch.id is None else batch.id
        seen += batch.size
        clean = {who: _sum(clean[who], _right(model, batch)) for who, model in models.items()}
        for name in names:
            for severity in severities:
                worse: Tensor = corrupt(batch.inputs, name, severity, id=ids, seed=seed)
                bad = batch._replace(inputs=worse)
                for who, model in models.items():
                    results[who][name][severity] = _sum(results[who][name][severity], _right(model, bad))
    return {who: Robustness(clean[who], results[who]) for who in models}


def _right(model: CorruptedPredictor, batch: Batch) -> Metric:
    return accuracy(predict(model.model, [batch], preprocess=model.preprocess, adaptor=model.adaptor))


def _check(names: list[str], severities: Sequence[int]) -> None:
    for name in names:
        if name not in CORRUPTIONS:
            raise unknown_name_error("corruption", name, CORRUPTIONS)
    if not names or not severities or set(severities) - set(SEVERITIES):
        raise LimbeckError(
            f"robustness needs at least one corruption and severities of 1 to 5; got {names} and {list(severities)}."
        )


def _sum(first: Metric, second: Metric) -> Metric:
    return Metric(first.total + second.total, first.count + second.count)
