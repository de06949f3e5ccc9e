"""A tiny text classifier with the layer names of BERT, on which methods for transformers are checked."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.data import ArrayDataset
from limbeck.random_seeds import fork_rng, make_rng_state

_CLASSES, _VOCABULARY, _LENGTH = 3, 12, 6


class TinyBert(nn.Module):
    """A classifier of padded texts whose modules are named as those of ``BertForSequenceClassification``.

    ``bert.encoder.layer.0.attention.self`` returns its output and its attention maps ``[batch, heads, tokens,
    tokens]``, as BERT with ``attn_implementation="eager"`` does. The class token is the first.

    Args:
        layers: The number of layers.
        width: The width of its layers.
        heads: The number of attention heads.
        classes: The number of classes.
        vocabulary: The number of tokens.
        length: The greatest number of tokens of a text.
        seed: The seed of its weights.

    Example:
        >>> TinyBert(layers=1, width=4)(torch.ones(2, 3, dtype=torch.int64)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        *,
        layers: int,
        width: int,
        heads: int = 2,
        classes: int = _CLASSES,
        vocabulary: int = _VOCABULARY,
        length: int = _LENGTH,
        seed: int = 1,
    ) -> None:
        super().__init__()
        with fork_rng(make_rng_state(seed)):
            self.bert = nn.Module()
            self.bert.embeddings = _Embeddings(vocabulary, length, width)
            self.bert.encoder = nn.Module()
            self.bert.encoder.layer = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
            self.classifier = nn.Linear(width, classes)

    def forward(
        self, input_ids: Int[Tensor, "batch length"], attention_mask: Int[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch classes"]:
        """The logits."""
        there = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden = self.bert.embeddings(input_ids)  # type: ignore[operator]
        for layer in self.bert.encoder.layer:  # type: ignore[union-attr]
            hidden = layer(hidden, there.bool())
        return self.classifier(hidden[:, 0])


class _Embeddings(nn.Module):
    def __init__(self, vocabulary: int, length: int, width: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, width)
        self.position_embeddings = nn.Embedding(length, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        return self.norm(self.word_embeddings(ids) + self.position_embeddings.weight[: ids.shape[1]])


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, hidden: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = (
            linear(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
        maps = scores.masked_fill(~there[:, None, None, :], torch.finfo(scores.dtype).min).softmax(-1)
        return (maps @ v).transpose(1, 2).flatten(2), maps


class _AttentionOutput(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, hidden: Tensor, before: Tensor) -> Tensor:
        return self.norm(self.dense(hidden) + before)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.add_module("self", _SelfAttention(width, heads))
        self.output = _AttentionOutput(width)

    def forward(self, hidden: Tensor, there: Tensor) -> Tensor:
        return self.output(self.get_submodule("self")(hidden, there)[0], hidden)


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = _Attention(width, heads)
        self.intermediate, self.output = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, hidden: Tensor, there: Tensor) -> Tensor:
        hidden = self.attention(hidden, there)
        return self.norm(hidden + self.output(torch.nn.functional.gelu(self.intermediate(hidden))))


def make_transformers() -> tuple[nn.Module, nn.Module, ArrayDataset]:
    """A student of two layers, a teacher of four, and texts of 2 to 6 tokens that are padded on the right."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1, _VOCABULARY, (48, _LENGTH), generator=draw)
    there = torch.arange(_LENGTH) < torch.randint(2, _LENGTH + 1, (48, 1), generator=draw)
    labels = torch.randint(_CLASSES, (48,), generator=draw)
    inputs = {"input_ids": ids.masked_fill(~there, 0), "attention_mask": there.long()}
    data = ArrayDataset(inputs, labels, mask=there)
    return TinyBert(layers=2, width=4), TinyBert(layers=4, width=8, seed=2).eval(), data
