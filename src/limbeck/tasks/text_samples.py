"""Texts that language models write for prompts of the test data, to be read by people."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.batch import Batch, Inputs
from limbeck.data import Dataset, TokenDataset, TokenPairDataset
from limbeck.metrics.generation import chrf, continue_greedily, exact_match, sample_speculatively
from limbeck.optional_imports import is_installed
from limbeck.teachers import AlignedTeacher

FEW, MANY = 8, 64
"""The number of prompts of plain texts, and of texts with an answer, whose answers are compared with the reference."""
_PLAIN = 32  # tokens of a plain text that are shown as its prompt, and tokens that continue it
_LONGEST = 64  # tokens of an answer
_DRAFTED = 4


class SamplePrompt(NamedTuple):
    """A prompt of the test data.

    Attributes:
        text: The number of its text.
        tokens: The tokens that a model gets.
        reference: The tokens that follow in the data.
    """

    text: int
    tokens: Int[Tensor, " _prompt"]
    reference: Int[Tensor, " _reference"]


def select_prompts(data: TokenDataset | TokenPairDataset, numbers: Int[Tensor, " texts"]) -> list[SamplePrompt]:
    """The prompts of the first texts of some numbers: what comes before the answer, or the beginning of a plain text.

    Plain texts that are too short to be continued are left out; so are all short ones, if there are enough others.
    """
    answered = _has_answers(data, numbers)
    if not answered:
        long = numbers[data.texts.lengths[numbers] >= _PLAIN]
        numbers = long if len(long) >= FEW else numbers
    prompts: list[SamplePrompt] = []
    for number in numbers.tolist():
        begin, end = data.texts.starts[number : number + 2].tolist()
        ids, is_target = data.texts.ids[begin:end].long(), data.texts.is_target[begin:end]
        if isinstance(data, TokenPairDataset):
            first, last = data.sources.starts[number : number + 2].tolist()
            prompts.append(SamplePrompt(number, data.sources.ids[first:last].long(), ids))
        elif answered:
            first = int(is_target.long().argmax())
            after = (~is_target[first:]).nonzero()[:, 0]
            last = first + int(after[0]) if len(after) else len(ids)
            prompts.append(SamplePrompt(number, ids[:first], ids[first:last]))
        elif len(ids) > 2:
            first = min(_PLAIN, len(ids) // 2, max(data.max_length // 2, 1))
            prompts.append(SamplePrompt(number, ids[:first], ids[first : first + _PLAIN]))
        if len(prompts) == (MANY if answered else FEW):
            break
    return prompts


def write_samples(
    model: Any,
    examples: Dataset,
    data: TokenDataset | TokenPairDataset,
    *,
    teacher: Any = None,
    preprocess: Callable[[Batch], Inputs] | None = None,
) -> dict[str, Any] | None:
    """Let a model answer prompts, greedily; with a teacher, also count how often it accepts the model's drafts.

    Args:
        model: The model.
        examples: The test data.
        data: The dataset of tokens from which they were selected.
        teacher: The teacher, to measure the model as its draft model; None for no measurement.
        preprocess: Maps a batch to the inputs of the models.

    Returns:
        ``texts``, each with the text's number, prompt, reference and answer; ``exact_match`` and ``chrf`` of texts with
        a prompt and an answer, and the share that ``ended`` with the end token; ``speculative``. None if no text can
        be continued.
    """
    numbers = text_numbers(examples)
    prompts = select_prompts(data, numbers)
    if not prompts:
        return None
    most = _answer_length(prompts, data)
    tokens = [prompt.tokens if isinstance(data, TokenPairDataset) else prompt.tokens[-(data.max_length - most) :]
              for prompt in prompts]  # fmt: skip
    end = data.tokenizer.eos_token_id
    answers = continue_greedily(
        model, tokens, max_new_tokens=most, end=end, tokens=known_tokens(data, teacher), preprocess=preprocess
    )
    answered, decode = _has_answers(data, numbers), data.tokenizer.decode
    texts = [
        {
            "text": prompt.text,
            "prompt": decode(prompt.tokens, skip_special_tokens=True),
            "reference": decode(prompt.reference if answered else prompt.reference[:most], skip_special_tokens=True),
            "answer": decode(answer, skip_special_tokens=True),
        }
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    values: dict[str, Any] = {"texts": texts[:FEW], "max_new_tokens": most}
    if answered:
        values |= {} if end is None else {"ended": sum(end in answer for answer in answers) / len(answers)}
        values |= _score_answers([one["answer"] for one in texts], [one["reference"] for one in texts])
    if teacher is not None and not isinstance(data, TokenPairDataset):
        values["speculative"] = _measure_drafts(model, teacher, tokens[:FEW], most, end, preprocess)
    return values


def text_numbers(examples: Dataset) -> Int[Tensor, " texts"]:
    """The numbers of the texts of some examples, sorted."""
    parts = [
        numbers[numbers >= 0].unique()
        for index in torch.arange(len(examples)).split(256)
        if isinstance(numbers := examples.take(index).extra.get("text_number"), Tensor)
    ]
    return torch.cat(parts).unique() if parts else torch.arange(0)


def known_tokens(data: TokenDataset | TokenPairDataset, teacher: Any) -> Int[Tensor, " tokens"]:
    """The tokens of the tokenizer; with a teacher of another vocabulary, those that it knows, too."""
    known = torch.tensor(sorted(set(data.tokenizer.get_vocab().values())))
    if isinstance(teacher, AlignedTeacher):
        known = known[torch.isin(known, teacher.alignment.student_ids)]
    return known


def _has_answers(data: TokenDataset | TokenPairDataset, numbers: Int[Tensor, " texts"]) -> bool:
    """Whether each text is a prompt with an answer."""
    return isinstance(data, TokenPairDataset) or bool(data.texts.prompted[numbers].all())


def _answer_length(prompts: list[SamplePrompt], data: TokenDataset | TokenPairDataset) -> int:
    """The number of new tokens: those of the longest reference, as far as prompt and answer fit into the context."""
    longest = max(len(prompt.reference) for prompt in prompts)
    room = data.max_target_length if isinstance(data, TokenPairDataset) else max(data.max_length // 2, 1)
    return max(min(longest, _LONGEST, room), 1)


def _score_answers(answers: list[str], references: list[str]) -> dict[str, Any]:
    match = exact_match(answers, references)
    scores: dict[str, Any] = {"exact_match": match.value, "answers": match.count}
    return scores | ({"chrf": chrf(answers, references)} if is_installed("sacrebleu") else {})


def _measure_drafts(
    model: Any,
    teacher: Any,
    prompts: list[Tensor],
    most: int,
    end: int | None,
    preprocess: Callable[[Batch], Inputs] | None,
) -> dict[str, Any]:
    counts = sample_speculatively(
        model, teacher, prompts, draft=_DRAFTED, max_new_tokens=most, end=end, preprocess=preprocess
    )
    return {
        "drafted": _DRAFTED,
        "acceptance": None if math.isnan(counts.acceptance) else counts.acceptance,
        "tokens_per_pass": counts.tokens_per_pass,
        "passes": counts.passes,
        "proposed": counts.proposed,
        "tokens": sum(map(len, counts.texts)),
    }
