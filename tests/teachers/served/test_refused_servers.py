"""A server that would teach something else is refused, and faults while it teaches change nothing."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

pytest.importorskip("transformers")

from limbeck.batch import LOGITS, Batch
from limbeck.errors import ArgumentError, LimbeckError, MissingOutputError, ServerError, UnknownNameError
from limbeck.functional import kl_divergence
from limbeck.teachers import ModelTeacher, ServedTeacher, TeacherContext
from limbeck.teachers.served import client
from limbeck.teachers.served.scoring import APIS, CannotScoreError
from limbeck.teachers.teacher import UnfinishedBatchError
from limbeck.testing import Answer
from served_models import (
    BROKEN,
    BUSY,
    HUNG_UP,
    SCORES,
    always,
    answers,
    apis,
    cut,
    faults,
    loader,
    model,
    serve,
    tokenizer,
)
from vocabularies import renumber


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT", 0.005)


def entered(url, **settings):
    """Open a served teacher, which shakes hands."""
    stream = loader()
    with ServedTeacher(url, **settings).open(TeacherContext(loader=stream)):
        pass


def test_trap_18_a_vocabulary_of_the_same_size_with_other_ids_is_refused():
    words = renumber(tokenizer())
    with serve(words=words) as server, pytest.raises(LimbeckError, match="another tokenizer"):
        entered(server.url, top_k=5)
    # Servers without /tokenize are known by the strings of what they list.
    no_tokens = {"/tokenize": 404, "/detokenize": 404}

    def hide(asked, body, make):
        return Answer({}, no_tokens[asked]) if asked in no_tokens else make()

    for api in SCORES:
        with serve(words=words, api=api, intercept=hide) as server, pytest.raises(LimbeckError, match="token"):
            entered(server.url, top_k=5)
        with serve(api=api, intercept=hide) as server:
            entered(server.url, top_k=5)


def test_a_larger_vocabulary_than_the_tokenizer_s_is_refused_and_its_unused_outputs_are_left_out():
    large = model(vocabulary=len(tokenizer()) + 40)
    with serve(large) as server:
        with pytest.raises(LimbeckError, match="classes="):
            entered(server.url, top_k=30)
        stream = loader()
        (batch, own), *_ = answers(ServedTeacher(server.url, top_k=None), stream)
    live = answers(ModelTeacher(large), stream)[0][1][LOGITS][..., : len(tokenizer())].log_softmax(-1)
    torch.testing.assert_close(own[LOGITS][batch.mask].log_softmax(-1), live[batch.mask], atol=2e-5, rtol=0)


def test_trap_20_nothing_is_renormalized_over_k():
    stream = loader()
    with serve() as server:
        (batch, own), *_ = answers(ServedTeacher(server.url, top_k=1), stream)
    listed = own.partial[LOGITS][batch.mask]
    p = answers(ModelTeacher(model()), stream)[0][1][LOGITS][batch.mask].softmax(-1).amax(-1)
    torch.testing.assert_close(listed.coarse().softmax(-1)[:, 0], p, atol=1e-5, rtol=0)
    # A student that agrees on the only listed token and on the rest has divergence 0, whatever the rest is.
    student = listed.spread() + torch.zeros(len(p), len(tokenizer()))
    assert float(listed.compare(kl_divergence, student).abs().max()) < 1e-5


def test_trap_21_the_limit_of_listed_tokens_is_named():
    with serve(max_logprobs=20) as server:
        entered(server.url, top_k=20)
        with pytest.raises(LimbeckError, match="--max-logprobs 50"):
            entered(server.url, top_k=50)
        with pytest.raises(LimbeckError, match="--max-logprobs -1"):
            entered(server.url, top_k=None)


def test_trap_21_processed_log_probabilities_are_asked_for_at_temperature_1():
    """vLLM's own default is raw; with --logprobs-mode processed_logprobs a request's temperature counts."""

    def heat(asked, body, make):
        answer = make()
        if asked == SCORES["vllm"] and body["temperature"] != 1.0:
            for entry in answer.value["choices"][0]["prompt_logprobs"][1:]:
                total = sum(math.exp(one["logprob"] / 2) for one in entry.values())
                for one in entry.values():
                    one["logprob"] = one["logprob"] / 2 - math.log(total)
        return answer

    stream = loader()
    with serve(intercept=heat) as server:
        teacher = ServedTeacher(server.url, top_k=None)
        served = answers(teacher, stream)
    assert "temperature" in teacher.notes[0]
    live = answers(ModelTeacher(model()), stream)
    batch = served[0][0]
    torch.testing.assert_close(
        served[0][1][LOGITS][batch.mask].log_softmax(-1), live[0][1][LOGITS][batch.mask].log_softmax(-1),
        atol=2e-5, rtol=0,
    )  # fmt: skip


def test_trap_21_a_request_sets_all_that_a_model_s_own_defaults_may_change():
    with serve() as server:
        entered(server.url, top_k=5)
        body = next(body for path, body in server.requests if path == SCORES["vllm"])
    plain = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    assert body | plain == body


def test_trap_21_logits_in_place_of_log_probabilities_are_refused():
    def raise_up(answer):
        for entry in answer.value["choices"][0]["prompt_logprobs"][1:]:
            for one in entry.values():
                one["logprob"] += 9.0
        return answer

    intercept = always(SCORES["vllm"], raise_up)
    with serve(intercept=intercept) as server, pytest.raises(ServerError, match="no log-probabilities"):
        entered(server.url, top_k=5)


def test_trap_21_an_answer_one_token_off_is_refused():
    def shift(answer):
        entries = answer.value["choices"][0]["prompt_logprobs"]
        answer.value["choices"][0]["prompt_logprobs"] = [None, *entries[2:], entries[1]]
        return answer

    with serve(intercept=always(SCORES["vllm"], shift)) as server, pytest.raises(ServerError, match="another token"):
        entered(server.url, top_k=1)


def test_trap_21_a_stale_prefix_cache_is_found():
    heard = []

    def stale(asked, body, make):
        answer = make()
        if asked == SCORES["vllm"]:
            heard.append(body["prompt"])
            if len(heard) == 3:  # the first text again: the scores of another one
                entries = answer.value["choices"][0]["prompt_logprobs"]
                entries[5], entries[6] = entries[6] | entries[5], entries[5] | entries[6]
        return answer

    with serve(intercept=stale) as server, pytest.raises(LimbeckError, match="prefix-caching"):
        entered(server.url, top_k=5)


def test_trap_22_a_cache_names_the_model_and_k():
    with serve() as server:
        marks = {ServedTeacher(server.url, top_k=k).fingerprint for k in (5, 6)}
        marks |= {ServedTeacher(server.url, name, top_k=5).fingerprint for name in ("teacher", "other")}
    assert len(marks) == 3


def test_trap_23_answers_in_memory_are_bounded(monkeypatch):
    from limbeck.teachers.served import teacher as module

    monkeypatch.setattr(module, "_REMEMBERED", 8000)
    stream = loader()
    with serve() as server:
        teacher = ServedTeacher(server.url, top_k=2)
        with teacher.open(TeacherContext(loader=stream)) as session:
            for batch in stream.batches(0, 0):
                session(batch)
                assert sum(one.bytes for one in teacher._remembered.values()) == teacher._bytes <= 8000
        assert len(teacher._remembered) > 0
        assert not pickle.loads(pickle.dumps(teacher))._remembered


def test_a_server_that_only_writes_texts_is_refused():
    for api in (None, "vllm", "sglang"):
        with serve(api="text") as server, pytest.raises(ServerError) as caught:
            entered(server.url, top_k=5, api=api)
        if api != "sglang":
            assert isinstance(caught.value, CannotScoreError)
            assert "limbeck generate" in str(caught.value)


@apis
@pytest.mark.parametrize("number", [float("nan"), float("inf"), None, "x"])
def test_nan_log_probabilities_get_one_sentence(api, number):
    def spoil(answer):
        if api == "vllm":
            next(iter(answer.value["choices"][0]["prompt_logprobs"][3].values()))["logprob"] = number
        else:
            answer.value["meta_info"]["input_top_logprobs"][3][0][0] = number
        return answer

    with serve(api=api, intercept=always(SCORES[api], spoil)) as server, pytest.raises(ServerError) as caught:
        entered(server.url, top_k=5)
    assert "\n" not in str(caught.value)


def _entries(answer):
    """The entries of an answer of vLLM; a change of one is a change of the answer."""
    return answer.value["choices"][0]["prompt_logprobs"]


def _listed(answer):
    return answer.value["meta_info"]["input_top_logprobs"]


def _repeat_first(entry):
    """Call the second token as the most likely one, in other digits."""
    first, second, *_ = sorted(entry, key=lambda id: -entry[id]["logprob"])
    entry[f"0{first}"] = entry.pop(second)


STRANGE = {
    "numbers alone": lambda a: _entries(a).__setitem__(3, {id: one["logprob"] for id, one in _entries(a)[3].items()}),
    "no number": lambda a: _entries(a).__setitem__(3, {id: {} for id in _entries(a)[3]}),
    "words": lambda a: _entries(a)[3].update({"dog": {"logprob": -9.0}}),
    "a huge id": lambda a: _entries(a)[3].update({str(2**70): {"logprob": -9.0}}),
    "an id below 0": lambda a: _entries(a)[3].update({"-1": _entries(a)[3].pop(next(iter(_entries(a)[3])))}),
    "an id twice": lambda a: _repeat_first(_entries(a)[3]),
    "no probability": lambda a: [one.update(logprob=-math.inf) for one in _entries(a)[3].values()],
    "nested without end": lambda a: a._replace(value=b"[" * 200_000),
}
STRANGE_LISTS = {
    "numbers alone": lambda a: _listed(a).__setitem__(3, [one[0] for one in _listed(a)[3]]),
    "words": lambda a: _listed(a)[3][0].__setitem__(1, "dog"),
    "half an id": lambda a: _listed(a)[3][0].__setitem__(1, 2.5),
    "an id twice": lambda a: _listed(a)[3][1].__setitem__(1, _listed(a)[3][0][1]),
    "an id below 0": lambda a: _listed(a)[3][0].__setitem__(1, -1),
    "no own token": lambda a: a.value["meta_info"]["input_token_logprobs"].__setitem__(3, [-1.0]),
}


@pytest.mark.parametrize(
    ("api", "change"),
    [*(("vllm", one) for one in STRANGE.items()), *(("sglang", one) for one in STRANGE_LISTS.items())],
    ids=lambda value: value if isinstance(value, str) else value[0],
)  # fmt: skip
def test_answers_of_another_form_get_one_sentence_and_lose_no_other_text(api, change):
    """In the middle of a run: an exception of another kind would lose what was paid for in the same batch."""
    scored = []  # the texts of the data, without those of the handshake

    def intercept(path, body, make):
        answer = make()
        if path != SCORES[api] or not scored:
            return answer
        scored.append(path)
        changed = change[1](answer) if len(scored) > 2 else None
        return changed if isinstance(changed, Answer) else answer

    with serve(api=api, intercept=intercept) as server:
        stream, teacher = loader(), ServedTeacher(server.url, top_k=4, retries=1, concurrency=1)
        with teacher.open(TeacherContext(loader=stream)) as session:
            scored.append("begin")
            with pytest.raises(UnfinishedBatchError) as caught:
                session(next(iter(stream.batches(0, 0))))
    assert caught.value.rows.tolist() == [0]
    assert "\n" not in str(caught.value)


@apis
@pytest.mark.parametrize("lost", [1, 30])
def test_an_answer_that_scores_fewer_tokens_gets_one_sentence(api, lost):
    def shorten(answer):
        if api == "vllm":
            del answer.value["choices"][0]["prompt_logprobs"][-lost:]
        else:
            del answer.value["meta_info"]["input_top_logprobs"][-lost:]
        return answer

    with serve(api=api, intercept=always(SCORES[api], shorten)) as server, pytest.raises(ServerError, match="cut off"):
        entered(server.url, top_k=5)


@apis
def test_fewer_listed_tokens_than_asked_get_one_sentence(api):
    def shorten(answer):
        if api == "vllm":
            entries = answer.value["choices"][0]["prompt_logprobs"]
            entries[4] = dict(list(entries[4].items())[:1])
        else:
            del answer.value["meta_info"]["input_top_logprobs"][4][1:]
        return answer

    with serve(api=api, intercept=always(SCORES[api], shorten)) as server, pytest.raises(ServerError, match="lists 1"):
        entered(server.url, top_k=5)


@apis
@pytest.mark.parametrize("fault", [BUSY, BROKEN, HUNG_UP, cut])
def test_faults_while_it_teaches_change_nothing(api, fault):
    stream = loader()
    with serve(api=api) as server:
        teacher = ServedTeacher(server.url, top_k=4)
        with teacher.open(TeacherContext(loader=stream)) as session:
            server.intercept = faults(SCORES[api], fault, fault, fault)
            disturbed = [session(batch).partial[LOGITS] for batch in stream.batches(0, 0)]
        calm = [own.partial[LOGITS] for _, own in answers(ServedTeacher(server.url, top_k=4), stream)]
    for one, other in zip(disturbed, calm, strict=True):
        assert all(map(torch.equal, one.tensors, other.tensors))


def test_other_temperatures_are_refused_by_name_unless_all_tokens_are_listed():
    context = TeacherContext(temperatures=frozenset({1.0, 4.0}))
    with pytest.raises(LimbeckError, match="not at 4"):
        ServedTeacher("http://host", "big").open(context)
    ServedTeacher("http://host", "big", top_k=None).open(context)


def test_layers_are_not_served():
    with pytest.raises(MissingOutputError, match=r"body\.layer"):
        ServedTeacher("http://host", "big").open(TeacherContext(requires=frozenset({"body.layer"})))


def test_texts_that_are_too_long_for_the_server_are_refused():
    with serve(max_length=12) as server:
        with pytest.raises(LimbeckError, match=r"data\.max_length=10"):
            answers(ServedTeacher(server.url, top_k=3), loader())
        answers(ServedTeacher(server.url, top_k=3), loader(max_length=10))


def test_other_inputs_than_token_ids_are_refused():
    with serve() as server:
        teacher = ServedTeacher(server.url, top_k=3, tokenizer=tokenizer())
        with teacher.open(TeacherContext()) as session:
            for inputs in (torch.randn(2, 3), {"pixels": torch.ones(2, 3)}, ["a text"]):
                with pytest.raises(LimbeckError, match="input_ids"):
                    session(Batch(inputs))


def test_the_model_must_be_one_of_the_server_s():
    with serve() as server, pytest.raises(UnknownNameError, match="teacher"):
        entered(server.url, model="techer")


@pytest.mark.parametrize(
    ("name", "value"), [("top_k", 0), ("top_k", True), ("classes", -1), ("tokenizer", "gpt2"), ("api", "vlm")]
)
def test_wrong_settings_are_refused(name, value):
    with pytest.raises((ArgumentError, UnknownNameError)) as caught:
        ServedTeacher("http://host", **{name: value})
    assert caught.value.argument == name


def test_as_many_listed_tokens_as_there_are_is_all_of_them():
    with serve() as server, pytest.raises(ArgumentError, match="top_k=None"):
        entered(server.url, top_k=len(tokenizer()))


def test_without_a_tokenizer_the_size_is_needed_and_said():
    ids = torch.tensor([[3, 4, 5]])
    with serve() as server:
        with pytest.raises(ArgumentError, match="classes="), ServedTeacher(server.url).open(TeacherContext()):
            pass
        teacher = ServedTeacher(server.url, top_k=3, classes=len(tokenizer()))
        with teacher.open(TeacherContext()) as session:
            session(Batch(ids))
    assert "not known" in teacher.notes[0]


def test_a_handshake_is_cheap_and_made_once():
    with serve() as server:
        teacher, stream = ServedTeacher(server.url, top_k=3), loader()
        for _ in range(3):
            with teacher.open(TeacherContext(loader=stream)):
                pass
        assert len(server.requests) <= 10
    assert sorted(APIS) == ["sglang", "vllm"]


def test_a_pickled_teacher_holds_no_key_and_asks_again(monkeypatch):
    monkeypatch.setenv("LIMBECK_API_KEY", "sk-secret")
    stream = loader()
    with serve() as server:
        teacher = ServedTeacher(server.url, top_k=3)
        first = answers(teacher, stream)
        data = pickle.dumps(teacher)
        assert b"sk-secret" not in data
        again = answers(pickle.loads(data), stream)
    for (_, one), (_, other) in zip(first, again, strict=True):
        assert all(map(torch.equal, one.partial[LOGITS].tensors, other.partial[LOGITS].tensors))
