"""Every image of a job decoded once before training."""

from __future__ import annotations

import time

from limbeck.compare.comparison_data import ComparisonData
from limbeck.data import Dataset, Subset, counter_order, verify
from limbeck.doctor import Finding, fail, passed, warn
from limbeck.errors import DataError
from limbeck.events import Callback, ImagesDecoded, Message

_MANY = 2000
"""So many pictures are decoded before anybody wonders what is going on."""
_CHUNK = 256


def verify_files(material: ComparisonData, callback: Callback) -> None:
    """Decode what is learnt from, chosen by and tested with, where it lies in files.

    Args:
        material: The data.
        callback: Receives a `Message` before and after, and `ImagesDecoded` in between.

    Raises:
        DataError: If some are damaged: how many, and the first of them.
    """
    parts = _parts(material)
    count, began = sum(map(len, parts)), time.perf_counter()
    if count > _MANY:
        threads = f"data.num_workers={parts[0].num_workers}"
        callback(Message(f"Decoding all {count:,} images once: a damaged one would stop the job later ({threads})."))
    verify(parts, progress=lambda done, of: callback(ImagesDecoded(done, of)))
    if count:
        callback(Message(f"All {count:,} pictures can be decoded ({time.perf_counter() - began:.1f} s)."))


def look_at_files(material: ComparisonData, *, seconds: float) -> Finding | None:
    """The same for a doctor who has so many seconds: what there is time for, drawn at random; None without files."""
    parts = _parts(material)
    if not parts:
        return None
    chunks, done = _chunks(parts), 0
    total, until = sum(map(len, parts)), time.perf_counter() + seconds
    for chunk in chunks:
        try:
            verify([chunk])
        except DataError as error:
            return fail("files", done, str(error), "damaged")
        done += len(chunk)
        if time.perf_counter() > until:
            break
    if done < total:
        sentence = (
            "drawn at random, can be decoded; there was no time for the others. A job decodes all before it trains."
        )
        return warn("files", done, f"{done:,} of {total:,} pictures, {sentence}", f"{done:,}")
    return passed("files", done, "Every picture can be decoded, those to test with too.", f"{done:,}")


def _parts(material: ComparisonData) -> list[Dataset]:
    return [part for part in (material.data.test, material.development, material.train) if part.reads_files]


def _chunks(parts: list[Dataset]) -> list[Subset]:
    """Some examples at a time, in random order within each part: small parts first."""
    chunks = []
    for part in sorted(parts, key=len):
        order = counter_order(len(part), seed=0, epoch=0, stream="files")
        chunks += [part.select(index) for index in order.split(_CHUNK)]
    return chunks
