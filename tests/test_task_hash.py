"""Tests of the hashes of tasks."""

from __future__ import annotations

import importlib
import sys
from functools import partial

import pytest

from limbeck.task_runner import WorkItem, hash_code, hash_tasks, sort_tasks

FILES = {
    "__init__": "",
    "work": "from papers2015.net import build\ndef do(desk, *, seed):\n    return {'n': build(seed)}\n",
    "net": "from papers2015.sizes import wide\nWIDTH = 3\ndef build(seed):\n    return wide(WIDTH)\n",
    "sizes": "def wide(n):\n    return 2 * n\n",
    "other": "def rest():\n    return 0\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "papers2015"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.startswith("papers2015")]:
        del sys.modules[name]


def stamp(seed: int = 0, before: int = 0) -> str:
    do = importlib.import_module("papers2015.work").do
    tasks = [
        WorkItem("first", partial(do, seed=before)),
        WorkItem("second", partial(do, seed=seed), requires=("first",)),
    ]
    return hash_tasks(sort_tasks(tasks))["second"]


def test_settings_and_needs_are_part_of_it(package):
    assert stamp() == stamp()
    assert len({stamp(), stamp(seed=1), stamp(before=1)}) == 3


@pytest.mark.parametrize("name", ["work", "net", "sizes"])
def test_so_is_the_code_that_it_takes_functions_from(package, name):
    before = stamp()
    file = package / f"{name}.py"
    file.write_text(file.read_text().replace("3", "4") + "# another\n")
    assert stamp() != before


def test_a_function_among_the_arguments_is_known_by_its_name_and_code(package):
    work, net = (importlib.import_module(f"papers2015.{name}") for name in ("work", "net"))

    def hash_of(function):
        return hash_tasks([WorkItem("one", partial(work.do, function))])["one"]

    before = hash_of(net.build)
    assert before == hash_of(importlib.reload(net).build)  # at another address
    assert before != hash_of(work.do)
    (package / "sizes.py").write_text("def wide(n):\n    return 3 * n\n")
    assert before != hash_of(net.build)


def test_the_code_of_others_is_not(package):
    before = stamp()
    importlib.import_module("papers2015.other")
    (package / "other.py").write_text("def rest():\n    return 1\n")
    assert stamp() == before


def test_the_digits_are_those_of_the_digits_alone():
    from limbeck.papers.hinton2015 import mnist, speech

    assert hash_code(mnist.__name__) != hash_code(speech.__name__)
