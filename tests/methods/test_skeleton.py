"""`limbeck methods --new`: the skeleton passes all checks as it is written."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from limbeck.errors import ArgumentError, LimbeckError, UnknownNameError
from limbeck.methods import method, write_skeleton
from limbeck.testing import check_kernel, check_method


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("family", ["logits", "features"])
def test_a_skeleton_outside_a_checkout_is_one_file_that_keeps_all_laws(tmp_path, family):
    (file,) = write_skeleton(f"own_{family}", family=family, folder=tmp_path)
    module = load(file)
    check_method(vars(module)[f"own_{family}"], thorough=False)
    card = method(f"{file}:own_{family}").card
    for claim in card.kernels:
        check_kernel(claim)
    assert card.title == "Title of the paper"


def test_a_skeleton_in_a_checkout_has_a_test_and_a_page(tmp_path):
    (tmp_path / "src" / "limbeck" / "methods").mkdir(parents=True)
    files = write_skeleton("relational", family="relations", folder=tmp_path)
    assert [str(file.relative_to(tmp_path)) for file in files] == [
        "src/limbeck/methods/relations/relational.py",
        "tests/methods/test_relational.py",
        "docs/methods/relational.md",
        "src/limbeck/methods/relations/__init__.py",
    ]
    with pytest.raises(LimbeckError, match="exists already"):
        write_skeleton("relational", family="relations", folder=tmp_path)


def test_the_files_of_a_skeleton_are_formatted(tmp_path):
    for family in ("logits", "features"):
        write_skeleton(f"a_method_of_{family}", family=family, folder=tmp_path)
    root = Path(__file__).resolve().parents[2]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--config", root / "pyproject.toml", tmp_path],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["Relational", "two words", "class", "1st", ""])
def test_a_name_that_is_no_python_name_is_refused(tmp_path, name):
    with pytest.raises(ArgumentError):
        write_skeleton(name, folder=tmp_path)


def test_an_unknown_family_gets_the_nearest_name(tmp_path):
    with pytest.raises(UnknownNameError, match="features"):
        write_skeleton("own", family="feature", folder=tmp_path)


def test_the_name_of_a_family_is_no_method(tmp_path):
    with pytest.raises(ArgumentError, match="family") as refused:
        write_skeleton("relations", family="relations", folder=tmp_path)
    assert refused.value.argument == "name"
    assert not list(tmp_path.iterdir())


def test_a_card_has_all_authors():
    with pytest.raises(ArgumentError) as refused:
        replace(method("hinton").card, authors="Hinton et al.")
    assert refused.value.argument == "authors"
