"""`plan`: the size, the time and the error of a teacher's cache, before it is built."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from limbeck.batch import LOGITS, Batch
from limbeck.cache import Encoding, encoding, kl_error, make_encoding
from limbeck.compare.comparison_data import ComparisonData
from limbeck.compare.teacher_cache import load_data_and_teacher, make_cache_loader, open_cached_teacher, views_of
from limbeck.engine import open_fabric
from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence
from limbeck.job import CacheSettings, Job
from limbeck.teachers import Teacher, TeacherContext, TeacherFn
from limbeck.teachers.cache_request import stored_positions
from limbeck.top_k_logits import TopKLogits

_SAMPLE = 512
_NUMBERS = 1 << 25
_BATCHES = 8  # of a served teacher, whose answers are paid for
_KEPT = (8, 16, 32, 64, 128)


class Estimate(NamedTuple):
    """The size and the error of a cache with one encoding.

    Attributes:
        encoding: The encoding's name and parameters.
        bytes: Bytes for one output, keys included.
        total: Bytes for all outputs.
        error: The mean KL in nats from the teacher's outputs to the stored ones; infinite for an encoding that draws
            classes at random, which has noise but no bias.
    """

    encoding: dict[str, Any]
    bytes: int
    total: int
    error: float


class CachePlan(NamedTuple):
    """The size and the time of a teacher cache.

    Attributes:
        answers: Number of outputs.
        views: Number of views of each example.
        seconds: Estimated time of the teacher for all outputs on this machine.
        sample: Number of examples for the errors.
        estimates: Size and error for each encoding.
        tokens: Average number of tokens of an output; None if all outputs have one shape.
    """

    answers: int
    views: int
    seconds: float
    sample: int
    estimates: list[Estimate]
    tokens: float | None = None


def plan(job: Job) -> CachePlan:
    """Estimate size and time of a cache from the teacher's outputs for a few examples.

    Raises:
        LimbeckError: If the teacher has no weights yet.
    """
    material, teacher = load_data_and_teacher(job)
    if teacher.capabilities.partial:
        return _plan_listed(job, material, teacher)
    sample = _sample_outputs(job, material, teacher)
    answers, keys = views_of(job) * len(material.train), 24 if sample.is_ragged else 16
    each = len(sample.rows) / sample.examples
    rows = sample.rows[: max(_NUMBERS // sample.rows.shape[-1], 1)]
    estimates = [
        Estimate(one.spec, size := round(one.width * each) + keys, size * answers, kl_error(one, rows))
        for one in _choices(rows.shape[-1], (job.cache or CacheSettings()).encoding or "float16")
    ]
    tokens = each if sample.is_ragged else None
    return CachePlan(answers, views_of(job), sample.pace * answers, sample.examples, estimates, tokens)


def _plan_listed(job: Job, material: ComparisonData, teacher: Teacher) -> CachePlan:
    """The plan for a teacher that lists some tokens, which can be stored in its own encoding alone."""
    (store,) = open_cached_teacher(job, teacher, material.task, "").values()
    inner, began, examples, tokens, error = store.inner, time.perf_counter(), 0, 0, 0.0
    if inner is None:
        raise LimbeckError("A plan needs the teacher.")
    with inner.open(TeacherContext(preprocess=material.data.preprocess)) as answer:
        for batch in islice(make_cache_loader(job, material, shuffled=0).batches(0, 0), _BATCHES):
            counted = stored_positions(batch)
            rows = answer(batch).partial[LOGITS]
            rows = rows.reshape(-1) if counted is None else rows[counted]
            own = encoding(store.encoding, classes=rows.shape[-1])
            zeros = torch.zeros(len(rows), dtype=torch.int64)
            stored = own.decode(own.encode(rows, id=zeros, view=zeros, position=zeros))
            examples, tokens = examples + batch.size, tokens + len(rows)
            error += float(kl_divergence(*(_sorted_buckets(one) for one in (stored, rows))).sum())
    answers, each = views_of(job) * len(material.train), tokens / examples
    size = round(own.width * each) + 24
    seconds = (time.perf_counter() - began) / examples * answers
    estimate = Estimate(own.spec, size, size * answers, error / max(tokens, 1))
    return CachePlan(answers, views_of(job), seconds, examples, [estimate], each)


def _sorted_buckets(listed: Any) -> Tensor:
    """The logits of the listed tokens in the order of their ids, and of the rest."""
    if not isinstance(listed, TopKLogits):
        raise LimbeckError(f"{type(listed).__name__} list no tokens.")
    buckets = listed.coarse()
    return torch.cat([buckets[..., :-1].gather(-1, listed.ids.argsort(-1)), buckets[..., -1:]], -1)


class _OutputSample(NamedTuple):
    """Rows of logits of some examples, the seconds that an example takes, and whether examples differ in their rows."""

    rows: Tensor
    examples: int
    pace: float
    is_ragged: bool


def _sample_outputs(job: Job, material: ComparisonData, teacher: Teacher) -> _OutputSample:
    """Some outputs: of enough examples, or of fewer where these have many numbers."""
    fabric = open_fabric(precision=job.precision, devices=1)
    device = fabric.device
    with (
        fabric.autocast(),
        teacher.open(TeacherContext(device=device, preprocess=material.data.preprocess)) as answer,
    ):
        batches = make_cache_loader(job, material, shuffled=0).batches(0, 0)
        first = next(batches)
        rows = [_rows(answer, first, device)]  # the first call of a model is slower than the others
        began, count = time.perf_counter(), 0
        for batch in batches:
            if count and (first.size + count >= _SAMPLE or sum(part.numel() for part in rows) >= _NUMBERS):
                break
            rows.append(_rows(answer, batch, device))
            count += batch.size
        if not count:  # there is only one batch
            _ = answer(first.to(device))
        pace = (time.perf_counter() - began) / (count or first.size)
    return _OutputSample(torch.cat(rows), first.size + count, pace, stored_positions(first) is not None)


def _rows(answer: TeacherFn, batch: Batch, device: torch.device) -> Tensor:
    """The rows of logits that are stored for a batch."""
    logits, counted = answer(batch.to(device))[LOGITS], stored_positions(batch)
    rows = logits if counted is None else logits[counted.to(logits.device)]
    return rows.reshape(-1, rows.shape[-1]).float().cpu()


def _choices(classes: int, settings: str | Mapping[str, Any]) -> list[Encoding]:
    every = [make_encoding(name, classes=classes) for name in ("float32", "float16", "quantized")]
    top = [make_encoding("top-k", classes=classes, k=k) for k in _KEPT if k <= classes // 2]
    drawn = [make_encoding("sampled", classes=classes, draws=k) for k in _KEPT if k <= classes // 2][:2]
    own = encoding(settings, classes=classes)
    encodings = [*every, *top, *drawn]
    return encodings if own.spec in [one.spec for one in encodings] else [*encodings, own]
