"""Read speed of the cache, detection of damaged files, and equality with the model's outputs."""

from __future__ import annotations

import statistics
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.workload import Sizes, make_work
from limbeck.cache import CacheReader, Column, Keys, Location, TeacherProvenance, make_encoding, open_writer
from limbeck.data import ShuffledLoader
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence
from limbeck.losses import Loss
from limbeck.recipe import Optimizer, Stage
from limbeck.teachers import (
    CachedTeacher,
    FunctionSession,
    ModelTeacher,
    Teacher,
    TeacherContext,
    TeacherSession,
    predict_padded,
)


def gather_over_memmap(folder: Path, *, rows: int, preprocess: int) -> float:
    """The speed of reading 256 random rows of a cache, relative to numpy.

    It reads in turn by ids from the cache, and the same rows of a `numpy.memmap` of the same bytes.
    """
    encoding = make_encoding("top-k", classes=1000, k=100)
    column = Column(encoding)
    origin = TeacherProvenance("bench", "bench", None, None, "float32", {"logits": column.spec})
    rng = np.random.default_rng(0)
    records = rng.integers(0, 256, (rows, encoding.width), dtype=np.uint8)
    with open_writer(Location(folder / "gather"), origin) as writer:
        writer.append(Keys(np.arange(rows), np.full(rows, -1)), {"logits": records})
    records.tofile(folder / "plain.bin")
    plain = np.memmap(folder / "plain.bin", dtype=np.uint8, mode="r", shape=records.shape)
    store = CacheReader(folder / "gather")
    id_batches = [rng.integers(0, rows, 256) for _ in range(preprocess)]
    for ids in islice(id_batches, 200):  # checks the shard; both are in the page cache afterwards
        store.records(store.rows(ids, -1), "logits"), plain[ids]
    ours, theirs = [], []
    for ids in id_batches:
        began = time.perf_counter()
        store.records(store.rows(ids, -1), "logits")
        between = time.perf_counter()
        plain[ids]
        theirs.append(time.perf_counter() - between)
        ours.append(between - began)
    return round(statistics.median(theirs) / statistics.median(ours), 4)


def corruptions_read_as_good(folder: Path, *, flips: int) -> int:
    """The number of single flipped bytes, anywhere in a small cache, that are not detected."""
    column = Column(make_encoding("float16", classes=10))
    origin = TeacherProvenance("bench", "bench", None, None, "float32", {"logits": column.spec})
    ids, place = torch.arange(30), folder / "flips"
    with open_writer(Location(place), origin, shard_bytes=200) as writer:
        for part in ids.split(10):
            views = torch.full_like(part, -1)
            rows = column.encode(torch.randn(len(part), 10), id=part, view=views)
            writer.append(Keys(part.numpy(), views.numpy()), {"logits": rows})
    files = sorted(path for path in place.rglob("*") if path.is_file())
    rng, good = np.random.default_rng(0), 0
    for _ in range(flips):
        path = files[rng.integers(len(files))]
        original = path.read_bytes()
        damaged = bytearray(original)
        damaged[rng.integers(len(original))] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        good += _preprocess(place, ids.numpy())
        path.write_bytes(original)
    return good


def _preprocess(place: Path, ids: np.ndarray) -> bool:
    try:
        store = CacheReader(place)
        store.read(store.rows(ids, -1), "logits")
        return True
    except LimbeckError:
        return False


def identical_to_live(folder: Path) -> bool:
    """Whether a student of cached float32 outputs ends with bitwise the same weights as with the model.

    Both teachers compute full batches: the last one of an epoch is padded.
    """
    work = make_work(Sizes(examples=1000, inputs=64, teacher=128, student=64, batch=128))

    def student(teacher: Any) -> Tensor:
        torch.manual_seed(0)
        stage = Stage(Loss(kl_divergence, temperature=4.0), teacher=teacher, epochs=3)
        stream = ShuffledLoader(work.examples, batch_size=128)
        run = distill(work.student(), stage, stream, accelerator="cpu", optimizer=Optimizer(lr=1e-3)).finish()
        return nn.utils.parameters_to_vector(run.student.parameters()).detach()

    live = student(_Whole(work.teacher, 128))
    students = [student(CachedTeacher(work.teacher, folder / "same", encoding="float32")) for _ in range(2)]
    return all(torch.equal(one, live) for one in students)


class _Whole(Teacher):
    """A teacher model that runs in batches of one size."""

    def __init__(self, model: nn.Module, size: int) -> None:
        self._live, self._size = ModelTeacher(model), size

    def open(self, context: TeacherContext) -> TeacherSession:
        """Open the teacher model."""
        session = self._live.open(context)
        return FunctionSession(lambda batch: predict_padded(session, batch, self._size), within=session)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the teacher model."""
        return self._live.fingerprint
