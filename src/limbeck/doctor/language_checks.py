"""Checks of language jobs: what counts, what the teacher knows, contexts, end tokens, repeated texts."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from limbeck.batch import IGNORED, LOGITS, Batch
from limbeck.data import Dataset, ShuffledLoader, TokenDataset, hash_tokenizer
from limbeck.data.tokenizer import labels_are_inputs
from limbeck.doctor.context import CheckContext, CheckedArm, Finding, fail, passed, warn
from limbeck.metrics.language import TextSumsState
from limbeck.model_call import call, logits_of
from limbeck.random_seeds import counter_order
from limbeck.tap import FrozenParameters
from limbeck.tasks.language_modeling import measure_texts, token_data
from limbeck.teachers import Preprocess, Teacher, TeacherContext

TOKENS = "tokens that count"

_SHOWN, _ROOM = 2, 240  # examples, and characters of each
_LEAST_COUNTED = 0.02


def check_tokens(context: CheckContext) -> Finding:
    """Check which tokens a student learns, and show examples with these tokens in ``[[ ]]``."""
    rows = _draw_rows(context.train, 64)
    batch = context.train.take(rows)
    if labels_are_inputs(batch.labels, batch.inputs):
        return fail(
            TOKENS, None,
            "The labels equal the tokens at the same positions, so a student would learn to copy. Labels are the next "
            "tokens: shift them by one, once.",
        )  # fmt: skip
    data = token_data(context.train, "training")
    real = batch.extra["masks"]["text"]
    counted = int((_labels(batch) != IGNORED).sum())
    share = counted / max(int(real.sum()), 1)
    text = f"{100 * share:.3g} %"
    lines = tuple(f"row {int(rows[i])}: {_mark(batch, i, data.tokenizer)}" for i in range(min(_SHOWN, batch.size)))
    if share < _LEAST_COUNTED:
        finding = warn(
            TOKENS, share, "Hardly any token is learned: prompts are long beside their answers, so most of the time "
            "goes into tokens without a loss. Those that count are in [[ ]].", text,
        )  # fmt: skip
    else:
        finding = passed(TOKENS, share, "The share of tokens that are learned. They are in [[ ]].", text)
    return finding._replace(details=lines)


def _labels(batch: Batch) -> Tensor:
    labels = batch.labels if batch.labels is not None else torch.full((batch.size, 1), IGNORED)
    return labels if batch.mask is None else labels.masked_fill(~batch.mask, IGNORED)


def _mark(batch: Batch, row: int, tokenizer: Any) -> str:
    """The text of a row, with the tokens that count in ``[[ ]]``."""
    runs: list[tuple[bool, list[int]]] = []
    for id, counts in _tokens_in_order(batch, row):
        if not runs or runs[-1][0] != counts:
            runs.append((counts, []))
        runs[-1][1].append(id)
    parts = []
    for counts, ids in runs:
        text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        text = text.encode("unicode_escape").decode() if not text.isprintable() else text
        room = _ROOM // min(len(runs), 4)
        text = text if len(text) <= room else f"{text[: room // 2]} ... {text[-room // 2 :]}"
        parts.append(f"[[{text}]]" if counts else text)
    return "".join(parts[:8]) + (" ..." if len(parts) > 8 else "")


def _tokens_in_order(batch: Batch, row: int) -> Iterator[tuple[int, bool]]:
    """Yield each token of a row once, and whether it is learned. A label is the token behind its position."""
    real = batch.extra["masks"]["text"][row]
    ids, numbers = batch.inputs["input_ids"][row][real].tolist(), batch.extra["text_number"][row][real].tolist()
    labels, positions = _labels(batch)[row][real].tolist(), batch.inputs["position_ids"][row][real].tolist()
    for t, id in enumerate(ids):
        if positions[t] == 0:
            yield id, False
        if labels[t] != IGNORED:
            yield labels[t], True
        elif t + 1 < len(ids) and numbers[t + 1] == numbers[t] and positions[t + 1] > 0:
            yield ids[t + 1], False


ENDS = "end of text"


def check_ends(context: CheckContext) -> Finding:
    """Check that texts end with the end token, and that it is learned."""
    data = token_data(context.train, "training")
    end, pad = data.tokenizer.eos_token_id, data.tokenizer.pad_token_id
    if end is None:
        return warn(
            ENDS, None, "The tokenizer has no eos_token, so the student never learns to stop. Set tokenizer.eos_token."
        )
    last = data.texts.starts[1:][text_numbers(context.train)] - 1
    learned = (data.texts.ids[last] == end) & data.texts.is_target[last]
    share = float(learned.double().mean())
    text = f"{100 * share:.3g} %"
    if share < 1:
        return warn(
            ENDS, share,
            f"{int((~learned).sum()):,} of {len(last):,} texts do not end with {data.tokenizer.eos_token!r}, so a "
            "student learns there to write on without end. Use add_eos_token=True, or let an answer end each chat.",
            text,
        )  # fmt: skip
    both = ""
    if pad == end:
        both = " It is also the padding token; padding is masked by its place, so the end of each text still counts."
    return passed(ENDS, share, f"Every text ends with {data.tokenizer.eos_token!r}, and it is learned.{both}", text)


def text_numbers(examples: Dataset) -> Int[Tensor, " texts"]:
    """The numbers of the texts that have a row in `examples`."""
    if isinstance(examples, TokenDataset):
        return examples.text_numbers
    parts = (examples.take(rows).extra["text_number"] for rows in torch.arange(len(examples)).split(256))
    numbers = torch.cat([part[part >= 0].unique() for part in parts])
    return numbers.unique()


LENGTHS = "long texts"


def check_lengths(context: CheckContext) -> Finding | None:
    """Count texts with a prompt that do not fit into one window; None if no text has a prompt."""
    data = token_data(context.train, "training")
    prompted = data.texts.prompted
    if not bool(prompted.any()):
        return None
    long = (data.texts.lengths - 1 > data.max_length) & prompted
    if not bool(long.any()):
        return passed(LENGTHS, 0, f"Every text fits with its prompt into max_length={data.max_length} tokens.", "0")
    count, longest = int(long.sum()), int(data.texts.lengths[long].max()) - 1
    cut = bool(torch.isin(long.nonzero()[:, 0], text_numbers(context.train)).any())
    what = (
        "cut into windows, and the later ones do not see the prompt (too_long=window)"
        if cut
        else "left out (too_long=drop)"
    )
    return warn(
        LENGTHS, count,
        f"{count:,} of {int(prompted.sum()):,} texts with a prompt have more than max_length={data.max_length} tokens "
        f"and are {what}. max_length={longest} takes all of them.", f"{count:,} too long",
    )  # fmt: skip


CONTEXTS = "context"


def check_contexts(context: CheckContext) -> Finding:
    """Check that no window is longer than the context of the student or the teacher."""
    data = token_data(context.train, "training")
    longest = min(data.max_length, int(data.texts.lengths.max()) - 1)
    networks = context.networks
    names = [f"teacher {name}" for name in networks] if len(networks) > 1 else ["teacher"]
    models = {"student": new_student(context), **dict(zip(names, networks.values(), strict=True))}
    limits = {who: limit for who, model in models.items() if (limit := context_length(model)) is not None}
    for who, limit in limits.items():
        if limit < longest:
            return fail(
                CONTEXTS, limits,
                f"The {who} reads {limit:,} tokens at most, and windows have up to {longest:,}. Type "
                f"data.max_length={limit}.", f"{limit:,} < {longest:,}",
            )  # fmt: skip
    listed = ", ".join(f"{who} {limit:,}" for who, limit in limits.items()) or "no model states a limit"
    return passed(CONTEXTS, limits, f"Windows have up to {longest:,} tokens; contexts: {listed}.", f"{longest:,}")


def context_length(model: nn.Module) -> int | None:
    """The largest number of tokens that a model of transformers says it reads; None if it says nothing.

    Example:
        >>> context_length(nn.Linear(2, 3)) is None
        True
    """
    try:
        limit = model.config.max_position_embeddings  # type: ignore[union-attr] # configurations map other names to it
    except AttributeError:
        return None
    return int(limit) if isinstance(limit, int) and limit > 0 else None


def new_student(context: CheckContext) -> nn.Module:
    """The student of the first arm that is checked, as it is before training."""
    arm = next((arm for arm in context.arms if arm.check_stages), context.arms[-1])
    models = arm.models()
    return models["student"] if "student" in models else next(iter(models.values()))


REPEATED = "repeated texts"


def check_repeated(context: CheckContext) -> Finding | None:
    """Count test texts that are training texts, too; None without test data."""
    if context.test is None:
        return None
    train, test = _hashes(context.train), _hashes(context.test)
    known = set(train)
    count = sum(one in known for one in test)
    twice = len(train) - len(known)
    value = {"test": count, "training": twice}
    if count:
        return warn(
            REPEATED, value,
            f"{count:,} of {len(test):,} test texts are training texts as well, word for word, so scores are too good. "
            "Leave them out of one of the two.", f"{count:,}",
        )  # fmt: skip
    if twice > len(train) // 100:
        return warn(
            REPEATED, value, f"{twice:,} of {len(train):,} training texts are there more than once; no test text is "
            "among them.", f"{twice:,}",
        )  # fmt: skip
    return passed(REPEATED, value, "No test text is a training text.", "0")


def _hashes(examples: Dataset) -> list[bytes]:
    """A hash of the tokens of each text."""
    data = token_data(examples, "")
    ids, starts = data.texts.ids.numpy(), data.texts.starts
    return [
        hashlib.blake2b(ids[int(starts[i]) : int(starts[i + 1])].tobytes(), digest_size=16).digest()
        for i in text_numbers(examples).tolist()
    ]


FINGERPRINTS = "fingerprints"


def check_fingerprints(context: CheckContext) -> Finding:
    """Show the fingerprints of tokenizer, teacher and data, which name what a figure was measured with."""
    data = token_data(context.train, "training")
    value = {
        "tokenizer": hash_tokenizer(data.tokenizer),
        "teacher": context.teacher.fingerprint if context.trained else None,
        "training": context.train.fingerprint,
        "development": context.development.fingerprint,
    }
    listed = ", ".join(f"{name} {'not trained yet' if one is None else one[:12]}" for name, one in value.items())
    return passed(FINGERPRINTS, value, f"{listed}.".capitalize())


NEWS = "teacher's news"

_SECONDS, _TOKENS, _NUMBERS = 20.0, 4096, 2**26  # numbers: of logits, for one batch
_SAME = 0.01  # nats per token


class Comparison(NamedTuple):
    """A teacher beside an untrained student on the same tokens, in nats per token.

    Attributes:
        tokens: The number of tokens whose label the teacher knows.
        unknown: The share of labels that the teacher's vocabulary lacks.
        teacher: The negative log-likelihood of the teacher.
        student: That of the student before training.
        unigram: That of the frequencies of the training tokens.
        divergence: The KL divergence of the student from the teacher.
        agreement: How often both have the same most likely token.
        overlap: The share of the teacher's ten most likely tokens that are among the student's.
        mass: The student's probability of the teacher's ten most likely tokens.
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
    found = compare_with_teacher(
        new_student(context), context.teacher, context.development, unigram_log_probabilities(context.train),
        preprocess=context.preprocess, device=context.device,
    )  # fmt: skip
    return judge_news(found)


def judge_news(found: Comparison) -> Finding:
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
    lacking = f" {100 * found.unknown:.2g} % of the labels are tokens that it lacks." if found.unknown else ""
    return passed(
        NEWS, value,
        f"{beside} They agree on {100 * found.agreement:.3g} % of {found.tokens:,} tokens, and the student gives "
        f"{100 * found.mass:.3g} % to the teacher's ten most likely.{lacking}", text,
    )  # fmt: skip


def compare_with_teacher(
    student: nn.Module, teacher: Teacher, examples: Dataset, unigram: Tensor, *, preprocess: Preprocess,
    device: torch.device,
) -> Comparison:  # fmt: skip
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
    session = teacher.open(TeacherContext(device=device, preprocess=preprocess))
    with torch.no_grad(), FrozenParameters(student), session as answer:
        for batch in _small_batches(examples):
            batch = batch.to(device)
            theirs, ours = answer(batch)[LOGITS], logits_of(call(student, preprocess(batch)))
            known = _is_known(theirs, _labels(batch))
            labels += int((_labels(batch) != IGNORED).sum())
            known_labels += int(known.sum())
            batch = batch._replace(mask=known)
            both.update(ours, batch, theirs)
            alone.update(theirs, batch)
            total -= float(unigram[_labels(batch)[known].cpu()].double().sum())
            if known_labels >= _TOKENS or (known_labels and time.perf_counter() > until):
                break
    measures, own = measure_texts(both.compute()), measure_texts(alone.compute())
    return Comparison(
        known_labels, 1 - known_labels / max(labels, 1), own["nll"], measures["nll"], total / known_labels,
        measures["kl_to_teacher"], measures["agreement"], measures["top_k_overlap"], measures["top_k_mass"],
    )  # fmt: skip


def _is_known(logits: Tensor, labels: Tensor) -> Bool[Tensor, "batch positions"]:
    """Where there is a label that the teacher has."""
    at = logits.gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return (labels != IGNORED) & (at != -torch.inf)


def unigram_log_probabilities(examples: Dataset) -> Tensor:
    """The logarithm of each token's frequency among the labels, each token counted once more."""
    data = token_data(examples, "training")
    size = max(len(data.tokenizer), int(data.texts.ids.max()) + 1)
    counts = torch.ones(size, dtype=torch.float64)
    for rows in torch.arange(len(examples)).split(256):
        labels = _labels(examples.take(rows))
        counts += labels[labels != IGNORED].bincount(minlength=size)
    return (counts / counts.sum()).log()


def _draw_rows(examples: Dataset, count: int) -> Tensor:
    return counter_order(len(examples), seed=0, epoch=0, stream="doctor")[:count]


def _small_batches(examples: Dataset) -> Iterator[Batch]:
    """Batches of random rows whose logits fit into memory."""
    return (examples.take(rows) for rows in _draw_rows(examples, len(examples)).split(rows_at_once(examples)))


def rows_at_once(examples: Dataset) -> int:
    """The number of rows whose logits fit into memory several times: at most 32, at least 2."""
    data = token_data(examples, "")
    return max(2, min(32, _NUMBERS // max(data.max_length * len(data.tokenizer), 1)))


def with_small_batches(arm: CheckedArm) -> CheckedArm:
    """The arm with batches whose logits fit into memory several times, as the checks of losses need them."""
    examples = arm.loader.examples
    size = arm.loader.batch_size
    if not isinstance(examples, Dataset) or size is None or size <= rows_at_once(examples):
        return arm
    return replace(arm, loader=ShuffledLoader(examples, batch_size=rows_at_once(examples)))


def find_longest_row(examples: Dataset) -> tuple[int, int]:
    """The place of a row among 512 random ones that has the most tokens, and their number."""
    rows = _draw_rows(examples, 512)
    lengths = examples.take(rows).extra["masks"]["text"].sum(1)
    best = int(lengths.argmax())
    return int(rows[best]), int(lengths[best])
