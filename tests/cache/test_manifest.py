"""A cache of another teacher or data is refused with the differences."""

from __future__ import annotations

import json

import pytest

from cache.stored import ORIGIN
from limbeck.cache import Location, Manifest, ManifestDifference, Shard, find_mismatch

ONE, OTHER = "1a2b3c4d" * 8, "9f8e7d6c" * 8
SHARD = Shard("shards/000000.safetensors", 1350, 10, ONE, ONE)


def said(field, stored, wanted, *, theirs=None, ours=None):
    manifest = Manifest(ORIGIN, theirs or {}, (SHARD,))
    return str(find_mismatch(Location("answers"), manifest, ManifestDifference(field, stored, wanted), about=ours))


def reading(*ways):
    return json.dumps([json.dumps(way) if isinstance(way, dict) else way for way in ways])


def pixels(mean):
    return {"preprocess": "pixels", "mean": [mean], "std": [0.25], "scale": 1 / 255, "channels_last": False}


def test_another_folder_comes_first_and_removing_explains_what_it_costs():
    told = said("data", ONE, OTHER)
    assert told.startswith("The cache at answers ")
    assert told.endswith("with its 1,350 outputs.")


def test_ways_of_reading_show_the_piece_that_differs():
    told = said("preprocess", reading(pixels(0.5)), reading(pixels(0.286)))
    assert "it has pixels with mean=[0.5], and this run has pixels with mean=[0.286]." in told
    told = said("preprocess", reading(None), reading(pixels(0.5)))
    assert "it has the inputs as they are, and this run has pixels with mean=[0.5], std=[0.25]" in told
    told = said("preprocess", reading(None), reading(None, pixels(0.5)))
    assert "no preprocessing of the teacher's own, and this run has the teacher's own pixels with mean=[0.5]" in told
    told = said("preprocess", reading("my.preprocess 0123456789abcdef"), reading("my.preprocess fedcba9876543210"))
    assert "my.preprocess 01234567, and this run has my.preprocess fedcba98" in told
    assert "of the same name" in told


@pytest.mark.parametrize("cut", [60, 300])
def test_of_two_long_texts_the_place_where_they_part_is_shown(cut):
    one, other = "a" * cut + "ONE" + "b" * 200, "a" * cut + "OTHER" + "b" * 200
    told = said("something", one, other)
    assert "ONE" in told
    assert "OTHER" in told
    assert len(told) < 400


def live(model, weights):
    return {"teacher": {"teacher": "Live", "model": model, "mode": "eval", "fingerprint": weights}}


def test_a_teacher_is_named_by_its_kind_and_eight_digits():
    told = said("teacher", ONE, OTHER, theirs=live("ResNet", ONE), ours=live("Mlp", OTHER))
    assert "it has a ResNet (1a2b3c4d), and this run has a Mlp (9f8e7d6c)." in told
    told = said("teacher", ONE, OTHER, theirs=live("Mlp", ONE), ours=live("Mlp", OTHER))
    assert "a Mlp (1a2b3c4d), and this run has a Mlp (9f8e7d6c), of other weights." in told
    told = said("teacher", ONE, OTHER, theirs=live("Mlp", ONE), ours=live("Mlp", ONE))
    assert "of the same weights" in told
    members = {"teacher": {"teacher": "Ensemble", "members": [live("Mlp", ONE)["teacher"]] * 3}}
    assert "an Ensemble of 3 (1a2b3c4d)" in said("teacher", ONE, OTHER, theirs=members, ours=live("Mlp", ONE))


def test_data_are_counted():
    told = said("data", ONE, OTHER, theirs={"examples": 1350}, ours={"examples": 1370})
    assert "it has 1,350 examples (1a2b3c4d), and this run has 1,370 (9f8e7d6c), 20 more." in told
    told = said("data", ONE, OTHER, theirs={"examples": 1350}, ours={"examples": 1340})
    assert "10 fewer." in told
    told = said("data", ONE, OTHER, theirs={"examples": 1350}, ours={"examples": 1350})
    assert "as many, with other content or labels." in told


def test_views_are_named_where_that_is_known():
    told = said("views", None, OTHER, ours={"views": "shift 1 reach=4 seed=0"})
    assert "it has no augmentation, and this run has shift 1 reach=4 seed=0." in told
    assert "(1a2b3c4d)" in said("views", ONE, None)
    told = said("views", ONE, OTHER, theirs={"views": "flip 1"}, ours={"views": "flip 1"})
    assert "it has flip 1 (1a2b3c4d), and this run has flip 1 (9f8e7d6c)." in told


def test_encodings_are_shown_as_they_are_typed():
    told = said("encoding of logits", {"name": "float16"}, {"name": "top-k", "k": 8})
    assert "it has float16, and this run has top-k with k=8." in told
    told = said("encoding of logits", {"name": "top-k", "k": 16, "bits": 7}, {"name": "top-k", "k": 8, "bits": 7})
    assert "it has top-k with k=16, and this run has top-k with k=8." in told
    assert "--set cache.encoding='{name: top-k, k: 16, bits: 7}'" in told
