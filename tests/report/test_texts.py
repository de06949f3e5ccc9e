"""The page of a language job: texts side by side, drafts, words of the task."""

from __future__ import annotations

import json
import re

import pytest
import torch

from limbeck.metrics.language import COLUMNS
from limbeck.report import write_report
from limbeck.report.run_data import read_run
from limbeck.report.texts import read_samples, texts_section
from limbeck.tasks import LanguageModeling
from report_runs import planted_task, with_result


def sums(nats, *, teacher=True):
    """Stored sums of 20 texts."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 50, (20, 1), generator=generator).double()
    values = torch.rand(20, len(COLUMNS) - 3, generator=generator, dtype=torch.float64)
    values[:, 0] = nats
    if not teacher:
        values[:, COLUMNS.index("kl_to_teacher") - 3 :] = torch.nan
    return torch.cat([torch.arange(20)[:, None].double(), tokens, 4 * tokens, tokens * values], 1)


def samples(word, *, speculative=True, exact=None):
    texts = [{"text": 7, "prompt": "To be,", "reference": " or not", "answer": f" {word}"}]
    drafts = {"drafted": 4, "acceptance": 0.75, "tokens_per_pass": 2.5, "passes": 10, "tokens": 25, "proposed": 40}
    values = {"texts": texts, "max_new_tokens": 8}
    values |= {"speculative": drafts} if speculative else {}
    return values | ({} if exact is None else {"exact_match": exact, "answers": 40, "ended": 0.5})


@pytest.fixture
def run(tmp_path):
    nats = {"student alone": 3.0, "label smoothing": 2.9, "hinton": 2.5}
    outputs = {"teacher": sums(2.0, teacher=False)} | {name: sums(value) for name, value in nats.items()}
    task = LanguageModeling(600)
    folder = planted_task(tmp_path / "run", task, outputs["teacher"][:, :3].long(), outputs)

    def change(result):
        for name in outputs:
            result["arms"][name]["nll"] = result["arms"][name]["measures"]["nll"]
        result["verdict"] |= {
            "difference": 0.5, "interval": [0.4, 0.6], "helps": True, "covers": "seeds and test examples",
            "examples": 20, "against": {},
        }  # fmt: skip
        del result["data"]["class_names"]

    with_result(folder, change)
    (folder / "teacher" / "samples.json").write_text(json.dumps(samples("<taught>", speculative=False)))
    (folder / "arms" / "hinton" / "seed-0" / "samples.json").write_text(json.dumps(samples("learned", exact=0.25)))
    (folder / "arms" / "student-alone" / "seed-0" / "samples.json").write_text("{damaged")
    return folder


def words_of(page):
    return re.sub(r"\s+", " ", re.sub(r"<style.*?</style>|<[^>]*>", " ", page, flags=re.S))


def test_texts_of_the_teacher_and_the_arms_stand_side_by_side(run):
    read = read_run(run)
    assert list(read_samples(read)) == ["teacher", "hinton"]
    words = words_of(texts_section(read))
    assert "test text 7 To be, in the data or not teacher &lt;taught&gt; hinton learned" in words
    assert "hinton 75.0 (59.8 to 85.8, 40 drafts) 2.50 25 10" in words
    assert "hinton 25.0 50.0 40" in words
    assert "chrF" not in words, "no answer has it"
    assert "table of the arms" in words


def test_a_page_about_texts_has_no_words_about_classes(run):
    pytest.importorskip("matplotlib")
    page = write_report([run]).read_text()
    words = words_of(page)
    assert 'id="texts"' in page
    assert 'id="fidelity"' not in page
    assert 'id="examples"' not in page
    for word in ("calibration", "confusion", "classes", "trained on labels", "examples"):
        assert word not in words.lower(), word
    assert "Yes: 0.5 fewer" in words
    assert "0.4 to 0.6 fewer nats per token, the 95 % interval" in words
    assert "20 test texts" in words
    assert "KL to teacher" in words


def test_the_reason_why_texts_were_not_written_is_on_the_page(run):
    failure = "Texts were not written: IndexError: index out of range."
    (run / "arms" / "student-alone" / "seed-0" / "samples.json").write_text(json.dumps({"failure": failure}))
    assert f"student alone: {failure}" in words_of(texts_section(read_run(run)))


def test_a_run_without_texts_says_so(run):
    for file in run.rglob("samples.json"):
        file.unlink()
    assert "no texts" in words_of(texts_section(read_run(run)))
