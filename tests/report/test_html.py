"""Markup is escaped once, pictures are PNG, numbers keep their digits."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest

from limbeck.report.html import Markup, join, png, sized, tag


def test_markup_is_escaped_once():
    assert tag("p", "a<b", Markup("<b>c</b>"), None, ["d", 1], title='"&', data_x=True, y=None, z=1.0) == (
        '<p title="&quot;&amp;" data-x z="1.00">a&lt;b<b>c</b>d1</p>'
    )
    assert tag("br") == "<br>"
    assert join("&", tag("i", "&")) == "&amp;<i>&amp;</i>"
    assert tag("p", "a\x00\ud800b") == "<p>a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b</p>"
    assert tag("p", "a\u202eb\u2066") == "<p>a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}</p>"
    assert tag("p", "שלום") == "<p>שלום</p>"


def test_a_png_is_what_a_reader_of_pngs_reads():
    image = pytest.importorskip("PIL.Image", reason="Pillow, which reads the picture back, is not installed.")
    draw = np.random.default_rng(0)
    for shape in ((5, 7), (5, 7, 3), (5, 7, 4), (1, 1)):
        pixels = draw.integers(0, 256, shape).astype(np.uint8)
        assert np.array_equal(np.asarray(image.open(io.BytesIO(png(pixels)))), pixels)
    assert struct.unpack(">I", png(np.zeros((1, 1), np.uint8))[29:33])[0] == zlib.crc32(
        png(np.zeros((1, 1), np.uint8))[12:29]
    )


def test_numbers_keep_three_digits():
    assert [sized(v) for v in (0.0123456, 1.0, 999.6, 12345.0, 1e-7)] == ["0.0123", "1.00", "1,000", "12,345", "1e-07"]
