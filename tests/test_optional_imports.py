"""Errors of libraries that are not installed."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import pytest

from limbeck.errors import LimbeckError
from limbeck.optional_imports import MissingPackageError, import_optional, is_installed

ROOT = Path(__file__).resolve().parents[1]


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingPackageError) as caught:
        import_optional("sklearn", extra="sklearn", purpose="Average precision")
    assert (caught.value.package, caught.value.extra) == ("scikit-learn", "sklearn")
    assert isinstance(caught.value, LimbeckError)
    assert isinstance(caught.value, ImportError)
    assert "pip install 'limbeck[sklearn]'" in str(caught.value)


def test_a_missing_requirement_of_an_installed_library_is_another_error(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import its_missing_requirement\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError) as caught:
        import_optional("half_installed", extra="table")
    assert not isinstance(caught.value, LimbeckError)
    assert caught.value.name == "its_missing_requirement"


def test_is_installed_agrees_with_the_import():
    assert is_installed("torch")
    assert not is_installed("its_missing_requirement")


_PASS_ON = {"import_optional", "import_library", "missing_package_error"}


def _extras(path):
    """The extras that a file writes into calls of `import_optional`, and of functions that pass them on."""
    text = path.read_text(encoding="utf-8")
    if not any(name in text for name in _PASS_ON):
        return set()
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    words = [word for call in calls if ast.unparse(call.func) in _PASS_ON for word in call.keywords]
    return {word.value.value for word in words if word.arg == "extra" and isinstance(word.value, ast.Constant)}


def test_every_extra_in_the_source_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = set().union(*map(_extras, (ROOT / "src").rglob("*.py")))
    assert names, "no call was seen"
    assert names <= set(extras)


def test_no_other_module_writes_the_command_by_hand():
    files = [path for path in (ROOT / "src").rglob("*.py") if "pip install 'limbeck[" in path.read_text("utf-8")]
    assert {path.name for path in files} == {"optional_imports.py"}
