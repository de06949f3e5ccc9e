"""Data sets, loaders and transforms."""

from __future__ import annotations

from limbeck.data.adversarial_loader import AdversarialLoader, Attack
from limbeck.data.arrays import ArrayDataset
from limbeck.data.balanced_loader import BalancedLoader, group_by_superclass
from limbeck.data.builtin_datasets import draw_digits
from limbeck.data.cached_texts import open_cached_texts
from limbeck.data.dataset import Dataset, Subset, split, subsample
from limbeck.data.image_file import verify
from limbeck.data.image_folder import ImageFolder
from limbeck.data.load import find_prompt_files, load_data, reads_language
from limbeck.data.loader import Loader, ShuffledLoader, shard_batch
from limbeck.data.masked_loader import BatchMasks, MaskedLoader
from limbeck.data.npz import read_npz
from limbeck.data.position_selection import PositionSubset, select_positions, select_rows
from limbeck.data.preprocess import (
    Identity,
    NormalizeImages,
    Preprocess,
    SelectColumn,
    load_encoding,
    load_preprocess,
    preprocess_from_dict,
)
from limbeck.data.prompt_dataset import PromptDataset
from limbeck.data.rollout_texts import Replay
from limbeck.data.rollouts import RolloutLoader, Rollouts
from limbeck.data.specialist_loader import SpecialistLoader
from limbeck.data.splits import ColumnSummary, DataSplits, DataSummary, PartSummary, silenced, summarize
from limbeck.data.table import read_split_table, read_table
from limbeck.data.table_encoding import CategoryColumn, NumberColumn, TableEncoding
from limbeck.data.texts import TextDataset, TokenizeOnRead
from limbeck.data.token_dataset import TokenDataset
from limbeck.data.token_pairs import TokenPairDataset, find_token_data, split_texts
from limbeck.data.tokenized_texts import TokenizedTexts, tokenize_texts
from limbeck.data.tokenizer import holds_tokenizer, open_tokenizer, train_byte_level_tokenizer, train_tokenizer
from limbeck.data.torch_loader import TorchLoader, as_loader
from limbeck.data.transform import BatchMix, Transform
from limbeck.data.transforms.color import ColorJitter
from limbeck.data.transforms.geometry import Crop, Cutout, Flip, RandomShift, ResizedCrop
from limbeck.data.transforms.mixup import CutMix, Mixup
from limbeck.data.transforms.rand_augment import RandAugment
from limbeck.data.transforms.registry import Chain, make_mix, make_transform
from limbeck.data.written_share import AdaptiveShare
from limbeck.models.vocabulary import hash_tokenizer
from limbeck.random_seeds import counter_order, counter_uniform

__all__ = [
    "AdaptiveShare",
    "AdversarialLoader",
    "ArrayDataset",
    "Attack",
    "BalancedLoader",
    "BatchMasks",
    "BatchMix",
    "CategoryColumn",
    "Chain",
    "ColorJitter",
    "ColumnSummary",
    "Crop",
    "CutMix",
    "Cutout",
    "DataSplits",
    "DataSummary",
    "Dataset",
    "Flip",
    "Identity",
    "ImageFolder",
    "Loader",
    "MaskedLoader",
    "Mixup",
    "NormalizeImages",
    "NumberColumn",
    "PartSummary",
    "PositionSubset",
    "Preprocess",
    "PromptDataset",
    "RandAugment",
    "RandomShift",
    "Replay",
    "ResizedCrop",
    "RolloutLoader",
    "Rollouts",
    "SelectColumn",
    "ShuffledLoader",
    "SpecialistLoader",
    "Subset",
    "TableEncoding",
    "TextDataset",
    "TokenDataset",
    "TokenPairDataset",
    "TokenizeOnRead",
    "TokenizedTexts",
    "TorchLoader",
    "Transform",
    "as_loader",
    "counter_order",
    "counter_uniform",
    "draw_digits",
    "find_prompt_files",
    "find_token_data",
    "group_by_superclass",
    "hash_tokenizer",
    "holds_tokenizer",
    "load_data",
    "load_encoding",
    "load_preprocess",
    "make_mix",
    "make_transform",
    "open_cached_texts",
    "open_tokenizer",
    "preprocess_from_dict",
    "read_npz",
    "read_split_table",
    "read_table",
    "reads_language",
    "select_positions",
    "select_rows",
    "shard_batch",
    "silenced",
    "split",
    "split_texts",
    "subsample",
    "summarize",
    "tokenize_texts",
    "train_byte_level_tokenizer",
    "train_tokenizer",
    "verify",
]
