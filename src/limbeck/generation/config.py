"""`GenerationConfig`, how texts are written, and `Generation`, the texts."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.errors import ArgumentError


@dataclass(frozen=True)
class GenerationConfig:
    """How a model writes texts. Names and defaults are those of transformers, except that tokens are drawn by default.

    The temperature is that of the draws. It has nothing to do with the temperature of a divergence.

    Attributes:
        max_new_tokens: The largest number of new tokens of a text, at least 1.
        temperature: The logits are divided by it; 0 takes the most likely token.
        top_k: Draw among the k most likely tokens; None for all.
        top_p: Draw among the most likely tokens whose probabilities together reach this, above 0 and at most 1. It
            counts after `temperature` and `top_k`.
        eos_token_id: The token that ends a text, or several; None for that of the tokenizer where there is one, and
            otherwise for none.

    Raises:
        ArgumentError: If a value is out of range.

    Example:
        >>> GenerationConfig(max_new_tokens=8, eos_token_id=[2, 0]).end_tokens
        (0, 2)
    """

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    eos_token_id: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        for name, value in (("max_new_tokens", self.max_new_tokens), ("top_k", self.top_k)):
            if value is not None or name == "max_new_tokens":
                _check_whole(name, value, 1)
        if not (_is_number(self.temperature) and 0 <= self.temperature < math.inf):
            raise ArgumentError(
                f"temperature of texts is 0 (the most likely token) or above; got {self.temperature!r}.",
                argument="temperature",
            )
        if not (_is_number(self.top_p) and 0 < self.top_p <= 1):
            raise ArgumentError(f"top_p is above 0 and at most 1; got {self.top_p!r}.", argument="top_p")
        ends = self.eos_token_id
        if ends is not None and not isinstance(ends, int):
            object.__setattr__(self, "eos_token_id", tuple(sorted({int(end) for end in ends})))
        for end in self.end_tokens:
            _check_whole("eos_token_id", end, 0)

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """The tokens that end a text."""
        if self.eos_token_id is None:
            return ()
        return (self.eos_token_id,) if isinstance(self.eos_token_id, int) else tuple(self.eos_token_id)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all values: the same fingerprint means the same draws."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """A JSON form of the settings."""
        return {**asdict(self), "eos_token_id": list(self.end_tokens)}


def _check_whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ArgumentError(f"{name} is a whole number of at least {least}; got {value!r}.", argument=name)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Generation(NamedTuple):
    """Texts that a model wrote, one row for each prompt.

    Attributes:
        tokens: The new tokens, the end token among them; 0 behind the end.
        lengths: The number of new tokens of each text, at least 1.
        logprobs: The logarithm of the probability with which each token was drawn, in nats: after `temperature`,
            `top_k` and `top_p`. At temperature 0, which makes no draws, it is that of the model at temperature 1. 0
            behind the end.
        finished: Whether the last token is an end token. A text that is not finished was cut off.
    """

    tokens: Int[Tensor, "prompts new"]
    lengths: Int[Tensor, " prompts"]
    logprobs: Float[Tensor, "prompts new"]
    finished: Bool[Tensor, " prompts"]

    @property
    def texts(self) -> tuple[Int[Tensor, " _new"], ...]:
        """The new tokens of each prompt, on the CPU."""
        tokens = self.tokens.cpu()
        return tuple(row[:length] for row, length in zip(tokens, self.lengths.tolist(), strict=True))
