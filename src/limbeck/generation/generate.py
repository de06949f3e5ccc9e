"""`generate`: a model continues prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from limbeck.batch import Batch, Inputs
from limbeck.errors import ArgumentError, DataError, LimbeckError
from limbeck.generation.config import Generation, GenerationConfig
from limbeck.generation.sampling import draw_tokens
from limbeck.generation.writers import (
    CausalWriter,
    DecoderWriter,
    MixedWriter,
    PrefixWriter,
    Writer,
    find_cache_use,
    model_logits,
    module_device,
    next_logits,
)
from limbeck.model_call import Adaptor, unwrap
from limbeck.models import read_context_length
from limbeck.models.hf_folder import find_hf_config
from limbeck.random_seeds import counter_uniform
from limbeck.tap import FrozenParameters


@torch.no_grad()
def generate(
    model: Any,
    prompts: Sequence[Int[Tensor, " _tokens"]],
    config: GenerationConfig,
    *,
    ids: Int[Tensor, " prompts"] | None = None,
    views: Int[Tensor, " prompts"] | int = 0,
    seed: int = 0,
    tokens: Int[Tensor, " tokens"] | None = None,
    preprocess: Callable[[Batch], Inputs] | None = None,
    adaptor: Adaptor | None = None,
    mixed_in: nn.Module | None = None,
    mixed_in_share: float = 0.0,
) -> Generation:
    """Continue prompts with a language model.

    The draw of token i of example `id` in view `view` is the inverse of the cumulative probability (`draw_tokens`) at
    the i-th number of ``counter_uniform(id, view, seed)``. So a text is a function of the model's weights, its prompt,
    id, view and seed, and not of the batch, the rank or what was drawn before: only rounding differs between batches,
    and moves a draw to the neighboring token about once in a million tokens.

    Causal models and encoder-decoders of transformers, and models of your own that are called like them (with
    ``attention_mask``, ``past_key_values`` and ``use_cache``), keep keys and values in a cache; prompts of several
    lengths are padded on the left. Other models, and those whose cache or padding changes their logits, are called on
    whole texts, or on prompts of one length. The model is in eval mode, without gradients; its modes, flags and hooks
    are afterwards as before. Checkpointing of gradients is for train mode, so it does not switch the cache off.

    Args:
        model: A language model: a module from ids to logits, or an encoder-decoder of transformers, whose encoder reads
            the prompts; or a function from a `Batch` of right-padded texts to logits.
        prompts: The tokens of each prompt, at least one.
        config: How the texts are written.
        ids: The id of each example; by default 0, 1, ...
        views: The view of each example, such as the epoch, or the number of a sample.
        seed: The seed of all draws.
        tokens: The tokens that may be written, such as those that the tokenizer has; None for all that the model has.
            Rows of the output layer beyond the tokenizer are so never drawn.
        preprocess: Maps a batch to the inputs of the model, which is then called on whole texts.
        adaptor: Raw output -> logits, for a model whose output is something else; it is then called on whole texts.
        mixed_in: Another model with the same tokens: each token is drawn from the mixture of both distributions, which
            are those at temperature 1, and `config` then applies to the mixture.
        mixed_in_share: The weight of the other model in the mixture, above 0 and below 1.

    Returns:
        The new tokens of each prompt, with their log-probabilities.

    Raises:
        ArgumentError: If `mixed_in_share` is out of range.
        DataError: If a prompt has no token, or has more than the models can read.
        LimbeckError: If logits are NaN, or infinite and positive.

    Example:
        >>> model = nn.Sequential(nn.Embedding(5, 5), nn.Identity())
        >>> _ = model[0].weight.data.copy_(9 * torch.eye(5).roll(1, 1))  # the token that follows n is mostly n + 1
        >>> config = GenerationConfig(max_new_tokens=9, temperature=0.0, eos_token_id=3)
        >>> written = generate(model, [torch.tensor([0])], config)
        >>> written.texts, written.finished.tolist()
        ((tensor([1, 2, 3]),), [True])
    """
    texts = [prompt.cpu().long() for prompt in prompts]
    check_prompts(texts)
    module = unwrap(model) if isinstance(model, nn.Module) else None
    room = _find_room(module, texts, config.max_new_tokens)
    if mixed_in is not None:
        if not 0 < mixed_in_share < 1:
            raise ArgumentError(
                f"mixed_in_share is above 0 and below 1; got {mixed_in_share!r}.", argument="mixed_in_share"
            )
        room = torch.minimum(room, _find_room(mixed_in, texts, config.max_new_tokens))
    ids = torch.arange(len(texts)) if ids is None else ids.cpu().long()
    views = torch.full_like(ids, views) if isinstance(views, int) else views.cpu().long()
    uniform = counter_uniform(ids, views, seed=seed, draws=config.max_new_tokens, stream="generation")
    if not texts:
        return _empty(config)
    with ExitStack() as stack:
        for one in (module, mixed_in):
            if one is not None:
                stack.enter_context(FrozenParameters(one))
        groups, start = _plan(model if module is None else module, texts, config.max_new_tokens, preprocess, adaptor)
        if mixed_in is not None:
            groups, start = _mix(
                (groups, start), _plan(mixed_in, texts, config.max_new_tokens, None, None), mixed_in_share
            )
        parts = [_write(start([texts[i] for i in group]), uniform[group], room[group], config, tokens)
                 for group in groups]  # fmt: skip
    written = parts[0] if len(parts) == 1 else _join(parts, groups)
    _check_numbers(written, type(module or model).__name__)
    return written


_Plan = tuple[list[list[int]], Callable[[list[Tensor]], Writer]]


def _mix(one: _Plan, other: _Plan, share: float) -> _Plan:
    """The plan of two models: texts are written together that both can write together."""
    groups = max(one[0], other[0], key=len)
    return groups, lambda part: MixedWriter((one[1](part), other[1](part)), share)


def _plan(
    model: Any,
    texts: list[Tensor],
    most: int,
    preprocess: Callable[[Batch], Inputs] | None,
    adaptor: Adaptor | None,
) -> _Plan:
    """The texts that are written together, and what makes the writer of some prompts."""
    together = [list(range(len(texts)))]
    if not isinstance(model, nn.Module):
        return together, lambda part: PrefixWriter(part, next_logits(model), torch.device("cpu"))
    device = module_device(model)
    use = find_cache_use(model, texts[0]) if preprocess is None and adaptor is None else None
    if use is None or not use.caches:
        following = next_logits(model_logits(model, preprocess, adaptor))
        return together, lambda part: PrefixWriter(part, following, device)
    config = find_hf_config(model)
    if config is not None and config.is_encoder_decoder:
        return together, lambda part: DecoderWriter(model, part, device)
    if not use.pads:
        lengths = [len(text) for text in texts]
        together = [[i for i, own in enumerate(lengths) if own == length] for length in sorted(set(lengths))]
    return together, lambda part: CausalWriter(model, part, device, most)


def _write(
    writer: Writer, uniform: Tensor, room: Tensor, config: GenerationConfig, tokens: Tensor | None
) -> Generation:
    """Write texts together, until each has ended or is full."""
    logits = writer.start()
    allowed, texts = _find_allowed(tokens, logits), _Texts(room, config, logits)
    draws = uniform.to(logits.device, torch.float64).T.contiguous()  # one row for each place
    for place in range(texts.most):
        drawn, logprobs = draw_tokens(_restrict(logits, allowed), draws[place], config)
        left, present = texts.add(place, drawn, logprobs)
        if not left or place + 1 == texts.most:
            break
        if present is not None:
            writer.select(present)
            drawn, draws = drawn[present], draws[:, present]
        logits = writer.step(drawn)
    return texts.result()


class _Texts:
    """Texts in progress. Those that have ended leave when they are the half, as that costs a copy of the cache.

    The loop over tokens does as little as possible: lengths are read from the tokens at the end.

    Args:
        room: The largest number of new tokens of each text.
        config: The settings.
        like: Logits, for the device and the dtype.

    Attributes:
        most: The largest number of new tokens.
    """

    def __init__(self, room: Int[Tensor, " prompts"], config: GenerationConfig, like: Tensor) -> None:
        device, self._count = like.device, room.shape[0]
        self.most = int(room.max())
        self._rows: Tensor | None = None  # the numbers of the texts that are present; None for all
        self._goes_on = torch.ones(self._count, dtype=torch.bool, device=device)
        self._ends = torch.tensor(config.end_tokens, dtype=torch.int64, device=device)
        self._room, self._fills = room.to(device), bool((room < self.most).any())
        self._tokens = torch.zeros(self.most, self._count, dtype=torch.int64, device=device)
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        self._logprobs = torch.zeros(self.most, self._count, dtype=dtype, device=device)

    def add(self, place: int, drawn: Tensor, logprobs: Tensor) -> tuple[int, Tensor | None]:
        """Add a token to each text that is present.

        Returns:
            The number of texts that go on, and which of those present stay; None if all do.
        """
        rows = slice(None) if self._rows is None else self._rows
        self._tokens[place, rows], self._logprobs[place, rows] = drawn, logprobs.to(self._logprobs.dtype)
        ends = self._is_end(drawn)
        is_full = self._room[rows] <= place + 1 if self._fills else None
        self._goes_on &= ~(ends if is_full is None else ends | is_full)
        left = int(self._goes_on.sum())
        # A text that fills the context has no position for another token.
        if 2 * left > drawn.shape[0] and (is_full is None or not bool(is_full.any())):
            return left, None
        present = self._goes_on.nonzero()[:, 0]
        self._rows, self._goes_on = present if self._rows is None else self._rows[present], self._goes_on[present]
        return left, present

    def _is_end(self, tokens: Tensor) -> Tensor:
        return tokens == self._ends if self._ends.shape[0] == 1 else (tokens[..., None] == self._ends).any(-1)

    def result(self) -> Generation:
        """All texts: up to the first end token, or as long as there is room."""
        tokens, logprobs = self._tokens.T.contiguous(), self._logprobs.T.contiguous()
        places = torch.arange(self.most, device=tokens.device)
        is_end = self._is_end(tokens) & (places < self._room[:, None])
        finished = is_end.any(1)
        lengths = torch.where(finished, is_end.long().argmax(1) + 1, self._room)
        beyond = places >= lengths[:, None]
        return Generation(tokens.masked_fill(beyond, 0), lengths, logprobs.masked_fill(beyond, 0.0), finished)


def _find_allowed(tokens: Tensor | None, logits: Tensor) -> int | Bool[Tensor, " vocabulary"] | None:
    """The tokens that may be written: the first so many, a mask, or None for all."""
    size = logits.shape[1]
    if tokens is None:
        return None
    tokens = tokens[tokens < size].unique()
    if len(tokens) == size:
        return None
    if len(tokens) and int(tokens[-1]) == len(tokens) - 1:
        return len(tokens)
    return torch.zeros(size, dtype=torch.bool, device=logits.device).index_fill_(0, tokens.to(logits.device), True)


def _restrict(logits: Tensor, allowed: int | Tensor | None) -> Tensor:
    if isinstance(allowed, int):
        return logits[:, :allowed]
    return logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)


def _join(parts: list[Generation], groups: list[list[int]]) -> Generation:
    """The texts of groups, in the order of the prompts."""
    most = max(part.tokens.shape[1] for part in parts)
    order = torch.tensor([i for group in groups for i in group]).argsort().to(parts[0].tokens.device)
    padded = [
        part._replace(**{name: nn.functional.pad(getattr(part, name), (0, most - part.tokens.shape[1]))
                         for name in ("tokens", "logprobs")})
        for part in parts
    ]  # fmt: skip
    return Generation(*(torch.cat(column)[order] for column in zip(*padded, strict=True)))


def _empty(config: GenerationConfig) -> Generation:
    most, none = config.max_new_tokens, torch.zeros(0, dtype=torch.int64)
    return Generation(none.view(0, 1).expand(0, most), none, torch.zeros(0, most), none.bool())


def _find_room(module: nn.Module | None, prompts: list[Tensor], most: int) -> Int[Tensor, " prompts"]:
    """The number of tokens that may be written behind each prompt.

    Raises:
        DataError: If a prompt is longer than the context of the model.
    """
    context = None if module is None else read_context_length(module)
    room = torch.full((len(prompts),), most)
    if context is None:
        return room
    lengths = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.int64)
    if bool((lengths > context).any()):
        number = int((lengths > context).nonzero()[0])
        raise DataError(
            f"Prompt {number} has {int(lengths[number]):,} tokens, and {type(module).__name__} reads at most "
            f"{context:,}, so it cannot be continued. Leave out prompts that are so long, or shorten them."
        )
    config = None if module is None else find_hf_config(module)  # a model of one's own has none, whatever it states
    if config is not None and config.is_encoder_decoder:
        return room.clamp_max(context)
    # The last new token is not read any more.
    return torch.minimum(room, context + 1 - lengths)


def check_prompts(prompts: Sequence[Tensor]) -> None:
    """Refuse prompts without a token.

    Raises:
        DataError: If a prompt is not ``[tokens]``, with one token at least.
    """
    for number, prompt in enumerate(prompts):
        if prompt.ndim != 1 or not prompt.numel():
            raise DataError(
                f"Prompt {number} has the shape {list(prompt.shape)}; a prompt has at least one token: [tokens]. Begin "
                "texts with a special token."
            )


def _check_numbers(written: Generation, who: str) -> None:
    """Refuse texts of logits that are no numbers. The draws themselves cannot notice that without waiting for a GPU."""
    wrong = ~written.logprobs.isfinite()
    if bool(wrong.any()):
        row, place = wrong.nonzero()[0].tolist()
        raise LimbeckError(
            f"{who} has logits that are NaN or infinite at new token {place} of prompt {row}, so nothing can be drawn. "
            "Were its weights damaged, or did the training diverge? Try a lower learning rate."
        )
