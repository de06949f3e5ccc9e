"""Tiny networks and data on which methods are checked."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.batch import IGNORED
from limbeck.data import ArrayDataset, TokenDataset, train_byte_level_tokenizer
from limbeck.errors import callable_name, unknown_name_error
from limbeck.models import build, seeded
from limbeck.optional_imports import import_optional
from limbeck.random_seeds import fork_rng, make_rng_state
from limbeck.teachers import CrossTokenizerTeacher, Ensemble
from limbeck.testing.tiny_transformer import make_transformers

Trial = Callable[[], tuple[Any, Any, Any]]
"""Makes a student, a teacher, and data for `distill`; equal ones in every call."""

_CLASSES, _EXAMPLES, _SIDE = 3, 48, 8


def get_trial(trial: str | Trial) -> tuple[str, Trial]:
    """Find a trial by its name in `TRIALS`; a function is its own.

    Raises:
        UnknownNameError: If there is no such trial.
    """
    if not isinstance(trial, str):
        return callable_name(trial), trial
    if trial not in TRIALS:
        raise unknown_name_error("trial", trial, TRIALS, then="Or a function that makes student, teacher and data.")
    return trial, TRIALS[trial]


def without_noise(model: Any) -> Any:
    """Copy a model, or several by name, without dropout and BatchNorm.

    Dropout depends on the random state, and BatchNorm on the other examples of a micro-batch, so with either no run
    with accumulated halves could equal one with whole batches.
    """
    if isinstance(model, dict):
        return {name: without_noise(one) for name, one in model.items()}
    if not isinstance(model, nn.Module):
        return model
    plain = copy.deepcopy(model)
    for module in list(plain.modules()):
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                module.add_module(name, nn.Identity())
    return plain


class TinyLanguageModel(nn.Module):
    """A recurrent language model: the logits of the next token at each position.

    Args:
        width: The size of its state.
        vocabulary: The number of tokens.
        seed: The seed of its weights.
    """

    def __init__(self, *, width: int, vocabulary: int = 11, seed: int = 1) -> None:
        super().__init__()
        with fork_rng(make_rng_state(seed)):
            self.layer1 = nn.Embedding(vocabulary, width)
            self.layer2 = nn.GRU(width, width, batch_first=True)
            self.features = nn.Dropout(0.1)
            self.classifier = nn.Linear(width, vocabulary)

    def forward(
        self, input_ids: Int[Tensor, "batch length"], attention_mask: Int[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch length vocabulary"]:
        """The logits. Texts are padded on the right, where no token that counts reads the padding."""
        return self.classifier(self.features(self.layer2(self.layer1(input_ids))[0]))


def _make_language() -> tuple[nn.Module, nn.Module, ArrayDataset]:
    """Prompts of 2 or 3 tokens and completions of 2 to 4 that end with token 0, which is also the padding.

    The column ``privileged`` holds two tokens for each text, its completion's first ones.
    """
    draw = torch.Generator().manual_seed(0)
    width = 7
    ids = torch.randint(1, 11, (_EXAMPLES, width + 1), generator=draw)
    prompt = torch.randint(2, 4, (_EXAMPLES, 1), generator=draw)
    end = prompt + torch.randint(1, 4, (_EXAMPLES, 1), generator=draw)
    place = torch.arange(width + 1)
    ids = ids.masked_fill(place >= end, 0)
    is_label = (place[1:] >= prompt) & (place[1:] <= end)
    labels = ids[:, 1:].masked_fill(~is_label, IGNORED)
    inputs = {"input_ids": ids[:, :-1], "attention_mask": (place[:-1] <= end).long()}
    hints = [row[at : at + 2] for row, at in zip(ids, prompt.flatten().tolist(), strict=True)]
    data = ArrayDataset(inputs, labels, mask=is_label, extra={"privileged": hints})
    return TinyLanguageModel(width=6), TinyLanguageModel(width=12, seed=2).eval(), data


def _make(kind: str) -> tuple[nn.Module, nn.Module, ArrayDataset]:
    return _network(kind, width=4), _network(kind, width=8).eval(), _data(kind)


def _network(kind: str, *, width: int) -> nn.Module:
    if kind == "mlp":
        return build("mlp", inputs=6, classes=_CLASSES, hidden=[width, width], dropout=0.1, seed=1)
    if kind == "cnn":
        return build("cnn", channels=1, classes=_CLASSES, widths=[width, width], size=_SIDE, dropout=0.1, seed=1)
    return build("resnet8", channels=1, classes=_CLASSES, width=width // 2, seed=1)


def _data(kind: str) -> ArrayDataset:
    draw = torch.Generator().manual_seed(0)
    shape = (6,) if kind == "mlp" else (1, _SIDE, _SIDE)
    inputs: Tensor = torch.randn(_EXAMPLES, *shape, generator=draw)
    labels = torch.randint(_CLASSES, (_EXAMPLES,), generator=draw)
    return ArrayDataset(inputs, labels, extra={"privileged": inputs + 0.1})


def _make_several() -> tuple[nn.Module, Ensemble, ArrayDataset]:
    """Three teachers, ``first``, ``second`` and ``third``, for methods of several teachers."""
    teachers = [build("mlp", inputs=6, classes=_CLASSES, hidden=[8, 8], seed=seed).eval() for seed in (2, 3, 4)]
    return _network("mlp", width=4), Ensemble(*teachers, member_names=["first", "second", "third"]), _data("mlp")


def make_language_models() -> tuple[nn.Module, CrossTokenizerTeacher, TokenDataset]:
    """Make two language models with different tokenizers, and texts."""
    hf = import_optional("transformers", extra="hf", purpose="Tokenizers for a trial")
    texts = [f"the {one} and the {other} {end}" for one in _WORDS for other in _WORDS for end in _WORDS[:2]]
    tokenizers = [train_byte_level_tokenizer(texts, vocabulary=vocabulary) for vocabulary in (262, 290)]

    def make(tokenizer: Any, width: int) -> nn.Module:
        model: nn.Module = hf.GPT2LMHeadModel(hf.GPT2Config(
            n_layer=1, n_head=1, n_embd=width, n_positions=32, vocab_size=len(tokenizer), resid_pdrop=0.0,
            embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=0,
        ))  # fmt: skip
        return model

    with seeded(1):
        student, teacher = make(tokenizers[0], 4), make(tokenizers[1], 8).eval()
    data = TokenDataset(texts[:_EXAMPLES], tokenizer=tokenizers[0], max_length=32)
    return student, CrossTokenizerTeacher(teacher, *tokenizers), data


_WORDS = ("cat", "dog", "quick fox", "Größe", "old")

TRIALS: dict[str, Trial] = {
    **{kind: partial(_make, kind) for kind in ("mlp", "cnn", "resnet")},
    "several": _make_several,
    "language": _make_language,
    "transformer": make_transformers,
    "two_tokenizers": make_language_models,
}
"""Networks and data by name. Those before ``transformer`` have the layers ``layer1``, ``layer2``, ``features`` and
``classifier``."""
