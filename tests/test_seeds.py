"""Derived seeds are unrelated to each other and to typed seeds."""

from __future__ import annotations

from limbeck.random_seeds import derive_seed


def test_seeds_of_all_purposes_and_repetitions_differ():
    names = [f"branch {key}-{number}" for key in range(5) for number in range(10)] + ["head 0", "specialist 1"]
    found = {derive_seed(seed, name) for seed in range(100) for name in names}
    assert len(found) == 100 * len(names)
    assert not found & set(range(10_000))


def test_a_seed_stays_what_it_was():
    assert derive_seed(0, "head 0") == 3652220729
    assert 0 <= derive_seed(-(2**70), "") < 2**32
