"""Costs of shipped models and of teachers that a method builds."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.batch import Batch, Inputs
from limbeck.compare.comparison_data import ComparisonData, eval_batches
from limbeck.compare.estimator import unknown_sizes
from limbeck.engine import Run
from limbeck.metrics import METRICS, CostInFull, answer_latency, cost_in_full, cost_of, evaluate, predict
from limbeck.metrics.predictions import rows_at_once
from limbeck.models import count_parameters
from limbeck.models.quantization import is_fake_quantized, quantized_bytes, remove_fake_quantize
from limbeck.models.size_and_hash import size_in_bytes
from limbeck.teachers import CrossTokenizerTeacher, ModelTeacher, Specialists, Teacher, TeacherRef
from limbeck.teachers.estimators import EstimatorModule

Structure = tuple[tuple[tuple[str, type], ...], tuple[tuple[str, torch.Size, torch.dtype], ...]]


_ROUNDED = (
    "MB of rounded students are those of weights of 8 bits; their times are those of the same network in float32, and "
    "`limbeck export RUN --to int8` (with --trust, if the job names Python files) measures the file of integers"
)


class ShippedCost(NamedTuple):
    """The costs of a model, measured on the CPU with one thread.

    Attributes:
        parameters: Number of parameters; None for an estimator.
        megabytes: Size of parameters and buffers; None if it is not known.
        milliseconds: Time for one example.
        in_full: All other costs, with the names of `limbeck.metrics.CostInFull.as_dict`.
        note: How sizes and times are to be read, for a model that is not shipped as it was timed.
    """

    parameters: int | None
    megabytes: float | None
    milliseconds: float
    in_full: dict[str, Any]
    note: str | None = None

    @staticmethod
    def measure(model: nn.Module, material: ComparisonData) -> ShippedCost:
        """Time the model on test examples, on the CPU; one with rounded weights is timed without the rounding."""
        sample = cost_inputs(material)
        if is_fake_quantized(model):
            return ShippedCost._of_rounded(model.cpu(), sample)
        cost = cost_of(model.cpu(), sample)
        if isinstance(model, EstimatorModule):
            sizes = unknown_sizes([model], measure_costs(model, sample).as_dict())
            return ShippedCost(None, sizes["megabytes"], cost.milliseconds, sizes["cost"], sizes["size_note"])
        return ShippedCost(
            cost.parameters, cost.megabytes, cost.milliseconds, measure_costs(model, sample).as_dict()
        )  # fmt: skip

    @staticmethod
    def _of_rounded(model: nn.Module, sample: Inputs) -> ShippedCost:
        full = remove_fake_quantize(copy.deepcopy(model))
        size, cost = quantized_bytes(model), cost_of(full, sample)
        in_full = {**measure_costs(full, sample).as_dict(), "disk_bytes": size}
        return ShippedCost(cost.parameters, size / 1e6, cost.milliseconds, in_full, _ROUNDED)

    @staticmethod
    def read(line: Mapping[str, Any] | None) -> ShippedCost | None:
        """Read it from a JSON object, in which null stands for NaN."""
        if line is None:
            return None
        return ShippedCost(
            None if line["parameters"] is None else int(line["parameters"]),
            None if line["megabytes"] is None else float(line["megabytes"]),
            float(line["milliseconds"]),
            dict(line["in_full"]),
            line.get("note"),
        )


def cost_inputs(material: ComparisonData, teacher: Teacher | None = None) -> Inputs:
    """The inputs of some test examples, to time a model on; fewer of a language model, whose outputs are large.

    A teacher with another tokenizer reads the same texts in its own tokens.
    """
    rows = min(64, len(material.data.test), rows_at_once(material.data.test))
    batch = material.data.test.take(torch.arange(rows))
    if isinstance(teacher, CrossTokenizerTeacher):
        return teacher.translate(batch, teacher.align(batch)).inputs
    return material.data.preprocess(batch)


def measure_costs(model: nn.Module, inputs: Inputs) -> CostInFull:
    """All costs of a model; one example at a time if its outputs for 64 would be large."""
    few = Batch(inputs).size < 64 and isinstance(inputs, Mapping) and "input_ids" in inputs
    return cost_in_full(model, inputs, batches=(1,), repeats=20) if few else cost_in_full(model, inputs)


def structure_of(model: nn.Module) -> Structure:
    """The module classes, shapes and dtypes of a model. Models with the same structure cost the same.

    Example:
        >>> structure_of(nn.Linear(2, 3)) == structure_of(nn.Linear(2, 3))
        True
    """
    state = ((name, value) for name, value in model.state_dict().items() if isinstance(value, Tensor))
    return (
        tuple((name, type(module)) for name, module in model.named_modules()),
        tuple((name, value.shape, value.dtype) for name, value in state),
    )


class Combined(NamedTuple):
    """A generalist and its specialists, as one teacher.

    Attributes:
        measures: Metrics on the test data.
        parameters: Number of parameters of all its networks.
        megabytes: Size of all its networks.
        milliseconds: Time for one example on the CPU.
    """

    measures: dict[str, float]
    parameters: int
    megabytes: float
    milliseconds: float

    @staticmethod
    def read(line: Mapping[str, Any] | None) -> Combined | None:
        """Read it from a JSON object, in which null stands for NaN."""
        if line is None:
            return None
        measures = {name: float("nan") if value is None else float(value) for name, value in line["measures"].items()}
        return Combined(measures, int(line["parameters"]), float(line["megabytes"]), float(line["milliseconds"]))


def measure_combined(run: Run, material: ComparisonData, answers: Tensor) -> Combined | None:
    """The teacher that the recipe of a finished run combined from several models; None if it did not."""
    teachers = [stage.teacher for stage in run.stages if isinstance(stage.teacher, Specialists)]
    if not teachers:
        return None
    teacher = teachers[-1].resolve(run.models)
    preprocess, test = material.data.preprocess, material.data.test
    predictions = predict(teacher, eval_batches(test), preprocess=preprocess)._replace(teacher=answers)
    measures = {name: measurement.value for name, measurement in evaluate(predictions, METRICS).items()}
    networks = [network for member in (teacher.generalist, *teacher.members) for network in _networks(member, run)]
    sample = test.take(torch.arange(min(64, len(test))))
    return Combined(
        measures, sum(map(count_parameters, networks)), sum(map(size_in_bytes, networks)) / 1e6,
        answer_latency(teacher, sample, preprocess=preprocess),
    )  # fmt: skip


def _networks(member: Teacher, run: Run) -> Sequence[nn.Module]:
    if isinstance(member, ModelTeacher):
        return [member.model]
    return [run.models[member.name]] if isinstance(member, TeacherRef) else []
