"""What students write themselves for prompts without answers, compared with the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.compare.arm_recipes import ALONE, TEXTS
from limbeck.compare.arms import can_write
from limbeck.compare.comparison_data import eval_batches
from limbeck.compare.result import MetricContext, load_student, over_seeds
from limbeck.data.rollout_texts import RolloutText, find_prompts, make_batch
from limbeck.errors import LimbeckError
from limbeck.generation import GenerationConfig, generate
from limbeck.judging.verdict import compare_with_control
from limbeck.metrics.generation import continue_greedily
from limbeck.metrics.language import TextSums
from limbeck.tasks import LanguageModeling, Score
from limbeck.tasks.language_modeling import get_token_data, linear_text_scores
from limbeck.tasks.text_samples import known_tokens

MOST = 256
"""The number of test prompts that students answer for this."""

SCORES = {
    "reverse_kl": Score(
        "reverse_kl", "nats per token of reverse KL divergence, on the student's own texts", higher_is_better=False,
        countable=True, examples="prompts",
    ),
    "teacher_nll": Score(
        "teacher_nll", "nats per token, as the teacher judges the student's own texts", higher_is_better=False,
        countable=True, examples="prompts",
    ),
    "greedy_agreement": Score(
        "greedy_agreement", "agreement of greedy texts", percent=True, largest=1.0, examples="prompts"
    ),
}  # fmt: skip
"""What is measured of the texts of students. A mean over tokens is linearized (`limbeck.tasks.Evaluation`)."""

Scores = dict[str, Float64[np.ndarray, " prompts"]]


class _Answers(NamedTuple):
    """The prompts, and what the teacher writes for them greedily."""

    batches: list[Batch]
    greedy: tuple[Int[Tensor, " _tokens"], ...]
    tokens: Int[Tensor, " tokens"]
    max_new_tokens: int


def check_own_texts(context: MetricContext) -> str:
    """Describe the measurement.

    Raises:
        LimbeckError: If the teacher cannot be asked about new texts.
    """
    if not can_write(context.teacher):
        raise LimbeckError(
            "What students write is compared with a teacher on this machine, and this one is behind a server."
        )
    return f"own texts of the students for {min(MOST, len(context.material.data.test)):,} test prompts"


def measure_own_texts(context: MetricContext) -> dict[str, Any]:
    r"""Let each student write texts for test prompts, and compare them with the teacher.

    * ``reverse_kl``: of texts y drawn from the student q at temperature 1, the mean over tokens of
      :math:`KL(q(\cdot | y_{<t}) \| p(\cdot | y_{<t}))`, in nats: 0 for the teacher itself;
    * ``teacher_nll``: the mean over their tokens of :math:`-\log p(y_t | y_{<t})`, in nats. A student that repeats the
      likeliest words has less than the teacher's own texts, whose `nll` is in the row of the teacher: nearer is better,
      not less;
    * ``greedy_agreement``: the share of the teacher's greedy text that the student's greedy text has too, up to the
      first other token.

    Returns:
        ``prompts``, ``max_new_tokens``, ``arms`` with a statistic over seeds for each measure, ``against`` with the
        comparisons of the verdict's arm, and a sentence.
    """
    check_own_texts(context)
    answers = _ask_teacher(context)
    scores = {arm: _score_arm(context, arm, answers) for arm in context.job.all_arms if arm != "teacher"}
    arms = {
        arm: {name: over_seeds([float(one[name].mean()) for one in seeds]) for name in SCORES}
        for arm, seeds in scores.items()
    }
    against = {
        other: {name: _compare(scores, context.arm, other, name) for name in ("reverse_kl", "greedy_agreement")}
        for other in (ALONE, TEXTS) if other in scores
    }  # fmt: skip
    return {
        "prompts": sum(batch.size for batch in answers.batches), "max_new_tokens": answers.max_new_tokens,
        "arms": arms, "against": against, "sentence": _describe(against, context.arm),
    }  # fmt: skip


def _ask_teacher(context: MetricContext) -> _Answers:
    test = context.material.data.test
    data = get_token_data(test, "test")
    batches = eval_batches(test.select(torch.arange(min(MOST, len(test)))))
    longest = max(int((batch.labels != -100).sum(1).max()) for batch in batches if batch.labels is not None)
    tokens = known_tokens(data, context.teacher)
    prompts = [prompt for batch in batches for prompt in find_prompts(batch)]
    greedy = continue_greedily(
        context.teacher, prompts, max_new_tokens=longest, end=data.tokenizer.eos_token_id, tokens=tokens,
        preprocess=context.material.data.preprocess,
    )  # fmt: skip
    return _Answers(batches, greedy, tokens, longest)


def _score_arm(context: MetricContext, arm: str, answers: _Answers) -> list[Scores]:
    """The scores of an arm, for each seed."""
    seeds = range(context.job.seeds)
    return [_score(context, load_student(context.job, context.material, arm, seed), answers) for seed in seeds]


def _score(context: MetricContext, student: nn.Module, answers: _Answers) -> Scores:
    own = _evaluate_own(context, student, answers)
    prompts = [prompt for batch in answers.batches for prompt in find_prompts(batch)]
    greedy = continue_greedily(
        student, prompts, max_new_tokens=answers.max_new_tokens, end=_end(context), tokens=answers.tokens,
        preprocess=context.material.data.preprocess,
    )  # fmt: skip
    shared = [_shared(ours, theirs) for ours, theirs in zip(greedy, answers.greedy, strict=True)]
    return {**own, "greedy_agreement": np.array(shared)}


def _evaluate_own(context: MetricContext, student: nn.Module, answers: _Answers) -> Scores:
    """Let a model write at temperature 1, and let the teacher judge every token."""
    texts = [_write(context, student, batch, answers) for batch in answers.batches]
    task, preprocess = LanguageModeling(), context.material.data.preprocess
    ours = task.evaluate(student, texts, preprocess=preprocess, teacher=context.teacher).outputs
    theirs = task.evaluate(context.teacher, texts, preprocess=preprocess).outputs
    return {
        "reverse_kl": linear_text_scores(TextSums(ours), "reverse_kl_to_teacher"),
        "teacher_nll": linear_text_scores(TextSums(theirs), "nll"),
    }


def _write(context: MetricContext, model: nn.Module, batch: Batch, answers: _Answers) -> Batch:
    """A batch of texts of a model. The draws are a function of the prompt's id alone."""
    prompts, ids = find_prompts(batch), torch.arange(batch.size) if batch.id is None else batch.id.cpu()
    config = GenerationConfig(max_new_tokens=answers.max_new_tokens, temperature=1.0, eos_token_id=_end(context))
    written = generate(model, prompts, config, ids=ids, seed=0, tokens=answers.tokens)
    rows = [
        RolloutText(prompt, text, row[: len(text)], ended, id, 0, 0)
        for prompt, text, row, ended, id in zip(
            prompts, written.texts, written.logprobs.cpu(), written.finished.tolist(), ids.tolist(), strict=True
        )
    ]
    return make_batch(batch, rows, pad=int(context.material.data.tokenizer.pad_token_id or 0), number=0,
                      written_by="student")  # fmt: skip


def _shared(ours: Tensor, theirs: Tensor) -> float:
    """The share of the second text that the first one has too, up to the first difference."""
    length = min(len(ours), len(theirs))
    different = (ours[:length] != theirs[:length]).nonzero()
    return (int(different[0]) if len(different) else length) / max(len(theirs), 1)


def _end(context: MetricContext) -> int | None:
    end: int | None = context.material.data.tokenizer.eos_token_id
    return end


def _compare(scores: Mapping[str, list[Scores]], arm: str, other: str, name: str) -> dict[str, Any]:
    ours, theirs = (np.stack([one[name] for one in scores[which]]) for which in (arm, other))
    called = {ALONE: "the same student before training", TEXTS: TEXTS}[other]
    return compare_with_control(ours, theirs, name=called, score=SCORES[name]).as_dict()


def _describe(against: Mapping[str, Mapping[str, Any]], arm: str) -> str:
    sentences = [one["reverse_kl"]["sentence"] for one in against.values()]
    return " ".join((f"On texts that the students write themselves, {arm}:", *sentences)) if sentences else ""
