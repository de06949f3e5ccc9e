"""Teachers that write texts: a model on this machine, and a model behind a server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data.tokenized_texts import hash_tokenizer
from limbeck.data.tokenizer import is_encoder_decoder, open_tokenizer
from limbeck.errors import ArgumentError, DataError, LimbeckError
from limbeck.generated_texts.prompts import TextPrompt
from limbeck.generated_texts.text_file import TextWriter, Writing
from limbeck.generation import GenerationConfig, generate
from limbeck.models import find_tokenizer, fingerprint, open_model
from limbeck.models.hf_folder import find_hf_config
from limbeck.models.hf_heads import LANGUAGE_MODELING
from limbeck.teachers.served import ServedTextWriter


@dataclass(frozen=True)
class DecodingOptions:
    """How texts are drawn.

    Attributes:
        max_new_tokens: The largest number of new tokens of a text.
        temperature: The temperature of the draws; 0 takes the most likely token.
        top_k: Only the k most likely tokens; None for all.
        top_p: Only the most likely tokens with this probability together.
        seed: The seed of all draws.
        chat: Whether a prompt is sent as the message of a user, by the chat template.
    """

    max_new_tokens: int = 256
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0
    chat: bool = False
