"""`ServerClient`: JSON over HTTP, several requests at a time, repeated where that helps."""

from __future__ import annotations

import email.utils
import http.client
import json
import logging
import os
import random
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from email.message import Message
from typing import Any, TypeVar, final
from urllib.parse import urlsplit

from limbeck.errors import ArgumentError, ServerError

API_KEY_ENV = "LIMBECK_API_KEY"
"""The environment variable that has the key of a server, if it needs one."""

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before the first repetition, doubled each time, and the most that is waited unless the server says more."""
_REPEATED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_LONGEST_RETRY_AFTER = 3600.0
_SILENT_WAIT, _LINE_SECONDS = 1.5, 10.0  # waits that are not worth a line, and the least time between lines
_log = logging.getLogger(__name__)
_SHOWN = 300  # characters of a server's own words

T = TypeVar("T")


@final
class ServerClient:
    """A client of one server.

    A request is repeated if the server is busy (429), fails (5xx), does not answer in time, or breaks off. The waits
    double, with a random part, and the header Retry-After is obeyed. Everything else is an error at once. Redirects are
    not followed, so that a key goes to the named server alone. The key is read from the environment for each request
    and is in no attribute, message or pickle.

    Args:
        url: The address, such as ``http://localhost:8000/v1``; ``/v1`` may be left out.
        api_key_env: The *name* of the environment variable with the key. Without such a variable no key is sent.
        concurrency: The number of requests at a time.
        timeout: Seconds without a byte from the server after which a request is repeated.
        retries: The number of repetitions.

    Raises:
        ArgumentError: If the address is not one of http or https, or contains a password, or a number is out of range.

    Example:
        >>> ServerClient("localhost:8000/v1/").url
        'http://localhost:8000'
    """

    def __init__(
        self,
        url: str,
        *,
        api_key_env: str = API_KEY_ENV,
        concurrency: int = 8,
        timeout: float | int = 120.0,
        retries: int = 6,
    ) -> None:
        self.url = check_url(url)
        for name, number, least in (("concurrency", concurrency, 1), ("retries", retries, 0)):
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise ArgumentError(f"{name} is a whole number, at least {least}; got {number!r}.", argument=name)
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < float("inf"):
            raise ArgumentError(f"timeout is a number of seconds above 0; got {timeout!r}.", argument="timeout")
        if not api_key_env.isidentifier():
            raise ArgumentError(
                "api_key_env is the name of an environment variable that has the key, such as LIMBECK_API_KEY, and "
                "never the key itself.",
                argument="api_key_env",
                example=API_KEY_ENV,
            )
        self.api_key_env, self.concurrency, self.retries = api_key_env, concurrency, retries
        self.timeout = float(timeout)
        self._open()

    def _open(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._local, self._lock, self._stop = _ThreadConnection(), threading.Lock(), threading.Event()
        self._connections: set[http.client.HTTPConnection] = set()
        self._requests = 0
        self._told_until = 0.0
        self._random = random.Random()  # waits only; the run's random numbers are not touched

    def __del__(self) -> None:
        for connection in vars(self).get("_connections", ()):
            connection.close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    @property
    def requests(self) -> int:
        """The number of requests so far, repetitions included."""
        return self._requests

    def get(self, path: str, *, retries: int | None = None) -> Any:
        """The JSON value at a path."""
        return self._repeat("GET", path, None, _same, retries)

    def post(
        self, path: str, body: Any, *, read: Callable[[Any], T] | None = None, retries: int | None = None
    ) -> Any | T:
        """The answer to a JSON body.

        Args:
            path: The path, from the root of the server.
            body: The body.
            read: Converts the JSON value to the result. It raises a `ServerError` for an answer that cannot be used.
            retries: The number of repetitions, if it is not that of the client.

        Raises:
            ServerError: If there is no usable answer.
        """
        return self._repeat("POST", path, body, _same if read is None else read, retries)

    def submit(self, path: str, body: Any, *, read: Callable[[Any], T]) -> Future[T]:
        """Send a request in a thread; at most `concurrency` are sent at a time."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="limbeck-server")
        return self._pool.submit(self._repeat, "POST", path, body, read, None)

    def close(self) -> None:
        """Break off what is under way; the client can be used again."""
        self._stop.set()
        with self._lock:
            pool, connections = self._pool, list(self._connections)
            self._pool, self._connections = None, set()
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
        for connection in connections:
            connection.close()
        self._stop, self._local = threading.Event(), _ThreadConnection()

    # --- one request ------------------------------------------------------------------------------------------------

    def _repeat(self, method: str, path: str, body: Any, read: Callable[[Any], T], retries: int | None) -> T:
        stop, most = self._stop, self.retries if retries is None else retries
        for attempt in range(most + 1):
            status: int | None = None
            try:
                answered, headers, content = self._exchange(method, path, body)
                if answered == 200:
                    return self._read(read, self._parse(content, headers), path)
            except (OSError, http.client.HTTPException, _BrokenOffError) as error:
                problem, wait = self._describe_failure(error), None
                if isinstance(error, ssl.SSLCertVerificationError):
                    raise ServerError(problem) from None
            else:
                status = answered
                problem, wait = self._describe_status(answered, headers, content, path), _retry_after(headers)
                if status not in _REPEATED:
                    raise ServerError(problem, status=status)
            if attempt == most:
                break
            seconds = self._wait(attempt, wait)
            self._tell(problem, attempt, most, seconds)
            if stop.wait(seconds):
                break
        times = f" It was asked {attempt + 1} times." if attempt else ""
        raise ServerError(f"{problem}{times}", status=status)

    def _tell(self, problem: str, attempt: int, most: int, seconds: float) -> None:
        """Log a repetition. Requests are sent side by side, so only one line is written in a few seconds."""
        with self._lock:
            now = time.monotonic()
            if now < self._told_until or seconds < _SILENT_WAIT:
                return
            self._told_until = now + min(seconds, _LINE_SECONDS)
        _log.warning("%s Asking again in %.0f s (repetition %d of %d).", problem, seconds, attempt + 1, most)

    def _wait(self, attempt: int, retry_after: float | None) -> float:
        if retry_after is not None:
            return min(retry_after, _LONGEST_RETRY_AFTER)
        return min(FIRST_WAIT * 2.0**attempt, LONGEST_WAIT) * self._random.uniform(0.75, 1.25)

    def _exchange(self, method: str, path: str, body: Any) -> tuple[int, Message, bytes]:
        """Send a request; a kept connection that the server has closed meanwhile is opened again."""
        kept = self._local.connection
        try:
            return self._send(kept or self._connect(), method, path, body)
        except (ConnectionError, http.client.RemoteDisconnected, http.client.CannotSendRequest):
            if kept is None:
                raise
        return self._send(self._connect(), method, path, body)

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        connection = (
            http.client.HTTPSConnection(host, parts.port, timeout=self.timeout, context=ssl.create_default_context())
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, parts.port, timeout=self.timeout)
        )
        with self._lock:
            self._connections.add(connection)
        self._local.connection = connection
        return connection

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Any
    ) -> tuple[int, Message, bytes]:
        headers = {"Accept": "application/json", "User-Agent": "limbeck"}
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        content = None
        if body is not None:
            content = json.dumps(body, allow_nan=False).encode()
            headers["Content-Type"] = "application/json"
        self._requests += 1
        try:
            connection.request(method, f"{urlsplit(self.url).path}{path}", content, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except BaseException:
            self._drop(connection)
            raise

    def _drop(self, connection: http.client.HTTPConnection) -> None:
        connection.close()
        with self._lock:
            self._connections.discard(connection)
        self._local.connection = None

    # --- words ------------------------------------------------------------------------------------------------------

    def _read(self, read: Callable[[Any], T], value: Any, path: str) -> T:
        """The result of an answer. One of another form must end a run in the same way as one that cannot be used."""
        try:
            return read(value)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ServerError(
                f"The server {self.url} answers {path} in a form that is not known here "
                f"({type(error).__name__}: {_one_line(self._hide_key(str(error)))}).",
                status=200,
            ) from error

    def _parse(self, content: bytes, headers: Message) -> Any:
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            kind = str(headers.get("Content-Type", "")).partition(";")[0]
            if kind and "json" not in kind:
                raise ServerError(
                    f"{self.url} answers {kind} and not JSON, so it is not the address of a model server. An address "
                    "looks like http://localhost:8000/v1.",
                    status=200,
                ) from None
            raise _BrokenOffError(f"its answer broke off after {len(content):,} bytes") from None

    def _describe_failure(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return (
                f"The server {self.url} sent nothing for {self.timeout:g} seconds. Is it overloaded? timeout= and "
                "concurrency= can be changed."
            )
        if isinstance(error, ssl.SSLError):
            return f"The server {self.url} has no valid certificate: {_one_line(error)}."
        if isinstance(error, http.client.IncompleteRead):
            return f"The server {self.url} broke off: its answer ended after {len(error.partial):,} bytes."
        if isinstance(error, _BrokenOffError):
            return f"The server {self.url} broke off: {error}."
        if isinstance(error, http.client.HTTPException):
            return f"The server {self.url} broke off the connection ({type(error).__name__})."
        return f"The server {self.url} was not reached: {_one_line(error)}. Is the address right, and does it run?"

    def _describe_status(self, status: int, headers: Message, content: bytes, path: str) -> str:
        words = self._words(content)
        said = f": {words}" if words else ""
        if status in (401, 403):
            what = (
                f"the key in {self.api_key_env}"
                if self._key()
                else f"a request without a key; put it into {self.api_key_env}"
            )
            return f"The server {self.url} refuses {what} (status {status}{said})."
        if 300 <= status < 400:
            place = _one_line(self._hide_key(headers.get("Location", "another address")))
            return f"The server {self.url} has moved to {place}: use that one."
        if status == 404:
            return f"The server {self.url} has no {path} (status 404{said})."
        if status == 429:
            return f"The server {self.url} is busy (status 429{said}). A smaller concurrency= may help."
        return f"The server {self.url} refuses {path} (status {status}{said})."

    def _words(self, content: bytes) -> str:
        """What the server says about an error, in one line and without the key."""
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            value = content.decode("utf-8", "replace") if not content.lstrip().startswith(b"<") else ""
        for name in ("error", "message", "detail"):
            value = value.get(name, value) if isinstance(value, dict) else value
        return _one_line(self._hide_key(value if isinstance(value, str) else json.dumps(value)))

    def _key(self) -> str:
        """The key in the environment, without the line break of a file; empty if there is none.

        Raises:
            ArgumentError: If it cannot be sent. The error of http.client would show it.
        """
        key = os.environ.get(self.api_key_env, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise ArgumentError(
                f"The key in {self.api_key_env} has a line break or a letter that no key has: copy it anew.",
                argument="api_key_env",
            )
        return key

    def _hide_key(self, text: str) -> str:
        key = self._key()
        return text.replace(key, "***") if key else text


class _ThreadConnection(threading.local):
    """The connection of each thread; None before its first request."""

    connection: http.client.HTTPConnection | None = None


class _BrokenOffError(Exception):
    """An answer of status 200 that is no whole JSON value."""


def check_url(url: str) -> str:
    """The root of a server, without ``/v1``.

    Raises:
        ArgumentError: If it is no address of http or https, or contains a user name, a password or a query.

    Example:
        >>> check_url("https://host/models/v1")
        'https://host/models'
    """
    whole = url if "://" in str(url) else f"http://{url}"
    try:
        parts = urlsplit(whole)
        port = parts.port
    except ValueError:
        parts, port = urlsplit("none://"), None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ArgumentError(
            f"A server's address looks like http://localhost:8000/v1; got {str(url)[:200]!r}.",
            argument="url",
            example="http://localhost:8000/v1",
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ArgumentError(
            f"The address of {parts.hostname} contains a password or a query, which would be written into files. Leave "
            f"it out, and put a key into the environment variable {API_KEY_ENV}.",
            argument="url",
            example="http://localhost:8000/v1",
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{path}"


def _retry_after(headers: Message) -> float | None:
    """The seconds that a server asks to wait: a number, or a date."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        return max(float(value), 0.0) if float(value) < float("inf") else None
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return None


def _same(value: Any) -> Any:
    return value


def _one_line(value: object) -> str:
    text = " ".join(str(value).split()).rstrip(".")
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
