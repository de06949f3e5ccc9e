"""`shake_hands`: the checks of a server before anything is learned from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from limbeck.errors import LimbeckError, ServerError
from limbeck.models.vocabulary import PROBES
from limbeck.teachers.served.client import ServerClient
from limbeck.teachers.served.scoring import APIS, CannotScoreError, ScoredText, ScoringApi, get_api
from limbeck.teachers.served.texts import choose_model, list_models

_PROBED, _SHARED = 48, 24  # tokens of a probe, and those with which two probes begin
_SAMPLED = 512  # tokens of the vocabulary whose strings are compared
_DIFFERENT = 0.1
"""The total variation between two answers for one text that rounding cannot explain."""
_MISNAMED = 0.1
"""The share of listed tokens with another string. Servers write a few tokens of half a character in their own way."""


class Handshake(NamedTuple):
    """What is known about a server.

    Attributes:
        model: The name of its model.
        api: How it is asked.
        max_length: The most tokens that it reads; None if it does not say.
        notes: What people should know, one sentence each.
    """

    model: str
    api: ScoringApi
    max_length: int | None
    notes: tuple[str, ...] = ()


def shake_hands(
    client: ServerClient, *, model: str | None, api: str | None, top_k: int | None, classes: int, tokenizer: Any
) -> Handshake:
    """Check that a server scores given tokens, with the vocabulary of the data, and always the same.

    It asks for the list of models, twice for tokens, and for the scores of eight short texts.

    Args:
        client: The client of the server.
        model: The name of the model; None for the only one.
        api: The kind of server; None to find out.
        top_k: The number of tokens that it has to list; None for all.
        classes: The size of the vocabulary.
        tokenizer: The tokenizer of the data; None if it is not known.

    Raises:
        ServerError: If it is not reached, or its answers cannot be used.
        LimbeckError: If it has another vocabulary, lists too few tokens, or gives one text different scores.
    """
    chosen = choose_model(list_models(client), model, client.url)
    name, longest = str(chosen["id"]), chosen.get("max_model_len")
    longest = longest if isinstance(longest, int) and longest > 0 else None
    notes = _check_tokens(client, name, tokenizer, classes)
    texts = _make_probes(tokenizer, classes, longest)
    kind, first = _find_api(client, name, api, str(chosen.get("owned_by", "")), texts[0], top_k, classes)
    asked = _Asked(client, name, kind, top_k, classes)
    if tokenizer is not None:
        _check_strings(first.texts, tokenizer, name)
    _check_listed(first.scored, top_k, classes)
    _check_repeats(asked, texts, first.scored)
    hot = asked.ask(texts[0], temperature=2.0)
    if _distance(first.scored, hot) > _DIFFERENT / 10:
        notes += ("The server applies a request's temperature to the scores of a text; it is asked at temperature 1.",)
    return Handshake(name, kind, longest, notes)


class _Probed(NamedTuple):
    scored: ScoredText
    texts: dict[int, str]


class _Asked(NamedTuple):
    """The questions of a handshake."""

    client: ServerClient
    model: str
    api: ScoringApi
    top_k: int | None
    classes: int

    def ask(self, ids: Sequence[int], *, temperature: float = 1.0) -> ScoredText:
        """The scores of a text from its second token on."""
        body = self.api.make_body(self.model, ids, 1, self._k, temperature=temperature)
        scored: ScoredText = self.client.post(self.api.path, body, read=self.api.reader(ids, 1, self._k))
        return scored

    def probe(self, ids: Sequence[int], *, k: int | None) -> _Probed:
        """The first scores, with the strings of the listed tokens; a busy server is not waited for long."""
        body = self.api.make_body(self.model, ids, 1, k, texts=True)

        def read(value: Any) -> _Probed:
            return _Probed(self.api.read(value, ids, 1, k), self.api.read_token_texts(value))

        probed: _Probed = self.client.post(self.api.path, body, read=read)
        return probed

    def ask_together(self, texts: Sequence[Sequence[int]]) -> list[ScoredText]:
        """The scores of several texts that are sent at the same time."""
        futures = [
            self.client.submit(
                self.api.path, self.api.make_body(self.model, ids, 1, self._k), read=self.api.reader(ids, 1, self._k)
            )
            for ids in texts
        ]
        return [future.result() for future in futures]

    @property
    def _k(self) -> int | None:
        return self.api.list_size(self.top_k, self.classes)


def _find_api(
    client: ServerClient,
    model: str,
    api: str | None,
    owner: str,
    ids: Sequence[int],
    top_k: int | None,
    classes: int,
) -> tuple[ScoringApi, _Probed]:
    """The kind of server, with its first answer.

    Raises:
        ServerError: If it does not score texts in any way that is known here.
    """
    kinds = [get_api(api)] if api is not None else sorted(APIS.values(), key=lambda one: one.name != owner)
    failure: ServerError | None = None
    for kind in kinds:
        try:
            return kind, _probe_list_size(_Asked(client, model, kind, top_k, classes), ids)
        except ServerError as error:
            if not isinstance(error, CannotScoreError) and error.status not in (404, 405, 501):
                raise
            failure = error if failure is None or isinstance(error, CannotScoreError) else failure
    if failure is None or api is not None or isinstance(failure, CannotScoreError):
        raise failure or ServerError(f"The server {client.url} was not asked.")
    raise CannotScoreError(f"{client.url} has neither {' nor '.join(one.path for one in kinds)}")


def _probe_list_size(asked: _Asked, ids: Sequence[int]) -> _Probed:
    """The first answer; says so if the server refuses to list so many tokens."""
    k = asked.api.list_size(asked.top_k, asked.classes)
    try:
        return asked.probe(ids, k=k)
    except ServerError as error:
        if error.status not in (400, 422) or k == 1:
            raise
        refusal = error
    try:
        asked.probe(ids, k=1)
    except ServerError:
        raise refusal from None
    wanted = "all tokens (top_k=None)" if asked.top_k is None else f"top_k={asked.top_k} tokens"
    raise LimbeckError(
        f"The server {asked.client.url} does not list {wanted}. Start vLLM with --max-logprobs "
        f"{-1 if asked.top_k is None else asked.top_k}, or take a smaller top_k. It says: {refusal}"
    ) from refusal


def _make_probes(tokenizer: Any, classes: int, longest: int | None) -> list[list[int]]:
    """Three texts of tokens; the first two begin alike."""
    if tokenizer is None:
        ids = [(7919 * place + 1) % classes for place in range(4 * _PROBED)]
    else:
        ids = list(tokenizer(" ".join(PROBES), add_special_tokens=False, verbose=False)["input_ids"])
        ids = (ids * (1 + 4 * _PROBED // max(len(ids), 1)))[: 4 * _PROBED]
    size = _PROBED if longest is None else max(min(_PROBED, longest - 2), 4)
    shared = min(_SHARED, size // 2)
    head, rest = ids[:shared], size - shared
    return [
        head + ids[shared : shared + rest],
        head + ids[_PROBED + shared : _PROBED + shared + rest],
        ids[2 * _PROBED : 2 * _PROBED + size],
    ]


# --- the vocabulary -------------------------------------------------------------------------------------------------


def _check_tokens(client: ServerClient, model: str, tokenizer: Any, classes: int) -> tuple[str, ...]:
    """Compare the tokens of a text, and the strings of many tokens, where the server shows them; returns notes.

    Raises:
        LimbeckError: If they differ.
    """
    if tokenizer is None:
        return (
            f"The tokenizer of the data is not known, so token i of the {classes:,} is taken for token i of {model}.",
        )
    text = " ".join(PROBES)
    own = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    theirs = _ask_optional(client, "/tokenize", {"model": model, "prompt": text, "add_special_tokens": False}, "tokens")
    if isinstance(theirs, list) and theirs != own:
        place = next((i for i, pair in enumerate(zip(own, theirs, strict=False)) if pair[0] != pair[1]), 0)
        raise _other_vocabulary(model, f"token {own[place : place + 1]} of a text is {theirs[place : place + 1]} there")
    vocabulary = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    sample = vocabulary[:: max(len(vocabulary) // _SAMPLED, 1)]
    written = _ask_optional(client, "/detokenize", {"model": model, "tokens": sample}, "prompt")
    if isinstance(written, str) and _plain(written) != _plain(tokenizer.decode(sample)):
        raise _other_vocabulary(model, f"{len(sample)} tokens are another text there")
    return ()


def _ask_optional(client: ServerClient, path: str, body: Any, name: str) -> Any:
    """A value of an answer that only some servers give; None for others."""
    try:
        value = client.post(path, body)
    except ServerError as error:
        if error.status is None:
            raise
        return None
    return value.get(name) if isinstance(value, dict) else None


def _check_strings(texts: dict[int, str], tokenizer: Any, model: str) -> None:
    """Compare the strings of the tokens that the server lists."""
    pairs = [(id, _plain(text), _plain(tokenizer.decode([id]))) for id, text in texts.items()]
    wrong = [(id, theirs, ours) for id, theirs, ours in pairs if theirs != ours]
    if pairs and len(wrong) > _MISNAMED * len(pairs):
        id, theirs, ours = wrong[0]
        raise _other_vocabulary(model, f"token {id} is {theirs!r} there, and {ours!r} here")


def _plain(text: str) -> str:
    """A text without spaces and half characters, which tokenizers write in different ways."""
    return "".join(text.split()).replace("\ufffd", "")


def _other_vocabulary(model: str, how: str) -> LimbeckError:
    return LimbeckError(
        f"The server's model {model} has another tokenizer than the data: {how}. The same number would be another "
        "token. Read the texts with the server's tokenizer: tokenizer=, in a job teacher.tokenizer=FOLDER."
    )


# --- the scores -----------------------------------------------------------------------------------------------------


def _check_listed(scored: ScoredText, top_k: int | None, classes: int) -> None:
    largest = int(scored.ids.max(initial=0))
    if largest >= classes and top_k is not None:
        raise LimbeckError(
            f"The server lists token {largest}, and the vocabulary has {classes:,} tokens (0 to {classes - 1}). Is it "
            "the tokenizer of this model? classes= sets another size."
        )


def _check_repeats(asked: _Asked, texts: Sequence[Sequence[int]], first: ScoredText) -> None:
    """Ask for the same texts in another order and beside others, and compare; a stale cache of prefixes differs."""
    second = asked.ask(texts[1])
    again = asked.ask(texts[0])
    beside, _, last = asked.ask_together([texts[1], texts[2], texts[0]])
    shared = next((i for i, pair in enumerate(zip(*texts[:2], strict=False)) if pair[0] != pair[1]), len(texts[0])) - 1
    pairs = [(first, again), (first, last), (second, beside), (_head(first, shared), _head(second, shared))]
    worst = max(_distance(*pair) for pair in pairs)
    if worst > _DIFFERENT:
        raise LimbeckError(
            f"The server {asked.client.url} gives one text different scores: asked again, after another text or beside "
            f"others, a distribution moves by {worst:.2g} (total variation). Start vLLM with "
            "--no-enable-prefix-caching, SGLang with --disable-radix-cache."
        )


def _head(scored: ScoredText, tokens: int) -> ScoredText:
    return ScoredText(*(part[:tokens] for part in scored))


def _distance(one: ScoredText, other: ScoredText) -> float:
    """The largest total variation between two listed distributions of one token."""
    worst = 0.0
    for row in range(min(len(one.own), len(other.own))):
        here, there = (
            dict(zip(part.ids[row].tolist(), np.exp(part.log_probs[row]).tolist(), strict=True))
            for part in (one, other)
        )
        moved = sum(abs(here.get(id, 0.0) - there.get(id, 0.0)) for id in here.keys() | there.keys())
        rest = abs(sum(here.values()) - sum(there.values()))
        worst = max(worst, 0.5 * (moved + rest))
    return worst


def _probabilities(scored: ScoredText, row: int) -> dict[int, float]:
    return dict(zip(scored.ids[row].tolist(), np.exp(scored.log_probs[row]).tolist(), strict=True))
