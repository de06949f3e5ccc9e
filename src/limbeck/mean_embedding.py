"""Teachers known by the mean of the student's output embeddings, for a student whose output layer is frozen."""

from __future__ import annotations

import hashlib
import math
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import LimbeckError, callable_name
from limbeck.functional.kernel import declaration
from limbeck.functional.output_layer import HiddenLogits, NeedsHidden, OutputLayer
from limbeck.functional.sparse import sampled_kl_divergence
from limbeck.top_k_logits import Kernel, PartialLogits, default_temperature

_CHUNK = 256
_MARKED = 64  # rows of a layer in its checksum


@final
class MeanEmbedding(PartialLogits, NeedsHidden):
    r"""All that the forward KL divergence needs of a teacher, in 2 x width bytes a token, for a frozen output layer.

    With logits :math:`z = W h + b` of the student and p of the teacher,

    :math:`T^2 KL(p \| q) = T^2 (\log \sum_c e^{z_c / T} - \frac{\bar w \cdot h + \bar b}{T} - H(p))`

    with :math:`\bar w = \sum_c p_c W_c`, :math:`\bar b = \sum_c p_c b_c` and the entropy H: no class is left out. It is
    exact as long as W and b do not change, so they must be frozen. `make_mean_embedding` makes it. Only
    `limbeck.functional.fused_linear_losses` can compare it, because it needs the student's hidden states.

    In float32 the error is about 1e-6 of the cross-entropy, also near equality, where the divergence is smaller.

    Args:
        entropy: H of each token, in nats.
        mean: :math:`\bar w`, times the scale of the layer.
        bias: :math:`\bar b`, times the scale of the layer.
        classes: The number of classes.
        temperature: T.
        layer_mark: `mark_layer` of the student's output layer, so that another layer is refused; None to check nothing.
    """

    def __init__(
        self,
        entropy: Float[Tensor, "*leading"],
        mean: Float[Tensor, "*leading width"],
        bias: Float[Tensor, "*leading"],
        *,
        classes: int,
        temperature: float = 1.0,
        layer_mark: str | None = None,
    ) -> None:
        self.layer_mark = layer_mark
        self.entropy, self.mean, self.bias = entropy, mean, bias
        self.classes, self.temperature = classes, temperature

    def meet(self, hidden: Float[Tensor, "*leading width"]) -> MeanEmbedding:
        """Return the same with the mean logit of each token: what the divergence reads of the student's hidden states.

        Raises:
            LimbeckError: If the hidden states have another shape.
        """
        if hidden.shape != self.mean.shape:
            raise LimbeckError(
                f"The hidden states have the shape {list(hidden.shape)}, and the mean embeddings "
                f"{list(self.mean.shape)}: they belong to another student or to other tokens."
            )
        met = self._like(*self.tensors)
        met.mean_logit = (self.mean.to(hidden.dtype) * hidden).sum(-1) + self.bias.to(hidden.dtype)
        return met

    def check_layer(self, layer: OutputLayer) -> None:
        """Check that the output layer is frozen and linear, and the one that the means were made for.

        Raises:
            LimbeckError: If it is not.
        """
        if layer.weight.requires_grad or (layer.bias is not None and layer.bias.requires_grad):
            raise LimbeckError(
                "Mean embeddings hold only while the student's output layer does not change, and this one is trained: "
                "freeze it (requires_grad_(False)), or store top-k logits or the teacher's hidden states."
            )
        if layer.softcap is not None:
            raise LimbeckError(
                "Mean embeddings need logits that are linear in the hidden states, and this layer has a softcap: store "
                "top-k logits or the teacher's hidden states."
            )
        if self.layer_mark is not None and self.layer_mark != mark_layer(layer):
            raise LimbeckError(
                "These mean embeddings were made for another output layer: its weights differ from the student's. Use "
                "the student that they were made for, or make them again."
            )

    def compare(self, kernel: Kernel, student: Float[Tensor, "*leading classes"], **hyper: Any) -> Tensor:
        """Compute the forward KL divergence.

        Raises:
            LimbeckError: If the kernel is another one, or the temperature is not that of the mean.
        """
        self._check(student, kernel, hyper)
        temperature = hyper["temperature"] if "temperature" in hyper else default_temperature(kernel)
        if not math.isclose(temperature, self.temperature, rel_tol=1e-9):
            raise LimbeckError(
                f"These mean embeddings are those at temperature {self.temperature:g}, and the loss has "
                f"{temperature:g}: use {self.temperature:g}, or make them again."
            )
        if self.mean_logit is None:
            raise LimbeckError(
                "Mean embeddings are compared through the student's hidden states, and these are logits: use "
                "distill(..., fuse_output_layer=True) or fused_linear_losses(hidden, layer, losses, teacher=...)."
            )
        log_z = torch.logsumexp(student / temperature if temperature != 1 else student, -1)
        return temperature**2 * (log_z - self.mean_logit / temperature - self.entropy.to(log_z.dtype))

    @classmethod
    def invalid_reason(cls, kernel: Kernel, **hyper: Any) -> str | None:
        """Return why not: only the forward KL divergence is linear in the teacher's probabilities."""
        if declaration(kernel, "sampled") is sampled_kl_divergence:
            return None
        return (
            f"{callable_name(kernel)} cannot be computed from mean output embeddings: it is not linear in the "
            "teacher's probabilities. Use kl_divergence, or store top-k logits or the teacher's hidden states."
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors."""
        return self.entropy, self.mean, self.bias, *([] if self.mean_logit is None else [self.mean_logit])

    def _like(self, *tensors: Tensor) -> MeanEmbedding:
        entropy, mean, bias, *met = tensors
        other = MeanEmbedding(
            entropy, mean, bias, classes=self.classes, temperature=self.temperature, layer_mark=self.layer_mark
        )
        other.mean_logit = met[0] if met else None
        return other


def mark_layer(layer: OutputLayer) -> str:
    """A short checksum of an output layer, from a few of its rows in bfloat16: a copy in half precision has the same.

    Example:
        >>> layer = OutputLayer(torch.ones(3, 2))
        >>> mark_layer(layer) == mark_layer(layer._replace(weight=layer.weight.bfloat16()))
        True
    """
    rows = torch.linspace(0, len(layer.weight) - 1, min(len(layer.weight), _MARKED)).long()
    parts = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    digest = hashlib.sha256(f"{tuple(layer.weight.shape)} {layer.scale!r}".encode())
    for part in parts:
        digest.update(part.detach()[rows.to(part.device)].bfloat16().cpu().contiguous().view(torch.int16).numpy().data)
    return digest.hexdigest()[:16]


def make_mean_embedding(
    teacher: Float[Tensor, "*leading classes"] | HiddenLogits, layer: OutputLayer, *, temperature: float = 1.0
) -> MeanEmbedding:
    """Compute the mean of a frozen output layer's embeddings under a teacher, holding the logits of 256 tokens.

    Args:
        teacher: The teacher's logits.
        layer: The output layer of the student.
        temperature: T of the later loss.

    Raises:
        LimbeckError: If the layer is trained or has a softcap, or the vocabularies differ.

    Example:
        >>> layer = OutputLayer(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> make_mean_embedding(torch.tensor([[3.0, 1.0]]).log(), layer).mean
        tensor([[0.7500, 0.2500]])
    """
    classes, width = layer.weight.shape
    if teacher.shape[-1] != classes:
        raise LimbeckError(f"The teacher has {teacher.shape[-1]} classes, and the student's output layer {classes}.")
    leading = teacher.shape[:-1]
    rows: Any = teacher.reshape(-1) if isinstance(teacher, HiddenLogits) else teacher.reshape(-1, classes)
    parts = []
    with torch.no_grad():
        weight = layer.weight.to(torch.promote_types(layer.weight.dtype, torch.float32))
        for part in torch.arange(len(rows)).split(_CHUNK):
            logits = rows[part.to(rows.device)]
            logits = logits.to_dense() if isinstance(logits, HiddenLogits) else logits
            p = (logits.to(weight.dtype) / temperature).softmax(-1)
            # A class that is impossible for both may have a bias of -inf.
            bias = p.new_zeros(len(p)) if layer.bias is None else torch.where(p > 0, p * layer.bias, 0.0).sum(-1)
            parts.append((torch.special.entr(p).sum(-1), p @ weight * layer.scale, bias * layer.scale))
    shapes = (leading, (*leading, width), leading)
    entropy, mean, bias = (
        torch.cat(one).reshape(shape) for one, shape in zip(zip(*parts, strict=True), shapes, strict=True)
    )
    result = MeanEmbedding(entropy, mean, bias, classes=classes, temperature=temperature, layer_mark=mark_layer(layer))
    result.check_layer(layer)
    return result
