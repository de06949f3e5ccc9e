"""A served teacher gives the losses of the live one, and a server that would teach something else is refused."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

pytest.importorskip("transformers")

from limbeck.batch import LABEL_LOG_PROBS, LOGITS, Batch
from limbeck.data import ShuffledLoader, TokenDataset
from limbeck.engine import distill
from limbeck.errors import ArgumentError, LimbeckError, MissingOutputError, ServerError, UnknownNameError
from limbeck.functional import cross_entropy, jensen_shannon, kl_divergence, reverse_kl
from limbeck.losses import Loss
from limbeck.methods import make
from limbeck.models import align_vocabularies
from limbeck.recipe import Stage
from limbeck.teachers import AlignedTeacher, CachedTeacher, ModelTeacher, ServedTeacher, ShuffledTeacher, TeacherContext
from limbeck.teachers.served import client
from limbeck.teachers.served.scoring import APIS, CannotScoreError
from limbeck.teachers.teacher import UnfinishedBatchError
from limbeck.testing import Answer, check_teacher, serve_model
from served_models import BROKEN, BUSY, HUNG_UP, TEXTS, always, cut, faults, model, tokenizer
from vocabularies import renumber

SCORES = {"vllm": "/v1/completions", "sglang": "/generate"}
apis = pytest.mark.parametrize("api", ["vllm", "sglang"])


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT", 0.005)


def serve(own=None, words=None, **settings):
    return serve_model(own or model(), words or tokenizer(), **{"max_logprobs": -1, **settings})


def loader(**how):
    settings = {"max_length": 24, **how}
    return ShuffledLoader(TokenDataset(TEXTS, tokenizer=tokenizer(), **settings), batch_size=2, shuffle=False)


def answers(teacher, stream, **context):
    """The outputs for every batch of an epoch."""
    with teacher.open(TeacherContext(loader=stream, **context)) as session:
        return [(batch, session(batch)) for batch in stream.batches(0, 0)]


def entered(url, **settings):
    """Open a served teacher, which shakes hands."""
    stream = loader()
    with ServedTeacher(url, **settings).open(TeacherContext(loader=stream)):
        pass


def losses(teacher, steps=3):
    """The reported losses of a short training."""
    student = model(seed=1, width=8)
    stage = Stage(0.5 * Loss(cross_entropy) + 0.5 * Loss(kl_divergence), teacher=teacher)
    return [report.loss for report in distill(student, stage, loader(), epochs=1, seed=0, log_every=1)][:steps]


# --- the same losses ------------------------------------------------------------------------------------------------


@apis
def test_all_classes_give_the_losses_of_the_live_teacher(api):
    live = losses(model())
    with serve(api=api) as server:
        served = losses(ServedTeacher(server.url, top_k=None))
    assert served == pytest.approx(live, rel=1e-5)
    assert len(live) == 3


@apis
@pytest.mark.parametrize("how", [{}, {"padding_side": "left"}, {"packing": True}, {"max_length": 7, "overlap": 2}])
def test_every_layout_of_texts_is_scored_as_the_live_teacher_does(api, how):
    stream = loader(**how)
    with serve(api=api) as server:
        served = answers(ServedTeacher(server.url, top_k=None), stream)
    for (batch, own), (_, live) in zip(served, answers(ModelTeacher(model()), stream), strict=True):
        torch.testing.assert_close(
            own[LOGITS][batch.mask].log_softmax(-1), live[LOGITS][batch.mask].log_softmax(-1), atol=2e-5, rtol=0
        )


@apis
def test_listed_tokens_are_the_most_likely_and_the_rest_has_the_missing_mass(api):
    stream = loader()
    with serve(api=api) as server:
        teacher = ServedTeacher(server.url, top_k=5)
        served = answers(teacher, stream)
    rest = []
    for (batch, own), (_, live) in zip(served, answers(ModelTeacher(model()), stream), strict=True):
        listed, p = own.partial[LOGITS][batch.mask], live[LOGITS][batch.mask].softmax(-1)
        top = p.topk(5)
        assert torch.equal(listed.ids.sort(-1).values, top.indices.sort(-1).values)
        torch.testing.assert_close(listed.coarse().softmax(-1)[:, -1], 1 - top.values.sum(-1), atol=1e-5, rtol=0)
        rest.append(1 - top.values.sum(-1))
        student = torch.randn(p.shape, generator=torch.Generator().manual_seed(3))
        for kernel in (kl_divergence, reverse_kl, jensen_shannon):
            merged, full = listed.compare(kernel, student), kernel(student, live[LOGITS][batch.mask])
            assert (merged <= full + 1e-5).all()  # a lower bound
            assert (merged >= -1e-6).all()
    assert teacher.mass_outside == pytest.approx(float(torch.cat(rest).mean()), abs=1e-5)


@apis
def test_the_label_beyond_k_has_its_log_probability_and_no_place_in_the_list(api):
    stream = loader()
    with serve(api=api) as server:
        served = answers(ServedTeacher(server.url, top_k=2), stream, requires=frozenset({LOGITS, LABEL_LOG_PROBS}))
    beyond = 0
    for (batch, own), (_, live) in zip(served, answers(ModelTeacher(model()), stream), strict=True):
        own_labels = own[LABEL_LOG_PROBS][batch.mask]
        exact = live[LOGITS].log_softmax(-1)[batch.mask].gather(1, batch.labels[batch.mask][:, None])[:, 0]
        torch.testing.assert_close(own_labels, exact.double(), atol=1e-5, rtol=0)
        assert own[LABEL_LOG_PROBS][~batch.mask].isnan().all()
        ids = own.partial[LOGITS].ids[batch.mask]
        assert ids.shape[-1] == 2
        beyond += int((ids != batch.labels[batch.mask][:, None]).all(-1).sum())
    assert beyond > 0


def test_prompts_are_sent_and_only_answers_are_kept():
    rows = [{"prompt": "the quick brown", "completion": " fox"}, {"prompt": "a", "completion": " small dog"}]
    stream = ShuffledLoader(TokenDataset(rows, tokenizer=tokenizer(), max_length=24), batch_size=2, shuffle=False)
    with serve(api="sglang") as server:
        ((batch, own),) = answers(ServedTeacher(server.url, top_k=3), stream)
        bodies = [body for path, body in server.requests if path == "/generate"][-2:]
    first = batch.mask.long().argmax(1).tolist()
    assert sorted(body["logprob_start_len"] for body in bodies) == sorted(first)
    assert max(first) > 0
    assert own.partial[LOGITS].shape[:2] == batch.mask.shape


def test_a_named_mask_is_answered_too():
    stream = loader()
    with serve() as server:
        teacher = ServedTeacher(server.url, top_k=None)
        (batch, own), *_ = answers(teacher, stream, masks=frozenset({"text"}))
    live = answers(ModelTeacher(model()), stream)[0][1][LOGITS].log_softmax(-1)
    every = batch.extra["masks"]["text"]
    torch.testing.assert_close(own[LOGITS][every].log_softmax(-1), live[every], atol=2e-5, rtol=0)


def test_a_served_teacher_keeps_the_laws_of_teachers():
    ids = tokenizer()(TEXTS[:3], return_tensors="pt", padding=True)["input_ids"]
    with serve() as server:
        for k in (None, 4):
            check_teacher(ServedTeacher(server.url, "teacher", top_k=k, tokenizer=tokenizer()), Batch(ids))


def test_texts_are_asked_for_once_and_in_advance():
    stream = loader()
    with serve() as server:
        teacher = ServedTeacher(server.url, top_k=3, concurrency=4)
        with teacher.open(TeacherContext(loader=stream)) as session:
            assert session.ahead == 2
            server.requests.clear()
            futures = [session.submit(batch) for batch in stream.batches(0, 0)]
            assert [future.result().partial[LOGITS].shape[0] for future in futures] == [2, 2, 2]
            assert server.count(SCORES["vllm"]) == len(stream.examples) == 6
            again = [session(batch) for batch in stream.batches(1, 0)]
            assert len(again) == 3
            assert server.count(SCORES["vllm"]) == 6


def test_equal_texts_of_a_batch_are_one_request():
    ids = torch.tensor([[5, 6, 7]] * 3)
    with serve() as server:
        teacher = ServedTeacher(server.url, top_k=3, tokenizer=tokenizer())
        with teacher.open(TeacherContext()) as session:
            server.requests.clear()
            session(Batch(ids))
        assert server.count(SCORES["vllm"]) == 1


def test_another_vocabulary_of_the_student_is_aligned_by_token_string():
    words = renumber(tokenizer())
    own = model()
    stream = ShuffledLoader(TokenDataset(TEXTS, tokenizer=words, max_length=24), batch_size=2, shuffle=False)
    alignment = align_vocabularies(words, tokenizer(), student_size=len(words) + 6, teacher_size=len(words))
    live = AlignedTeacher(ModelTeacher(own), alignment)
    with serve(own) as server:
        for k in (None, 6):
            served = AlignedTeacher(ServedTeacher(server.url, top_k=k, tokenizer=tokenizer()), alignment)
            for (batch, mine), (_, theirs) in zip(answers(served, stream), answers(live, stream), strict=True):
                student = torch.randn(*batch.labels.shape, len(words) + 6)[batch.mask]
                one, other = (out.partial[LOGITS][batch.mask].compare(kl_divergence, student) for out in (mine, theirs))
                if k is None:
                    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)
                else:
                    assert (one <= other + 1e-5).all()


def test_the_shuffled_control_takes_a_served_teacher():
    stream = loader()
    with serve() as server:
        served = answers(ShuffledTeacher(ServedTeacher(server.url, top_k=3)), stream)
    assert served[0][1].partial[LOGITS].shape[:2] == served[0][0].mask.shape


def test_texts_that_the_student_writes_are_scored_and_not_stored(tmp_path):
    rows = [{"prompt": text[:12], "completion": text[12:24]} for text in TEXTS]
    data = TokenDataset(rows, tokenizer=tokenizer(), max_length=24)

    def train(teacher):
        recipe = make("gkd", teacher=teacher, share=1.0, max_new_tokens=4)
        run = distill(model(seed=1, width=8), recipe, ShuffledLoader(data, batch_size=3), epochs=1, seed=0, log_every=1)
        return [report.loss for report in run]

    with serve() as server:
        served = train(CachedTeacher(ServedTeacher(server.url, "teacher", top_k=None), tmp_path / "cache"))
    assert served == pytest.approx(train(model()), rel=1e-5)
    assert not (tmp_path / "cache").exists()


# --- what is refused ------------------------------------------------------------------------------------------------


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
