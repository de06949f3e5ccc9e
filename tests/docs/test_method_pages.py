"""The pages of the methods agree with the cards, and their blocks run."""

from __future__ import annotations

import contextlib
import io
import random
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from limbeck.data import ArrayDataset
from limbeck.methods import method, names
from limbeck.models import build
from limbeck.testing.trials import get_trial
from small_jobs import blobs, typed_here
from tools.method_pages import updated_pages

DOCS = Path(__file__).resolve().parents[2] / "docs"
HEADINGS = ["When to use it", "How", "The mathematics", "Limitations", "Settings", "Citation"]
OPTIONAL = {"Advice", "Examples", "Where the defaults come from", "Measured"}


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.M | re.S)


def networks():
    return [build("mlp", inputs=6, classes=3, hidden=[8, 8], dropout=0.1, seed=seed) for seed in range(4)]


def test_every_method_has_its_page_and_every_page_its_method():
    assert {path.stem for path in (DOCS / "methods").glob("*.md")} == set(names())


def test_the_generated_parts_are_up_to_date():
    stale = [path.name for path, text in updated_pages().items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"type `make docs`: {stale}"


@pytest.mark.parametrize("name", names())
def test_the_page_has_its_sections(name):
    page = (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", page, flags=re.M)
    assert [heading for heading in headings if heading not in OPTIONAL] == HEADINGS


@pytest.mark.filterwarnings("ignore::limbeck.errors.LimbeckWarning")  # the blocks run on tiny data
@pytest.mark.parametrize("name", names())
def test_the_page_s_python_runs(name):
    code = "\n".join(blocks(DOCS / "methods" / f"{name}.md", "python"))
    student, teacher, a, b = networks()
    x, labels = torch.randn(32, 6), torch.randint(3, (32,))
    data = ArrayDataset(x, labels, extra={"privileged": x})
    if (trial := method(name).card.trials[0]) != "mlp":  # it needs other networks: of texts, or with maps
        student, teacher, data = get_trial(trial)[1]()
    scope = {"student": student, "teacher": teacher, "data": data, "a": a, "b": b, "inputs": x, "labels": labels}
    exec(compile(code.replace("epochs=10", "epochs=1"), f"{name}.md", "exec"), scope)
    assert scope["run"].finished


@pytest.mark.parametrize("name", names())
def test_the_page_s_command_names_the_method_s_own_arguments(name):
    block = blocks(DOCS / "methods" / f"{name}.md", "console")[0]
    words = shlex.split(block.removeprefix("$ "))
    assert words[:2] == ["limbeck", "distill"]
    assert words[words.index("--method") + 1] == name
    pairs = [words[i + 1].split("=") for i, word in enumerate(words) if word == "--set"]
    given = {key.removeprefix("method."): yaml.safe_load(value) for key, value in pairs if key.startswith("method.")}
    assert {key.partition(".")[0] for key, _ in pairs} <= {"method", "budget", "teacher", "teachers", "data", "student"}
    call = method(name)
    # A method across tokenizers refuses a teacher with the student's, and one of several teachers a single one.
    several = any(key.startswith("teachers.") for key, _ in pairs)
    own = get_trial(call.card.trials[0])[1]()[1] if several or call.card.across_tokenizers else networks()[0]
    assert call(**({"teacher": own} if call.has_teacher else {}), **given)


def write_table(path):
    """A table of which one column follows from another."""
    draw = random.Random(0)
    ages = [draw.randint(18, 80) for _ in range(160)]
    rows = [f"{age},{draw.choice('abc')},{'high' if age > 45 else 'low'}" for age in ages]
    path.write_text("\n".join(["age,group,income", *rows]))


@pytest.mark.integration
@pytest.mark.parametrize("name", [name for name in names() if method(name).card.models_and_data])
def test_the_page_s_command_runs_with_the_models_of_the_card(name, tmp_path):
    words = shlex.split(blocks(DOCS / "methods" / f"{name}.md", "console")[0].removeprefix("$ limbeck "))
    data = tmp_path / words[words.index("--data") + 1]
    (write_table if data.suffix == ".csv" else blobs)(data)
    # A teacher of one epoch may be no better than chance.
    less = ("budget.epochs=1", "budget.batch_size=32", "seeds=1", "arms=[distilled]", "teacher.check=false")
    short = [word for one in less for word in ("--set", one)]
    ended = typed_here(*words, *short, "--json", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert ended.result["arms"]["distilled"]["accuracy"]["mean"] >= 0


def test_the_page_on_adding_things_runs_from_top_to_bottom():
    path, said = DOCS / "extend.md", io.StringIO()
    scope = {"__name__": "extend"}
    with contextlib.redirect_stdout(said):
        for block in blocks(path, "python"):
            exec(compile(block, "extend.md", "exec"), scope)
    printed = "".join(blocks(path, "text"))
    assert said.getvalue() == printed


def test_the_method_on_that_page_takes_about_forty_lines_beside_what_is_reported_of_it():
    (block,) = [block for block in blocks(DOCS / "extend.md", "python") if "CARD = MethodCard(" in block]
    code = re.sub(r'"""(.*?)"""', "", block, flags=re.S)
    code = re.sub(r"CARD = Card\(.*?^\)\n", "", code, flags=re.S | re.M)
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith(("from ", "import "))]
    assert len(lines) <= 40
