"""Tokenizers: training a small one, opening one from a folder, and batches of tokens."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from limbeck.batch import IGNORED, Batch
from limbeck.errors import DataError, LimbeckError

_DO_NOT_SHIFT = ("XLNetLMHeadModel", "XLMWithLMHeadModel", "FlaubertWithLMHeadModel")


def is_causal_lm(model: Any) -> bool:
    """Whether a model compares its answer at a token with the label of the next, as causal language models do.

    Example:
        >>> shifts(torch.nn.Linear(2, 3))
        False
    """
    inner = getattr(model, "_orig_mod", model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    name = type(inner).__name__
    if name.endswith("ForConditionalGeneration"):
        return getattr(getattr(inner, "config", None), "is_encoder_decoder", True) is False
    return name.endswith(("ForCausalLM", "LMHeadModel", "LMHeadsModel", "DoubleHeadsModel")) and (
        name not in _DO_NOT_SHIFT
    )


def token_batch(batch: Batch, *, shifted: bool = False) -> Batch:
    """A batch out of a mapping of columns, with a mask and labels at the tokens where a model answers.

    An ``attention_mask`` is the mask, where there is no other. Labels as Hugging Face's models take them stand at the
    token that they name; a causal model says it one token earlier, so they are moved there, and the mask is where there
    is a label. Labels that stand there already are left.

    Args:
        batch: With inputs by name; any other is returned as it is.
        shifted: Whether the model is such a one; `shifts` says it.
    """
    if not isinstance(batch.inputs, dict) or batch.mask is not None:
        return batch
    batch = batch._replace(mask=_find_mask(batch))
    labels = batch.labels
    if not shifted or labels is None or labels.ndim != 2:
        return batch
    if not _labels_are_shifted(labels, batch.inputs.get("input_ids")):
        labels = torch.cat([labels[:, 1:], labels.new_full((len(labels), 1), IGNORED)], 1)
    return batch._replace(labels=labels, mask=labels != IGNORED)


def labels_are_inputs(labels: Tensor | None, inputs: Any) -> bool:
    """Whether labels are nothing but the tokens that a model reads at the same places: it would learn to copy."""
    ids = inputs.get("input_ids") if isinstance(inputs, dict) else inputs
    if labels is None or labels.ndim != 2 or not isinstance(ids, Tensor) or ids.shape != labels.shape:
        return False
    if ids.is_floating_point() or ids.shape[1] < 2:
        return False
    labeled = labels != IGNORED
    moves = (ids[:, 1:] != ids[:, :-1])[labeled[:, :-1]]
    return bool(moves.any()) and bool((labels == ids.to(labels.device))[labeled].all())


def _find_mask(batch: Batch) -> Tensor | None:
    """Where the model's answers stand at tokens that are no padding."""
    inputs = batch.inputs
    decodes = "decoder_input_ids" in inputs
    mask = inputs.get("decoder_attention_mask" if decodes else "attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return None
    if batch.labels is not None and batch.labels.ndim == 2 and batch.labels.shape != mask.shape:
        return None
    return mask.bool()


def _labels_are_shifted(labels: Tensor, ids: Any) -> bool:
    """Whether each label is the token after its place, and not the one at it."""
    if not isinstance(ids, Tensor) or ids.shape != labels.shape:
        return False
    labeled = labels[:, :-1] != IGNORED
    follows, is_at = (labels[:, :-1] == ids[:, 1:])[labeled], (labels[:, :-1] == ids[:, :-1])[labeled]
    return bool(len(follows)) and bool(follows.all()) and not bool(is_at.all())


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
    tokenizers, hf = import_text_library("tokenizers"), import_text_library("transformers")
    if vocabulary <= len(SPECIAL):
        raise LimbeckError(
            f"vocabulary={vocabulary} leaves no room beside {len(SPECIAL)} special tokens; try vocabulary=8000."
        )
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=SPECIAL["unk_token"]))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    # Words begin with a mark of their own: with a prefix or suffix of pieces the library's training is not repeatable.
    first, then = tokenizers.pre_tokenizers.Metaspace(), tokenizers.pre_tokenizers.Punctuation()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([first, then])
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    special = list(SPECIAL.values())
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(_check_not_empty(texts), trainer)
    begin, end = ((name, tokenizer.token_to_id(name)) for name in (SPECIAL["cls_token"], SPECIAL["sep_token"]))
    tokenizer.post_processor = tokenizers.processors.BertProcessing(end, begin)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=names, model_max_length=max_length, **SPECIAL
    )


def open_tokenizer(folder: str | Path) -> Any:
    """The tokenizer in a folder that ``save_pretrained`` wrote.

    Raises:
        LimbeckError: If transformers is not installed (extra ``hf``).
        DataError: If the folder holds none.
    """
    hf, path = import_text_library("transformers"), Path(folder)
    if not holds_tokenizer(folder):
        raise DataError(
            f"There is no tokenizer in {folder}: type tokenizer.save_pretrained({str(folder)!r}) where you have it, or "
            "leave tokenizer= out, and one is trained from the texts."
        )
    _check_no_code(path)
    try:
        return hf.AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
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
            config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        except (ValueError, RecursionError, OSError) as error:
            raise DataError(f"{file} is damaged: it is not JSON ({error}).") from error
        named = config.get("auto_map") if isinstance(config, dict) else None
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


def import_text_library(module: str) -> ModuleType:
    """A library of the extra ``hf``, or the line that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise LimbeckError(f"Texts need {module}; type: pip install 'limbeck[hf]'") from error


def _check_not_empty(texts: Iterable[str]) -> list[str]:
    text_list = list(texts)
    if not text_list:
        raise DataError("There is no text to train a tokenizer from.")
    return text_list
