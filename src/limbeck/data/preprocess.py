"""Preprocessing: converts a batch to model inputs, for example by normalizing images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.batch import Batch, Inputs
from limbeck.data.dataset import Dataset, subsample
from limbeck.data.image_file import raise_damaged
from limbeck.data.prefetch import prefetch
from limbeck.data.table_encoding import TableEncoding
from limbeck.data.texts import TokenizeOnRead
from limbeck.data.tokenizer import holds_tokenizer, open_tokenizer
from limbeck.errors import DataError, LimbeckError, nearest, unknown_name_error
from limbeck.models import read_config


@dataclass(frozen=True)
class Identity:
    """Preprocessing that returns the inputs of the batch unchanged."""

    def __call__(self, batch: Batch) -> Inputs:
        """Return ``batch.inputs``."""
        return batch.inputs

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, for JSON."""
        return {"preprocess": "unchanged"}


@dataclass(frozen=True)
class SelectColumn:
    """Preprocessing that returns an extra column, ``batch.extra[name]``: raw rows, privileged features, a second view.

    Attributes:
        name: The column.
    """

    name: str

    def __call__(self, batch: Batch) -> Inputs:
        """Return the column.

        Raises:
            DataError: If the batch has no such column. The message suggests the nearest name.
        """
        if self.name not in batch.extra:
            near = nearest(self.name, batch.extra)
            suggestion = f" Did you mean {near!r}?" if near else ""
            columns = ", ".join(batch.extra) or "none"
            raise DataError(
                f"The batch has no extra column {self.name!r}.{suggestion} Its extra columns are: {columns}."
            )
        return batch.extra[self.name]

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, for JSON."""
        return {"preprocess": "field", "name": self.name}


@dataclass(frozen=True)
class NormalizeImages:
    """Normalizes images per channel: ``(scale * pixel - mean) / std``, as float32 ``[batch, c, h, w]``.

    Inputs are ``[batch, h, w]`` or ``[batch, c, h, w]``, or ``[batch, h, w, c]`` with `channels_last`, of any number
    type.

    Attributes:
        mean: Mean of each channel, after scaling.
        std: Standard deviation of each channel, after scaling.
        scale: Factor applied to pixels first: 1/255 for bytes, 1 for floats in [0, 1].
        channels_last: Whether the channels of 4-dimensional inputs come last.
        channel: Whether ``[batch, h, w]`` gets a channel dimension; False leaves gray images ``[batch, h, w]``.

    Raises:
        LimbeckError: If mean and std are empty or differ in length, or std or scale is not positive.

    Example:
        >>> image = torch.full((1, 2, 2), 255, dtype=torch.uint8)
        >>> NormalizeImages(mean=(0.5,), std=(0.25,))(Batch(image)).flatten().tolist()
        [2.0, 2.0, 2.0, 2.0]
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1 / 255
    channels_last: bool = False
    channel: bool = True

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise LimbeckError(
                f"NormalizeImages needs a mean and a std per channel; got {len(self.mean)} and {len(self.std)}."
            )
        if min(self.std) <= 0 or self.scale <= 0:
            raise LimbeckError(f"NormalizeImages: std={self.std} and scale={self.scale} must be positive.")

    def __call__(self, batch: Batch) -> Tensor:
        """Return the normalized images; the batch is not changed.

        Raises:
            DataError: If the inputs are not images, or have another number of channels than `mean`.
        """
        images = self._channels_first(batch.inputs)
        # Always copy, even float32, because the next operations are in place.
        out = images.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        if len(self.mean) == 1:
            return out.mul_(self.scale / self.std[0]).sub_(self.mean[0] / self.std[0])
        factors = torch.tensor([self.scale / s for s in self.std], device=out.device)[:, None, None]
        shifts = torch.tensor([m / s for m, s in zip(self.mean, self.std, strict=True)], device=out.device)
        return out.mul_(factors).sub_(shifts[:, None, None])

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, for JSON."""
        own = {"mean": list(self.mean), "std": list(self.std), "scale": self.scale}
        return {"preprocess": "pixels", **own, "channels_last": self.channels_last, "channel": self.channel}

    def _channels_first(self, images: Any) -> Tensor:
        if not isinstance(images, Tensor) or images.ndim not in (3, 4):
            got = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise DataError(f"NormalizeImages needs images [batch, h, w] or [batch, c, h, w]; got {got}.")
        if images.ndim == 4:
            images = images.permute(0, 3, 1, 2) if self.channels_last else images
        elif self.channel or len(self.mean) > 1:
            images = images.unsqueeze(1)
        channels = images.shape[1] if images.ndim == 4 else 1
        if channels != len(self.mean):
            last = (
                ""
                if images.shape[-1] != len(self.mean)
                else " Are the channels last? Pass images.movedim(-1, 1), or use NormalizeImages(channels_last=True)."
            )
            raise DataError(
                f"NormalizeImages has {len(self.mean)} means, but the images have {channels} channels.{last}"
            )
        return images


Preprocess = Identity | SelectColumn | NormalizeImages


def preprocess_from_dict(config: Mapping[str, Any]) -> Preprocess:
    """Create a preprocessing from the result of its `to_dict`.

    Raises:
        LimbeckError: If there is no such preprocessing, or an entry is missing or unknown.

    Example:
        >>> preprocess_from_dict(SelectColumn("raw").to_dict())
        SelectColumn(name='raw')
    """
    kinds: dict[str, Callable[..., Preprocess]] = {
        "unchanged": Identity,
        "field": SelectColumn,
        "pixels": NormalizeImages,
    }
    if not isinstance(config, Mapping):
        raise LimbeckError(f"A preprocessing is a mapping such as {{'preprocess': 'unchanged'}}; got {config!r}.")
    kind = str(config.get("preprocess"))
    if kind not in kinds:
        raise unknown_name_error("preprocess", kind, kinds)
    entries = {name: tuple(v) if isinstance(v, list) else v for name, v in config.items() if name != "preprocess"}
    try:
        return kinds[kind](**entries)
    except (TypeError, ValueError, AttributeError) as error:
        raise LimbeckError(f"Not a valid {kind} preprocessing: {dict(config)} ({error}).") from error


def load_preprocess(folder: str | Path) -> Callable[[Batch], Inputs]:
    """Load the preprocessing that a student was trained with.

    For a student of texts (a folder with a tokenizer), the inputs are lists of strings.

    Args:
        folder: A student's folder.

    Raises:
        LimbeckError: If the folder has no student, or no preprocessing was saved.

    Example:
        >>> # student, preprocess = limbeck.load("runs/demo/student"), limbeck.load_preprocess("runs/demo/student")
        >>> # student(preprocess(limbeck.Batch(images)))
    """
    if holds_tokenizer(folder):
        return TokenizeOnRead(open_tokenizer(folder))
    config = read_config(folder).get("metadata", {}).get("preprocess")
    if not config:
        raise LimbeckError(f"{folder} has no saved preprocessing. Use the same preprocessing as in training.")
    return preprocess_from_dict(config)


def load_encoding(folder: str | Path) -> TableEncoding:
    """Load the table encoding that a student was trained with, to encode new rows in the same way.

    Args:
        folder: A student's folder.

    Raises:
        DataError: If the folder has no student.
        LimbeckError: If the student was not trained on a table.

    Example:
        >>> # student, encoding = limbeck.load("runs/adult/student"), limbeck.load_encoding("runs/adult/student")
        >>> # rows, _ = limbeck.read_table("new.csv", encoding=encoding)
        >>> # [encoding.class_names[i] for i in student(rows.take(torch.arange(len(rows))).inputs).argmax(1)]
    """
    config = read_config(folder).get("metadata", {}).get("encoding")
    if not config:
        raise LimbeckError(f"{folder} has no table encoding: its student was not trained on a table.")
    return TableEncoding.from_dict(config)


_AT_A_TIME = 64  # images: two thousand of 224 pixels would take gigabytes in float64


def fit_normalization(train: Dataset, *, scale: float) -> NormalizeImages | Identity:
    """Normalization by the mean and standard deviation of at most 2,000 training images; identity for other data.

    Raises:
        DataError: If images cannot be decoded. All damaged files are listed, not only the first.
    """
    try:
        moments = _measure_pixels(subsample(train, 2000, seed=0))
    except DataError:
        raise_damaged(train.find_damaged(torch.arange(len(train))), len(train))
        raise
    if moments is None:
        return Identity()
    mean, std = ((moment * scale).tolist() for moment in moments)
    return NormalizeImages(tuple(round(m, 4) for m in mean), tuple(round(s, 4) or 1.0 for s in std), scale=scale)


def _measure_pixels(examples: Dataset) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]] | None:
    """Mean and standard deviation of each channel of byte images, in float64; None for other data.

    Sums are computed in whole numbers, so the result does not depend on the order of examples.
    """
    count, total, squares = 0, torch.tensor(0), torch.tensor(0)
    parts = torch.arange(len(examples)).split(_AT_A_TIME)
    for sums in prefetch(partial(_sums, examples), parts, num_workers=examples.num_workers):
        if sums is None:
            return None
        count, total, squares = count + sums[0], total + sums[1], squares + sums[2]
    mean = total.double() / count
    variance = (squares.double() - count * mean**2).clamp(min=0) / max(count - 1, 1)
    return mean, variance.sqrt()


def _sums(examples: Dataset, index: Any) -> tuple[int, Tensor, Tensor] | None:
    """Pixels per channel, and for each channel the sum of pixels and the sum of squares."""
    images = examples.take(index).inputs
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim not in (3, 4):
        return None
    whole = images if images.ndim == 4 else images[:, None]
    levels = torch.arange(256)
    counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in whole.unbind(1)])
    return whole.numel() // whole.shape[1], counts @ levels, counts @ levels**2
