"""Programs of models: what they may compute, and a list of attacks that are refused."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import ArgumentError
from limbeck.generated_texts import ProgramError, run_program


@pytest.mark.parametrize(
    ("program", "value"),
    [
        ("answer = 2 + 3 * 4", 14),
        ("a = 7\nb = a // 2\nanswer = b ** 2 - a % 4", 6),
        ("1 + 1", 2),
        ("a = 2\na += 3\na *= 4\na -= 1\na //= 2", 9),
        ("a = 2\na **= 3\nb = 1\nanswer = a", 8),
        ("answer = 5\n7", 5),
        ("answer = min(3, 2) + max(1, 4) + abs(-5) + round(2.6)", 14),
        ("answer = 1 if 2 < 3 else 1 / 0", 1),
        ("answer = sqrt(16) + gcd(12, 18)", 10.0),
        ("answer = round(2.345, 1)", 2.3),
        ("answer = 10 / 4", 2.5),
        ("# eggs\nanswer = -(-3)", 3),
    ],
)
def test_arithmetic_is_that_of_python(program, value):
    assert run_program(program) == value


def test_inputs_are_read_and_not_changed():
    inputs = {"x": 3}
    assert run_program("x = x + 1\nanswer = x", inputs=inputs) == 4
    assert inputs == {"x": 3}


expressions = st.recursive(
    st.integers(-50, 50).map(lambda n: f"({n})"),
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda parts: "(" + " ".join(parts) + ")"),
    max_leaves=12,
)


@given(expressions)
@settings(max_examples=50, deadline=None)
def test_expressions_have_the_value_that_python_gives(text):
    assert run_program(text) == eval(text)


ATTACKS = {
    "attribute": ("().__class__.__bases__", "not allowed"),
    "attribute of a number": ("(1).real", "not allowed"),
    "import": ("import os", "not allowed"),
    "import of a name": ("from os import system", "not allowed"),
    "__import__": ("__import__('os').system('true')", "not allowed"),
    "eval": ("eval('1')", "not allowed"),
    "open": ("open('/etc/passwd')", "not allowed"),
    "print": ("print(1)", "not allowed"),
    "a function by another name": ("f = abs\nf(1)", "not allowed"),
    "a function that is called twice": ("abs(1)(2)", "not allowed"),
    "builtins": ("__builtins__", "failed"),
    "text": ("'a' * 10", "not allowed"),
    "formatted text": ("f'{1}'", "not allowed"),
    "bytes": ("b'a'", "not allowed"),
    "list": ("[0] * 10", "not allowed"),
    "comprehension": ("[x for x in (1, 2)]", "not allowed"),
    "generator": ("sum(x for x in (1,))", "not allowed"),
    "dictionary": ("{1: 2}", "not allowed"),
    "lambda": ("lambda: 1", "not allowed"),
    "function": ("def f():\n    return f()\n", "not allowed"),
    "class": ("class A: pass", "not allowed"),
    "while": ("while True: pass", "not allowed"),
    "for": ("for i in 1, 2: pass", "not allowed"),
    "walrus": ("(a := 1)", "not allowed"),
    "several targets": ("a = b = 1", "not allowed"),
    "unpacking": ("a, b = 1, 2", "not allowed"),
    "deletion": ("del a", "not allowed"),
    "global": ("global a", "not allowed"),
    "subscript": ("a[0]", "not allowed"),
    "starred": ("max(*a)", "not allowed"),
    "keyword": ("round(1.5, ndigits=1)", "not allowed"),
    "await": ("await a", "not allowed"),
    "with": ("with a: pass", "not allowed"),
    "try": ("try:\n    1\nexcept: 2", "not allowed"),
    "complex number": ("1j", "not allowed"),
    "shift": ("1 << 10000000000", "not allowed"),
    "matrix product": ("1 @ 1", "not allowed"),
    "exponent bomb": ("9 ** 9 ** 9 ** 9", "too large"),
    "large exponent": ("2 ** 10000000", "too large"),
    "negative exponent bomb": ("3 ** -10000000000", "too large"),
    "repeated squares": ("\n".join(["a = 10 ** 100"] + ["a = a * a"] * 30), "too large"),
    "repeated squares in place": ("a = 10 ** 100\n" + "a *= a\n" * 30, "too large"),
    "exponent bomb in place": ("a = 9\na **= 9 ** 9\na **= 9", "too large"),
    "unknown name in place": ("a += 1", "failed"),
    "division in place": ("a = 1\na /= 0", "failed"),
    "item in place": ("a[0] += 1", "not allowed"),
    "attribute in place": ("a.b += 1", "not allowed"),
    "shift in place": ("a = 1\na <<= 10 ** 9", "not allowed"),
    "digits of round": ("round(5, -1000000000)", "failed"),
    "root of a negative number": ("(-8) ** 0.5", "failed"),
    "infinity": ("1e308 * 10", "failed"),
    "overflow": ("10.0 ** 400", "failed"),
    "infinite constant": ("1e999", "failed"),
    "division by zero": ("1 / 0", "failed"),
    "unknown name": ("answer = apples", "failed"),
    "arguments": ("abs()", "failed"),
    "no program": ("", "no result"),
    "comment alone": ("# 1", "no result"),
    "prose": ("The answer is 7.", "syntax"),
    "null byte": ("1\0", "syntax"),
    "surrogate": ("a = '\ud800'", "syntax"),
    "long": ("1 + " * 600 + "1", "too long"),
    "nested": ("(" * 900 + "1" + ")" * 900, "syntax"),
    "nested signs": ("-" * 1900 + "1", None),
    "nested sums": ("+".join(["1"] * 500), "too large"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name):
    program, reason = ATTACKS[name]
    start = time.monotonic()
    with pytest.raises(ProgramError) as caught:
        run_program(program)
    assert time.monotonic() - start < 1.0
    assert reason is None or caught.value.reason == reason


@given(st.text(alphabet="0123456789+-*/%() \nabcxyz=<>!.,'[]{}:_", max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_has_a_number_or_one_kind_of_error(text):
    try:
        value = run_program(text)
    except ProgramError:
        return
    assert isinstance(value, (int, float))


def test_an_input_of_the_name_of_the_result_is_no_result():
    assert run_program("1 + 1", inputs={"answer": 5}) == 2
    assert run_program("answer += 1", inputs={"answer": 5}) == 6
    with pytest.raises(ProgramError) as caught:
        run_program("", inputs={"answer": 5})
    assert caught.value.reason == "no result"


def test_time_is_limited():
    lines = "\n".join(f"a{i} = 1" for i in range(100))
    with pytest.raises(ProgramError) as caught:
        run_program(lines, seconds=1e-9)
    assert caught.value.reason == "time"


@pytest.mark.parametrize("limit", ["seconds", "max_characters", "max_bits"])
def test_a_limit_is_positive(limit):
    with pytest.raises(ArgumentError) as caught:
        run_program("1", **{limit: 0.0 if limit == "seconds" else 0})
    assert caught.value.argument == limit
