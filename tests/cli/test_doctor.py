"""`limbeck doctor`: passes sound jobs, refuses others, writes nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import limbeck as lb
from small_jobs import contents, job_file, small_job, taught_network


@pytest.fixture
def taught(here):
    """Data, and a teacher with weights beside them that has learnt them."""
    net, data = taught_network(here)
    lb.save(net, here / "teacher", metadata={"class_names": list(data.class_names)})
    return net, data


def job_of(here, **changes):
    whole = small_job(here / "data.npz", teacher={"model": "teacher"}, student={"model": "mlp", "hidden": [12]})
    return job_file(here / "job.yaml", {**whole, **changes})


def states(ended):
    return {one["name"]: one["state"] for one in ended.result["checks"]}


def sentence(ended, name):
    return next(one["sentence"] for one in ended.result["checks"] if one["name"] == name)


def test_a_sound_job_is_ok_in_every_line_and_nothing_is_written(here, limbeck, taught):
    del taught
    job = job_of(here)
    before = contents(here)
    ended = limbeck("doctor", job, "--json")
    assert ended.code == 0, ended.err
    assert set(ended.result) == {"checks", "ok"}
    assert all(set(one) == {"name", "state", "value", "sentence"} for one in ended.result["checks"])
    assert set(states(ended).values()) == {"ok"}, ended.result
    assert ended.result["ok"] is True
    assert ended.err == ""
    assert contents(here) == before
    for name in ("teacher's accuracy", "teacher as student", "loss in float64", "split batch", "gradient", "terms",
                 "unused parameters", "teacher unchanged", "one step", "whole job"):  # fmt: skip
        assert name in states(ended)


def test_findings_are_written_to_a_file_of_either_kind(here, limbeck, taught):
    del taught
    ended = limbeck("doctor", job_of(here), "--json", "--out", "found/findings.json")
    assert json.loads((here / "found" / "findings.json").read_text()) == ended.result
    limbeck("doctor", job_of(here), "--out", "findings.md")
    page = (here / "findings.md").read_text()
    for one in ended.result["checks"]:
        assert f"| {one['state']} | {one['name']} |" in page
    refused = limbeck("doctor", job_of(here), "--out", "findings")
    assert refused.code == 2 or "findings.md" in refused.err
    assert not (here / "findings").exists()


def test_people_are_reported_line_by_line(here, limbeck, taught):
    del taught
    ended = limbeck("doctor", job_of(here), "--set", "method.weight=1e-5")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert lines[0].startswith("ok    folder")
    assert any(line.startswith("look  terms") and "of the gradient" in line for line in lines)
    assert all(len(line) <= 120 for line in lines)
    assert "1 look" in lines[-1]
    assert "ready to run" in lines[-1]


def test_a_label_order_that_is_not_the_datas(here, limbeck, taught):
    net, data = taught
    names = list(data.class_names)
    lb.save(net, here / "named", metadata={"class_names": names[1:] + names[:1]})
    ended = limbeck("doctor", job_of(here, teacher={"model": "named"}), "--json")
    assert ended.code == 1
    assert ended.result["ok"] is False
    # The data take the order of the teacher's names; that these are wrong shows in its accuracy.
    assert states(ended)["teacher's accuracy"] == "wrong"
    # The names lie, and the answers tell all the same.
    head = net.classifier
    head.weight.data, head.bias.data = head.weight.data.roll(1, 0), head.bias.data.roll(1, 0)
    lb.save(net, here / "turned", metadata={"class_names": names})
    ended = limbeck("doctor", job_of(here, teacher={"model": "turned"}), "--json")
    assert ended.code == 1
    assert "its output 0 is class 4, called 'class e'" in sentence(ended, "teacher's accuracy")
    ended = limbeck("doctor", job_of(here, teacher={"model": "turned", "check": False}), "--json")
    assert ended.code == 0
    assert states(ended)["teacher's accuracy"] == "look"


def test_a_name_that_is_wrong_is_the_first_steps(here, limbeck, taught):
    del taught
    asked = {"name": "fitnets", "hint": "layer7", "guided": "layer1"}
    ended = limbeck("doctor", job_of(here, method=asked), "--json")
    assert ended.code == 1
    assert "Did you mean 'layer1'" in sentence(ended, "first step")
    assert list(states(ended))[-1] == "first step"
    ended = limbeck("doctor", job_of(here, data="nowhere.npz"))
    assert ended.code == 1
    assert "wrong data" in ended.out
    assert "Fix what is wrong" in ended.out


def test_a_last_batch_of_one_is_detected_before_its_turn_comes(here, limbeck, taught):
    del taught
    (here / "my.py").write_text(
        "from torch import nn\n\n\ndef build():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.BatchNorm1d(5), nn.Linear(5, 5))\n"
    )
    budget = {"epochs": 2, "lr": 0.01, "batch_size": 67}
    ended = limbeck("doctor", job_of(here, student="my.py:build", budget=budget), "--json", "--trust")
    assert ended.code == 1
    assert "cannot train on one example" in sentence(ended, "first step")
    budget["batch_size"] = 68
    assert limbeck("doctor", job_of(here, student="my.py:build", budget=budget), "--json", "--trust").code == 0


def test_a_folder_that_is_taken(here, limbeck, taught):
    del taught
    ended = limbeck("doctor", job_of(here, out="teacher"), "--json")
    assert ended.code == 1
    assert states(ended)["folder"] == "wrong"
    assert states(ended)["whole job"] == "ok", "all else is looked at all the same"


def test_stored_answers_of_another_teacher(here, limbeck, taught):
    net, _ = taught
    job = job_of(here, cache={"folder": "answers"})
    assert limbeck("cache", "build", job).code == 0
    ended = limbeck("doctor", job, "--json")
    assert states(ended)["cached outputs"] == "ok", ended.result
    net.classifier.bias.data += 0.01
    lb.save(net, here / "teacher", metadata={})
    ended = limbeck("doctor", job, "--json")
    assert ended.code == 1
    assert states(ended)["cached outputs"] == "wrong"
    assert "teacher" in sentence(ended, "cached outputs")


def test_a_comparison_is_looked_at_arm_by_arm(here, limbeck, taught):
    del taught
    layers = ("--set", "methods.fitnets.hint=layer1.0", "--set", "methods.fitnets.guided=layer1.0")
    methods = "hinton,logit_matching,fitnets,born_again,mutual,mean_teacher"
    ended = limbeck("doctor", job_of(here), "--methods", methods, *layers, "--json")
    assert ended.code == 0, ended.out
    terms = next(one["value"] for one in ended.result["checks"] if one["name"] == "terms")
    assert {"hinton", "fitnets, hint", "fitnets, distil", "mutual, mutual peer"} <= set(terms)
    steps = next(one["value"] for one in ended.result["checks"] if one["name"] == "one step")
    assert {"student alone", "label smoothing", "shuffled teacher", "hinton"} <= set(steps)


def test_specialists_and_an_ensemble_that_is_yet_to_learn(here, limbeck, taught):
    del taught
    asked = {"name": "specialists", "groups": [[0, 1], [2, 3]], "cover": False}
    ended = limbeck("doctor", job_of(here, method=asked), "--json")
    assert ended.code == 0, ended.out
    members = {"model": "mlp", "hidden": [16], "members": 2}
    ended = limbeck("doctor", job_of(here, teacher=members), "--json")
    assert ended.code == 0, ended.out
    assert states(ended)["teacher's accuracy"] == "look"
    steps = next(one["value"] for one in ended.result["checks"] if one["name"] == "one step")
    assert "teacher" in steps


def test_the_page_s_python_runs_and_it_tells_of_every_check(here, limbeck, taught, capsys):
    del taught
    page = (Path(__file__).resolve().parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")
    ended = limbeck("doctor", job_of(here, cache={"folder": "answers"}), "--json")
    assert len(states(ended)) == 19
    for name in states(ended):
        assert re.search(rf"^\|[^|]*\b{name}\b[^|]*\|", page, flags=re.M), name
    (block,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.M | re.S)
    exec(compile(block, "doctor.md", "exec"), {"__name__": "doctor"})
    assert "ok folder" in capsys.readouterr().out


def test_a_tracker_is_named_by_a_flag(here, limbeck, taught):
    del taught
    job = job_of(here, seeds=1, arms=["distilled"])
    shown = limbeck("distill", job, "--track", "tensorboard", "--print-job")
    assert "track: tensorboard" in shown.out
    ended = limbeck("distill", job, "--track", "tensorbord", "--out", "run")
    assert ended.code == 1
    assert "tensorbord" in ended.err


def test_a_check_that_crashes_is_no_fault_of_the_job(here, limbeck, taught, monkeypatch):
    del taught
    from limbeck.doctor import run_checks

    def broken(context):
        raise AttributeError("no attribute 'lables'")

    monkeypatch.setattr(run_checks, "OF_JOB", {"labels": broken})
    job = job_of(here)
    ended = limbeck("doctor", job, "--json")
    assert (ended.code, ended.result["ok"]) == (3, None)
    assert states(ended)["labels"] == "crash"
    assert "Traceback" not in ended.err
    ended = limbeck("--debug", "doctor", job)
    assert "1 crash" in ended.out
    assert "Traceback" in ended.err
    assert 'raise AttributeError("no attribute' in ended.err
