"""Scores of evaluated texts are kept on disk for all processes, and texts that are too long are refused at once."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from limbeck.batch import LOGITS
from limbeck.data import ShuffledLoader, TokenDataset
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.methods import make
from limbeck.tasks import LanguageModeling
from limbeck.teachers import ModelTeacher, ServedTeacher, TeacherContext
from limbeck.teachers.served.score_files import ScoreFiles
from limbeck.teachers.served.scoring import ScoredText
from served_models import TEXTS, apis, model, serve, tokenizer

SCORING = ("/v1/completions", "/generate")


def data(**how):
    return TokenDataset(TEXTS, tokenizer=tokenizer(), **how)


def count(server):
    return sum(server.count(path) for path in SCORING)


@apis
def test_another_process_asks_for_no_evaluated_text_again(api, tmp_path):
    (tmp_path / "run").mkdir()
    task = LanguageModeling().fit(data())
    with serve(api=api) as server:
        first = ServedTeacher(server.url, "teacher", top_k=5, scores_folder=tmp_path / "run/scores")
        whole = task.evaluate(first, data()).measures
        after = count(server)
        # As in another process: nothing is in memory.
        again = pickle.loads(pickle.dumps(first))
        assert task.evaluate(again, data()).measures == whole
        hands = count(server) - after  # the checks of the server
        assert hands < len(TEXTS) + 3
        assert len(list((tmp_path / "run/scores").rglob("*.npz"))) == len(TEXTS)
        other = ServedTeacher(server.url, "teacher", top_k=4, scores_folder=tmp_path / "run/scores")
        before = count(server)
        task.evaluate(other, data())
        assert count(server) - before == hands + len(TEXTS)  # other lists are other scores


def test_training_texts_are_not_kept_and_nothing_is_written_before_the_job_has_its_folder(tmp_path):
    with serve() as server:
        teacher = ServedTeacher(server.url, top_k=5, scores_folder=tmp_path / "run/scores")
        LanguageModeling().fit(data()).evaluate(teacher, data())
        assert not (tmp_path / "run").exists()
        (tmp_path / "run").mkdir()
        loader = ShuffledLoader(data(), batch_size=2)
        with teacher.open(TeacherContext(requires=frozenset({LOGITS}), loader=loader)) as session:
            session(loader.peek())
        assert not (tmp_path / "run/scores").exists()


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_a_damaged_file_counts_as_missing(tmp_path, content):
    files = ScoreFiles(tmp_path / "scores", "f" * 64)
    scored = ScoredText(np.arange(6).reshape(3, 2), -np.ones((3, 2)), -np.ones(3))
    assert files.read(b"key") is None
    files.write(b"key", scored)
    stored = files.read(b"key")
    assert all(np.array_equal(one, other) for one, other in zip(stored, scored, strict=True))
    (path,) = tmp_path.rglob("*.npz")
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    assert files.read(b"key") is None


def test_row_lengths_are_those_of_windows_and_subsets():
    for how in ({}, {"max_length": 7}, {"max_length": 64, "packing": True}):
        whole = data(**how)
        rows = torch.arange(len(whole))
        batch = whole.take(rows)
        longest = (batch.inputs["position_ids"] * batch.extra["masks"]["text"]).amax(1) + 1
        assert torch.equal(whole.row_lengths, longest)
        assert torch.equal(whole.select(rows.flip(0)[:2]).row_lengths, longest.flip(0)[:2])


@pytest.mark.parametrize("served", [True, False])
def test_a_teacher_that_cannot_read_the_longest_text_is_refused_before_the_first_step(served):
    longest = int(data().row_lengths.max())
    short = [text for text in TEXTS if len(tokenizer()(text)["input_ids"]) < longest - 3]
    student = model(seed=2)
    with serve(model(positions=longest - 1)) as server:
        teacher = ServedTeacher(server.url, top_k=5) if served else ModelTeacher(model(positions=longest - 1))
        recipe = make("hinton", teacher=teacher, temperature=1.0, task="language_modeling")
        # The first batch alone would not show it.
        with pytest.raises(LimbeckError, match=f"{longest}"):
            distill(student, recipe, data(), steps=1, batch_size=1, log_every=1).finish()
        fits = TokenDataset(short, tokenizer=tokenizer())
        assert distill(student, recipe, fits, steps=1, batch_size=1, log_every=1).finish().history
