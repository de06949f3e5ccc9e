"""How much of its accuracy does a model keep when images go bad?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from limbeck.errors import LimbeckError, unknown
from limbeck.measure.asking import as_batches
from limbeck.measure.corruptions import CORRUPTIONS, corrupt
from limbeck.measure.measurement import Measure
from limbeck.measure.measures import accuracy
from limbeck.measure.predictions import predict
from limbeck.signal import Batch, Inputs
from limbeck.tap import Adaptor

SEVERITIES = (1, 2, 3, 4, 5)


class Robustness(NamedTuple):
    """Accuracy on images as they are, and gone bad.

    Attributes:
        clean: On the images themselves.
        corrupted: By corruption, and by severity in that.
    """

    clean: Measure
    corrupted: Mapping[str, Mapping[int, Measure]]

    @property
    def mean(self) -> float:
        """The mean accuracy over corruptions and severities."""
        values = [found.value for row in self.corrupted.values() for found in row.values()]
        return sum(values) / len(values)

    @property
    def by_corruption(self) -> dict[str, float]:
        """The mean accuracy over severities, by corruption."""
        return {name: sum(m.value for m in row.values()) / len(row) for name, row in self.corrupted.items()}


class Asked(NamedTuple):
    """A model, and how it is asked.

    Attributes:
        model: Any module or teacher, as for `predict`.
        reads: Its way from a batch to its inputs.
        adaptor: Raw output -> logits, for strange outputs.
    """

    model: Any
    reads: Callable[[Batch], Inputs] | None = None
    adaptor: Adaptor | None = None


def robustness(
    model: Any,
    data: Any,
    *,
    corruptions: Iterable[str] | None = None,
    severities: Sequence[int] = SEVERITIES,
    reads: Callable[[Batch], Inputs] | None = None,
    adaptor: Adaptor | None = None,
    seed: int = 0,
) -> Robustness:
    """The accuracy of a model on images that went bad in several ways, each at several severities.

    The data are read once. Noise is a pure function of an example's id and the seed, so that models are compared on
    the very same images; where batches have no ids, it is the place in the data that counts.

    Args:
        model: Any module or teacher, as for `predict`.
        data: Labelled images, raw: bytes, or floats from 0 to 1; `reads` sees them after they went bad.
        corruptions: Names of `CORRUPTIONS`; all of them where None.
        severities: Of 1 to 5.
        reads: The model's way from a batch to its inputs: standardising, for example.
        adaptor: Raw output -> logits, for strange outputs.
        seed: Of the noise.

    Raises:
        UnknownNameError: If there is no such corruption.
        LimbeckError: If no corruption or severity is asked for, or there are no labels.
        DataError: If the inputs are no images.

    Example:
        >>> images, labels = torch.rand(4, 8, 8), torch.tensor([0, 1, 0, 1])
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
        >>> robustness(model, (images, labels), corruptions=["contrast"], severities=[5]).clean.count
        4

    Source: Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations,
    2019, arXiv:1903.12261.
    """
    asked = {"model": Asked(model, reads, adaptor)}
    return robustness_of(asked, data, corruptions=corruptions, severities=severities, seed=seed)["model"]


def robustness_of(
    models: Mapping[str, Asked],
    data: Any,
    *,
    corruptions: Iterable[str] | None = None,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
) -> dict[str, Robustness]:
    """`robustness` of several models on the very same images, each of which goes bad once for all of them.

    Args:
        models: By name.
        data: As for `robustness`.
        corruptions: As there.
        severities: As there.
        seed: As there.

    Raises:
        LimbeckError: As there.
    """
    names = list(CORRUPTIONS if corruptions is None else corruptions)
    _check(names, severities)
    nothing, seen = Measure(0.0, 0), 0
    clean = dict.fromkeys(models, nothing)
    found = {who: {name: dict.fromkeys(severities, nothing) for name in names} for who in models}
    for batch in as_batches(data):
        ids = torch.arange(seen, seen + batch.size) if batch.id is None else batch.id
        seen += batch.size
        clean = {who: _sum(clean[who], _right(one, batch)) for who, one in models.items()}
        for name in names:
            for severity in severities:
                worse: Tensor = corrupt(batch.inputs, name, severity, id=ids, seed=seed)
                bad = batch._replace(inputs=worse)
                for who, one in models.items():
                    found[who][name][severity] = _sum(found[who][name][severity], _right(one, bad))
    return {who: Robustness(clean[who], found[who]) for who in models}


def _right(asked: Asked, batch: Batch) -> Measure:
    return accuracy(predict(asked.model, [batch], reads=asked.reads, adaptor=asked.adaptor))


def _check(names: list[str], severities: Sequence[int]) -> None:
    for name in names:
        if name not in CORRUPTIONS:
            raise unknown("corruption", name, CORRUPTIONS)
    if not names or not severities or set(severities) - set(SEVERITIES):
        raise LimbeckError(
            f"robustness needs at least one corruption and severities of 1 to 5; got {names} and {list(severities)}."
        )


def _sum(first: Measure, second: Measure) -> Measure:
    return Measure(first.total + second.total, first.count + second.count)
