"""The client of a server: what is repeated and what is not, in one sentence each, and no key anywhere."""

from __future__ import annotations

import pickle
import socket
import time
import traceback

import pytest
from torch import nn

from limbeck.data import train_tokenizer
from limbeck.errors import ArgumentError, ServerError
from limbeck.teachers.served import ServerClient, client
from limbeck.testing import Answer, serve_model
from served_models import BROKEN, BUSY, HUNG_UP, cut, faults

MODELS = "/v1/models"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT", 0.005)


def serve(**settings):
    tokenizer = train_tokenizer(["a b c d"], vocabulary=20)
    return serve_model(nn.Sequential(nn.Embedding(20, 4), nn.Linear(4, 20)), tokenizer, **settings)


def refused(server, **settings):
    with pytest.raises(ServerError) as caught:
        ServerClient(server.url, **settings).get(MODELS)
    sentence = str(caught.value)
    assert server.url.removesuffix("/v1") in sentence
    assert "\n" not in sentence
    return caught.value


@pytest.mark.parametrize("fault", [BUSY, BROKEN, HUNG_UP, cut, Answer(b'{"data": [', 200)])
def test_a_busy_failing_or_broken_answer_is_asked_again(fault):
    with serve(intercept=faults(MODELS, fault, fault)) as server:
        asked = ServerClient(server.url)
        assert asked.get(MODELS)["data"][0]["id"] == "teacher"
        assert server.count(MODELS) == asked.requests == 3


def test_a_long_wait_is_logged_once(caplog, monkeypatch):
    monkeypatch.setattr(client, "_SILENT_WAIT", 0.0)
    with serve(intercept=faults(MODELS, BROKEN, BROKEN)) as server:
        ServerClient(server.url).get(MODELS)
        address = server.url.removesuffix("/v1")
    lines = [record.getMessage() for record in caplog.records if record.name == client.__name__]
    assert len(lines) >= 1
    assert address in lines[0]
    assert "1 of 6" in lines[0]


@pytest.mark.parametrize("fault", [BUSY, BROKEN, HUNG_UP, cut])
def test_a_server_that_does_not_recover_gets_one_sentence(fault):
    with serve(intercept=faults(MODELS, *[fault] * 9)) as server:
        error = refused(server, retries=2)
        assert server.count(MODELS) == 3
        assert "asked 3 times" in str(error)
        assert error.status == (fault.status or None if isinstance(fault, Answer) else None)
    assert "CUDA" in str(error) if fault is BROKEN else True


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (400, {}, "status 400"),
        (401, {}, "LIMBECK_API_KEY"),
        (403, {}, "LIMBECK_API_KEY"),
        (404, {}, MODELS),
        (307, {"Location": "http://elsewhere.example/v1"}, "elsewhere.example"),
    ],
)
def test_what_would_fail_again_is_not_repeated(status, headers, words):
    with serve(intercept=faults(MODELS, Answer({"detail": "no"}, status, headers))) as server:
        error = refused(server)
        assert server.count(MODELS) == 1
        assert error.status == status
        assert words in str(error)


def test_a_page_of_a_browser_is_no_model_server():
    page = Answer(b"<html></html>", 200, {"Content-Type": "text/html"})
    with serve(intercept=faults(MODELS, page)) as server:
        assert "text/html" in str(refused(server))
        assert server.count(MODELS) == 1


def test_retry_after_is_obeyed():
    wait = BUSY._replace(headers={"Retry-After": "0.3"})
    with serve(intercept=faults(MODELS, wait)) as server:
        began = time.monotonic()
        ServerClient(server.url).get(MODELS)
        assert time.monotonic() - began >= 0.3


def test_a_time_out_is_asked_again():
    def slow(asked, body, make):
        if server.count(MODELS) == 1:
            time.sleep(0.4)
        return make()

    with serve(intercept=slow) as server:
        assert ServerClient(server.url, timeout=0.1).get(MODELS)
        assert server.count(MODELS) == 2
        server.requests.clear()
        assert "0.1 seconds" in str(refused(server, timeout=0.1, retries=0))


def test_a_wrong_address_gets_one_sentence():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(ServerError, match="not reached") as caught:
        ServerClient(url, retries=1).get(MODELS)
    assert caught.value.status is None


@pytest.mark.parametrize("url", ["http://me:secret@host/v1", "https://host/v1?key=secret", "https://host/#secret"])
def test_an_address_with_a_password_or_a_query_is_refused(url):
    with pytest.raises(ArgumentError) as caught:
        ServerClient(url)
    assert "secret" not in str(caught.value)
    assert "me" not in str(caught.value).split()


@pytest.mark.parametrize("url", ["", "ftp://host", "http://", "http://host:nan"])
def test_no_address_is_refused(url):
    with pytest.raises(ArgumentError):
        ServerClient(url)


@pytest.mark.parametrize(
    ("name", "value"),
    [("concurrency", 0), ("retries", -1), ("timeout", 0), ("timeout", float("nan")), ("api_key_env", "sk-1234")],
)
def test_wrong_settings_are_refused(name, value):
    with pytest.raises(ArgumentError) as caught:
        ServerClient("http://host", **{name: value})
    assert caught.value.argument == name
    assert "sk-1234" not in str(caught.value)


def test_the_key_goes_to_the_server_and_nowhere_else(monkeypatch):
    heard = []

    def listen(asked, body, make):
        heard.append(asked)
        return Answer({"error": {"message": "Incorrect API key provided: sk-secret"}}, 401)

    with serve(intercept=listen) as server:
        monkeypatch.setenv("MY_KEY", "sk-secret")
        asked = ServerClient(server.url, api_key_env="MY_KEY")
        with pytest.raises(ServerError) as caught:
            asked.get(MODELS)
    assert heard == [MODELS]
    assert "MY_KEY" in str(caught.value)
    for text in (str(caught.value), repr(vars(asked)), repr(pickle.dumps(asked))):
        assert "sk-secret" not in text


def test_a_redirect_that_repeats_the_key_does_not_show_it(monkeypatch):
    monkeypatch.setenv("LIMBECK_API_KEY", "sk-secret")
    moved = Answer(b"", 302, {"Location": "http://elsewhere.example/v1?key=sk-secret"})
    with serve(intercept=faults(MODELS, moved)) as server:
        error = refused(server)
    assert "elsewhere.example" in str(error)
    assert "sk-secret" not in str(error)


@pytest.mark.parametrize("key", ["sk-sec\nret", "sk-sec\r\nret: 1", "sk-sec\N{CYRILLIC SMALL LETTER ER}ret"])
def test_a_key_that_no_header_takes_is_refused_without_showing_it(monkeypatch, key):
    monkeypatch.setenv("LIMBECK_API_KEY", key)
    with serve() as server, pytest.raises(ArgumentError) as caught:
        ServerClient(server.url).get(MODELS)
    assert caught.value.argument == "api_key_env"
    assert "sk-sec" not in "".join(traceback.format_exception(caught.value))


def test_the_line_break_at_the_end_of_a_key_from_a_file_is_left_out(monkeypatch):
    monkeypatch.setenv("LIMBECK_API_KEY", "sk-secret\n")
    with serve() as server:
        assert ServerClient(server.url).get(MODELS)["data"]


def test_a_client_survives_a_pickle_and_a_close():
    with serve() as server:
        asked = pickle.loads(pickle.dumps(ServerClient(server.url, concurrency=2)))
        assert asked.get(MODELS)
        asked.close()
        assert asked.get(MODELS)
        assert asked.concurrency == 2
