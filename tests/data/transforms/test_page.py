"""Tests of docs/transforms.md: its code runs, and its table has the right defaults."""

from __future__ import annotations

import re
from pathlib import Path

import limbeck

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "transforms.md").read_text(encoding="utf-8")


def test_the_page_runs_from_top_to_bottom():
    scope = {"__name__": "transforms"}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.M | re.S):
        exec(compile(block, "transforms.md", "exec"), scope)


def test_its_job_is_one():
    import yaml

    from limbeck.job import make_job

    (text,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.M | re.S)
    small = {"data": "digits", "teacher": "resnet20", "student": "resnet8"}
    budget = make_job({**small, **yaml.safe_load(text)}).budget
    assert budget.make_transform(seed=0) == limbeck.Chain(limbeck.Crop(), limbeck.Flip(), limbeck.RandAugment())
    assert budget.make_mix(seed=0) == limbeck.Mixup()


def test_the_table_has_every_transform_with_its_defaults():
    table = re.findall(r"^\| (`.*?)\|", PAGE, flags=re.M)
    for name, arguments in re.findall(r"`(\w+)\((.*?)\)`", "\n".join(table)):
        kind = getattr(limbeck, name)
        pairs = re.findall(r"(\w+)=(\([^)]*\)|[^,]+)", arguments)
        assert all(getattr(kind, key) == eval(value) for key, value in pairs), name
    assert {
        "RandomShift",
        "Crop",
        "ResizedCrop",
        "Flip",
        "ColorJitter",
        "Cutout",
        "RandAugment",
        "Chain",
        "Mixup",
        "CutMix",
    } <= set(re.findall(r"`(\w+)\(", "\n".join(table)))
