"""What are the models asked?"""

from __future__ import annotations

from limbeck.sources.arrays import Arrays
from limbeck.sources.augment import (
    Chain,
    Crop,
    CutMix,
    CutOut,
    Flip,
    Jitter,
    Mixup,
    RandAugment,
    ResizedCrop,
    mix_of,
    view_of,
)
from limbeck.sources.coerce import as_source
from limbeck.sources.counter import counter_order, counter_uniform
from limbeck.sources.damage import verify
from limbeck.sources.encoding import CategoryColumn, NumberColumn, TableEncoding
from limbeck.sources.examples import Examples, Subset, split, subsample
from limbeck.sources.half_special import HalfSpecial
from limbeck.sources.images import ImageFolder
from limbeck.sources.loader import Loader
from limbeck.sources.mix import Mix
from limbeck.sources.named import DataSet, load_data
from limbeck.sources.npz import read_npz
from limbeck.sources.raw_texts import Tokenised
from limbeck.sources.reads import Field, Pixels, Reads, Unchanged, encoding_of, reads_from_dict, reads_of
from limbeck.sources.share import share
from limbeck.sources.source import Shuffled, Source
from limbeck.sources.summary import ColumnSummary, DataSummary, PartSummary, silenced, summarize
from limbeck.sources.table import read_split_table, read_table
from limbeck.sources.texts import Texts
from limbeck.sources.tokenizer import holds_tokenizer, open_tokenizer, train_tokenizer
from limbeck.sources.view import Shift, View

__all__ = [
    "Arrays",
    "CategoryColumn",
    "Chain",
    "ColumnSummary",
    "Crop",
    "CutMix",
    "CutOut",
    "DataSet",
    "DataSummary",
    "Examples",
    "Field",
    "Flip",
    "HalfSpecial",
    "ImageFolder",
    "Jitter",
    "Loader",
    "Mix",
    "Mixup",
    "NumberColumn",
    "PartSummary",
    "Pixels",
    "RandAugment",
    "Reads",
    "ResizedCrop",
    "Shift",
    "Shuffled",
    "Source",
    "Subset",
    "TableEncoding",
    "Texts",
    "Tokenised",
    "Unchanged",
    "View",
    "as_source",
    "counter_order",
    "counter_uniform",
    "encoding_of",
    "holds_tokenizer",
    "load_data",
    "mix_of",
    "open_tokenizer",
    "read_npz",
    "read_split_table",
    "read_table",
    "reads_from_dict",
    "reads_of",
    "share",
    "silenced",
    "split",
    "subsample",
    "summarize",
    "train_tokenizer",
    "verify",
    "view_of",
]
