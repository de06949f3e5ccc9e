"""Which numbers stand for a text's words, and who says so?"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from limbeck.errors import DataError, LimbeckError

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
"""The special tokens of a tokenizer that is trained here, in the order of their ids from 0: BERT's own names."""


def train_tokenizer(texts: Iterable[str], *, vocabulary: int = 8000, max_length: int = 512) -> Any:
    """A tokenizer made from the texts alone: nothing is downloaded, and the same texts give the same tokenizer.

    Byte-pair encoding of lower-cased words and punctuation marks, with BERT's special tokens: a text is
    ``[CLS] ... [SEP]``. What is neither a known piece nor made of known letters is ``[UNK]``.

    Args:
        texts: What the pieces are counted in.
        vocabulary: How many pieces at most, special tokens included.
        max_length: How many tokens the models that it is for can read.

    Returns:
        A ``transformers.PreTrainedTokenizerFast``, which saves and opens as any other:
        ``tokenizer.save_pretrained(folder)``, ``AutoTokenizer.from_pretrained(folder)``.

    Raises:
        LimbeckError: If transformers or tokenizers are not installed (extra ``hf``), or `vocabulary` is too small.
        DataError: If there is no text.

    Example:
        >>> tokenizer = train_tokenizer(["a fine film", "a dull film"], vocabulary=30)
        >>> tokenizer.decode(tokenizer("a Fine film")["input_ids"])
        '[CLS] a fine film [SEP]'

    Source: Sennrich, Haddow and Birch, Neural Machine Translation of Rare Words with Subword Units, 2015,
        arXiv:1508.07909.
    """
    tokenizers, hf = needed("tokenizers"), needed("transformers")
    if vocabulary <= len(SPECIAL):
        raise LimbeckError(
            f"vocabulary={vocabulary} leaves no room beside {len(SPECIAL)} special tokens; try vocabulary=8000."
        )
    made = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=SPECIAL["unk_token"]))
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    # Words begin with a mark of their own: with a prefix or suffix of pieces the library's training is not repeatable.
    first, then = tokenizers.pre_tokenizers.Metaspace(), tokenizers.pre_tokenizers.Punctuation()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([first, then])
    made.decoder = tokenizers.decoders.Metaspace()
    special = list(SPECIAL.values())
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    made.train_from_iterator(_some(texts), trainer)
    begin, end = ((name, made.token_to_id(name)) for name in (SPECIAL["cls_token"], SPECIAL["sep_token"]))
    made.post_processor = tokenizers.processors.BertProcessing(end, begin)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=made, model_input_names=names, model_max_length=max_length, **SPECIAL
    )


def open_tokenizer(folder: str | Path) -> Any:
    """The tokenizer in a folder that ``save_pretrained`` wrote.

    Raises:
        LimbeckError: If transformers is not installed (extra ``hf``).
        DataError: If the folder holds none.
    """
    hf, place = needed("transformers"), Path(folder)
    if not holds_tokenizer(folder):
        raise DataError(
            f"There is no tokenizer in {folder}: type tokenizer.save_pretrained({str(folder)!r}) where you have it, or "
            "leave tokenizer= out, and one is trained from the texts."
        )
    _check_no_code(place)
    try:
        return hf.AutoTokenizer.from_pretrained(str(place), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises a plain Exception of a damaged file
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"The tokenizer in {folder} cannot be opened: {reason}") from error


def _check_no_code(folder: Path) -> None:
    """Refuse a tokenizer that is code of the folder's own: transformers would ask whether to run it.

    Raises:
        DataError: If the folder names such code, or a file that may name it is damaged.
    """
    for name in ("tokenizer_config.json", "config.json"):
        file = folder / name
        try:
            told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        except (ValueError, RecursionError, OSError) as error:
            raise DataError(f"{file} is damaged: it is not JSON ({error}).") from error
        named = told.get("auto_map") if isinstance(told, dict) else None
        # A list is an older form, of the tokenizer alone.
        if named and (not isinstance(named, dict) or "AutoTokenizer" in named):
            raise DataError(
                f"{file} says that its tokenizer is code of the folder's own, which limbeck does not run: take a "
                "tokenizer of transformers, with tokenizer.json."
            )


def holds_tokenizer(folder: str | Path) -> bool:
    """Whether a folder looks like one that a tokenizer's ``save_pretrained`` wrote."""
    return any((Path(folder) / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"))


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse what cannot turn texts into padded rows of numbers.

    Raises:
        LimbeckError: If it is no tokenizer of transformers, or has no token for padding.
    """
    if not callable(tokenizer) or not hasattr(tokenizer, "pad_token_id"):
        ways = 'train_tokenizer(texts), or transformers.AutoTokenizer.from_pretrained("FOLDER")'
        got = "there is none" if tokenizer is None else f"got a {type(tokenizer).__name__}"
        raise LimbeckError(f"Texts need a tokenizer, and {got}: type tokenizer={ways}.")
    if tokenizer.pad_token_id is None:
        raise LimbeckError(
            f"This {type(tokenizer).__name__} has no token for padding, so texts of different lengths cannot stand in "
            "one batch: type tokenizer.pad_token = tokenizer.eos_token."
        )


def needed(module: str) -> ModuleType:
    """A library of the extra ``hf``, or the line that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise LimbeckError(f"Texts need {module}; type: pip install 'limbeck[hf]'") from error


def _some(texts: Iterable[str]) -> list[str]:
    found = list(texts)
    if not found:
        raise DataError("There is no text to train a tokenizer from.")
    return found
