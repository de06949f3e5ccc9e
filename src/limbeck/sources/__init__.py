"""What are the models asked?"""

from __future__ import annotations

from limbeck.sources.arrays import Arrays
from limbeck.sources.coerce import as_source
from limbeck.sources.counter import counter_order, counter_uniform
from limbeck.sources.examples import Examples, Subset, split, subsample
from limbeck.sources.loader import Loader
from limbeck.sources.reads import Field, Pixels, Reads, Unchanged, reads_from_dict
from limbeck.sources.share import share
from limbeck.sources.source import Shuffled, Source
from limbeck.sources.view import Shift, View

__all__ = [
    "Arrays",
    "Examples",
    "Field",
    "Loader",
    "Pixels",
    "Reads",
    "Shift",
    "Shuffled",
    "Source",
    "Subset",
    "Unchanged",
    "View",
    "as_source",
    "counter_order",
    "counter_uniform",
    "reads_from_dict",
    "share",
    "split",
    "subsample",
]
