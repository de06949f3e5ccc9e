"""Every arm's settings, chosen on development data with equal effort."""

from limbeck.compare.tuning.search import tune
from limbeck.compare.tuning.space import read_ranges

__all__ = ["read_ranges", "tune"]
