"""The cache returns what was stored, in any order and shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cache.stored import CLASSES, COLUMN, ORIGIN, add, answers, filled, read
from limbeck.cache import CacheReader, Column, Keys, Location, make_encoding, open_writer
from limbeck.cache.shard import Index
from limbeck.errors import LimbeckError

# --- what was put in comes back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard_bytes", [1, 45, 10**9])
def test_answers_are_detected_by_example_in_any_order(tmp_path, shard_bytes):
    store = filled(tmp_path / "s", shard_bytes=shard_bytes)
    assert len(store) == 6
    for wanted in ([0, 1, 2, 3, 4, 5], [5, 5, 0], [2]):
        assert torch.equal(read(store, wanted), answers(wanted))
    assert store.rows(np.array([6, -1, 0, 10**12]), -1).tolist()[:2] == [-1, -1]
    assert store.rows(np.array([6, -1, 0, 10**12]), -1)[3] == -1
    assert (store.rows(np.array([0, 1]), 0) == -1).all()
    assert store.verify() == []


def test_every_view_has_an_answer_of_its_own(tmp_path):
    folder = tmp_path / "s"
    with open_writer(Location(folder), ORIGIN, shard_bytes=50) as writer:
        for view in (0, 1, 7):
            add(writer, [0, 1, 2], view)
    store = CacheReader(folder)
    for view in (0, 1, 7):
        assert torch.equal(read(store, [2, 0], view), answers([2, 0], view))
    mixed = store.rows(np.array([0, 1, 2, 2]), np.array([7, 0, 1, 5]))
    assert mixed[-1] == -1
    assert torch.equal(store.read(mixed[:3], "logits")[:, 0], torch.tensor([7.0, 10.0, 21.0]))


def test_ids_of_any_kind_are_detected():
    rng = np.random.default_rng(0)
    ids = rng.choice(2**62, 300, replace=False) - 2**61
    views = np.arange(300) % 3
    index = Index(Keys(ids, views))
    order = rng.permutation(300)
    assert (index.rows(ids[order], views[order]) == order).all()
    assert (index.rows(ids, views + 1) == -1).all()
    assert (index.rows(ids + 1, views) == -1).all()
    many = Index(Keys(np.repeat(ids[:10], 30), np.tile(np.arange(30), 10)))
    assert (many.rows(np.repeat(ids[:10], 30), np.tile(np.arange(30), 10)) == np.arange(300)).all()
    assert (many.rows(ids[:10], 29) == np.arange(29, 300, 30)).all()


@pytest.mark.parametrize("far", [0, 2**40])
def test_of_an_answer_that_is_there_twice_the_first_counts(far):
    index = Index(Keys(np.array([4, 2, 4]) + far, np.array([-1, -1, -1])))
    assert index.rows(np.array([4, 2]) + far, -1).tolist() == [0, 1]


def test_texts_of_different_lengths_take_no_room_beyond_their_own(tmp_path):
    column = Column(make_encoding("float32", classes=3), None)
    origin = replace(ORIGIN, outputs={"logits": column.spec})
    lengths = torch.tensor([2, 5, 1, 4])
    whole = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    counted = torch.arange(5) < lengths[:, None]
    with open_writer(Location(tmp_path / "s"), origin, shard_bytes=1) as writer:
        for batch in ([2, 0], [1, 3]):
            id = torch.tensor(batch)
            found = column.encode(whole[id], id=id, view=torch.full_like(id, -1), counted=counted[id])
            assert len(found) == lengths[id].sum()
            writer.append(Keys(id.numpy(), np.full(2, -1), lengths[id].numpy()), {"logits": found})
    store = CacheReader(tmp_path / "s")
    for wanted in ([0, 1, 2, 3], [3, 2], [1, 1, 0]):
        rows = store.rows(np.array(wanted), -1)
        right = np.arange(6) < lengths[wanted].numpy()[:, None]
        found = store.read(rows, "logits", counted=right)
        assert found.shape == (len(wanted), 6, 3)
        for place, example in enumerate(wanted):
            assert torch.equal(found[place, : lengths[example]], whole[example, : lengths[example]])
        scattered = np.flip(right, 1).copy()
        assert torch.equal(store.read(rows, "logits", counted=scattered)[scattered], found[right])
    with pytest.raises(LimbeckError, match="other lengths"):
        store.read(store.rows(np.array([0]), -1), "logits", counted=np.ones((1, 3), bool))
    assert store.read(store.rows(np.array([0, 2]), -1), "logits").shape == (2, 2, 3)


def test_other_shapes_and_dimensions_come_back(tmp_path):
    maps = torch.randn(2, 4, 3, 6)
    for column in (
        Column(make_encoding("float32", classes=4), (3, 6), (), 1),
        Column(make_encoding("float32", classes=72), (), (), -1, (4, 3, 6)),
    ):
        id = torch.arange(2)
        records = column.encode(maps, id=id, view=id * 0)
        assert records.shape == (2, column.width)
        assert torch.equal(column.decode(records, (2,)), maps)
        assert Column.from_spec(column.spec) == column or Column.from_spec(column.spec).spec == column.spec
    with pytest.raises(LimbeckError, match=r"\[7\] positions.* \[\]"):
        COLUMN.encode(torch.zeros(2, 7, CLASSES), id=id, view=id)


def test_an_address_that_fsspec_opens_is_as_good(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "mirror"))
    address = f"memory://{tmp_path.name}/answers"
    store = filled(address)
    assert torch.equal(read(store, [5, 0]), answers([5, 0]))
    with open_writer(Location(address), ORIGIN, shard_bytes=1) as writer:
        add(writer, [6])
    (tmp_path / "mirror").rename(tmp_path / "gone")  # another machine, which has fetched nothing yet
    store = CacheReader(address)
    assert torch.equal(read(store, [6, 1]), answers([6, 1]))
    fetched = next((tmp_path / "mirror").rglob("000000.safetensors"))
    fetched.write_bytes(fetched.read_bytes()[:-1] + b"x")
    assert torch.equal(read(CacheReader(address), [3]), answers([3]))  # fetched again
    with pytest.raises(LimbeckError, match="no address that fsspec can open"):
        Location("nosuch://bucket/answers")


def test_what_was_waited_for_too_long_becomes_a_file(tmp_path):
    with open_writer(Location(tmp_path / "s"), ORIGIN, patience=0.0) as writer:
        for first in (0, 2):
            add(writer, [first, first + 1])
            assert len(CacheReader(tmp_path / "s")) == first + 2
