"""Representation consolidation: one body with a head for each teacher, of which one is a generalist."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch, Outputs, Progress, Requirements, Term, zero_where_masked
from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.functional import check_hyper, kl_divergence
from limbeck.functional.feature_maps import to_positions
from limbeck.losses import LossContext, LossTerm
from limbeck.losses.distributed import all_reduce_tensor
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_weight, read_teachers
from limbeck.model_call import find_output_layer
from limbeck.recipe import Models, Recipe, Stage
from limbeck.tasks import Task

CARD = MethodCard(
    name="representation_consolidation",
    title="Representation Consolidation for Training Expert Students",
    authors="Li, Ravichandran, Fowlkes, Polito, Bhotika and Soatto",
    year=2021,
    arxiv="2107.08039",
    venue="arXiv preprint",
    claim="A body learns from several teachers at once, each through a linear head of its own, on inputs without "
    "labels. With a generalist among them its features stay useful for other tasks, which those of task-specific "
    "teachers alone lose.",
    when="To merge several teachers with other classes, or features alone, into one body that is fine-tuned or probed "
    "afterwards. In Python teachers may have other classes; in a job all have those of the data. The heads are "
    "dropped: after it the student's own output layer, and nothing else, learns the labels (probe=False leaves it "
    "out). For one task with equal classes, hinton with an ensemble is simpler.",
    bibtex="""@article{li2021representation,
  title = {Representation Consolidation for Training Expert Students},
  author = {Li, Zhizhong and Ravichandran, Avinash and Fowlkes, Charless and Polito, Marzia and Bhotika, Rahul and
            Soatto, Stefano},
  journal = {arXiv preprint arXiv:2107.08039},
  year = {2021}
}""",
    ranges={"temperature": SearchRange(1.0, 8.0, log=True)},
    reads=("logits", "features"),
    labels="few",
    needs="two teachers or more",
    example={"student_at": "features", "generalist": "first", "features": {"third": "layer1"}},
    trials=("several",),
    tasks=("classification", "multi_label", "regression"),
    keywords=("multi-head", "merge", "generalist", "foundation"),
)


class MemberHeads(nn.Module):
    """A linear layer for each teacher, and the mean and the standard deviation of the features of some.

    Statistics are those of all examples of the steps so far. Before the first step there are none, and its target is 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()

    def add(self, name: str, features: Float[Tensor, "batch width"], target: Float[Tensor, "batch target"]) -> None:
        """Add a head from the student's features to a target."""
        dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
        self.layers[f"head_{name}"] = nn.Linear(features.shape[1], target.shape[1], device=features.device, dtype=dtype)

    def add_statistics(self, name: str, target: Float[Tensor, "batch target"]) -> None:
        """Begin the statistics of a teacher's features, without an example."""
        self.register_buffer(f"sums_{name}", _sums(target[:0]))

    def standardize(self, name: str, target: Float[Tensor, "batch target"]) -> Float[Tensor, "batch target"]:
        """Features with mean 0 and variance 1 in each dimension; 0 where a dimension is constant."""
        count, total, squares = self.get_buffer(f"sums_{name}")
        count = count.clamp_min(1)
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0.0)
        constant = variance <= 1e-12 * (squares / count).clamp_min(1e-30)
        scaled = (target.double() - mean) / variance.where(~constant, 1.0).sqrt()
        return scaled.masked_fill(constant, 0.0).to(target.dtype)

    def update(self, name: str, sums: Float[Tensor, "3 target"]) -> None:
        """Add the sums of a step."""
        self.get_buffer(f"sums_{name}").add_(sums)


def _sums(rows: Float[Tensor, "rows width"]) -> Float[Tensor, "3 width"]:
    """The number of rows, their sum and the sum of their squares, for each dimension."""
    wide = rows.double()
    return torch.stack([torch.full_like(wide.sum(0), len(rows)), wide.sum(0), wide.square().sum(0)])


class ConsolidatedTeachers(LossTerm):
    """The loss of `representation_consolidation`: one value for each example, the weighted sum over the heads."""

    name, per = "consolidation", "example"
    heads_by_name: MemberHeads

    def __init__(
        self, weights: Mapping[str, float], *, student_at: str, features: Mapping[str, str], temperature: float
    ) -> None:
        super().__init__()
        self.weights, self.student_at, self.features = dict(weights), student_at, dict(features)
        self.temperature = temperature
        self.own_temperatures = frozenset({temperature})

    def _address(self, name: str) -> str:
        return f"{name}.{self.features.get(name, LOGITS)}"

    @property
    def requires(self) -> Requirements:
        """The student's features, and the logits or a layer of each teacher with a weight."""
        return Requirements(frozenset({self.student_at}), frozenset(map(self._address, self.weights)))

    def setup(self, context: LossContext) -> ConsolidatedTeachers:
        """The loss for one stage, with new heads for the shapes of the first batch."""
        fitted = copy.copy(self)
        fitted.heads_by_name = MemberHeads()
        ours = _rows(context.student[self.student_at])
        for name in self.weights:
            target = _rows(context.teacher[self._address(name)])
            fitted.heads_by_name.add(name, ours, target)
            if name in self.features:
                fitted.heads_by_name.add_statistics(name, target)
        return fitted

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The sum of the values of the examples that count."""
        ours, valid = _rows(student[self.student_at]), batch.valid
        with torch.autocast(ours.device.type, enabled=False):
            values = torch.stack(
                [weight * self.compare(name, ours, teacher, batch) for name, weight in self.weights.items()]
            ).sum(0)
        return Term(values.masked_fill(~valid.to(values.device), 0.0).sum(), self.count(batch))

    def compare(self, name: str, ours: Float[Tensor, "batch width"], teacher: Outputs, batch: Batch) -> Tensor:
        """The loss of one head, one value for each example, in nats or, of features, in variances."""
        target = zero_where_masked(_rows(teacher[self._address(name)]), batch.valid)
        answer = self.heads_by_name.layers[f"head_{name}"](ours)
        if name not in self.features:
            return kl_divergence(answer, target, temperature=self.temperature)
        known = bool(self.heads_by_name.get_buffer(f"sums_{name}")[0, 0] > 0)
        scaled = self.heads_by_name.standardize(name, target)
        # In the first step there are no statistics yet: those of a part of it would depend on how it was split.
        return (answer - scaled).square().mean(1) if known else 0.0 * answer.sum(1)

    def count(self, batch: Batch) -> float:
        """The number of examples that count."""
        return float(batch.valid.sum())

    def after_step(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> None:
        """Add the features of teachers to their statistics."""
        for name in self.features:
            rows = _rows(teacher[self._address(name)])
            self.heads_by_name.update(name, all_reduce_tensor(_sums(rows[batch.valid.to(rows.device)])))

    def __repr__(self) -> str:
        names = ("weights", "student_at", "features", "temperature")
        return f"ConsolidatedTeachers({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


def _rows(features: Tensor) -> Float[Tensor, "batch width"]:
    """One row for each example, in float32 or better: maps and tokens are averaged over their positions."""
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    return wide if wide.ndim == 2 else to_positions(wide).mean(1)


def balance_teachers(names: Sequence[str], generalist: str | None) -> dict[str, float]:
    """The weights of teachers: one half for the generalist, and the rest in equal parts; all equal without one.

    Example:
        >>> balance_teachers(["all", "cars", "birds"], "all")
        {'all': 0.5, 'cars': 0.25, 'birds': 0.25}
    """
    if generalist is None:
        return {name: 1 / len(names) for name in names}
    rest = 0.5 / (len(names) - 1)
    return {name: 0.5 if name == generalist else rest for name in names}


@validates_arguments
def representation_consolidation(
    teacher: Any,
    *,
    student_at: str,
    generalist: str | None = None,
    features: Mapping[str, str] | None = None,
    weights: Mapping[str, float] | None = None,
    temperature: float = 2.0,
    probe: bool = True,
    probe_epochs: int | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Train in two stages: a head for each teacher on the student's features, then the student's output layer.

    1. :math:`\sum_k \lambda_k T^2 KL(p_k \| \mathrm{softmax}(h_k(\phi(x)) / T))` in nats, with :math:`\phi` the
       student's features and :math:`h_k` a linear layer for teacher k. Of a teacher whose features are learned, the
       loss is :math:`\lambda_k` times the mean squared error of its features, each dimension with mean 0 and variance
       1. No label is used. The heads are dropped.
    2. With `probe`, the student's output layer learns the labels. Nothing else in the student changes.

    Args:
        teacher: An `Ensemble` with names (``teachers:`` in a job), a mapping from names to teachers, or a list. Their
            classes may differ.
        student_at: The student's layer that the heads read; maps and tokens are averaged over positions.
        generalist: The name of the teacher whose features shall stay useful. It gets one half of the weight.
        features: The layer of each teacher of which features are learned in place of logits: ``{name: layer}``.
        weights: :math:`\lambda` of each teacher, at least 0, in place of the balanced ones (`balance_teachers`). A
            teacher with 0 is not asked.
        temperature: T, above 0.
        probe: Whether the second stage follows.
        probe_epochs: Passes of the second stage; by default the budget of the run.
        task: What the targets of the second stage are.
        epochs: Passes of the first stage; by default the budget of the run.

    Raises:
        LimbeckError: If there are fewer than two teachers, a name is unknown, or an argument is out of range.

    Example:
        >>> teachers = {"all": nn.Linear(4, 10), "cars": nn.Linear(4, 5)}
        >>> recipe = representation_consolidation(teachers, student_at="features", generalist="all")
        >>> next(recipe.stages()).objective.weights
        {'all': 0.5, 'cars': 0.5}

    Source: Li et al., 2021, arXiv:2107.08039.
    """
    check_hyper(temperature=temperature)
    source, names = read_teachers(teacher, "representation_consolidation")
    layers = dict(features or {})
    for argument, known in {
        "generalist": [generalist] if generalist is not None else [], "features": layers, "weights": weights or {}
    }.items():  # fmt: skip
        for name in known:
            if name not in names:
                raise unknown_name_error("teacher", name, names, argument=argument)
    own = {name: float((weights or {}).get(name, value)) for name, value in balance_teachers(names, generalist).items()}
    for name, value in own.items():
        check_weight(**{f"weights.{name}": value})
    kept = {name: value for name, value in own.items() if value > 0}
    if not kept:
        raise ArgumentError("All weights are 0: there is nothing to learn.", argument="weights")
    loss = ConsolidatedTeachers(
        kept, student_at=student_at, temperature=temperature,
        features={name: layer for name, layer in layers.items() if name in kept},
    )  # fmt: skip
    first = Stage(loss, teacher=source, epochs=epochs, name="representation_consolidation")
    return Recipe(first, _ProbeStage(CARD.get_task(task), probe_epochs)) if probe else Recipe(first)


@final
@dataclass(frozen=True)
class _ProbeStage:
    """The second stage, once the name of the output layer is known."""

    task: Task
    epochs: int | None

    def __call__(self, models: Models) -> Recipe:
        """Find the output layer, and make the stage."""
        layer = find_output_layer(models["student"])
        if layer is None or not layer[0]:
            raise LimbeckError(
                "representation_consolidation trains the student's output layer at the end, and none can be found: use "
                "probe=False, and train it yourself."
            )
        return Recipe(Stage(self.task.supervised_loss(), only=layer[0], epochs=self.epochs, name="probe"))

    def describe(self) -> dict[str, Any]:
        """The settings."""
        return {"task": self.task.name, "epochs": self.epochs}
