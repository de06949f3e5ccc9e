"""Answers of a served teacher in a cache: few bytes, paid once, kept through faults and kills."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from fork_server import fork_command, poll_command
from limbeck.batch import LOGITS
from limbeck.cache import CacheReader
from limbeck.data import ShuffledLoader, TokenDataset
from limbeck.engine import distill
from limbeck.errors import LimbeckError, ServerError
from limbeck.functional import kl_divergence
from limbeck.losses import Loss
from limbeck.recipe import Stage
from limbeck.teachers import CachedTeacher, ServedTeacher, TeacherContext, fill_cache, verify_cache
from limbeck.teachers.served import client
from limbeck.testing import Answer, serve_model
from served_models import BROKEN, TEXTS, faults, model, tokenizer
from small_jobs import environment

PATH = "/v1/completions"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT", 0.005)


def serve(**settings):
    return serve_model(model(), tokenizer(), **settings)


def loader(*, batch_size=2, seed=0, max_length=24):
    data = TokenDataset(TEXTS, tokenizer=tokenizer(), max_length=max_length)
    return ShuffledLoader(data, batch_size=batch_size, seed=seed, shuffle=bool(seed))


def fill(teacher, stream=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this teacher has learned nothing
        list(fill_cache(teacher, stream or loader()))


def scored(server):
    """The texts that were scored for the data, without those of handshakes: by their number of tokens and content."""
    return [tuple(body["prompt"]) for path, body in server.requests if path == PATH]


def read(teacher, stream):
    found = {}
    with teacher.open(TeacherContext(loader=stream)) as session:
        for batch in stream.batches(0, 0):
            listed = session(batch).partial[LOGITS]
            for row, id in enumerate(batch.id.tolist()):
                for column in batch.mask[row].nonzero()[:, 0].tolist():
                    place = int(batch.inputs["position_ids"][row, column])
                    buckets = dict(
                        zip(listed.ids[row, column].tolist(), listed.coarse()[row, column].softmax(-1), strict=False)
                    )
                    found[id, place] = buckets
    return found


def test_what_is_stored_is_what_was_served_in_few_bytes(tmp_path):
    with serve() as server:
        served = ServedTeacher(server.url, "teacher", top_k=20)
        fresh = read(served, loader())
        teacher = CachedTeacher(served, tmp_path / "cache")
        assert teacher.encoding == {"name": "listed", "k": 20, "bits": 10, "temperature": 1.0}
        fill(teacher)
    stored = read(CachedTeacher(None, tmp_path / "cache", encoding=teacher.encoding), loader(seed=3, batch_size=3))
    assert stored.keys() == fresh.keys()
    for key, buckets in fresh.items():
        assert stored[key].keys() == buckets.keys()
        assert all(abs(stored[key][id] - p) < 0.01 for id, p in buckets.items())
    store = CacheReader(tmp_path / "cache")
    assert store.bytes / int(store.keys.positions.sum()) < 200


def test_bytes_of_a_token_do_not_grow_with_the_vocabulary(tmp_path):
    from limbeck.cache import make_encoding

    assert make_encoding("listed", classes=151_936, k=20).width < 100


def test_no_text_is_paid_for_twice(tmp_path):
    with serve() as server:
        teacher = CachedTeacher(ServedTeacher(server.url, "teacher", top_k=5), tmp_path / "cache")
        fill(teacher)
        paid = len(scored(server))
        fill(teacher)
        other = CachedTeacher(ServedTeacher(server.url, "teacher", top_k=5), tmp_path / "cache")
        fill(other, loader(seed=1, batch_size=3))
        with other.open(TeacherContext(loader=loader(seed=2))) as session:
            for batch in loader(seed=2).batches(4, 0):
                session(batch)
        assert len(scored(server)) == paid
    # And the server need not run any more.
    fill(CachedTeacher(ServedTeacher(server.url, "teacher", top_k=5), tmp_path / "cache"))


def test_another_model_name_or_k_is_refused(tmp_path):
    with serve() as server:
        fill(CachedTeacher(ServedTeacher(server.url, "teacher", top_k=5), tmp_path / "cache"))
    for name, k in (("other", 5), ("teacher", 6)):
        teacher = CachedTeacher(ServedTeacher(server.url, name, top_k=k), tmp_path / "cache")
        with pytest.raises(LimbeckError):
            fill(teacher)


def test_a_failing_server_loses_nothing_that_was_paid_for(tmp_path):
    """The fifth text fails for good: the others of its batch are stored, and only the missing one is asked again."""
    stream = loader(batch_size=3)
    victim = []

    def fail(asked, body, make):
        return Answer({"error": {"message": "broken"}}, 400) if asked == PATH and body["prompt"] in victim else make()

    with serve() as server:
        fill(CachedTeacher(ServedTeacher(server.url, "teacher", top_k=5), tmp_path / "first"), stream)
        data = scored(server)[-6:]
        victim.append(list(data[4]))
        server.intercept = fail
        server.requests.clear()
        with pytest.raises(ServerError, match="broken"):
            fill(CachedTeacher(ServedTeacher(server.url, "teacher", top_k=5), tmp_path / "cache"), stream)
        assert {*data} <= {*scored(server)}
        server.intercept = None
        server.requests.clear()
        fill(CachedTeacher(ServedTeacher(server.url, "teacher", top_k=5), tmp_path / "cache"), stream)
        again = [text for text in scored(server) if text in data]
        assert again == [tuple(victim[0])]
    store, whole = CacheReader(tmp_path / "cache"), CacheReader(tmp_path / "first")
    assert len(store) == len(whole) == 6
    one, other = (read(CachedTeacher(None, path, encoding={"name": "listed", "k": 5}), stream)
                  for path in (tmp_path / "cache", tmp_path / "first"))  # fmt: skip
    assert one == other


def test_training_fills_the_cache_and_repeats_nothing(tmp_path):
    def train(server):
        teacher = CachedTeacher(ServedTeacher(server.url, "teacher", top_k=5), tmp_path / "cache")
        stage = Stage(Loss(kl_divergence), teacher=teacher)
        run = distill(model(seed=1, width=8), stage, loader(seed=1), epochs=2, seed=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run.finish()
        return torch.cat([p.detach().flatten() for p in run.student.parameters()])

    with serve() as server:
        server.intercept = faults(PATH, BROKEN)
        first = train(server)
        paid = len(scored(server))
        assert torch.equal(train(server), first)
        assert len(scored(server)) == paid


FILL = """
import sys
from limbeck.data import ShuffledLoader, TokenDataset, open_tokenizer
from limbeck.teachers import CachedTeacher, ServedTeacher, fill_cache
url, folder, words = sys.argv[1:]
data = TokenDataset(open(f"{words}/texts.txt").read().splitlines(), tokenizer=open_tokenizer(words), max_length=24)
teacher = CachedTeacher(ServedTeacher(url, "teacher", top_k=5, concurrency=1), folder, shard_bytes=1)
list(fill_cache(teacher, ShuffledLoader(data, batch_size=2, shuffle=False)))
"""


def test_a_killed_process_loses_only_what_it_held_in_memory(tmp_path):
    """With a shard for each batch, at most the texts of one batch are asked for again."""
    lines = [f"{text} {number}" for number in range(4) for text in TEXTS]
    tokenizer().save_pretrained(tmp_path / "words")
    (tmp_path / "words" / "texts.txt").write_text("\n".join(lines))
    data = TokenDataset(lines, tokenizer=tokenizer(), max_length=24)
    reached, halfway = [], threading.Event()

    def count(asked, body, make):
        reached.append(asked)
        if reached.count(PATH) == 7 + len(data) // 2:
            halfway.set()
            time.sleep(0.2)
        return make()

    with serve(intercept=count) as server:
        words, nowhere = ["-c", FILL, server.url, str(tmp_path / "cache"), str(tmp_path / "words")], Path(os.devnull)
        child = fork_command(words, cwd=tmp_path, env=environment(), out=nowhere, err=nowhere)
        assert halfway.wait(60)
        os.kill(child, signal.SIGKILL)
        poll_command(child, wait=True)
        paid = scored(server)[7:]
        server.requests.clear()
        teacher = CachedTeacher(ServedTeacher(server.url, "teacher", top_k=5), tmp_path / "cache")
        fill(teacher, ShuffledLoader(data, batch_size=2, shuffle=False))
        again = [text for text in scored(server)[7:] if text in paid]
        assert len(again) <= 2
    assert len(CacheReader(tmp_path / "cache")) == len(data)


def test_stored_answers_are_verified_by_asking_again(tmp_path):
    with serve() as server:
        teacher = CachedTeacher(ServedTeacher(server.url, "teacher", top_k=5), tmp_path / "cache")
        fill(teacher)
        fresh = CachedTeacher(ServedTeacher(server.url, "teacher", top_k=5), tmp_path / "cache")
        assert verify_cache(fresh, loader(seed=1), sample=4).identical == 1
    with serve_model(model(seed=5), tokenizer()) as server:  # other weights under the same name
        other = CachedTeacher(ServedTeacher(server.url, "teacher", top_k=5), tmp_path / "cache")
        assert not verify_cache(other, loader(seed=1), sample=4).same


def test_all_tokens_are_stored_as_logits(tmp_path):
    with serve(max_logprobs=-1) as server:
        teacher = CachedTeacher(ServedTeacher(server.url, "teacher", top_k=None), tmp_path / "cache")
        assert teacher.encoding["name"] == "float16"
        fill(teacher, loader(max_length=8))
    store = CacheReader(tmp_path / "cache")
    assert store.columns[LOGITS].encoding.classes == len(tokenizer())
