"""Student and loss in one module, so that DDP and FSDP see all parameters; which parts of it are in train mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch, Inputs, Outputs, Progress, Term
from limbeck.engine.train_config import Fabric
from limbeck.losses import LossTerm, Objective, weighted_loss
from limbeck.tap import Tapped


class StepInputs:
    """The arguments of `StudentWithLoss` besides inputs; not a tuple, so that no strategy casts or copies the contents.

    Args:
        teacher: The teacher's outputs.
        batch: The batch.
        progress: The step.
        counts: The number of values that each term is averaged over; None if they are those of this batch.
        measure: Whether to compute each term's gradient at the student's outputs.
        measure_parameters: Whether to compute it at the parameters too.
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
    """A student with its objective, wrapped as one module because heads learn too.

    A term of weight 0 adds nothing, even if it is infinite. The parameters that terms reach still get a gradient of 0,
    so that a schedule of weights is continuous at 0.

    Attributes:
        terms: The terms of the last batch, without their graph. They are not an output of `forward`, because strategies
            process all outputs.
        outputs: The student's outputs for the last batch, without their graph, if a loss is updated after a step.
        gradients: Each term's weighted gradient at the student's outputs, in one row, if it was measured. If the logits
            are not computed, it is the one at the input of the output layer.
        parameter_gradients: The same at the parameters.
    """

    def __init__(self, tapped: Tapped, objective: Objective, *, reached: Iterable[nn.Parameter] = ()) -> None:
        super().__init__()
        self.tapped = tapped
        self.objective = objective
        self._reached = tuple(reached)
        self._updates = bool(losses_with_memory(objective))
        self.outputs = Outputs()
        self.terms: dict[str, Term] = {}
        self.gradients: dict[str, Tensor] = {}
        self.parameter_gradients: dict[str, Tensor] = {}

    def forward(self, inputs: Inputs, lesson: StepInputs) -> Tensor:
        """The value of the objective for one batch."""
        outputs = self.tapped(inputs)
        terms = self.objective(outputs, lesson.teacher, lesson.batch, lesson.progress, lesson.counts)
        counts = lesson.counts or {name: float(term.count) for name, term in terms.items()}
        skipped = len(terms) < len(self.objective.named_leaves())
        loss = weighted_loss(terms, counts)
        if skipped or any(term.weight == 0 for term in terms.values()):
            # Without a gradient the optimizer would skip these parameters, with their momentum and weight decay.
            loss = loss + sum(parameter.sum() * 0.0 for parameter in self._reached)
        if lesson.measure:
            self.gradients = _gradients(terms, counts, list(outputs.values()))
        if lesson.measure_parameters:
            self.parameter_gradients = _gradients(terms, counts, list(self.parameters()))
        if self._updates:
            self.outputs = outputs.detach()
        self.terms = {name: Term(term.total.detach(), term.count, term.weight) for name, term in terms.items()}
        return loss


def losses_with_memory(objective: Objective) -> list[LossTerm]:
    """The losses that are updated after a step."""
    own = (LossTerm.after_step, LossTerm.end_step)
    return [leaf for leaf, _ in objective.leaves() if (type(leaf).after_step, type(leaf).end_step) != own]


def unwrap_for_call(student_with_loss: Any, fabric: Fabric) -> Callable[[Inputs, StepInputs], Tensor]:
    """The module to call for a student that Fabric has set up; without Fabric's wrapper if that only adds autocast.

    The wrapper processes every argument, which costs as much as a layer of a small model. It also casts the inputs to
    the lower precision before the model, while autocast decides that for each operation.
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
    """Each term's weighted gradient at all tensors of `at`, in one row; 0 at tensors that the term does not reach."""
    at = [tensor for tensor in at if tensor.requires_grad]
    if not at:
        return {name: torch.zeros(1) for name in terms}
    rows: dict[str, Tensor] = {}
    for name, term in terms.items():
        if term.weight == 0:  # 0 times an infinite or NaN total would be NaN
            rows[name] = at[0].new_zeros(sum(tensor.numel() for tensor in at))
            continue
        weighted = term.total * (term.weight / (counts[name] or 1.0))
        gradients = torch.autograd.grad(weighted, at, retain_graph=True, allow_unused=True, materialize_grads=True)
        rows[name] = torch.cat([gradient.flatten() for gradient in gradients]).detach()
    return rows


def frozen_eval_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that stay in eval mode while the model trains, because the user froze them.

    These are parts in eval mode without trainable parameters, inside a model in train mode: a BatchNorm with fixed
    running statistics, a frozen body. A model that is completely in eval mode was evaluated or just loaded, so it
    trains as a whole; so does a part in eval mode with trainable parameters.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
        >>> _ = model[1].requires_grad_(False).eval()
        >>> frozen_eval_modules(model) == [model[1]]
        True
        >>> frozen_eval_modules(model.eval())
        []
    """
    return list(dict.fromkeys(_resting(model))) if model.training else []


def _resting(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if child.training:
            yield from _resting(child)
        elif not any(parameter.requires_grad for parameter in child.parameters()):
            yield from child.modules()


def has_sparse_gradients(model: nn.Module) -> bool:
    """Whether a trainable embedding in the module gives sparse gradients, with only the rows that were looked up."""
    kinds = (nn.Embedding, nn.EmbeddingBag)
    embeddings = [module for module in model.modules() if isinstance(module, kinds) and module.sparse]
    return any(module.weight.requires_grad for module in embeddings)


def other_modules(model: nn.Module, parts: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules that are not in one of these parts and do not contain one."""
    inside = {module for part in parts for module in part.modules()}
    return [module for module in model.modules() if inside.isdisjoint(module.modules())]
