"""Helpers: a small language model with tied embeddings, its data, and runs with and without its logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import IGNORED, Batch
from limbeck.data import Dataset, ShuffledLoader
from limbeck.engine import distill
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import Loss
from limbeck.recipe import Optimizer, Stage
from limbeck.schedule import ramp

WORDS, WIDTH = 40, 8
SGD = Optimizer("sgd", lr=0.5, decay="constant", options={"momentum": 0.9})


class Counting(nn.Linear):
    """An output layer that counts the rows for which it was called."""

    rows = 0

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self.rows += x.shape[:-1].numel()
        return super().forward(x)


class Language(nn.Module):
    """From token ids to logits, with tied embeddings: the weight is used at two places."""

    def __init__(
        self, seed: int = 0, *, width: int = WIDTH, tied: bool = True, words: int = WORDS, bias: bool = False
    ) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embed = nn.Embedding(words, width)
            self.body = nn.GRU(width, width, batch_first=True)
            self.head = Counting(width, words, bias=bias)
            if tied:
                self.head.weight = self.embed.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.body(self.embed(input_ids))[0])


class Tokens(Dataset):
    """Texts of random tokens, with unevenly masked labels, and the mask of all tokens under the name `text`."""

    ragged = True
    fingerprint = "tokens"

    def __init__(self, rows: int = 12, length: int = 9, words: int = WORDS) -> None:
        draw = torch.Generator().manual_seed(0)
        self._tokens = torch.randint(words, (rows, length), generator=draw)
        self._keep = torch.rand(rows, length - 1, generator=draw) < torch.linspace(0.9, 0.2, rows)[:, None]
        self._keep[:, -1] = True

    def __len__(self) -> int:
        return len(self._tokens)

    def take(self, index: Tensor) -> Batch:
        tokens, keep = self._tokens[index], self._keep[index]
        labels = tokens[:, 1:].masked_fill(~keep, IGNORED)
        text = torch.ones_like(keep)
        return Batch({"input_ids": tokens[:, :-1]}, index, None, labels, keep, {"masks": {"text": text}})


def objective() -> Any:
    return 0.3 * Loss(cross_entropy) + ramp(0.7, start=0.4) * Loss(kl_divergence, temperature=2.0)


def train(student: nn.Module, fuse: Any, *, stage: Stage | None = None, batch_size: int = 4, **setting: Any) -> Any:
    stage = stage or Stage(objective(), teacher=Language(1, width=12), steps=6, optimizer=SGD)
    loader = ShuffledLoader(Tokens(), batch_size=batch_size)
    return distill(student, stage, loader, fuse_output_layer=fuse, log_every=2, **setting).finish()


def assert_same(one: nn.Module, other: nn.Module, *, close: float = 1e-10) -> None:
    for (name, mine), its in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=close, atol=close, msg=lambda text, name=name: f"{name}: {text}")


def both(make: Callable[[], nn.Module], **options: Any) -> tuple[nn.Module, nn.Module, Any, Any]:
    """Students of a fused and of a dense run, in float64, and the runs."""
    students = make().double(), make().double()
    options["stage"] = options.get("stage") or (
        lambda: Stage(objective(), teacher=Language(1, width=12).double(), steps=6, optimizer=SGD)
    )
    make_stage = options.pop("stage")
    runs = [
        train(student, fuse, stage=make_stage(), **options)
        for student, fuse in zip(students, (True, False), strict=True)
    ]
    return (*students, *runs)
