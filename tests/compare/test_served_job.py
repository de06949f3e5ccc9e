"""Jobs whose teacher is behind a server: every text is paid once, and no key is in a file."""

from __future__ import annotations

import json
import math
import warnings

import pytest
import torch

pytest.importorskip("transformers")

import limbeck as lb
from limbeck.cli.jobs import requested_job
from limbeck.compare import run_job
from limbeck.compare.cache_plan import plan
from limbeck.compare.changed_job import changed_job
from limbeck.compare.comparison_data import load_comparison_data
from limbeck.compare.run_doctor import checkup
from limbeck.compare.served_teacher import find_served
from limbeck.compare.teacher import open_teacher
from limbeck.compare.teacher_cache import check
from limbeck.compare.tuning.search_space import spaces_of, start_of
from limbeck.errors import LimbeckError, LimbeckWarning, ServerError
from limbeck.export import export_run
from limbeck.functional import reverse_kl
from limbeck.job import make_job, read_run_job, with_settings
from limbeck.losses import Loss
from limbeck.models import TokenizersDifferError
from limbeck.recipe import Stage
from limbeck.report import write_report
from limbeck.teachers import ServedTeacher
from limbeck.teachers.served import client
from limbeck.testing import Answer, serve_model
from served_models import TEXTS, model, tokenizer
from vocabularies import renumber, train_bytes

PATH = "/v1/completions"
STUDENT = {"model": "hf:gpt2", "pretrained": False, "n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 32}
ROWS = [" ".join(TEXTS[i % 5].split()[i % 4 :]) + f" {i % 10}" for i in range(20)]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT", 0.005)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Texts, a tokenizer, and a teacher that has learned them."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "t.txt").write_text("\n".join(ROWS))
    tokenizer().save_pretrained(folder / "tok")
    own = model(positions=32)
    data = lb.load_data(str(folder / "t.txt"), tokenizer=str(folder / "tok"), max_length=24)
    lb.distill(
        own, lb.methods.make("supervised"), data.train, epochs=25, batch_size=8, optimizer=lb.Optimizer(lr=0.02)
    ).finish()
    return folder, own.eval()


def job_of(place, url, **changes):
    folder, _ = place
    return make_job({
        "data": {"name": str(folder / "t.txt"), "max_length": 24},
        "teacher": {"url": url, "top_k": 8, "tokenizer": str(folder / "tok")},
        "student": STUDENT, "budget": {"epochs": 2, "batch_size": 8}, "cache": {}, **changes,
    })  # fmt: skip


def with_job(folder, **changes):
    return make_job({**read_run_job(folder), "out": str(folder), **changes})


def texts_of(server):
    return [tuple(body["prompt"]) for path, body in server.requests if path == PATH]


def run(job, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LimbeckWarning)
        return run_job(job, **how)


def test_a_job_pays_every_text_once_and_knows_what_it_does_not_know(place, tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_API_KEY", "sk-secret-key")
    folder, own = place
    told = []
    with serve_model(own, tokenizer()) as server:
        arms = ["teacher", "student alone", "label smoothing", "shuffled teacher", "distilled"]
        job = job_of(place, server.url, arms=arms, out=str(tmp_path / "run"))
        result = run(job, callback=lambda event: told.append(str(event)))
        asked = texts_of(server)
        rows = asked[7:]
        material = load_comparison_data(job)
        judged = len(material.data.test) + len(material.development)
        assert len(rows) == len(set(rows)) == judged + len(material.train)  # the first seven are the handshake's
        server.requests.clear()
        # More seeds: the texts of the evaluation are stored too.
        more = with_settings(dict(read_run_job(tmp_path / "run")), ["seeds=2"])
        run(make_job({**more, "out": str(tmp_path / "run")}), change=True)
        assert len(texts_of(server)) == 7 + 1  # one training text is tried first
    teacher = result["arms"]["teacher"]
    assert teacher["parameters"] is None
    assert teacher["listed"]["top_k"] == 8
    assert 0 < teacher["listed"]["outside"] < 0.5
    with torch.no_grad():
        data = lb.load_data(str(folder / "t.txt"), tokenizer=str(folder / "tok"), max_length=24)
        exact = lb.tasks.LanguageModeling().fit(data.train).evaluate(own, data.test).measures
    assert teacher["nll"]["mean"] == pytest.approx(exact["nll"], abs=1e-4)
    assert teacher["measures"]["token_accuracy"]["mean"] == pytest.approx(exact["token_accuracy"])
    assert "entropy" not in teacher["measures"]
    assert {"kl_at_least", "reverse_kl_at_least"} <= result["arms"]["distilled"]["measures"].keys()
    assert any("8 of 290 tokens" in line for line in told)
    stored = read_run_job(tmp_path / "run")
    assert stored["teacher"]["model"] == "served:teacher"
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or b"sk-secret-key" not in path.read_bytes()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "8 of 290 tokens" in page
    write_report([tmp_path / "run"])
    export_run(tmp_path / "run", to="folder", out=tmp_path / "exported")


def test_a_server_that_fails_in_the_middle_loses_nothing(place, tmp_path):
    _, own = place
    left = [26]

    def tire(asked, body, make):
        left[0] -= asked == PATH
        return Answer({"error": {"message": "out of credit"}}, 402) if left[0] < 0 else make()

    with serve_model(own, tokenizer(), intercept=tire) as server:
        job = job_of(place, server.url, arms=["teacher", "student alone", "distilled"], out=str(tmp_path / "run"))
        with pytest.raises(ServerError, match="out of credit"):
            run(job)
        paid = texts_of(server)[7:26]
        server.intercept = None
        server.requests.clear()
        material = load_comparison_data(job)
        judged = len(material.data.test) + len(material.development)
        run(make_job({**read_run_job(tmp_path / "run"), "out": str(tmp_path / "run")}), resume=True)
        again = [text for text in texts_of(server)[7:] if text in paid]
        # Training texts are stored; those of the evaluation, and the first of the checks, are asked for once a process.
        assert len(paid) > judged + 5
        assert len(again) <= judged + 1


def test_the_doctor_checks_a_served_teacher(place, tmp_path):
    _, own = place
    with serve_model(own, tokenizer()) as server:
        findings = {
            one.name: one for one in checkup(job_of(place, server.url, out=str(tmp_path / "run")), seconds=20.0)
        }
    assert "8 of 290 tokens" in findings["teacher"].sentence
    assert findings["teacher"].value > 0
    assert {one.name for one in findings.values() if one.state in ("wrong", "crash")} == set()
    assert not math.isnan(findings["teacher's news"].value["divergence"])


def test_a_cache_is_planned_and_verified(place, tmp_path):
    _, own = place
    with serve_model(own, tokenizer()) as server:
        job = job_of(place, server.url, arms=["teacher", "distilled"], out=str(tmp_path / "run"))
        (estimate,) = plan(job).estimates
        assert estimate.encoding["name"] == "listed"
        assert estimate.bytes / plan(job).tokens < 200
        assert estimate.error < 1e-3
        run(job)
        (verified,) = check(
            make_job({**read_run_job(tmp_path / "run"), "out": str(tmp_path / "run")}), sample=4, seed=0
        )
        assert verified.identical == 1


def test_a_served_teacher_may_be_one_of_several(place, tmp_path):
    folder, own = place
    other = model(seed=3, positions=32)
    other.save_pretrained(tmp_path / "near")
    tokenizer().save_pretrained(tmp_path / "near")
    with serve_model(own, tokenizer(), max_logprobs=-1) as server:
        far = {"url": server.url, "top_k": None, "tokenizer": str(folder / "tok")}
        both = {"near": {"model": f"hf:{tmp_path / 'near'}"}, "far": far}
        changes = {"teacher": None, "teachers": both, "arms": ["teacher", "distilled"], "budget": {"epochs": 1}}
        asked = {**job_of(place, server.url).model_dump(mode="json"), **changes, "out": str(tmp_path / "run")}
        asked_without = {name: value for name, value in asked.items() if name != "teacher"}
        job = make_job(asked_without)
        result = run(job)
        assert make_job(read_run_job(tmp_path / "run")).teacher.parts["far"].url == server.url
        # A list of addresses alone, and a server that lists some tokens.
        assert list(make_job({**asked_without, "teachers": [server.url, far]}).teacher.parts) == ["served", "served-2"]
        some = make_job({**asked_without, "teachers": {**both, "far": {**far, "top_k": 8}}})
        with pytest.raises(LimbeckError, match=r"teachers\.far\.top_k=null"):
            open_teacher(some, load_comparison_data(some))
        # The same as one ensemble, with one cache for the average.
        plain = {
            **{name: value for name, value in asked_without.items() if name != "teachers"},
            "out": str(tmp_path / "one"),
            "cache": {},
        }
        one = run(make_job({**plain, "teacher": {"ensemble": both}}))
        server.requests.clear()
        run(with_job(tmp_path / "one", seeds=2), change=True)
        assert len(texts_of(server)) == 7 + 1  # the handshake, and the text that is tried first
        some = make_job({**plain, "teacher": {"ensemble": {**both, "far": {**far, "top_k": 8}}}})
        with pytest.raises(LimbeckError, match=r"teacher\.ensemble\.far\.top_k=null"):
            open_teacher(some, load_comparison_data(some))
    assert one["arms"]["teacher"]["nll"]["mean"] == pytest.approx(result["arms"]["teacher"]["nll"]["mean"])
    both = (each["arms"]["distilled"]["nll"]["mean"] for each in (one, result))
    assert next(both) == pytest.approx(next(both), abs=1e-3)
    data = lb.load_data(str(folder / "t.txt"), tokenizer=str(folder / "tok"), max_length=24)
    average = lb.Ensemble(own, other.eval(), mean="geometric")
    exact = lb.tasks.LanguageModeling().fit(data.train).evaluate(average, data.test).measures
    row = result["arms"]["teacher"]
    assert row["nll"]["mean"] == pytest.approx(exact["nll"], abs=1e-3)
    assert row["parameters"] is None
    assert "is served" in row["size_note"]
    assert math.isfinite(result["arms"]["distilled"]["nll"]["mean"])


def test_a_search_leaves_the_temperature_where_a_server_knows_it(place):
    job = job_of(place, "http://127.0.0.1:9/v1", method={"name": "hinton"})
    task = lb.tasks.LanguageModeling(vocabulary=290)
    assert "temperature" not in spaces_of(job, {}, smoothing=0.1, task=task)["distilled"]
    whole = job_of(place, "http://127.0.0.1:9/v1", teacher={**job.teacher.model_dump(), "top_k": None})
    assert "temperature" in spaces_of(whole, {}, smoothing=0.1, task=task)["distilled"]
    ramp = job_of(place, "http://127.0.0.1:9/v1", method={"name": "gkd", "share": "ramp(1.0)"})
    assert "share" not in spaces_of(ramp, {}, smoothing=0.1, task=task)["distilled"]
    assert "share" not in start_of(ramp, "distilled", 0.1, task=task)


def test_an_address_is_typed_as_a_teacher(place):
    folder, own = place
    with serve_model(own, tokenizer(), api="sglang") as server:
        flags = {"teacher": server.url, "student": "hf:gpt2", "data": str(folder / "t.txt")}
        settings = [
            "teacher.model=teacher",
            f"teacher.tokenizer={folder / 'tok'}",
            "teacher.top_k=4",
            "data.max_length=24",
        ]
        settings += [f"student.{key}={value}" for key, value in STUDENT.items() if key != "model"]
        job = make_job(requested_job(None, flags, settings))
        assert (job.teacher.url, job.teacher.served_model) == (server.url, "teacher")
        material = load_comparison_data(job)
        teacher, _ = open_teacher(job, material)
        assert find_served(teacher).top_k == 4
        again = make_job(json.loads(json.dumps(job.model_dump(mode="json"))))
        assert again == job


def test_another_vocabulary_of_the_student_is_aligned(place, tmp_path):
    folder, own = place
    renumber(tokenizer()).save_pretrained(tmp_path / "other")
    with serve_model(own, tokenizer()) as server:
        job = job_of(
            place, server.url, arms=["teacher", "student alone", "distilled"], out=str(tmp_path / "run"),
            data={"name": str(folder / "t.txt"), "max_length": 24, "tokenizer": str(tmp_path / "other")},
        )  # fmt: skip
        result = run(job)
        same = run(job_of(place, server.url, arms=["teacher", "student alone", "distilled"], cache=None))
    for name in ("nll", "bits_per_byte"):
        mine, theirs = (one["arms"]["teacher"]["measures"][name]["mean"] for one in (result, same))
        assert mine == pytest.approx(theirs, abs=1e-4)


def test_mistakes_get_one_sentence(place):
    folder, own = place
    with serve_model(own, tokenizer()) as server:
        base = job_of(place, server.url)

        def refused(match, **changes):
            settings = make_job({**base.model_dump(mode="json"), **changes})
            with pytest.raises(LimbeckError, match=match) as caught:
                open_teacher(settings, load_comparison_data(settings))
            assert "\n" not in str(caught.value)

        teacher = {"url": server.url, "tokenizer": str(folder / "tok")}
        refused("top_kk", teacher={**teacher, "top_kk": 3})
        refused("techer", teacher={**teacher, "model": "techer"})
        refused(r"teacher\.tokenizer", teacher={"url": server.url})
        refused("max-logprobs", teacher={**teacher, "top_k": 21})
        refused("behind a server", student={"model": "shallow", "layers": 1})
    with pytest.raises(LimbeckError, match="password"):
        make_job({**base.model_dump(mode="json"), "teacher": {"url": "http://me:pw@host/v1"}})
    with serve_model(own, tokenizer(), api="text") as server:
        job = job_of(place, server.url)
        material = load_comparison_data(job)
        with pytest.raises(LimbeckError, match="limbeck generate"):
            open_teacher(job, material)


def test_a_wrong_tokenizer_of_a_server_is_named_without_methods_that_it_cannot_have(place, tmp_path):
    folder, own = place
    train_bytes(["zzz yyy xxx www"] * 9, vocabulary=270).save_pretrained(tmp_path / "wrong")
    with serve_model(own, tokenizer()) as server:
        job = job_of(
            place, server.url, teacher={"url": server.url, "tokenizer": str(tmp_path / "wrong")},
            data={"name": str(folder / "t.txt"), "max_length": 24, "tokenizer": str(folder / "tok")},
        )  # fmt: skip
        with pytest.raises(TokenizersDifferError) as caught:
            open_teacher(job, load_comparison_data(job))
    assert "teacher.tokenizer" in str(caught.value)
    assert "alm" not in str(caught.value)


def test_a_server_that_moved_keeps_finished_work(place, tmp_path):
    _, own = place
    arms = ["teacher", "student alone", "label smoothing", "distilled"]
    out = tmp_path / "run"
    with serve_model(own, tokenizer()) as server:
        run(job_of(place, server.url, arms=arms, out=str(out)))
    for name in ("result.json", "report.html"):  # as if it were not finished
        (out / name).unlink()
    before = read_run_job(out)
    other = {**before, "teacher": {**before["teacher"], "top_k": 5}, "out": str(out)}
    assert "distilled" in changed_job(make_job(other))[1].again
    with serve_model(own, tokenizer()) as server:
        way = {"url": server.url, "concurrency": 2, "timeout": 9.0, "retries": 1}
        settings = {**before, "teacher": {**before["teacher"], **way}, "out": str(out)}
        _, changes = changed_job(make_job(settings))
        assert changes.again == ()
        assert not changes.teacher
        assert not changes.student
        assert any("teacher.url" in key for key in changes.keys)
        run(make_job(settings), resume=True, change=True)


def test_another_temperature_is_refused_before_training(place, tmp_path):
    _, own = place
    with serve_model(own, tokenizer()) as server:
        job = job_of(place, server.url, method={"name": "hinton", "temperature": 4.0}, out=str(tmp_path / "run"))
        with pytest.raises(LimbeckError, match="temperature of 1"):
            run(job)
    assert not (tmp_path / "run").exists()


def test_divergences_that_miss_more_than_the_forward_kl_say_so(place):
    _, own = place
    data = lb.load_data(str(place[0] / "t.txt"), tokenizer=str(place[0] / "tok"), max_length=24)
    with serve_model(own, tokenizer()) as server:
        stage = Stage(Loss(reverse_kl), teacher=ServedTeacher(server.url, top_k=8))
        with pytest.warns(LimbeckWarning, match="lower bound"):
            lb.distill(model(seed=1), stage, data.train, epochs=1, batch_size=8).finish()
