"""Self-distillation with a privileged context: the student learns what its teacher only reads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.errors import DataError, LimbeckError, UnknownNameError
from limbeck.methods import make
from limbeck.methods.language.sdft import read_contexts
from limbeck.recipe import Optimizer
from limbeck.teachers import MovingAverage

TOKENS = 8


class Reader(nn.Module):
    """Its next token is the first token of its row, whatever follows: it does what its context says.

    `bias` is what it says by itself; only this learns.
    """

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(TOKENS, TOKENS))

    def forward(self, input_ids, attention_mask=None):
        first = nn.functional.one_hot(input_ids[:, :1], TOKENS).float().expand(*input_ids.shape, TOKENS)
        return 3.0 * first + self.bias[input_ids[:, :1]].expand_as(first)


def questions():
    """The question is a token; the rule is that its answer is the next number, and only hints tell it."""
    question = torch.arange(4)
    ids = torch.stack([question, question], 1)
    labels = torch.stack([torch.full((4,), -100), torch.zeros(4, dtype=torch.int64)], 1)
    hints = [[int(q) + 4] for q in question]
    return ArrayDataset({"input_ids": ids}, labels, mask=labels >= 0, extra={"privileged": hints}), question


def answers(model, question):
    with torch.no_grad():
        return model(question[:, None])[:, -1].argmax(-1)


@pytest.mark.parametrize("teacher", ["student", MovingAverage(decay=0.9, of="student"), Reader()])
def test_a_student_learns_the_answers_that_its_teacher_only_reads(teacher):
    data, question = questions()
    student = Reader()
    assert torch.equal(answers(student, question), question)  # without a hint it repeats the question
    recipe = make("sdft", teacher=teacher, max_new_tokens=1)
    optimizer = Optimizer("adam", lr=0.3, decay="constant")
    distill(student, recipe, data, batch_size=4, steps=60, seed=0, optimizer=optimizer, log_every=10**6).finish()
    assert torch.equal(answers(student, question), question + 4)


def test_without_hints_a_copy_has_nothing_to_teach():
    data, question = questions()
    student = Reader()
    recipe = make("sdft", teacher=Reader(), context=lambda batch: [[] for _ in range(batch.size)], max_new_tokens=1)
    run = distill(student, recipe, data, batch_size=4, steps=5, log_every=1).finish()
    assert max(abs(report.loss) for report in run.history) < 1e-6
    assert torch.equal(answers(student, question), question)


def test_given_texts_may_be_used_in_place_of_written_ones():
    data, question = questions()
    student = Reader()
    recipe = make("sdft", teacher=Reader(), share=0.0, divergence="kl_divergence")
    optimizer = Optimizer("adam", lr=0.3, decay="constant")
    distill(student, recipe, data, batch_size=4, steps=40, optimizer=optimizer, log_every=10**6).finish()
    with torch.no_grad():  # the given texts put a second token behind the question
        assert torch.equal(student(torch.stack([question, question], 1))[:, -1].argmax(-1), question + 4)


def test_contexts_are_read_from_files_and_mistakes_name_the_line(tmp_path):
    (tmp_path / "hints.txt").write_text("one\n\nthree\n")
    assert read_contexts(str(tmp_path / "hints.txt")) == ["one", "", "three"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "context": "one"}\n{"context": ""}\n')
    assert read_contexts(str(rows)) == ["one", ""]
    for text in (
        '{"context": "one"}\n{"hint": "two"}\n',
        '{"context": "one"}\n{"context": 3}\n',
        '{"context": "a"}\nno\n',
    ):
        rows.write_text(text)
        with pytest.raises(DataError, match="line 2"):
            make("sdft", teacher=Reader(), context=str(rows))
    with pytest.raises(DataError, match="nowhere"):
        make("sdft", teacher=Reader(), context=str(tmp_path / "nowhere.txt"))


def test_wrong_arguments_are_refused():
    for wrong, error in (
        ({"place": "behind"}, UnknownNameError),
        ({"divergence": "reverse"}, UnknownNameError),
        ({"max_new_tokens": 0}, LimbeckError),
        ({"temperature": -1.0}, LimbeckError),
    ):
        with pytest.raises(error):
            make("sdft", teacher=Reader(), **wrong)
