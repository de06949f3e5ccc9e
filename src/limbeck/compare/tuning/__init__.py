"""Hyper-parameter search for every arm, with equal effort."""

from limbeck.compare.tuning.search import tune
from limbeck.compare.tuning.search_space import read_ranges

__all__ = ["read_ranges", "tune"]
