"""Cached outputs are verified, and another teacher is detected."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck import RandomShift, ShuffledLoader
from limbeck.cache import CacheReader
from limbeck.errors import LimbeckError
from limbeck.teachers import CachedTeacher, fill_cache, verify_cache
from teachers.asked import CPU, Counting, examples, make_loader, unchanged


def test_filled_answers_are_in_the_order_of_the_source_and_can_be_asked_again(tmp_path):
    net, stream = Counting(), make_loader(augment=RandomShift(1), shuffle=False)
    assert list(fill_cache(CachedTeacher(net, tmp_path / "s"), stream, preprocess=unchanged, views=2))[-1] == 48
    keys = CacheReader(tmp_path / "s").keys
    assert (keys.id == np.tile(np.arange(24), 2)).all()
    assert (keys.view == np.repeat([0, 1], 24)).all()
    again = verify_cache(
        CachedTeacher(net, tmp_path / "s"),
        make_loader(augment=RandomShift(1), seed=9),
        preprocess=unchanged,
        sample=6,
        views=(1,),
        device=CPU,
    )
    assert again.answers == 8
    assert again.identical == 1.0
    assert again.divergence == 0.0
    with torch.no_grad():
        net.out.weight += 0.5 * torch.randn_like(net.out.weight)
    with pytest.raises(LimbeckError, match=r"\(teacher\)"):
        verify_cache(CachedTeacher(net, tmp_path / "s"), stream, preprocess=unchanged, sample=6, device=CPU)
    with pytest.raises(LimbeckError, match="views=0"):
        list(fill_cache(CachedTeacher(net, tmp_path / "t"), stream, preprocess=unchanged, views=0))


def test_the_views_that_are_asked_about_depend_on_the_seed_alone(tmp_path):
    net = Counting()
    list(
        fill_cache(
            CachedTeacher(net, tmp_path / "s"), make_loader(augment=RandomShift(1)), preprocess=unchanged, views=4
        )
    )
    seen = []

    class Watched(ShuffledLoader):
        def batches(self, epoch, start):
            seen.append(epoch)
            return super().batches(epoch, start)

    def views(**seed):
        seen.clear()
        stream = Watched(examples(), batch_size=8, augment=RandomShift(1))
        verify_cache(
            CachedTeacher(net, tmp_path / "s"), stream, preprocess=unchanged, sample=24, views=range(4), **seed
        )
        return list(seen)

    assert views(seed=1) == views(seed=1)
    assert views(seed=0) == views()
    assert len({tuple(views(seed=seed)) for seed in range(4)}) > 1


@pytest.mark.parametrize("how", [{"through": "out"}, {"encoding": {"name": "sampled", "draws": 2}}, {}])
def test_any_view_and_any_encoding_can_be_asked_again(tmp_path, how):
    net = Counting()
    list(
        fill_cache(
            CachedTeacher(net, tmp_path / "s", **how),
            make_loader(augment=RandomShift(1)),
            preprocess=unchanged,
            views=3,
        )
    )

    def again():
        stream = make_loader(augment=RandomShift(1), seed=9)
        return verify_cache(
            CachedTeacher(net, tmp_path / "s", **how), stream, preprocess=unchanged, sample=24, views=range(3)
        )

    found = again()
    assert (found.answers, found.identical, found.bytes) == (24, 1.0, 1.0)
    net.forward = lambda x: net.out(-net.body(x.flatten(1)).relu())  # which no fingerprint sees
    if "through" in how:
        net.forward = lambda x: net.out(net.body(-x.flatten(1)).relu())
    other = again()
    assert other.identical < 0.5
    assert other.bytes < 0.7
    assert "encoding" in how or other.divergence > 1e-3
