"""`Mixup` and `CutMix`: mix each image with another one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from limbeck.data.transform import mix_partners
from limbeck.data.transforms.common import (
    Number,
    box_mask,
    broadcast_per_image,
    check_images,
    check_mean_exists,
    check_number,
    format_fingerprint,
    sample_beta,
)
from limbeck.random_seeds import counter_uniform

_ONE = 1 << 16


@dataclass(frozen=True)
class Mixup:
    r"""Mix two examples by a weighted mean: :math:`\lambda x_i + (1 - \lambda) x_j`.

    :math:`\lambda \sim Beta(\alpha, \alpha)`, and the partner j is uniform over the whole dataset, including i itself.
    Both are a pure function of (id, view, seed) and do not depend on the batch. Inputs are one tensor: bytes, which are
    rounded, or floats. For bytes λ has 16 bits, and the arithmetic uses whole numbers.

    Attributes:
        alpha: Parameter of the Beta distribution, above 0. With 1, λ is uniform (used by function matching); smaller
            values give mixtures closer to one of the two examples.
        seed: Seed of the random partners and ratios.

    Raises:
        LimbeckError: If `alpha` is not above 0.

    Example:
        >>> from limbeck.data import ArrayDataset, ShuffledLoader
        >>> batch = next(iter(ShuffledLoader(ArrayDataset(torch.rand(8, 1, 4, 4)), batch_size=4, mix=Mixup())))
        >>> sorted(batch.extra)
        ['partner', 'ratio']

    Source: Zhang, Cisse, Dauphin and Lopez-Paz, 2017, arXiv:1710.09412.
    """

    alpha: Number = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("Mixup", above=0, alpha=self.alpha)

    @property
    def fingerprint(self) -> str:
        """Name, version and parameters."""
        return format_fingerprint("mixup/1", self)

    def partners(self, id: Int[Tensor, " batch"], view: Int[Tensor, " batch"], *, size: int) -> Int[Tensor, " batch"]:
        """The position of each example's partner in a dataset of `size` examples."""
        return mix_partners(id, view, size=size, seed=self.seed, stream="mixup partner")

    def ratios(self, id: Int[Tensor, " batch"], view: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """λ of each example."""
        draws = counter_uniform(id, view, seed=self.seed, draws=1, stream="mixup ratio")
        return sample_beta(draws.squeeze(1), self.alpha)

    def blend(
        self,
        inputs: Shaped[Tensor, " batch *image"],
        others: Shaped[Tensor, " batch *image"],
        id: Int[Tensor, " batch"],
        view: Int[Tensor, " batch"],
    ) -> tuple[Shaped[Tensor, " batch *image"], Float[Tensor, " batch"]]:
        """Return the mixtures (same shape and dtype) and each example's own ratio λ.

        Raises:
            DataError: If the inputs are neither bytes nor floats.
        """
        check_mean_exists(inputs, who="Mixup")
        ratio = self.ratios(id, view)
        if inputs.dtype == torch.uint8:
            share = broadcast_per_image((ratio.double() * _ONE).round().int(), inputs)
            mixture = (inputs * share + others * (_ONE - share) + _ONE // 2) >> 16
            return mixture.to(torch.uint8), ratio
        kind = torch.promote_types(inputs.dtype, torch.float32)
        part = broadcast_per_image(ratio.to(kind), inputs)
        return (inputs.to(kind) * part + others.to(kind) * (1 - part)).to(inputs.dtype), ratio


@dataclass(frozen=True)
class CutMix:
    r"""Replace a random box of each image by the same box of another image.

    The sides of the box are :math:`\sqrt{1 - \lambda}` of the image's sides, :math:`\lambda \sim Beta(\alpha, \alpha)`.
    Its center is uniform over all pixels, and parts outside of the image are cut off. The partner is uniform over the
    whole dataset, including the example itself. Partner and box are a pure function of (id, view, seed) and do not
    depend on the batch. Images are ``[batch, h, w]`` or ``[batch, c, h, w]``, of any number type.

    Attributes:
        alpha: Parameter of the Beta distribution, above 0. With 1, λ is uniform.
        seed: Seed of the random partners and boxes.

    Raises:
        LimbeckError: If `alpha` is not above 0.

    Example:
        >>> images, others, one = torch.zeros(1, 4, 4), torch.ones(1, 4, 4), torch.tensor([1])
        >>> mixture, ratio = CutMix().blend(images, others, one, one)
        >>> bool(1 - mixture.mean() == ratio)
        True

    Source: Yun et al., 2019, arXiv:1905.04899.
    """

    alpha: Number = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("CutMix", above=0, alpha=self.alpha)

    @property
    def fingerprint(self) -> str:
        """Name, version and parameters."""
        return format_fingerprint("cut_mix/1", self)

    def partners(self, id: Int[Tensor, " batch"], view: Int[Tensor, " batch"], *, size: int) -> Int[Tensor, " batch"]:
        """The position of each example's partner in a dataset of `size` examples."""
        return mix_partners(id, view, size=size, seed=self.seed, stream="cutmix partner")

    def covered(
        self, id: Int[Tensor, " batch"], view: Int[Tensor, " batch"], *, height: int, width: int
    ) -> Bool[Tensor, "batch h w"]:
        """Mask of the pixels that come from the partner."""
        draws = counter_uniform(id, view, seed=self.seed, draws=3, stream="cutmix box")
        part = (1.0 - sample_beta(draws[:, 0], self.alpha).double()).sqrt()
        return box_mask(draws[:, 1:], (height, width), ((part * height).long(), (part * width).long()))

    def blend(
        self,
        inputs: Shaped[Tensor, " batch *image"],
        others: Shaped[Tensor, " batch *image"],
        id: Int[Tensor, " batch"],
        view: Int[Tensor, " batch"],
    ) -> tuple[Shaped[Tensor, " batch *image"], Float[Tensor, " batch"]]:
        """Return the mixtures (same shape and dtype) and the share of pixels from each image itself.

        Raises:
            DataError: If the inputs are not images with height and width last.
        """
        check_images(inputs, who="CutMix")
        height, width = inputs.shape[-2:]
        covered = self.covered(id, view, height=height, width=width)
        own = (height * width - covered.sum((1, 2))).double() * (1.0 / (height * width))
        there = covered.to(inputs.device)
        return torch.where(there if inputs.ndim == 3 else there.unsqueeze(1), others, inputs), own.float()
