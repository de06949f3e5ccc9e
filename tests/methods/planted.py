"""Small problems with a planted truth: a teacher that knows it, labels that only hint at it."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.methods import make
from limbeck.models import build
from limbeck.recipe import Optimizer

INPUTS, CLASSES = 10, 4


class Planted:
    """Labels drawn from ``softmax(truth(x))``; the teacher is the truth itself."""

    def __init__(self, *, train: int = 120, test: int = 2000, seed: int = 0):
        self.arguments = (train, test, seed)
        draw = torch.Generator().manual_seed(seed)
        self.truth = build("mlp", inputs=INPUTS, classes=CLASSES, hidden=[32, 32], seed=seed + 100).eval()
        with torch.no_grad():
            for parameter in self.truth.parameters():
                parameter.mul_(2.0)
            self.x = torch.randn(train, INPUTS, generator=draw)
            self.test = torch.randn(test, INPUTS, generator=draw)
            self.labels = torch.multinomial(self.truth(self.x).softmax(-1), 1, generator=draw).squeeze(1)
            self.best = self.truth(self.test).argmax(-1)

    def student(self, seed: int = 0, **arguments) -> nn.Module:
        return build("mlp", inputs=INPUTS, classes=CLASSES, hidden=[32, 32], seed=seed, **arguments)

    def learn(self, recipe, *, seed: int = 0, epochs: int = 60, labels=None, student=None, **setting):
        data = ArrayDataset(self.x, self.labels if labels is None else labels)
        optimizer = Optimizer("adam", lr=5e-3)
        return distill(
            student or self.student(seed), recipe, data,
            batch_size=40, epochs=epochs, seed=seed, optimizer=optimizer, log_every=10**6, **setting,
        ).finish()  # fmt: skip

    def alone(self, *, epochs: int = 60) -> nn.Module:
        """The student that has learned the labels without a teacher: one for all tests, which do not train it."""
        return _learn_alone(self.arguments, epochs)

    def accuracy(self, model: nn.Module) -> float:
        """How often a model says what is most probable in truth."""
        with torch.no_grad():
            return float((model.eval()(self.test).argmax(-1) == self.best).float().mean())

    def nll(self, model: nn.Module) -> float:
        """The expected cross-entropy under the truth, in nats."""
        with torch.no_grad():
            return float(-(self.truth(self.test).softmax(-1) * model.eval()(self.test).log_softmax(-1)).sum(-1).mean())


@cache
def _learn_alone(arguments: tuple[int, int, int], epochs: int) -> nn.Module:
    train, test, seed = arguments
    planted = Planted(train=train, test=test, seed=seed)
    return planted.learn(make("supervised"), epochs=epochs).student.eval().requires_grad_(False)
