"""Check that two training loops compute the same thing, so that their times can be compared."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from benchmarks.plain_loop import plain_blocks
from benchmarks.workload import Blocks, Plan, Work
from limbeck.errors import LimbeckError

WEIGHTS = 1e-4
"""Largest allowed difference of two float32 weights after a few steps."""
MOVED = 0.05
"""Largest allowed distance of bfloat16 students, relative to their movement; rounding alone causes a few per cent."""


class Apart(NamedTuple):
    """The distance between two students with the same start and training.

    Attributes:
        weights: The largest difference between two weights.
        moved: The norm of the difference of all weights, relative to the movement of the reference.
        loss: The largest relative difference between the losses of two blocks.
    """

    weights: float
    moved: float
    loss: float


def distance(loop: Blocks, work: Work, plan: Plan, *, reference: Blocks = plain_blocks) -> Apart:
    """Run two loops from the same weights on the same batches, and return their final distance."""
    order = work.make_loader().order
    mine, its = work.student(), work.student()
    my_losses = torch.tensor(list(loop(work, plan, mine, order)))
    its_losses = torch.tensor(list(reference(work, plan, its, order)))
    end, other, start = _flat(its), _flat(mine), _flat(work.initial)
    return Apart(
        float((other - end).abs().max()),
        float((other - end).norm() / (end - start).norm()),
        float(((my_losses - its_losses) / its_losses).abs().max()),
    )


def check_agreement(loop: Blocks, work: Work, plan: Plan, *, reference: Blocks = plain_blocks) -> Apart:
    """The `distance` of two loops; raises if it is larger than rounding explains.

    In float32, weights may differ by less than 1e-4, and losses by less than that fraction. In bfloat16 the loops round
    differently, so the students may differ by a twentieth of their movement, and losses by a hundredth.

    Raises:
        LimbeckError: If it is larger: the loops compute different things, so their speeds cannot be compared.
    """
    apart = distance(loop, work, plan, reference=reference)
    same = (
        apart.moved <= MOVED and apart.loss <= 1e-2
        if plan.mixed
        else apart.weights <= WEIGHTS and apart.loss <= WEIGHTS
    )
    if not same:
        raise LimbeckError(
            f"The two loops do not compute the same thing ({plan.precision}): after {plan.steps} steps from the same "
            f"weights on the same batches, weights differ by up to {apart.weights:.2g} ({100 * apart.moved:.2g} % of "
            f"the way) and losses by {100 * apart.loss:.2g} %. Their times cannot be compared."
        )
    return apart


def _flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().double().flatten() for parameter in model.parameters()])
