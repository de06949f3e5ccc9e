"""Examples in a report are shown by their kind."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import torch

from limbeck.batch import Batch
from limbeck.data import load_data
from limbeck.report.examples import render_example


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def test_a_text_is_a_text_and_no_markup(digits):
    tokens = {"input_ids": torch.zeros(1, 4, dtype=torch.int64)}
    markup = render_example(
        Batch(tokens, torch.tensor([0]), extra={"text": ["<b>fine</b> & " + "long " * 100]}), digits
    )
    assert markup.startswith("<blockquote>&lt;b&gt;fine&lt;/b&gt; &amp; long")
    assert len(markup) < 400


def test_a_digit_of_seventeen_shades_is_as_bright_as_it_is(digits):
    image = pytest.importorskip("PIL.Image", reason="Pillow, which reads the picture back, is not installed.")
    markup = render_example(digits.test.take(torch.tensor([3])), digits)
    pixels = np.asarray(image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", markup)[1]))))
    expected = digits.test.take(torch.tensor([3])).inputs[0].double() / 16 * 255
    assert np.abs(pixels - expected.numpy()).max() <= 0.5


@pytest.mark.parametrize(
    ("inputs", "word"),
    [
        (torch.zeros(1, 3, 8, 8), "<img"),
        (torch.zeros(1, 1, 8, 8), "<img"),
        (torch.zeros(1, 2, 8, 8), "<dl"),
        (torch.zeros(1, 20), "and more"),
        (torch.zeros(1, 3, dtype=torch.int64), "<dl"),
        ((torch.zeros(1, 2), torch.ones(1, 3)), "<dl"),
        ({"a<b": torch.ones(1), "ids": torch.arange(4)[None]}, "a&lt;b"),
    ],
)
def test_anything_has_some_form(digits, inputs, word):
    assert word in render_example(Batch(inputs, torch.tensor([0])), digits)


def test_a_large_image_is_made_small(digits):
    assert len(render_example(Batch(torch.rand(1, 3, 400, 400), torch.tensor([0])), digits)) < 80_000
