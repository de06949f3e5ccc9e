"""Losses of single rows of logits, computed together without the logits of all rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch, Outputs, Progress, Term
from limbeck.functional.fused_linear import RowLoss, fused_linear_losses
from limbeck.functional.output_layer import HiddenLogits, NeedsHidden
from limbeck.losses.bound_kernel import BoundKernel

_FEW = 8  # examples
_FEW_POSITIONS = 4


class RowTerm(NamedTuple):
    """A term that is a sum over rows of logits.

    Attributes:
        loss: The value of each row.
        teacher: The teacher's logits, partial logits or hidden logits; None if it reads none.
        labels: The label of each row; None if it reads none.
        keep: Which rows count, ``[batch]`` or ``[batch, *positions]``; None means all.
        rows: The number of rows that count.
        weight: The weight of the term.
        divisor: The number that its sum is divided by in the minimized value.
    """

    loss: RowLoss
    teacher: Any
    labels: Tensor | None
    keep: Tensor | None
    rows: float
    weight: float
    divisor: float


def compute_row_terms(terms: Mapping[str, RowTerm], student: Outputs) -> dict[str, Term]:
    """Compute terms of logits that are not multiplied out, in one pass over the rows (see `fused_linear_losses`).

    Args:
        terms: The terms by name.
        student: Outputs with the student's logits in `Outputs.hidden`.
    """
    logits = student.hidden[LOGITS]
    leading = logits.shape[:-1]
    results = fused_linear_losses(
        logits.hidden,
        logits.layer,
        {name: term.loss for name, term in terms.items()},
        teacher=next((term.teacher for term in terms.values() if term.teacher is not None), None),
        labels=next((term.labels for term in terms.values() if term.labels is not None), None),
        keep=_merge_masks({name: term.keep for name, term in terms.items()}, leading),
        weights={name: term.weight / (term.divisor or 1.0) for name, term in terms.items()},
    )
    return {name: Term(results[name].total, term.rows, term.weight) for name, term in terms.items()}


def _merge_masks(masks: Mapping[str, Tensor | None], leading: torch.Size) -> Any:
    """One mask if it is the same for all terms, so that no other row is computed; else one for each."""
    full = {name: _expand(mask, leading) for name, mask in masks.items()}
    first, *others = full.values()
    if all(other is first or _are_equal(other, first) for other in others):
        return first
    some = next(mask for mask in full.values() if mask is not None)
    return {name: torch.ones_like(some) if mask is None else mask for name, mask in full.items()}


def _expand(mask: Tensor | None, leading: torch.Size) -> Tensor | None:
    if mask is None or mask.shape == leading:
        return mask
    return mask.reshape(mask.shape + (1,) * (len(leading) - mask.ndim)).expand(leading)


def _are_equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)


def works_on_rows(kernel: BoundKernel, classes: int, device: torch.device) -> bool:
    """Whether the value of each row of logits depends on that row alone, tried with random logits.

    Args:
        kernel: The kernel.
        classes: The number of classes.
        device: The device of the logits.
    """
    if kernel.per != "position" or not kernel.inputs <= {"student", "teacher", "labels"}:
        return False
    if isinstance(kernel.function, nn.Module):  # it may have a memory
        return False
    draw = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(2, 3, classes, generator=draw).to(device) for name in ("student", "teacher")}
    tensors["labels"] = torch.randint(classes, (2, 3), generator=draw).to(device)
    tensors = {name: tensors[name] for name in sorted(kernel.inputs)}
    order = torch.randperm(6, generator=draw).to(device)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            whole = kernel(tensors, Progress())
            rows = kernel({name: tensor.flatten(0, 1)[order] for name, tensor in tensors.items()}, Progress())
    except Exception:  # a kernel of the user's may need anything; its own error is raised when it is used
        return False
    if whole.shape != (2, 3) or rows.shape != (6,):
        return False
    return torch.allclose(whole.flatten()[order], rows, rtol=1e-4, atol=1e-6, equal_nan=True)


def select_few(student: Outputs, teacher: Outputs, batch: Batch) -> tuple[Outputs, Outputs, Batch]:
    """The first rows of hidden logits, multiplied out, with what the teacher and the labels have for these rows.

    The other outputs and columns are the same as before.
    """
    hidden = student.hidden[LOGITS]
    leading = hidden.shape[:-1]
    few = tuple(slice(size) for size in (_FEW, _FEW_POSITIONS, *[1] * len(leading)))[: len(leading)]
    labels = batch.labels if batch.labels is None or batch.labels.shape != leading else batch.labels[few]
    sides = (_few_logits(outputs, few, hidden.hidden.detach()) for outputs in (student, teacher))
    return next(sides), next(sides), batch._replace(labels=labels)


def _few_logits(outputs: Outputs, few: tuple[slice, ...], hidden: Tensor) -> Outputs:
    others = {address: outputs.raw(address) for address in {*outputs, *outputs.partial, *outputs.hidden} - {LOGITS}}
    if LOGITS not in outputs and LOGITS not in outputs.partial and LOGITS not in outputs.hidden:
        return Outputs.of(others)
    logits: Any = outputs.raw(LOGITS)[few]
    if isinstance(logits, HiddenLogits):
        logits = logits.to_dense()
    elif isinstance(logits, NeedsHidden):
        logits = logits.meet(hidden[few])
    return Outputs.of({**others, LOGITS: logits})
