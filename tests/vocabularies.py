"""Small tokenizers for tests of vocabularies: byte-level, renumbered, with further tokens."""

from __future__ import annotations

import json

TEXTS = ["the quick brown fox and the lazy dog, and the other fox", "a small vocabulary of bytes and some words"]


def train_bytes(texts=TEXTS, *, vocabulary=290, special=("<|end|>",), bos=None):
    """A byte-level BPE tokenizer, which can write every text; `special` come first."""
    import tokenizers

    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(special),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(list(texts), trainer)
    return _wrap(inner, special[0], bos)


def renumber(tokenizer, shift=7, *, bos=None):
    """The same tokenizer with other ids: each one `shift` higher, modulo the number of tokens."""
    import tokenizers

    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    size = len(tokenizer)
    rules["model"]["vocab"] = {token: (id + shift) % size for token, id in rules["model"]["vocab"].items()}
    for token in rules["added_tokens"]:
        token["id"] = (token["id"] + shift) % size
    return _wrap(tokenizers.Tokenizer.from_str(json.dumps(rules)), tokenizer.eos_token, bos)


def _wrap(inner, end, bos):
    import tokenizers
    import transformers

    if bos is not None:
        number = inner.token_to_id(bos)
        inner.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, number)]
        )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=end, pad_token=end, bos_token=bos)
