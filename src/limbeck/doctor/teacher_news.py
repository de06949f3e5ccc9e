"""What a teacher knows that its student does not, before training: likelihoods, agreement, shared mass."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from limbeck.batch import IGNORED, LABEL_LOG_PROBS, LOGITS
from limbeck.data import Dataset
from limbeck.doctor.context import CheckContext, Finding, fail, passed, warn
from limbeck.doctor.language_checks import draw_rows, labels_that_count, new_student, small_batches
from limbeck.metrics.language import TextSumsState
from limbeck.metrics.partial_teacher import ScoredLabels
from limbeck.model_call import call, logits_of
from limbeck.tap import FrozenParameters
from limbeck.tasks.language_modeling import get_token_data, measure_texts
from limbeck.teachers import Preprocess, Teacher, TeacherContext, has_other_tokenizer

NEWS = "teacher's news"

_SECONDS, _TOKENS, _COUNTED = 20.0, 4096, 4096
_SAME = 0.01  # nats per token


class TeacherNews(NamedTuple):
    """A teacher beside an untrained student on the same tokens, in nats per token.

    Attributes:
        tokens: The number of tokens whose label the teacher knows.
        unknown: The share of labels that the teacher's vocabulary lacks.
        teacher: The negative log-likelihood of the teacher.
        student: That of the student before training.
        unigram: That of the frequencies of the training tokens.
        divergence: The KL divergence of the student from the teacher; of a teacher that lists some tokens, with all
            others as one.
        agreement: How often both have the same most likely token.
        overlap: The share of the teacher's ten most likely tokens that are among the student's.
        mass: The student's probability of the teacher's ten most likely tokens; NaN if it lists fewer.
    """

    tokens: int
    unknown: float
    teacher: float
    student: float
    unigram: float
    divergence: float
    agreement: float
    overlap: float
    mass: float


def check_news(context: CheckContext) -> Finding:
    """Compare the teacher with the student before training, and with token frequencies, on development texts."""
    if not context.trained:
        return warn(NEWS, None, "Unknown: the job trains the teacher first.")
    if has_other_tokenizer(context.teacher):
        return judge_news(_compare_likelihoods(context))
    found = compare_with_teacher(
        new_student(context), context.teacher, context.development, unigram_log_probabilities(context.train),
        preprocess=context.preprocess, device=context.device,
    )  # fmt: skip
    return judge_news(found)


def judge_news(found: TeacherNews) -> Finding:
    """The finding for a comparison."""
    value, text = found._asdict(), f"{found.student - found.teacher:.3g} nats"
    beside = (
        f"Nats per token: teacher {found.teacher:.3g}, student {found.student:.3g}, token frequencies "
        f"{found.unigram:.3g}."
    )
    if not found.teacher < found.unigram:
        return fail(
            NEWS, value,
            f"{beside} The teacher is no better than the frequencies of the tokens: was it trained with another "
            "tokenizer, on another language, or not at all?", text,
        )  # fmt: skip
    if found.divergence < _SAME:
        return warn(
            NEWS, value,
            f"{beside} The student agrees with the teacher already (KL divergence {found.divergence:.2g}), so there is "
            "hardly anything to learn.", text,
        )  # fmt: skip
    if found.teacher >= found.student:
        return warn(
            NEWS, value, f"{beside} The teacher predicts these texts no better than the student does already.", text
        )
    if math.isnan(found.agreement):
        other = "Their tokens differ, so they are compared by the likelihood of the texts alone."
        return passed(NEWS, value, f"{beside} {other}", text)
    lacking = f" {100 * found.unknown:.2g} % of the labels are tokens that it lacks." if found.unknown else ""
    mass = f", and the student gives {100 * found.mass:.3g} % to the teacher's ten most likely"
    ten = "" if math.isnan(found.mass) else mass
    return passed(
        NEWS, value,
        f"{beside} They agree on {100 * found.agreement:.3g} % of {found.tokens:,} tokens{ten}.{lacking}", text,
    )  # fmt: skip


def _compare_likelihoods(context: CheckContext) -> TeacherNews:
    """Compare a teacher with another tokenizer and the student by the likelihood of some development texts."""
    batches, unigram = [], unigram_log_probabilities(context.train)
    tokens, total = 0, 0.0
    for batch in small_batches(context.development):
        labels = labels_that_count(batch)
        labels = labels[labels != IGNORED]
        batches.append(batch)
        tokens, total = tokens + len(labels), total - float(unigram[labels].sum())
        if tokens >= _TOKENS:
            break
    teacher, student = (
        context.task.evaluate(model, batches, preprocess=context.preprocess).measures["nll"]
        for model in (context.teacher, new_student(context))
    )
    unknown = [math.nan] * 4
    return TeacherNews(tokens, 0.0, teacher, student, total / max(tokens, 1), *unknown)


def compare_with_teacher(
    student: nn.Module, teacher: Teacher, examples: Dataset, unigram: Tensor, *, preprocess: Preprocess,
    device: torch.device,
) -> TeacherNews:  # fmt: skip
    """Compare teacher and student on some rows, for at most 20 seconds.

    Args:
        student: The student; its modes are kept.
        teacher: The teacher, in the student's vocabulary.
        examples: Rows of tokens.
        unigram: The logarithm of each token's frequency.
        preprocess: The function from a batch to the inputs of both.
        device: The device of both.
    """
    both, alone = TextSumsState(), TextSumsState()
    total, labels, known_labels, until = 0.0, 0, 0, time.perf_counter() + _SECONDS
    student = student.to(device)
    listed = teacher.capabilities.partial and teacher.capabilities.scores_labels
    requires = frozenset({LOGITS, LABEL_LOG_PROBS}) if listed else frozenset({LOGITS})
    session = teacher.open(TeacherContext(requires=requires, device=device, preprocess=preprocess))
    with torch.no_grad(), FrozenParameters(student), session as answer:
        for batch in small_batches(examples):
            batch = batch.to(device)
            outputs, ours = answer(batch), logits_of(call(student, preprocess(batch)))
            theirs: Any = outputs.raw(LOGITS) if listed else outputs[LOGITS]
            own_labels = ScoredLabels(outputs[LABEL_LOG_PROBS], theirs) if listed else None
            known = _is_known(theirs if own_labels is None else own_labels, labels_that_count(batch))
            labels += int((labels_that_count(batch) != IGNORED).sum())
            known_labels += int(known.sum())
            batch = batch._replace(mask=known)
            both.update(ours, batch, theirs)
            alone.update(theirs if own_labels is None else own_labels, batch)
            total -= float(unigram[labels_that_count(batch)[known].cpu()].double().sum())
            if known_labels >= _TOKENS or (known_labels and time.perf_counter() > until):
                break
    measures, own = measure_texts(both.compute()), measure_texts(alone.compute())
    divergence = "kl_at_least" if listed else "kl_to_teacher"
    return TeacherNews(
        known_labels, 1 - known_labels / max(labels, 1), own["nll"], measures["nll"], total / known_labels,
        *(measures.get(name, math.nan) for name in (divergence, "agreement", "top_k_overlap", "top_k_mass")),
    )  # fmt: skip


def _is_known(logits: Tensor | ScoredLabels, labels: Tensor) -> Bool[Tensor, "batch positions"]:
    """Where there is a label that the teacher has."""
    if isinstance(logits, ScoredLabels):
        return (labels != IGNORED) & ~logits.log_probs.isnan()
    at = logits.gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return (labels != IGNORED) & (at != -torch.inf)


def unigram_log_probabilities(examples: Dataset) -> Tensor:
    """The logarithm of each token's frequency among the labels of up to 4,096 rows, each token counted once more."""
    data = get_token_data(examples, "training")
    size = max(len(data.tokenizer), int(data.texts.ids.max()) + 1)
    counts = torch.ones(size, dtype=torch.float64)
    for rows in draw_rows(examples, _COUNTED).split(256):
        labels = labels_that_count(examples.take(rows))
        counts += labels[labels != IGNORED].bincount(minlength=size)
    return (counts / counts.sum()).log()
