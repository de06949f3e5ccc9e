"""Helpers: networks, examples and calls for the tests of cached teachers."""

from __future__ import annotations

import torch
from torch import nn

from limbeck import ArrayDataset, ShuffledLoader, distill
from limbeck.batch import Batch
from limbeck.methods import make
from limbeck.teachers import TeacherContext

CPU = torch.device("cpu")


class Counting(nn.Module):
    """A network that counts how often, and with how many examples, it was asked."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.out = nn.Linear(16, 8), nn.Linear(8, 4)
        self.asked: list[int] = []

    def forward(self, x):
        self.asked.append(len(x))
        return self.out(self.body(x.flatten(1)).relu())


def unchanged(batch: Batch):
    return batch.inputs


def examples(count: int = 24, seed: int = 0) -> ArrayDataset:
    x = torch.randn(count, 4, 4, generator=torch.Generator().manual_seed(seed))
    return ArrayDataset(x, torch.arange(count) % 4)


def make_loader(count: int = 24, *, batch_size: int = 8, seed: int = 0, **how) -> ShuffledLoader:
    return ShuffledLoader(examples(count), batch_size=batch_size, seed=seed, **how)


def ask(teacher, stream, *, epochs=(0,), requires=("logits",), preprocess=unchanged):
    """The answers of some epochs by (view, example)."""
    found = {}
    with teacher.open(TeacherContext(requires=frozenset(requires), preprocess=preprocess, loader=stream)) as answer:
        for epoch in epochs:
            for batch in stream.batches(epoch, 0):
                shown = answer(batch)
                views = [None] * batch.size if batch.view is None else batch.view.tolist()
                for place, (id, view) in enumerate(zip(batch.id.tolist(), views, strict=True)):
                    found[view, id] = {address: shown[address][place] for address in requires}
    return found


def trained(teacher, stream, **how):
    torch.manual_seed(3)
    student = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 4))
    run = distill(student, make("hinton", teacher=teacher), stream, epochs=3, seed=1, **how).finish()
    return torch.cat([p.detach().flatten() for p in run.student.parameters()])


class Changed:
    """A source, but that each of its epochs is passed through a function."""

    def __init__(self, loader, change):
        self._loader, self._change = loader, change

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def batches(self, epoch, start):
        return self._change(list(self._loader.batches(epoch, start)))
