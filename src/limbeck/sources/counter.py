"""How does a source make random numbers from an example's id and a view's number? With `limbeck.functional.counter`."""

from __future__ import annotations

from limbeck.functional.counter import counter_order, counter_uniform, key, mix

__all__ = ["counter_order", "counter_uniform", "key", "mix"]
