"""Helpers: outputs that the tests of the cache store and read."""

from __future__ import annotations

import numpy as np
import torch

from limbeck.cache import CacheReader, Column, Keys, Location, TeacherProvenance, make_encoding, open_writer

CLASSES = 5
COLUMN = Column(make_encoding("float32", classes=CLASSES))
ORIGIN = TeacherProvenance("teacher", "data", None, "preprocess", "float32", {"logits": COLUMN.spec})


def answers(ids, view=-1):
    """What the teacher of these tests says of an example: numbers that no other view of an example has."""
    base = torch.as_tensor(ids, dtype=torch.float32) * 10 + view
    return base[:, None] + torch.arange(CLASSES)


def keys(ids, view=-1):
    return Keys(np.asarray(ids, np.int64), np.full(len(ids), view, np.int64))


def add(writer, ids, view=-1):
    id, views = torch.as_tensor(ids), torch.full((len(ids),), view)
    writer.append(keys(ids, view), {"logits": COLUMN.encode(answers(ids, view), id=id, view=views)})


def read(store, ids, view=-1):
    rows = store.rows(np.asarray(ids, np.int64), view)
    assert (rows >= 0).all()
    return store.read(rows, "logits")


def filled(folder, batches=((3, 0), (1, 4), (2, 5)), *, shard_bytes=1, view=-1):
    with open_writer(Location(folder), ORIGIN, shard_bytes=shard_bytes) as writer:
        for batch in batches:
            add(writer, batch, view)
    return CacheReader(folder)
