"""Chooses the head of a Hugging Face model, and fits a language model to its tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from limbeck.errors import LimbeckError, nearest, unknown_name_error
from limbeck.model_call import call, vocabulary_size

LANGUAGE_MODELING = "language_modeling"
"""The head of language models: `causal_lm`, or `seq2seq_lm` for an encoder-decoder."""

HEADS = {
    "sequence_classification": "AutoModelForSequenceClassification",
    "image_classification": "AutoModelForImageClassification",
    "causal_lm": "AutoModelForCausalLM",
    "seq2seq_lm": "AutoModelForSeq2SeqLM",
}
"""The heads, and the class of transformers that opens each."""

LANGUAGE_HEADS = ("causal_lm", "seq2seq_lm")

_ENDINGS = {
    "ForSequenceClassification": "sequence_classification",
    "ForImageClassification": "image_classification",
    "ForCausalLM": "causal_lm",
    "LMHeadModel": "causal_lm",
    "ForConditionalGeneration": "seq2seq_lm",
}


def find_head(config: Any) -> str | None:
    """The head that a configuration names in ``architectures``; None if it is none of `HEADS`."""
    for architecture in config.architectures or []:
        for ending, head in _ENDINGS.items():
            # A model of images and texts has the same ending, and is no encoder-decoder.
            if architecture.endswith(ending) and (head != "seq2seq_lm" or config.is_encoder_decoder):
                return head
    return None


def choose_head(name: str, head: str | None, config: Any) -> str:
    """The head to open: the one that was asked for, or that of the configuration.

    Raises:
        LimbeckError: If there is no such head, or the configuration names none.
    """
    if head == LANGUAGE_MODELING:
        return "seq2seq_lm" if config.is_encoder_decoder else "causal_lm"
    chosen = head or find_head(config)
    if chosen in HEADS:
        return chosen
    if chosen is not None:
        raise unknown_name_error("head", chosen, [LANGUAGE_MODELING, *HEADS])
    names = ", ".join(config.architectures or []) or "no architecture"
    raise LimbeckError(f"hf:{name} names {names}, which gives no class or token logits; pass head={' | '.join(HEADS)}.")


def override_config(name: str, config: Any, arguments: Mapping[str, Any]) -> None:
    """Change settings of a configuration, and with the number of layers what it has for each of them.

    Raises:
        LimbeckError: If there is no such setting; the nearest is named.
    """
    # The name that transformers' from_config() takes; on the configuration itself it is a private attribute.
    arguments = {_ATTRIBUTES.get(key, key): value for key, value in arguments.items()}
    # null leaves a setting of another model out.
    arguments = {key: value for key, value in arguments.items() if value is not None or hasattr(config, key)}
    for key in arguments:
        if not hasattr(config, key):
            near = nearest(key, config.to_dict())
            hint = f" Did you mean {near!r}?" if near else ""
            raise LimbeckError(f"The configuration of hf:{name} has no {key!r}.{hint}")
    before, values = find_depth(config), config.to_dict()
    derived = {key for key, derive in _DERIVED.items() if key in values and values[key] == _try(derive, config)}
    for key, value in arguments.items():
        setattr(config, key, value)
    for key in derived - set(arguments):
        setattr(config, key, _try(_DERIVED[key], config))
    for key, value in values.items():
        # A setting with one entry for each layer, such as the kind of attention.
        per_layer = isinstance(value, (list, tuple)) and before is not None and len(value) == before
        if key not in arguments and per_layer and key.startswith(("layer", "mlp_layer")):
            setattr(config, key, [value[i % len(value)] for i in range(find_depth(config) or 0)])


_ATTRIBUTES = {"attn_implementation": "_attn_implementation"}

_DERIVED: Mapping[str, Callable[[Any], int]] = {
    "num_decoder_layers": lambda config: config.num_layers,
    "num_key_value_heads": lambda config: config.num_attention_heads,
    "head_dim": lambda config: config.hidden_size // config.num_attention_heads,
}
"""Settings that a configuration computes from others when it is made, and does not update when those change."""


def _try(derive: Callable[[Any], int], config: Any) -> int | None:
    try:
        return derive(config)
    except (AttributeError, TypeError):  # a configuration without these settings
        return None


def find_depth(config: Any, setting: str = "num_hidden_layers") -> int | None:
    """A number of layers in a configuration; None if it has none of this name."""
    # Models of images in stages have no such number; others have it under an alias, which is in no dictionary.
    depth = getattr(config, setting, None)
    return depth if isinstance(depth, int) else None


def fit_to_tokenizer(config: Any, tokenizer: Any, arguments: Mapping[str, Any]) -> None:
    """Give the configuration of new weights the tokenizer's number of tokens and special tokens.

    Settings in `arguments` are not changed: ``vocab_size`` may be the teacher's, which is often padded.
    """
    values = {"vocab_size": len(tokenizer)}
    values |= {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos")}
    if config.is_encoder_decoder:
        # What the decoder reads first: transformers' own models take the padding token.
        values["decoder_start_token_id"] = tokenizer.pad_token_id
    for key, value in values.items():
        if key not in arguments:
            setattr(config, key, value)


def check_vocabulary(name: str, model: nn.Module, tokenizer: Any) -> None:
    """Refuse a trained language model with fewer tokens than its tokenizer.

    Raises:
        LimbeckError: If there are fewer; both numbers are named.
    """
    tokens = vocabulary_size(model)
    if tokens is not None and tokens < len(tokenizer):
        raise LimbeckError(
            f"hf:{name} embeds {tokens:,} tokens, and the tokenizer has {len(tokenizer):,}, so that some have no row: "
            f"this is the tokenizer of another model. Take that of hf:{name}."
        )


def check_causal(name: str, model: nn.Module, config: Any) -> None:
    """Refuse a model that sees the tokens it has to predict, such as BERT as a causal language model.

    Raises:
        LimbeckError: If the logits at a token change with a later token.
    """
    if config.to_dict().get("is_decoder") is not False:  # most models have no such setting, and are causal
        return
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]]).clamp(max=(vocabulary_size(model) or 6) - 1)
    was_training = model.training
    with torch.no_grad():
        logits = call(model.eval(), {"input_ids": ids}).logits
    model.train(was_training)
    noise = 16 * torch.finfo(logits.dtype).eps * logits.abs().max()
    if bool((logits[0, :3] - logits[1, :3]).abs().max() > noise):
        raise LimbeckError(
            f"hf:{name} reads the tokens that it has to predict: a {config.model_type} is no causal language model. "
            "Type is_decoder=true, or take another model, such as hf:gpt2."
        )
