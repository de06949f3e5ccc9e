"""Mixtures have the right partners and ratios, drawn from the whole set."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from scipy import special, stats

from limbeck.data import ArrayDataset, BatchMix, Chain, Crop, CutMix, Flip, Mixup, ShuffledLoader
from limbeck.data.transforms.common import sample_beta
from limbeck.errors import DataError, LimbeckError
from limbeck.testing import check_loader

N = 40
IDS, VIEWS = torch.arange(N) * 3, torch.arange(N) % 4
LABELS = torch.arange(N) % 7
MANY = torch.arange(40_000)
NONE = torch.zeros_like(MANY)
MIXES = [Mixup(), Mixup(0.3), CutMix(), CutMix(0.3)]


def pictures(shape=(N, 3, 8, 6), dtype=torch.uint8):
    count = torch.Size(shape).numel()
    images = ((torch.arange(count) * 2654435761 % 2**32) >> 24).view(shape).to(torch.uint8)
    return images if dtype == torch.uint8 else (images.double() / 255).to(dtype)


def make_loader(mix, *, n=N, batch_size=16, labels=True, **options):
    data = ArrayDataset(pictures((n, 3, 8, 6)), torch.arange(n) % 7 if labels else None)
    return ShuffledLoader(data, batch_size=batch_size, mix=mix, **options)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 1.0, 1.5, 4.0, 30.0])
def test_ratios_are_from_a_beta_distribution(alpha):
    ratios = Mixup(alpha).ratios(MANY, NONE).double().numpy()
    # Near 1 a float has steps of 2⁻²⁴, so the tails are compared as one.
    inside = np.linspace(1e-6, 1 - 1e-6, 5001)
    found = np.searchsorted(np.sort(ratios), inside, side="right") / len(ratios)
    apart = np.abs(found - stats.beta(alpha, alpha).cdf(inside)).max()
    assert apart < stats.kstwo(len(ratios)).ppf(0.999)
    if alpha >= 0.5:
        assert stats.kstest(ratios, stats.beta(alpha, alpha).cdf).pvalue > 0.001


def test_every_stratum_is_its_own_quantile():
    draws = (torch.arange(65536) + 0.5) / 65536
    for alpha in (0.4, 3.0):
        found = sample_beta(draws, alpha).double().numpy()
        lower = slice(None, 32768)  # a float near 1 has no room for its tail
        wanted = draws[lower].double().numpy()
        np.testing.assert_allclose(stats.beta(alpha, alpha).cdf(found[lower]), wanted, rtol=1e-4)
        assert (np.diff(found) >= 0).all()
        np.testing.assert_allclose(found, 1 - found[::-1], atol=1e-7)


def test_alpha_one_is_the_draw_itself_and_near_one_is_near_it():
    draws = torch.rand(1000)
    assert torch.equal(sample_beta(draws, 1.0), draws)
    assert torch.equal(sample_beta(draws, 1), draws)
    assert float((sample_beta(draws, 1.0001) - draws).abs().max()) < 1e-4


@pytest.mark.parametrize("size", [7, 1000, 40_000, 3_000_000])
@pytest.mark.parametrize("mix", [Mixup(), CutMix()])
def test_partners_are_uniform_over_the_whole_set(mix, size):
    found = mix.partners(MANY, NONE, size=size)
    assert int(found.min()) >= 0
    assert int(found.max()) < size
    assert stats.kstest((found.double() + 0.5) / size, "uniform").statistic < 0.01 + 0.5 / size
    assert abs(float(torch.corrcoef(torch.stack([found, MANY]).double())[0, 1])) < 0.02


def test_partners_do_not_come_from_the_batch():
    small = make_loader(Mixup(), n=400, batch_size=4)
    inside = total = 0
    for batch in small:
        inside += int(torch.isin(batch.extra["partner"], batch.id).sum())
        total += batch.size
    # A partner from the batch would always be in it; from the whole set, 1 in 100 is.
    assert inside / total < 0.05


@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_batch_order_and_size_do_not_matter(mix):
    wanted = {}
    for size, seed in [(16, 0), (5, 0), (40, 3)]:
        for batch in make_loader(mix, batch_size=size, seed=seed, augment=Chain(Crop(1), Flip())):
            for row, id in enumerate(batch.id.tolist()):
                found = (
                    batch.inputs[row].numpy().tobytes(),
                    *(batch.extra[key][row].item() for key in ("partner", "ratio", "labels", "partner_labels")),
                )
                assert wanted.setdefault(id, found) == found
    assert len(wanted) == N


@pytest.mark.parametrize("shape", [(N, 3, 8, 6), (N, 8, 6), (N, 5)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_mixup_is_the_weighted_mean(shape, dtype, alpha):
    images = pictures(shape, dtype)
    others = images.flip(0)
    mix = Mixup(alpha)
    found, ratio = mix.blend(images, others, IDS, VIEWS)
    assert found.dtype == dtype
    assert torch.equal(ratio, mix.ratios(IDS, VIEWS))
    for number, share in enumerate(ratio.double().tolist()):
        wanted = share * images[number].double() + (1 - share) * others[number].double()
        atol = {torch.uint8: 0.5 + 2e-3, torch.float16: 6e-4}.get(dtype, 2e-7)
        torch.testing.assert_close(found[number].double(), wanted, atol=atol, rtol=0)


@pytest.mark.parametrize("shape", [(N, 3, 8, 6), (N, 8, 6)])
@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_cutmix_covers_a_box_and_its_ratio_is_what_is_left(shape, alpha):
    images = pictures(shape)
    others = 255 - images
    mix = CutMix(alpha)
    found, ratio = mix.blend(images, others, IDS, VIEWS)
    for number, share in enumerate(ratio.tolist()):
        covered = (found[number] != images[number]).reshape(-1, 8, 6)
        assert bool((covered == covered[0]).all())
        rows, columns = covered[0].any(1).sum(), covered[0].any(0).sum()
        assert int(covered[0].sum()) == int(rows * columns)
        assert share == pytest.approx(1 - int(rows * columns) / 48)
        assert torch.equal(
            found[number], torch.where(covered.view(found[number].shape), others[number], images[number])
        )


def test_the_box_has_its_share_of_the_image_where_no_border_cuts_it():
    mix, wide = CutMix(), 64
    covered = mix.covered(MANY[:500], NONE[:500], height=wide, width=wide)
    largest = covered.any(2).sum(1)
    draws = 1 - Mixup(seed=mix.seed).ratios(MANY[:500], NONE[:500])
    assert int(largest.max()) > 50
    assert 0.3 < float(covered.double().mean()) / float(draws.mean()) < 1.0


@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_another_seed_view_or_example_is_another_mixture(mix):
    from dataclasses import replace

    images = pictures((N, 3, 8, 8))[:1].expand(N, -1, -1, -1)
    others = 255 - images
    zero = torch.zeros_like(IDS)
    first, partners = mix.blend(images, others, IDS, zero)[0], mix.partners(IDS, zero, size=10**6)
    for id, view, other in [(IDS, zero + 1, mix), (IDS + 1000, zero, mix), (IDS, zero, replace(mix, seed=1))]:
        assert not torch.equal(first, other.blend(images, others, id, view)[0])
        assert not (partners == other.partners(id, view, size=10**6)).any()


def test_mixup_and_cutmix_of_one_seed_draw_other_numbers():
    same = Mixup().partners(MANY, NONE, size=100) == CutMix().partners(MANY, NONE, size=100)
    assert float(same.double().mean()) < 0.02


@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_the_partner_is_seen_through_the_same_views(mix):
    augment = Chain(Crop(2), Flip())
    found = make_loader(mix, augment=augment, views=3)
    images = found.examples.take(torch.arange(N)).inputs
    for epoch in range(4):
        for batch in found:
            assert batch.view.tolist() == [epoch % 3] * batch.size
            partner = batch.extra["partner"]
            assert torch.equal(partner, mix.partners(batch.id, batch.view, size=N))
            own, other = (augment(images[id], id, batch.view) for id in (batch.id, partner))
            wanted, ratio = mix.blend(own, other, batch.id, batch.view)
            assert torch.equal(batch.inputs, wanted)
            assert torch.equal(batch.extra["ratio"], ratio)
            assert batch.labels is None
            assert torch.equal(batch.extra["labels"], LABELS[batch.id])
            assert torch.equal(batch.extra["partner_labels"], LABELS[partner])


def test_a_subset_mixes_within_itself():
    data = ArrayDataset(pictures(), LABELS).select(torch.tensor([3, 17, 5]))
    for batch in ShuffledLoader(data, batch_size=2, mix=Mixup()):
        assert set(batch.extra["partner"].tolist()) <= {3, 17, 5}


def test_of_one_example_the_partner_is_itself():
    for mix in MIXES:
        (batch,) = make_loader(mix, n=1)
        assert batch.extra["partner"].tolist() == [0]
        assert torch.equal(batch.inputs, pictures((1, 3, 8, 6)))


def test_without_labels_there_are_none_and_further_columns_stay():
    data = ArrayDataset(pictures(), extra={"name": [str(n) for n in range(N)]})
    batch = ShuffledLoader(data, batch_size=8, mix=Mixup()).peek()
    assert sorted(batch.extra) == ["name", "partner", "ratio"]
    assert batch.extra["name"] == [str(n) for n in batch.id.tolist()]
    assert batch.mixed
    assert not ShuffledLoader(data, batch_size=8).peek().mixed
    assert batch.rows(torch.tensor([1, 0])).extra["ratio"].tolist() == batch.extra["ratio"][:2].flip(0).tolist()


def test_what_is_masked_out_is_in_no_mixture_that_counts():
    mask = torch.arange(N) % 3 != 0
    for batch in ShuffledLoader(ArrayDataset(pictures(), LABELS, mask=mask), batch_size=8, mix=Mixup()):
        assert torch.equal(batch.mask, mask[batch.id] & mask[batch.extra["partner"]])


@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_a_source_that_mixes_keeps_every_law(mix):
    check_loader(make_loader(mix, augment=Flip(), batch_size=7))
    check_loader(make_loader(mix, labels=False, drop_last=True, views=2))
    assert isinstance(mix, BatchMix)


def test_fingerprints_tell_every_parameter_apart():
    plain = make_loader(None)
    loaders = [make_loader(mix, **options) for mix in (None, Mixup(), Mixup(0.3), Mixup(seed=1), CutMix(), CutMix(0.3))
               for options in ({}, {"augment": Flip()})]  # fmt: skip
    assert len({one.fingerprint for one in loaders}) == len(loaders)
    assert loaders[0].fingerprint == plain.fingerprint
    assert make_loader(Mixup(), views=3).fingerprint == make_loader(Mixup()).fingerprint
    assert Mixup(1).fingerprint == Mixup(1.0).fingerprint


FROZEN = {
    "Mixup()": (Mixup(seed=1), "3569cb7222302193", "a00934bca52daccf"),
    "Mixup(0.2)": (Mixup(0.2, seed=1), "e769f92c07ee7dc5", "e8d2f60c909b9efa"),
    "CutMix()": (CutMix(seed=1), "364d31d732d41bfe", "1184a9e22d833ce5"),
    "CutMix(0.2)": (CutMix(0.2, seed=1), "2c69836cddfcb50b", "ebbe49c8c129461f"),
}


@pytest.mark.parametrize("kind", FROZEN)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_mixtures_are_the_bits_that_they_were_when_they_were_frozen(kind, dtype):
    """Answers are stored for mixtures, so they must stay what they were, whatever the version of torch and scipy."""
    mix, of_bytes, of_floats = FROZEN[kind]
    found, ratio = mix.blend(pictures(dtype=dtype), pictures(dtype=dtype).flip(0), IDS, VIEWS)
    whole = (found.contiguous(), ratio, mix.partners(IDS, VIEWS, size=12345))
    mark = hashlib.sha256(b"".join(part.view(torch.uint8).numpy().tobytes() for part in whole)).hexdigest()[:16]
    assert mark == (of_bytes if dtype == torch.uint8 else of_floats), (
        f"{mix.fingerprint} makes other bits than it did, with torch {torch.__version__}: answers stored for it no "
        f"longer hold. If it was changed on purpose, raise the version in its fingerprint and freeze {mark!r} here; if "
        "not, find what torch or scipy computes otherwise (the table in beta.py?) and write it in other operations."
    )


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", [Mixup, CutMix])
@pytest.mark.parametrize("alpha", [0, -1.0, float("inf"), float("nan"), "1", None, True])
def test_alpha_is_a_number_above_nought(kind, alpha):
    with pytest.raises(LimbeckError, match=rf"{kind.__name__}\(alpha=.*above 0"):
        kind(alpha)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("mix", "data", "words"),
    [
        (
            Mixup(),
            ArrayDataset(torch.zeros(4, 9, dtype=torch.int64)),
            r"Mixup averages pixels.*tensor of int64.*Tokens",
        ),
        (Mixup(), ArrayDataset({"input_ids": torch.zeros(4, 9)}), r"these are a dict"),
        (CutMix(), ArrayDataset(torch.zeros(4, 9)), r"CutMix needs images"),
        (CutMix(), ArrayDataset((torch.zeros(4, 9), torch.zeros(4))), r"CutMix needs images .* got a tuple"),
        (Mixup(), ArrayDataset(torch.zeros(4, 2), mask=torch.ones(4, 2)), r"mask.*\[4, 2\]"),
        (Mixup(), ArrayDataset(torch.zeros(4, 2), extra={"ratio": torch.zeros(4)}), r"stores 'ratio' in Batch\.extra"),
    ],
)
def test_what_cannot_be_mixed_is_refused(mix, data, words):
    with pytest.raises(DataError, match=words):
        ShuffledLoader(data, batch_size=4, mix=mix).peek()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mix": Mixup}, r"mix=Mixup is a class.*mix=Mixup\(\)"),
        ({"mix": Flip()}, r"mix= must have the methods partners\(\) and blend\(\), like Mixup"),
        ({"augment": Mixup()}, r"mixes two examples.*pass it as mix=Mixup"),
        ({"augment": Flip}, r"augment=.*Flip is a class"),
        ({"augment": "flip"}, r"a transform has a fingerprint.*got 'flip'"),
        ({"views": 0}, r"views=0 is not a positive whole number"),
        ({"views": True}, r"views=True"),
        ({"views": 2.5}, r"views=2\.5"),
    ],
)
def test_a_source_refuses_what_makes_no_views_when_it_is_built(options, words):
    with pytest.raises(LimbeckError, match=words):
        ShuffledLoader(ArrayDataset(pictures()), batch_size=4, **options)


def test_labels_of_several_dimensions_are_refused_when_it_is_built():
    with pytest.raises(DataError, match=r"these labels have the shape \[40, 2\].*Leave mix= out"):
        ShuffledLoader(ArrayDataset(pictures(), torch.zeros(N, 2, dtype=torch.int64)), batch_size=4, mix=Mixup())


@pytest.mark.parametrize("alpha", [0.2, 4.0])
def test_another_way_to_find_the_quantiles_gives_the_same_table_to_the_bit(alpha):
    """So libraries may compute them otherwise, as exactly or a little less, and no ratio changes."""
    middles = (np.arange(32768) + 0.5) / 65536
    low, high = np.full(32768, -800.0), np.full(32768, np.log(0.5))
    for _ in range(70):
        middle = (low + high) / 2
        below = special.betainc(alpha, alpha, np.exp(middle)) < middles
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    digits, exponent = np.frexp(np.exp(high))
    wanted = np.ldexp(np.round(digits * 65536) / 65536, exponent).astype(np.float32)
    found = sample_beta(torch.from_numpy(middles).float(), alpha)
    np.testing.assert_array_equal(found.numpy(), wanted)
