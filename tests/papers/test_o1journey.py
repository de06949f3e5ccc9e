"""Long chains: what the teachers write, the rejection filter, masked prompts, votes and their cost."""

from __future__ import annotations

import random

import pytest
import torch

pytest.importorskip("transformers")

from limbeck.data import TokenDataset
from limbeck.generated_texts import ExactAnswer, GeneratedText, filter_texts
from limbeck.metrics import cost_curve, extract_answer, majority_accuracy
from limbeck.papers import ExperimentScale, TaskFolder, o1journey
from limbeck.papers.o1journey import MARKER, TEXTS, make_prompts, solve, write_chain, write_texts
from limbeck.papers.small_texts import ask, make_student, make_tokenizer

PROMPTS = make_prompts(200, 0)


def test_the_answer_is_the_sum():
    assert solve("314:") == "8"
    assert solve("999:") == "7"


def test_a_chain_has_every_running_sum_and_the_answer():
    for prompt in PROMPTS:
        chain, _, answer = write_chain(prompt, random.Random(0)).partition(MARKER)
        digits = [int(digit) for digit in prompt[:-1]]
        assert [int(step) for step in chain] == [sum(digits[: n + 1]) % 10 for n in range(len(digits))]
        assert answer == solve(prompt) == chain[-1]


def test_corrected_steps_do_not_change_the_answer_and_wrong_ones_do():
    rng = random.Random(0)
    for prompt in PROMPTS:
        text = write_chain(prompt, rng, wrong=1.0, corrects=True)
        assert extract_answer(text, marker=MARKER) == solve(prompt)
        assert text.count("x") == len(prompt) - 1
        plain = "".join(part[-1] for part in text.partition(MARKER)[0].replace("x", " x").split("x")[1:])
        assert plain  # the corrected steps
    wrong = [write_chain(prompt, rng, wrong=0.1) for prompt in PROMPTS]
    share = sum(extract_answer(text, marker=MARKER) == solve(p) for text, p in zip(wrong, PROMPTS, strict=True)) / 200
    assert 0.4 < share < 0.8  # 0.9 ** 5 is 0.59, and some errors cancel


def test_the_filter_keeps_right_answers_alone():
    texts = write_texts("filtered", PROMPTS, 0)
    assert len(texts) > 190
    assert all(extract_answer(text, marker=MARKER) == solve(prompt) for prompt, text in texts)
    noisy = write_texts("noisy", PROMPTS, 0)
    group = [GeneratedText(n, 0, p, text, solve(p)) for n, (p, text) in enumerate(noisy)]
    kept, reasons = filter_texts(group, [ExactAnswer(MARKER)])
    assert len(kept) + len(reasons) == len(group)
    assert 0 < len(kept) < len(group)


def test_prompts_are_not_learned():
    tokenizer = make_tokenizer("0123456789:=x")
    data = TokenDataset([{"prompt": "31415:", "completion": "=4"}], tokenizer=tokenizer, max_length=32)
    batch = data.take(torch.tensor([0]))
    assert tokenizer.decode(batch.labels[batch.mask]) == "=4<|endoftext|>"


def test_a_vote_of_one_is_a_sample_and_costs_one():
    answers = [["1", "2", "1", "1"], ["2", "2", None, "3"]]
    tokens = [[3, 4, 3, 3], [2, 2, 9, 2]]
    curve = cost_curve(answers, ["1", "2"], tokens, ks=(1, 2, 4))
    assert curve[0].accuracy == majority_accuracy(answers, ["1", "2"], k=1).value == 5 / 8
    assert [point.tokens / curve[0].tokens for point in curve] == [1, 2, 4]


def test_a_student_answers_reproducibly():
    tokenizer = make_tokenizer("0123456789:=x")
    student = make_student(tokenizer, seed=0, width=16)
    one, two = (ask(student, tokenizer, PROMPTS[:3], samples=2, temperature=1.0, max_new_tokens=4) for _ in range(2))
    assert one == two
    assert [len(row) for row in one.texts] == [2, 2, 2]
    assert all(1 <= count <= 4 for row in one.tokens for count in row)


def test_every_arm_runs_and_has_its_rows(tmp_path):
    scale = ExperimentScale("quick", (0,))
    results = {}
    for arm in TEXTS:
        figures = o1journey.study(TaskFolder(tmp_path, arm), arm=arm, seed=0, steps=2, texts=64, test=4)
        assert figures["texts"] > 0
        results[o1journey.STUDY.task_name(arm, 0)] = figures
    assert {task.name for task in o1journey.STUDY.tasks(scale)} == set(results)
    rows = {row.name: row for row in o1journey.STUDY.table(scale, results)}
    assert rows["right answers of its filtered texts"].values == [100.0]
    assert "chains over answers: right answers, greedy" in [one.claim for one in o1journey.STUDY.judge(scale, results)]
