"""Accuracy under attack: an example counts if its class is right as it is, and stays right nearby."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.batch import IGNORED, Batch, Inputs
from limbeck.data.adversarial_loader import Attack
from limbeck.errors import DataError
from limbeck.metrics.metric import Metric
from limbeck.metrics.predictions import as_batches
from limbeck.model_call import Adaptor, call, logits_of
from limbeck.random_seeds import counter_uniform
from limbeck.tap import FrozenParameters


class RobustAccuracy(NamedTuple):
    """Accuracy with and without an attack, over the examples with a label.

    Attributes:
        clean: The fraction of examples whose class is right.
        robust: The fraction of examples whose class is right, and is still right after the attack.
    """

    clean: Metric
    robust: Metric

    @property
    def weighted(self) -> float:
        """The mean of both: W-Robust of Zhao et al., 2023, arXiv:2306.16170."""
        return (self.clean.value + self.robust.value) / 2


def robust_accuracy(
    model: nn.Module,
    data: Any,
    attack: Attack,
    *,
    preprocess: Callable[[Batch], Inputs] | None = None,
    adaptor: Adaptor | None = None,
    seed: int = 0,
) -> RobustAccuracy:
    """Compute the accuracy of a model on inputs that were changed to make it wrong.

    The result is an upper bound of the true robust accuracy: a stronger attack may find more. Where an attack starts is
    a pure function of the id of the example and the seed, so that all models are attacked from the same places. At
    ``epsilon=0`` both accuracies are equal.

    Args:
        model: The model, in evaluation mode during the measurement.
        data: Labeled examples: a loader (one epoch), a data set, arrays, or batches, with inputs that are one tensor.
        attack: The attack, such as ``Attack(epsilon=8 / 255, steps=20)``.
        preprocess: Function from a batch to the model's inputs; by default ``batch.inputs``. The attack changes the
            inputs before it, such as pixels.
        adaptor: Function from the model's output to logits.
        seed: The seed of the starts.

    Raises:
        DataError: If no example has a label.
        LimbeckError: If the inputs are outside of the range of the attack.

    Example:
        >>> net = nn.Linear(1, 2, bias=False)
        >>> _ = net.load_state_dict({"weight": torch.tensor([[-1.0], [1.0]])})  # class 1 above 0
        >>> batch = Batch(torch.tensor([[0.05], [0.5]]), labels=torch.tensor([1, 1]))
        >>> found = robust_accuracy(net, batch, Attack(epsilon=0.1, low=-1.0, high=1.0))
        >>> found.clean.value, found.robust.value
        (1.0, 0.5)

    Source: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, 2017, arXiv:1706.06083.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def answer(batch: Batch) -> Tensor:
        return logits_of(call(model, batch.inputs if preprocess is None else preprocess(batch)), adaptor)

    right, both, count, first = 0, 0, 0, 0
    with FrozenParameters(model):
        for part in as_batches(data, model):
            batch = part.to(device)
            if batch.labels is None or not isinstance(batch.inputs, Tensor):
                raise DataError("Robust accuracy needs labeled examples, with inputs that are one tensor.")
            ids = torch.arange(first, first + batch.size, device=device) if batch.id is None else batch.id
            first += batch.size
            draws = batch.inputs[0].numel() if batch.size else 0
            uniform = counter_uniform(ids, torch.zeros_like(ids), seed=seed, draws=draws, stream="attack")
            changed = attack.apply(batch, answer, uniform)
            labeled = batch.labels != IGNORED
            with torch.no_grad():
                clean, robust = (
                    (answer(one).argmax(-1) == batch.labels) & labeled
                    for one in (batch, batch._replace(inputs=changed))
                )
            right, both, count = (
                right + int(clean.sum()),
                both + int((clean & robust).sum()),
                count + int(labeled.sum()),
            )
    if not count:
        raise DataError("Robust accuracy needs labeled examples, and these have no labels.")
    return RobustAccuracy(Metric(right, count), Metric(both, count))
