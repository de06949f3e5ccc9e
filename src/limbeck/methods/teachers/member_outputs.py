"""Outputs of several teachers side by side, and what is known of each teacher for an example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.batch import LOGITS, Batch, Outputs
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, kl_divergence, probabilities
from limbeck.losses.distributed import all_reduce_tensor
from limbeck.losses.logit_rows import find_counted

_LARGEST_LOSS = 10.0
"""Nats; a teacher's loss beyond says nothing more about it, and would outweigh all other features."""


class MemberRows(NamedTuple):
    """The examples of a batch that count, for the student and several teachers.

    Attributes:
        student: The student's logits, in float32 or better.
        teachers: The logits of each teacher.
        labels: The labels.
        embedding: A teacher's features, one row for each example; None if none are read.
        counted: Which rows of the batch these are.
    """

    student: Float[Tensor, "rows classes"]
    teachers: Float[Tensor, "teachers rows classes"]
    labels: Int[Tensor, " rows"]
    embedding: Float[Tensor, "rows width"] | None
    counted: Bool[Tensor, " batch"]


def member_addresses(names: Sequence[str], embedding: str | None = None) -> frozenset[str]:
    """The addresses of the logits of each member of an ensemble, and of one of its layers.

    Example:
        >>> sorted(member_addresses(["a", "b"], "a.layer1"))
        ['a.layer1', 'a.logits', 'b.logits']
    """
    return frozenset({f"{name}.{LOGITS}" for name in names} | ({embedding} if embedding else set()))


def read_members(
    student: Outputs, teacher: Outputs, batch: Batch, names: Sequence[str], *, method: str, embedding: str | None = None
) -> MemberRows:
    """Read the labeled examples of a batch.

    Raises:
        LimbeckError: If there are no labels, an example has several rows of logits, or the classes differ.
    """
    if batch.labels is None:
        raise LimbeckError(f"{method} judges its teachers by labels, and this loader gives none.")
    logits = [teacher[f"{name}.{LOGITS}"] for name in names]
    shapes = {name: list(one.shape[1:]) for name, one in zip(names, logits, strict=True)}
    shapes["student"] = list(student[LOGITS].shape[1:])
    if len({tuple(shape) for shape in shapes.values()}) > 1 or student[LOGITS].ndim != 2:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise LimbeckError(f"{method} needs one row of logits for each example and equal classes; shapes: {listed}.")
    counted = find_counted(batch, labeled=True)
    if counted is None:
        counted = torch.ones(batch.size, dtype=torch.bool, device=batch.labels.device)
    features = None if embedding is None else _standardized(_widen(teacher[embedding][counted]).flatten(1))
    return MemberRows(
        _widen(student[LOGITS][counted]),
        torch.stack([_widen(one[counted]) for one in logits]),
        batch.labels[counted],
        features,
        counted,
    )


def member_losses(rows: MemberRows) -> Float[Tensor, "teachers rows"]:
    """The cross-entropy of each teacher in nats."""
    return torch.stack([cross_entropy(logits, labels=rows.labels) for logits in rows.teachers])


def member_divergences(rows: MemberRows, temperature: float) -> Float[Tensor, "teachers rows"]:
    """T^2 KL of the student from each teacher in nats, with a graph to the student."""
    return torch.stack([kl_divergence(rows.student, logits, temperature=temperature) for logits in rows.teachers])


def describe_members(rows: MemberRows) -> Float[Tensor, "teachers rows features"]:
    """What a policy or gate knows of an example and each teacher, without a graph.

    The features are those of the example (the embedding, scaled to mean 0 and variance 1 within the example; without
    one the probabilities of all teachers), the teacher's own probabilities, and its loss, at most 10 nats.
    """
    with torch.no_grad():
        own = probabilities(rows.teachers)
        every = own.transpose(0, 1).flatten(1) if rows.embedding is None else rows.embedding
        losses = member_losses(rows).clamp_max(_LARGEST_LOSS).unsqueeze(-1).nan_to_num(_LARGEST_LOSS)
        return torch.cat([every.expand(len(own), *every.shape), own, losses], -1)


def _standardized(features: Tensor) -> Tensor:
    return F.layer_norm(features, features.shape[-1:])


def _widen(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class MemberShares(nn.Module):
    """The mean weight of each teacher in the last steps, which reports and `run` read.

    Args:
        names: The names of the teachers.
        decay: What stays of the mean at each step.
    """

    mean: Tensor

    def __init__(self, names: Sequence[str], *, decay: float = 0.9) -> None:
        super().__init__()
        self.names, self.decay = tuple(names), decay
        self.register_buffer("mean", torch.full((len(names),), 1 / len(names)))

    def update(self, weights: Float[Tensor, " teachers"]) -> None:
        """Take the mean weights of a step."""
        self.mean.lerp_(weights.to(self.mean), 1 - self.decay)

    def update_by_rows(self, weights: Float[Tensor, "teachers rows"]) -> None:
        """Take the mean over the rows of all ranks; all call it, since a buffer must not differ between them."""
        total = all_reduce_tensor(torch.cat([weights.sum(1), weights.new_tensor([weights.shape[1]])]))
        if total[-1] > 0:
            self.update(total[:-1] / total[-1])

    @property
    def by_name(self) -> dict[str, float]:
        """The mean weight of each teacher."""
        return dict(zip(self.names, self.mean.tolist(), strict=True))
