"""Names from files in all that a command prints: none of their characters may command a terminal."""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import pytest
from rich.table import Table

from limbeck.cli import main
from limbeck.cli.terminal import make_console, printable_output

HOSTILE = "a\x1b]0;pwned\x07\x1b[2J\u202eb\x9b1m"
COMMANDS = "\x1b\x07\x9b\u202e"


def test_tables_and_lines_spell_control_characters_out(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    with printable_output():
        table = Table(HOSTILE)
        table.add_row(HOSTILE)
        make_console(width=200).print(table, HOSTILE)
        print(HOSTILE)
    assert not set(COMMANDS) & set(stream.getvalue())
    # A table crops a long name, and rich leaves \x07 out by itself.
    assert stream.getvalue().count(r"a\x1b]0;pwned") == 4
    assert r"a\x1b]0;pwned\x07\x1b[2J\u202eb\x9b1m" in stream.getvalue()
    assert sys.stdout is stream


def test_progress_of_other_libraries_stays_on_its_line(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with printable_output():
        sys.stderr.write("\r 50%")
        sys.stderr.write("\r100% of a\rb")
    assert stream.getvalue() == "\r 50%\r100% of a\\rb"


def test_colors_reach_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with printable_output():
        make_console().print(HOSTILE, style="bold red", markup=False, highlight=False)
    assert "\x1b[1;31m" in stream.getvalue()
    assert not {"\x07", "\x9b", "\u202e"} & set(stream.getvalue())
    assert "\x1b]" not in stream.getvalue()
    assert "\x1b[2J" not in stream.getvalue()


@pytest.fixture
def data(tmp_path):
    draw, labels = np.random.default_rng(0), np.arange(60) % 3
    names = np.array([f"{HOSTILE}{name}" for name in "abc"])
    np.savez(tmp_path / "d.npz", x=draw.normal(size=(60, 4)).astype(np.float32), y=labels, class_names=names)
    return tmp_path / "d.npz"


@pytest.mark.parametrize("command", ["doctor", "distill"])
def test_class_names_in_what_a_command_prints(data, capsys, monkeypatch, command):
    monkeypatch.chdir(data.parent)
    small = ["teacher.hidden=[8]", "student.hidden=[4]", "teacher.check=false", "budget.epochs=1", "seeds=1"]
    sets = [word for one in small for word in ("--set", one)]
    with pytest.raises(SystemExit):
        main([command, "--data", str(data), "--teacher", "mlp", "--student", "mlp", *sets])
    out, err = capsys.readouterr()
    assert not set(COMMANDS) & set(out + err)


def test_a_job_that_is_printed(tmp_path, capsys):
    job = {"data": "digits\u202ex", "teacher": "mlp", "student": {"model": "mlp", "hidden": [3]}}
    (tmp_path / "a.yaml").write_text(json.dumps(job))
    with pytest.raises(SystemExit):
        main(["distill", str(tmp_path / "a.yaml"), "--print-job"])
    out, err = capsys.readouterr()
    assert not set(COMMANDS) & set(out + err)
    assert r"\u202e" in out
