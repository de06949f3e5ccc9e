"""The plan of a cache: examples, views, bytes, seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from limbeck.batch import LOGITS
from limbeck.cache import Encoding, encoding, kl_error, make_encoding
from limbeck.compare.build_cache import load_data_and_teacher, make_cache_loader
from limbeck.compare.comparison_data import ComparisonData
from limbeck.compare.teacher_cache import views_of
from limbeck.engine import open_fabric
from limbeck.job import CacheSettings, Job
from limbeck.teachers import Teacher

_SAMPLE = 512
_KEPT = (8, 16, 32, 64, 128)


class Estimate(NamedTuple):
    """What keeping a teacher's answers in one encoding would take.

    Attributes:
        encoding: Its name and parameters.
        bytes: Of one answer, keys and all.
        total: Of all answers.
        error: The mean KL in nats of the teacher to what is read back; infinite for what is drawn at random, which has
            no bias but noise.
    """

    encoding: dict[str, Any]
    bytes: int
    total: int
    error: float


class CachePlan(NamedTuple):
    """What keeping a teacher's answers would take.

    Attributes:
        answers: How many there are.
        views: In how many views of each example.
        seconds: About how long the teacher takes for them on this machine.
        sample: On how many examples the errors were measured.
        estimates: For each encoding.
    """

    answers: int
    views: int
    seconds: float
    sample: int
    estimates: list[Estimate]


def plan(job: Job) -> CachePlan:
    """Ask the teacher about a few examples, and say what all would take, before anything is paid for.

    Raises:
        LimbeckError: If the teacher has no weights yet.
    """
    material, teacher = load_data_and_teacher(job)
    logits, pace = _sampled(job, material, teacher)
    answers = views_of(job) * len(material.train)
    rows = logits.reshape(-1, logits.shape[-1])
    each = len(rows) // len(logits)
    estimates = [
        Estimate(one.spec, size := one.width * each + 16, size * answers, kl_error(one, rows))
        for one in _choices(logits.shape[-1], (job.cache or CacheSettings()).encoding)
    ]
    return CachePlan(answers, views_of(job), pace * answers, len(logits), estimates)


def _sampled(job: Job, material: ComparisonData, teacher: Teacher) -> tuple[Tensor, float]:
    """Some answers, and the seconds that one of them took."""
    fabric = open_fabric(precision=job.precision, devices=1)
    preprocess, device = material.data.preprocess, fabric.device
    logits = list[Tensor]()
    with (
        fabric.autocast(),
        teacher.prepare(frozenset({LOGITS}), device=device, preprocess=preprocess) as answer,
    ):
        batches = make_cache_loader(job, material, shuffled=0).batches(0, 0)
        first = next(batches)
        logits.append(
            answer(first.to(device))[LOGITS].float().cpu()
        )  # the first call of a model is not like the others
        began, count = time.perf_counter(), 0
        for batch in batches:
            if count and sum(map(len, logits)) >= _SAMPLE:
                break
            logits.append(answer(batch.to(device))[LOGITS].float().cpu())
            count += batch.size
        if not count:  # there is but one batch
            _ = answer(first.to(device))
            count = first.size
        pace = (time.perf_counter() - began) / count
    return torch.cat(logits), pace


def _choices(classes: int, settings: str | Mapping[str, Any]) -> list[Encoding]:
    every = [make_encoding(name, classes=classes) for name in ("float32", "float16", "quantized")]
    top = [make_encoding("top-k", classes=classes, k=k) for k in _KEPT if k <= classes // 2]
    drawn = [make_encoding("sampled", classes=classes, draws=k) for k in _KEPT if k <= classes // 2][:2]
    own = encoding(settings, classes=classes)
    encodings = [*every, *top, *drawn]
    return encodings if own.spec in [one.spec for one in encodings] else [*encodings, own]
