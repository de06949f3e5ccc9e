"""Checks of language jobs: what counts, what the teacher knows, contexts, end tokens, repeated texts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from limbeck.batch import IGNORED, Batch
from limbeck.data import Dataset, ShuffledLoader, TokenDataset, hash_tokenizer
from limbeck.data.tokenizer import labels_are_inputs
from limbeck.doctor.context import CheckContext, CheckedArm, Finding, fail, passed, warn
from limbeck.engine.probe import first_line
from limbeck.metrics.predictions import rows_at_once
from limbeck.models import read_context_length
from limbeck.random_seeds import counter_order
from limbeck.tasks.language_modeling import get_token_data
from limbeck.teachers import has_other_tokenizer

TOKENS = "tokens that count"

_SHOWN, _ROOM = 2, 240  # examples, and characters of each
_LEAST_COUNTED = 0.02


def check_tokens(context: CheckContext) -> Finding:
    """Check which tokens a student learns, and show examples with these tokens in ``[[ ]]``."""
    rows = draw_rows(context.train, 64)
    batch = context.train.take(rows)
    if labels_are_inputs(batch.labels, batch.inputs):
        return fail(
            TOKENS, None,
            "The labels equal the tokens at the same positions, so a student would learn to copy. Labels are the next "
            "tokens: shift them by one, once.",
        )  # fmt: skip
    data = get_token_data(context.train, "training")
    real = batch.extra["masks"]["text"]
    counted = int((labels_that_count(batch) != IGNORED).sum())
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


def labels_that_count(batch: Batch) -> Int[Tensor, "batch positions"]:
    """The labels of a batch, -100 where masked."""
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
    labels, positions = labels_that_count(batch)[row][real].tolist(), batch.inputs["position_ids"][row][real].tolist()
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
    data = get_token_data(context.train, "training")
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
    data = get_token_data(context.train, "training")
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
    data = get_token_data(context.train, "training")
    longest = min(data.max_length, int(data.texts.lengths.max()) - 1)
    networks = context.networks
    names = [f"teacher {name}" for name in networks] if len(networks) > 1 else ["teacher"]
    models = {"student": new_student(context), **dict(zip(names, networks.values(), strict=True))}
    if has_other_tokenizer(context.teacher):  # it counts tokens of its own, and was tried when it was opened
        models = {"student": models["student"]}
    limits = {who: limit for who, model in models.items() if (limit := read_context_length(model)) is not None}
    for who, limit in limits.items():
        if limit < longest:
            return fail(
                CONTEXTS, limits,
                f"The {who} reads {limit:,} tokens at most, and windows have up to {longest:,}. Type "
                f"data.max_length={limit}.", f"{limit:,} < {longest:,}",
            )  # fmt: skip
    listed = ", ".join(f"{who} {limit:,}" for who, limit in limits.items()) or "no model states a limit"
    return passed(CONTEXTS, limits, f"Windows have up to {longest:,} tokens; contexts: {listed}.", f"{longest:,}")


SCORES = "teacher's scores"


def check_scores(context: CheckContext) -> Finding | None:
    """Check that the teacher scores the longest text of each part; None for a teacher that is not trained yet."""
    if not context.trained or has_other_tokenizer(context.teacher):  # the latter was tried when it was opened
        return None
    parts = {"training": context.train, "development": context.development}
    parts |= {} if context.test is None else {"test": context.test}
    nats: dict[str, float] = {}
    for name, examples in parts.items():
        lengths = examples.row_lengths
        row = torch.tensor([0 if lengths is None else int(lengths.argmax())])
        try:
            measures = context.task.evaluate(
                context.teacher, [examples.take(row)], preprocess=context.preprocess
            ).measures
        except Exception as error:  # models of libraries raise anything
            return fail(
                SCORES, None, f"The teacher cannot score the longest {name} text"
                f"{'' if lengths is None else f', of {int(lengths.max()):,} tokens'}: {first_line(error)}", "no scores",
            )  # fmt: skip
        nats[name] = measures["nll"]
    worst = max(nats, key=lambda name: nats[name])
    if not math.isfinite(nats[worst]):
        return fail(
            SCORES, nats, f"The longest {worst} text has the probability 0 for the teacher, or one that is no number.",
            f"{nats[worst]:.3g}",
        )  # fmt: skip
    listed = ", ".join(f"{value:.3g} for {name}" for name, value in nats.items())
    return passed(SCORES, nats, f"It scores the longest texts; nats per token: {listed}.", f"{nats['training']:.3g}")


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
    data = get_token_data(examples, "")
    ids, starts = data.texts.ids.numpy(), data.texts.starts
    return [
        hashlib.blake2b(ids[int(starts[i]) : int(starts[i + 1])].tobytes(), digest_size=16).digest()
        for i in text_numbers(examples).tolist()
    ]


FINGERPRINTS = "fingerprints"


def check_fingerprints(context: CheckContext) -> Finding:
    """Show the fingerprints of tokenizer, teacher and data, which name what a figure was measured with."""
    data = get_token_data(context.train, "training")
    value = {
        "tokenizer": hash_tokenizer(data.tokenizer),
        "teacher": context.teacher.fingerprint if context.trained else None,
        "training": context.train.fingerprint,
        "development": context.development.fingerprint,
    }
    listed = ", ".join(f"{name} {'not trained yet' if one is None else one[:12]}" for name, one in value.items())
    return passed(FINGERPRINTS, value, f"{listed}.".capitalize())


def draw_rows(examples: Dataset, count: int) -> Int[Tensor, " rows"]:
    """Draw rows at random, the same ones every time."""
    return counter_order(len(examples), seed=0, epoch=0, stream="doctor")[:count]


def small_batches(examples: Dataset) -> Iterator[Batch]:
    """Batches of random rows whose logits fit into memory."""
    return (examples.take(rows) for rows in draw_rows(examples, len(examples)).split(few_rows_at_once(examples)))


def few_rows_at_once(examples: Dataset) -> int:
    """The number of rows whose logits fit into memory several times: at most 32, at least 2."""
    return max(2, rows_at_once(examples, most=32))


def with_small_batches(arm: CheckedArm) -> CheckedArm:
    """The arm with batches whose logits fit into memory several times, as the checks of losses need them."""
    examples = arm.loader.examples
    size = arm.loader.batch_size
    if not isinstance(examples, Dataset) or size is None or size <= few_rows_at_once(examples):
        return arm
    return replace(arm, loader=ShuffledLoader(examples, batch_size=few_rows_at_once(examples)))


def find_longest_row(examples: Dataset) -> tuple[int, int]:
    """The place of a row among 512 random ones that has the most tokens, and their number."""
    rows = draw_rows(examples, 512)
    lengths = examples.take(rows).extra["masks"]["text"].sum(1)
    best = int(lengths.argmax())
    return int(rows[best]), int(lengths[best])
