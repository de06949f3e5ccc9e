"""Problems by feedback: programs, parts, harder and similar variants, and what an arm may write."""

from __future__ import annotations

import json
import random

import pytest

pytest.importorskip("transformers")

from limbeck.generated_texts import run_program
from limbeck.papers import ExperimentScale, TaskFolder, fdd
from limbeck.papers.fdd import ARMS, HARDEST, draw_problem, evolve, is_right, partition, vary, write_new

RNG = random.Random(0)
PROBLEMS = [draw_problem(n % HARDEST + 1, RNG) for n in range(80)]


def test_a_program_computes_what_the_words_say():
    problem = fdd.Problem(4, (("+", 3), ("*", 2), ("-", 5)), (0, 0, 0, 1, 2))
    assert problem.text == "Ben has 4 eggs; gets 3; times 2; loses 5?"
    assert problem.answer == "9"
    assert is_right(problem.program, problem)
    assert is_right("answer = (4 + 3) * 2 - 5", problem)
    assert not is_right("a=4", problem)
    assert not is_right("import os", problem)


def test_every_program_runs():
    for problem in PROBLEMS:
        value = problem.start
        for kind, number in problem.steps:
            value = {"+": value + number, "-": value - number, "*": value * number}[kind]
        assert run_program(problem.program) == value
        assert problem.text.count(";") == problem.difficulty


def test_harder_variants_are_harder_and_similar_ones_are_not():
    rng = random.Random(0)
    for problem in PROBLEMS:
        harder, similar = evolve(problem, rng), vary(problem, rng)
        assert harder.difficulty == problem.difficulty + 1
        assert similar.difficulty == problem.difficulty
        left = list(harder.steps)
        for step in problem.steps:  # the old steps are there, in their order
            left = left[left.index(step) + 1 :]
        assert is_right(harder.program, harder)
        assert is_right(similar.program, similar)


def test_the_parts_hold_every_problem_once():
    easy, hard = partition(PROBLEMS, lambda problem: problem.difficulty < 3)
    assert len(easy) + len(hard) == len(PROBLEMS)
    assert {one.difficulty for one in easy} == {1, 2}
    assert {one.difficulty for one in hard} == {3, 4}
    assert partition(PROBLEMS, lambda problem: True) == (PROBLEMS, [])


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_writes_as_many_problems_as_the_others(arm):
    solved = [problem.difficulty < 3 for problem in PROBLEMS]
    new = write_new(arm, PROBLEMS, solved, 200, random.Random(0))
    assert len(new) == 200
    found = {one.difficulty for one in new}
    wanted = {
        "feedback": {2, 3, 4},
        "harder alone": {2, 3},
        "similar alone": {3, 4},
        "random": {1, 2, 3, 4},
        "all difficulties": {1, 2, 3, 4},
    }
    assert found == wanted[arm]
    assert new == write_new(arm, PROBLEMS, solved, 200, random.Random(0))


@pytest.mark.parametrize(("arm", "solved"), [("harder alone", False), ("similar alone", True)])
def test_an_arm_without_such_problems_varies_random_ones(arm, solved):
    first = [problem for problem in PROBLEMS if problem.difficulty < 3]
    new = write_new(arm, first, [solved] * len(first), 60, random.Random(0))
    assert {one.difficulty for one in new} == {1, 2}  # it does not know what the test asks


def test_every_arm_runs_and_has_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(fdd, "FIRST", 64)
    scale, results = ExperimentScale("quick", (0,)), {}

    def run(name, function, **settings):
        desk = TaskFolder(tmp_path, name)
        desk.folder.mkdir(parents=True)
        results[name] = json.loads(json.dumps(function(desk, seed=0, steps=1, batch_size=32, test=4, **settings)))
        (desk.folder / "result.json").write_text(json.dumps({"figures": results[name]}))

    run(fdd._first(0), fdd.begin)
    for arm in ("feedback", "random"):
        run(fdd.STUDY.task_name(arm, 0), fdd.study, arm=arm, rounds=1)
    for arm in ARMS:
        results.setdefault(fdd.STUDY.task_name(arm, 0), results[fdd.STUDY.task_name("random", 0)])
    assert {task.name for task in fdd.STUDY.tasks(scale)} == set(results)
    rows = {row.name: row for row in fdd.STUDY.table(scale, results)}
    assert rows["before the first round: right answers"].values
    judged = {one.claim: one for one in fdd.STUDY.judge(scale, results)}
    assert judged["feedback over random: right answers"].mean == 0.0
    assert results[fdd.STUDY.task_name("feedback", 0)]["problems"] == 128
