"""Packed class indices: exact, in the promised number of bytes."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.cache.packing import ClassSubset, pack, packed_bytes, unpack
from limbeck.errors import DataError


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_numbers_of_any_width_come_back(data):
    bits = data.draw(st.integers(0, 24))
    rows, count = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 30))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    numbers = draw.integers(0, 1 << bits, size=(rows, count))
    packed = pack(numbers, bits)
    assert packed.shape == (rows, packed_bytes(count, bits))
    assert packed_bytes(count, bits) <= math.ceil(count * bits / 8) + 3
    assert (unpack(packed, count, bits) == numbers).all()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_random_subsets_come_back(data):
    classes = data.draw(st.integers(1, 3000))
    size = data.draw(st.integers(1, classes))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    ids = np.stack([np.sort(draw.choice(classes, size, replace=False)) for _ in range(3)])
    subset = ClassSubset(size, classes)
    assert (subset.unpack(subset.pack(ids)) == ids).all()
    assert subset.pack(ids).shape == (3, subset.width)
    entropy = (math.lgamma(classes + 1) - math.lgamma(size + 1) - math.lgamma(classes - size + 1)) / math.log(2)
    assert entropy / 8 <= subset.width <= entropy / 8 + 0.25 * size + 5


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_draws_with_repetition_come_back(data):
    classes, size = data.draw(st.integers(1, 3000)), data.draw(st.integers(1, 80))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    ids = np.sort(draw.integers(0, classes, size=(3, size)), axis=1)
    subset = ClassSubset(size, classes, repeats=True)
    assert (subset.unpack(subset.pack(ids)) == ids).all()


@pytest.mark.parametrize("ids", [[0, 1, 2], [997, 998, 999], [0, 500, 999]])
def test_both_ends(ids):
    subset = ClassSubset(3, 1000)
    assert subset.unpack(subset.pack(np.array([ids]))).tolist() == [ids]


def test_widths():
    assert ClassSubset(100, 1000).width == 66
    assert ClassSubset(50, 50257).width == 76
    assert ClassSubset(1000, 1000).width == 125  # a bitmap
    assert ClassSubset(1, 1).width == 1
    assert ClassSubset(1, 2).width == 1


def test_what_names_another_number_of_classes_is_damaged():
    subset = ClassSubset(100, 1000)
    packed = subset.pack(np.arange(100)[None] * 10)
    for broken in (np.zeros_like(packed), np.full_like(packed, 255)):
        with pytest.raises(DataError, match="does not name 100 of 1000 classes"):
            subset.unpack(broken)


def test_one_bit_moved_to_the_end_is_no_class():
    subset = ClassSubset(3, 900)  # its bitmap has room for more than 900
    packed = np.unpackbits(subset.pack(np.array([[1, 2, 899]])), axis=1, bitorder="little")
    packed[0, : subset._low * 8] = 1
    with pytest.raises(DataError, match="does not name 3 of 900 classes"):
        subset.unpack(np.packbits(packed, axis=1, bitorder="little"))


def test_unpacking_does_not_loop_over_rows():
    draw = np.random.default_rng(0)
    ids = np.sort(np.argpartition(draw.random((256, 1000)), 100, axis=1)[:, :100], axis=1)
    subset = ClassSubset(100, 1000)
    packed = subset.pack(ids)
    took = []
    for _ in range(5):
        start = time.perf_counter()
        subset.unpack(packed)
        took.append(time.perf_counter() - start)
    assert min(took) < 0.02  # 0.4 ms when measured, 30 ms with a loop over rows
