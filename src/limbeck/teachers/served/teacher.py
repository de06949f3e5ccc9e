"""`ServedTeacher`: a language model behind a server as a teacher."""

from __future__ import annotations

import hashlib
import math
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from limbeck.batch import IGNORED, LABEL_LOG_PROBS, LOGITS, Batch, Outputs, missing_output_error
from limbeck.errors import ArgumentError, LimbeckError, ServerError
from limbeck.teachers.served.batch_texts import ServedText, read_texts
from limbeck.teachers.served.client import API_KEY_ENV, ServerClient
from limbeck.teachers.served.handshake import Handshake, shake_hands
from limbeck.teachers.served.score_files import ScoreFiles
from limbeck.teachers.served.scoring import ScoredText, get_api
from limbeck.teachers.served.texts import choose_model, list_models
from limbeck.teachers.teacher import (
    FLOAT16,
    Teacher,
    TeacherCapabilities,
    TeacherContext,
    TeacherSession,
    TokenExamples,
    UnfinishedBatchError,
    check_row_lengths,
)
from limbeck.teachers.wrapper import LazyFuture
from limbeck.top_k_logits import TopKLogits, unknown_rest

_REMEMBERED = 1 << 27
"""Bytes of scores that are kept in memory: the same test texts are asked for by every arm."""


@final
class ServedTeacher(Teacher):
    """A causal language model that is served by vLLM or SGLang, on this machine or another one.

    For each position that counts, the server lists the log-probabilities of its k most likely tokens, at temperature 1.
    All other tokens are one class, the rest (`limbeck.top_k_logits.TopKLogits`): divergences are computed with these
    k + 1 classes on both sides, and are lower bounds of the full ones. A `CachedTeacher` around it stores the answers,
    so that each is paid for once.

    Before the first answer the server is checked (`limbeck.teachers.served.shake_hands`): it scores given token ids,
    has the vocabulary of the data by token string, lists k tokens, and gives a text the same scores in any order.
    Servers that only write texts, such as llama.cpp and hosted chat models, are refused: they can write training texts.

    Args:
        url: The address, such as ``http://localhost:8000/v1``.
        model: The name of the model; by default the only one that the server has. Name it if answers are stored.
        top_k: The number of listed tokens, k. vLLM lists up to 20, unless it is started with ``--max-logprobs``. None
            for all tokens (``--max-logprobs -1``): outputs are then whole logits, for any loss and temperature.
        api: ``vllm`` or ``sglang``; by default it is found out.
        tokenizer: The tokenizer of the model; by default that of the loader's data. Texts have to be read with it.
        classes: The size of the vocabulary; by default that of the tokenizer.
        api_key_env: The *name* of the environment variable with the key. The key itself is in no file.
        concurrency: The number of requests at a time.
        timeout: Seconds without a byte from the server after which a request is repeated.
        retries: The number of repetitions.
        scores_folder: Where the scores of texts that are evaluated are kept, so that other processes, such as parallel
            runs or the trials of a search, do not ask for them again; None for in memory alone. Training texts are kept
            by a `CachedTeacher`.

    Raises:
        ArgumentError: If an argument is out of range, or the address contains a password.
        LimbeckError: When it is opened, if a loss has another temperature than 1, or an address other than the logits;
            when it is entered, if the server cannot be used.

    Example:
        >>> ServedTeacher("http://localhost:8000/v1", model="big", top_k=20).encoding
        {'name': 'listed', 'k': 20}
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        top_k: int | None = 20,
        api: str | None = None,
        tokenizer: Any = None,
        classes: int | None = None,
        api_key_env: str = API_KEY_ENV,
        concurrency: int = 8,
        timeout: float | int = 120.0,
        retries: int = 6,
        scores_folder: str | os.PathLike[str] | None = None,
    ) -> None:
        for name, number in (("top_k", top_k), ("classes", classes)):
            wrong = isinstance(number, bool) or not isinstance(number, int) or number < 1
            if number is not None and wrong:
                raise ArgumentError(f"{name} is a whole number, at least 1, or None; got {number!r}.", argument=name)
        if isinstance(tokenizer, str):
            raise ArgumentError(
                f"tokenizer is a tokenizer, not its name: limbeck.data.open_tokenizer({tokenizer!r}).",
                argument="tokenizer",
            )
        if api is not None:
            get_api(api)
        self.client = ServerClient(
            url, api_key_env=api_key_env, concurrency=concurrency, timeout=timeout, retries=retries
        )
        self.top_k, self.api, self.tokenizer = top_k, api, tokenizer
        self._model, self._classes = model, classes
        self.scores_folder = None if scores_folder is None else os.fspath(scores_folder)
        self._open()

    def _open(self) -> None:
        self._handshakes: dict[tuple[int, int], Handshake] = {}
        self._remembered: OrderedDict[bytes, ScoredText] = OrderedDict()
        self._bytes = 0
        self._outside, self._positions = 0.0, 0

    def __getstate__(self) -> dict[str, Any]:
        left_out = ("_handshakes", "_remembered", "_bytes", "_outside", "_positions")
        return {name: value for name, value in vars(self).items() if name not in left_out}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    @property
    def model(self) -> str:
        """The name of the model; asks the server if it was not given."""
        if self._model is None:
            self._model = str(choose_model(list_models(self.client), None, self.client.url)["id"])
        return self._model

    @property
    def capabilities(self) -> TeacherCapabilities:
        """Deterministic; partial unless all tokens are listed."""
        return TeacherCapabilities(partial=self.top_k is not None, scores_labels=True)

    @property
    def encoding(self) -> Mapping[str, Any]:
        """``listed`` with the same k, about 70 bytes a token for k = 20."""
        return FLOAT16 if self.top_k is None else {"name": "listed", "k": self.top_k}

    @property
    def mass_outside(self) -> float | None:
        """The mean probability of the tokens that were not listed, over all positions so far; None before the first."""
        return self._outside / self._positions if self._positions else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the handshake has found; empty before."""
        return tuple(dict.fromkeys(note for one in self._handshakes.values() for note in one.notes))

    def open(self, context: TeacherContext) -> TeacherSession:
        """Check addresses and temperatures; the server is asked when the session is entered."""
        for address in sorted(context.requires - {LOGITS, LABEL_LOG_PROBS}):
            raise missing_output_error(address, [LOGITS, LABEL_LOG_PROBS], who="a served teacher")
        for temperature in sorted(context.temperatures) if self.top_k is not None else ():
            if not math.isclose(temperature, 1.0, rel_tol=1e-9):
                raise unknown_rest(temperature, (1.0,))
        return _ServedSession(self, context)

    @property
    def fingerprint(self) -> str:
        """The hash of the model's name and of k. A server does not show its weights."""
        return hashlib.sha256(f"served {self.model} {self.top_k}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """The model and k, without the address."""
        return {"teacher": "ServedTeacher", "model": self._model, "top_k": self.top_k}

    def count_classes(self, tokenizer: Any) -> int:
        """The size of the vocabulary.

        Raises:
            ArgumentError: If there is neither a tokenizer nor a size.
        """
        if self._classes is not None:
            return self._classes
        if tokenizer is None:
            raise ArgumentError(
                "The size of the vocabulary is not known: pass tokenizer= or classes= to ServedTeacher, or texts that "
                "have a tokenizer (a TokenDataset).",
                argument="classes",
            )
        return int(max(tokenizer.get_vocab().values())) + 1

    def shake_hands(self, tokenizer: Any) -> Handshake:
        """Check the server, once for each tokenizer."""
        classes = self.count_classes(tokenizer)
        if self.top_k is not None and self.top_k >= classes:
            raise ArgumentError(
                f"top_k={self.top_k} of {classes} tokens: for all of them, top_k=None.", argument="top_k", example="20"
            )
        key = (id(tokenizer), classes)
        if key not in self._handshakes:
            self._handshakes[key] = shake_hands(
                self.client, model=self._model, api=self.api, top_k=self.top_k, classes=classes, tokenizer=tokenizer
            )
            self._model = self._handshakes[key].model
        return self._handshakes[key]

    def recall(self, key: bytes) -> ScoredText | None:
        """The scores of a text that was asked for before, if they are still in memory."""
        scored = self._remembered.get(key)
        if scored is not None:
            self._remembered.move_to_end(key)
        elif self.scores_folder is not None:
            scored = self._score_files(self.scores_folder).read(key)
        return scored

    def remember(self, key: bytes, scored: ScoredText, *, on_disk: bool = False) -> None:
        """Keep the scores of a text; the oldest ones in memory are dropped."""
        if on_disk and self.scores_folder is not None:
            self._score_files(self.scores_folder).write(key, scored)
        if key in self._remembered or scored.bytes > _REMEMBERED // 8:
            return
        self._remembered[key] = scored
        self._bytes += scored.bytes
        while self._bytes > _REMEMBERED:
            self._bytes -= self._remembered.popitem(last=False)[1].bytes

    def _score_files(self, folder: str) -> ScoreFiles:
        return ScoreFiles(folder, self.fingerprint)

    def count_outside(self, mass: float, positions: int) -> None:
        """Add to the mean of `mass_outside`."""
        self._outside += mass
        self._positions += positions


@final
class _ServedSession(TeacherSession):
    def __init__(self, teacher: ServedTeacher, context: TeacherContext) -> None:
        self._teacher, self._context = teacher, context
        examples = None if context.loader is None else context.loader.examples
        own = examples.tokenizer if isinstance(examples, TokenExamples) else None
        self._tokenizer = own if teacher.tokenizer is None else teacher.tokenizer
        self._hello: Handshake | None = None

    @property
    def ahead(self) -> int:
        """Enough batches for all requests at a time."""
        size = None if self._context.loader is None else self._context.loader.batch_size
        return max(1, -(-self._teacher.client.concurrency // (size or self._teacher.client.concurrency)))

    def __enter__(self) -> _ServedSession:
        self._hello = self._teacher.shake_hands(self._tokenizer)
        limit = self._hello.max_length
        # It scores the last label too, and writes a token behind it.
        check_row_lengths(None if limit is None else limit - 2, self._context, f"The model {self._hello.model!r}")
        return self

    def __exit__(self, *_: object) -> None:
        self._teacher.client.close()

    def __call__(self, batch: Batch) -> Outputs:
        return self.submit(batch).result()

    def submit(self, batch: Batch) -> Future[Outputs]:
        """Send the texts of a batch to the server; they are put together when the result is read."""
        hello = self._hello
        if hello is None:
            raise LimbeckError("A served teacher is asked within its with block.")
        ids, counted, texts = read_texts(self._context.preprocess(batch), batch, self._context.masks)
        futures: dict[bytes, Future[ScoredText]] = {}
        for text in texts:
            if hello.max_length is not None and len(text.ids) >= hello.max_length:
                raise LimbeckError(
                    f"A text has {len(text.ids):,} tokens, and the server reads {hello.max_length - 1:,} at most. Type "
                    f"data.max_length={hello.max_length - 2}, or start it with a larger --max-model-len."
                )
            key = text.key
            if key not in futures:
                futures[key] = self._ask(hello, text, key)
        return LazyFuture(lambda: self._put_together(ids, counted, batch, texts, futures))

    def _ask(self, hello: Handshake, text: ServedText, key: bytes) -> Future[ScoredText]:
        scored = self._teacher.recall(key)
        if scored is not None:
            known: Future[ScoredText] = Future()
            known.set_result(scored)
            return known
        k = hello.api.list_size(self._teacher.top_k, self._classes)
        body = hello.api.make_body(hello.model, text.ids, text.first, k)
        return self._teacher.client.submit(hello.api.path, body, read=hello.api.reader(text.ids, text.first, k))

    @property
    def _classes(self) -> int:
        return self._teacher.count_classes(self._tokenizer)

    def _put_together(
        self,
        ids: Tensor,
        counted: Tensor,
        batch: Batch,
        texts: Sequence[ServedText],
        futures: Mapping[bytes, Future[ScoredText]],
    ) -> Outputs:
        wait(futures.values())
        for key, future in futures.items():  # what was paid for stays, also if another text failed
            if not future.cancelled() and future.exception() is None:
                # Training has a loader; without one a text is evaluated, by itself or as a member of an ensemble.
                evaluated = LABEL_LOG_PROBS in self._context.requires or self._context.loader is None
                self._teacher.remember(key, future.result(), on_disk=evaluated)
        classes, k = self._classes, self._teacher.top_k or self._classes
        names = np.broadcast_to(np.arange(k), (*ids.shape, k)).copy()
        log_probs = np.full((*ids.shape, k), -math.log(classes))
        own = np.full(tuple(ids.shape), np.nan)
        failed: dict[int, ServerError] = {}
        for text in texts:
            error = futures[text.key].exception()
            if error is not None:
                if not isinstance(error, ServerError):
                    raise error
                failed[text.row] = error
                continue
            scored = _within(futures[text.key].result(), classes, k)
            columns = text.columns[text.first - 1 : len(text.ids) - 1]
            names[text.row, columns], log_probs[text.row, columns] = scored.ids, scored.log_probs
            own[text.row, columns] = scored.own
        if failed:
            counted = counted & ~torch.isin(torch.arange(len(ids)), torch.tensor(list(failed)))[:, None]
        outputs = self._to_outputs(torch.from_numpy(names), torch.from_numpy(log_probs), own, ids, counted, batch)
        if failed:
            rows = torch.tensor([row for row in range(len(ids)) if row not in failed], dtype=torch.int64)
            raise UnfinishedBatchError(next(iter(failed.values())), rows, outputs)
        return outputs

    def _to_outputs(
        self, names: Tensor, log_probs: Tensor, own: np.ndarray, ids: Tensor, counted: Tensor, batch: Batch
    ) -> Outputs:
        device, requires = self._context.device, self._context.requires
        answers: dict[str, Any] = {}
        if self._teacher.top_k is None:
            dense = torch.empty_like(log_probs).scatter_(-1, names, log_probs)
            answers[LOGITS] = dense.float().to(device)
        else:
            listed = TopKLogits.from_log_probs(names, log_probs, classes=self._classes)
            mass = 1.0 - log_probs[counted].exp().sum(-1)
            self._teacher.count_outside(float(mass.sum()), int(counted.sum()))
            narrow = (part.float() if part.is_floating_point() else part for part in listed.tensors)
            answers[LOGITS] = listed._like(*narrow).to(device)
        if LABEL_LOG_PROBS in requires:
            answers[LABEL_LOG_PROBS] = torch.from_numpy(_of_labels(own, ids, batch)).to(device)
        return Outputs.of({address: answers[address] for address in requires})


def _within(scored: ScoredText, classes: int, k: int) -> ScoredText:
    """The scores of the tokens of the vocabulary alone: a model may have unused outputs behind them."""
    inside = scored.ids < classes
    if inside.all() and scored.ids.shape[1] == k:
        return scored
    if (inside.sum(1) != k).any():
        raise LimbeckError(
            f"The server lists token {int(scored.ids.max())}, and the vocabulary has {classes:,} tokens. Is it the "
            "tokenizer of this model? classes= sets another size."
        )
    return ScoredText(scored.ids[inside].reshape(-1, k), scored.log_probs[inside].reshape(-1, k), scored.own)


def _of_labels(own: np.ndarray, ids: Tensor, batch: Batch) -> np.ndarray:
    """The log-probabilities of the labels; NaN where the label is not the token that was scored."""
    if batch.labels is None or batch.labels.shape != ids.shape:
        return np.full_like(own, np.nan)
    return np.where((batch.labels.cpu() == IGNORED).numpy(), np.nan, own)
