"""Answers in generated texts: extraction, majority votes (Maj@k) with their cost in tokens, and ANLS of fields."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from statistics import fmean
from typing import NamedTuple

from limbeck.errors import ArgumentError, DataError
from limbeck.metrics.metric import Metric

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
# A minus sign behind a digit or a letter is a difference.
_LAST = re.compile(rf"(?:(?<![\w.)])-)?\$?(?<![\w.])(?:{_NUMBER})(?:/\d+)?")
_PLAIN = re.compile(rf"[-+]?(?:{_NUMBER})(?:/\d+)?")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]+)\}\{([^{}]+)\}")
_WRAPPED = re.compile(r"\\(?:text|mathrm|mathbf)\{([^{}]*)\}")
_BRACE = re.compile(r"\\boxed\{|[{}]")
_MARKER = "####"
_DIGITS = 400  # of a number that is compared as a number; longer ones are compared as texts


def extract_answer(text: str, *, marker: str | None = None) -> str | None:
    r"""Find the final answer of a text.

    With a `marker` it is the rest of the line behind the last one. Without, it is the content of the last
    ``\boxed{...}``; else the rest of the line behind the last ``####``, as in GSM8K; else the last number.

    Args:
        text: The text.
        marker: What stands before the answer, such as ``Answer:``. Case does not matter.

    Returns:
        The answer as it is written; None if there is none.

    Example:
        >>> extract_answer(r"12 of 24 is half, so \boxed{\frac{1}{2}}."), extract_answer("3 + 4 = 7, I think.")
        ('\\frac{1}{2}', '7')
        >>> extract_answer("So 7.\nAnswer: blue", marker="answer:"), extract_answer("I do not know.")
        ('blue', None)
    """
    if marker is not None:
        return _rest_of_line(text, marker)
    boxed = _last_boxed(text)
    if boxed is not None:
        return boxed
    if _MARKER in text:
        return _rest_of_line(text, _MARKER)
    numbers = _LAST.findall(text)
    return numbers[-1] if numbers else None


def _rest_of_line(text: str, marker: str) -> str | None:
    found = list(re.finditer(re.escape(marker), text, flags=re.IGNORECASE))
    if not found:
        return None
    return text[found[-1].end() :].strip().partition("\n")[0].strip() or None


def _last_boxed(text: str) -> str | None:
    """The content of the last complete box; braces inside are balanced."""
    # In one pass: a text that repeats a cut-off box would take quadratic time otherwise.
    opened: list[int] = []  # where the content of each open brace begins; below 0 if it is no box
    last: tuple[int, int] | None = None
    for brace in _BRACE.finditer(text):
        if brace[0] != "}":
            opened.append(brace.end() if len(brace[0]) > 1 else -1)
        elif opened and (first := opened.pop()) >= 0 and (last is None or first > last[0]):
            last = first, brace.start()
    return None if last is None else text[slice(*last)].strip() or None


def normalize_answer(answer: str) -> str:
    r"""Bring an answer into one form, so that equal answers are equal strings.

    Numbers are compared as fractions, without thousands separators, currency signs and percent signs. Other answers are
    compared in lower case, with single spaces and no period at the end.

    Example:
        >>> normalize_answer("$1,200.50") == normalize_answer("1200.5"), normalize_answer(r"\frac{2}{4}")
        (True, '1/2')
        >>> normalize_answer(" The  Moon. ")
        'the moon'
    """
    text = _WRAPPED.sub(r"\1", _FRACTION.sub(r"\1/\2", answer)).strip().strip("$").strip()
    text = text.removesuffix(".").strip()
    number = re.sub(r"[$€£%\s]|\\%|\\,|\\\$", "", text)
    if len(number) <= _DIGITS and _PLAIN.fullmatch(number):
        top, _, bottom = number.replace(",", "").partition("/")
        if bottom == "" or int(bottom):
            return str(Fraction(top) / int(bottom or 1))
    return " ".join(text.casefold().split())


class MajorityVote(NamedTuple):
    """The most frequent answer.

    Attributes:
        answers: The normalized answers with the most votes: one, or several in a tie; none without any vote.
        share: The votes of one of them, as a share of all samples, also of those without an answer.
    """

    answers: tuple[str, ...]
    share: float


def majority_vote(answers: Sequence[str | None]) -> MajorityVote:
    """Count equal answers, after `normalize_answer`. None is a sample without an answer: it votes for nothing.

    Raises:
        DataError: If there is no sample.

    Example:
        >>> majority_vote(["7", "7.0", "8", None])
        MajorityVote(answers=('7',), share=0.5)

    Source: Wang et al., Self-Consistency Improves Chain of Thought Reasoning in Language Models, 2022,
        arXiv:2203.11171.
    """
    if not answers:
        raise DataError("A vote needs at least one sample; there is none.")
    votes = Counter(normalize_answer(answer) for answer in answers if answer is not None)
    most = max(votes.values(), default=0)
    return MajorityVote(tuple(answer for answer, count in votes.items() if count == most), most / len(answers))


def majority_accuracy(answers: Sequence[Sequence[str | None]], references: Sequence[str], *, k: int = 1) -> Metric:
    r"""Compute Maj@k: how often the majority of k samples has the right answer.

    The samples of a prompt are cut into groups of k, in order; samples that fill no group are left out. Ties are broken
    at random, and the expected value is counted: of :math:`t` tied answers, a right one counts :math:`1/t`. So Maj@1 is
    the share of right samples (pass@1), and so is Maj@2 if all samples have an answer.

    Args:
        answers: The answers of the samples of each prompt (`extract_answer`), at least k of each.
        references: The right answer of each prompt.
        k: The number of samples that vote.

    Raises:
        ArgumentError: If `k` is below 1.
        DataError: If the lengths differ, or a prompt has fewer than k samples.

    Example:
        >>> samples = [["7", "7", "8"], ["1", "2", "3"]]
        >>> majority_accuracy(samples, ["7", "3"], k=3).value  # right, and one of three tied answers
        0.6666666666666666
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ArgumentError(f"k is the number of samples that vote, at least 1; got {k!r}.", argument="k")
    check_alike(answers, references)
    total, count = 0.0, 0
    for number, (samples, reference) in enumerate(zip(answers, references, strict=True)):
        if len(samples) < k:
            raise DataError(f"Prompt {number} has {len(samples)} samples; k={k} needs at least {k}.")
        for start in range(0, len(samples) - k + 1, k):
            vote = majority_vote(samples[start : start + k])
            total += (normalize_answer(reference) in vote.answers) / max(len(vote.answers), 1)
            count += 1
    return Metric(total, count)


class CostPoint(NamedTuple):
    """A point of a cost curve.

    Attributes:
        k: The number of samples that vote.
        accuracy: Maj@k, a fraction.
        tokens: The new tokens that a prompt costs: k times the mean tokens of a sample.
    """

    k: int
    accuracy: float
    tokens: float


def cost_curve(
    answers: Sequence[Sequence[str | None]],
    references: Sequence[str],
    tokens: Sequence[Sequence[int]],
    *,
    ks: Sequence[int] = (1,),
) -> tuple[CostPoint, ...]:
    """Compute accuracy against tokens: a model that writes more, or a vote of more samples, costs more.

    Two models are compared at equal tokens, not at equal k.

    Args:
        answers: The answers of the samples of each prompt.
        references: The right answer of each prompt.
        tokens: The number of new tokens of each sample.
        ks: The numbers of samples that vote.

    Raises:
        ArgumentError: If a k is below 1.
        DataError: If the lengths differ, or a prompt has fewer samples than the largest k.

    Example:
        >>> cost_curve([["7", "7", "8"]], ["7"], [[4, 6, 5]], ks=(1, 3))[1]
        CostPoint(k=3, accuracy=1.0, tokens=15.0)

    Source: Huang et al., O1 Replication Journey, part 2, 2024, arXiv:2411.16489, section 3.1.
    """
    if [len(row) for row in tokens] != [len(row) for row in answers]:
        raise DataError("tokens has a number for each sample of answers; the lengths differ.")
    mean = fmean(count for row in tokens for count in row) if any(tokens) else 0.0
    return tuple(CostPoint(k, majority_accuracy(answers, references, k=k).value, k * mean) for k in ks)


def edit_distance(one: str, other: str) -> int:
    """Count the insertions, deletions and substitutions of characters from one text to the other (Levenshtein).

    Example:
        >>> edit_distance("kitten", "sitting")
        3
    """
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def anls(answers: Sequence[str], references: Sequence[str | Sequence[str]], *, threshold: float = 0.5) -> Metric:
    r"""Compute the average normalized Levenshtein similarity of answers.

    :math:`s = 1 - \mathrm{lev}(a, g) / \max(|a|, |g|)` for the most similar reference g, and 0 where s is below
    `threshold`: a small error of spelling costs little, another answer scores 0. Two empty texts have s = 1. Case and
    white space at the ends do not matter.

    Args:
        answers: The answers.
        references: The right answer of each, or all right ones.
        threshold: The smallest similarity that counts, from 0 to 1.

    Raises:
        ArgumentError: If `threshold` is outside 0 to 1.
        DataError: If the lengths differ, or an answer has no reference.

    Example:
        >>> anls(["Tesco plc", "12.5O", "cash"], ["Tesco PLC", "12.50", "visa"]).total
        1.8

    Source: Biten et al., Scene Text Visual Question Answering, 2019, arXiv:1905.13648, equation 1; the threshold as in
        the program of DocVQA, where s = 0.5 counts.
    """
    if not 0 <= threshold <= 1:
        raise ArgumentError(f"threshold is a similarity from 0 to 1; got {threshold}.", argument="threshold")
    check_alike(answers, references)
    total = 0.0
    for number, (answer, reference) in enumerate(zip(answers, references, strict=True)):
        golds = [reference] if isinstance(reference, str) else list(reference)
        if not golds:
            raise DataError(f"Answer {number} has no reference.")
        best = max(_similarity(answer, gold) for gold in golds)
        total += best if best >= threshold else 0.0
    return Metric(total, len(answers))


def field_anls(
    answers: Sequence[Mapping[str, str]], references: Sequence[Mapping[str, str]], *, threshold: float = 0.5
) -> Metric:
    """Compute `anls` over all fields of all records. A field that one side lacks is an empty text there.

    Example:
        >>> field_anls([{"total": "12.50"}], [{"total": "12.50", "date": "2024-01-31"}]).value
        0.5
    """
    check_alike(answers, references)
    pairs = [
        (str(answer.get(field, "")), str(reference.get(field, "")))
        for answer, reference in zip(answers, references, strict=True)
        for field in dict.fromkeys((*reference, *answer))
    ]
    return anls([answer for answer, _ in pairs], [reference for _, reference in pairs], threshold=threshold)


def _similarity(answer: str, reference: str) -> float:
    a, g = answer.strip().casefold(), reference.strip().casefold()
    return 1 - edit_distance(a, g) / max(len(a), len(g)) if a or g else 1.0


def check_alike(answers: Sequence[object], references: Sequence[object]) -> None:
    """Raise a DataError if the numbers of answers and references differ."""
    if len(answers) != len(references):
        raise DataError(f"There are {len(answers)} answers and {len(references)} references.")
