"""Teachers that write texts: a model on this machine, and a model behind a server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.data.tokenized_texts import hash_tokenizer
from limbeck.data.tokenizer import is_encoder_decoder, open_tokenizer
from limbeck.errors import ArgumentError, DataError, LimbeckError
from limbeck.generated_texts.prompts import TextPrompt
from limbeck.generated_texts.text_file import TextWriter, Writing
from limbeck.generation import GenerationConfig, generate
from limbeck.models import find_tokenizer, fingerprint, open_model
from limbeck.models.adapters import without_adapter
from limbeck.models.hf_folder import find_hf_config
from limbeck.models.hf_heads import LANGUAGE_MODELING
from limbeck.models.size_and_hash import unwrap_compiled
from limbeck.models.user_file import plain_name
from limbeck.random_seeds import derive_seed
from limbeck.teachers.served import ServedTextWriter

_TEXTS, _SERVED_TEXTS = 16, 256


@dataclass(frozen=True)
class DecodingOptions:
    """How a teacher writes texts.

    Attributes:
        generation: The settings of the draws. Without an end token, that of the tokenizer ends a text.
        seed: The seed of all draws.
        chat: Whether a prompt is sent as the message of a user, in the format of a chat.
    """

    generation: GenerationConfig = field(default_factory=lambda: GenerationConfig(max_new_tokens=256, temperature=0.8))
    seed: int = 0
    chat: bool = False

    def ask(self, prompt: TextPrompt) -> str | list[dict[str, Any]]:
        """What the teacher reads: a text, or the messages of a chat."""
        if self.chat and isinstance(prompt.prompt, str):
            return [{"role": "user", "content": prompt.prompt}]
        return prompt.prompt


@final
class ModelWriter(TextWriter):
    """A language model on this machine as teacher of `generate_texts`.

    A text is a function of the weights, its prompt and id, the number of the sample and the seed.

    Args:
        model: A causal language model or an encoder-decoder of transformers, or a module from token ids to logits.
        tokenizer: Its tokenizer, a fast one.
        options: How texts are written.
        name: The name of the teacher for the record of each text.

    Raises:
        LimbeckError: If the tokenizer has no end token and `options` name none, or no chat template that is needed.

    Example:
        >>> from limbeck.data import train_byte_level_tokenizer
        >>> model = nn.Sequential(nn.Embedding(257, 257), nn.Identity())
        >>> writer = ModelWriter(model, train_byte_level_tokenizer(["2 + 2 = 4"], vocabulary=257), name="mine")
        >>> writer.source["temperature"], writer.source["seed"]
        (0.8, 0)
    """

    batch_size = _TEXTS

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, options: DecodingOptions | None = None, name: str = ""
    ) -> None:
        options = options or DecodingOptions()
        config = options.generation
        ends = config.end_tokens or _end_tokens(model, tokenizer)
        if not ends:
            raise LimbeckError(
                "The tokenizer has no end token, so no text would end before max_new_tokens. Set tokenizer.eos_token, "
                "or name it: GenerationConfig(eos_token_id=...)."
            )
        self.model, self.tokenizer, self.options = model, tokenizer, options
        self.generation = GenerationConfig(config.max_new_tokens, config.temperature, config.top_k, config.top_p, ends)
        self._name = name or plain_name(type(model).__name__)
        self._known = torch.tensor(sorted(set(tokenizer.get_vocab().values())))
        self._reads = is_encoder_decoder(model)

    @cached_property
    def source(self) -> Mapping[str, Any]:
        """Teacher, tokenizer, decoding and seed."""
        return {
            "teacher": self._name,
            "teacher_sha256": fingerprint(self.model),
            "tokenizer_sha256": hash_tokenizer(self.tokenizer),
            **self.generation.describe(),
            "chat": self.options.chat,
            "seed": self.options.seed,
        }

    def write(self, prompts: Sequence[TextPrompt], samples: Sequence[int]) -> Iterator[tuple[int, Writing]]:
        """Write a text for each prompt.

        Raises:
            DataError: If a prompt has no token, or does not fit into the model's context.
        """
        asked = [self._encode(prompt) for prompt in prompts]
        ids = torch.tensor([hash_id(prompt.id) for prompt in prompts])
        texts = generate(
            self.model, asked, self.generation, ids=ids, views=torch.tensor(samples), seed=self.options.seed,
            tokens=self._known,
        )  # fmt: skip
        sums = texts.logprobs.double().sum(1).tolist()
        for place, (new, finished) in enumerate(zip(texts.texts, texts.finished.tolist(), strict=True)):
            tokens = tuple(new.tolist())
            reason = "stop" if finished else "length"
            yield place, Writing(self._decode(asked[place], new), reason, tokens, round(sums[place], 6), len(tokens))

    def _encode(self, prompt: TextPrompt) -> Tensor:
        """The tokens of a prompt. Special tokens that a tokenizer adds at the end would end the text."""
        asked = self.options.ask(prompt)
        if isinstance(asked, str):
            encoding = self.tokenizer(asked, return_special_tokens_mask=True, verbose=False)
            ids, special = encoding["input_ids"], encoding["special_tokens_mask"]
            while not self._reads and ids and special[len(ids) - 1]:
                ids = ids[:-1]
        else:
            ids = self.tokenizer(self._write_chat(prompt, asked), add_special_tokens=False, verbose=False)["input_ids"]
        if not ids:
            raise DataError(f"The prompt {prompt.id!r} has no token: {asked!r:.60}.")
        return torch.tensor(ids)

    def _write_chat(self, prompt: TextPrompt, messages: list[dict[str, Any]]) -> str:
        if not self.tokenizer.chat_template:
            raise DataError(
                f"The prompt {prompt.id!r} is a chat, and the tokenizer has no chat template. Set "
                "tokenizer.chat_template, or write prompts as texts, without --chat."
            )
        text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text

    def _decode(self, prompt: Tensor, new: Tensor) -> str:
        """The text of new tokens. Some tokenizers drop the space of a first word, so it is decoded with its prompt."""

        def decode(tokens: Tensor) -> str:
            text: str = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            return text

        if self._reads:
            return decode(new)
        start, whole = decode(prompt), decode(torch.cat([prompt, new]))
        return whole[len(start) :] if whole.startswith(start) else decode(new)


def _end_tokens(model: nn.Module, tokenizer: Any) -> tuple[int, ...]:
    """The end token of the tokenizer, and those with which the model's own settings end a text, as of a chat."""
    plain: Any = without_adapter(unwrap_compiled(model))
    settings = plain.generation_config if find_hf_config(plain) is not None and plain.can_generate() else None
    own = None if settings is None else settings.eos_token_id
    ends = {tokenizer.eos_token_id, *(own if isinstance(own, (list, tuple)) else [own])}
    return tuple(sorted(end for end in ends if isinstance(end, int)))


def hash_id(id: str | int) -> int:
    """A number for counters, from the id of a prompt: a small number is its own.

    Example:
        >>> hash_id(7), hash_id("q7") == hash_id("q7")
        (7, True)
    """
    if isinstance(id, int) and 0 <= id < 2**62:
        return id
    return 2**62 + int.from_bytes(hashlib.sha256(repr(id).encode()).digest()[:7], "little")


@final
class ServedWriter(TextWriter):
    """A model behind a server as teacher of `generate_texts`: any OpenAI-compatible one.

    Args:
        url: The address, such as ``http://localhost:8000/v1``. It is in no file.
        model: The name of the model; by default the only one that the server has.
        options: How texts are written. Of `generation`, ``top_k`` and ``eos_token_id`` are left to the server.
        **settings: Further arguments of `limbeck.teachers.served.ServedTextWriter`, such as ``concurrency``. With
            ``options.chat``, log-probabilities are not asked for, because many hosted chat models refuse them.

    Raises:
        ArgumentError: If `options` hold what no server is told.
    """

    batch_size = _SERVED_TEXTS

    def __init__(
        self, url: str, model: str | None = None, *, options: DecodingOptions | None = None, **settings: Any
    ) -> None:
        self.options = options or DecodingOptions()
        config = self.options.generation
        for name in ("top_k", "eos_token_id"):
            if getattr(config, name) is not None:
                raise ArgumentError(
                    f"{name}={getattr(config, name)} is not a setting of all servers: leave it out.", argument=name
                )
        self._writer = ServedTextWriter(
            url, model, max_new_tokens=config.max_new_tokens, temperature=config.temperature, top_p=config.top_p,
            **{"log_probs": not self.options.chat, **settings},
        )  # fmt: skip

    @cached_property
    def source(self) -> Mapping[str, Any]:
        """The name of the model, decoding and seed. A server does not show its weights."""
        own = {name: value for name, value in self._writer.describe().items() if name not in ("writer", "model")}
        return {
            "teacher": self._writer.model, "served": True, **own, "chat": self.options.chat, "seed": self.options.seed,
        }  # fmt: skip

    def write(self, prompts: Sequence[TextPrompt], samples: Sequence[int]) -> Iterator[tuple[int, Writing]]:
        """Write a text for each prompt.

        Raises:
            ServerError: If a text was not written, after all others that were under way.
        """
        seeds = [
            derive_seed(self.options.seed, f"{prompt.id!r} {sample}") % 2**31
            for prompt, sample in zip(prompts, samples, strict=True)
        ]
        for place, text in self._writer.write([self.options.ask(prompt) for prompt in prompts], seeds=seeds):
            # A reason such as content_filter is kept, and counts as a text that is not finished.
            reason = "stop" if text.is_finished else text.finish_reason or "unknown"
            yield place, Writing(text.text, reason, None, text.log_prob, text.tokens)


def open_writer(
    teacher: str, *, options: DecodingOptions | None = None, tokenizer: str | None = None, model: str | None = None
) -> TextWriter:
    """Open a teacher by its name on the command line.

    Args:
        teacher: ``http://HOST:PORT/v1``; or a model, as for `limbeck.models.open_model`: ``hf:NAME``, a folder,
            ``my.py:build@WEIGHTS``.
        options: How texts are written.
        tokenizer: The folder of the tokenizer; by default the one that belongs to the model.
        model: The name of the model on a server.

    Raises:
        LimbeckError: If the teacher cannot be opened, or there is no tokenizer.
    """
    if teacher.startswith(("http://", "https://")):
        if tokenizer is not None:
            raise ArgumentError("A server has its own tokenizer: leave --tokenizer out.", argument="tokenizer")
        return ServedWriter(teacher, model, options=options)
    if model is not None:
        raise ArgumentError(
            f"--model names a model on a server, and {teacher} is none: leave it out.", argument="model"
        )
    place = tokenizer or find_tokenizer(teacher)
    if place is None:
        raise LimbeckError(f"There is no tokenizer beside {teacher}. Name its folder: --tokenizer FOLDER.")
    opened = open_tokenizer(place)
    network = open_model(teacher, head=LANGUAGE_MODELING, tokenizer=opened)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return ModelWriter(network.to(device), opened, options=options, name=teacher)
