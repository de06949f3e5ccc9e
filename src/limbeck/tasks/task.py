"""`Task`: what targets and outputs of a problem mean, its losses, and its scores."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from limbeck.batch import Batch, Inputs
from limbeck.data import Dataset
from limbeck.errors import DataError, LimbeckError
from limbeck.losses import Loss
from limbeck.metrics.metric import MetricFunction
from limbeck.metrics.predictions import iterate_logits


@dataclass(frozen=True)
class Score:
    """The primary metric of a task: its name, its direction, and how people read it.

    Attributes:
        name: The key in ``measures``, such as ``accuracy``.
        title: The name in a sentence, such as ``mean IoU``.
        higher_is_better: The direction.
        percent: Whether it is a fraction that people read in percent. Differences are then in percentage points.
        chance: The value of a model that ignores its inputs, where it does not depend on the data; None otherwise.
        largest: The largest possible difference of two values; infinite where there is no bound.
        diverged: The value that a run counts with if it diverged, so that it has none: as bad as no model.
        countable: Whether the title is a plural, so that there are fewer of them and not less.
        examples: What has one score in `Evaluation.scores`: examples, or texts.

    Example:
        >>> accuracy = Score("accuracy", "accuracy", percent=True, largest=1.0)
        >>> accuracy.format(0.912), accuracy.format_difference(0.0167)
        ('91.20 %', '+1.67 points')
        >>> Score("nll", "negative log-likelihood", higher_is_better=False).gain(0.5, 0.7)
        0.19999999999999996
    """

    name: str
    title: str
    higher_is_better: bool = True
    percent: bool = False
    chance: float | None = None
    largest: float = math.inf
    diverged: float = 0.0
    countable: bool = False
    examples: str = "examples"

    def format(self, value: float | None) -> str:
        """Format a value for people; a dash for None and NaN."""
        if value is None or math.isnan(value):
            return "-"
        return f"{100 * value:.2f} %" if self.percent else f"{value:.4g}"

    def format_number(self, value: float) -> str:
        """Format a difference without its unit, always with a sign."""
        return f"{100 * value:+.2f}" if self.percent else f"{value:+.3g}"

    def format_difference(self, value: float) -> str:
        """Format a difference with its unit and its sign."""
        return f"{self.format_number(value)} points" if self.percent else self.format_number(value)

    def format_gain(self, gain: float) -> str:
        """Format a gain: with a sign where more is better; in words, such as "0.25 fewer", where less is better.

        Example:
            >>> Score("nll", "nats per token", higher_is_better=False, countable=True).format_gain(0.25)
            '0.25 fewer'
        """
        if self.higher_is_better:
            return self.format_difference(gain)
        word = "more" if gain < 0 else "fewer" if self.countable else "less"
        return f"{self.format_difference(abs(gain)).lstrip('+')} {word}"

    def format_interval(self, low: float, high: float) -> tuple[str, str]:
        """Format the ends of an interval of gains. The words of `format_gain` are there if the ends differ in sign.

        Example:
            >>> nll = Score("nll", "nats per token", higher_is_better=False, countable=True)
            >>> nll.format_interval(0.11, 0.23), nll.format_interval(-0.02, 0.1), nll.format_interval(-0.3, -0.1)
            (('0.11', '0.23'), ('0.02 more', '0.1 fewer'), ('0.1', '0.3'))
        """
        if self.higher_is_better:
            return self.format_difference(low), self.format_difference(high)
        if low < 0 < high:
            return self.format_gain(low), self.format_gain(high)
        first, last = (self.format_difference(end).lstrip("+") for end in sorted((abs(low), abs(high))))
        return first, last

    def describe(self, value: float) -> str:
        """The value with its name; only the value for the accuracy."""
        return self.format(value) if self.name == "accuracy" else f"{self.title} {self.format(value)}"

    def gain(self, ours: float, theirs: float) -> float:
        """Compute by how much the first value is better; negative if it is worse."""
        return ours - theirs if self.higher_is_better else theirs - ours

    def rank(self, value: float) -> float:
        """Map a value to a number that is larger for a better value; NaN is worst."""
        if math.isnan(value):
            return -math.inf
        return value if self.higher_is_better else -value


class Evaluation(NamedTuple):
    """The evaluation of a model on a dataset.

    Attributes:
        measures: The values of all metrics of the task, by name.
        scores: One value for each example with a target, whose mean is the primary metric. A verdict compares them. For
            a metric that is no mean over examples (R², IoU, F1) they are its linearization: the value of the metric
            plus n times the influence of the example on it (the delta method for a ratio).
        outputs: The stored outputs: `Task.keep` of each batch, concatenated.
    """

    measures: dict[str, float]
    scores: Shaped[np.ndarray, " examples"]
    outputs: Tensor

    def primary(self, score: Score) -> float:
        """The primary metric."""
        return self.measures[score.name]


class EvaluationState(ABC):
    """The evaluation of one model, batch by batch.

    A state needs memory only for the results of `Task.keep` and for counts. It never holds the logits of all positions.
    """

    @abstractmethod
    def update(self, logits: Tensor, batch: Batch) -> None:
        """Add the outputs of a model for one batch."""

    @abstractmethod
    def compute(self) -> Evaluation:
        """Return the evaluation of all batches so far."""


class Task(ABC):
    """The kind of a job's problem: classification, several labels, regression, segmentation, language modeling.

    A task defines where the targets of a batch are, which losses the methods use, how outputs are scored, and which
    words the verdict, the report and the model card use. It is immutable. `get_task` makes one from its name; `fit`
    returns one for the data (number of outputs, names, scale of the targets).

    A new task is one final subclass in one file, and one line in `limbeck.tasks.registry`.

    Attributes:
        name: The name in a job: ``task: regression``.
        title: The name in a sentence.
        primary: The metric that chooses and judges.
        headline: Three columns of a table: the primary metric, a second one, and the fidelity to the teacher. A metric
            that a task does not have is None.
        metrics: All metrics by name, with unit and direction.
        target_field: Where a batch has the targets: ``labels``, or ``targets`` in ``Batch.extra``.
        classes_dim: The dimension of the logits that has the classes or outputs.
        output_title: What one output is called in messages.
        row_title: What the rows of the data are called: examples, or windows of texts.
        no_smoothing: The reason why there is no control with label smoothing; None if there is one.
        has_temperature: Whether a temperature softens the outputs.
        temperature: The temperature that jobs give to a method if none is typed; None for the method's own default.
        distance_title: The name of the measure in `distance`.
        asks_teacher: Whether `evaluate` compares a model with the teacher itself, batch by batch, and not with stored
            outputs, which would be too large.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    primary: ClassVar[Score]
    headline: ClassVar[tuple[str, str | None, str | None]]
    metrics: ClassVar[Mapping[str, MetricFunction]]
    target_field: ClassVar[str] = "targets"
    classes_dim: ClassVar[int] = -1
    output_title: ClassVar[str] = "outputs"
    row_title: ClassVar[str] = "examples"
    no_smoothing: ClassVar[str | None] = None
    has_temperature: ClassVar[bool] = True
    temperature: ClassVar[float | None] = None
    distance_title: ClassVar[str] = "squared difference"
    asks_teacher: ClassVar[bool] = False

    # What the targets are.

    @property
    @abstractmethod
    def outputs(self) -> int:
        """The number of outputs that a model needs: for each example, or for each position.

        Raises:
            LimbeckError: If the task is not fitted to data yet.
        """

    @property
    @abstractmethod
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs, one each; empty if they have none."""

    @abstractmethod
    def fit(self, train: Dataset, names: Sequence[str] | None = None) -> Task:
        """Return the task for training data: with the number of outputs, their names, and the scale of the targets.

        Args:
            train: The training part.
            names: The names of the classes, labels or target columns.

        Raises:
            DataError: If the targets do not fit the task.
        """

    @abstractmethod
    def check(self, examples: Dataset, part: str) -> int:
        """Check the targets of a part of the data; returns how many examples have one.

        Raises:
            DataError: If a target is impossible. The message has the value and the row.
        """

    @abstractmethod
    def stored_targets(self, examples: Dataset) -> Tensor:
        """The targets of all examples as they are stored beside the outputs, in the unit that people read."""

    # How it is learned.

    @abstractmethod
    def supervised_loss(self) -> Loss:
        """The loss to the targets."""

    @abstractmethod
    def distillation_loss(self, *, temperature: float = 1.0) -> Loss:
        """The default loss to the outputs of the teacher; the temperature has no effect if the task has none."""

    def smoothed_loss(self, smoothing: float) -> Loss:
        """The loss to smoothed labels.

        Raises:
            LimbeckError: If the task has no label smoothing, with the reason.
        """
        raise LimbeckError(f"{self.title} has no label smoothing: {self.no_smoothing}.")

    # How it is scored.

    def keep(self, logits: Tensor) -> Tensor:
        """The part of a batch's outputs that is stored: float32 logits by default."""
        return logits.detach().float().cpu()

    @abstractmethod
    def measure(self, outputs: Tensor, targets: Tensor | None, teacher: Tensor | None = None) -> dict[str, float]:
        """Compute the metrics that stored outputs allow.

        Args:
            outputs: Stored outputs (`keep`).
            targets: Stored targets (`stored_targets`).
            teacher: Stored outputs of the teacher for the same examples.
        """

    @abstractmethod
    def scores(self, outputs: Tensor, targets: Tensor) -> Shaped[np.ndarray, " examples"]:
        """Compute the score of each example with a target from stored outputs. Their mean is the primary metric."""

    def open_state(self, teacher: Tensor | None = None) -> EvaluationState:
        """Start an evaluation, batch by batch.

        Args:
            teacher: The stored outputs of the teacher for the same examples in the same order.
        """
        return _StoredOutputs(self, teacher)

    def evaluate(
        self,
        model: Any,
        data: Any,
        *,
        preprocess: Callable[[Batch], Inputs] | None = None,
        teacher: Tensor | None = None,
    ) -> Evaluation:
        """Evaluate a model in eval mode, without gradients, batch by batch.

        Args:
            model: A module or a teacher.
            data: Batches, a `Dataset` or a `Loader`, with targets.
            preprocess: Maps a batch to the inputs of the model.
            teacher: The stored outputs of the teacher for the same examples in the same order.

        Raises:
            DataError: If there is no batch, or outputs and targets do not match.
        """
        return self.evaluate_outputs(iterate_logits(model, data, preprocess=preprocess), teacher)

    def evaluate_outputs(self, outputs: Iterable[tuple[Batch, Tensor]], teacher: Tensor | None = None) -> Evaluation:
        """Evaluate outputs that were computed elsewhere: pairs of a batch and its logits."""
        state = self.open_state(teacher)
        for batch, logits in outputs:
            state.update(logits, batch)
        return state.compute()

    def distance(self, logits: Tensor, reference: Tensor) -> float:
        """The distance of outputs from those of another file of the same model: the mean squared difference."""
        return float((logits.double() - reference.double()).square().mean())

    def without_scale(self) -> Task:
        """The task for a model whose outputs are in the unit of the targets already; itself for most tasks."""
        return self

    def metric_arguments(self, outputs: Tensor, targets: Tensor, teacher: Tensor | None) -> dict[str, Any]:
        """The arguments of a user's own metric, by name: stored outputs of the examples with a target."""
        return {"labels": targets, "targets": targets, "predicted": outputs, "outputs": outputs, "teacher": teacher}

    def example_outputs(self, targets: Tensor) -> Tensor:
        """Random stored outputs for these targets, to try a user's own metric before training."""
        return torch.randn(len(targets), self.outputs)

    # Texts for people and files.

    def sample_texts(
        self,
        model: Any,
        examples: Dataset,
        *,
        preprocess: Callable[[Batch], Inputs] | None = None,
        teacher: Any = None,
    ) -> dict[str, Any] | None:
        """Texts that a model writes for some examples, as values for JSON; None if its outputs are no texts.

        Args:
            model: A module or a teacher.
            examples: The test data.
            preprocess: Maps a batch to the inputs of the model.
            teacher: The teacher, to measure the model as its draft model; None for no measurement.
        """
        return None

    def describe(self) -> str:
        """A description of the outputs in a few words, for a summary."""
        names = self.output_names
        return f"{self.outputs} {self.output_title}" + (f" ({', '.join(names[:6])})" if 0 < len(names) <= 6 else "")

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for ``result.json`` and ``config.json``; `task_from_dict` reads them."""
        return {"name": self.name, **_plain(asdict(self))}  # type: ignore[call-overload]

    def in_batch(self, batch: Batch) -> Tensor | None:
        """The targets of a batch; None if it has none."""
        targets = batch.labels if self.target_field == "labels" else batch.extra.get("targets")
        return targets if isinstance(targets, Tensor) else None


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    return {key: _plain(one) for key, one in value.items()} if isinstance(value, dict) else value


class _StoredOutputs(EvaluationState):
    """Evaluation of a task with metrics that need only the stored outputs."""

    def __init__(self, task: Task, teacher: Tensor | None) -> None:
        self._task, self._teacher = task, teacher
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor | None] = []

    def update(self, logits: Tensor, batch: Batch) -> None:
        """Add the outputs of one batch."""
        self._outputs.append(self._task.keep(logits))
        targets = self._task.in_batch(batch)
        self._targets.append(None if targets is None else targets.cpu())

    def compute(self) -> Evaluation:
        """Compute all metrics."""
        outputs, targets = join_outputs(self._outputs), join_targets(self._targets)
        scores = np.empty(0) if targets is None else self._task.scores(outputs, targets)
        return Evaluation(self._task.measure(outputs, targets, self._teacher), scores, outputs)


def join_outputs(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate the outputs of all batches.

    Raises:
        DataError: If there is no example.
    """
    if not any(len(part) for part in parts):
        raise DataError("There is no example to predict: the loader yielded no batch.")
    return torch.cat(list(parts))


def join_targets(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Concatenate the targets of all batches; None if one batch has none."""
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known and len(known) == len(parts) else None
