"""Filters keep and refuse texts for the reason that they state."""

from __future__ import annotations

import json
import linecache
import math

import pytest

from limbeck.errors import ArgumentError, LimbeckError, UnknownNameError
from limbeck.generated_texts import (
    Distinct,
    ExactAnswer,
    Finished,
    GeneratedText,
    Length,
    Majority,
    MatchesSchema,
    RightProgram,
    filter_texts,
    open_filters,
    parse_json,
)
from limbeck.generated_texts.filtering import hash_filters


def texts(*completions, reference=None, **values):
    return [GeneratedText("q", n, "?", one, reference, **values) for n, one in enumerate(completions)]


def reasons(one, *completions, **values):
    return list(one.refuse(texts(*completions, **values)))


@pytest.mark.parametrize(
    ("reference", "completion", "reason"),
    [
        ("7", r"3 + 4 = \boxed{7}", None),
        ("7", "It is 7.0.", None),
        ("7", "It is 8.", "wrong answer"),
        ("7", "I do not know.", "no answer"),
        ("a long way\n#### 1,200", "so 1200", None),
        (r"so \boxed{\frac12}", "so \\boxed{\\frac12}", None),
        ("blue", " Blue.", None),
        ("the 2 moons", "the 2 moons", None),
        ("the 2 moons", "2", "wrong answer"),
        ("blue", "It is red.", "wrong answer"),
        ("the 2 moons", "It is red.", "wrong answer"),
    ],
)
def test_the_right_answer_is_kept(reference, completion, reason):
    assert reasons(ExactAnswer(), completion, reference=reference) == [reason]


def test_every_kept_text_has_the_right_answer():
    from limbeck.metrics import extract_answer, normalize_answer

    group = texts(*(f"so {n}" for n in range(20)), reference="7")
    kept, why = filter_texts(group, [ExactAnswer()])
    assert [normalize_answer(extract_answer(one.completion)) for one in kept] == ["7"]
    assert why == ["exact_answer: wrong answer"] * 19


def test_a_majority_is_kept():
    assert reasons(Majority(0.5), "7", "so 7.0", "8", "none") == [None, None, "minority", "no answer"]
    assert reasons(Majority(0.6), "7", "so 7.0", "8", "none") == ["no majority"] * 4
    assert reasons(Majority(0.4), "7", "7", "8", "8") == ["no majority"] * 4  # a tie
    assert reasons(Majority(1.0), "7", "7") == [None, None]
    assert reasons(Majority(0.1), "none", "nothing") == ["no majority"] * 2


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, math.nan])
def test_a_share_is_a_fraction(share):
    with pytest.raises(ArgumentError) as caught:
        Majority(share)
    assert caught.value.argument == "share"


SCHEMA = {
    "type": "object",
    "required": ["total", "date"],
    "properties": {
        "total": {"type": "string", "pattern": r"^\d+\.\d\d$"},
        "date": {"type": "string", "format": "date"},
        "currency": {"enum": ["EUR", "USD"]},
    },
}


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ('{"total": "3.50", "date": "2024-01-31"}', None),
        ('```json\n{"total": "3.50", "date": "2024-01-31"}\n```', None),
        ('{"total": "3.50", "date": "2024-01-31", "currency": "EUR"}', None),
        ('{"total": "3.5", "date": "2024-01-31"}', "total: pattern"),
        ('{"total": "3.50", "date": "2024-02-31"}', "date: format"),
        ('{"total": 3.5, "date": "2024-01-31"}', "total: type"),
        ('{"total": "3.50"}', "date: required"),
        ('{"total": "3.50", "date": "2024-01-31", "currency": "GBP"}', "currency: enum"),
        ("[]", "the text: type"),
        ("{", "no JSON"),
        ("The total is 3.50.", "no JSON"),
        ('{"total": NaN}', "no JSON"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_a_record_matches_its_schema(completion, reason):
    pytest.importorskip("jsonschema")
    assert reasons(MatchesSchema(SCHEMA), completion) == [reason]


@pytest.mark.parametrize(
    "text",
    ['{"n": 1e999}', '{"n": -1e999}', f'{{"n": {"9" * 400}}}', f'{{"of": {"[" * 500}{"]" * 500}}}'],
    ids=["infinite", "minus infinite", "400 digits", "nested"],
)
def test_one_text_that_a_schema_cannot_judge_ends_no_run(text):
    pytest.importorskip("jsonschema")
    one = MatchesSchema({"properties": {"n": {"multipleOf": 0.01}, "of": {"items": {"$ref": "#/properties/of"}}}})
    kept, why = filter_texts(texts(text, '{"n": 2.5}'), [one])
    assert [text.completion for text in kept] == ['{"n": 2.5}']
    assert len(why) == 1


def test_a_schema_is_checked_when_it_is_opened(tmp_path):
    pytest.importorskip("jsonschema")
    with pytest.raises(LimbeckError, match="not valid"):
        MatchesSchema({"type": "text"})
    with pytest.raises(LimbeckError, match=r"no\.json"):
        open_filters([f"schema:{tmp_path / 'no.json'}"])
    (tmp_path / "damaged.json").write_text("{")
    with pytest.raises(LimbeckError, match=r"damaged\.json"):
        open_filters([f"schema:{tmp_path / 'damaged.json'}"])
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    assert open_filters([f"schema:{tmp_path / 's.json'}"])[0].refuse(texts("{}")) == ["total: required"]


def test_json_is_read_strictly():
    assert parse_json(" [1] ") == [1]
    for text in ("", "{'a': 1}", "[Infinity]", "[1e999]", "[-1e999]"):
        with pytest.raises(ValueError):
            parse_json(text)


def test_a_program_has_the_right_result():
    one = RightProgram()
    assert reasons(one, "answer = 3 + 4", " answer = 14 / 2\n", "answer = 8", reference="7") == [
        None,
        None,
        "wrong answer",
    ]
    assert reasons(one, "import os", "1 +", "1 / 0", "9 ** 9 ** 9", reference="7") == [
        "not allowed", "syntax", "failed", "too large",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("program", "reference"),
    [("answer = 1 / 100000", "0.00001"), ("answer = 1e22", f"1{'0' * 22}"), ("answer = 3 / 10 ** 7", "0.0000003")],
)
def test_a_small_or_large_result_of_a_program_is_a_number(program, reference):
    assert reasons(RightProgram(), program, reference=reference) == [None]
    assert reasons(RightProgram(), program, reference=f"{reference}1") == ["wrong answer"]


def test_a_reference_without_a_word_is_no_right_answer_for_texts_without_one():
    assert reasons(ExactAnswer(), "I do not know.", reference="") == ["no answer"]


def test_lengths_are_in_tokens_and_else_in_characters():
    one = Length(2, 3)
    assert reasons(one, "a", "ab", "abcd") == ["too short", None, "too long"]
    assert reasons(one, "a", "abcdef", token_ids=(1, 2)) == [None, None]
    assert reasons(Length(0), "", "a" * 1000) == [None, None]
    for least, most in ((-1, 3), (5, 3)):
        with pytest.raises(ArgumentError):
            Length(least, most)


def test_cut_off_texts_and_repeated_ones_are_refused():
    assert reasons(Finished(), "a", stop_reason="length") == ["cut off"]
    assert reasons(Finished(), "a") == [None]
    assert reasons(Distinct(), "a b", "a  b\n", "b") == [None, "duplicate", None]


def test_filters_are_applied_one_after_the_other():
    group = texts("7", "7", "8", " ", reference="7")
    kept, why = filter_texts(group, open_filters(["duplicates", "exact_answer"]))
    assert [one.sample for one in kept] == [0]
    assert why == ["empty", "duplicates: duplicate", "exact_answer: wrong answer"]
    assert filter_texts(group, [])[0] == group[:3]


@pytest.mark.parametrize(
    ("name", "opened"),
    [
        ("exact_answer", ExactAnswer()),
        ("exact_answer:Answer:", ExactAnswer("Answer:")),
        ("majority", Majority()),
        ("majority:0.75", Majority(0.75)),
        ("program", RightProgram()),
        ("length:1-200", Length(1, 200)),
        ("length:5-", Length(5)),
        ("length:-9", Length(1, 9)),
        ("finished", Finished()),
        ("duplicates", Distinct()),
    ],
)
def test_names_of_filters(name, opened):
    assert open_filters([name]) == [opened]


@pytest.mark.parametrize("name", ["length:9", "length:-", "length:a-b", "majority:most", "majority:2"])
def test_wrong_values(name):
    with pytest.raises(ArgumentError):
        open_filters([name])


def test_unknown_names():
    with pytest.raises(UnknownNameError, match="'exact_answer'"):
        open_filters(["exact_anser"])


def test_functions_are_filters(tmp_path):
    file = tmp_path / "my.py"
    file.write_text("def short(text):\n    return len(text.completion) < 3 or 'more than two'\n")
    (one,) = open_filters([f"{file}:short"])
    assert reasons(one, "ab", "abc") == [None, "more than two"]
    (two,) = open_filters([lambda text: text.sample == 1])
    assert reasons(two, "a", "b") == ["refused", None]


def test_a_function_that_fails_is_named(tmp_path):
    for function, words in ((lambda text: 1 / 0, "ZeroDivisionError"), (lambda text: None, "None"), (lambda t: 3, "3")):
        with pytest.raises(LimbeckError, match=words):
            filter_texts(texts("a"), open_filters([function]))

    class Broken:
        name, needs_reference = "broken", False

        def refuse(self, group):
            return []

    with pytest.raises(LimbeckError, match="0 reasons for 1 texts"):
        filter_texts(texts("a"), open_filters([Broken()]))


def test_other_settings_have_another_hash(tmp_path):
    made = [
        [],
        ["exact_answer"],
        ["exact_answer:A"],
        ["length:1-2"],
        ["length:1-3"],
        ["finished"],
        ["finished", "duplicates"],
    ]
    hashes = {hash_filters(open_filters(names)) for names in made}
    assert len(hashes) == len(made)
    file = tmp_path / "my.py"
    own = []
    for body in ("True", "False"):
        file.write_text(f"def check(text):\n    return {body}\n")
        linecache.clearcache()
        own.append(hash_filters(open_filters([f"{file}:check"])))
    assert own[0] != own[1]
