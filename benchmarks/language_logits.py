"""Logits of small language models that are trained here."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.encoding_errors import posterior_logits
from limbeck.data.builtin_datasets import data_folders
from limbeck.models import seeded

_TEXT, _TOKENS = "wikitext2_small", "gpt2_bpe"
_CONTEXT = 8
_STEPS, _BATCH = 400, 256


class Answers(NamedTuple):
    """Logits for the measurement of encodings.

    Attributes:
        logits: ``[rows, classes]``.
        source: Description of the model, for the record.
    """

    logits: Float[Tensor, "rows classes"]
    source: str


def word_answers(classes: int = 1000, *, rows: int = 2000) -> Answers:
    """Logits of a model of WikiText-2's most frequent words on unseen text; synthetic logits without WikiText-2."""
    texts = _texts()
    if texts is None:
        return _made_up(rows, classes)
    train, unseen = (re.findall(r"\w+", text.lower()) for text in texts)
    number = {word: i for i, (word, _) in enumerate(Counter(train).most_common(classes))}
    seen_ids, unseen_ids = (
        torch.tensor([number[word] for word in words if word in number]) for words in (train, unseen)
    )
    return Answers(
        _trained(seen_ids, unseen_ids, classes, rows), f"a model of the {classes} most frequent words of WikiText-2"
    )


def token_answers(*, rows: int = 500) -> Answers:
    """The same for a model of GPT-2's 50,257 tokens; this needs the package tokenizers too."""
    texts, classes = _texts(), 50_257
    encode = _encoder()
    if texts is None or encode is None:
        return _made_up(rows, classes)
    train, unseen = (torch.tensor(encode(text)) for text in texts)
    return Answers(_trained(train, unseen, classes, rows), "a model of GPT-2's tokens of WikiText-2")


def _made_up(rows: int, classes: int) -> Answers:
    zipf = 1.0 if classes > 10_000 else 0.0
    return Answers(
        posterior_logits(rows, classes, zipf=zipf), "exact posteriors of made-up classes, no trained model's"
    )


class _Model(nn.Module):
    """A language model: mean and last of a few tokens' embeddings, a hidden layer, and logits of all tokens."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(classes, 64)
        self.body = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 64))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, context: Int[Tensor, "batch context"]) -> Float[Tensor, "batch classes"]:
        """The logits of the next token; the output layer has the weights of the embedding."""
        embedded = self.embed(context)
        hidden = self.body(torch.cat([embedded.mean(1), embedded[:, -1]], -1))
        return F.linear(hidden, self.embed.weight, self.bias)


def _trained(train: Tensor, unseen: Tensor, classes: int, rows: int) -> Tensor:
    with seeded(0):
        model = _Model(classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    draw = torch.Generator().manual_seed(0)
    reach = torch.arange(_CONTEXT + 1)
    for step in range(_STEPS):
        window = train[torch.randint(len(train) - _CONTEXT, (_BATCH, 1), generator=draw) + reach]
        loss = F.cross_entropy(model(window[:, :-1]), window[:, -1])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / _STEPS)
        optimizer.step()
    context = unseen[torch.randint(len(unseen) - _CONTEXT, (rows, 1), generator=draw) + reach[:-1]]
    with torch.no_grad():
        return torch.cat([model(part) for part in context.split(250)])


def _texts() -> tuple[str, str] | None:
    for place in data_folders(None):
        files = [place / _TEXT / f"{part}.txt.gz" for part in ("test", "valid")]
        if all(file.is_file() for file in files):
            train, unseen = (gzip.decompress(file.read_bytes()).decode() for file in files)
            return train, unseen
    return None


def _encoder() -> Callable[[str], list[int]] | None:
    try:
        from tokenizers.implementations import ByteLevelBPETokenizer
    except ImportError:
        return None
    for place in data_folders(None):
        files = [place / _TOKENS / name for name in ("encoder.json.gz", "vocab.bpe.gz")]
        if all(file.is_file() for file in files):
            return _tokenizer(ByteLevelBPETokenizer, *files)
    return None


def _tokenizer(kind: Callable[..., object], vocabulary: Path, merges: Path) -> Callable[[str], list[int]]:
    token_ids = json.loads(gzip.decompress(vocabulary.read_bytes()))
    lines = gzip.decompress(merges.read_bytes()).decode().split("\n")[1:]
    pairs = [tuple(line.split()) for line in lines if line]
    tokenizer = kind(token_ids, pairs)
    return lambda text: tokenizer.encode(text).ids  # type: ignore[attr-defined]
