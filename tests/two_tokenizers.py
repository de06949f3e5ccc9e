"""Helpers: texts, small models with tokenizers of their own, and what a teacher says of a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from limbeck.batch import Batch, Outputs
from limbeck.teachers import TeacherContext

TEXTS = [
    "the quick brown fox and the lazy dog",
    "Größe 東京 and the fox",
    "a",
    "the other fox\n the dog 🙂",
    "fox and dog",
]


def make_model(tokenizer: Any, seed: int = 0, width: int = 8, **more: Any) -> Any:
    import transformers

    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=width, n_layer=1, n_head=1, bos_token_id=None,
        eos_token_id=0, **more,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # far from uniform
            parameter.mul_(4.0)
    return model


def ask(teacher: Any, batch: Batch, **context: Any) -> Outputs:
    with teacher.open(TeacherContext(**context)) as session:
        return session(batch)


def take(data: Any) -> Batch:
    return data.take(torch.arange(len(data)))


LAYOUTS = pytest.mark.parametrize(
    "how", [{}, {"padding_side": "left"}, {"packing": True, "max_length": 64}], ids=["right", "left", "packed"]
)
