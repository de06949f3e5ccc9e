"""`limbeck methods`: every method by family, in at most 100 columns, and the card of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limbeck.cli import main
from limbeck.cli.methods import FAMILY_TITLES
from limbeck.methods import FAMILIES, family_of, method, names
from limbeck.methods.search import METHODS_WITHOUT_FORMULA


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


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("decoupled", {"dkd"}),
        ("TCKD", {"dkd"}),
        ("contrastive", {"crd"}),
        ("ranking", {"listwise_kl", "rank_distillation"}),
        ("attention maps", {"attention_transfer", "tinybert", "internal_representations", "qat_attention"}),
        ("top-k tail", {"top_k_kd"}),
        ("TopK Tail", {"top_k_kd"}),
        ("KD", {"hinton"}),
        ("cho", {"eskd", "early_stopped_teacher"}),
        ("hariharan 2019", {"eskd", "early_stopped_teacher"}),
        ("1910.01348", {"eskd", "early_stopped_teacher"}),
        ("arXiv:1503.02531", {"hinton"}),
        ("muller", {"subclass_distillation"}),
        ("at", {"attention_transfer"}),
    ],
)
def test_words_are_searched_for_in_the_cards(capsys, query, expected):
    hits = json.loads(printed(capsys, query, "--json"))
    assert expected <= set(hits)
    assert len(hits) < 12
    lines = printed(capsys, query).splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "] == list(hits)
    assert max(map(len, lines)) <= 100


def test_hits_are_only_those_of_the_task(capsys):
    hits = json.loads(printed(capsys, "contrastive", "--task", "language_modeling", "--json"))
    assert all("language_modeling" in card["tasks"] for card in hits.values())


@pytest.mark.parametrize(
    ("query", "name"), [("DKD", "dkd"), ("logit standardization", "logit_standardization"), ("Top-K KD", "top_k_kd")]
)
def test_case_spaces_and_hyphens_of_a_name_do_not_matter(capsys, query, name):
    assert printed(capsys, query) == printed(capsys, name)
    assert json.loads(printed(capsys, query, "--json")) == json.loads(printed(capsys, name, "--json"))


def test_a_method_without_public_formula_says_so(capsys):
    assert "2304.11923" in printed(capsys, "SLKD")
    assert "2304.11923" in json.loads(printed(capsys, "slkd", "--json"))["not_available"]
    choose = (Path(__file__).parents[2] / "docs" / "choose.md").read_text(encoding="utf-8")
    assert all(name in choose for name in METHODS_WITHOUT_FORMULA)


@pytest.mark.parametrize("query", ["hintn", "???", "", "contrastive hintn"])
def test_what_no_card_has_is_an_unknown_name(capsys, query):
    with pytest.raises(SystemExit) as ended:
        main(["methods", query])
    assert ended.value.code
    assert repr(query) in capsys.readouterr().err
