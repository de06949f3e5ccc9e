"""Helpers: small students and teachers of texts, their prompts, and runs in which the student writes."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn

from limbeck.data import Replay, Rollouts, ShuffledLoader, TokenDataset, train_tokenizer
from limbeck.engine import distill
from limbeck.functional import cross_entropy, reverse_kl
from limbeck.generation import GenerationConfig
from limbeck.losses import Loss
from limbeck.recipe import Optimizer, Stage

WORDS = 30
WRITING = GenerationConfig(max_new_tokens=6)


class Own(nn.Module):
    """From token ids to logits, without a cache."""

    def __init__(self, seed: int = 0, *, width: int = 8, scale: float = 4.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embed, self.body = nn.Embedding(WORDS, width), nn.GRU(width, width, batch_first=True)
            self.drop, self.head = nn.Dropout(0.1), nn.Linear(width, WORDS)
            self.head.weight.data.mul_(scale)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.body(self.embed(input_ids))[0]))


def rows(count: int = 12) -> list[dict[str, str]]:
    """Prompts of 2 to 4 words with answers of 1 to 5."""
    draw = torch.Generator().manual_seed(0)
    words = ["abcdefghijklmnopqrst"[i] for i in torch.randint(20, (count, 12), generator=draw).flatten().tolist()]
    texts = [words[12 * i : 12 * i + 12] for i in range(count)]
    return [
        {"prompt": " ".join(text[: 2 + i % 3]), "completion": " " + " ".join(text[4 : 5 + i % 5])}
        for i, text in enumerate(texts)
    ]


@cache
def tokenizer() -> Any:
    """A tokenizer of fewer words than the models have outputs."""
    made = train_tokenizer([" ".join("abcdefghijklmnopqrst")], vocabulary=WORDS - 3)
    made.eos_token = "[SEP]"
    return made


def tokens(count: int = 12, **options: Any) -> TokenDataset:
    return TokenDataset(rows(count), tokenizer=tokenizer(), max_length=32, **options)


def loader(batch_size: int = 4, **options: Any) -> ShuffledLoader:
    return ShuffledLoader(tokens(**options), batch_size=batch_size)


def rollouts(share: float = 1.0, *, replay: bool = False, **options: Any) -> Rollouts:
    buffer = Replay(capacity=9, share=0.5) if replay else None
    return Rollouts(share=share, generation=WRITING, replay=buffer, **options)


def stage(
    share: float = 1.0, *, replay: bool = False, steps: int = 8, supervised: bool = True, **options: Any
) -> Stage:
    objective = Loss(reverse_kl)
    if supervised:
        objective = objective + 0.3 * Loss(cross_entropy, where="given" if share else None)
    return Stage(
        objective, teacher=Own(7, width=12), steps=steps, optimizer=Optimizer("adam", lr=0.05),
        loader=rollouts(share, replay=replay, **options),
    )  # fmt: skip


def train(student: nn.Module, share: float = 1.0, *, replay: bool = False, steps: int = 8, **setting: Any) -> Any:
    setting = {"log_every": 1, **setting}
    return distill(student, stage(share, replay=replay, steps=steps), loader(), **setting)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten().double() for value in model.state_dict().values()])


def stable(reports: Any) -> list[Any]:
    """The reports without what depends on the clock."""
    clock = {"seconds", "rate", "crc32"}
    lines = [report if isinstance(report, dict) else report._asdict() for report in reports]
    return [
        {name: value for name, value in line.items() if name not in clock | {"generation"}}
        | {
            "generation": {
                k: v for k, v in line.get("generation", {}).items() if "per_second" not in k and "time" not in k
            }
        }
        for line in lines
    ]
