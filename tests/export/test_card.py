"""Model cards describe an export correctly."""

from __future__ import annotations

import ast
import json
import re

import numpy as np
import pytest
import yaml

from export_runs import finished, front
from limbeck.compare import run_job
from limbeck.errors import LimbeckError
from limbeck.export import export_run
from limbeck.export.model_card import _column
from limbeck.export.usage import _transformers
from limbeck.job import make_job
from searches import planted_search
from small_jobs import blobs, small_job


def test_the_hub_can_read_it(exports):
    told, _ = front(exports["int8"])
    assert told["license"] == "unknown"
    assert told["tags"] == ["knowledge-distillation", "limbeck", "hinton", "int8"]
    assert told["pipeline_tag"] == "image-classification"
    metric = told["model-index"][0]["results"][0]["metrics"][0]
    assert metric["value"] == pytest.approx(exports["int8"].score_after, abs=1e-6)
    hub = pytest.importorskip("huggingface_hub", reason="the hub's own reader of cards is not installed")
    read = hub.ModelCard.load(exports["int8"].path.parent / "README.md")
    assert read.data.eval_results[0].metric_type == "accuracy"


def test_verdict_teacher_and_protocol(done, exports):
    _, text = front(exports["onnx"])
    verdict = json.loads((done / "result.json").read_text())["verdict"]["sentence"]
    assert f"**{verdict}**" in text
    assert "Teacher: mlp (hidden=[32])" in text.replace("\\", "")
    assert "60 test examples" in text
    assert "| **distilled** (this one) |" in text
    assert "@article{hinton2015distilling" in text
    assert "jacob2018" not in text
    assert "jacob2018" in front(exports["int8"])[1]


def test_no_path_of_this_machine(done, exports):
    for found in exports.values():
        assert str(done.parent) not in front(found)[1]


def test_a_license(done, tmp_path):
    told, text = front(export_run(done, to="folder", out=tmp_path / "licensed", license="apache-2.0"))
    assert told["license"] == "apache-2.0"
    assert "apache-2.0, as given at export" in text


def test_budget_and_steps_where_all_arms_have_the_same(exports):
    _, text = front(exports["folder"])
    assert "\n* Budget of every arm: 2 epochs" in text
    assert re.search(r"\n\* Optimizer steps: [\d,]+ for every arm\.", text)
    assert "Settings:" not in text
    assert re.search(r"\n\* This folder, [\d,]+ bytes\.", text)
    assert "partial" not in text


def test_budgets_steps_and_a_search_where_arms_differ(tmp_path):
    run = finished(tmp_path, arms=["student alone", "distilled"], budgets={"distilled": {"epochs": 1}})
    planted_search(run, tried={"student alone": 3, "distilled": 3}, used=False)
    _, text = front(export_run(run, to="folder"))
    assert re.search(r"\n\* Budget: 2 epochs, .*; different for distilled: epochs 1\.", text)
    steps = re.search(r"\n\* Optimizer steps: student alone (\d+); distilled (\d+)\.", text)
    assert int(steps[1]) == 2 * int(steps[2])
    assert "* Settings: Equal effort: 3 settings tried for every arm, the baselines too" in text
    assert "Some were not used: student alone ran with lr 0.01 in place of 0.00" in text
    (run / "tuned.json").write_text("[")
    assert "a search whose file is damaged" in front(export_run(run, to="folder", out=tmp_path / "again"))[1]


def test_an_old_result_that_lacks_almost_everything(tmp_path):
    run = finished(tmp_path)
    (run / "result.json").write_text("{}")
    _, text = front(export_run(run, to="folder"))
    assert "not judged against a control" in text


def test_a_tables_columns_are_reported():
    category = {"kind": "category", "name": "c", "values": ["x", "z"]}
    assert _column(category) == '"c" one-hot, as one of "x", "z", other (also if missing)'
    number = {"kind": "number", "name": "a", "mean": 0.5, "std": 2.0}
    assert _column({**number, "missing": False}) == '("a" - 0.5) / 2, or 0 if missing'
    assert _column({**number, "missing": True}).endswith('then 1 if "a" is missing, else 0')


def test_a_text_model_is_opened_with_its_tokenizer():
    said = _transformers("BertForSequenceClassification")
    assert said.startswith("from transformers import AutoTokenizer, BertForSequenceClassification\n")
    assert "student(**tokenizer(texts, padding=True" in said


def judged(data):
    """The folder of a small run on these data."""
    run_job(make_job(small_job(data, seeds=1, arms=["student alone", "distilled"], out=str(data.parent / "run"))))
    return data.parent / "run"


def test_names_from_data_are_text_and_no_markup(tmp_path):
    names = ["<script>alert(1)</script>", "a|b", "`c`", "🦆 *d*", "line\n# break"]
    data = np.load(blobs(tmp_path / "plain.npz"))
    np.savez(tmp_path / "named.npz", **({name: data[name] for name in data.files} | {"class_names": np.array(names)}))
    run = judged(tmp_path / "named.npz")
    result = json.loads((run / "result.json").read_text())
    del result["sha256"]  # edited by hand
    result["arms"] |= {"<b>|x": {"accuracy": 3, "nll": "x"}}
    (run / "result.json").write_text(json.dumps(result))
    found = export_run(run, to="onnx")
    _, text = front(found)
    outside = re.sub(r"```.*?```", "", text, flags=re.S)
    assert not re.search(r"(?<!\\)<", outside)
    assert r"| \<b\>\|x | - | - | - | - | - |" in text
    assert "# break" not in [line.strip() for line in text.splitlines()]
    code = re.search(r"np.array\((\[.*?\])\)\[logits", text)[1]
    assert ast.literal_eval(code) == names


def test_hostile_names_command_nothing_anywhere_in_a_card(tmp_path):
    data = dict(np.load(blobs(tmp_path / "plain.npz")))
    classes = np.array([f"a\x1b]0;pwned\x07\x1b[2J\u202e\n```\n---\n{number}" for number in range(5)])
    name = "x\u202e\n```\n---\n# <b>'\"#: [y].npz"
    np.savez(tmp_path / name, **(data | {"class_names": classes}))
    text = (export_run(judged(tmp_path / name), to="folder").path / "README.md").read_text()
    assert not set("\x1b\x07\u202e") & set(text)
    assert "0;pwned" in text
    _, first, body = re.split(r"^---$", text, flags=re.M)
    fences = re.findall(r"^ *```.*$", body, flags=re.M)
    assert fences == ["```", "```", "```python", "```", "```bibtex", "```"]  # read.py, a program, Cite
    told = yaml.safe_load(first)
    assert set(told) <= {"license", "library_name", "pipeline_tag", "tags", "metrics", "model-index"}
    assert told["model-index"][0]["results"][0]["dataset"]["name"].endswith(".npz")
    assert re.search(r"^% data x\\u202e ``` --- # <b>.*: limbeck has no entry", text, flags=re.M)


def test_other_labels_than_those_it_was_judged_on_are_no_check(tmp_path):
    data = dict(np.load(blobs(tmp_path / "own.npz")))
    run = judged(tmp_path / "own.npz")
    np.savez(tmp_path / "own.npz", **(data | {"y_test": (data["y_test"] + 1) % 5}))
    with pytest.raises(LimbeckError, match="other test labels"):
        export_run(run, to="folder")
    assert not (run / "export").exists()
    (run / "teacher" / "answers.safetensors").write_bytes(b"damaged")
    assert export_run(run, to="folder").score_before < 1
