"""Outputs that are decoded in memory equal those on disk."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.cache import (
    CacheReader,
    Column,
    DecodedTable,
    Keys,
    Location,
    TeacherProvenance,
    make_encoding,
    open_writer,
)
from limbeck.errors import DataError


def build(folder, ids, views=-1, column=None, shard_bytes=1 << 20):
    column = Column(make_encoding("float16", classes=5)) if column is None else column
    origin = TeacherProvenance("teacher", "data", None, None, "float32", {"logits": column.spec})
    torch.manual_seed(0)
    with open_writer(Location(folder), origin, shard_bytes=shard_bytes) as writer:
        for part in torch.as_tensor(ids, dtype=torch.int64).split(4):
            views_ = torch.full_like(part, views)
            shape = column.shape or (*column.positions, column.encoding.classes)
            rows = column.encode(torch.randn(len(part), *shape), id=part, view=views_)
            writer.append(Keys(part.numpy(), views_.numpy()), {"logits": rows})
    return CacheReader(folder)


@pytest.mark.parametrize("encoding", ["float32", "float16", "bfloat16", "quantized"])
@pytest.mark.parametrize("column", [{}, {"positions": (3,)}, {"positions": (), "shape": (5, 1)}])
def test_a_look_finds_what_the_store_reads_to_the_bit(tmp_path, encoding, column):
    store = build(tmp_path / "s", torch.randperm(30), column=Column(make_encoding(encoding, classes=5), **column))
    table, ids = DecodedTable.of(store, "logits"), torch.tensor([7, 0, 29, 7])
    assert torch.equal(table.look_up(ids), store.read(store.rows(ids.numpy(), -1), "logits"))


def test_it_may_be_of_many_files(tmp_path):
    store = build(tmp_path / "s", range(30), shard_bytes=100)
    assert len(store.manifest.shards) > 3
    assert torch.equal(DecodedTable.of(store, "logits").look_up(torch.arange(30)), store.read(np.arange(30), "logits"))


@pytest.mark.parametrize("ids", [[3], [1, 10], [-1], [2, 1_000_000]])
def test_what_is_not_held_is_not_made_up(tmp_path, ids):
    table = DecodedTable.of(build(tmp_path / "s", [0, 1, 2, 5, 9]), "logits")
    assert table.look_up(torch.tensor([0, 5, 9])) is not None
    assert table.look_up(torch.tensor(ids)) is None


@pytest.mark.parametrize("ids", [[3], [-1]])
def test_nor_where_none_is_missing_between(tmp_path, ids):
    table = DecodedTable.of(build(tmp_path / "s", [0, 1, 2]), "logits")
    assert table.look_up(torch.tensor([2, 0])) is not None
    assert table.look_up(torch.tensor(ids)) is None


def test_views_parts_and_giants_have_none(tmp_path):
    assert DecodedTable.of(build(tmp_path / "views", range(9), views=0), "logits") is None
    top = Column(make_encoding("top-k", classes=5, k=2))
    assert DecodedTable.of(build(tmp_path / "parts", range(9), column=top), "logits") is None
    assert DecodedTable.of(build(tmp_path / "far apart", [0, 10_000_000]), "logits") is None
    assert DecodedTable.of(build(tmp_path / "below", [-5, 0]), "logits") is None
    assert DecodedTable.of(build(tmp_path / "empty", []), "logits") is None


def test_its_bytes_are_checked_before_they_are_believed(tmp_path):
    build(tmp_path / "s", range(30))
    (file,) = (tmp_path / "s" / "shards").iterdir()
    harmed = bytearray(file.read_bytes())
    harmed[-3] ^= 1
    file.write_bytes(harmed)
    with pytest.raises(DataError, match="SHA-256"):
        DecodedTable.of(CacheReader(tmp_path / "s"), "logits")
