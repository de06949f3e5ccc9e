"""`limbeck cache`: build, info, verify, sharing, and errors."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

import limbeck as lb
from limbeck import ShuffledLoader
from limbeck.cache import CacheReader
from limbeck.data import TokenDataset, train_tokenizer
from limbeck.job import read_run_job
from limbeck.teachers import CachedTeacher, fill_cache
from small_jobs import blobs, job_file, small_job, taught_network


@pytest.fixture
def taught(here):
    """Data, a teacher with weights beside them, and the flags that name both."""
    lb.save(taught_network(here)[0], here / "teacher")
    return "--teacher", "teacher", "--data", "data.npz"


FOLDER = ("--set", "cache.folder=answers")
STUDENT = ("--student", "mlp", "--set", "student.hidden=[8]")


def test_what_it_would_take_is_told_before_it_is_paid_for(here, limbeck, taught):
    ended = limbeck("cache", "info", *taught, "--json", "--set", "budget.shift=1", "--set", "cache.views=3")
    assert ended.code == 0, ended.err
    told = ended.result
    assert told["answers"] == 3 * 135
    assert told["views"] == 3
    by_name = {one["encoding"]["name"]: one for one in told["estimates"]}
    assert by_name["float32"]["bytes"] == 5 * 4 + 16
    assert by_name["float32"]["error"] == 0.0
    assert 0 < by_name["float16"]["error"] < by_name["quantized"]["error"] < 1e-3
    assert all(one["total"] == 3 * 135 * one["bytes"] for one in told["estimates"])
    shown = limbeck("cache", "info", *taught)
    assert "135 outputs" in shown.out
    assert "float16" in shown.out
    assert not (here / "answers").exists()
    own = {"name": "top-k", "k": 3, "bits": 7}
    told = ("--set", "cache.encoding={name: top-k, k: 3, bits: 7}", "--set", "budget.batch_size=500")
    ended = limbeck("cache", "info", *taught, "--json", *told)
    assert ended.result["estimates"][-1]["encoding"] == own  # what the job asks for is among the others
    assert ended.result["seconds"] > 0  # also where all examples are one batch


def test_a_cache_of_texts_shows_its_tokens_and_bytes_a_token(here, limbeck):
    class Bigram(torch.nn.Embedding):
        def forward(self, input_ids, **_):
            return super().forward(input_ids)

    tokenizer = train_tokenizer(["a b c d"], vocabulary=30)
    rows = [{"prompt": "a b c", "completion": " d a"}, {"prompt": "a", "completion": " d c b"}]
    data = TokenDataset(rows, tokenizer=tokenizer, add_eos_token=False)
    teacher = CachedTeacher(Bigram(len(tokenizer), len(tokenizer)), "texts", encoding="float32", inputs=True)
    list(fill_cache(teacher, ShuffledLoader(data, batch_size=2)))
    facts = limbeck("cache", "info", "texts", "--json").result
    assert facts["tokens"] == data.labeled_tokens
    assert facts["bytes_per_token"] == pytest.approx(facts["bytes"] / facts["tokens"])
    assert facts["bytes_per_token"] >= 4 * len(tokenizer)
    assert facts["inputs"]
    assert "bytes a token" in limbeck("cache", "info", "texts").out
    assert limbeck("cache", "verify", "texts").code == 0
    path = here / "texts" / "tokens.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    damaged = limbeck("cache", "verify", "texts")
    assert damaged.code == 1
    assert "tokens.safetensors is damaged" in damaged.err
    assert "1 of 4 files are damaged" in damaged.err  # with the shard and the two files of the tokenizer


def test_two_parts_become_one_cache(here, limbeck, taught):
    batches = ("--set", "budget.batch_size=16")
    first = limbeck("cache", "build", *taught, *FOLDER, *batches, "--part", "1/2", "--json")
    assert first.result == {"part": 1, "parts": 2, "joined": False}
    last = limbeck("cache", "build", *taught, *FOLDER, *batches, "--part", "2/2")
    assert "all parts are joined" in last.err + last.out
    assert "135 outputs" in last.out
    assert limbeck("cache", "build", *taught, *FOLDER, *batches, "--json").result["answers"] == 135
    assert limbeck("cache", "build", *taught, *FOLDER, "--part", "3/2").code == 1


def test_answers_are_built_once_checked_and_shared(here, limbeck, taught):
    for _ in range(2):
        ended = limbeck("cache", "build", *taught, *FOLDER, "--json")
        assert ended.code == 0, ended.err
        assert ended.result["answers"] == ended.result["examples"] == 135
        assert ended.result["shards"] == 1
    assert "135 outputs (logits as float16)" in limbeck("cache", "info", "answers").out
    assert "checksums match" in limbeck("cache", "verify", "answers").out
    again = limbeck("cache", "verify", *taught, *FOLDER, "--sample", "40", "--json")
    assert again.result["recheck"]["answers"] >= 40
    assert again.result["recheck"]["divergence"] < 1e-6
    seed = str(again.result["recheck"]["seed"])
    repeated = limbeck("cache", "verify", *taught, *FOLDER, "--sample", "40", "--seed", seed, "--json")
    assert repeated.result["recheck"] == again.result["recheck"]
    before = CacheReader("answers").manifest
    ended = limbeck("distill", *taught, *STUDENT, *FOLDER, "--set", "budget.epochs=2", "--seeds", "2", "--json")
    assert ended.code == 0, ended.err
    assert CacheReader("answers").manifest == before
    run = here / ended.result["run"]
    assert yaml.safe_load((run / "job.yaml").read_text())["cache"]["folder"] == "answers"
    assert read_run_job(run)["cache"]["folder"] == str(here / "answers")


def test_arms_side_by_side_are_built_for_first(here, limbeck, taught):
    del taught
    job = small_job(here / "data.npz", teacher={"model": "teacher"}, workers=2, cache={"folder": "answers"}, out="run")
    ended = limbeck("distill", job_file(here / "job.yaml", job), "--json")
    assert ended.code == 0, ended.err
    assert len(CacheReader("answers")) == ended.result["data"]["train"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_method_with_hints_has_all_its_addresses_kept(here, limbeck, taught, workers):
    del taught
    methods = ["hinton", {"name": "fitnets", "hint": "layer1", "guided": "layer1"}]
    where = str(here / "answers")  # processes that were begun for another test are in another folder
    job = small_job(here / "data.npz", teacher={"model": "teacher"}, workers=workers, methods=methods, cache=where)
    ended = limbeck("distill", job_file(here / "job.yaml", {**job, "out": "run"}), "--json")
    assert ended.code == 0, ended.err
    store = CacheReader("answers")
    assert len(store) == ended.result["data"]["train"]
    assert {*store.columns} == {"logits", "layer1"}


def test_a_store_that_does_not_serve_an_arm_is_refused_before_any_arm_learns(here, limbeck, taught):
    limbeck("cache", "build", *taught, *FOLDER)
    hints = ("--method", "fitnets", "--set", "method.hint=layer1", "--set", "method.guided=layer1")
    ended = limbeck("distill", *taught, *STUDENT, *FOLDER, *hints, "--out", "run")
    assert ended.code == 1
    assert "cache at answers was made" in ended.err
    assert "(outputs): it has logits, and this run has layer1" in ended.err
    assert not (here / "run" / "arms").exists()


def test_a_teacher_that_the_job_trains_is_asked_as_it_goes(here, limbeck):
    job = small_job(blobs(here / "data.npz"), cache={"encoding": {"name": "top-k", "k": 2}}, out="run")
    ended = limbeck("distill", job_file(here / "job.yaml", job), "--json")
    assert ended.code == 0, ended.err
    assert len(CacheReader("run/answers")) == ended.result["data"]["train"]
    ended = limbeck("cache", "build", "job.yaml")
    assert ended.code == 1
    assert "has no weights yet" in ended.err


@pytest.mark.filterwarnings("always:.*computed again")
def test_damage_ends_in_a_sentence_and_an_exit_code(here, limbeck, taught):
    limbeck("cache", "build", *taught, *FOLDER)
    path = here / "answers" / "shards" / "000000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    ended = limbeck("cache", "verify", "answers")
    assert ended.code == 1
    assert "000000.safetensors is damaged" in ended.out + ended.err
    ended = limbeck("cache", "verify", "answers", "--json")
    assert ended.code == 1
    assert len(json.loads(ended.out)["damaged"]) == 1
    ended = limbeck("distill", *taught, *STUDENT, *FOLDER, "--set", "budget.epochs=1")
    assert ended.code == 1
    assert "000000.safetensors is damaged" in ended.err
    ended = limbeck("cache", "build", *taught, *FOLDER)
    assert ended.code == 0, ended.err
    assert "computed again" in ended.err
    assert limbeck("cache", "verify", "answers").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("build",), "cache.folder="),
        (("build", *FOLDER, "--set", "cache.encoding=flaot16"), "Did you mean 'float16'"),
        (("build", *FOLDER, "--set", "cache.encoding=top-k"), "needs k"),
        (("build", *FOLDER, "--set", "cache.view=3"), "Did you mean 'views'? Type --set cache.views="),
        (("build", *FOLDER, "--set", "cache.through=layer9"), "layer9"),
        (("verify", *FOLDER), "no cache at answers"),
        (("build", *FOLDER, "--set", "development=0"), "Type --set development=0.1,"),
        (("build", *FOLDER, "--set", "budget.epochs=0"), "Type --set budget.epochs="),
    ],
)
def test_mistakes_are_told_in_a_sentence(limbeck, taught, words, said):
    ended = limbeck("cache", words[0], *taught, *words[1:])
    assert ended.code == 1
    assert said in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("command", ["info", "verify"])
def test_where_there_is_nothing_that_is_said(here, limbeck, command):
    ended = limbeck("cache", command, "missing")
    assert ended.code == 1
    assert "exists at missing" in ended.err
    assert "`limbeck cache build" in ended.err
    (here / "empty").mkdir()
    assert "empty is a folder without a cache" in limbeck("cache", command, "empty").err


def test_an_argument_that_is_refused_is_not_advised(here, limbeck, taught):
    del taught
    (here / "nets.py").write_text("from torch import nn\ndef teacher():\n    return nn.Flatten()\n")
    flags = ("--teacher", "nets.py:teacher@teacher", "--data", "data.npz", "--set", "teacher.std=1")
    ended = limbeck("cache", "build", *flags, *FOLDER)
    assert ended.code == 1
    # The advice is to leave it out, never to give it another value.
    assert "std: null" in ended.err
    assert "std=" not in ended.err


def test_what_is_done_is_not_announced_again(limbeck, taught):
    flags = (*taught, *FOLDER)
    assert "teacher's outputs for 135 examples" in limbeck("cache", "build", *flags).out
    ended = limbeck("cache", "build", *flags)
    assert "All 135 teacher outputs are in answers already" in ended.out
    assert "Computing" not in ended.out
    ended = limbeck("cache", "build", *flags, "--set", "cache.encoding=float32")
    assert ended.code == 1
    assert "Computing" not in ended.out + ended.err
    assert "whole batches" in limbeck("cache", "verify", *flags, "--sample", "50").out.lower()


def test_info_of_a_job_shows_its_store_too(limbeck, taught):
    flags = (*taught, *FOLDER)
    assert limbeck("cache", "info", *flags, "--json").result["store"] is None
    limbeck("cache", "build", *flags)
    assert limbeck("cache", "info", *flags, "--json").result["store"]["answers"] == 135
    shown = limbeck("cache", "info", *flags).out
    assert "answers: 135 outputs (logits as float16)" in shown
    assert "135 outputs: computing them takes" in shown


def test_of_few_classes_no_more_are_advised(limbeck, taught):
    assert "k: 32" not in limbeck("cache", "info", *taught).out


def test_a_job_may_keep_more_classes_than_a_thousand(here):
    encoding = {"name": "top-k", "k": 2000}
    assert lb.make_job(small_job("digits", cache={"encoding": encoding})).cache.encoding["k"] == 2000


def test_another_teacher_is_refused(here, limbeck, taught):
    limbeck("cache", "build", *taught, *FOLDER)
    other = lb.load(here / "teacher")
    with torch.no_grad():
        next(other.parameters()).add_(0.1)
    lb.save(other, here / "other")
    ended = limbeck("cache", "build", "--teacher", "other", *taught[2:], *FOLDER)
    assert ended.code == 1
    assert "made for another teacher (teacher)" in ended.err
    ended = limbeck("cache", "verify", "answers", "--sample", "3")
    assert ended.code == 1
    assert "limbeck cache verify JOB --sample" in ended.err
    assert "cache.folder=answers" in ended.err
