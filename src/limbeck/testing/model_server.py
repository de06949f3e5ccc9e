"""`serve_model`: a model behind an HTTP server on this machine, which answers as vLLM or SGLang do."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.model_call import call, logits_of
from limbeck.models.vocabulary import read_context_length
from limbeck.tap import FrozenParameters

Api = Literal["vllm", "sglang", "text"]


class Answer(NamedTuple):
    """An answer of a server.

    Attributes:
        value: A JSON value; bytes are sent as they are.
        status: The HTTP status; 0 closes the connection without an answer.
        headers: Further headers.
        cut: Send only so many bytes of the content, and close the connection; None for all.
    """

    value: Any
    status: int = 200
    headers: Mapping[str, str] = {}
    cut: int | None = None


Intercept = Callable[[str, Any, Callable[[], Answer]], Answer]
"""A function of the path, the body and the regular answer, which may give another one."""


@dataclass
class ModelServer:
    """A server that `serve_model` has started.

    Attributes:
        model: The language model.
        tokenizer: Its tokenizer.
        api: ``vllm``, ``sglang``, or ``text`` for one that only writes texts.
        name: The name of the model.
        max_logprobs: The most tokens that it lists; -1 for no limit.
        max_length: The most tokens that it reads; by default what the model's configuration says.
        intercept: Replaces answers, to test what a client does with bad ones.
        url: The address, with ``/v1``.
        requests: The path and the body of every request so far.
        texts: The text of each token that was listed.
    """

    model: nn.Module
    tokenizer: Any
    api: Api = "vllm"
    name: str = "teacher"
    max_logprobs: int = 20
    max_length: int = 1024
    intercept: Intercept | None = None
    url: str = ""
    requests: list[tuple[str, Any]] = field(default_factory=list)
    texts: dict[int, str] = field(default_factory=dict, repr=False)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, path: str) -> int:
        """The number of requests to a path."""
        return sum(one == path for one, _ in self.requests)

    def answer(self, path: str, body: Any) -> Answer:
        """The answer to a request."""
        with self.lock:
            self.requests.append((path, body))
        if self.intercept is not None:
            return self.intercept(path, body, lambda: self._answer(path, body))
        return self._answer(path, body)

    def _answer(self, path: str, body: Any) -> Answer:
        scores = {"vllm": ["/tokenize", "/detokenize"], "sglang": ["/generate"], "text": []}[self.api]
        writes = {
            "/tokenize": self._tokenize, "/detokenize": self._detokenize, "/generate": self._generate,
            "/v1/completions": self._complete, "/v1/chat/completions": self._chat,
        }  # fmt: skip
        if path == "/v1/models":
            own = {"id": self.name, "object": "model", "owned_by": self.api, "max_model_len": self.max_length}
            return Answer({"object": "list", "data": [own]})
        if path not in (*scores, "/v1/completions", "/v1/chat/completions"):
            return Answer({"detail": "Not Found"}, 404)
        with self.lock, torch.no_grad(), FrozenParameters(self.model):
            return writes[path](body)

    # --- tokens -----------------------------------------------------------------------------------------------------

    def _tokenize(self, body: Any) -> Answer:
        special = bool(body.get("add_special_tokens", True))
        ids = self.tokenizer(body["prompt"], add_special_tokens=special, verbose=False)["input_ids"]
        return Answer({"count": len(ids), "max_model_len": self.max_length, "tokens": ids})

    def _detokenize(self, body: Any) -> Answer:
        return Answer({"prompt": self.tokenizer.decode(body["tokens"])})

    def _learn_texts(self, ids: Iterable[int]) -> None:
        for id in ids:
            if id not in self.texts:
                self.texts[id] = str(self.tokenizer.decode([id]))

    # --- scores -----------------------------------------------------------------------------------------------------

    def _log_probs(self, ids: Sequence[int]) -> Tensor:
        """The log-probabilities of the token behind each of these, in float32 as servers compute them."""
        tokens = torch.tensor([list(ids)])
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        return logits_of(call(self.model, inputs))[0].float().log_softmax(-1)

    def _complete(self, body: Any) -> Answer:
        prompt, k = body["prompt"], body.get("prompt_logprobs")
        ids = prompt if isinstance(prompt, list) else self.tokenizer(prompt)["input_ids"]
        if (refusal := self._check_length(ids, body)) is not None:
            return refusal
        choice = {"index": 0, **self._write(ids, body)}
        if self.api == "vllm" and k is not None:
            if self.max_logprobs != -1 and not 0 <= k <= self.max_logprobs:
                return _refuse(
                    f"Requested prompt logprobs of {k}, which is greater than max allowed: {self.max_logprobs}"
                )
            choice["prompt_logprobs"] = self._prompt_log_probs(ids, k)
        return Answer({"object": "text_completion", "model": self.name, "choices": [choice], "usage": {}})

    def _prompt_log_probs(self, ids: Sequence[int], k: int) -> list[dict[str, Any] | None]:
        log_probs = self._log_probs(ids)[:-1]
        k = log_probs.shape[-1] if k == -1 else min(k, log_probs.shape[-1])
        entries: list[dict[str, Any] | None] = [None]
        for row, actual in zip(log_probs, ids[1:], strict=True):
            top = row.topk(k)
            listed = {actual: (float(row[actual]), 1 + int((row > row[actual]).sum()))}
            listed |= {id: (value, rank) for rank, (id, value) in _number(top.indices, top.values)}
            self._learn_texts(listed)
            entries.append(
                {
                    str(id): {"logprob": value, "rank": rank, "decoded_token": self.texts[id]}
                    for id, (value, rank) in listed.items()
                }
            )
        return entries

    def _generate(self, body: Any) -> Answer:
        ids, first, k = body["input_ids"], body["logprob_start_len"], body["top_logprobs_num"]
        log_probs, texts = self._log_probs(ids)[first:-1], bool(body.get("return_text_in_logprobs"))

        self._learn_texts(range(log_probs.shape[-1]) if texts else ())
        known = self.texts if texts else {}
        own: list[Any] = [[None, ids[first], None]]
        own += [[float(row[id]), id, known.get(id)] for row, id in zip(log_probs, ids[first + 1 :], strict=True)]
        tops = [row.topk(min(k, len(row))) for row in log_probs]
        numbered = [list(_number(top.indices, top.values)) for top in tops]
        listed = [None, *([[value, id, known.get(id)] for _, (id, value) in top] for top in numbered)]
        meta = {"prompt_tokens": len(ids), "input_token_logprobs": own, "input_top_logprobs": listed}
        return Answer({"text": "", "meta_info": meta})

    # --- texts ------------------------------------------------------------------------------------------------------

    def _check_length(self, ids: Sequence[int], body: Any) -> Answer | None:
        """The refusal of a text that would be longer than the model reads, as servers word it; None if it fits."""
        most = int(body.get("max_tokens", 16))
        if len(ids) + most <= self.max_length:
            return None
        return _refuse(
            f"This model's maximum context length is {self.max_length} tokens, and {len(ids)} in the prompt and {most} "
            "to write were requested."
        )

    def _write(self, ids: Sequence[int], body: Any) -> dict[str, Any]:
        draw = torch.Generator().manual_seed(int(body.get("seed") or 0))
        temperature, written, reason, log_probs = float(body.get("temperature", 1.0)), list[int](), "length", []
        for _ in range(int(body.get("max_tokens", 16))):
            row = self._log_probs([*ids, *written])[-1]
            if temperature == 0:
                id = int(row.argmax())
            else:
                id = int(torch.multinomial((row / temperature).softmax(-1), 1, generator=draw))
            log_probs.append(float(row[id]))
            if id == self.tokenizer.eos_token_id:
                reason = "stop"
                break
            written.append(id)
        choice: dict[str, Any] = {"text": self.tokenizer.decode(written), "finish_reason": reason}
        if body.get("logprobs"):
            choice["logprobs"] = {"token_logprobs": log_probs}
        return choice

    def _chat(self, body: Any) -> Answer:
        text = "".join(f"{message['content']}\n" for message in body["messages"])
        ids = self.tokenizer(text)["input_ids"]
        if (refusal := self._check_length(ids, body)) is not None:
            return refusal
        choice = self._write(ids, body)
        values = choice.pop("logprobs", {}).get("token_logprobs")
        own: dict[str, Any] = {"message": {"role": "assistant", "content": choice.pop("text")}, **choice}
        if values is not None:
            own["logprobs"] = {"content": [{"logprob": value} for value in values]}
        return Answer({"object": "chat.completion", "choices": [own], "usage": {}})


def _number(ids: Tensor, values: Tensor) -> Iterator[tuple[int, tuple[int, float]]]:
    return enumerate(zip(ids.tolist(), values.tolist(), strict=True), start=1)


def _refuse(words: str) -> Answer:
    return Answer({"error": {"message": words, "code": 400}}, 400)


@contextmanager
def serve_model(model: nn.Module, tokenizer: Any, **settings: Any) -> Iterator[ModelServer]:
    """Serve a causal language model at a free port of this machine, until the end of the block.

    It is for tests and for trying out `limbeck.teachers.ServedTeacher`: it answers one request at a time.

    Args:
        model: The model: a module whose output has logits ``[batch, positions, vocabulary]``.
        tokenizer: Its tokenizer.
        **settings: Attributes of `ModelServer`, such as ``api="sglang"`` or ``max_logprobs=-1``.

    Example:
        >>> import urllib.request
        >>> from limbeck.data import train_tokenizer
        >>> tokenizer = train_tokenizer(["a b c d"], vocabulary=20)
        >>> model = nn.Sequential(nn.Embedding(20, 4), nn.Linear(4, 20))
        >>> with serve_model(model, tokenizer) as server, urllib.request.urlopen(f"{server.url}/models") as answer:
        ...     json.load(answer)["data"][0]["id"]
        'teacher'
    """
    longest = read_context_length(model)
    own = ModelServer(model, tokenizer, **({"max_length": longest} if longest else {}) | settings)

    class Handler(BaseHTTPRequestHandler):
        """One connection."""

        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # the name that http.server calls
            """Answer a request without a body."""
            self._send(own.answer(self.path, None))

        def do_POST(self) -> None:
            """Answer a request with a JSON body."""
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(own.answer(self.path, body))

        def _send(self, answer: Answer) -> None:
            if answer.status == 0:
                self.close_connection = True
                return
            content = answer.value if isinstance(answer.value, bytes) else json.dumps(answer.value).encode()
            self.send_response(answer.status)
            for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.close_connection = self.close_connection or answer.cut is not None
            self.wfile.write(content[: answer.cut])

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    class Server(ThreadingHTTPServer):
        """The server; it says nothing about clients that hang up."""

        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client may close its connection at any time."""

    with Server(("127.0.0.1", 0), Handler) as http:
        own.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield own
        finally:
            http.shutdown()
            thread.join()
