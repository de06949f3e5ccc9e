"""Rows are found at every kind of id, as quickly among many views as among few."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

from limbeck.cache import Column, Keys, Location, TeacherProvenance, open_writer
from limbeck.cache.encodings import make_encoding
from limbeck.cache.shard import Index

RANDOM = np.random.default_rng(0)
IDS = {
    "from 0": np.arange(50),
    "from a large number": np.arange(50) + 2**40,
    "below 0": np.arange(50) - 20,
    "anywhere": RANDOM.integers(-(2**63), 2**63, 50, dtype=np.int64),
    "every millionth": np.arange(50) * 1_000_000,
}


def by_hand(keys: Keys, id, view):
    found = {}
    for row, pair in enumerate(zip(keys.id.tolist(), keys.view.tolist(), strict=True)):
        found.setdefault(pair, row)
    return [found.get(pair, -1) for pair in zip(id.tolist(), view.tolist(), strict=True)]


@pytest.mark.parametrize("views", [np.array([-1]), np.arange(-1, 6), np.array([0, 3, 2**40])], ids=str)
@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_it_finds_what_a_dictionary_finds(ids, views):
    id, view = (part.ravel() for part in np.meshgrid(ids, views))
    kept = RANDOM.permutation(len(id))[: max(len(id) * 3 // 4, 1)]
    kept = np.concatenate([kept, kept[:3]])  # some are there twice
    keys = Keys(id[kept], view[kept])
    index = Index(keys)
    asked_id = np.concatenate([id, id + 1, np.array([-(2**63), 2**63 - 1])])
    asked_view = np.concatenate([view, view, np.array([0, 0])])
    assert index.rows(asked_id, asked_view).tolist() == by_hand(keys, asked_id, asked_view)
    for one in (-1, 0, 3, 7, 2**50):
        assert index.rows(asked_id, one).tolist() == by_hand(keys, asked_id, np.full(len(asked_id), one))


def test_nothing_is_detected_in_nothing():
    none = np.empty(0, np.int64)
    assert Index(Keys(none, none)).rows(np.array([0, -1]), 0).tolist() == [-1, -1]
    assert Index(Keys(np.array([7]), np.array([0]))).rows(none, 0).tolist() == []


@pytest.mark.parametrize("ids", [IDS["from a large number"], IDS["anywhere"]], ids=["from a large number", "anywhere"])
def test_many_views_cost_a_look_up_nothing(ids):
    seconds = []
    for views in (10, 2_000):
        id, view = (part.ravel() for part in np.meshgrid(ids, np.arange(views)))
        index, asked = Index(Keys(id, view)), RANDOM.choice(ids, 256)
        index.rows(asked, 1)
        runs = []
        for _ in range(30):
            began = time.process_time()
            index.rows(asked, views - 1)
            runs.append(time.process_time() - began)
        seconds.append(min(runs))
    assert seconds[1] < 10 * seconds[0]


def test_a_writer_knows_what_it_holds_in_a_few_bytes_a_row(tmp_path):
    column = Column(make_encoding("float16", classes=1))
    origin = TeacherProvenance("t", "d", None, None, "float32", {"logits": column.spec})
    rows, batch = 100_000, 1_000
    with open_writer(Location(str(tmp_path)), origin) as writer:
        tracemalloc.start()
        for start in range(0, rows, batch):
            id = np.arange(start, start + batch) * 3 + 2**40
            writer.append(Keys(id, np.full(batch, start % 2)), {"logits": np.zeros((batch, column.width), np.uint8)})
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        asked = np.array([0, 1, 3, 3 * 99_999]) + 2**40
        assert writer.holds(asked, np.zeros(4, np.int64)).tolist() == [True, False, True, True]
        assert writer.holds(asked, np.ones(4, np.int64)).tolist() == [False] * 4
    assert held < 40 * rows  # keys are 16 bytes of it, and records 2
