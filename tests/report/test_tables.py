"""The table of arms is right and fits into a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from limbeck.report import arms_table, arms_tables, table_notes
from limbeck.report.arms import SeedStat, mean_std_text, read_stat
from results import arm, result


def printed(found, columns=80):
    paper = io.StringIO()
    Console(width=columns, file=paper).print(arms_table(found))
    return paper.getvalue().splitlines()


def test_every_arm_has_a_row_with_its_numbers():
    lines = printed(result())
    assert lines[0].split() == ["accuracy", "error", "NLL", "agrees", "size", "ms", "per"]
    assert lines[1].split() == ["arm", "%", "%", "nats", "%", "params", "MB", "example"]
    assert lines[2].split() == ["teacher", "97.00", "3.00", "0.128", "100.0", "12,180", "0.049", "0.0157"]
    assert lines[5].split() == ["distilled", "95.10", "±", "0.14", "4.90", "0.214", "96.6", "666", "0.003", "0.0029"]


def test_it_fits_eighty_columns_with_large_models():
    big = {"parameters": 1_100_048_384, "megabytes": 4400.193536, "milliseconds": 1234.5678}
    arms = {name: arm([0.5, 1.0, 0.0], **big) for name in ("teacher", "student alone", "label smoothing", "distilled")}
    lines = printed(result(arms))
    assert len(lines) == 6, lines
    assert max(map(len, lines)) <= 80
    assert "1,100 M  4,400    1,235" in lines[-1]


@pytest.mark.parametrize("columns", [80, 120])
def test_no_row_is_wrapped(columns):
    assert len(printed(result(), columns)) == 6


def test_what_is_no_number_is_a_dash():
    broken = arm([None, None], nll=None, agreement=None)
    cells = printed(result({"distilled": broken}))[-1].split()
    assert cells == ["distilled", "-", "-", "-", "-", "666", "0.003", "0.0029"]


def test_what_is_missing_or_of_another_kind_is_a_dash_and_a_bracket_is_no_markup():
    found = {"arms": {"[red]a": {"nll": "x", "measures": None, "megabytes": [], "parameters": None}}, "verdict": {}}
    assert printed(found)[-1].split() == ["[red]a", *["-"] * 7]


def test_one_seed_has_no_spread():
    assert "±" not in "".join(printed(result({"distilled": arm([0.9])})))


def test_what_stands_after_a_plus_minus_is_named_and_is_what_the_page_says():
    found = result()
    assert table_notes(found) == "± is the standard deviation over 2 seeds.\n"
    assert table_notes(result({"distilled": arm([0.9])})) == ""
    several = result({"one member": arm([0.9, 0.8, 0.85]), "distilled": arm([0.9, 0.8])})
    assert table_notes(several).endswith("over 2 seeds; ± of one member is over the 3 members.\n")
    shown = read_stat(found["arms"]["distilled"]["accuracy"])
    assert mean_std_text(shown, 2, 100) == "95.10 ± 0.14"
    assert "95.10 ± 0.14" in " ".join(printed(found)[5].split())


def with_metric(found, **values):
    for name, row in found["arms"].items():
        for metric, one in values.items():
            mean = None if name == "teacher" else one
            row["measures"] = {**row["measures"], metric: {"values": [mean] * 2, "mean": mean, "std": 0.0}}
    return found


def test_a_metric_of_the_user_has_a_column():
    lines = printed(with_metric(result(), macro_f1=0.8125), columns=120)
    assert "macro_f1" in lines[1]
    assert "0.8125 ± 0.0000" in lines[5]
    assert " - " in lines[2]


@pytest.mark.parametrize("columns", [80, 120])
def test_columns_that_do_not_fit_stand_in_a_table_below(columns):
    found = with_metric(result(), macro_f1=0.8125, recall_of_the_first_class=0.5, another_metric=0.25)
    paper = io.StringIO()
    console = Console(width=columns, file=paper)
    for one in arms_tables(found, console):
        console.print(one)
    lines = paper.getvalue().splitlines()
    assert max(map(len, lines)) <= columns
    for shown in ("0.8125 ± 0.0000", "0.5000 ± 0.0000", "0.2500 ± 0.0000", "macro_f1", "95.10 ± 0.14"):
        assert any(shown in line for line in lines), shown


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [
        (24632.6411, 3802.255, "24,630 ± 3,800"), (0.7877, 0.02604, "0.7877 ± 0.0260"), (12.3456, 0.5, "12.35 ± 0.50"),
        (-0.01234567, None, "-0.01235"), (0.0, 0.0, "0.0000 ± 0.0000"), (999.99, 1.0, "1,000.0 ± 1.0"),
    ],
)  # fmt: skip
def test_a_mean_has_four_digits_and_its_spread_the_same_decimals(mean, std, text):
    assert mean_std_text(SeedStat((), mean, std)) == text


def test_small_models_are_in_kilobytes():
    found = result()
    found["arms"]["distilled"] = {**found["arms"]["distilled"], "megabytes": 0.00041}
    assert any("0.41 kB" in line for line in printed(found, columns=120))
