"""Texts that a server writes: places, seeds, reasons to stop, and nothing lost when one of them fails."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")

from limbeck.errors import ArgumentError, LimbeckError, ServerError
from limbeck.teachers.served import ServedTextWriter, client
from limbeck.testing import Answer, serve_model
from served_models import BROKEN, BUSY, HUNG_UP, TEXTS, always, faults, model, tokenizer

PATH = "/v1/completions"
PROMPTS = [text[:12] for text in TEXTS]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT", 0.005)


def serve(**settings):
    return serve_model(model(), tokenizer(), **{"api": "text", **settings})


def write(server, prompts=PROMPTS, *, seeds=None, **settings):
    writer = ServedTextWriter(server.url, **{"max_new_tokens": 5, **settings})
    return dict(writer.write(prompts, seeds=seeds))


def test_texts_are_the_model_s_and_come_with_their_places():
    with serve() as server:
        texts = write(server, temperature=0, log_probs=True)
    assert sorted(texts) == list(range(len(PROMPTS)))
    ids = tokenizer()(PROMPTS[2], return_tensors="pt")["input_ids"]
    own = model().generate(ids, max_new_tokens=5, do_sample=False)[0, ids.shape[1] :]
    assert texts[2].text == tokenizer().decode(own)
    assert (texts[2].finish_reason, texts[2].tokens) == ("length", 5)
    assert not texts[2].is_finished
    assert texts[2].log_prob < 0


def test_a_seed_gives_the_same_text():
    with serve() as server:
        once, again = (write(server, seeds=range(5)) for _ in range(2))
        other = write(server, seeds=range(5, 10))
    assert once == again
    assert once != other


def test_chats_are_answered():
    chat = [{"role": "user", "content": "the quick"}]
    with serve() as server:
        texts = write(server, [chat, PROMPTS[0]], temperature=0, log_probs=True)
        assert server.count("/v1/chat/completions") == server.count(PATH) == 1
    assert texts[0].log_prob < 0


@pytest.mark.parametrize("fault", [BUSY, BROKEN, HUNG_UP])
def test_a_fault_is_asked_again(fault):
    with serve(intercept=faults(PATH, fault)) as server:
        assert len(write(server)) == len(PROMPTS)
        assert server.count(PATH) == len(PROMPTS) + 1


def test_a_prompt_that_fails_loses_no_other_text():
    def intercept(asked, body, make):
        return Answer({"error": {"message": "bad prompt"}}, 400) if (body or {}).get("prompt") == PROMPTS[2] else make()

    with serve(intercept=intercept) as server:
        writer, kept = ServedTextWriter(server.url, max_new_tokens=2, concurrency=2), {}
        texts = writer.write(PROMPTS)
        with pytest.raises(ServerError, match="bad prompt"):  # noqa: PT012 # what came before the error counts
            for place, text in texts:
                kept[place] = text
        # Every answer that the server gave was yielded.
        assert len(kept) == server.count(PATH) - 1
        assert 2 not in kept


def test_a_caller_that_stops_ends_the_requests():
    with serve() as server:
        writer = ServedTextWriter(server.url, max_new_tokens=2, concurrency=1)
        texts = writer.write(PROMPTS * 5)
        next(texts)
        texts.close()
        assert server.count(PATH) < 5 * len(PROMPTS)
        assert len(dict(writer.write(PROMPTS))) == len(PROMPTS)


@pytest.mark.parametrize(
    "value", [{}, {"choices": []}, {"choices": [{"text": None}]}, {"choices": "none"}, [], {"choices": [3]}]
)
def test_an_answer_without_a_text_gets_one_sentence(value):
    with serve(intercept=always(PATH, lambda answer: Answer(value))) as server, pytest.raises(ServerError):
        write(server)


@pytest.mark.parametrize("number", [float("nan"), float("-inf"), True, None])
def test_log_probabilities_that_are_no_numbers_are_not_known(number):
    choice = {"text": "a", "finish_reason": "stop", "logprobs": {"token_logprobs": [-1.0, number]}}
    with serve(intercept=always(PATH, lambda answer: Answer({"choices": [choice]}))) as server:
        assert {text.log_prob for text in write(server).values()} == {None}


def test_half_a_character_of_a_server_becomes_a_mark_that_tokenizers_read():
    choice = {"text": "a\ud83d b \ud83d\ude42", "finish_reason": "length"}
    with serve(intercept=always(PATH, lambda answer: Answer({"choices": [choice]}))) as server:
        assert {text.text for text in write(server).values()} == {"a\ufffd b \U0001f642"}


def test_the_model_is_named_or_the_only_one():
    two = Answer({"data": [{"id": "big"}, {"id": "small"}]})
    several = serve(intercept=always("/v1/models", lambda answer: two))
    with several as server, pytest.raises(ArgumentError, match=r"big.*small"):
        write(server)
    with serve() as server:
        assert ServedTextWriter(server.url).model == "teacher"


@pytest.mark.parametrize(
    ("name", "value"), [("max_new_tokens", 0), ("temperature", -1), ("temperature", float("nan")), ("top_p", 0)]
)
def test_wrong_settings_are_refused(name, value):
    with pytest.raises(ArgumentError) as caught:
        ServedTextWriter("http://host", **{name: value})
    assert caught.value.argument == name


def test_the_fingerprint_is_of_the_model_and_the_decoding_not_of_the_address():
    marks = {
        ServedTextWriter(url, "big", temperature=t).fingerprint for url in ("http://a", "http://b") for t in (0.5, 1.0)
    }
    assert len(marks) == 2


def test_a_wrong_number_of_seeds_is_refused():
    with pytest.raises(LimbeckError, match="2 seeds"):
        next(ServedTextWriter("http://host", "big").write(PROMPTS, seeds=[1, 2]))
