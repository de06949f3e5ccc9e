"""The maze: walks from a start to a goal as texts, with an exact checker, and a small decoder that learns them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor, nn

from limbeck.batch import IGNORED, Batch
from limbeck.data import Dataset
from limbeck.data.dataset import hash_columns
from limbeck.errors import ArgumentError
from limbeck.random_seeds import counter_order, counter_uniform

PROMPT = 2
"""The number of tokens of a prompt: the start and the goal."""
LONGEST = 24
"""The most new tokens of a walk, the end token included."""


@final
class Maze:
    """A maze on a grid: a random spanning tree of the cells, and some more passages, so that there are several ways.

    Tokens are the numbers of the cells, then `end` and `pad`. A prompt is a start and a goal. A right walk names
    cell after cell, each beside the one before, and has the end token directly after the goal.

    Args:
        size: The number of cells on a side, at least 2.
        extra: The number of passages beside those of the tree.
        test: The number of pairs of start and goal that no model is trained on.
        seed: The seed of the passages and of the pairs.

    Raises:
        ArgumentError: If `size` is below 2, or `test` leaves no pair to train on.

    Example:
        >>> maze = Maze(size=3, extra=1, test=10)
        >>> len(maze.test), len(maze.train), maze.vocabulary
        (10, 62, 11)
        >>> start, goal = maze.test[0].tolist()
        >>> maze.is_right((start, goal), maze.walks(maze.test[:1], ids=torch.tensor([0]), seed=0)[0])
        True
    """

    def __init__(self, size: int = 7, *, extra: int = 12, test: int = 400, seed: int = 3) -> None:
        cells = size * size
        if size < 2:
            raise ArgumentError(f"A maze has at least 2 cells on a side; got size={size}.", argument="size")
        if not 0 < test < cells * (cells - 1):
            raise ArgumentError(
                f"test={test} is not between 1 and {cells * (cells - 1) - 1}, one less than the number of pairs.",
                argument="test",
            )
        self.size, self.end, self.pad, self.vocabulary = size, cells, cells + 1, cells + 2
        self.beside = _draw_passages(size, extra, seed)
        self.distance = _measure_distances(self.beside)
        every = torch.cartesian_prod(torch.arange(cells), torch.arange(cells))
        every = every[every[:, 0] != every[:, 1]]
        every = every[counter_order(len(every), seed=seed, epoch=0, stream="pairs")]
        self.test, self.train = every[:test], every[test:]

    def walks(
        self, pairs: Int[Tensor, "n 2"], *, ids: Int[Tensor, " n"], seed: int, view: int = 0
    ) -> list[Int[Tensor, " _tokens"]]:
        """Draw one of the shortest walks of each pair, cell by cell, with the end token.

        A walk is a pure function of (id, view, seed).
        """
        draws = counter_uniform(ids, torch.full_like(ids, view), seed=seed, draws=LONGEST, stream="walk")
        at, goal = pairs[:, 0].clone(), pairs[:, 1]
        steps = []
        for step in range(int(self.distance[at, goal].max())):
            # Cells beside this one that are nearer to the goal; at the goal there are none, and the walk stays.
            nearer = self.beside[at] & (self.distance[at, goal][:, None] - 1 == self.distance[:, goal].T)
            count = nearer.sum(1)
            wanted = (draws[:, step] * count).long().clamp_max(count - 1)
            chosen = ((nearer.cumsum(1) == wanted[:, None] + 1) & nearer).int().argmax(1)
            at = torch.where(count > 0, chosen, at)
            steps.append(at)
        path = torch.stack(steps, 1)
        end = torch.tensor([self.end])
        return [torch.cat([path[i, :n], end]) for i, n in enumerate(self.distance[pairs[:, 0], goal].tolist())]

    def is_right(self, pair: Sequence[int], tokens: Int[Tensor, " _tokens"]) -> bool:
        """Whether each move of a walk is a passage, and the end token comes directly after the goal."""
        at, goal = pair
        for token in tokens.tolist():
            if token == self.end:
                return bool(at == goal)
            if token >= self.end or not self._passages[at][token]:
                return False
            at = token
        return False

    @cached_property
    def _passages(self) -> list[list[bool]]:
        passages: list[list[bool]] = self.beside.tolist()
        return passages


def _draw_passages(size: int, extra: int, seed: int) -> Tensor:
    """Which cells are connected, ``bool [cells, cells]``: a random spanning tree (Kruskal), then `extra` walls less."""
    grid = torch.arange(size * size).view(size, size)
    right = list(zip(grid[:, :-1].flatten().tolist(), grid[:, 1:].flatten().tolist(), strict=True))
    walls = right + list(zip(grid[:-1].flatten().tolist(), grid[1:].flatten().tolist(), strict=True))
    random.Random(seed).shuffle(walls)
    group = list(range(size * size))
    beside = torch.zeros(size * size, size * size, dtype=torch.bool)
    left = []
    for one, other in walls:
        if group[one] == group[other]:
            left.append((one, other))
            continue
        group = [group[one] if number == group[other] else number for number in group]
        beside[one, other] = beside[other, one] = True
    for one, other in left[:extra]:
        beside[one, other] = beside[other, one] = True
    return beside


def _measure_distances(beside: Tensor) -> Tensor:
    """The number of moves between any two cells, ``int64 [cells, cells]``."""
    reached = torch.eye(len(beside), dtype=torch.bool)
    distance = torch.zeros(beside.shape, dtype=torch.int64)
    for moves in range(1, len(beside)):
        further = (reached.float() @ beside.float() > 0) & ~reached
        distance[further] = moves
        reached = reached | further
    return distance


@final
class WalkDataset(Dataset):
    """Walks as rows of tokens, with the next token as label, padded on the right to the longest walk of a batch.

    Example i is the walk `walks[i]` of the pair `pairs[i]`. The prompt has no labels.

    Example:
        >>> maze = Maze(size=2, extra=0, test=1)
        >>> data = WalkDataset(maze, torch.tensor([[0, 1]]), [torch.tensor([1, maze.end])])
        >>> batch = data.take(torch.tensor([0]))
        >>> batch.inputs["input_ids"].tolist(), batch.labels.tolist()
        ([[0, 1, 1]], [[-100, 1, 4]])
    """

    ragged = True

    def __init__(self, maze: Maze, pairs: Int[Tensor, "n 2"], walks: Sequence[Int[Tensor, " _tokens"]]) -> None:
        self.pairs = pairs
        self._lengths = torch.tensor([len(walk) for walk in walks])
        answers = nn.utils.rnn.pad_sequence(list(walks), batch_first=True, padding_value=maze.pad)
        self._tokens = torch.cat([pairs, answers], 1)

    def __len__(self) -> int:
        return len(self.pairs)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the tokens and lengths."""
        return hash_columns(("tokens", self._tokens), ("lengths", self._lengths))

    def take(self, index: Int[Tensor, " n"]) -> Batch:
        """Return rows of tokens with their labels."""
        lengths = self._lengths[index]
        width = PROMPT - 1 + int(lengths.max())
        tokens, place = self._tokens[index, : width + 1], torch.arange(width)
        read = place < (PROMPT - 1 + lengths)[:, None]
        is_label = read & (place >= PROMPT - 1)
        inputs = {"input_ids": tokens[:, :-1], "attention_mask": read.long()}
        labels = tokens[:, 1:].masked_fill(~is_label, IGNORED)
        return Batch(inputs, index, None, labels, is_label, {"masks": {"text": read}})


class KeyValueCache:
    """The keys and values of all tokens so far, ``[batch, heads, tokens, size]`` for each layer."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []

    @property
    def length(self) -> int:
        """The number of tokens so far."""
        return self.layers[0][0].shape[2] if self.layers else 0

    def batch_select_indices(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep some rows of the batch."""
        self.layers = [(key[rows], value[rows]) for key, value in self.layers]


class DecoderOutput(NamedTuple):
    """The output of a `Decoder`.

    Attributes:
        logits: ``[batch, tokens, vocabulary]``.
        past_key_values: The keys and values of all tokens so far; None if they were not asked for.
    """

    logits: Tensor
    past_key_values: KeyValueCache | None


class _Padding:
    """The places of the tokens of texts that are padded on the right.

    A layer computes what needs one token only for these: half of a batch of texts of several lengths is padding.

    Args:
        is_token: Where they are.
    """

    def __init__(self, is_token: Bool[Tensor, "batch tokens"]) -> None:
        self.shape = is_token.shape
        self.rows = is_token.flatten().nonzero()[:, 0]

    def remove(self, x: Tensor) -> Tensor:
        """The tokens alone, ``[all tokens, width]``, of ``[batch, tokens, width]``."""
        return x.flatten(0, 1).index_select(0, self.rows)

    def restore(self, x: Tensor) -> Tensor:
        """The tokens at their places, with zeros in between."""
        return x.new_zeros(self.shape.numel(), x.shape[-1]).index_copy(0, self.rows, x).view(*self.shape, x.shape[-1])


class _Layer(nn.Module):
    """One layer of a decoder: attention to the tokens before, then two linear layers; each behind a layer norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention_inputs = nn.Linear(width, 3 * width, bias=False)
        self.attention_output = nn.Linear(width, width, bias=False)
        self.hidden, self.output = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None, mask: Tensor | None, padding: _Padding | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        width = x.shape[-1]
        inputs = self.attention_inputs(self.norm1(x))
        inputs = inputs if padding is None else padding.restore(inputs)
        parts = inputs.view(*inputs.shape[:2], 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        # Without a mask there are no keys from before, or one new token, which sees all of them.
        is_causal = mask is None and inputs.shape[1] > 1
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=is_causal)
        seen = seen.transpose(1, 2).flatten(2)
        x = x + self.attention_output(seen if padding is None else padding.remove(seen))
        return x + self.output(F.relu(self.hidden(self.norm2(x)))), (key, value)


@final
class Decoder(nn.Module):
    """A small decoder with learned positions and a cache of keys and values, called as those of transformers are.

    Args:
        vocabulary: The number of tokens.
        width: The size of the hidden states.
        layers: The number of layers.
        heads: The number of heads of attention.
        positions: The most tokens of a text.

    Example:
        >>> model, ids = Decoder(9, width=8, layers=1, heads=2, positions=6).eval(), torch.arange(5)[None]
        >>> first = model(ids[:, :3], use_cache=True)
        >>> rest = model(ids[:, 3:], past_key_values=first.past_key_values, use_cache=True)
        >>> torch.allclose(rest.logits, model(ids).logits[:, 3:], atol=1e-6)
        True
    """

    def __init__(self, vocabulary: int, *, width: int, layers: int, heads: int, positions: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Embedding(positions, width)
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.logits = nn.Linear(width, vocabulary, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.05 if name == "token_embedding.weight" else 0.02)

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch all_tokens"] | None = None,
        position_ids: Int[Tensor, "batch tokens"] | None = None,
        past_key_values: KeyValueCache | None = None,
        *,
        use_cache: bool = False,
    ) -> DecoderOutput:
        """The logits of each token's successor, and with `use_cache` the keys and values.

        Padding on the right needs no `attention_mask`; with it, the logits of the padding are 0. With padding on the
        left, positions need `position_ids`.
        """
        cache = past_key_values or KeyValueCache()
        begin, tokens = cache.length, input_ids.shape[1]
        mask = _attention(attention_mask, begin, tokens, input_ids.device)
        padding = None if use_cache or begin or mask is not None else _find_padding(attention_mask)
        own = self.position_embedding
        places = own.weight[begin : begin + tokens] if position_ids is None else own(position_ids)
        x = self.token_embedding(input_ids) + places
        x = x if padding is None else padding.remove(x)
        before: list[Any] = cache.layers or [None] * len(self.layers)
        kept = []
        for layer, past in zip(self.layers, before, strict=True):
            x, both = layer(x, past, mask, padding)
            kept.append(both)
        cache.layers = kept if use_cache else cache.layers
        logits = self.logits(self.norm(x))
        return DecoderOutput(logits if padding is None else padding.restore(logits), cache if use_cache else None)


def _find_padding(given: Tensor | None) -> _Padding | None:
    """The padding of a mask; None without any."""
    is_token = None if given is None else given.bool()
    return None if is_token is None or bool(is_token.all()) else _Padding(is_token)


def _attention(given: Tensor | None, begin: int, tokens: int, device: torch.device) -> Tensor | None:
    """Which keys each token sees; None where it is all of them up to itself."""
    left_padded = given is not None and not bool(given[:, 0].all())
    if not left_padded and (begin == 0 or tokens == 1):
        return None
    mask = torch.ones(tokens, begin + tokens, dtype=torch.bool, device=device).tril(begin)[None, None]
    if left_padded and given is not None:
        # A token of the padding sees itself, as attention to nothing is NaN.
        mask = (mask & given[:, None, None, :].bool()) | torch.eye(begin + tokens, dtype=torch.bool, device=device)[
            begin:
        ]
    return mask
