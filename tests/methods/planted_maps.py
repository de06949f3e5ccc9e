"""Small images with a planted pattern somewhere: a convolutional teacher that knows the patterns, and few labels."""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import nn

from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.methods import make
from limbeck.models import build
from limbeck.recipe import Optimizer

SIDE, CLASSES = 8, 4


class PlantedMaps:
    """A class is one of four 3x3 patterns, at a random place in noise. The teacher's filters are the patterns."""

    def __init__(self, *, train: int = 160, test: int = 800, noise: float = 0.3, width: int = 8, seed: int = 0):
        draw = torch.Generator().manual_seed(seed)
        patterns = torch.randn(CLASSES, 9, generator=draw)
        patterns = torch.linalg.qr(patterns.T).Q.T.reshape(CLASSES, 1, 3, 3) * 3  # orthogonal, with a norm of 3
        self.x, self.labels = self._draw(patterns, train, noise, draw)
        self.test, self.best = self._draw(patterns, test, noise, draw)
        self.truth = self._teacher(patterns, width)

    @staticmethod
    def _draw(patterns, number, noise, draw):
        labels = torch.arange(number) % CLASSES
        images = noise * torch.randn(number, 1, SIDE, SIDE, generator=draw)
        places = torch.randint(SIDE - 2, (number, 2), generator=draw).tolist()
        for image, label, (row, column) in zip(images, labels, places, strict=True):
            image[0, row : row + 3, column : column + 3] += patterns[label, 0]
        return images, labels

    def _teacher(self, patterns, width):
        teacher = self.network(width=width, seed=100)
        first, second = teacher.layer1[0], teacher.layer2[0]
        with torch.no_grad():
            for parameter in teacher.parameters():
                parameter.zero_()
            first.weight[:CLASSES], first.bias[:CLASSES] = patterns, -3.0
            second.weight[:CLASSES, :CLASSES] = F.pad(torch.eye(CLASSES)[..., None, None], (1, 1, 1, 1))
            columns = torch.arange(teacher.classifier.in_features) // (teacher.classifier.in_features // width)
            teacher.classifier.weight.copy_((columns == torch.arange(CLASSES)[:, None]).float())
        return teacher.eval()

    @staticmethod
    def network(*, width: int = 8, seed: int = 0) -> nn.Module:
        return build("cnn", channels=1, classes=CLASSES, widths=[width, width], size=SIDE, seed=seed)

    def learn(self, recipe, *, seed: int = 0, epochs: int = 30, labels=None, student=None, lr: float = 1e-2, **setting):
        data = ArrayDataset(self.x, self.labels if labels is None else labels)
        return distill(
            student or self.network(seed=seed), recipe, data, batch_size=32, epochs=epochs, seed=seed,
            optimizer=Optimizer("adam", lr=lr), log_every=10**6, **setting,
        ).finish()  # fmt: skip

    def accuracy(self, model: nn.Module) -> float:
        """The share of new images whose pattern a model recognizes."""
        with torch.no_grad():
            return float((model.eval()(self.test).argmax(-1) == self.best).float().mean())

    @cached_property
    def accuracy_alone(self) -> float:
        """The accuracy of a student that learned from the labels alone."""
        return self.accuracy(self.learn(make("supervised")).student)


PLANTED = PlantedMaps()
