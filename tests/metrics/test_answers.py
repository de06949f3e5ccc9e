"""Answers of texts: extraction, normal form, majority votes, cost curves, ANLS."""

from __future__ import annotations

import itertools
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import ArgumentError, DataError
from limbeck.metrics import (
    anls,
    cost_curve,
    edit_distance,
    extract_answer,
    field_anls,
    majority_accuracy,
    majority_vote,
    normalize_answer,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{42}", "42"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}} is it", r"\frac{1}{\sqrt{2}}"),
        (r"first \boxed{7}, cut off \boxed{8", "7"),
        ("5 apples\n#### 1,200\n", "1,200"),
        ("It is 3, or 4.", "4"),
        ("5 - 3", "3"),
        ("is -3", "-3"),
        ("costs $1,234.50.", "$1,234.50"),
        ("1/2", "1/2"),
        (".5", ".5"),
        ("2, 3, 4", "4"),
        ("v2", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_the_answer_of_a_text(text, answer):
    assert extract_answer(text) == answer


@given(st.lists(st.sampled_from([r"\boxed{", "{", "}", "a", " 7 "]), max_size=14))
def test_the_last_complete_box_is_that_of_brute_force(parts):
    text = "".join(parts)
    starts = [at for at in range(len(text)) if text.startswith(r"\boxed{", at)]
    inside = None
    for start in reversed(starts):
        depth, first = 1, start + 7
        for at in range(first, len(text)):
            depth += (text[at] == "{") - (text[at] == "}")
            if depth == 0:
                inside = text[first:at].strip()
                break
        if inside is not None:
            break
    numbers = [one for one in text.replace("{", " ").replace("}", " ").split() if one == "7"]
    assert extract_answer(text) == (inside or (numbers[-1] if numbers else None))


def test_a_text_that_repeats_a_cut_off_box_is_read_at_once():
    begin = time.process_time()
    assert extract_answer(r"\boxed{" * 50_000) is None
    assert time.process_time() - begin < 2.0  # minutes, if every box were searched to the end of the text


def test_a_marker_is_followed_by_the_answer():
    assert extract_answer("Answer: 3\nANSWER:  the moon \n4", marker="answer:") == "the moon"
    assert extract_answer("3", marker="answer:") is None
    assert extract_answer("answer:", marker="answer:") is None


@pytest.mark.parametrize(
    "same",
    [
        ("7", "7.0", " 7 ", "+7", "$7", "7.", r"\text{7}", "007", "14/2"),
        ("1200.5", "$1,200.50", "1,200.5"),
        ("1/2", r"\frac{1}{2}", r"\dfrac{2}{4}", ".5", "0.50"),
        ("the moon", " The  Moon. "),
        ("-3", "-3.00"),
    ],
)
def test_equal_answers_have_one_form(same):
    assert len({normalize_answer(answer) for answer in same}) == 1


def test_other_answers_have_other_forms():
    forms = [normalize_answer(answer) for answer in ("7", "-7", "70", "7a", "1/0", "9" * 500, "", "x = 7")]
    assert len(set(forms)) == len(forms)


@given(st.text(max_size=40))
@settings(max_examples=40, deadline=None)
def test_the_form_of_a_form_is_itself(text):
    answer = extract_answer(text)
    for one in (text, answer or ""):
        assert normalize_answer(normalize_answer(one)) == normalize_answer(one)


samples = st.lists(st.sampled_from(["1", "2", "3"]), min_size=6, max_size=6)


@given(st.lists(samples, min_size=1, max_size=4), st.sampled_from(["1", "2"]))
@settings(max_examples=30, deadline=None)
def test_one_sample_and_two_have_the_accuracy_of_samples(rows, right):
    share = sum(answer == right for row in rows for answer in row) / (6 * len(rows))
    for k in (1, 2):
        assert majority_accuracy(rows, [right] * len(rows), k=k).value == pytest.approx(share)


@given(samples)
@settings(max_examples=5, deadline=None)
def test_the_order_of_the_votes_does_not_matter(row):
    values = {
        round(majority_accuracy([list(order)], ["1"], k=6).value, 12)
        for order in list(itertools.permutations(row))[::13]
    }
    assert len(values) == 1


def test_many_samples_decide_as_the_most_likely_answer():
    # Binomial: 3 of 5 or more, at p = 0.6, over all 2**5 outcomes.
    p, k = 0.6, 5
    expected = sum(math.comb(k, n) * p**n * (1 - p) ** (k - n) for n in range(3, k + 1))
    found = sum(
        p ** sum(row) * (1 - p) ** (k - sum(row)) * majority_accuracy([[str(x) for x in row]], ["1"], k=k).value
        for row in itertools.product((0, 1), repeat=k)
    )
    assert found == pytest.approx(expected)


def test_a_sample_without_an_answer_does_not_vote():
    assert majority_vote([None, None, "3"]) == (("3",), 1 / 3)
    assert majority_vote([None]) == ((), 0.0)
    assert majority_accuracy([[None, None, "3"]], ["3"], k=3).value == 1.0


def test_the_cost_of_a_vote_is_k_samples():
    curve = cost_curve([["7", "8", "7", "7"], ["1", "1", "2", "1"]], ["7", "1"], [[4] * 4, [8] * 4], ks=(1, 2, 4))
    assert [point.tokens for point in curve] == [6.0, 12.0, 24.0]
    assert [point.accuracy for point in curve] == [0.75, 0.75, 1.0]


def test_wrong_votes_are_refused():
    with pytest.raises(ArgumentError) as caught:
        majority_accuracy([["1"]], ["1"], k=0)
    assert caught.value.argument == "k"
    with pytest.raises(DataError, match="1 samples"):
        majority_accuracy([["1"]], ["1"], k=2)
    with pytest.raises(DataError, match="1 answers and 2"):
        majority_accuracy([["1"]], ["1", "2"])
    with pytest.raises(DataError):
        majority_vote([])
    with pytest.raises(DataError):
        cost_curve([["1"]], ["1"], [[1, 2]])


def brute_force_distance(one: str, other: str) -> int:
    if not one or not other:
        return len(one) + len(other)
    if one[0] == other[0]:
        return brute_force_distance(one[1:], other[1:])
    tails = ((one[1:], other), (one, other[1:]), (one[1:], other[1:]))
    return 1 + min(brute_force_distance(*tail) for tail in tails)


words = st.text(alphabet="abc", max_size=5)


@given(words, words, words)
@settings(max_examples=80, deadline=None)
def test_the_distance_is_that_of_all_edits_and_a_metric(a, b, c):
    assert edit_distance(a, b) == brute_force_distance(a, b) == edit_distance(b, a)
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("", "", 1.0),
        ("", "a", 0.0),
        ("a", "", 0.0),
        ("abcd", "abcd", 1.0),
        ("ABCD ", "abcd", 1.0),
        ("abcd", "abxx", 0.5),  # at the threshold
        ("abcd", "axxx", 0.0),  # below it
        ("abcdef", "abcdex", 5 / 6),
    ],
)
def test_anls_of_one_answer(answer, reference, value):
    assert anls([answer], [reference]).value == pytest.approx(value)
    assert anls([reference], [answer]).value == pytest.approx(value)


def test_anls_takes_the_nearest_reference_and_the_mean_over_answers():
    assert anls(["abcd", "x"], [["zzzz", "abcx"], "y"]).total == 0.75
    assert anls(["ab"], ["xb"], threshold=0.6).value == 0.0
    assert anls(["ab"], ["zz"], threshold=0.0).value == 0.0
    assert math.isnan(anls([], []).value)


def test_a_missing_field_is_an_empty_one():
    one, other = {"total": "12.50", "date": ""}, {"total": "12.50"}
    assert field_anls([one], [other]).value == field_anls([other], [one]).value == 1.0
    assert field_anls([{"a": "x"}], [{"b": "y"}]) == (0.0, 2)


def test_wrong_references_are_refused():
    with pytest.raises(ArgumentError) as caught:
        anls(["a"], ["a"], threshold=1.5)
    assert caught.value.argument == "threshold"
    with pytest.raises(DataError):
        anls(["a"], [[]])
