"""Centered kernel alignment (CKA) between the layers of two models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.batch import Batch, Inputs
from limbeck.errors import DataError, LimbeckError
from limbeck.metrics.predictions import as_batches
from limbeck.model_call import call
from limbeck.models.size_and_hash import unwrap_compiled
from limbeck.tap import FrozenParameters, Tapped

Reading = Callable[[Batch], Inputs]


def named_layers(model: nn.Module, batch: Batch, preprocess: Reading) -> dict[str, int]:
    """Find the layers with a weight matrix or kernel, with their number of outputs per example.

    Only layers that the forward pass calls and that return one row per example. A position embedding returns one row
    for all examples, and the projection inside ``nn.MultiheadAttention`` is not called as a module.

    Args:
        model: Any module, on its device. It is called once, in eval mode, without gradients.
        batch: At least two examples.
        preprocess: Maps a batch to the inputs of the model.

    Raises:
        LimbeckError: If there are no such layers.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> named_layers(model, Batch(torch.zeros(5, 3)), lambda batch: batch.inputs)
        {'0': 8, '2': 2}
    """
    layers: dict[str, int] = {}
    named = [(name, module) for name, module in unwrap_compiled(model).named_modules() if name and _is_layer(module)]
    with ExitStack() as stack:
        for name, module in named:
            stack.callback(module.register_forward_hook(_noting(layers, name, batch.size)).remove)
        stack.enter_context(FrozenParameters(model))
        with torch.no_grad():
            call(model, preprocess(batch.to(device_of(model))))
    if not layers:
        raise LimbeckError(
            f"{type(model).__name__} has no layers with weights. Name layers: student_layers=['layer1']."
        )
    return {name: layers[name] for name, _ in named if name in layers}


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's parameters."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _is_layer(module: nn.Module) -> bool:
    return any(p.ndim > 1 for p in module.parameters(recurse=False)) and not list(module.children())


def _noting(layers: dict[str, int], name: str, rows: int) -> Callable[..., None]:
    def note(module: nn.Module, arguments: Any, output: Any) -> None:
        first = output[0] if isinstance(output, (tuple, list)) and output else output
        if isinstance(first, Tensor) and first.ndim and len(first) == rows:
            layers[name] = first[0].numel()

    return note


_FEWEST = 4

"""The number of examples that the unbiased estimate needs."""


class LayerCKA(NamedTuple):
    """Similarities of all layers of a student to all layers of a teacher.

    Attributes:
        student_layers: Names of the layers, the rows of `values`.
        teacher_layers: Names of the layers, the columns.
        values: From about 0 (nothing in common) to 1 (equal up to rotation and scale); NaN for a constant layer.
        examples: The number of examples.
    """

    student_layers: tuple[str, ...]
    teacher_layers: tuple[str, ...]
    values: Float[Tensor, "student teacher"]
    examples: int


def linear_cka(x: Float[Tensor, "n ..."], y: Float[Tensor, "n ..."], *, debiased: bool = True) -> float:
    """Compute the centered kernel alignment (CKA) of two sets of features of the same examples, with linear kernels.

    ``HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))`` with ``K = x x'`` and ``L = y y'``. It does not change when features
    are rotated, shifted or scaled. With many features and few examples, the plain form is far from 0 even for unrelated
    features. The debiased form is 0 there in expectation and can be slightly negative.

    It needs two float64 matrices of n times n numbers; `layer_cka` needs only one batch at a time.

    Args:
        x: Features, one row per example. Further dimensions are flattened.
        y: Other features of the same examples in the same order.
        debiased: Whether to use the unbiased estimate of HSIC, which needs four examples.

    Returns:
        The similarity; NaN if the features of one side are constant.

    Raises:
        LimbeckError: If the numbers of examples differ or are too small.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 0.0], [3.0, 5.0], [4.0, 4.0], [1.0, 7.0]])
        >>> round(linear_cka(x, 3 * x.flip(1) + 1), 6)
        1.0

    Source: Kornblith, Norouzi, Lee and Hinton, Similarity of Neural Network Representations Revisited, 2019,
    arXiv:1905.00414; debiased: Song et al., Feature Selection via Dependence Maximization, 2012.
    """
    fewest = _FEWEST if debiased else 2
    if len(x) != len(y) or len(x) < fewest:
        raise LimbeckError(
            f"linear_cka compares features of the same examples, at least {fewest}; got {len(x)} and {len(y)}."
        )
    centered = torch.stack([_centered(part, debiased=debiased) for part in (x, y)])
    return float(_alignment(centered @ centered.T, 1)[0, 0])


def layer_cka(
    student: nn.Module,
    teacher: nn.Module,
    data: Any,
    *,
    student_layers: Sequence[str] | None = None,
    teacher_layers: Sequence[str] | None = None,
    student_preprocess: Reading = lambda batch: batch.inputs,
    teacher_preprocess: Reading = lambda batch: batch.inputs,
) -> LayerCKA:
    """Compute the debiased linear CKA between all layers of student and teacher, over batches.

    The unbiased HSICs of the batches are summed before the division, so the result does not depend on the batch size
    except for noise, and only one batch is in memory. Batches of fewer than four examples are left out. Both models run
    in eval mode without gradients, and all hooks are removed.

    Args:
        student: Any module, on its device.
        teacher: Any module, on its device.
        data: Batches, a `Dataset`, ``(inputs, labels)`` or a loader, as for `predict`.
        student_layers: Names of layers, as for `Tapped`. By default the layers of `named_layers`, whose outputs are
            pre-activations.
        teacher_layers: The same for the teacher.
        student_preprocess: Maps a batch to the inputs of the student.
        teacher_preprocess: Maps a batch to the inputs of the teacher.

    Raises:
        MissingOutputError: If a layer does not exist or is not called.
        DataError: If no batch has at least four examples.
        LimbeckError: If a model has no layers with weights and no layers were named.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> layer_cka(model, model, torch.randn(20, 3)).values.diagonal().round(decimals=6)
        tensor([1., 1.], dtype=torch.float64)

    Source: Nguyen, Raghu and Kornblith, Do Wide and Deep Networks Learn the Same Things?, 2020, arXiv:2010.15327.
    """
    batches = (batch for batch in as_batches(data) if batch.size >= _FEWEST)
    first = next(batches, None)
    if first is None:
        raise DataError(f"layer_cka needs a batch of at least {_FEWEST} examples; there was none.")
    mine = tuple(student_layers or named_layers(student, first, student_preprocess))
    theirs = tuple(teacher_layers or named_layers(teacher, first, teacher_preprocess))
    total, examples = torch.zeros(len(mine) + len(theirs), len(mine) + len(theirs), dtype=torch.float64), 0
    with (
        FrozenParameters(student),
        FrozenParameters(teacher),
        Tapped(student, mine) as student_tap,
        Tapped(teacher, theirs) as teacher_tap,
    ):
        for batch in chain([first], batches):
            features = _features(student_tap, mine, batch, student_preprocess) + _features(
                teacher_tap, theirs, batch, teacher_preprocess
            )
            centered = torch.stack([_centered(part, debiased=True) for part in features])
            total += centered @ centered.T / (batch.size * (batch.size - 3))
            examples += batch.size
    return LayerCKA(mine, theirs, _alignment(total, len(mine)), examples)


def _features(tapped: Tapped, layers: tuple[str, ...], batch: Batch, preprocess: Reading) -> list[Tensor]:
    with torch.no_grad():
        outputs = tapped(preprocess(batch.to(device_of(tapped.model))))
    for layer in layers:
        if len(outputs[layer]) != batch.size:
            shape = list(outputs[layer].shape)
            raise DataError(f"{layer!r} gives {shape} for {batch.size} examples: not one row each.")
    return [outputs[layer] for layer in layers]


def _centered(features: Float[Tensor, "n ..."], *, debiased: bool) -> Float[Tensor, " n_times_n"]:
    """The centered Gram matrix, flattened. The product of two of these is the HSIC up to a factor of n."""
    flat = (
        features.detach().flatten(1).double().cpu() if features.ndim > 1 else features.detach().double().cpu()[:, None]
    )
    flat = flat - flat.mean(0)
    gram, n = flat @ flat.T, len(flat)
    if not debiased:
        return gram.flatten()
    gram.fill_diagonal_(0.0)
    rows = gram.sum(1) / (n - 2)
    gram = gram - rows[:, None] - rows[None, :] + rows.sum() / (n - 1)
    return gram.fill_diagonal_(0.0).flatten()


def _alignment(products: Float[Tensor, "layers layers"], students: int) -> Float[Tensor, "student teacher"]:
    own = products.diagonal()
    # The variance of a constant layer is rounding only.
    own = torch.where(own > 1e-24 * own.max().clamp(min=1e-300), own, torch.nan)
    return products[:students, students:] / (own[:students, None] * own[None, students:]).sqrt()
