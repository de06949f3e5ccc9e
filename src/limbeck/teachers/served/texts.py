"""`ServedTextWriter`: texts written by a server: any OpenAI-compatible one, also llama.cpp and hosted chat models."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, NamedTuple, final

from limbeck.errors import ArgumentError, LimbeckError, ServerError, unknown_name_error
from limbeck.teachers.served.client import API_KEY_ENV, ServerClient

Prompt = str | Sequence[Mapping[str, str]]
"""A text to continue, or the messages of a chat, each with ``role`` and ``content``."""


class WrittenText(NamedTuple):
    """A text that a server has written.

    Attributes:
        text: The text, without its prompt.
        finish_reason: ``stop``: the model ended it; ``length``: it was cut off; or another word of the server.
        tokens: The number of its tokens; None if the server does not say.
        log_prob: The sum of the log-probabilities of its tokens in nats, as the server gives them (vLLM: at temperature
            1); None if they were not asked for, or the server gives none.
    """

    text: str
    finish_reason: str | None = None
    tokens: int | None = None
    log_prob: float | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the model ended the text by itself."""
        return self.finish_reason in ("stop", "eos", "end_turn")


@final
class ServedTextWriter:
    """Writes texts with the model of a server.

    Strings are continued (``/v1/completions``), lists of messages are answered (``/v1/chat/completions``).

    Args:
        url: The address, such as ``http://localhost:8000/v1``.
        model: The name of the model; by default the only one that the server has.
        max_new_tokens: The most tokens of a text.
        temperature: The temperature of the draws; 0 takes the most likely token.
        top_p: The probability of the tokens that may be drawn.
        log_probs: Whether to ask for log-probabilities.
        api_key_env: The *name* of the environment variable with the key.
        concurrency: The number of requests at a time.
        timeout: Seconds without a byte after which a request is repeated.
        retries: The number of repetitions.

    Raises:
        ArgumentError: If an argument is out of range.

    Example:
        >>> ServedTextWriter("http://localhost:8000/v1", model="big", temperature=0.7).describe()["temperature"]
        0.7
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        max_new_tokens: int = 256,
        temperature: float | int = 1.0,
        top_p: float | int = 1.0,
        log_probs: bool = False,
        api_key_env: str = API_KEY_ENV,
        concurrency: int = 8,
        timeout: float | int = 120.0,
        retries: int = 6,
    ) -> None:
        if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
            raise ArgumentError(
                f"max_new_tokens is a whole number, at least 1; got {max_new_tokens!r}.", argument="max_new_tokens"
            )
        if not 0 <= temperature < float("inf"):
            raise ArgumentError(f"temperature is a number, 0 or above; got {temperature!r}.", argument="temperature")
        if not 0 < top_p <= 1:
            raise ArgumentError(f"top_p is a number above 0, at most 1; got {top_p!r}.", argument="top_p")
        self.client = ServerClient(
            url, api_key_env=api_key_env, concurrency=concurrency, timeout=timeout, retries=retries
        )
        self.max_new_tokens, self.log_probs = max_new_tokens, log_probs
        self.temperature, self.top_p = float(temperature), float(top_p)
        self._model = model

    @property
    def model(self) -> str:
        """The name of the model; asks the server if it was not given."""
        if self._model is None:
            self._model = choose_model(list_models(self.client), None, self.client.url)["id"]
        return str(self._model)

    def write(
        self, prompts: Sequence[Prompt], *, seeds: Sequence[int] | None = None
    ) -> Iterator[tuple[int, WrittenText]]:
        """Write a text for each prompt, and yield its place in `prompts` with it as soon as it is there.

        A caller that stores each text at once loses nothing that was paid for: if one prompt fails, all texts that were
        under way are yielded before the error is raised, and a later call for the other prompts continues.

        Args:
            prompts: Texts or chats. They may be mixed.
            seeds: A seed for each prompt, for servers that take one.

        Raises:
            ServerError: If a text was not written, after all others that were under way.
        """
        if seeds is not None and len(seeds) != len(prompts):
            raise ArgumentError(f"These are {len(seeds)} seeds for {len(prompts)} prompts.", argument="seeds")
        waiting: dict[Future[WrittenText], int] = {}
        following, failure = iter(range(len(prompts))), None
        try:
            while True:
                while failure is None and len(waiting) < 2 * self.client.concurrency:
                    place = next(following, None)
                    if place is None:
                        break
                    waiting[self._submit(prompts[place], None if seeds is None else seeds[place])] = place
                if not waiting:
                    break
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    place = waiting.pop(future)
                    if (error := future.exception()) is None:
                        yield place, future.result()
                    elif isinstance(error, LimbeckError):
                        failure = failure or error
                    else:
                        raise error
        finally:
            if waiting:  # the caller has stopped
                self.client.close()
        if failure is not None:
            raise failure

    def _submit(self, prompt: Prompt, seed: int | None) -> Future[WrittenText]:
        body: dict[str, Any] = {
            "model": self.model, "max_tokens": self.max_new_tokens, "temperature": self.temperature,
            "top_p": self.top_p, "stream": False,
        }  # fmt: skip
        if seed is not None:
            body["seed"] = seed
        if isinstance(prompt, str):
            body |= {"prompt": prompt} | ({"logprobs": 1} if self.log_probs else {})
            return self.client.submit("/v1/completions", body, read=_read_completion)
        body |= {"messages": [dict(message) for message in prompt]} | ({"logprobs": True} if self.log_probs else {})
        return self.client.submit("/v1/chat/completions", body, read=_read_chat)

    def describe(self) -> dict[str, Any]:
        """What the texts depend on, for a record: the model and the decoding, but not the address."""
        return {
            "writer": "served", "model": self._model, "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature, "top_p": self.top_p,
        }  # fmt: skip

    @property
    def fingerprint(self) -> str:
        """The hash of the model's name and of the decoding. A server does not show its weights."""
        return hashlib.sha256(json.dumps({**self.describe(), "model": self.model}, sort_keys=True).encode()).hexdigest()


def list_models(client: ServerClient) -> list[dict[str, Any]]:
    """The models of a server, each with its ``id``.

    Raises:
        ServerError: If it was not reached, or has no list of models.
    """
    value = client.get("/v1/models", retries=min(client.retries, 1))
    models = value.get("data") if isinstance(value, Mapping) else None
    named = [dict(one) for one in models or () if isinstance(one, Mapping) and isinstance(one.get("id"), str)]
    if not named:
        raise ServerError(f"The server {client.url} lists no model at /v1/models, so it is no model server.")
    return named


def choose_model(models: Sequence[Mapping[str, Any]], name: str | None, url: str) -> Mapping[str, Any]:
    """The model of a name; the only one without a name.

    Raises:
        UnknownNameError: If the server has no such model; the nearest is named.
        ArgumentError: If it has several, and none was named.
    """
    by_name = {str(one["id"]): one for one in models}
    if name is None and len(by_name) > 1:
        raise ArgumentError(
            f"The server {url} has several models ({', '.join(list(by_name)[:8])}): name one with model=.",
            argument="model",
            example=next(iter(by_name)),
        )
    if name is not None and name not in by_name:
        raise unknown_name_error(f"model of the server {url}:", name, by_name, argument="model")
    return by_name[name] if name is not None else next(iter(by_name.values()))


def _choice(value: Any) -> tuple[Mapping[str, Any], int | None]:
    """The first choice of an answer, and the number of tokens that were written."""
    choices = value.get("choices") if isinstance(value, Mapping) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise ServerError("The server's answer has no text (no choices).")
    usage = value.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
    return choices[0], tokens if isinstance(tokens, int) else None


def _read_completion(value: Any) -> WrittenText:
    choice, tokens = _choice(value)
    text, log_probs = choice.get("text"), choice.get("logprobs")
    values = log_probs.get("token_logprobs") if isinstance(log_probs, Mapping) else None
    return _make_text(text, choice, tokens, values)


def _read_chat(value: Any) -> WrittenText:
    choice, tokens = _choice(value)
    message, log_probs = choice.get("message"), choice.get("logprobs")
    text = message.get("content") if isinstance(message, Mapping) else None
    content = log_probs.get("content") if isinstance(log_probs, Mapping) else None
    values = [one.get("logprob") for one in content] if isinstance(content, list) else None
    return _make_text(text, choice, tokens, values)


def _make_text(text: Any, choice: Mapping[str, Any], tokens: int | None, values: Any) -> WrittenText:
    if not isinstance(text, str):
        raise ServerError("The server's answer has no text. Is it an answer with tools, or a refusal?")
    known = isinstance(values, list) and bool(values) and all(map(_is_finite, values))
    # Half a surrogate pair, which JSON can hold, is refused by tokenizers.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    reason = choice.get("finish_reason")
    return WrittenText(
        text, reason if isinstance(reason, str) else None,
        len(values) if tokens is None and known else tokens, float(sum(values)) if known else None,
    )  # fmt: skip


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
