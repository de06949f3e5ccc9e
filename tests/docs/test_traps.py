"""The page about mistakes names a test for each, and these tests exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = re.findall(r"^\| (\d+) \| (.+) \| (.+) \|$", (ROOT / "docs" / "traps.md").read_text(encoding="utf-8"), re.M)


@pytest.fixture(scope="module")
def functions():
    """The names of all functions of the tests that are about a trap."""
    names = []
    for file in sorted((ROOT / "tests").rglob("*.py")):
        if "trap_" in (text := file.read_text(encoding="utf-8")):
            names += [node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    return names


def test_there_are_thirty_in_order():
    assert [int(number) for number, _, _ in ROWS] == list(range(1, 31))


@pytest.mark.parametrize(("number", "mistake", "tests"), ROWS, ids=[row[0] for row in ROWS])
def test_each_trap_has_tests_with_its_number(number, mistake, tests, functions):
    named = re.findall(r"`(\w+)`", tests)
    assert named, f"trap {number} ({mistake}) names no test"
    for name in named:
        assert re.fullmatch(rf"(test_)?trap_{number}_\w+", name)
        assert functions.count(name) == 1, f"{name} is in {functions.count(name)} places"


def test_every_number_of_a_test_is_that_of_a_trap(functions):
    numbers = {match[1] for name in functions if (match := re.match(r"test_trap_(\d+)_", name))}
    assert numbers <= {number for number, _, _ in ROWS}
