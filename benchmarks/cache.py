"""Benchmark of cached teacher outputs: time of a step, time to fill the cache, bytes and errors."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.cache_checks import corruptions_read_as_good, gather_over_memmap, identical_to_live
from benchmarks.encodings import encoding_figures
from benchmarks.interleave import interleave_starts, paired_quartiles, paired_ratio
from benchmarks.workload import Network, Sizes, Work, check_counts, make_work
from limbeck.data import ShuffledLoader
from limbeck.engine import distill
from limbeck.errors import LimbeckWarning
from limbeck.methods import make
from limbeck.recipe import Optimizer, Recipe
from limbeck.teachers import CachedTeacher, Ensemble, Teacher, TeacherContext, fill_cache

FORWARDS = 20
"""Cost of the teacher's forward pass, in forward passes of the student."""


@dataclass(frozen=True)
class CacheScale:
    """The sizes of the benchmark; the defaults are those of the figures in the documentation.

    Attributes:
        steps: Timed steps of each loop.
        block: Steps in a block.
        gathers: Timed reads of 256 rows.
        rows: Number of rows in the cache that is read.
        flips: Number of damaged bytes.
        examples: Number of training examples.
    """

    steps: int = 2000
    block: int = 25
    gathers: int = 2000
    rows: int = 1_000_000
    flips: int = 1000
    examples: int = 60_000

    def __post_init__(self) -> None:
        check_counts(self)


def bench_cache(*, scale: CacheScale | None = None, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Time training with a cache, without a teacher and with a teacher model; test the checks of the cache.

    All loops run in one process, block by block in turn.

    Args:
        scale: The sizes.
        say: Gets messages about the progress.

    Returns:
        ``cached_step_over_plain_step``: a step with a cached teacher over a step on labels alone, and its
        ``quartiles`` over pairs of blocks; ``cached_epoch_over_live_epoch``: over a step with a live teacher that
        costs 20 forward passes of the student; ``gather_over_memmap``: the rate of reading 256 rows at random, by
        their ids, over numpy's fancy indexing of the same bytes; ``build_over_teacher_forward``: the time to fill a
        cache over that of the forward passes alone; ``corruptions_read_as_good``: flipped bytes that were not detected,
        out of ``flips``; ``identical_to_live``: whether a student of cached float32 outputs has bitwise the same
        weights; ``milliseconds``: the time of each loop's step; and the figures of `encoding_figures`.
    """
    size = scale or CacheScale()
    with _scratch() as folder:
        work = make_work(Sizes(examples=size.examples))
        figures: dict[str, Any] = {}
        say("steps: on labels alone, with stored answers, with a live teacher")
        figures |= _steps(work, size, folder)
        say("building a store, beside the teacher's forward passes alone")
        figures["build_over_teacher_forward"] = _building(work, folder)
        say(f"reading 256 of {size.rows:,} rows at random, beside numpy")
        figures["gather_over_memmap"] = gather_over_memmap(folder, rows=size.rows, preprocess=size.gathers)
        say(f"flipping {size.flips:,} bytes, one at a time")
        figures["corruptions_read_as_good"] = corruptions_read_as_good(folder, flips=size.flips)
        say("a student of stored float32 answers beside the live teacher's")
        figures["identical_to_live"] = identical_to_live(folder)
        say("bytes and errors of encodings, on the answers of language models trained on the spot")
        figures |= encoding_figures()
        return figures | {"flips": size.flips, "threads": torch.get_num_threads(), "torch": torch.__version__}


@contextmanager
def _scratch() -> Iterator[Path]:
    """A temporary folder, without warnings that the teachers are at chance level: they are not trained."""
    folder = Path(tempfile.mkdtemp(prefix="limbeck-bench-"))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The teacher's accuracy is", LimbeckWarning)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _teacher(work: Work) -> Ensemble:
    """Twenty networks of the student's shape, so that a forward pass costs twenty of the student's."""
    size = work.sizes
    return Ensemble(*(Network(size.inputs, size.student, size.classes).eval() for _ in range(FORWARDS)))


def _steps(work: Work, scale: CacheScale, folder: Path) -> dict[str, Any]:
    teacher = _teacher(work)
    cached = CachedTeacher(teacher, folder / "steps")
    for _ in fill_cache(cached, work.make_loader()):
        pass
    rounds = max(scale.steps // scale.block, 1)
    plain, live = (partial(_blocks, work, recipe, scale) for recipe in (make("supervised"), _soft(teacher)))
    cached_blocks = partial(_blocks, work, _soft(CachedTeacher(teacher, folder / "steps")), scale)
    near = interleave_starts({"plain": plain, "cached": cached_blocks}, rounds=rounds)
    far = interleave_starts({"cached": cached_blocks, "live": live}, rounds=max(rounds // 20, 2))
    median = {name: statistics.median(figures.wall) for name, figures in (near | {"live": far["live"]}).items()}
    return {
        "cached_step_over_plain_step": round(paired_ratio(near["cached"].wall, near["plain"].wall), 4),
        "quartiles": [round(one, 4) for one in paired_quartiles(near["cached"].wall, near["plain"].wall)],
        "cached_epoch_over_live_epoch": round(paired_ratio(far["cached"].wall, far["live"].wall), 4),
        "milliseconds": {name: round(1000 * value / scale.block, 3) for name, value in median.items()},
    }


def _soft(teacher: Teacher) -> Recipe:
    return make("hinton", teacher=teacher)


def _blocks(work: Work, recipe: Recipe, scale: CacheScale, blocks: int) -> Iterator[float]:
    run = distill(
        work.student(), recipe, work.make_loader(), log_every=scale.block, accelerator="cpu",
        steps=scale.block * blocks, optimizer=Optimizer(lr=1e-3),
    )  # fmt: skip
    for report in run:
        yield report.loss


def _building(work: Work, folder: Path) -> float:
    """The time to fill a cache, with its start and end, over that of the forward passes, batch by batch in turn."""
    teacher, loader = _teacher(work), work.make_loader()
    loops = {"ask": _asking(teacher, loader), "build": fill_cache(CachedTeacher(teacher, folder / "build"), loader)}
    times = dict.fromkeys(loops, 0.0)
    while loops:
        for name, loop in list(loops.items()):
            began = time.perf_counter()
            if next(loop, None) is None:
                del loops[name]
            times[name] += time.perf_counter() - began
    return round(times["build"] / times["ask"], 4)


def _asking(teacher: Teacher, loader: ShuffledLoader) -> Iterator[int]:
    with teacher.open(TeacherContext()) as answer:
        for batch in loader.batches(0, 0):
            answer(batch)
            yield batch.size
