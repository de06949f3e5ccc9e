"""Small language models and their tokenizers, to serve on this machine."""

from __future__ import annotations

import functools

import pytest
import torch

from limbeck.data import ShuffledLoader, TokenDataset
from limbeck.engine import distill
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import Loss
from limbeck.recipe import Stage
from limbeck.teachers import TeacherContext
from limbeck.testing import Answer, serve_model

TEXTS = [
    "the quick brown fox and the lazy dog, and the other fox",
    "a small vocabulary of bytes and some words, and a dog",
    "the other dog and a fox of some vocabulary",
    "some words and the quick bytes, the lazy words",
    "a brown fox, a brown dog, and the end",
]


@functools.cache
def tokenizer():
    from vocabularies import train_bytes

    return train_bytes(TEXTS)


def model(seed=0, *, width=16, vocabulary=None, positions=64):
    """A GPT-2 of one layer, whose distributions are sharp enough to differ between texts."""
    import transformers

    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        n_layer=1, n_head=2, n_embd=width, n_positions=positions, vocab_size=vocabulary or len(tokenizer()),
        bos_token_id=None, eos_token_id=0, initializer_range=0.4,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval()


def faults(path, *answers):
    """An intercept that gives these answers to the first requests to a path, and regular ones later."""
    left = list(answers)

    def intercept(asked, body, make):
        if asked != path or not left:
            return make()
        answer = left.pop(0)
        return answer(make()) if callable(answer) else answer

    return intercept


def always(path, change):
    """An intercept that changes the regular answers to a path."""
    return lambda asked, body, make: change(make()) if asked == path else make()


BUSY = Answer({"error": {"message": "too many requests"}}, 429, {"Retry-After": "0.01"})
BROKEN = Answer({"error": {"message": "CUDA out of memory"}}, 500)
HUNG_UP = Answer({}, 0)


def cut(answer):
    return answer._replace(cut=20)


SCORES = {"vllm": "/v1/completions", "sglang": "/generate"}
apis = pytest.mark.parametrize("api", ["vllm", "sglang"])


def serve(own=None, words=None, **settings):
    return serve_model(own or model(), words or tokenizer(), **{"max_logprobs": -1, **settings})


def loader(**how):
    settings = {"max_length": 24, **how}
    return ShuffledLoader(TokenDataset(TEXTS, tokenizer=tokenizer(), **settings), batch_size=2, shuffle=False)


def answers(teacher, stream, **context):
    """The outputs for every batch of an epoch."""
    with teacher.open(TeacherContext(loader=stream, **context)) as session:
        return [(batch, session(batch)) for batch in stream.batches(0, 0)]


def losses(teacher, steps=3):
    """The reported losses of a short training."""
    student = model(seed=1, width=8)
    stage = Stage(0.5 * Loss(cross_entropy) + 0.5 * Loss(kl_divergence), teacher=teacher)
    return [report.loss for report in distill(student, stage, loader(), epochs=1, seed=0, log_every=1)][:steps]
