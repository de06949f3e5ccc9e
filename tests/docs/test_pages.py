"""The Python of the pages about data and models runs, and what they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from limbeck import report
from limbeck.data import load_data
from limbeck.data.transforms.registry import make_transform
from limbeck.job import make_job
from report_runs import planted_run

DOCS = Path(__file__).resolve().parents[2] / "docs"


def blocks(page, language="python"):
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), flags=re.M | re.S)


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md") if blocks(path.name, "yaml")))
def test_the_page_s_jobs_are_some(page):
    for block in blocks(page, "yaml"):
        values = yaml.safe_load(block)
        needed = {"data": "digits", "student": "mlp"} | ({} if "teachers" in values else {"teacher": "mlp"})
        make_job({**needed, **values})


@pytest.mark.parametrize(
    "page",
    [
        "data.md",
        "generated-texts.md",
        "models.md",
        "shrink.md",
        "teachers.md",
        "several-teachers.md",
        "judge.md",
        "tasks.md",
        "quickstart.md",
        "migrate.md",
        "index.md",
        "faq.md",
    ],
)
def test_the_page_s_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
    data = {"inputs": torch.randn(8, 4), "labels": torch.arange(8) % 3}
    scope = {"network": nn.Linear(4, 3), "torch": torch, "student": student, "teacher": teacher, **data}
    for block in blocks(page):
        exec(compile(block, page, "exec"), scope)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft calls what transformers deprecates
@pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
def test_the_python_of_the_page_about_language_models_runs(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    scope = {}
    for block in blocks("language-models.md"):
        exec(compile(block, "language-models.md", "exec"), scope)
    assert scope["ids"].shape[1] > 4


def test_the_python_of_the_page_about_on_policy_distillation_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    scope = {}
    for block in blocks("on-policy.md"):
        exec(compile(block, "on-policy.md", "exec"), scope)
    assert scope["report"].generation["finished"] + scope["report"].generation["cut_off"] > 0
    assert scope["result"]["verdict"]["interval"] is not None
    assert scope["result"]["own_texts"]["against"]


def test_the_python_of_the_page_about_other_tokenizers_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    scope = {}
    for block in blocks("other-tokenizers.md"):
        exec(compile(block, "other-tokenizers.md", "exec"), scope)
    assert "tokens are aligned" in capsys.readouterr().out
    assert scope["run"].finished


@pytest.mark.filterwarnings("ignore::limbeck.errors.LimbeckWarning")
def test_the_python_of_the_page_about_served_teachers_runs(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    scope = {}
    for block in blocks("served-teachers.md"):
        exec(compile(block, "served-teachers.md", "exec"), scope)
    assert scope["result"]["arms"]["teacher"]["listed"]["top_k"] == 20
    assert set(scope["texts"]) == {0, 1}


def test_the_figures_of_the_page_about_reports_are_drawn(tmp_path, monkeypatch):
    planted_run(tmp_path / "runs" / "demo", test=100, seeds=2)
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("report.md")
    exec(compile(block, "report.md", "exec"), {})
    assert (tmp_path / "demo.pdf").read_bytes()[:5] == b"%PDF-"


def test_every_figure_is_on_the_page_about_reports():
    figures = {name for name in report.__all__ if name.startswith("plot_")}
    assert figures == set(re.findall(r"`(plot_\w+)\(run", (DOCS / "report.md").read_text(encoding="utf-8")))


def test_the_functions_of_the_page_about_data_are_taken_by_a_job(tmp_path):
    file = tmp_path / "my.py"
    file.write_text("\n".join(blocks("data.md")))
    data = load_data({"name": f"{file}:load", "size": 40})
    assert (len(data.train), len(data.test), data.class_names) == (40, 100, ("low", "high"))
    images = torch.full((3, 1, 4, 4), 100, dtype=torch.uint8)
    view = make_transform([{f"{file}:noise": {"std": 0.05}}])
    assert not view(images, torch.arange(3), torch.zeros(3, dtype=torch.int64)).equal(images)


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(((?!https?:|#)[^)#]+)", (DOCS / page).read_text(encoding="utf-8")):
        assert (DOCS / target).exists(), target
