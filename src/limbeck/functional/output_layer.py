"""`OutputLayer` and `HiddenLogits`: the last layer of a language model, and logits that are not multiplied out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import LimbeckError

_TILE = 4096  # rows of a weight in half precision that are widened at a time


class OutputLayer(NamedTuple):
    """The last layer of a language model: ``logits = softcap * tanh(scale * (hidden @ weight.T + bias) / softcap)``.

    Attributes:
        weight: ``[vocabulary, width]``. It may be the embedding itself (tied weights).
        bias: ``[vocabulary]``; None if the layer has none.
        softcap: The bound of the logits, as in Gemma 2; None for no bound.
        scale: A factor of the logits, as in Cohere.
    """

    weight: Float[Tensor, "vocabulary width"]
    bias: Float[Tensor, " vocabulary"] | None = None
    softcap: float | None = None
    scale: float = 1.0

    def logits(self, hidden: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens vocabulary"]:
        """Compute all logits at once: the reference of `fused_linear_losses`.

        Example:
            >>> OutputLayer(torch.eye(2), scale=2.0).logits(torch.tensor([[1.0, 3.0]]))
            tensor([[2., 6.]])
        """
        logits = torch.nn.functional.linear(hidden, self.weight, self.bias) * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def detach(self) -> OutputLayer:
        """The same layer without gradients."""
        return self._replace(weight=self.weight.detach(), bias=None if self.bias is None else self.bias.detach())


@final
class HiddenLogits:
    """Logits that are not multiplied out: hidden states and the output layer that follows them.

    A teacher of width d and V classes is stored in d numbers for each token in place of V, without loss.

    Args:
        hidden: ``[*leading, width]``.
        layer: The output layer.
        requires_grad: Whether gradients reach hidden states and layer: true for a student, false for a teacher.

    Example:
        >>> logits = HiddenLogits(torch.ones(2, 3, 4), OutputLayer(torch.ones(5, 4)))
        >>> logits.shape, logits[0].to_dense()[0, 0]
        (torch.Size([2, 3, 5]), tensor(4.))
    """

    def __init__(
        self, hidden: Float[Tensor, "*leading width"], layer: OutputLayer, *, requires_grad: bool = False
    ) -> None:
        if hidden.shape[-1] != layer.weight.shape[-1]:
            raise LimbeckError(
                f"The hidden states have {hidden.shape[-1]} values; the output layer takes {layer.weight.shape[-1]}."
            )
        self.requires_grad = requires_grad
        self.hidden, self.layer = (hidden, layer) if requires_grad else (hidden.detach(), layer.detach())

    @property
    def shape(self) -> torch.Size:
        """Shape of the logits."""
        return torch.Size([*self.hidden.shape[:-1], self.layer.weight.shape[0]])

    @property
    def device(self) -> torch.device:
        """Device of the hidden states."""
        return self.hidden.device

    def reshape(self, *leading: int) -> HiddenLogits:
        """Change the leading dimensions, like ``Tensor.reshape``."""
        return self._like(self.hidden.reshape(*leading, self.hidden.shape[-1]))

    def detach(self) -> HiddenLogits:
        """The same logits without gradients."""
        return HiddenLogits(self.hidden, self.layer)

    def to_dense(self) -> Tensor:
        """Multiply the logits out."""
        return self.layer.logits(self.hidden)

    def __getitem__(self, rows: Any) -> HiddenLogits:
        """Select along the first dimension, or along several leading dimensions."""
        return self._like(self.hidden[rows])

    def _like(self, hidden: Tensor) -> HiddenLogits:
        return HiddenLogits(hidden, self.layer, requires_grad=self.requires_grad)

    def __len__(self) -> int:
        return len(self.hidden)


class AroundHidden(ABC):
    """A teacher's logits around `HiddenLogits`, such as those of the tokens that two vocabularies share."""

    @property
    @abstractmethod
    def hidden_logits(self) -> HiddenLogits | None:
        """The logits that are not multiplied out; None if they are."""

    @abstractmethod
    def with_logits(self, logits: Float[Tensor, "*leading classes"]) -> Any:
        """The same around logits that are multiplied out."""


class OtherClasses:
    """A teacher's outputs whose classes are not the student's: only their positions are the same."""


def find_hidden_logits(teacher: Any) -> HiddenLogits | None:
    """A teacher's logits that are not multiplied out, alone or within others; None if there are none."""
    if isinstance(teacher, AroundHidden):
        return teacher.hidden_logits
    return teacher if isinstance(teacher, HiddenLogits) else None


class NeedsHidden(ABC):
    """A teacher that is compared with the student through the student's hidden states as well as its logits."""

    mean: Tensor
    """The gradient of `mean_logit` by the hidden states, ``[*leading, width]``."""
    mean_logit: Tensor | None = None
    """What the comparison reads of the hidden states, ``[*leading]``; None before `meet`."""

    @abstractmethod
    def meet(self, hidden: Float[Tensor, "*leading width"]) -> Any:
        """Return the same teacher with its `mean_logit` for these hidden states."""

    @abstractmethod
    def check_layer(self, layer: OutputLayer) -> None:
        """Raise a `LimbeckError` if the student's output layer does not allow it."""


def logits_into(
    out: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, softcap: float | None
) -> Tensor:
    """Compute logits in the dtype of `out`. A weight in half precision is widened tile by tile, never as a whole.

    Rounding each product to bfloat16 would bias what is learned.
    """
    if weight.dtype == out.dtype:
        torch.mm(hidden, weight.t(), out=out)
    else:
        for tile in slices(len(weight), _TILE):
            out[:, tile] = torch.mm(hidden, weight[tile].to(out.dtype).t())
    if bias is not None:
        out.add_(bias)
    if scale != 1:
        out.mul_(scale)
    if softcap is not None:
        out.div_(softcap).tanh_().mul_(softcap)
    return out


def multiply_out(logits: Tensor | HiddenLogits) -> Tensor:
    """Multiply logits out without gradients, in float32 or better, as rounding products would bias what is learned."""
    if isinstance(logits, Tensor):
        return logits
    hidden, layer = logits.hidden, logits.layer
    dtype = torch.promote_types(torch.promote_types(hidden.dtype, layer.weight.dtype), torch.float32)
    flat = hidden.reshape(-1, hidden.shape[-1]).to(dtype)
    out = flat.new_empty(len(flat), len(layer.weight))
    with torch.no_grad(), torch.autocast(out.device.type, enabled=False):
        logits_into(out, flat, layer.weight, layer.bias, layer.scale, layer.softcap)
    return out.reshape(logits.shape)


def times_weight_into(out: Tensor, slopes: Tensor, weight: Tensor) -> None:
    """Compute ``slopes @ weight``."""
    if weight.dtype == out.dtype:
        torch.mm(slopes, weight, out=out)
        return
    out.zero_()
    for tile in slices(len(weight), _TILE):
        out.addmm_(slopes[:, tile], weight[tile].to(out.dtype))


def slices(size: int, step: int) -> Iterator[slice]:
    """Slices of at most `step` that cover the numbers below `size`."""
    return (slice(start, min(start + step, size)) for start in range(0, size, step))
