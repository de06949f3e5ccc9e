"""A served teacher gives the losses of the live one."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from limbeck.batch import LABEL_LOG_PROBS, LOGITS, Batch
from limbeck.data import ShuffledLoader, TokenDataset
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import jensen_shannon, kl_divergence, reverse_kl
from limbeck.methods import make
from limbeck.models import align_vocabularies
from limbeck.teachers import (
    AlignedTeacher,
    CachedTeacher,
    Ensemble,
    ModelTeacher,
    ServedTeacher,
    ShuffledTeacher,
    TeacherContext,
)
from limbeck.teachers.served import client
from limbeck.testing import check_teacher
from served_models import SCORES, TEXTS, answers, apis, loader, losses, model, serve, tokenizer
from vocabularies import renumber


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT", 0.005)


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


def test_an_ensemble_with_a_served_member_is_the_average_of_the_models(tmp_path):
    near, far = model(seed=3), model()
    with serve(far) as server:
        mixed = Ensemble(near, ServedTeacher(server.url, top_k=None, tokenizer=tokenizer()), mean="geometric")
        stream = loader()
        served = answers(mixed, stream, requires=frozenset({LOGITS}))
        live = answers(Ensemble(near, far, mean="geometric"), loader(), requires=frozenset({LOGITS}))
        for (batch, ours), (_, theirs) in zip(served, live, strict=True):  # a server is asked about texts, not padding
            assert torch.allclose(*(one[LOGITS][batch.mask].softmax(-1) for one in (ours, theirs)), atol=1e-5)
        learned = losses(CachedTeacher(mixed, tmp_path, encoding="float32"))
    assert learned == pytest.approx(losses(Ensemble(near, far, mean="geometric")), rel=1e-5)
    with pytest.raises(LimbeckError, match="all classes"):
        Ensemble(near, ServedTeacher(server.url, top_k=8, tokenizer=tokenizer()))
