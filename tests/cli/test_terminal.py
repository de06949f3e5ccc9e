"""Output in a terminal and in a file."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
from pathlib import Path

import pytest

from fork_server import fork_command, poll_command
from small_jobs import blobs, environment, job_file, small_job

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")


def in_terminal(words, cwd, columns):
    """The command in a terminal that is so many columns wide: everything that it wrote, and its exit code."""
    ours, theirs = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {**environment(), "TERM": "xterm-256color"}
    del env["NO_COLOR"]
    terminal = Path(os.ttyname(theirs))
    child = fork_command(["-m", "limbeck", *words], cwd=cwd, env=env, out=terminal, err=terminal)
    seen, code = b"", None
    while code is None:
        code = poll_command(child)  # before the last look at what it wrote
        while select.select([ours], [], [], 0.02)[0]:
            seen += os.read(ours, 65536)
    os.close(ours)
    os.close(theirs)
    return seen.decode(), code


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, pytest.param(120, marks=pytest.mark.soak)])
def test_bars_and_table_fit_the_terminal(tmp_path, columns):
    job = small_job(
        blobs(tmp_path / "blobs.npz", train=300), teacher={"model": "mlp", "hidden": [64, 64], "members": 2}
    )
    job_file(tmp_path / "job.yaml", {**job, "seeds": 1, "budget": {"epochs": 12, "batch_size": 16, "lr": 0.001}})
    seen, code = in_terminal(["distill", "job.yaml", "--out", "run"], tmp_path, columns)
    assert code == 0, seen
    plain = ESCAPES.sub("", seen)
    shown = re.split(r"[\r\n]+", plain)
    assert max(len(line.rstrip()) for line in shown) <= columns
    bars = [line for line in shown if "━" in line]
    assert any(re.search(r"distilled, seed 0 +[━╸╺ ]+ +\d+% +[\d,]+/s", line) for line in bars), bars[:5]
    assert any("kl_divergence" in line for line in shown)
    assert any(re.match(r"  student alone, seed 0: \d+\.\d\d", line) for line in shown), (
        "the last result is below the bar of all"
    )
    assert any(line.startswith("teacher ") for line in bars)
    table = [line for line in shown if re.match(r"(teacher|student alone|label smoothing|distilled) +\d", line)]
    assert len(table) == 4
    assert len({len(line.rstrip()) for line in table}) == 1, "every row ends at the same column"


def test_nothing_but_sentences_where_there_is_no_terminal(done):
    _, ended = done
    assert "━" not in ended.err
    assert "\x1b" not in ended.err
    # On a busy machine the first line may be that it is starting.
    first, *rest = [line for line in ended.err.splitlines() if not line.startswith("... ")]
    assert "blobs.npz, 135 training, 15 development and 60 test examples, 5 classes" in first
    begins = [line.split(":")[0] for line in rest]
    assert begins.index("Training the teacher") < begins.index("Teacher") < begins.index("student alone, seed 0")


def test_the_table_in_a_file_is_not_broken(limbeck, done):
    ended = limbeck("resume", done[0] / "run")
    assert ended.code == 0
    result = done[1].result
    lines = ended.out.splitlines()
    assert any(line.split()[:2] == ["arm", "%"] for line in lines)
    for name, arm in result["arms"].items():
        (row,) = [line for line in lines if line.startswith(name + " ")]
        assert f"{100 * arm['accuracy']['mean']:.2f}" in row
        assert f"{arm['parameters']:,}" in row
    assert result["verdict"]["sentence"] in " ".join(ended.out.split())
    assert result["verdict"]["against"]["label smoothing"]["sentence"] in " ".join(ended.out.split())
    assert lines[-2:] == ["import limbeck", f"student = limbeck.load('{done[0] / 'run' / 'student'}')"]


def test_a_folder_with_brackets_is_printed_as_it_is(limbeck, job):
    ended = limbeck("distill", job, "--out", "run[bold]", "--seeds", 1, "--set", "arms=[distilled]")
    assert ended.code == 0, ended.err
    assert "limbeck.load('run[bold]/student')" in ended.out


def test_methods_are_listed(limbeck):
    from limbeck.methods import method, names

    ended = limbeck("methods")
    assert ended.code == 0
    for name in names():
        assert re.search(rf"^  {name} +\S.*, {method(name).card.year}, ", ended.out, re.MULTILINE), name


def test_methods_for_a_task_are_listed(limbeck):
    ended = limbeck("methods", "--task", "language_modeling", "--json")
    assert {"hinton", "distillm"} <= set(ended.result)
    assert "mutual" not in ended.result
    assert limbeck("methods", "--task", "language").code != 0


def test_methods_as_one_object(limbeck):
    from limbeck.methods import names

    ended = limbeck("methods", "--json")
    assert list(ended.result) == list(names())
    assert ended.result["hinton"]["arxiv"] == "1503.02531"
    assert limbeck("methods", "hinton", "--json").result == ended.result["hinton"]


def settings_in(text):
    """What a shell would hand over of the lines that are to be copied."""
    return [shlex.split(line)[1] for line in text.splitlines() if line.startswith("  --set ")]


def test_a_card_with_a_list_can_be_typed(limbeck, tmp_path, monkeypatch):
    from limbeck.job import with_settings

    defaults = {
        "tail": ["features", "classifier"],
        "name": "two words",
        "mean": "geometric",
        "sure": "true",
        "at": None,
    }
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        "from dataclasses import replace\nfrom limbeck.methods.logits.hinton import CARD\n"
        f"CARD = replace(CARD, ranges={{}})\n\n\n"
        f"def own(teacher, *, {', '.join(f'{key}={value!r}' for key, value in defaults.items())}):\n    return None\n"
    )
    ended = limbeck("methods", "own.py:own")
    given = [one for one in settings_in(ended.out) if not one.endswith("=...")]
    assert with_settings({}, given)["method"] == defaults


def test_a_card(limbeck):
    from limbeck.job import with_settings
    from limbeck.methods import method, names

    for name in names():
        card = method(name).card
        ended = limbeck("methods", name)
        assert ended.code == 0
        assert card.title in " ".join(ended.out.split())
        assert card.bibtex in ended.out
        settings = settings_in(ended.out)
        found = with_settings({}, [word for word in settings if not word.endswith("=...")]).get("method", {})
        defaults = {key: list(one) if isinstance(one, tuple) else one for key, one in method(name).defaults.items()}
        assert found == defaults, "what is shown can be typed"
        needed = [f"method.{key}=..." for key in method(name).required if key != "teacher"]
        assert [word for word in settings if word.endswith("=...")] == needed


def test_the_demo_tells_its_story_first(limbeck, monkeypatch):
    from limbeck.cli import jobs

    asked = []
    monkeypatch.setattr(jobs, "run_distill", lambda job, as_json: asked.append((job, as_json)))
    ended = limbeck("demo", "--seeds", 3, "--out", "here")
    assert ended.code == 0
    assert ended.out.startswith("limbeck demo\n\n")
    ((job, as_json),) = asked
    assert (job.seeds, job.out, as_json) == (3, "here", False)
    quiet = limbeck("demo", "--json")
    assert quiet.out == ""
    assert quiet.err.startswith("limbeck demo\n\n")
    assert asked[1][0].out == "runs/demo"


def test_a_group_of_commands_alone_shows_its_help_and_no_error(limbeck):
    for words in ((), ("cache",)):
        shown = limbeck(*words)
        assert shown.code == 2
        assert "Usage" in shown.out
        assert "Error" not in shown.err


def test_the_version_is_printed(limbeck):
    import torch

    shown = limbeck("--version")
    assert shown.code == 0
    assert torch.__version__ in shown.out
