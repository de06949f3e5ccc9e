"""Logits of the next token: with a cache of keys and values, or by calls on whole texts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple, final
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.batch import IGNORED, Batch, Inputs
from limbeck.model_call import Adaptor, call, known_arguments, logits_of, takes_positions
from limbeck.models.hf_folder import find_hf_config, without_adapter

NextLogits = Callable[[Sequence[Tensor], int], list[Tensor]]
"""A function of texts and a number n that returns the logits behind the last n tokens of each."""


class Writer(ABC):
    """Abstract writer: texts in progress, and the logits of their next tokens."""

    @abstractmethod
    def start(self) -> Float[Tensor, "texts vocabulary"]:
        """The logits behind the prompts."""

    @abstractmethod
    def step(self, tokens: Int[Tensor, " texts"]) -> Float[Tensor, "texts vocabulary"]:
        """Add one token to each text, and return the logits behind it."""

    @abstractmethod
    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep some of the texts."""


@final
class PrefixWriter(Writer):
    """A writer that calls a function of whole texts for each token: for any model, and slow.

    Args:
        prompts: The prompts.
        next_logits: The logits behind the last tokens of texts.
        device: The device of the results.
    """

    def __init__(self, prompts: Sequence[Tensor], next_logits: NextLogits, device: torch.device) -> None:
        self._texts, self._next, self._device = list(prompts), next_logits, device

    def start(self) -> Tensor:
        """The logits behind the prompts."""
        return torch.cat(self._next(self._texts, 1)).to(self._device)

    def step(self, tokens: Tensor) -> Tensor:
        """Add one token to each text, and return the logits behind it."""
        self._texts = [torch.cat([text, token]) for text, token in zip(self._texts, tokens.cpu().split(1), strict=True)]
        return self.start()

    def select(self, rows: Tensor) -> None:
        """Keep some of the texts."""
        self._texts = [self._texts[row] for row in rows.tolist()]


@final
class CausalWriter(Writer):
    """A writer with the cache of a causal language model of transformers.

    Prompts of several lengths are padded on the left, with the position of each token in its own text.

    Args:
        model: The model, in eval mode.
        prompts: The prompts.
        device: The device of the model.
        most: The largest number of new tokens.
    """

    def __init__(self, model: Any, prompts: Sequence[Tensor], device: torch.device, most: int) -> None:
        self._model = model
        sizes = [prompt.shape[0] for prompt in prompts]
        width = max(sizes)
        is_padded = min(sizes) < width
        rows = [nn.functional.pad(prompt, (width - len(prompt), 0)) for prompt in prompts] if is_padded else prompts
        self._ids = torch.stack(list(rows)).to(device)
        self._width, self._past = width, None
        self._options: dict[str, Any] = {"use_cache": True}
        if "logits_to_keep" in known_arguments(model):
            self._options["logits_to_keep"] = 1
        self._mask: Tensor | None = None
        self._positions: Tensor | None = None
        config = find_hf_config(model)
        # Without a mask, transformers warns of tokens that may be padding; end tokens often have the same number.
        if is_padded or (config is not None and config.get_text_config(decoder=True).pad_token_id is not None):
            missing = (width - torch.tensor(sizes))[:, None].to(device)
            self._mask = (torch.arange(width + most, device=device) >= missing).long()
            if is_padded and takes_positions(model):
                self._positions = torch.arange(width + most, device=device) - missing

    def start(self) -> Tensor:
        """The logits behind the prompts."""
        return self._call(self._ids)

    def step(self, tokens: Tensor) -> Tensor:
        """Add one token to each text, and return the logits behind it."""
        self._width += 1
        return self._call(tokens[:, None])

    def _call(self, ids: Tensor) -> Tensor:
        end, begin = self._width, self._width - ids.shape[1]
        if self._mask is not None:
            self._options["attention_mask"] = self._mask[:, :end]
        if self._positions is not None:
            self._options["position_ids"] = self._positions[:, begin:end].clamp_min(0)
        output = self._model(input_ids=ids, past_key_values=self._past, **self._options)
        self._past = output.past_key_values
        return logits_of(output)[:, -1]

    def select(self, rows: Tensor) -> None:
        """Keep some of the texts."""
        self._past.batch_select_indices(rows)  # type: ignore[attr-defined]
        self._mask = None if self._mask is None else self._mask[rows]
        self._positions = None if self._positions is None else self._positions[rows]


@final
class DecoderWriter(Writer):
    """A writer with the cache of an encoder-decoder of transformers: the encoder reads each prompt once.

    Args:
        model: The model, in eval mode.
        prompts: What the encoder reads.
        device: The device of the model.
    """

    def __init__(self, model: Any, prompts: Sequence[Tensor], device: torch.device) -> None:
        self._model, self._past = model, None
        ids = nn.utils.rnn.pad_sequence(list(prompts), batch_first=True).to(device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self._mask = (torch.arange(ids.shape[1], device=device) < lengths[:, None]).long()
        plain: Any = without_adapter(model)
        self._encoded = plain.get_encoder()(input_ids=ids, attention_mask=self._mask)
        # The model's own rule shifts a text to the right, behind the token that its decoder reads first.
        self._first = plain.prepare_decoder_input_ids_from_labels(ids.new_zeros(len(ids), 1))[:, 0]

    def start(self) -> Tensor:
        """The logits of the first token."""
        return self.step(self._first)

    def step(self, tokens: Tensor) -> Tensor:
        """Add one token to each text, and return the logits behind it."""
        output = self._model(
            encoder_outputs=self._encoded, attention_mask=self._mask, decoder_input_ids=tokens[:, None],
            past_key_values=self._past, use_cache=True,
        )  # fmt: skip
        self._past = output.past_key_values
        return logits_of(output)[:, -1]

    def select(self, rows: Tensor) -> None:
        """Keep some of the texts."""
        self._past.batch_select_indices(rows)  # type: ignore[attr-defined]
        self._mask = self._mask[rows]
        self._encoded = type(self._encoded)(last_hidden_state=self._encoded.last_hidden_state[rows])


@final
class MixedWriter(Writer):
    """A writer that draws from a mixture of two models: the logits are the logarithms of its probabilities.

    Args:
        writers: The writers of both, with the same texts.
        share: The weight of the second one, from 0 to 1.
    """

    def __init__(self, writers: tuple[Writer, Writer], share: float) -> None:
        self._writers, self._weights = writers, (1.0 - share, share)
        self._devices: list[torch.device] = []

    def start(self) -> Tensor:
        """The logits behind the prompts."""
        logits = [writer.start() for writer in self._writers]
        self._devices = [own.device for own in logits]
        return self._mix(logits)

    def step(self, tokens: Tensor) -> Tensor:
        """Add one token to each text, and return the logits behind it."""
        both = zip(self._writers, self._devices, strict=True)
        return self._mix([writer.step(tokens.to(device)) for writer, device in both])

    def select(self, rows: Tensor) -> None:
        """Keep some of the texts."""
        for writer, device in zip(self._writers, self._devices, strict=True):
            writer.select(rows.to(device))

    def _mix(self, logits: list[Tensor]) -> Tensor:
        first, second = logits
        dtype = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
        width = min(first.shape[-1], second.shape[-1])  # rows of an output layer beyond the tokenizer
        parts = [
            own.to(first.device, dtype).log_softmax(-1)[:, :width] + math.log(weight)
            for own, weight in zip(logits, self._weights, strict=True)
        ]
        return torch.logaddexp(*parts)


class CacheUse(NamedTuple):
    """How a model can write texts.

    Attributes:
        caches: Whether the model goes on from its cache as from the whole text.
        pads: Whether padding on the left changes nothing.
    """

    caches: bool = False
    pads: bool = False


_CACHE_ARGUMENTS = {"input_ids", "attention_mask", "past_key_values", "use_cache"}
"""The arguments of a model of one's own that has a cache as models of transformers have. The cache that it returns, as
``past_key_values``, needs ``batch_select_indices(rows)``."""

_USES: WeakKeyDictionary[nn.Module, CacheUse] = WeakKeyDictionary()


def find_cache_use(model: nn.Module, prompt: Int[Tensor, " prompt"]) -> CacheUse:
    """Try once for each model of transformers whether its cache and left padding change its logits.

    Models with another kind of memory, bidirectional ones, and those that count the padding as positions are so found,
    whatever their class is. Of other models, those have a cache that take the arguments of one.

    Args:
        model: The model, in eval mode.
        prompt: Any tokens.
    """
    config = find_hf_config(model)
    if config is None and not known_arguments(model) >= _CACHE_ARGUMENTS:
        return CacheUse()
    if model not in _USES:
        if config is not None and config.is_encoder_decoder:
            _USES[model] = CacheUse(hasattr(without_adapter(model), "prepare_decoder_input_ids_from_labels"), True)
        else:
            _USES[model] = _try_cache(model, prompt)
    return _USES[model]


def _try_cache(model: nn.Module, prompt: Tensor) -> CacheUse:
    text = prompt[:8] if len(prompt) > 1 else prompt.repeat(2)
    device = next(model.parameters()).device
    try:
        whole = [logits_of(call(model, {"input_ids": part[None].to(device)}))[:, -1] for part in (text, text[1:])]
        writer = CausalWriter(model, [text[:-1]], device, 1)
        writer.start()
        if not _are_close(writer.step(text[-1:].to(device)), whole[0]):
            return CacheUse()
        padded = CausalWriter(model, [text, text[1:]], device, 1).start()
    except (TypeError, ValueError, AttributeError, IndexError, KeyError, RuntimeError):  # or NotImplementedError
        return CacheUse()
    return CacheUse(True, _are_close(padded[:1], whole[0]) and _are_close(padded[1:], whole[1]))


def _are_close(one: Tensor, other: Tensor) -> bool:
    scale = float(other.abs().nan_to_num(posinf=0.0).max())
    tolerance = 64 * torch.finfo(one.dtype).eps * max(scale, 1e-6)
    return torch.allclose(one, other, rtol=0.0, atol=tolerance, equal_nan=True)


def next_logits(logits: Callable[[Batch], Any], dtype: torch.dtype | None = None) -> NextLogits:
    """Make a function of texts that returns the logits behind the last tokens of each, ``[positions, vocabulary]``.

    All texts are read together, padded on the right.

    Args:
        logits: A function from a batch to logits ``[batch, positions, vocabulary]``: a tensor, or logits that are not
            multiplied out, of which only the wanted positions are computed.
        dtype: The dtype of the result; by default that of the logits.
    """

    def following(texts: Sequence[Tensor], positions: int) -> list[Tensor]:
        lengths = torch.tensor([len(text) for text in texts])
        width = int(lengths.max())
        ids = torch.stack([nn.functional.pad(text, (0, width - len(text))) for text in texts])
        there = torch.arange(width) < lengths[:, None]
        inputs = {
            "input_ids": ids,
            "position_ids": torch.arange(width).expand_as(ids),
            "attention_mask": there.long(),
        }
        answer = logits(Batch(inputs, labels=torch.full_like(ids, IGNORED), mask=there))
        at = (lengths - positions)[:, None] + torch.arange(positions) + width * torch.arange(len(texts))[:, None]
        flat = answer.flatten(0, 1) if isinstance(answer, Tensor) else answer.reshape(-1)
        rows = flat[at.flatten().to(flat.device)]
        rows = rows if isinstance(rows, Tensor) else rows.to_dense()
        return list((rows if dtype is None else rows.to(dtype)).view(len(texts), positions, -1))

    return following


def model_logits(
    model: nn.Module, preprocess: Callable[[Batch], Inputs] | None, adaptor: Adaptor | None = None
) -> Callable[[Batch], Any]:
    """A function from a batch to the logits of a module, on its device."""
    device = module_device(model)

    def logits(batch: Batch) -> Any:
        moved = batch.to(device)
        return logits_of(call(model, moved.inputs if preprocess is None else preprocess(moved)), adaptor)

    return logits


def module_device(model: nn.Module) -> torch.device:
    """The device of a module's first parameter or buffer; the CPU if it has none."""
    return next((tensor.device for tensor in chain(model.parameters(), model.buffers())), torch.device("cpu"))
