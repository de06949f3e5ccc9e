"""`limbeck methods`: every method by family, in at most 100 columns, and the card of one."""

from __future__ import annotations

import json

import pytest

from limbeck.cli import main
from limbeck.cli.methods import FAMILY_TITLES
from limbeck.methods import FAMILIES, family_of, method, names


def printed(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["methods", *arguments])
    assert not ended.value.code
    return capsys.readouterr().out


def test_every_method_stands_once_below_its_family_with_its_citation(capsys):
    lines = printed(capsys).splitlines()
    assert max(map(len, lines)) <= 100
    family, listed = None, {}
    for line in lines[:-1]:
        if line and not line.startswith(" "):
            family = line.partition(":")[0]
        elif line.startswith("  ") and line[2] != " ":
            listed[line.split()[0]] = (family, line)
    assert tuple(listed) == names()
    assert all(family == family_of(name) for name, (family, _) in listed.items())
    assert all(str(method(name).card.year) in line or line.endswith("...") for name, (_, line) in listed.items())
    assert str(len(names())) in lines[-1]


def test_only_the_methods_of_a_task_are_listed(capsys):
    text = printed(capsys, "--task", "language_modeling")
    assert "gkd" in text
    assert "mean_teacher" not in text


def test_a_card_has_what_the_kernels_promise(capsys):
    text = printed(capsys, "kiddin")
    for part in ("direction_error()", "student_scale", "Garg", "limbeck tune: 0 to 1", "@inproceedings"):
        assert part in text
    fields = json.loads(printed(capsys, "kiddin", "--json"))
    assert fields["kernels"] == ["direction_error()"]
    assert fields["citation"].startswith("Garg et al., 2024")


def test_every_family_has_a_title():
    assert set(FAMILY_TITLES) >= set(FAMILIES)
