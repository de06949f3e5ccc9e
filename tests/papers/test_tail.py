"""Receipts: a teacher that returns strings, its errors, the schema, and a baseline that is bound to templates."""

from __future__ import annotations

import json
import random

import pytest

pytest.importorskip("transformers")
pytest.importorskip("jsonschema")

from limbeck.papers import ExperimentScale, TaskFolder, tail
from limbeck.papers.tail import (
    ARMS,
    FIELDS,
    SEEN,
    TEMPLATES,
    draw_receipt,
    filter_labels,
    label,
    read_by_place,
    read_fields,
)

RNG = random.Random(0)
RECEIPTS = [draw_receipt(n % len(TEMPLATES), RNG) for n in range(240)]


def test_every_field_stands_on_the_receipt():
    for receipt in RECEIPTS:
        assert all(value in receipt.text for value in receipt.fields.values())


def test_the_teacher_is_a_function_from_a_receipt_to_a_string():
    text = label(RECEIPTS[0], random.Random(0))
    assert isinstance(text, str)
    assert json.loads(text) == RECEIPTS[0].fields == read_fields(text)


def test_a_noisy_teacher_errs_as_often_as_it_says():
    rng = random.Random(0)
    fields = [(read_fields(label(one, rng, errors=0.2)), one.fields) for one in RECEIPTS for _ in range(5)]
    wrong = sum(answer[name] != right[name] for answer, right in fields for name in FIELDS) / (
        len(fields) * len(FIELDS)
    )
    assert 0.17 < wrong < 0.21  # a value that is drawn anew can be the right one


def test_a_systematic_teacher_always_makes_the_same_error():
    for receipt in RECEIPTS:
        total = read_fields(label(receipt, random.Random(0), systematic=True))["total"]
        assert total == (receipt.amounts["net"] if "net" in receipt.text else receipt.fields["total"])


def test_the_schema_refuses_what_is_malformed_and_nothing_else():
    rng = random.Random(0)
    right = [(one.text, label(one, rng)) for one in RECEIPTS]
    assert filter_labels(right) == right
    noisy = [(one.text, label(one, rng, errors=0.3)) for one in RECEIPTS]
    kept = filter_labels(noisy)
    assert 0 < len(kept) < len(noisy)
    for _, text in kept:
        fields = read_fields(text)
        assert fields["shop"]
        assert fields["total"][1] == "."
    # Errors of value pass: a schema does not know the receipt.
    assert any(json.loads(text) not in [one.fields for one in RECEIPTS] for _, text in kept)


def test_what_is_no_record_has_no_fields():
    assert read_fields("{") == read_fields("[1]") == {}


def test_the_baseline_reads_the_templates_that_it_knows_and_no_others():
    read = read_by_place([one for one in RECEIPTS if one.template < SEEN])
    right = [read(one.text) == one.fields for one in RECEIPTS]
    assert all(ok for ok, one in zip(right, RECEIPTS, strict=True) if one.template < SEEN)
    assert not any(ok for ok, one in zip(right, RECEIPTS, strict=True) if one.template >= SEEN)


def test_every_arm_runs_and_has_its_rows(tmp_path):
    scale, results = ExperimentScale("quick", (0,)), {}
    for arm in ARMS:
        results[tail.STUDY.task_name(arm, 0)] = tail.study(
            TaskFolder(tmp_path, arm), arm=arm, seed=0, steps=1, texts=64, test=4
        )
    assert {task.name for task in tail.STUDY.tasks(scale)} == set(results)
    rows = {row.name: row for row in tail.STUDY.table(scale, results)}
    assert rows["bound to templates: right fields"].values == [100.0]
    assert (
        results[tail.STUDY.task_name("schema", 0)]["texts"] < results[tail.STUDY.task_name("noisy", 0)]["texts"] == 64
    )
    assert {one.word for one in tail.STUDY.judge(scale, results)} == {"not shown"}  # one seed has no interval
