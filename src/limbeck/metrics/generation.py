"""Continuations of texts: greedy answers, exact match, chrF, and speculative sampling with a draft model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.batch import Batch, Inputs
from limbeck.data import Identity
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.generation import GenerationConfig, check_prompts, generate, next_logits
from limbeck.generation.writers import NextLogits
from limbeck.metrics.answers import check_alike
from limbeck.metrics.metric import Metric
from limbeck.metrics.predictions import open_token_logits
from limbeck.models.hf_folder import find_hf_config
from limbeck.optional_imports import import_optional
from limbeck.teachers import AlignedTeacher, ModelTeacher

Tokens = Int[Tensor, " _tokens"]


class SpeculativeSampling(NamedTuple):
    """Texts that a teacher and its draft model sampled together, and what was counted.

    Attributes:
        texts: The new tokens of each prompt, without the prompt; the end token is the last one if it was sampled.
        proposed: The number of drafted tokens that the teacher judged.
        accepted: The number of those that it accepted.
        passes: The number of forward passes of the teacher.
    """

    texts: tuple[Tensor, ...]
    proposed: int
    accepted: int
    passes: int

    @property
    def acceptance(self) -> float:
        """The share of judged tokens that were accepted; NaN if none was judged."""
        return self.accepted / self.proposed if self.proposed else float("nan")

    @property
    def tokens_per_pass(self) -> float:
        """New tokens for each pass of the teacher: 1 without a draft model, at most the number of drafted plus 1."""
        return sum(map(len, self.texts)) / self.passes if self.passes else float("nan")


def sample_speculatively(
    student: Any,
    teacher: Any,
    prompts: Sequence[Tokens],
    *,
    draft: int = 4,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    end: int | None = None,
    seed: int = 0,
    preprocess: Callable[[Batch], Inputs] | None = None,
) -> SpeculativeSampling:
    r"""Sample texts of the teacher, with the student as draft model. Their distribution is exactly the teacher's.

    The student drafts up to `draft` tokens; one pass of the teacher judges them all. With p of the teacher and q of the
    student, a token x is accepted with probability :math:`\min(1, p(x) / q(x))`. The first rejected token is replaced
    by a sample of :math:`\max(0, p - q)`, normalized; if all are accepted, the pass gives one more token of p. So each
    pass gives at least one token.

    This measures what `acceptance` in `limbeck.metrics.LANGUAGE_METRICS` estimates from given texts, and the number of
    tokens per pass that a server would get, with texts that end early. Models are called on whole prefixes, without a
    cache of keys and values: the counts are those of a server, the time is not.

    Args:
        student: The draft model: a module from ids to logits.
        teacher: The model whose texts are sampled, with the same vocabulary. Of an `AlignedTeacher`, tokens that only
            one of the two models has have the probability 0 in both.
        prompts: The tokens of each prompt, at least one.
        draft: The number of tokens that are drafted at a time, at least 1.
        max_new_tokens: The largest number of new tokens of a text, at least 1.
        temperature: The temperature of both models; 0 is greedy decoding.
        end: The token that ends a text; None if there is none.
        seed: The seed of all draws.
        preprocess: Maps a batch to the inputs of both models.

    Raises:
        ArgumentError: If an argument is out of range.
        DataError: If a prompt has no token.
        LimbeckError: If the vocabularies differ.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Embedding(5, 8), torch.nn.Linear(8, 5))
        >>> found = sample_speculatively(model, model, [torch.tensor([1])], draft=3, max_new_tokens=8,
        ...     preprocess=lambda batch: batch.inputs["input_ids"])
        >>> found.acceptance, found.passes, len(found.texts[0])
        (1.0, 2, 8)

    Source: Leviathan, Kalman and Matias, Fast Inference from Transformers via Speculative Decoding, 2022,
    arXiv:2211.17192, algorithm 1; Chen et al., Accelerating Large Language Model Decoding with Speculative Sampling,
    2023, arXiv:2302.01318.
    """
    _check_counts(draft=draft, max_new_tokens=max_new_tokens)
    if not temperature >= 0:
        raise ArgumentError(f"temperature is 0 (greedy) or above; got {temperature}.", argument="temperature")
    check_prompts(prompts)
    generator = torch.Generator().manual_seed(seed)
    state = _Speculation(draft, temperature, end, generator)
    with (
        open_token_logits(student, preprocess=preprocess) as ours,
        open_token_logits(teacher, preprocess=preprocess) as theirs,
    ):
        shared = teacher.alignment.student_ids if isinstance(teacher, AlignedTeacher) else None
        models = _make_next_logits(ours, shared), _make_next_logits(theirs)
        if prompts:
            _check_vocabularies(*models, prompts[0].cpu().long())
        texts = tuple(state.sample(*models, prompt.cpu().long(), max_new_tokens) for prompt in prompts)
    return SpeculativeSampling(texts, state.proposed, state.accepted, state.passes)


class _Speculation:
    """The settings of speculative sampling, and its counts."""

    def __init__(self, draft: int, temperature: float, end: int | None, generator: torch.Generator) -> None:
        self._draft, self._temperature, self._end, self._generator = draft, temperature, end, generator
        self.proposed = self.accepted = self.passes = 0

    def sample(self, student: NextLogits, teacher: NextLogits, prompt: Tensor, most: int) -> Tensor:
        """Continue one prompt."""
        tokens = prompt
        while (left := most - (len(tokens) - len(prompt))) > 0:
            # The pass gives one token beyond the drafted ones.
            tokens = torch.cat([tokens, self._block(student, teacher, tokens, min(self._draft, left - 1))])
            if self._end is not None and int(tokens[-1]) == self._end:
                break
        return tokens[len(prompt) :]

    def _block(self, student: NextLogits, teacher: NextLogits, tokens: Tensor, count: int) -> Tensor:
        """The tokens of one pass of the teacher; the end token is the last one."""
        drafted, q = self._draw_draft(student, tokens, count)
        p = self._distributions(teacher([torch.cat([tokens, drafted])], len(drafted) + 1)[0])
        self.passes += 1
        for i, token in enumerate(drafted.tolist()):
            self.proposed += 1
            if float(torch.rand((), generator=self._generator, dtype=torch.float64)) * q[i][token] >= p[i][token]:
                rest = (p[i] - q[i]).clamp_min(0.0)
                return torch.cat([drafted[:i], self._draw(rest)])
            self.accepted += 1
            if token == self._end:
                return drafted[: i + 1]
        return torch.cat([drafted, self._draw(p[len(drafted)])])

    def _draw_draft(self, student: NextLogits, tokens: Tensor, count: int) -> tuple[Tensor, list[Tensor]]:
        q: list[Tensor] = []
        drafted = tokens[:0]
        while len(drafted) < count and not (len(drafted) and int(drafted[-1]) == self._end):
            q.append(self._distributions(student([torch.cat([tokens, drafted])], 1)[0])[0])
            drafted = torch.cat([drafted, self._draw(q[-1])])
        return drafted, q

    def _distributions(self, logits: Float[Tensor, "positions vocabulary"]) -> Float[Tensor, "positions vocabulary"]:
        if self._temperature == 0:
            return torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1]).double()
        return (logits / self._temperature).softmax(1)

    def _draw(self, weights: Float[Tensor, " vocabulary"]) -> Int[Tensor, " 1"]:
        return torch.multinomial(weights, 1, generator=self._generator)


def continue_greedily(
    model: Any,
    prompts: Sequence[Tokens],
    *,
    max_new_tokens: int = 64,
    end: int | None = None,
    tokens: Int[Tensor, " tokens"] | None = None,
    preprocess: Callable[[Batch], Inputs] | None = None,
) -> tuple[Tensor, ...]:
    """Continue prompts with the most likely token at each step.

    This is `limbeck.generation.generate` at temperature 0, for teachers too.

    Args:
        model: A causal language model, from ids to logits; an encoder-decoder of transformers; or a teacher.
        prompts: The tokens of each prompt, at least one.
        max_new_tokens: The largest number of new tokens, at least 1.
        end: The token that ends a text; None if there is none.
        tokens: The tokens that may be written, such as those that a tokenizer knows; None for all outputs of the model.
        preprocess: Maps a batch to the inputs of the model.

    Returns:
        The new tokens of each prompt; the end token is the last one if it was reached.

    Raises:
        ArgumentError: If `max_new_tokens` is below 1.
        DataError: If a prompt has no token.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Embedding(5, 5), torch.nn.Identity())
        >>> _ = model[0].weight.data.copy_(torch.eye(5).roll(1, 1))  # the token that follows n is n + 1
        >>> first = lambda batch: batch.inputs["input_ids"]
        >>> continue_greedily(model, [torch.tensor([0])], max_new_tokens=9, end=3, preprocess=first)
        (tensor([1, 2, 3]),)
    """
    _check_counts(max_new_tokens=max_new_tokens)
    config = GenerationConfig(max_new_tokens=max_new_tokens, temperature=0.0, eos_token_id=end)
    module = model.model if isinstance(model, ModelTeacher) else model
    plain = preprocess is None or isinstance(preprocess, Identity)
    if plain and isinstance(module, nn.Module) and find_hf_config(module) is not None:
        return generate(module, prompts, config, tokens=tokens).texts
    with open_token_logits(model, preprocess=preprocess) as logits:
        return generate(logits, prompts, config, tokens=tokens).texts


def exact_match(answers: Sequence[str], references: Sequence[str]) -> Metric:
    """Compute how often an answer is the reference, apart from white space at its ends.

    Raises:
        DataError: If the numbers of answers and references differ.

    Example:
        >>> exact_match(["7", "blue "], ["7", "green"]).value
        0.5
    """
    check_alike(answers, references)
    return Metric(float(sum(a.strip() == b.strip() for a, b in zip(answers, references, strict=True))), len(answers))


def chrf(answers: Sequence[str], references: Sequence[str]) -> float:
    """Compute chrF of all answers together, from 0 to 100, as sacrebleu does: the F2 score of character n-grams.

    Raises:
        MissingPackageError: If sacrebleu is not installed (extra ``text``).
        DataError: If the numbers of answers and references differ.

    Source: Popović, chrF: character n-gram F-score for automatic MT evaluation, WMT 2015.
    """
    check_alike(answers, references)
    sacrebleu = import_optional("sacrebleu", extra="text", purpose="chrF")
    return float(sacrebleu.corpus_chrf(list(answers), [list(references)]).score)


def _leave_out(logits: Tensor, tokens: Tensor | None) -> Tensor:
    """Give all other tokens the probability 0; None leaves out nothing."""
    if tokens is None:
        return logits
    kept = tokens[tokens < logits.shape[-1]].to(logits.device)
    return torch.full_like(logits, -torch.inf).index_copy(-1, kept, logits.index_select(-1, kept))


def _make_next_logits(logits: Callable[[Batch], Any], tokens: Tensor | None = None) -> NextLogits:
    """`next_logits` in float64 on the CPU, of some tokens or all."""
    following = next_logits(logits, torch.float64)
    return lambda texts, positions: [_leave_out(rows.cpu(), tokens) for rows in following(texts, positions)]


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArgumentError(f"{name} is a number of tokens, at least 1; got {value!r}.", argument=name)


def _check_vocabularies(student: NextLogits, teacher: NextLogits, prompt: Tensor) -> None:
    ours, theirs = (model([prompt], 1)[0].shape[1] for model in (student, teacher))
    if ours != theirs:
        raise LimbeckError(
            f"The student has {ours:,} tokens and the teacher {theirs:,}: a draft model needs the vocabulary of its "
            "teacher."
        )
