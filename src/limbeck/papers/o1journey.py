"""Huang et al., 2024, arXiv:2411.16489: long chains of thought, rejection by the answer, two phases, cost in tokens."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.generated_texts import ExactAnswer, GeneratedText, filter_texts
from limbeck.metrics import cost_curve, extract_answer, majority_accuracy
from limbeck.papers.claim import Claim, Column, Figure
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import ExperimentScale, Figures, Row, TaskFolder
from limbeck.papers.small_texts import Answers, ask, make_student, make_tokenizer, share, train

DIGITS = 5
"""The number of digits of a prompt; the answer is their sum modulo 10."""
WRONG = 0.1
"""How often the noisy teacher takes a wrong step, and how often a long thought has a wrong step with its correction."""
MARKER = "="
TEXTS = {
    "answers": "the answer alone",
    "answers, equal tokens": "the answer alone, trained on as many tokens as the chains",
    "chains": "a chain of running sums, then the answer",
    "long": "chains with wrong steps and their corrections",
    "two phases": "half of the steps on chains, then half on chains with corrections",
    "noisy": "chains of a teacher that takes wrong steps, not filtered",
    "filtered": "chains of the same teacher, only those with the right answer",
}
_VOTES = (1, 2, 4, 8)
_SAMPLED = ("answers", "chains", "noisy", "filtered")
_ALPHABET = "0123456789:=x"


def make_prompts(count: int, seed: int, digits: int = DIGITS) -> list[str]:
    """Draw prompts such as ``314159:``."""
    rng = random.Random(seed)
    return ["".join(rng.choice("0123456789") for _ in range(digits)) + ":" for _ in range(count)]


def solve(prompt: str) -> str:
    """The right answer: the sum of the digits modulo 10."""
    return str(sum(map(int, prompt.rstrip(":"))) % 10)


def write_chain(prompt: str, rng: random.Random, *, wrong: float = 0.0, corrects: bool = False) -> str:
    """Write running sums modulo 10, and the last one behind ``=``.

    Args:
        prompt: The prompt.
        rng: The source of wrong steps.
        wrong: The probability that a step is wrong.
        corrects: Whether a wrong step is followed by ``x`` and the right one. If not, the chain goes on from it.
    """
    total, chain = 0, ""
    for digit in map(int, prompt.rstrip(":")):
        total = (total + digit) % 10
        if rng.random() < wrong:
            other = (total + rng.randrange(1, 10)) % 10
            if corrects:
                chain += f"{other}x"
            else:
                total = other
        chain += str(total)
    return f"{chain}{MARKER}{total}"


def write_texts(kind: str, prompts: Sequence[str], seed: int) -> list[tuple[str, str]]:
    """Let the teacher write one text for each prompt; of the filtered kind, the first of eight that is right."""
    rng = random.Random(seed)
    if kind == "answers":
        return [(prompt, MARKER + solve(prompt)) for prompt in prompts]
    if kind in ("chains", "long"):
        wrong = WRONG if kind == "long" else 0.0
        return [(prompt, write_chain(prompt, rng, wrong=wrong, corrects=True)) for prompt in prompts]
    if kind == "noisy":
        return [(prompt, write_chain(prompt, rng, wrong=WRONG)) for prompt in prompts]
    return [pair for prompt in prompts for pair in _reject(prompt, rng)]


def _reject(prompt: str, rng: random.Random) -> list[tuple[str, str]]:
    samples = [
        GeneratedText(prompt, number, prompt, write_chain(prompt, rng, wrong=WRONG), solve(prompt))
        for number in range(8)
    ]
    kept, _ = filter_texts(samples, [ExactAnswer(MARKER)])
    return [(prompt, text.completion) for text in kept[:1]]


def study(desk: TaskFolder, *, arm: str, seed: int, steps: int, texts: int, test: int) -> Figures:
    """Train a student on one kind of texts, and ask it for new sums."""
    del desk  # a task is too short to be interrupted
    tokenizer = make_tokenizer(_ALPHABET)
    student = make_student(tokenizer, seed=seed)
    prompts = make_prompts(texts, 1000 + seed)
    pairs: dict[str, list[tuple[str, str]]] = {}
    for kind, part in _plan(arm, steps):
        pairs[kind] = write_texts(kind, prompts, 2000 + seed)
        train(student, tokenizer, pairs[kind], steps=part, seed=seed)
    asked = make_prompts(test, 1)
    right = [solve(prompt) for prompt in asked]
    greedy = ask(student, tokenizer, asked, max_new_tokens=3 * DIGITS)
    written = [pair for own in pairs.values() for pair in own]
    figures: dict[str, Any] = {
        "accuracy": 100 * majority_accuracy(_read(greedy), right).value,
        "tokens": cost_curve(_read(greedy), right, greedy.tokens)[0].tokens,
        "teacher": share([_answer(text) == solve(prompt) for prompt, text in written]),
        "texts": len(written),
    }
    if arm in _SAMPLED:
        sampled = ask(student, tokenizer, asked, samples=max(_VOTES), temperature=1.0, max_new_tokens=3 * DIGITS)
        curve = cost_curve(_read(sampled), right, sampled.tokens, ks=_VOTES)
        figures |= {f"maj@{point.k}": 100 * point.accuracy for point in curve}
        figures |= {f"tokens@{point.k}": point.tokens for point in curve}
    return figures


def _plan(arm: str, steps: int) -> list[tuple[str, int]]:
    """The texts of an arm in order, each with its number of steps."""
    if arm == "two phases":
        return [("chains", steps // 2), ("long", steps - steps // 2)]
    if arm == "answers, equal tokens":
        # An answer has 3 learned tokens (=, the digit, the end), a chain has as many more as there are digits.
        return [("answers", steps * (DIGITS + 3) // 3)]
    return [(arm, steps)]


def _answer(text: str) -> str | None:
    return extract_answer(text, marker=MARKER)


def _read(answers: Answers) -> list[list[str | None]]:
    return [[_answer(text) for text in row] for row in answers.texts]


def _sizes(scale: ExperimentScale) -> dict[str, Any]:
    return {"steps": scale.pick(400, 800), "texts": scale.pick(1000, 4000), "test": scale.pick(300, 1000)}


RIGHT = Figure("accuracy", "right answers, greedy", "%")
TOKENS = Figure("tokens", "tokens of an answer", "tokens", lower_is_better=True)
_MOST = max(_VOTES)


def _one_chain_over_a_vote(column: Column) -> list[float]:
    pairs = zip(column("chains", "maj@1"), column("answers", f"maj@{_MOST}"), strict=True)
    return [chain - vote for chain, vote in pairs]


CLAIMS = (
    Claim.of_difference("chains", "answers", RIGHT),
    Claim.of_difference("chains", "answers, equal tokens", RIGHT, sentence="chains over answers, equal tokens"),
    Claim(f"chains, one sample, over answers, Maj@{_MOST}", _one_chain_over_a_vote, largest=100.0),
    Claim.of_difference("filtered", "noisy", RIGHT, sentence="filtered over not filtered"),
    Claim.of_difference("long", "answers", RIGHT, sentence="chains with corrections over answers"),
)


def _rows(scale: ExperimentScale, results: Mapping[str, Figures]) -> list[Row]:
    column, rows = STUDY.column(scale, results), list[Row]()
    rows.append(Row("right answers of the noisy teacher", column("noisy", "teacher"), "%", lower_is_better=False))
    rows.append(Row("right answers of its filtered texts", column("filtered", "teacher"), "%", lower_is_better=False))
    for arm in _SAMPLED:
        for k in _VOTES:
            tokens = column(arm, f"tokens@{k}")
            note = f"{sum(tokens) / len(tokens):.0f} tokens a prompt"
            name = f"{arm}: Maj@{k} of samples at temperature 1"
            rows.append(Row(name, column(arm, f"maj@{k}"), "%", lower_is_better=False, note=note))
    # The paper trains in two phases and does not compare: this is no claim.
    pairs = zip(column("two phases", "accuracy"), column("long", "accuracy"), strict=True)
    rows.append(Row("two phases over corrections alone", [a - b for a, b in pairs], "points", lower_is_better=False))
    return rows


STUDY = ClaimStudy(
    "chains", "Does a student learn more from long chains than from answers, and do filters help?", TEXTS, study,
    (RIGHT, TOKENS), CLAIMS, {"quick": 9, "full": 30}, settings=_sizes, rows=_rows,
)  # fmt: skip
TITLE = (
    "Huang et al., O1 Replication Journey, part 2: Surpassing O1-preview through Simple Distillation, Big Progress or "
    "Bitter Lesson?, 2024, arXiv:2411.16489"
)
CLAIM = "A student learns more from long chains of thought than from answers, and filtering by the answer helps."
EXPERIMENTS = (STUDY.experiment(),)
