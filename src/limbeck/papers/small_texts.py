"""Small language models for experiments of papers: trained on prompts and completions, and asked for answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import nn

from limbeck.data import ShuffledLoader, TokenDataset, train_byte_level_tokenizer
from limbeck.engine import distill
from limbeck.generation import GenerationConfig, generate
from limbeck.methods import make
from limbeck.models import seeded
from limbeck.optional_imports import import_optional
from limbeck.recipe import Optimizer

BATCH = 64
Pairs = Sequence[tuple[str, str]]
"""Prompts with completions."""


class Answers(NamedTuple):
    """What a model wrote for some prompts.

    Attributes:
        texts: The samples of each prompt.
        tokens: The number of new tokens of each.
    """

    texts: list[list[str]]
    tokens: list[list[int]]


@cache
def make_tokenizer(alphabet: str, vocabulary: int = 257) -> Any:
    """Make a byte-level tokenizer: by default each character is a token, and token 0 ends texts."""
    return train_byte_level_tokenizer(alphabet.splitlines(), vocabulary=vocabulary)


def make_student(tokenizer: Any, *, seed: int, width: int = 64, layers: int = 2, positions: int = 64) -> Any:
    """Make a small GPT-2. Its initial weights are larger than those of GPT-2, whose scale is for a width of 768."""
    transformers = import_optional("transformers", extra="hf", purpose="This experiment")
    config = transformers.GPT2Config(
        n_layer=layers, n_head=4, n_embd=width, n_positions=positions, vocab_size=len(tokenizer), bos_token_id=None,
        eos_token_id=0, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, initializer_range=0.15,
    )  # fmt: skip
    with seeded(seed):
        return transformers.GPT2LMHeadModel(config)


def train(student: Any, tokenizer: Any, pairs: Pairs, *, steps: int, seed: int, batch_size: int = BATCH) -> None:
    """Train a student with cross-entropy on the completions: sequence-level distillation, if a teacher wrote them.

    Args:
        student: The student.
        tokenizer: The tokenizer.
        pairs: Prompts with completions.
        steps: The number of steps, rounded up to whole epochs.
        seed: The seed of the order.
        batch_size: The number of texts in a batch.
    """
    data = TokenDataset(
        [{"prompt": prompt, "completion": completion} for prompt, completion in pairs], tokenizer=tokenizer,
        max_length=student.config.n_positions,
    )  # fmt: skip
    loader = ShuffledLoader(data, batch_size=batch_size, seed=seed)
    epochs = max(1, -(-steps // -(-len(data) // batch_size)))
    distill(
        student, make("supervised"), loader, seed=seed, epochs=epochs, accelerator="cpu", log_every=100,
        optimizer=Optimizer(name="adamw", lr=5e-3, warmup=0.1, options={"weight_decay": 0.01}),
    ).finish()  # fmt: skip


def ask(
    student: nn.Module, tokenizer: Any, prompts: Sequence[str], *, samples: int = 1, temperature: float = 0.0,
    max_new_tokens: int = 32, seed: int = 0,
) -> Answers:  # fmt: skip
    """Let a student answer prompts."""
    config = GenerationConfig(max_new_tokens, temperature, eos_token_id=0)
    ids = [torch.tensor(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    answers = Answers([[] for _ in prompts], [[] for _ in prompts])
    for sample in range(samples):
        written = generate(student, ids, config, views=sample, seed=seed).texts
        for place, new in enumerate(written):
            answers.texts[place].append(tokenizer.decode(new, skip_special_tokens=True))
            answers.tokens[place].append(len(new))
    return answers


def share(flags: Sequence[bool]) -> float:
    """The share of true values, in percent."""
    return 100 * sum(flags) / len(flags)
