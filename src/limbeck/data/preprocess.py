"""Preprocessing: what a model reads from a batch, and the normalization of images."""

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
from limbeck.data.dataset import Dataset
from limbeck.data.prefetch import prefetch
from limbeck.data.table_encoding import TableEncoding
from limbeck.data.tokenizer import holds_tokenizer, open_tokenizer
from limbeck.errors import DataError, LimbeckError, nearest, unknown_name_error
from limbeck.models import read_config


@dataclass(frozen=True)
class Identity:
    """The inputs of the batch as they are."""

    def __call__(self, batch: Batch) -> Inputs:
        """``batch.inputs``."""
        return batch.inputs

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {"preprocess": "unchanged"}


@dataclass(frozen=True)
class SelectColumn:
    """A further column of the batch, ``batch.extra[name]``: raw rows, privileged features, a second view.

    Attributes:
        name: Which column.
    """

    name: str

    def __call__(self, batch: Batch) -> Inputs:
        """The column.

        Raises:
            DataError: If the batch has no such column; the nearest is named.
        """
        if self.name not in batch.extra:
            near = nearest(self.name, batch.extra)
            suggestion = f" Did you mean {near!r}?" if near else ""
            columns = ", ".join(batch.extra) or "none"
            raise DataError(f"The batch has no extra column {self.name!r}.{suggestion} It has: {columns}.")
        return batch.extra[self.name]

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {"preprocess": "field", "name": self.name}


@dataclass(frozen=True)
class NormalizeImages:
    """Images standardized per channel: ``(scale * pixel - mean) / std``, as float32 ``[batch, c, h, w]``.

    Reads ``[batch, h, w]`` and ``[batch, c, h, w]``, or ``[batch, h, w, c]`` with `channels_last`, of any number type.

    Attributes:
        mean: One number for each channel, after scaling.
        std: One number for each channel, after scaling.
        scale: What a pixel is multiplied by first: 1/255 for bytes, 1 for floats that are in [0, 1] already.
        channels_last: The channels of 4-dimensional inputs come last.
        channel: Give ``[batch, h, w]`` a channel axis; False leaves gray images ``[batch, h, w]``.

    Raises:
        LimbeckError: If mean and std differ in length or are empty, or std or scale is not positive.

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
                f"Pixels needs a mean and a std for each channel; got {len(self.mean)} and {len(self.std)}."
            )
        if min(self.std) <= 0 or self.scale <= 0:
            raise LimbeckError(
                f"Pixels divides by std={self.std} and multiplies by scale={self.scale}: both are positive."
            )

    def __call__(self, batch: Batch) -> Tensor:
        """The standardized images; the batch itself is not changed.

        Raises:
            DataError: If the inputs are not images with the channels that mean and std are for.
        """
        images = self._channels_first(batch.inputs)
        # A copy even of float32, so that what follows may write into it. One multiplication and one subtraction.
        out = images.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        if len(self.mean) == 1:
            return out.mul_(self.scale / self.std[0]).sub_(self.mean[0] / self.std[0])
        factors = torch.tensor([self.scale / s for s in self.std], device=out.device)[:, None, None]
        shifts = torch.tensor([m / s for m, s in zip(self.mean, self.std, strict=True)], device=out.device)
        return out.mul_(factors).sub_(shifts[:, None, None])

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        own = {"mean": list(self.mean), "std": list(self.std), "scale": self.scale}
        return {"preprocess": "pixels", **own, "channels_last": self.channels_last, "channel": self.channel}

    def _channels_first(self, images: Any) -> Tensor:
        if not isinstance(images, Tensor) or images.ndim not in (3, 4):
            got = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise DataError(f"Pixels reads images [batch, h, w] or with a channel axis; got {got}.")
        if images.ndim == 4:
            images = images.permute(0, 3, 1, 2) if self.channels_last else images
        elif self.channel or len(self.mean) > 1:
            images = images.unsqueeze(1)
        channels = images.shape[1] if images.ndim == 4 else 1
        if channels != len(self.mean):
            last = (
                ""
                if images.shape[-1] != len(self.mean)
                else " Do the channels come last? NormalizeImages(channels_last=True)."
            )
            raise DataError(f"Pixels has means for {len(self.mean)} channels, the images have {channels}.{last}")
        return images


Preprocess = Identity | SelectColumn | NormalizeImages


def preprocess_from_dict(config: Mapping[str, Any]) -> Preprocess:
    """What `to_dict` of one of the reads was called on.

    Raises:
        LimbeckError: If there is no such kind of reads, or an entry is missing or unknown.

    Example:
        >>> preprocess_from_dict(SelectColumn("raw").to_dict())
        Field(name='raw')
    """
    kinds: dict[str, Callable[..., Preprocess]] = {
        "unchanged": Identity,
        "field": SelectColumn,
        "pixels": NormalizeImages,
    }
    if not isinstance(config, Mapping):
        raise LimbeckError(f"Reads are a mapping such as {{'preprocess': 'unchanged'}}; got {config!r}.")
    kind = str(config.get("preprocess"))
    if kind not in kinds:
        raise unknown_name_error("preprocess", kind, kinds)
    entries = {name: tuple(v) if isinstance(v, list) else v for name, v in config.items() if name != "preprocess"}
    try:
        return kinds[kind](**entries)
    except (TypeError, ValueError, AttributeError) as error:
        raise LimbeckError(f"These are no {kind} reads: {dict(config)} ({error}).") from error


def load_preprocess(folder: str | Path) -> Callable[[Batch], Inputs]:
    """The way from a batch to a student's inputs, as it was when the student was trained.

    A folder with a tokenizer holds a student of texts, which reads a list of them.

    Args:
        folder: A student's folder.

    Raises:
        LimbeckError: If the folder is no student's, or nobody recorded how it reads.

    Example:
        >>> # student, preprocess = limbeck.load("runs/demo/student"), limbeck.load_preprocess("runs/demo/student")
        >>> # student(preprocess(limbeck.Batch(images)))
    """
    if holds_tokenizer(folder):
        from limbeck.data.texts import TokenizeOnRead

        return TokenizeOnRead(open_tokenizer(folder))
    config = read_config(folder).get("metadata", {}).get("preprocess")
    if not config:
        raise LimbeckError(f"{folder} does not say how its student reads a batch; feed it as it was trained.")
    return preprocess_from_dict(config)


def load_encoding(folder: str | Path) -> TableEncoding:
    """How the table that a student learnt from was turned into numbers, so that new rows are turned into the same ones.

    Args:
        folder: A student's folder.

    Raises:
        DataError: If the folder is no student's.
        LimbeckError: If its student did not learn from a table.

    Example:
        >>> # student, encoding = limbeck.load("runs/adult/student"), limbeck.load_encoding("runs/adult/student")
        >>> # rows, _ = limbeck.read_table("new.csv", encoding=encoding)
        >>> # [encoding.class_names[i] for i in student(rows.take(torch.arange(len(rows))).inputs).argmax(1)]
    """
    config = read_config(folder).get("metadata", {}).get("encoding")
    if not config:
        raise LimbeckError(f"{folder} holds no encoding of a table: its student learnt from something else.")
    return TableEncoding.from_dict(config)


_AT_A_TIME = 64  # images: two thousand of 224 pixels would take gigabytes in float64


def measure_pixels(examples: Dataset) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]] | None:
    """The mean and the standard deviation of each channel of images of bytes, in float64; None for anything else.

    Sums are taken in whole numbers, so they do not depend on the order.
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
    """How many pixels a channel has, their sum and that of their squares, for each channel."""
    images = examples.take(index).inputs
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim not in (3, 4):
        return None
    whole = images if images.ndim == 4 else images[:, None]
    levels = torch.arange(256)
    counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in whole.unbind(1)])
    return whole.numel() // whole.shape[1], counts @ levels, counts @ levels**2
