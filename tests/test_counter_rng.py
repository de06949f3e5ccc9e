"""Counter-based numbers are splitmix64: pure, uniform and uncorrelated."""

from __future__ import annotations

import torch
from scipy import stats

from limbeck.data import counter_order, counter_uniform
from limbeck.random_seeds import key, mix

WORD = (1 << 64) - 1


def _mix_by_hand(value: int) -> int:
    value &= WORD
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & WORD
    return value ^ (value >> 31)


def _uniform_by_hand(id: int, view: int, seed: int, draw: int, stream: str) -> float:
    row = _mix_by_hand(_mix_by_hand(id + key(seed, stream)) + view)
    return (_mix_by_hand(row + (draw + 1) * 0x9E3779B97F4A7C15) >> 40) / 2**24


def _draws(ids: int = 20_000, views: int = 1, draws: int = 1, **more) -> torch.Tensor:
    id = torch.arange(ids).repeat(views)
    view = torch.arange(views).repeat_interleave(ids)
    return counter_uniform(id, view, seed=0, draws=draws, **more)


def test_mix_is_the_finalizer_of_splitmix64():
    # The published generator, seeded with 0, yields mix(1 g), mix(2 g), ...
    step = torch.tensor(0x9E3779B97F4A7C15 - (1 << 64))
    found = [int(mix(step * n)) & WORD for n in (1, 2, 3)]
    assert found == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_every_number_is_the_one_of_arbitrary_precision_arithmetic():
    ids, views = [0, 1, 2, 59_999, 2**40, 2**63 - 1], [0, 5, 1, 2**33, 3, 2]
    found = counter_uniform(torch.tensor(ids), torch.tensor(views), seed=-3, draws=4, stream="s")
    for row, (id, view) in enumerate(zip(ids, views, strict=True)):
        assert found[row].tolist() == [_uniform_by_hand(id, view, -3, draw, "s") for draw in range(4)]


def test_numbers_do_not_depend_on_the_company():
    whole = _draws(1000, draws=3)
    some = torch.randperm(1000)[:17]
    assert torch.equal(counter_uniform(some, torch.zeros(17, dtype=torch.int64), seed=0, draws=2), whole[some, :2])


def test_numbers_are_in_the_half_open_unit_interval():
    found = _draws(200_000)
    assert found.dtype == torch.float32
    assert float(found.min()) >= 0.0
    assert float(found.max()) < 1.0


def test_mean_and_histogram_are_those_of_a_uniform_variable():
    found = _draws(100_000, draws=2).double()
    # Five standard errors; the seed is fixed, so this cannot flicker.
    assert float((found.mean(0) - 0.5).abs().max()) < 5 * (1 / 12 / 100_000) ** 0.5
    counts = torch.histc(found[:, 0], bins=256, min=0, max=1)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    low_bits = (found[:, 0] * 2**24).long() % 256
    assert stats.chisquare(low_bits.bincount(minlength=256).numpy()).pvalue > 1e-3


def test_neighboring_ids_views_draws_seeds_and_streams_are_uncorrelated():
    grid = _draws(5000, views=4, draws=2).view(4, 5000, 2).double()
    other_seed = counter_uniform(torch.arange(5000), torch.zeros(5000, dtype=torch.int64), seed=1, draws=1).double()
    other_stream = _draws(5000, stream="other").double()
    pairs = {
        "ids": (grid[0, :-1, 0], grid[0, 1:, 0]),
        "views": (grid[0, :, 0], grid[1, :, 0]),
        "draws": (grid[0, :, 0], grid[0, :, 1]),
        "id and view swapped": (grid[:, :4, 0].flatten(), grid[:, :4, 0].T.flatten()),
        "seeds": (grid[0, :, 0], other_seed[:, 0]),
        "streams": (grid[0, :, 0], other_stream[:, 0]),
    }
    for name, (a, b) in pairs.items():
        if name == "id and view swapped":
            assert not torch.equal(a, b)
            continue
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 5 / len(a) ** 0.5, name


def test_orders_are_permutations_that_differ_by_epoch_and_seed():
    orders = [counter_order(500, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(500))
    assert len({tuple(order.tolist()) for order in orders}) == 6


def test_every_example_is_first_equally_often():
    first = torch.tensor([int(counter_order(8, seed=0, epoch=epoch)[0]) for epoch in range(4000)])
    assert stats.chisquare(first.bincount(minlength=8).numpy()).pvalue > 1e-3
