"""Student and loss in one module, so that DDP and FSDP see all parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch, Inputs, Outputs, Progress, Term
from limbeck.engine.train_config import Fabric
from limbeck.losses import Objective, weighted_loss
from limbeck.tap import Tapped


class StepInputs:
    """What a pupil is given besides inputs. Not a tuple, so that no strategy casts or copies what is in it.

    `counts` says over how many values each term is averaged; None where they are those of this batch alone.
    """

    __slots__ = ("batch", "counts", "measure", "measure_parameters", "progress", "teacher")

    def __init__(
        self,
        teacher: Outputs,
        batch: Batch,
        progress: Progress,
        counts: dict[str, float] | None,
        *,
        measure: bool = False,
        measure_parameters: bool = False,
    ) -> None:
        self.teacher = teacher
        self.batch = batch
        self.progress = progress
        self.counts = counts
        self.measure = measure
        self.measure_parameters = measure_parameters


class StudentWithLoss(nn.Module):
    """A student with the objective that it learns by; wrapped as one, because heads learn too.

    After a lesson, `terms` holds what the objective gave, without its graph: strategies walk through all that a forward
    pass returns, and this is for the report alone. After one with ``measure``, `gradients` holds for each term its
    weighted gradient at what the student showed, in one row, and `parameter_gradients` that at its parameters.

    A term whose weight is 0 takes no part, be it infinite; so that nothing else changes, the parameters that terms
    reach, `reached`, then still have a gradient, of 0.
    """

    def __init__(self, tapped: Tapped, objective: Objective, *, reached: Iterable[nn.Parameter] = ()) -> None:
        super().__init__()
        self.tapped = tapped
        self.objective = objective
        self._reached = tuple(reached)
        self.terms: dict[str, Term] = {}
        self.gradients: dict[str, Tensor] = {}
        self.parameter_gradients: dict[str, Tensor] = {}

    def forward(self, inputs: Inputs, lesson: StepInputs) -> Tensor:
        """The number to minimize for one batch."""
        outputs = self.tapped(inputs)
        terms = self.objective(outputs, lesson.teacher, lesson.batch, lesson.progress)
        counts = lesson.counts or {name: float(term.count) for name, term in terms.items()}
        loss = weighted_loss(terms, counts)
        if any(term.weight == 0 for term in terms.values()):
            loss = loss + sum(parameter.sum() * 0.0 for parameter in self._reached)
        if lesson.measure:
            self.gradients = _gradients(terms, counts, list(outputs.values()))
        if lesson.measure_parameters:
            self.parameter_gradients = _gradients(terms, counts, list(self.parameters()))
        self.terms = {name: Term(term.total.detach(), term.count, term.weight) for name, term in terms.items()}
        return loss


def unwrap_for_call(student_with_loss: Any, fabric: Fabric) -> Callable[[Inputs, StepInputs], Tensor]:
    """How a pupil that Fabric has set up is called: past Fabric's wrapper where that would only open autocast.

    The wrapper walks through every argument, which beside a small model costs as much as a layer. And it casts inputs
    to the narrow type before the model sees them, where autocast leaves that to each operation.
    """
    from lightning_fabric.plugins.precision import MixedPrecision, Precision
    from lightning_fabric.strategies import SingleDeviceStrategy

    alone = isinstance(fabric.strategy, SingleDeviceStrategy)
    if not alone or type(fabric.strategy.precision) not in (Precision, MixedPrecision):
        return student_with_loss

    def ask(inputs: Inputs, lesson: StepInputs) -> Tensor:
        with fabric.autocast():
            loss: Tensor = student_with_loss.module(inputs, lesson)
        return loss

    return ask


def _gradients(terms: dict[str, Term], counts: dict[str, float], at: list[Any]) -> dict[str, Tensor]:
    """Each term's weighted gradient at all of `at`, in one row: zero where it does not reach."""
    at = [tensor for tensor in at if tensor.requires_grad]
    if not at:
        return {name: torch.zeros(1) for name in terms}
    rows: dict[str, Tensor] = {}
    for name, term in terms.items():
        if term.weight == 0:
            rows[name] = at[0].new_zeros(sum(tensor.numel() for tensor in at))
            continue
        weighted = term.total * (term.weight / (counts[name] or 1.0))
        gradients = torch.autograd.grad(weighted, at, retain_graph=True, allow_unused=True, materialize_grads=True)
        rows[name] = torch.cat([gradient.flatten() for gradient in gradients]).detach()
    return rows
