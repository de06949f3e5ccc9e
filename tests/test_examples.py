"""The scripts in examples/: every name of limbeck in them exists, and they run to their end."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import runpy
import subprocess
import sys

import pytest

from conftest import REPOSITORY

SCRIPTS = sorted((REPOSITORY / "examples").glob("*.py"))
# mnist.py takes a quarter of an hour; what it does is a job, which other tests run.
QUICK = [file for file in SCRIPTS if file.name != "mnist.py"]


def exists(module: str, name: str) -> bool:
    if hasattr(importlib.import_module(module), name):
        return True
    try:
        return bool(importlib.import_module(f"{module}.{name}"))
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.stem)
def test_every_name_of_limbeck_exists(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = {
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "limbeck"
        for alias in node.names
    }
    names |= {
        ("limbeck", node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "lb"
    }
    assert [name for name in sorted(names) if not exists(*name)] == []


@pytest.mark.soak
@pytest.mark.parametrize("file", QUICK, ids=lambda file: file.stem)
def test_it_runs_to_its_end(file, tmp_path):
    words = ["--examples", "200", "--epochs", "1", "--out", str(tmp_path / "out")] if file.stem == "hf_sst2" else []
    if words and not os.environ.get("LIMBECK_DATA"):
        pytest.skip("SST-2 is looked for in the folder that LIMBECK_DATA names, which is not set")
    if file.stem == "trl_before" and not all(importlib.util.find_spec(name) for name in ("trl", "datasets")):
        pytest.skip("trl and datasets are not installed: pip install trl==1.16.0 datasets")
    paths = os.pathsep.join([str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [sys.executable, str(file), *words], cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()


def statements(name):
    """The statements of a script, without its first line; those under ``if __name__`` one by one."""
    _, *body = ast.parse((REPOSITORY / "examples" / name).read_text(encoding="utf-8")).body
    return [ast.unparse(one) for part in body for one in (part.body if isinstance(part, ast.If) else [part])]


def test_a_user_of_trl_changes_four_statements():
    before, after = statements("trl_before.py"), statements("limbeck_after.py")
    assert len([one for one in before if one not in after]) == 4
    assert len([one for one in after if one not in before]) == 4


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_script_that_was_one_of_trl_trains_a_student(tmp_path, monkeypatch, capsys):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")
    monkeypatch.chdir(tmp_path)
    scope = runpy.run_path(str(REPOSITORY / "examples" / "limbeck_after.py"), run_name="__main__")
    assert "is in runs/gkd/student" in capsys.readouterr().out
    assert scope["run"].history[-1].step == 20
    saved = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "runs" / "gkd" / "student")
    assert saved.config.n_layer == 1
