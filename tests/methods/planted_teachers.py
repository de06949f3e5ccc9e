"""A planted problem with several teachers: a good one, a bad one, and two that are good in a region each."""

from __future__ import annotations

import torch
from torch import nn

from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.recipe import Optimizer

INPUTS, CLASSES = 8, 4


class Expert(nn.Module):
    """The truth where the first input is on its side, and the logits of other classes elsewhere."""

    def __init__(self, truth, side):
        super().__init__()
        self.truth, self.side = truth, side

    def forward(self, x):
        logits = self.truth(x)
        own = (x[:, :1] * self.side > 0) if self.side else torch.ones(len(x), 1, dtype=torch.bool)
        return torch.where(own, logits, logits.roll(1, -1))


class PlantedTeachers:
    """Labels of a linear truth, and teachers that know it everywhere, nowhere, or on one side."""

    def __init__(self, train=400, seed=0):
        draw = torch.Generator().manual_seed(seed)
        self.truth = nn.Linear(INPUTS, CLASSES).requires_grad_(False)
        self.truth.weight.copy_(2 * torch.randn(CLASSES, INPUTS, generator=draw))
        self.truth.bias.zero_()
        self.x = torch.randn(train, INPUTS, generator=draw)
        self.labels = torch.multinomial(self.truth(self.x).softmax(-1), 1, generator=draw).squeeze(1)
        self.test = torch.randn(1000, INPUTS, generator=draw)
        self.best = self.truth(self.test).argmax(1)

    def good_and_bad(self):
        wrong = nn.Sequential(self.truth, nn.Linear(CLASSES, CLASSES, bias=False)).requires_grad_(False)
        wrong[1].weight.copy_(torch.eye(CLASSES).roll(1, 0))  # always another class
        return {"good": self.truth, "bad": wrong}

    def regional(self):
        return {"left": Expert(self.truth, -1), "right": Expert(self.truth, 1)}

    def learn(self, recipe, epochs=20, seed=0):
        torch.manual_seed(seed)
        student = nn.Sequential(nn.Linear(INPUTS, 32), nn.ReLU(), nn.Linear(32, CLASSES))
        return distill(
            student, recipe, ArrayDataset(self.x, self.labels), batch_size=40, epochs=epochs, seed=seed,
            optimizer=Optimizer("adam", lr=1e-2), log_every=10**6,
        ).finish()  # fmt: skip

    def accuracy(self, student):
        with torch.no_grad():
            return float((student.eval()(self.test).argmax(1) == self.best).float().mean())
