"""The table of all methods is made of the predictions of a finished comparison."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from limbeck.job import RunLayout
from limbeck.metrics import save_tensors
from limbeck.metrics.multiple_comparisons import holm_comparisons
from limbeck.metrics.statistics import compare_scores
from tools import compare_tables
from tools.compare_tables import render, summarize

EXAMPLES, SEEDS = 400, 3
SHARES = {"student alone": 0.7, "hinton": 0.75, "dkd": 0.95, "nkd": 0.5, "dist": 0.752}


@pytest.fixture
def folder(tmp_path):
    """A comparison of methods that are right on a known share of the examples."""
    layout, labels = RunLayout(tmp_path), torch.arange(EXAMPLES) % 4
    layout.teacher_outputs.parent.mkdir(parents=True)
    save_tensors({"test": torch.nn.functional.one_hot(labels).float(), "test_labels": labels}, layout.teacher_outputs)
    arms = {"teacher": {"role": "teacher", "accuracy": {"values": [1.0]}}}
    for arm, share in SHARES.items():
        values = []
        for seed in range(SEEDS):
            right = torch.rand(EXAMPLES, generator=torch.Generator().manual_seed(seed)) < share
            logits = torch.nn.functional.one_hot(torch.where(right, labels, (labels + 1) % 4)).float()
            layout.seed(arm, seed).mkdir(parents=True)
            save_tensors({"test": logits}, layout.seed(arm, seed) / "predictions.safetensors")
            values.append(float(right.double().mean()))
        role = "control" if arm == "student alone" else "method"
        arms[arm] = {"role": role, "accuracy": {"values": values}, "seconds": 2.0 if arm == "dkd" else 1.0}
    environment = {"platform": "Linux", "packages": {"torch": "2"}}
    result = {"arms": arms, "seeds": SEEDS, "seconds": 9.0, "environment": environment}
    layout.result.write_text(json.dumps(result))
    return tmp_path


def test_differences_are_over_seeds_and_examples_and_corrected_by_holm(folder):
    summary = summarize("digits", folder)
    words = {arm: row["over hinton"]["word"] for arm, row in summary["arms"].items() if "over hinton" in row}
    assert words == {"dkd": "shown", "nkd": "opposite", "dist": "not shown"}
    right = {
        arm: np.stack([
            torch.rand(EXAMPLES, generator=torch.Generator().manual_seed(seed)).numpy() < share for seed in range(SEEDS)
        ]).astype(float)
        for arm, share in SHARES.items()
    }  # fmt: skip
    wanted = {arm: compare_scores(right[arm], right["hinton"], largest=1.0) for arm in words}
    counts = holm_comparisons([one.p for one in wanted.values()])
    assert sorted(counts) == [1, 2, 3]
    for (arm, plain), count in zip(wanted.items(), counts, strict=True):
        row = summary["arms"][arm]["over hinton"]
        found = compare_scores(right[arm], right["hinton"], largest=1.0, comparisons=count)
        assert row["mean"] == pytest.approx(100 * plain.mean)
        assert (row["low"], row["high"]) == pytest.approx((100 * found.low, 100 * found.high))


def test_the_page_is_in_the_order_of_accuracy_and_has_the_cost(folder):
    lines = [line for line in render(summarize("digits", folder)).splitlines() if line.startswith("| ")][1:]
    assert [line.split("|")[1].strip("* ").partition("]")[0].strip("[") for line in lines] == [
        "teacher", "dkd", "dist", "hinton", "student alone", "nkd",
    ]  # fmt: skip
    assert "2.00 x" in lines[1]
    assert "worse" in lines[-1]
    assert "Of 3 methods 1 are shown to be better than plain KD, and 1 to be worse." in render(summarize("x", folder))


def test_students_of_another_size_are_named():
    arms = {
        "student alone": {"role": "baseline", "parameters": 100}, "dkd": {"role": "method", "parameters": 100},
        "simkd": {"role": "method", "parameters": 2500},
    }  # fmt: skip
    text = compare_tables._sizes(arms)
    assert "simkd 2,500" in text
    assert "dkd" not in text
    assert compare_tables._sizes({name: arms[name] for name in ("student alone", "dkd")}) == ""


def test_a_new_table_gets_a_page(folder, monkeypatch, tmp_path):
    results = tmp_path / "results"
    (results / "tables").mkdir(parents=True)
    (results / "tables" / "digits.json").write_text(json.dumps(summarize("digits", folder)))
    monkeypatch.setattr(compare_tables, "RESULTS", results)
    ((path, page),) = compare_tables.updated_pages().items()
    assert path == results / "table_digits.md"
    assert "[dkd](../methods/dkd.md)" in page
    path.write_text(page.replace("All methods on digits", "My title"))
    assert compare_tables.updated_pages()[path] == path.read_text()


def test_holm_rejects_what_the_stepwise_procedure_rejects():
    generator = np.random.default_rng(0)
    for _ in range(200):
        p = generator.uniform(0, 0.1, size=6) ** 2
        rejected = set()
        for place, at in enumerate(np.argsort(p)):  # the procedure of the paper
            if p[at] * (6 - place) >= 0.05:
                break
            rejected.add(int(at))
        counts = holm_comparisons(p.tolist())
        assert {i for i in range(6) if p[i] * counts[i] < 0.05} == rejected
