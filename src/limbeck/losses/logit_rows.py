"""The rows of logits of a batch that count, for losses with parameters or memories."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from limbeck.batch import IGNORED, LOGITS, Batch, Outputs


class LogitPairs(NamedTuple):
    """The rows of logits that count, in float32 or better.

    Attributes:
        student: ``[rows, classes]``.
        teacher: ``[rows, classes]``.
        labels: ``[rows]``; None if they were not asked for.
    """

    student: Tensor
    teacher: Tensor
    labels: Tensor | None


def find_counted(batch: Batch, *, labeled: bool) -> Tensor | None:
    """Which examples or positions count: those of the mask, and with `labeled` those with a label; None for all."""
    counted = None if batch.mask is None else batch.mask.bool()
    if not labeled or batch.labels is None:
        return counted
    known = batch.labels != IGNORED
    if counted is None:
        return known
    return known & counted.reshape(counted.shape + (1,) * (known.ndim - counted.ndim))


def count_logit_rows(batch: Batch, positions: int, *, labeled: bool = False) -> float:
    """Count the rows of `select_logit_rows` before the forward pass.

    Args:
        batch: The batch.
        positions: The number of rows of logits of an example.
        labeled: Whether only rows with a label count.
    """
    counted = find_counted(batch, labeled=labeled)
    if counted is None:
        return float(batch.size * positions)
    return float(counted.sum()) * (positions if counted.ndim == 1 else 1)


def select_logit_rows(
    student: Outputs, teacher: Outputs, batch: Batch, *, classes: int = -1, labeled: bool = False
) -> LogitPairs:
    """Select the rows of logits that count; the rows of maps and texts one after the other.

    Args:
        student: The student's outputs.
        teacher: The teacher's outputs.
        batch: The batch.
        classes: The dimension of the logits that holds the classes.
        labeled: Whether only rows with a label count.

    Example:
        >>> both = Outputs(logits=torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> batch = Batch(torch.zeros(2), labels=torch.tensor([-100, 1]))
        >>> select_logit_rows(both, both, batch, labeled=True).student.tolist()
        [[3.0, 4.0]]
    """
    ours, theirs = (outputs[LOGITS].movedim(classes, -1) for outputs in (student, teacher))
    counted = find_counted(batch, labeled=labeled)
    labels = batch.labels if labeled else None
    if counted is None:
        return LogitPairs(_wide(ours), _wide(theirs), None if labels is None else labels.flatten())
    counted = counted.reshape(counted.shape + (1,) * (ours.ndim - 1 - counted.ndim)).expand(ours.shape[:-1])
    return LogitPairs(_wide(ours[counted]), _wide(theirs[counted]), None if labels is None else labels[counted])


def _wide(rows: Tensor) -> Tensor:
    return rows.reshape(-1, rows.shape[-1]).to(torch.promote_types(rows.dtype, torch.float32))
