"""Quantization-aware distillation: a student with rounded weights and inputs learns from itself in full precision."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

from torch import nn

from limbeck.batch import Inputs
from limbeck.errors import ArgumentError
from limbeck.functional import check_hyper
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.logits.hinton import hinton
from limbeck.methods.support import check_count
from limbeck.model_call import Adaptor
from limbeck.models import describe_structure, transform_model
from limbeck.models.quantization import check_types, observe_ranges, set_ranges
from limbeck.recipe import ModelFactory, Models, Optimizer, Part, Recipe, RunContext, Ship, Stage, run_context
from limbeck.tap import get_adaptor
from limbeck.tasks import Task

FLOAT, ROUNDED = "float student", "rounded student"
"""The names of the models that a run makes: a frozen copy of the student in full precision, and the final model."""

CARD = MethodCard(
    name="qad",
    title="Apprentice: Using Knowledge Distillation Techniques To Improve Low-Precision Network Accuracy",
    authors="Mishra and Marr",
    year=2018,
    arxiv="1711.05852",
    venue="ICLR 2018",
    claim="A student that is rounded to 8 or fewer bits learns the outputs of the same student in full precision, so "
    "that it loses less than by rounding alone.",
    when="When the student is shipped with 8 or fewer bits and post-training quantization loses accuracy: small "
    "networks, one scale for a whole layer, 4 bits or ternary weights. Where 8 bits lose nothing, this gains nothing. "
    "In a job, `student.quantize` does the same after any method, with post-training quantization as a control.",
    bibtex="""@inproceedings{mishra2018apprentice,
  title = {Apprentice: Using Knowledge Distillation Techniques To Improve Low-Precision Network Accuracy},
  author = {Mishra, Asit and Marr, Debbie},
  booktitle = {International Conference on Learning Representations},
  year = {2018},
  eprint = {1711.05852},
  archivePrefix = {arXiv}
}""",
    needs="a second training, of the rounded student",
    ranges={
        "temperature": SearchRange(1.0, 20.0, log=True),
        "weight": SearchRange(0.0, 1.0),
        "quantized_temperature": SearchRange(1.0, 10.0, log=True),
    },
    tasks=("classification", "multi_label", "regression", "segmentation", "language_modeling"),
    keywords=("quantization", "quantization-aware", "QAT", "int8", "int4", "ternary"),
)


@validates_arguments
def qad(
    teacher: Any,
    *,
    weights: str = "int8",
    activations: str = "int8",
    per_channel: bool = True,
    source: str = "student",
    quantized_temperature: float = 1.0,
    examples: int = 512,
    temperature: float = 4.0,
    weight: float = 0.9,
    task: str | Task = "classification",
    float_epochs: int | None = None,
    epochs: int | None = None,
) -> Recipe:
    r"""Distill a student in full precision, round it, and let it learn from what it was.

    1. `hinton`: :math:`w T^2 KL(p \| q) + (1 - w) (-\log q_y)`.
    2. `limbeck.models.fake_quantize`: the ranges of the inputs are those of training examples.
    3. :math:`T_q^2 KL(q \| \hat q)` from the outputs q of the student of step 1, which is frozen, to those of the
       rounded student; gradients pass straight through the rounding.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        weights: The type of the weights: ``int8``, ``int4`` (15 levels) or ``ternary`` (three).
        activations: The type of the inputs of layers: ``int8``, or ``float``, which are not rounded.
        per_channel: Whether each output channel of a layer has its own scale of weights.
        source: Who teaches the rounded student: the ``student`` in full precision, or the ``teacher``.
        quantized_temperature: :math:`T_q`, above 0.
        examples: The number of training examples from which the ranges of inputs are measured, before the student is
            trained again; then they are fixed.
        temperature: T of the first step, above 0.
        weight: w of the first step, from 0 to 1.
        task: What the targets are.
        float_epochs: Passes over the data in full precision; by default the budget of the run. 0 for a student that is
            trained already.
        epochs: Passes over the data with rounded weights; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or the student has no layer that can be rounded.

    Example:
        >>> [stage.name for stage in qad(nn.Linear(4, 3)).stages()]
        ['hinton', 'quantized']

    Source: Mishra and Marr, 2018, arXiv:1711.05852, the third scheme (fine-tuning); Polino, Pascanu and Alistarh, 2018,
        arXiv:1802.05668.
    """
    if float_epochs is not None and float_epochs < 0:
        raise ArgumentError(f"float_epochs is at least 0; got {float_epochs}.", argument="float_epochs")
    if source not in ("student", "teacher"):
        raise ArgumentError(f"source is student or teacher; got {source!r}.", argument="source")
    task = CARD.get_task(task)
    first = hinton(teacher, temperature=temperature, weight=weight, task=task, epochs=float_epochs or None)
    return quantize_recipe(
        None if float_epochs == 0 else first, task=task, weights=weights, activations=activations,
        per_channel=per_channel, examples=examples, teacher=teacher if source == "teacher" else None,
        temperature=quantized_temperature, epochs=epochs,
    )  # fmt: skip


def quantize_recipe(
    recipe: Part | None,
    *,
    task: str | Task = "classification",
    weights: str = "int8",
    activations: str = "int8",
    per_channel: bool = True,
    examples: int = 512,
    teacher: Any = None,
    temperature: float = 1.0,
    optimizer: Optimizer | None = None,
    epochs: int | None = None,
    learn: bool = True,
) -> Recipe:
    """A recipe with the last two steps of `qad` behind it, whose final model is the rounded student.

    Args:
        recipe: The parts that train the student in full precision; None for a student that is trained already.
        task: What the targets are.
        weights: As for `qad`.
        activations: As for `qad`.
        per_channel: As for `qad`.
        examples: As for `qad`.
        teacher: The teacher of the rounded student; None for the student in full precision.
        temperature: The temperature of its loss.
        optimizer: The optimizer of the rounded student; by default that of the run.
        epochs: Passes over the data; by default the budget of the run.
        learn: Whether the rounded student learns. If not, this is post-training quantization of what `recipe` trains.

    Raises:
        LimbeckError: If an argument is out of range.

    Example:
        >>> quantize_recipe(hinton(nn.Linear(4, 3)), weights="ternary").ship
        'rounded student'
    """
    check_types(weights=weights, activations=activations)
    check_hyper(temperature=temperature)
    check_count(examples=examples)
    task = CARD.get_task(task)
    base: Ship = recipe.ship if isinstance(recipe, Recipe) else "student"
    rounded = RoundedCopy(base, weights, activations, per_channel, examples)
    if not learn:
        if recipe is None:
            raise ArgumentError("Nothing would be trained: use limbeck.models.fake_quantize.", argument="learn")
        return Recipe(recipe, ship=rounded)
    stage = Stage(
        1.0 * task.distillation_loss(temperature=temperature), trains=ROUNDED, name="quantized", epochs=epochs,
        teacher=FLOAT if teacher is None else teacher, optimizer=optimizer,
    )  # fmt: skip
    makes: dict[str, ModelFactory] = {ROUNDED: rounded, **({FLOAT: FrozenCopy(base)} if teacher is None else {})}
    parts = (stage,) if recipe is None else (recipe, stage)
    return Recipe(*parts, makes=makes, ship=ROUNDED)


class _Copy:
    """Makes a model of the run from another one, whose output is read by the same adaptor."""

    base: Ship

    def find_base(self, models: Models) -> nn.Module:
        """The model that is copied."""
        return models[self.base] if isinstance(self.base, str) else self.base(models)

    def adaptor(self, models: Models) -> Adaptor | None:
        """The adaptor of the model that is copied."""
        return get_adaptor(models, self.base) if isinstance(self.base, str) else None


@final
@dataclass(frozen=True)
class FrozenCopy(_Copy):
    """Makes a copy of a model that learns no more.

    Attributes:
        base: The name of the model, or a function that builds it.
    """

    base: Ship

    def __call__(self, models: Models) -> nn.Module:
        """Make the copy."""
        return copy.deepcopy(self.find_base(models)).requires_grad_(False).eval()


@final
@dataclass(frozen=True)
class RoundedCopy(_Copy):
    """Makes a rounded copy of a model. The ranges of its inputs are those of the first training examples of the run.

    Attributes:
        base: The name of the model, or a function that builds it.
        weights: The type of the weights.
        activations: The type of the inputs of layers.
        per_channel: Whether each output channel has its own scale.
        examples: The number of training examples.
    """

    base: Ship
    weights: str
    activations: str
    per_channel: bool
    examples: int

    def __call__(self, models: Models) -> nn.Module:
        """Make the copy."""
        context, original = run_context(models), self.find_base(models)
        model = copy.deepcopy(original).to(context.device)
        ranges = observe_ranges(model, _first_inputs(context, self.examples)) if self.activations == "int8" else {}
        arguments = {
            "weights": self.weights, "activations": self.activations, "per_channel": self.per_channel, "observe": 1,
            "at": list(ranges) or None,
        }  # fmt: skip
        # The record has no ranges: a resumed run makes the copy from other weights, and then loads its state.
        rounded = transform_model(model, "fake_quantize", arguments, origin=describe_structure(original))
        set_ranges(rounded, ranges)
        return rounded


def _first_inputs(context: RunContext, examples: int) -> Iterator[Inputs]:
    seen = 0
    for batch in context.loader.batches(0, 0):
        yield context.preprocess(batch.to(context.device))
        seen += batch.size
        if seen >= examples:
            return
