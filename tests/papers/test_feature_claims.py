"""Claims about features and transformers: every arm trains, and the figures that are claimed are measured."""

from __future__ import annotations

import pytest

from limbeck.papers import (
    ExperimentScale,
    TaskFolder,
    aguilar2019,
    chormai2026,
    kim2022,
    mannix2024,
    miles2023,
    small_images,
    small_transformers,
)
from limbeck.papers.small_transformers import PAIRS, TextSizes, draw_texts
from papers.test_claim_study import drawn  # noqa: F401 - a fixture


def study_figures(study, folder):
    """The figures of the arms of a study, in the order of the arms, of one seed."""
    return {
        arm: study.train(TaskFolder(folder, study.task_name(arm, 0)), arm=arm, seed=0, quick=True) for arm in study.arms
    }


def save_teacher(task, folder):
    place = TaskFolder(folder, task.name)
    place.folder.mkdir(parents=True, exist_ok=True)
    task.function(place)


@pytest.mark.filterwarnings("ignore")  # the data are tiny
@pytest.mark.parametrize(
    ("paper", "studies"),
    [
        (miles2023, [miles2023.STUDY]),
        (mannix2024, [mannix2024.STUDY]),
        (chormai2026, [chormai2026.PROJECTIONS, chormai2026.STUDENTS]),
    ],
    ids=["miles2023", "mannix2024", "chormai2026"],
)
def test_every_arm_on_images_has_its_figures(paper, studies, drawn, monkeypatch, tmp_path):  # noqa: F811
    name = "FASHION_MLP" if paper is chormai2026 else "SETTING"
    setting = drawn[0]  # perceptrons, which are fast
    monkeypatch.setattr(paper, name, setting)
    scale = ExperimentScale("quick", (0,))
    save_teacher(small_images.teacher_tasks(setting, scale)[0], tmp_path)
    for study in studies:
        figures = study_figures(study, tmp_path)
        results = {study.task_name(arm, 0): own for arm, own in figures.items()}
        assert all({figure.key for figure in study.figures} <= set(own) for own in figures.values())
        assert len(study.judge(scale, results)) == len(study.claims)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("paper", [aguilar2019, kim2022], ids=["aguilar2019", "kim2022"])
def test_every_arm_on_texts_has_its_figures(paper, monkeypatch, tmp_path):
    sizes = TextSizes(teacher=32, student=32, teacher_epochs=1, epochs=2, test=40)
    monkeypatch.setitem(small_transformers.SIZES, "quick", sizes)
    scale = ExperimentScale("quick", (0,))
    save_teacher(small_transformers.teacher_tasks(scale)[0], tmp_path)
    figures = study_figures(paper.STUDY, tmp_path)
    assert all({figure.key for figure in paper.STUDY.figures} <= set(own) for own in figures.values())
    results = {paper.STUDY.task_name(arm, 0): own for arm, own in figures.items()}
    assert len(paper.STUDY.judge(scale, results)) == len(paper.STUDY.claims)


def test_the_class_of_a_text_is_the_value_behind_its_first_token():
    texts = draw_texts(200, seed=0)
    ids, lengths = texts.inputs["input_ids"], texts.inputs["attention_mask"].sum(1)
    for row, label, length in zip(ids.tolist(), texts.labels.tolist(), lengths.tolist(), strict=True):
        pairs = dict(zip(row[1:length:2], row[2:length:2], strict=True))
        assert pairs[row[0]] == 1 + small_transformers.KEYS + label
        assert not any(row[length:])
    assert lengths.unique().tolist() == [1 + 2 * pairs for pairs in range(1, PAIRS + 1)]
