"""Tiny language models: tables of the next token from the last one, for tests of methods that write texts."""

from __future__ import annotations

import copy

import torch
from torch import nn

from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.recipe import Optimizer

VOCABULARY, LENGTH = 24, 9


class Bigram(nn.Module):
    """Logits of the next token from the last one: any table for a wide one, of low rank for a narrow one."""

    def __init__(self, width, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.out = nn.Embedding(VOCABULARY, width), nn.Linear(width, VOCABULARY, bias=width < VOCABULARY)

    def forward(self, input_ids):
        return self.out(self.embed(input_ids))


def make_teacher(seed):
    teacher = Bigram(VOCABULARY, seed)
    with torch.no_grad():
        teacher.out.weight.copy_(torch.eye(VOCABULARY))
        teacher.embed.weight.mul_(3.0)
    return teacher.eval()


@torch.no_grad()
def write(model, count, seed):
    """Texts of a model, from uniform first tokens."""
    draw = torch.Generator().manual_seed(seed)
    texts = torch.randint(VOCABULARY, (count, 1), generator=draw)
    for _ in range(LENGTH):
        p = model(texts[:, -1]).softmax(-1)
        texts = torch.cat([texts, torch.multinomial(p, 1, generator=draw)], 1)
    return texts


def data_of(texts):
    return ArrayDataset({"input_ids": texts[:, :-1]}, texts[:, 1:])


def learn(student, recipe, data, *, epochs, lr):
    student = copy.deepcopy(student)
    optimizer = Optimizer("adam", lr=lr)
    distill(student, recipe, data, batch_size=64, epochs=epochs, optimizer=optimizer, log_every=10**6).finish()
    return student.eval()
