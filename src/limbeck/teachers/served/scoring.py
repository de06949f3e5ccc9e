"""`ScoringApi`: how vLLM and SGLang are asked for the log-probabilities of a given text, and how their answers read."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, final

import numpy as np
from jaxtyping import Float64, Int64

from limbeck.errors import ServerError, unknown_name_error

_ABOVE = 1e-3
"""Rounding errors of log-probabilities above 0, and of sums of probabilities above 1."""


@final
class CannotScoreError(ServerError):
    """A server does not score given texts.

    Args:
        fact: How it shows.
    """

    def __init__(self, fact: str) -> None:
        super().__init__(
            f"{fact}: it cannot score a given text and can only write texts, as llama.cpp and hosted chat APIs do. Let "
            "it write the training texts (limbeck generate), or serve the teacher with vLLM or SGLang."
        )


class ScoredText(NamedTuple):
    """The distributions that a server lists for one text, one row for each scored token.

    Attributes:
        ids: The listed tokens, the most likely first.
        log_probs: The logarithms of their probabilities.
        own: The log-probability of the token that is there, listed or not.
    """

    ids: Int64[np.ndarray, "tokens k"]
    log_probs: Float64[np.ndarray, "tokens k"]
    own: Float64[np.ndarray, " tokens"]

    @property
    def bytes(self) -> int:
        """Its size in memory."""
        return self.ids.nbytes + self.log_probs.nbytes + self.own.nbytes


class ScoringApi(ABC):
    """One kind of server.

    A text of n tokens is scored from token `first` on, which is at least 1: row i is about token ``first + i``, given
    all tokens before it. Subclasses are final.
    """

    name: ClassVar[str]
    path: ClassVar[str]

    @abstractmethod
    def make_body(
        self,
        model: str,
        ids: Sequence[int],
        first: int,
        k: int | None,
        *,
        temperature: float | int = 1.0,
        texts: bool = False,
    ) -> dict[str, Any]:
        """The body of a request.

        Args:
            model: The name of the model.
            ids: The tokens.
            first: The first token to score.
            k: The number of listed tokens; None for all.
            temperature: The temperature of the request, which a server may or may not apply.
            texts: Whether the answer should have the texts of the listed tokens (`read_token_texts`).
        """

    @abstractmethod
    def read(self, value: Any, ids: Sequence[int], first: int, k: int | None) -> ScoredText:
        """The distributions in an answer.

        Raises:
            ServerError: If it cannot be used; the sentence has the reason.
        """

    @abstractmethod
    def read_token_texts(self, value: Any) -> dict[int, str]:
        """The texts of the tokens that an answer lists, by id; empty if it has none."""

    def list_size(self, top_k: int | None, classes: int) -> int | None:
        """The number of tokens to ask for; None for all, where the server has a word for that."""
        return top_k

    def reader(self, ids: Sequence[int], first: int, k: int | None) -> Callable[[Any], ScoredText]:
        """`read` with all but the answer."""
        return lambda value: self.read(value, ids, first, k)


@final
class VllmApi(ScoringApi):
    """vLLM and servers like it: ``/v1/completions`` with `prompt_logprobs`, which list k tokens and the one there."""

    name = "vllm"
    path = "/v1/completions"

    def make_body(
        self,
        model: str,
        ids: Sequence[int],
        first: int,
        k: int | None,
        *,
        temperature: float | int = 1.0,
        texts: bool = False,
    ) -> dict[str, Any]:
        """The body of a request; all that changes a distribution is set, as a model's own defaults may differ."""
        plain = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0}
        return {
            "model": model, "prompt": list(ids), "max_tokens": 1, "prompt_logprobs": -1 if k is None else k,
            "temperature": temperature, "frequency_penalty": 0.0, "add_special_tokens": False, "stream": False, **plain,
        }  # fmt: skip

    def read(self, value: Any, ids: Sequence[int], first: int, k: int | None) -> ScoredText:
        """The distributions in an answer."""
        entries = self._entries(value)
        if entries is None:
            raise CannotScoreError("The server gives no prompt_logprobs")
        if len(entries) != len(ids):
            raise _cut_off(len(entries), len(ids))
        rows = []
        for place in range(first, len(ids)):
            entry = entries[place]
            if not isinstance(entry, Mapping) or not entry:
                raise ServerError(f"The server lists nothing for token {place} of a text of {len(ids)} tokens.")
            own = entry.get(str(ids[place]))
            if own is None:
                raise _other_ids(place, ids[place], [])
            names = np.fromiter(map(int, entry), np.int64, len(entry))
            rows.append(
                (names, _numbers([one["logprob"] for one in entry.values()]), float(_numbers([own["logprob"]])[0]))
            )
        return _arrange(rows, k)

    def read_token_texts(self, value: Any) -> dict[int, str]:
        """The texts of the listed tokens."""
        return {
            int(id): one["decoded_token"]
            for entry in self._entries(value) or () if isinstance(entry, Mapping)
            for id, one in entry.items() if isinstance(one, Mapping) and isinstance(one.get("decoded_token"), str)
        }  # fmt: skip

    def _entries(self, value: Any) -> Sequence[Any] | None:
        choices = value.get("choices") if isinstance(value, Mapping) else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        entries = choice.get("prompt_logprobs") if isinstance(choice, Mapping) else None
        return entries if isinstance(entries, list) else None


@final
class SglangApi(ScoringApi):
    """SGLang: ``/generate`` with `return_logprob`, which scores a text from a given token on."""

    name = "sglang"
    path = "/generate"

    def list_size(self, top_k: int | None, classes: int) -> int | None:
        """The number of tokens to ask for; SGLang has no word for all."""
        return classes if top_k is None else top_k

    def make_body(
        self,
        model: str,
        ids: Sequence[int],
        first: int,
        k: int | None,
        *,
        temperature: float | int = 1.0,
        texts: bool = False,
    ) -> dict[str, Any]:
        """The body of a request."""
        return {
            "input_ids": list(ids), "return_logprob": True, "logprob_start_len": first - 1, "top_logprobs_num": k,
            "return_text_in_logprobs": texts, "stream": False,
            "sampling_params": {"max_new_tokens": 1, "temperature": temperature, "top_p": 1.0, "top_k": -1},
        }  # fmt: skip

    def read(self, value: Any, ids: Sequence[int], first: int, k: int | None) -> ScoredText:
        """The distributions in an answer; its first entry belongs to the token before the first one and is null."""
        meta = value.get("meta_info") if isinstance(value, Mapping) else None
        own, listed = (meta.get(name) if isinstance(meta, Mapping) else None for name in (_OWN, _LISTED))
        if not isinstance(own, list) or not isinstance(listed, list):
            raise CannotScoreError("The server gives no input_top_logprobs")
        expected = len(ids) - first + 1
        if len(own) != expected or len(listed) != expected:
            raise _cut_off(min(len(own), len(listed)), expected)
        largest, rows = max(ids), []
        for place, (mine, entry) in enumerate(zip(own[1:], listed[1:], strict=True), start=first):
            if not isinstance(entry, list) or not entry or not isinstance(mine, list):
                raise ServerError(f"The server lists nothing for token {place} of a text of {len(ids)} tokens.")
            # SGLang writes 0 for the last token of its vocabulary.
            if mine[1] != ids[place] and not (mine[1] == 0 and ids[place] == largest):
                raise _other_ids(place, ids[place], [mine[1]])
            numbers = _numbers([one[0] for one in entry])
            if (np.diff(numbers) > _ABOVE).any():
                raise ServerError(f"The log-probabilities that the server lists for token {place} do not descend.")
            names = np.fromiter((operator.index(one[1]) for one in entry), np.int64, len(entry))
            rows.append((names, numbers, float(_numbers([mine[0]])[0])))
        return _arrange(rows, k)

    def read_token_texts(self, value: Any) -> dict[int, str]:
        """The texts of the listed tokens."""
        return {
            int(one[1]): one[2]
            for entry in value["meta_info"][_LISTED] if isinstance(entry, list)
            for one in entry if len(one) > 2 and isinstance(one[2], str)
        }  # fmt: skip


_OWN, _LISTED = "input_token_logprobs", "input_top_logprobs"

APIS: dict[str, ScoringApi] = {api.name: api for api in (VllmApi(), SglangApi())}
"""The kinds of servers by name."""


def get_api(name: str) -> ScoringApi:
    """The kind of server with a name.

    Raises:
        UnknownNameError: If there is none; the nearest is named.

    Example:
        >>> get_api("sglang").path
        '/generate'
    """
    if name not in APIS:
        raise unknown_name_error("kind of server", str(name), APIS, argument="api")
    return APIS[name]


def _numbers(values: list[Any]) -> Float64[np.ndarray, " k"]:
    """The log-probabilities of an entry; NaN where there is no number."""
    try:
        return np.array(values, np.float64)
    except (TypeError, ValueError):
        return np.full(len(values), np.nan)


def _arrange(rows: Sequence[tuple[np.ndarray, np.ndarray, float]], k: int | None) -> ScoredText:
    """The k most likely tokens of each row, sorted, and checked.

    The token that is there may be listed beyond the k; it is left out, so that a row does not depend on it.
    """
    size = k if k is not None else min((len(ids) for ids, _, _ in rows), default=0)
    ids, log_probs = np.zeros((len(rows), size), np.int64), np.zeros((len(rows), size))
    own = np.array([one for _, _, one in rows], np.float64)
    for place, (names, numbers, _) in enumerate(rows):
        if len(names) < size:
            raise ServerError(
                f"The server lists {len(names)} tokens and not {size}. Start it with --max-logprobs {size}, or take "
                f"top_k={len(names)}."
            )
        order = np.lexsort((names, -numbers))[:size]
        ids[place], log_probs[place] = names[order], numbers[order]
    _check_ids(ids)
    _check_log_probs(log_probs, own)
    return ScoredText(ids, np.minimum(log_probs, 0.0), np.minimum(own, 0.0))


def _check_ids(ids: Int64[np.ndarray, "tokens k"]) -> None:
    """A token that is listed twice would count twice."""
    ordered = np.sort(ids, axis=1)
    if (ordered < 0).any() or (ordered[:, 1:] == ordered[:, :-1]).any():
        raise ServerError("The server lists a token twice, or one with a number below 0, for one place of a text.")


def _check_log_probs(log_probs: Float64[np.ndarray, "tokens k"], own: Float64[np.ndarray, " tokens"]) -> None:
    if np.isnan(log_probs).any() or np.isnan(own).any():
        raise ServerError("The server gives log-probabilities that are NaN. Does the model overflow in its precision?")
    if (log_probs.max(1, initial=-np.inf) == -np.inf).any():
        raise ServerError("The server gives the probability 0 to all tokens of a place.")
    most = max(float(log_probs.max(initial=-1.0)), float(own.max(initial=-1.0)))
    mass = float(np.exp(np.minimum(log_probs, 1.0)).sum(1).max(initial=0.0))
    if most > _ABOVE or mass > 1 + 10 * _ABOVE:
        raise ServerError(
            f"The server's numbers are no log-probabilities: the largest is {most:.4g}, and a row has the probability "
            f"{mass:.4g}. Start it with --logprobs-mode raw_logprobs."
        )


def _cut_off(there: int, expected: int) -> ServerError:
    return ServerError(
        f"The server scores {there} of {expected} tokens: its answer is cut off, or it has changed the text."
    )


def _other_ids(place: int, id: int, found: list[Any]) -> ServerError:
    other = f" ({found[0]})" if found else ""
    return ServerError(
        f"The server's answer is about another token{other} than token {place} of the text, which is {id}: it has "
        "changed the text, or counts from another place."
    )
