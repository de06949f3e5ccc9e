"""The parts of all ranks make up the whole batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.batch import Batch
from limbeck.data import shard_batch
from limbeck.errors import LimbeckError


def _batch(n: int, *, masked: bool) -> Batch:
    return Batch(
        (torch.arange(n), torch.randn(n, 2)),
        id=torch.arange(n) + 100,
        view=torch.full((n,), 2),
        labels=torch.arange(n) % 3,
        mask=torch.arange(n) % 2 == 0 if masked else None,
        extra={"raw": torch.randn(n, 3), "text": [str(i) for i in range(n)], "np": np.arange(n)},
    )


@settings(derandomize=True, database=None, deadline=None, max_examples=60)
@given(n=st.integers(1, 20), world=st.integers(1, 6), masked=st.booleans())
def test_shares_reassemble_to_the_whole(n, world, masked):
    batch = _batch(n, masked=masked)
    parts = [shard_batch(batch, rank, world) for rank in range(world)]
    real = parts[: min(n, world)]
    order = [i for rank in range(len(real)) for i in range(rank, n, world)]
    assert sorted(order) == list(range(n))
    for place in (0, 1):
        assert torch.equal(torch.cat([p.inputs[place] for p in real]), batch.inputs[place][order])
    for name in ("id", "view", "labels"):
        assert torch.equal(torch.cat([getattr(p, name) for p in real]), getattr(batch, name)[order])
    assert [t for p in real for t in p.extra["text"]] == [str(i) for i in order]
    assert torch.equal(torch.cat([p.extra["raw"] for p in real]), batch.extra["raw"][order])
    assert np.concatenate([p.extra["np"] for p in real]).tolist() == order
    if masked:
        assert torch.equal(torch.cat([p.mask for p in real]), batch.mask[order])
    else:
        assert all(p.mask is None for p in real)
    for part in parts[len(real) :]:
        assert part.size == 1
        assert part.id.tolist() == [100]
        assert part.mask.tolist() == [False]


def test_a_rank_without_rows_keeps_the_shape_of_a_positionwise_mask():
    batch = Batch({"ids": torch.zeros(1, 4)}, mask=torch.ones(1, 4, dtype=torch.bool))
    assert shard_batch(batch, 1, 2).mask.tolist() == [[False] * 4]
    assert shard_batch(batch, 1, 2).inputs["ids"].shape == (1, 4)


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_is_one_of_the_world(rank, world):
    with pytest.raises(LimbeckError, match="is not one of"):
        shard_batch(Batch(torch.arange(4)), rank, world)


def test_an_empty_batch_is_refused():
    with pytest.raises(LimbeckError, match="empty"):
        shard_batch(Batch(torch.zeros(0, 2)), 0, 2)


def test_a_rank_without_rows_gets_named_masks_of_false_too():
    masks = {"text": torch.ones(1, 3, dtype=torch.bool)}
    batch = Batch(torch.zeros(1, 3), mask=torch.ones(1, 3, dtype=torch.bool), extra={"masks": masks, "name": ["a"]})
    own, none = shard_batch(batch, 0, 2), shard_batch(batch, 1, 2)
    assert own.extra["masks"]["text"].all()
    assert not none.extra["masks"]["text"].any()
    assert none.extra["name"] == ["a"]
