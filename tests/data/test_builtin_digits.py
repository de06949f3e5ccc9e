"""Digits that are drawn when asked for."""

from __future__ import annotations

import numpy as np
import pytest

import limbeck as lb
from limbeck.data.builtin_datasets import LEVELS, draw_digits


def test_images_depend_on_seed_and_number_alone():
    images, labels = draw_digits(40)
    more, _ = draw_digits(60)
    assert np.array_equal(images, more[:40])
    assert not np.array_equal(images, draw_digits(40, seed=1)[0])
    assert labels.tolist() == [*range(10)] * 4


def test_they_have_the_format_of_the_digits_of_scikit_learn():
    images, _ = draw_digits(100)
    assert images.shape == (100, 8, 8)
    assert images.min() == 0
    assert images.max() == LEVELS
    assert np.array_equal(images, np.rint(images))


def test_classes_can_be_distinguished_but_not_perfectly():
    """A nearest neighbor among 300 images is right for most, not for nearly all: there is something to learn."""
    images, labels = draw_digits(600)
    images = images.reshape(600, -1)
    distance = ((images[300:, None] - images[None, :300]) ** 2).sum(-1)
    right = (labels[distance.argmin(1)] == labels[300:]).mean()
    assert 0.7 < right < 0.95


def test_the_data_set_has_the_parts_of_digits():
    pytest.importorskip("sklearn")
    drawn, scanned = lb.load_data("drawn_digits"), lb.load_data("digits")
    assert [len(part) for part in (drawn.train, drawn.test)] == [len(part) for part in (scanned.train, scanned.test)]
    assert drawn.class_names == scanned.class_names
