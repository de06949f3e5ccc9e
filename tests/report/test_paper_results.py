"""The tables of a paper's numbers: columns without a value are left out."""

from __future__ import annotations

import pytest

from limbeck.papers.experiment import Row
from limbeck.report import claims_markdown, paper_markdown, paper_tables

CLAIM = {
    "claim": "kd over alone", "word": "shown", "mean": 1.0, "low": 0.5, "high": 1.5, "unit": "points",
    "bounds": [0.0, None], "seeds": 5, "paper": None,
}  # fmt: skip


def table(*rows, claims=()):
    return {"experiments": {"toy": {"title": "?", "rows": [row.as_json() for row in rows], "claims": list(claims)}}}


def heads(result):
    lines = paper_markdown(result).splitlines()
    return [
        [cell.strip() for cell in lines[i - 1].strip("|").split("|")]
        for i, line in enumerate(lines) if line.startswith("|---")
    ]  # fmt: skip


def test_columns_of_numbers_that_no_row_has_are_left_out():
    assert heads(table(Row("errors", [80, 90], "errors"))) == [["", "ours", "by seed"]]


@pytest.mark.parametrize(
    ("change", "column"), [({"paper": 74}, "paper"), ({"aim": 74}, "aim"), ({"note": "as in the paper"}, "")]
)
def test_a_column_stays_if_one_row_has_its_value(change, column):
    rows = Row("teacher", [60, 61], "errors"), Row("student", [80, 90], "errors", **change)
    (head,) = heads(table(*rows))
    assert column in head[1:]
    (rich,) = paper_tables(table(*rows))
    assert column in [one.header for one in rich.columns][1:]


def test_claims_have_a_column_for_the_paper_if_one_claim_has_its_number():
    assert "paper" not in claims_markdown([CLAIM]).splitlines()[0]
    both = claims_markdown([CLAIM, {**CLAIM, "paper": 2.0}]).splitlines()
    assert "paper" in both[0]
    assert [line.split("|")[2].strip() for line in both[2:]] == ["-", "+2.00"]


def test_columns_have_the_order_of_the_row_with_all_of_them():
    rows = [Row("alone", [1.0], "%", column=name) for name in ("accuracy", "time")]
    rows += [Row("kd", [1.0], "%", column=name) for name in ("accuracy", "weight", "time")]
    (head,) = heads(table(*rows))
    assert head == ["", "accuracy (%)", "weight (%)", "time (%)"]


def test_an_experiment_has_its_title_once():
    rows = Row("kd", [1.0], "%", column="accuracy"), Row("teacher", [2.0], "%")
    titles = [one.title and str(one.title) for one in paper_tables(table(*rows))]
    assert titles == ["toy: ?", None]
