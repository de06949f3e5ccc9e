"""The figures of the house, counted on a small tree."""

from __future__ import annotations

import json

import pytest

from tools.house import BARS, KINDS, MEANINGS, count_cycles, count_house, count_kinds, count_packages, main

FILES = {
    "__init__.py": '"""A package."""\n\nfrom limbeck.one import Shape\n',
    "one.py": '''"""What is this?"""

from limbeck import two


class Shape:
    size = 3


def found(self, kept, *, name):  # a comment for people
    size = 2
    value = getattr(self, "a", None)
    return value
''',
    "two.py": '''"""Shapes."""

import os  # noqa: F401


class Shape:
    def area(self):
        from limbeck.one import found

        # Not every shape has sides.
        return getattr(self, "sides", found)


class _Private:
    pass
''',
    "part/three.py": '"""Three."""\nclass _Private: ...\n',
}


@pytest.fixture
def tree(tmp_path):
    for name, text in FILES.items():
        file = tmp_path / "src" / "limbeck" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def test_every_figure_of_a_small_tree(tree):
    assert count_house(tree) == {
        "files": 4,
        "lines": 33,
        "median_file": 13,
        "longest": 15,
        "question_docstrings": 1,
        "participles_share": 22.22,  # found and kept, of found, self, kept, name, size (twice), value, area, self
        "getattr_default": 2,
        "getattr_without_reason": 1,
        "classes_defined_twice": 1,
        "import_cycles": 1,
        "comment_share": round(100 * 2 / 33, 2),
    }


def test_a_cycle_counts_once_however_long_it_is():
    assert count_cycles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}, "f": {"g"}, "g": {"f"}}) == 2


def test_the_command_prints_a_table_or_json_and_checks(tree, capsys):
    assert main([str(tree)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(MEANINGS) == len(BARS) + 1
    assert lines[0].split()[-4:] == ["at", "most", "230", "met"]
    assert main([str(tree), "--json", "--check"]) == 1
    assert json.loads(capsys.readouterr().out)["files"] == 4


def test_a_folder_without_source_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="limbeck"):
        count_house(tmp_path)


def test_every_line_is_of_one_kind():
    text = '"""First.\n\nSecond."""\n\nx = 1  # why\n# a comment\n\n\ny = "text"\n"""About y."""\n'
    assert count_kinds(text) == {"docstrings": 4, "blank": 3, "code": 2, "comments": 1}


def test_the_lines_of_packages_add_up(tree):
    packages = count_packages(tree)
    assert {name: counts["files"] for name, counts in packages.items()} == {"(modules)": 3, "part": 1}
    assert sum(counts[kind] for counts in packages.values() for kind in KINDS) == count_house(tree)["lines"]
