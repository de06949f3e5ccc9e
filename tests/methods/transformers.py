"""Transformers, texts and plain loops for the tests of methods that compare layers of transformers."""

from __future__ import annotations

import math

import torch

from limbeck.batch import Batch
from limbeck.tap import Tapped
from limbeck.testing.tiny_transformer import TinyBert


def random(*shape, seed=0):
    """Random numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention(*shape, seed=0):
    """Random attention maps."""
    return random(*shape, seed=seed).softmax(-1)


def kept_tokens(mask, example, tokens):
    """The positions of an example that count, with a mask of tokens, of examples, or none."""
    if mask is None:
        return list(range(tokens))
    row = mask[example]
    return [t for t in range(tokens) if bool(row[t] if row.ndim else row)]


def head_score(q, k, head, heads):
    """The scaled product of one query and one key in a head."""
    width = q.shape[-1] // heads
    part = slice(head * width, (head + 1) * width)
    return sum(float(a) * float(b) for a, b in zip(q[part], k[part], strict=True)) / math.sqrt(width)


def row_kl(p, q):
    """KL(p || q) of two lists of positive numbers, after division by their sums."""
    p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def text_batch():
    """Four texts of 6, 4, 3 and 2 tokens, padded on the right."""
    draw = torch.Generator().manual_seed(5)
    there = torch.arange(6) < torch.tensor([[6], [4], [3], [2]])
    ids = torch.randint(1, 12, (4, 6), generator=draw).masked_fill(~there, 0)
    inputs = {"input_ids": ids, "attention_mask": there.long()}
    return Batch(inputs, id=torch.arange(4), labels=torch.tensor([0, 1, 2, 0]), mask=there)


def with_other_padding(batch):
    """The same texts with other tokens in place of the padding."""
    ids = batch.inputs["input_ids"].where(batch.mask, 7)
    return batch._replace(inputs={**batch.inputs, "input_ids": ids})


def losses(recipe, student, teacher, batch):
    """The mean of each term of the first stage for a batch."""
    from limbeck.batch import Progress
    from limbeck.losses import LossContext

    objective = next(recipe.stages()).objective
    mine, its = objective.requires.student, objective.requires.teacher
    with torch.no_grad(), Tapped(student, mine) as ours, Tapped(teacher, its) as theirs:
        outputs = ours(batch.inputs), theirs(batch.inputs)
        torch.manual_seed(0)
        fitted = objective.setup(LossContext(*outputs, batch))
        terms = fitted(*outputs, batch, Progress())
    return {name: float(term.mean) for name, term in terms.items()}


def pair(width=8):
    """A student of two layers and a teacher of four, in float64."""
    return TinyBert(layers=2, width=width).double().eval(), TinyBert(layers=4, width=8, seed=2).double().eval()
