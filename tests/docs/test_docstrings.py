"""The examples in docstrings are executed."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from pathlib import Path

import pytest
import torch

import limbeck

ROOT = Path(limbeck.__file__).parent
FILES = sorted(
    path for path in ROOT.rglob("*.py") if re.search(r">>> (?!#|.*\+SKIP)", path.read_text(encoding="utf-8"))
)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def name_module(path: Path) -> str:
    return ".".join(("limbeck", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def find_docstrings(path: Path):
    """Name, line and text of each docstring; by the source, because checks of shapes wrap the functions."""
    for node in find_definitions(ast.parse(path.read_text(encoding="utf-8"))):
        if (text := ast.get_docstring(node)) and ">>> " in text:
            yield ("module", 0, text) if isinstance(node, ast.Module) else (node.name, node.lineno, text)


def find_definitions(node):
    """A module, and the classes and functions in it; `ast.walk` would look at every expression."""
    yield node
    for inner in node.body:
        if isinstance(inner, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from find_definitions(inner)


@pytest.mark.parametrize("path", FILES, ids=name_module)
def test_the_examples_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write files
    try:
        module = importlib.import_module(name_module(path))
    except ImportError as error:
        pytest.skip(f"{path.name} needs a package that is not installed: {error.name}")
    runner, parser, tried = doctest.DocTestRunner(optionflags=OPTIONS), doctest.DocTestParser(), 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, line, text in find_docstrings(path):
            tried += runner.run(parser.get_doctest(text, dict(vars(module)), name, str(path), line)).attempted
    assert tried
    assert not runner.failures, f"{runner.failures} of {tried} examples fail; what they print is above"
