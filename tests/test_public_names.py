"""Public names exist, are imported lazily, and are the right objects."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pytest

import limbeck
from small_jobs import environment


def test_every_name_resolves():
    for name in limbeck.__all__:
        assert getattr(limbeck, name) is not None
    assert set(limbeck.__all__) <= set(dir(limbeck))
    assert limbeck.__all__ == sorted(set(limbeck.__all__))


def declared():
    """What a type checker reads: name -> module."""
    tree = ast.parse(Path(limbeck.__file__).read_text())
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("limbeck."):
            found |= {alias.name: node.module for alias in node.names if alias.asname == alias.name}
    return found


def test_a_type_checker_and_python_see_the_same_names():
    modules = {name for name in limbeck.__all__ if type(getattr(limbeck, name)).__name__ == "module"}
    assert set(declared()) == set(limbeck.__all__) - modules


@pytest.mark.parametrize(("name", "module"), sorted(declared().items()))
def test_a_name_is_its_modules(name, module):
    assert getattr(limbeck, name) is getattr(import_module(module), name)


def packages():
    yield "limbeck"
    yield from (one.name for one in pkgutil.walk_packages(limbeck.__path__, "limbeck.") if one.ispkg)


def annotated(value):
    """A public function; or a class with its methods and what its properties return."""
    if inspect.isfunction(value) or inspect.isclass(value):
        yield value
    for one in vars(value).values() if inspect.isclass(value) else ():
        function = one.fget if isinstance(one, property) else getattr(one, "__func__", one)
        if inspect.isfunction(function):
            yield function


@pytest.mark.parametrize("package", list(packages()))
def test_the_type_hints_of_every_public_name_can_be_read(package):
    module = import_module(package)
    for name in getattr(module, "__all__", ()):
        for one in annotated(getattr(module, name)):
            get_type_hints(one)


def test_a_wrong_name_offers_the_nearest():
    with pytest.raises(AttributeError, match=r"limbeck has no 'Ensembel'\. Did you mean 'Ensemble'\?"):
        limbeck.Ensembel  # noqa: B018
    with pytest.raises(AttributeError, match=r"limbeck has no 'zzzzzz'\.$"):
        limbeck.zzzzzz  # noqa: B018
    with pytest.raises(ImportError):
        from limbeck import Ensembel  # noqa: F401


def test_nothing_heavy_is_imported_before_it_is_used():
    script = (
        "import sys, limbeck; heavy = {'torch', 'numpy', 'sklearn', 'lightning_fabric', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "limbeck.LimbeckError; dir(limbeck)\nassert 'torch' not in sys.modules\n"
        "limbeck.Loss\nassert 'torch' in sys.modules\n"
        "late = {'sklearn', 'scipy', 'pyarrow', 'PIL', 'torchmetrics', 'transformers', 'timm'}\n"
        "assert not late & set(sys.modules), late & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_module_explains_what_is_in_it():
    for path in Path(limbeck.__file__).parent.rglob("*.py"):
        head = re.match(r'""".*?"""', path.read_text(encoding="utf-8"), re.DOTALL)
        first = ast.get_docstring(ast.parse(head[0])) if head else None
        assert first, path
        if path.name != "__init__.py":
            assert first.splitlines()[0].endswith("."), (path, first)
