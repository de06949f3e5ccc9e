"""Trains and opens tokenizers, and aligns labels and masks of token batches."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.batch import IGNORED, Batch
from limbeck.errors import DataError, LimbeckError, describe_hub_error
from limbeck.models.hf_folder import holds_tokenizer
from limbeck.models.size_and_hash import unwrap_compiled
from limbeck.optional_imports import import_optional

_DO_NOT_SHIFT = ("XLNetLMHeadModel", "XLMWithLMHeadModel", "FlaubertWithLMHeadModel")


def is_causal_lm(model: Any) -> bool:
    """Whether a model is a causal language model, whose output at a token is compared with the next label.

    Example:
        >>> is_causal_lm(torch.nn.Linear(2, 3))
        False
    """
    name = type(_plain(model)).__name__
    if name.endswith("ForConditionalGeneration"):
        return _encodes_and_decodes(model) is False
    return name.endswith(("ForCausalLM", "LMHeadModel", "LMHeadsModel", "DoubleHeadsModel")) and (
        name not in _DO_NOT_SHIFT
    )


def is_encoder_decoder(model: Any) -> bool:
    """Whether a model is an encoder-decoder language model of transformers, such as T5.

    Example:
        >>> is_encoder_decoder(torch.nn.Linear(2, 3))
        False
    """
    # A classifier on top of an encoder-decoder has labels of another kind.
    writes = hasattr(_plain(model), "prepare_decoder_input_ids_from_labels")
    return writes and _encodes_and_decodes(model) is True


def _encodes_and_decodes(model: Any) -> bool | None:
    try:
        return bool(_plain(model).config.is_encoder_decoder)
    except AttributeError:  # not a model of transformers
        return None


def _plain(model: Any) -> Any:
    """The module inside a compiled one or an adapter."""
    inner: Any = unwrap_compiled(model) if isinstance(model, torch.nn.Module) else model  # None: no model is known
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


LabelFormat = Literal["output", "token", "decoder"]
"""Where labels are: at the model output that predicts them; at their own token, as in Hugging Face data for causal
models; or they are the text that a decoder writes."""


def find_label_format(*models: Any) -> LabelFormat:
    """The format of labels in Hugging Face data for these models.

    Raises:
        LimbeckError: If one is causal and another an encoder-decoder, whose labels differ.

    Example:
        >>> find_label_format(torch.nn.Linear(2, 3))
        'output'
    """
    causal, decoding = (any(map(kind, models)) for kind in (is_causal_lm, is_encoder_decoder))
    if causal and decoding:
        raise LimbeckError(
            "A causal language model and an encoder-decoder read different inputs, so they cannot share batches with "
            "labels. Take two models of one kind."
        )
    return "token" if causal else "decoder" if decoding else "output"


def token_batch(batch: Batch, *, label_format: LabelFormat = "output") -> Batch:
    """Set the mask of a batch of tokens, and align labels with model outputs.

    Without another mask, the ``attention_mask`` is the mask. Labels in the format of Hugging Face models are at their
    own token, but a causal model predicts them one token earlier. They are shifted by one, and the mask is true where
    there is a label. Labels that are already shifted are not changed. The labels of an encoder-decoder are put into the
    inputs too, for `limbeck.model_call.with_decoder_inputs`.

    Args:
        batch: A batch whose inputs are a mapping; other batches are returned unchanged.
        label_format: The format of the labels (see `find_label_format`).
    """
    if not isinstance(batch.inputs, dict) or batch.mask is not None:
        return batch
    batch = batch._replace(mask=_find_mask(batch))
    labels = batch.labels
    if label_format == "output" or labels is None or labels.ndim != 2:
        return batch
    if label_format == "decoder":
        return batch._replace(inputs={**batch.inputs, "labels": labels}, mask=labels != IGNORED)
    if not _labels_are_shifted(labels, batch.inputs.get("input_ids")):
        labels = shift_labels(labels)
    return batch._replace(labels=labels, mask=labels != IGNORED)


def shift_labels(labels: Int[Tensor, "batch width"]) -> Int[Tensor, "batch width"]:
    """Move labels from their own token to the model output that predicts it, one token earlier."""
    return torch.cat([labels[:, 1:], labels.new_full((len(labels), 1), IGNORED)], 1)


def labels_are_inputs(labels: Tensor | None, inputs: Any) -> bool:
    """Whether labels equal the input tokens at the same positions, so that a model would learn to copy.

    For an encoder-decoder, these are the inputs of the decoder.
    """
    if isinstance(inputs, dict):
        inputs = None if "labels" in inputs else inputs.get("decoder_input_ids", inputs.get("input_ids"))
    ids = inputs
    if labels is None or labels.ndim != 2 or not isinstance(ids, Tensor) or ids.shape != labels.shape:
        return False
    if ids.is_floating_point() or ids.shape[1] < 2:
        return False
    labeled = labels != IGNORED
    moves = (ids[:, 1:] != ids[:, :-1])[labeled[:, :-1]]
    return bool(moves.any()) and bool((labels == ids.to(labels.device))[labeled].all())


def _find_mask(batch: Batch) -> Tensor | None:
    """The positions of model outputs that are not padding."""
    inputs = batch.inputs
    decodes = "decoder_input_ids" in inputs
    mask = inputs.get("decoder_attention_mask" if decodes else "attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return None
    if batch.labels is not None and batch.labels.ndim == 2 and batch.labels.shape != mask.shape:
        return None
    return mask.bool()


def _labels_are_shifted(labels: Tensor, ids: Any) -> bool:
    """Whether each label is the next input token, not the one at the same position."""
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
"""The special tokens of a trained tokenizer, in the order of their ids from 0, with BERT's names."""


def train_tokenizer(texts: Iterable[str], *, vocabulary: int = 8000, max_length: int = 512) -> Any:
    """Train a tokenizer on texts, without downloads; the same texts give the same tokenizer.

    It uses byte-pair encoding of lower-case words and punctuation, with BERT's special tokens: a text becomes
    ``[CLS] ... [SEP]``. Unknown characters become ``[UNK]``.

    Args:
        texts: The training texts.
        vocabulary: Maximum vocabulary size, including special tokens.
        max_length: Maximum number of tokens per text.

    Returns:
        A ``transformers.PreTrainedTokenizerFast``, with the usual methods to save and load:
        ``tokenizer.save_pretrained(folder)``, ``AutoTokenizer.from_pretrained(folder)``.

    Raises:
        LimbeckError: If transformers or tokenizers are not installed (extra ``hf``), or `vocabulary` is too small.
        DataError: If there is no text.

    Example:
        >>> tokenizer = train_tokenizer(["a fine film", "a dull film"], vocabulary=30)
        >>> tokenizer.decode(tokenizer("a Fine film")["input_ids"])
        '[CLS] a fine film[SEP]'

    Source: Sennrich, Haddow and Birch, Neural Machine Translation of Rare Words with Subword Units, 2015,
        arXiv:1508.07909.
    """
    tokenizers, hf = import_text_library("tokenizers"), import_text_library("transformers")
    if vocabulary <= len(SPECIAL):
        raise LimbeckError(
            f"vocabulary={vocabulary} must be above {len(SPECIAL)}, the number of special tokens; try vocabulary=8000."
        )
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=SPECIAL["unk_token"]))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    # Metaspace marks the start of words: with a prefix or suffix of pieces, training is not deterministic.
    first, then = tokenizers.pre_tokenizers.Metaspace(), tokenizers.pre_tokenizers.Punctuation()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([first, then])
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    special = list(SPECIAL.values())
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(_check_not_empty(texts), trainer)
    begin, end = ((name, tokenizer.token_to_id(name)) for name in (SPECIAL["cls_token"], SPECIAL["sep_token"]))
    tokenizer.post_processor = tokenizers.processors.BertProcessing(end, begin)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    own = {"tokenizer_object": tokenizer, "model_input_names": names, "model_max_length": max_length}
    return hf.PreTrainedTokenizerFast(**own, **SPECIAL)


END_OF_TEXT = "<|endoftext|>"
"""The only special token of a trained byte-level tokenizer, as in GPT-2: it ends texts and pads."""


def train_byte_level_tokenizer(texts: Iterable[str], *, vocabulary: int = 8000, max_length: int = 512) -> Any:
    r"""Train a tokenizer for language models on texts, without downloads; the same texts give the same tokenizer.

    It uses byte-pair encoding of bytes, as GPT-2 does: every text can be written, and ``decode`` gives back the same
    characters. Token 0, ``<|endoftext|>``, ends texts and pads; no token begins them.

    Args:
        texts: The training texts.
        vocabulary: Maximum vocabulary size, at least 257: the bytes and the end token.
        max_length: The number of tokens that a model reads at a time, for ``model_max_length``.

    Returns:
        A ``transformers.PreTrainedTokenizerFast``.

    Raises:
        LimbeckError: If transformers or tokenizers are not installed (extra ``hf``), or `vocabulary` is too small.
        DataError: If there is no text.

    Example:
        >>> tokenizer = train_byte_level_tokenizer(["To be, or not to be"], vocabulary=270)
        >>> tokenizer.decode(tokenizer("  Not Tobé!\n")["input_ids"])
        '  Not Tobé!\n'

    Source: Radford et al., Language Models are Unsupervised Multitask Learners, 2019, section 2.2.
    """
    tokenizers, hf = import_text_library("tokenizers"), import_text_library("transformers")
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    if vocabulary <= len(alphabet):
        raise LimbeckError(
            f"vocabulary={vocabulary} must be above {len(alphabet)}, the number of bytes; try vocabulary=8000."
        )
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    # Offsets without the space in front would move the border of a prompt.
    tokenizer.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END_OF_TEXT], initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(_check_not_empty(texts), trainer)
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=["input_ids", "attention_mask"], model_max_length=max_length,
        eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def open_tokenizer(folder: str | Path) -> Any:
    """Open a tokenizer from a folder written by ``save_pretrained``, or ``hf:NAME`` from the Hugging Face hub.

    Raises:
        LimbeckError: If transformers is not installed (extra ``hf``).
        DataError: If there is no tokenizer.
    """
    hf, path = import_text_library("transformers"), Path(str(folder).removeprefix("hf:"))
    if str(folder).startswith("hf:") and not path.exists():
        return _open_hub_tokenizer(hf, str(path))
    if not holds_tokenizer(path):
        raise DataError(
            f"There is no tokenizer in {path}. Save one with tokenizer.save_pretrained({str(path)!r}), or leave "
            "tokenizer= out to train one on the texts."
        )
    _check_no_code(path)
    try:
        return hf.AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises a plain Exception for a damaged file
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"The tokenizer in {path} cannot be opened: {reason}") from error


def _open_hub_tokenizer(hf: Any, name: str) -> Any:
    try:
        return hf.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # the hub's client and tokenizers raise errors of many kinds
        reason = describe_hub_error(name, error)
        raise DataError(f"The tokenizer of hf:{name} cannot be opened: {reason}") from error


TOKENIZER_FOLDER = "tokenizer"
"""The folder of the files of `tokenizer_files`."""


def tokenizer_files(tokenizer: Any) -> dict[str, bytes]:
    """Return the files that ``save_pretrained`` writes, by name below ``tokenizer/``."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {f"{TOKENIZER_FOLDER}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in files}


def _check_no_code(folder: Path) -> None:
    """Raise for a tokenizer with custom code, for which transformers would prompt the user.

    Raises:
        DataError: If the folder has custom code, or its configuration is damaged.
    """
    for name in ("tokenizer_config.json", "config.json"):
        file = folder / name
        try:
            config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        except (ValueError, RecursionError, OSError) as error:
            raise DataError(f"{file} is damaged: it is not JSON ({error}).") from error
        named = config.get("auto_map") if isinstance(config, dict) else None
        # In an older format, auto_map is a list for the tokenizer only.
        if named and (not isinstance(named, dict) or "AutoTokenizer" in named):
            raise DataError(
                f"{file} refers to custom tokenizer code, which limbeck does not run. Use a tokenizer of "
                "transformers, with tokenizer.json."
            )


def check_tokenizer(tokenizer: Any) -> None:
    """Check that an object is a tokenizer that can pad texts.

    Raises:
        LimbeckError: If it is not a tokenizer of transformers, or has no padding token.
    """
    if not callable(tokenizer) or not hasattr(tokenizer, "pad_token_id"):
        ways = 'train_tokenizer(texts), or transformers.AutoTokenizer.from_pretrained("FOLDER")'
        got = "there is none" if tokenizer is None else f"got a {type(tokenizer).__name__}"
        raise LimbeckError(f"Texts need a tokenizer, but {got}. Use tokenizer={ways}.")
    if tokenizer.pad_token_id is None:
        raise LimbeckError(
            f"This {type(tokenizer).__name__} has no padding token, so texts of different lengths cannot be in one "
            "batch. Set tokenizer.pad_token = tokenizer.eos_token."
        )


def import_text_library(module: str) -> ModuleType:
    """Import a library of the extra ``hf``; the error has the install command."""
    return import_optional(module, extra="hf", purpose="A tokenizer")


def _check_not_empty(texts: Iterable[str]) -> list[str]:
    if text_list := list(texts):
        return text_list
    raise DataError("There are no texts to train a tokenizer.")


def count_token_bytes(tokenizer: Any) -> Int[Tensor, " vocabulary"] | None:
    """Count the bytes of text in UTF-8 that each token stands for; 0 for special tokens.

    Byte-level tokens (GPT-2), byte tokens (``<0x0A>``), and the marks of spaces (``▁``) and of the middle of a word
    (``##``) are counted as the bytes of the text they stand for.

    Args:
        tokenizer: A tokenizer of transformers.

    Returns:
        The bytes of each token; None if the tokenizer is not a fast one, so that the meaning of its tokens is unknown.

    Example:
        >>> tokenizer = train_tokenizer(["a b"], vocabulary=30)
        >>> sizes = count_token_bytes(tokenizer)
        >>> int(sizes[tokenizer("a b")["input_ids"]].sum())  # one more than the text: a mark begins each word
        4
    """
    if not hasattr(tokenizer, "backend_tokenizer"):
        return None
    decoder = json.dumps(json.loads(tokenizer.backend_tokenizer.to_str()).get("decoder") or {})
    kinds = {name for name in ("ByteLevel", "WordPiece") if f'"type": "{name}"' in decoder}
    added = tokenizer.added_tokens_decoder
    special = {*tokenizer.all_special_tokens, *(str(token) for token in added.values() if token.special)}
    vocabulary = tokenizer.get_vocab()
    sizes = torch.zeros(max(vocabulary.values()) + 1, dtype=torch.int64)
    for token, number in vocabulary.items():
        # The string of an added token is its text, also among byte-level tokens.
        own = kinds - {"ByteLevel"} if number in added else kinds
        sizes[number] = 0 if token in special else _byte_count(token, own)
    return sizes


def _byte_count(token: str, kinds: set[str]) -> int:
    if "ByteLevel" in kinds:
        return len(token)  # each character stands for one byte
    if re.fullmatch("<0x[0-9A-F]{2}>", token):
        return 1
    if "WordPiece" in kinds:
        return len(token.removeprefix("##").encode()) + (not token.startswith("##"))
    return len(token.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode())
