"""Top-k logits: exact classes, and the weight of the others at every temperature."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.encoding_errors import posterior_logits
from cache.records import again, encoded
from limbeck.cache.encodings import kl_error, make_encoding
from limbeck.errors import LimbeckError
from limbeck.functional import coarse_logits, kl_divergence, reverse_kl


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_subset_comes_back(data):
    classes = data.draw(st.integers(1, 400))
    k = data.draw(st.integers(1, classes))
    bits = data.draw(st.sampled_from([4, 8, 11, 16, 32]))
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    logits = 5 * torch.randn(4, classes, generator=draw)
    found = again(make_encoding("top-k", classes=classes, k=k, bits=bits), logits)
    assert torch.equal(found.ids, logits.topk(k).indices.sort().values)
    assert found.shape == (4, classes)
    kept = logits.gather(-1, found.ids)
    reach = (kept.amax(-1) - kept.amin(-1)).max() + 1
    step = {4: 0.2, 8: 0.012, 11: 0.0015, 16: 0.0005, 32: 1e-6}[bits]
    assert float((found.logits - kept).abs().max()) <= 1.5 * step * float(reach) + 1e-5


@pytest.mark.parametrize("temperature", [0.5, 0.8, 1.0, 1.5, 2.0, 3.0, 4.0, 7.0, 10.0, 20.0, 100.0])
@pytest.mark.parametrize("k", [1, 10, 100, 999, 1000])
def test_buckets_are_those_of_the_teacher_at_every_temperature(k, temperature):
    logits = posterior_logits(100, 1000)
    found = again(make_encoding("top-k", classes=1000, k=k, bits=32), logits)
    truth = coarse_logits(logits.double(), found.ids, temperature=temperature)
    value = kl_divergence(found.coarse(temperature).double(), truth, temperature=temperature)
    whole = kl_divergence(torch.zeros_like(truth), truth, temperature=temperature)  # how much there is to know
    assert float(value.mean()) < 1e-6 * float(whole.mean())
    mine = (found.coarse(temperature).double() / temperature).softmax(-1)[:, -1]
    assert float((mine - (truth / temperature).softmax(-1)[:, -1]).abs().max()) < 5e-5


@pytest.mark.parametrize("temperature", [0.3, 0.7, 2.0, 3.0, 50.0])
def test_the_rest_is_kept_at_the_temperatures_that_are_wanted(temperature):
    logits = posterior_logits(100, 1000)
    with pytest.raises(LimbeckError, match=f"16, 4, 1.* not at {temperature:g}"):
        again(make_encoding("top-k", classes=1000, k=20), logits).coarse(temperature)
    kept = again(make_encoding("top-k", classes=1000, k=20, bits=16, temperatures=[temperature]), logits)
    truth = coarse_logits(logits.double(), kept.ids, temperature=temperature)
    mine, its = ((side.double() / temperature).softmax(-1)[:, -1] for side in (kept.coarse(temperature), truth))
    assert float((mine - its).abs().max()) < 1e-3  # float16
    assert kept.reshape(10, 10).coarse(temperature).shape == (10, 10, 21)


@pytest.mark.parametrize("wrong", [2.0, "2", [0.0], [True], list(range(2, 30))])
def test_temperatures_are_a_short_list_of_numbers_above_0(wrong):
    with pytest.raises(LimbeckError, match="temperatures"):
        make_encoding("top-k", classes=10, k=2, temperatures=wrong)


@pytest.mark.parametrize("bits", [4, 6, 8, 10, 16, 32])
def test_kept_mass_and_rest_are_exact_at_1(bits):
    logits = posterior_logits(300, 1000)
    found = again(make_encoding("top-k", classes=1000, k=20, bits=bits), logits)
    truth = coarse_logits(logits.double(), found.ids).softmax(-1)[:, -1]
    mine = found.coarse().double().softmax(-1)
    assert torch.allclose(mine[:, -1], truth, rtol=1e-5 if bits == 32 else 0.01, atol=1e-12)
    assert torch.allclose(found.logits.double().logsumexp(-1), logits.gather(-1, found.ids).double().logsumexp(-1))


def test_raw_logits_keep_their_level():
    logits = torch.randn(5, 50) + torch.tensor([0.0, 100.0, -100.0, 1e4, -1e4])[:, None]
    found = again(make_encoding("top-k", classes=50, k=10, bits=16), logits)
    assert torch.allclose(found.logits, logits.gather(-1, found.ids), rtol=1e-6, atol=0.003)


def test_one_class_kept_two_classes_and_all():
    logits = torch.tensor([[1.0, 3.0], [0.0, 0.0], [-torch.inf, 2.0]])
    one = again(make_encoding("top-k", classes=2, k=1, bits=32), logits)
    assert one.ids[[0, 2], 0].tolist() == [1, 1]
    p = logits.softmax(-1)
    assert torch.allclose(one.coarse().softmax(-1)[:, 0], p.amax(-1), atol=1e-6)
    two = again(make_encoding("top-k", classes=2, k=2, bits=32), logits)
    assert torch.equal(two.coarse()[:, -1], torch.full((3,), -torch.inf))
    assert torch.allclose(two.spread().softmax(-1), p, atol=1e-6)


def test_a_single_class():
    found = again(make_encoding("top-k", classes=1, k=1), torch.tensor([[5.0], [-torch.inf]]))
    assert found.logits.tolist() == [[5.0], [-torch.inf]]


def test_ties():
    logits = torch.zeros(3, 10)
    for bits in (4, 10, 32):
        found = again(make_encoding("top-k", classes=10, k=4, bits=bits), logits)
        assert len(set(found.ids[0].tolist())) == 4
        assert torch.allclose(found.spread().softmax(-1), torch.full((3, 10), 0.1), atol=1e-3)


def test_masked_columns_take_no_part():
    logits = torch.randn(6, 12)
    logits[:, 5:] = -torch.inf
    logits[5] = -torch.inf
    found = again(make_encoding("top-k", classes=12, k=8, bits=10), logits)  # more than there are
    assert torch.equal(found.logits[:5].isfinite().sum(-1), torch.full((5,), 5))
    assert bool((found.coarse()[:, -1] == -torch.inf).all())
    assert bool((found.coarse()[5] == -torch.inf).all())
    student = torch.randn(6, 12, requires_grad=True)
    for kernel in (kl_divergence, reverse_kl):
        value = found[:5].compare(kernel, student[:5].masked_fill(logits[:5] == -torch.inf, -torch.inf))
        assert value.isfinite().all()
        assert torch.autograd.grad(value.sum(), student)[0].isfinite().all()


@pytest.mark.parametrize("low", [-1e4, -1e9, torch.finfo(torch.float32).min, -torch.inf])
def test_a_mask_however_written_does_not_blur_the_others(low):
    logits = posterior_logits(100, 200, groups=20)
    logits[:, 150:] = low
    one = make_encoding("top-k", classes=200, k=160, bits=10)  # some that are masked are kept
    found = again(one, logits)
    kept = logits.double().softmax(-1).gather(-1, found.ids)
    assert torch.allclose(found.coarse().double().softmax(-1)[:, :-1], kept, atol=0.005)
    assert kl_error(make_encoding("top-k", classes=200, k=50, bits=10), logits) < 0.1


def test_a_rest_that_is_finite_stays_finite():
    logits = torch.tensor([[0.0, -1e30, -1e31], [1e30, 0.0, -1.0]])
    found = again(make_encoding("top-k", classes=3, k=1, temperatures=[0.5, 20]), logits)
    for temperature in (0.5, 1.0, 20.0):
        assert found.coarse(temperature).isfinite().all()
        assert reverse_kl(torch.zeros(2, 2), found.coarse(temperature), temperature=temperature).isfinite().all()


def test_a_record_depends_on_its_row_alone():
    logits = posterior_logits(700, 1000)
    one = make_encoding("top-k", classes=1000, k=30)
    whole = encoded(one, logits)
    assert (encoded(one, logits[500:501]) == whole[500:501]).all()
    assert (encoded(one, logits.flip(0)) == whole[::-1]).all()


def test_dtypes_of_a_teacher():
    logits = (torch.randn(5, 20) * 5).half()
    one = make_encoding("top-k", classes=20, k=5)
    wanted = encoded(one, logits.float())
    assert (encoded(one, logits) == wanted).all()
    assert (encoded(one, logits.double()) == wanted).all()
