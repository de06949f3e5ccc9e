"""The page of metrics lists every metric with its unit and direction."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import limbeck.metrics
from limbeck.metrics import (
    CORRUPTIONS,
    LANGUAGE_METRICS,
    METRICS,
    MULTI_LABEL_METRICS,
    REGRESSION_METRICS,
    SEGMENTATION_METRICS,
    MetricFunction,
)

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text()


def rows_of(part):
    cells_of_rows = (line.strip("|").split("|") for line in part.splitlines() if line.startswith("| `"))
    return {cells[0].strip("` "): [cell.strip() for cell in cells[1:]] for cells in cells_of_rows}


# Metrics of language models have the names of others, over tokens.
BEFORE, AFTER = PAGE.split("## Language models")
LANGUAGE, _, AFTER = AFTER.partition("\n## ")
ROWS, LANGUAGE_ROWS = rows_of(BEFORE + AFTER), rows_of(LANGUAGE)
ALL = {**METRICS, **REGRESSION_METRICS, **MULTI_LABEL_METRICS, **SEGMENTATION_METRICS}
ARROWS = {True: "↑", False: "↓", None: "·"}


@pytest.mark.parametrize("name", [*ALL, *(f"language {name}" for name in LANGUAGE_METRICS)])
def test_every_measure_has_a_row_with_its_unit_and_direction(name):
    rows, metrics = (LANGUAGE_ROWS, LANGUAGE_METRICS) if name.startswith("language ") else (ROWS, ALL)
    metric = metrics[name.removeprefix("language ")]
    unit, better, formula, *_, when = rows[name.removeprefix("language ")]
    assert (unit, better) == (metric.unit, ARROWS[metric.higher_is_better])
    assert formula
    assert when


@pytest.mark.parametrize(("rows", "metrics"), [(ROWS, ALL), (LANGUAGE_ROWS, LANGUAGE_METRICS)])
def test_every_row_is_something_that_there_is(rows, metrics):
    for names in rows:
        for name in re.findall(r"\w+", names):
            assert name in metrics or hasattr(limbeck.metrics, name), name


def test_every_public_function_is_on_the_page():
    aside = {
        "evaluate",
        "predict",
        "predict_with_teacher",
        "save_tensors",
        "load_tensors",
        "metric",
        "answer_latency",
        "iterate_logits",
    }
    for name in limbeck.metrics.__all__:
        thing = getattr(limbeck.metrics, name)
        if callable(thing) and not isinstance(thing, type) and name not in aside:
            assert f"`{name}`" in PAGE, name
    assert all(name in PAGE for name in CORRUPTIONS)


def code_of(part):
    return part.split("```python\n")[1].split("```")[0]


def test_the_first_lines_run():
    model = torch.nn.Linear(3, 2)
    found = {"student": model, "teacher": model, "data": (torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 0]))}
    exec(code_of(PAGE), found)
    assert found["evaluate"](found["predictions"], ["agreement"])["agreement"].value == 1.0


def test_the_regressor_s_lines_run_and_teach():
    found: dict[str, object] = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(code_of(PAGE.split("## Regression")[1].split("\n\n", 1)[1]), found)
    assert limbeck.metrics.evaluate(found["estimates"], {"r2": REGRESSION_METRICS["r2"]})["r2"].value > 0.8


def test_the_measure_of_the_user_runs():
    found: dict[str, object] = {}
    exec(code_of(PAGE.split("## Your own metric")[1]), found)
    margin = found["margin"]
    assert isinstance(margin, MetricFunction)
    assert margin(limbeck.metrics.Predictions(torch.tensor([[3.0, 1.0]]))).value == 2.0
