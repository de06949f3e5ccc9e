"""Sharpness of a minimum: the largest eigenvalue and the trace of the Hessian of a loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.batch import IGNORED, Batch, Inputs
from limbeck.errors import ArgumentError, DataError, LimbeckError
from limbeck.metrics.predictions import as_batches
from limbeck.model_call import Adaptor, call, logits_of
from limbeck.tap import FrozenParameters

Product = Callable[[Tensor], Tensor]
"""Multiplies a symmetric matrix with a vector."""


class Sharpness(NamedTuple):
    """The sharpness of a model at its weights.

    Attributes:
        top_eigenvalue: The largest eigenvalue of the Hessian, in nats per squared unit of weight.
        trace: The estimated trace of the Hessian, in the same unit.
        trace_error: The standard error of that estimate over random vectors.
        examples: The number of examples with a label.
    """

    top_eigenvalue: float
    trace: float
    trace_error: float
    examples: int


def sharpness(
    model: nn.Module,
    data: Any,
    *,
    preprocess: Callable[[Batch], Inputs] | None = None,
    adaptor: Adaptor | None = None,
    iterations: int = 100,
    tolerance: float = 1e-3,
    probes: int = 30,
    seed: int = 0,
) -> Sharpness:
    r"""Compute the largest eigenvalue and the trace of the Hessian of the mean cross-entropy in the weights.

    The eigenvalue is found by power iteration, the trace by Hutchinson's estimate :math:`\frac1m \sum_k v_k^\top H v_k`
    with random signs v. Each product of the Hessian with a vector is two backward passes over the data. Both depend on
    the scale of the weights, so compare only models of one architecture, on the same data.

    Args:
        model: The model, in evaluation mode during the measurement. Parameters with ``requires_grad`` count.
        data: Labeled examples: a loader (one epoch), a data set, arrays, or batches. It is read once, and kept.
        preprocess: Function from a batch to inputs; by default ``batch.inputs``.
        adaptor: Function from the model's output to logits.
        iterations: The most steps of the power iteration.
        tolerance: The relative change of the eigenvalue at which it ends.
        probes: m, the number of random vectors for the trace; at least 2, which have a standard error.
        seed: The seed of all random vectors.

    Raises:
        DataError: If no example has a label.
        LimbeckError: If no parameter requires a gradient, or a number is out of range.

    Example:
        >>> net = nn.Linear(2, 2, bias=False).double()
        >>> inputs, labels = torch.eye(2, dtype=torch.float64), torch.tensor([0, 1])
        >>> _ = nn.init.zeros_(net.weight)  # p = 1/2: each input has the block (1/2) [[1, -1], [-1, 1]] / 4
        >>> found = sharpness(net, Batch(inputs, labels=labels))
        >>> round(found.top_eigenvalue, 4), abs(found.trace - 0.5) < 4 * found.trace_error
        (0.25, True)

    Source: Pham et al., Revisiting Self-Distillation, 2022, arXiv:2206.08491; Hutchinson, Communications in Statistics
        18, 1989.
    """
    for name, value, least in (("iterations", iterations, 1), ("probes", probes, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ArgumentError(f"{name} is a whole number of at least {least}; got {value!r}.", argument=name)
    if not 0 < tolerance < 1:
        raise LimbeckError(f"tolerance is a relative change above 0 and below 1; got {tolerance!r}.")
    batches = _read_labeled(model, data)
    count = sum(int((batch.labels != IGNORED).sum()) for batch in batches if batch.labels is not None)
    if not count:
        raise DataError("Sharpness is that of the loss of labels, and these examples have none.")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise LimbeckError(f"No parameter of this {type(model).__name__} requires a gradient: model.requires_grad_().")

    def loss_of(batch: Batch) -> Tensor:
        inputs = batch.inputs if preprocess is None else preprocess(batch)
        logits = logits_of(call(model, inputs), adaptor)
        labels = batch.labels if batch.labels is not None else logits.new_full(logits.shape[:-1], IGNORED)
        total = F.cross_entropy(logits.flatten(0, -2), labels.flatten().long(), ignore_index=IGNORED, reduction="sum")
        return total / count

    with _second_derivatives(model):
        product = hessian_product(loss_of, batches, parameters)
        size, first = sum(parameter.numel() for parameter in parameters), parameters[0]
        top = find_top_eigenvalue(product, _draw(size, first, seed), iterations=iterations, tolerance=tolerance)
        trace, error = estimate_trace(product, [_draw_signs(size, first, seed + 1 + k) for k in range(probes)])
    return Sharpness(top, trace, error, count)


@contextmanager
def _second_derivatives(model: nn.Module) -> Iterator[None]:
    """A block in which a model is in eval mode, and its attention has second derivatives."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with FrozenParameters(model), sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        yield


def _read_labeled(model: nn.Module, data: Any) -> list[Batch]:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return [batch.to(device) for batch in as_batches(data, model)]


def hessian_product(
    loss_of: Callable[[Batch], Tensor], batches: Sequence[Batch], parameters: Sequence[Tensor]
) -> Product:
    """Make the product of a vector with the Hessian of a sum of losses.

    Args:
        loss_of: Function from a batch to its loss, with a graph.
        batches: The batches, whose losses are added.
        parameters: The parameters; a vector has all their values, flattened one after the other.

    Example:
        >>> weight = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> product = hessian_product(lambda batch: (weight**3).sum(), [Batch(torch.zeros(1))], [weight])
        >>> product(torch.tensor([1.0, 1.0]))
        tensor([ 6., 12.])
    """
    sizes = [parameter.numel() for parameter in parameters]

    def product(vector: Tensor) -> Tensor:
        parts = [part.view_as(own) for part, own in zip(vector.split(sizes), parameters, strict=True)]
        total = torch.zeros_like(vector)
        for batch in batches:
            slopes = torch.autograd.grad(loss_of(batch), parameters, create_graph=True, allow_unused=True)
            # A slope that does not depend on the parameters (a linear loss) has no graph: its Hessian is 0.
            along = [
                (slope * part).sum() for slope, part in zip(slopes, parts, strict=True)
                if slope is not None and slope.requires_grad
            ]  # fmt: skip
            if along:
                turned = torch.autograd.grad(torch.stack(along).sum(), parameters, allow_unused=True)
                total += torch.cat([
                    torch.zeros_like(own).flatten() if one is None else one.flatten()
                    for one, own in zip(turned, parameters, strict=True)
                ])  # fmt: skip
        return total

    return product


def find_top_eigenvalue(
    product: Product, start: Float[Tensor, " size"], *, iterations: int = 100, tolerance: float = 1e-3
) -> float:
    """Find the largest eigenvalue of a symmetric matrix by power iteration.

    Power iteration finds the eigenvalue of largest absolute value. If that one is negative, the matrix is shifted by
    it, so that the largest eigenvalue becomes the one of largest absolute value.

    Args:
        product: Multiplies the matrix with a vector.
        start: The first vector; it must not be orthogonal to the eigenvector, as a random one never is.
        iterations: The most steps, for each of the two iterations.
        tolerance: The relative change at which it ends.

    Example:
        >>> matrix = torch.diag(torch.tensor([-5.0, 2.0, 1.0]))
        >>> round(find_top_eigenvalue(lambda v: matrix @ v, torch.ones(3), tolerance=1e-6), 3)
        2.0
    """
    value = _iterate(product, start, iterations, tolerance)
    if value >= 0:
        return value
    shifted = _iterate(lambda vector: product(vector) - value * vector, start, iterations, tolerance)
    return shifted + value


def _iterate(product: Product, start: Tensor, iterations: int, tolerance: float) -> float:
    """The eigenvalue of largest absolute value, as the Rayleigh quotient of the last vector."""
    vector, value = start / start.norm(), 0.0
    for _ in range(iterations):
        turned = product(vector)
        before, value = value, float(vector @ turned)
        length = turned.norm()
        if not float(length) or abs(value - before) <= tolerance * abs(value):
            break
        vector = turned / length
    return value


def estimate_trace(product: Product, vectors: Sequence[Float[Tensor, " size"]]) -> tuple[float, float]:
    """Estimate the trace of a matrix as the mean of v . (A v) over random vectors, with its standard error.

    It is unbiased for vectors of independent signs, and exact for a diagonal matrix.

    Args:
        product: Multiplies the matrix with a vector.
        vectors: Vectors of random signs, two or more.

    Raises:
        ArgumentError: If there are fewer than two vectors, which have no standard error.

    Example:
        >>> estimate_trace(lambda v: 3 * v, [torch.ones(4), -torch.ones(4)])
        (12.0, 0.0)
    """
    if len(vectors) < 2:
        raise ArgumentError(f"A standard error needs two vectors or more; got {len(vectors)}.", argument="vectors")
    values = torch.tensor([float(vector @ product(vector)) for vector in vectors], dtype=torch.float64)
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def _draw(size: int, like: Tensor, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=draw, dtype=torch.float64).to(device=like.device, dtype=like.dtype)


def _draw_signs(size: int, like: Tensor, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    signs = 2.0 * torch.randint(2, (size,), generator=draw) - 1
    return signs.to(device=like.device, dtype=like.dtype)
