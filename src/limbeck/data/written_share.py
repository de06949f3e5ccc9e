"""The share of batches with written texts: a number, a schedule, or one that follows a validation loss."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.batch import IGNORED, Progress
from limbeck.data.dataset import Dataset
from limbeck.errors import ArgumentError, DataError, LimbeckError, unknown_name_error
from limbeck.functional import cross_entropy
from limbeck.losses.distributed import all_gather_objects, rank, world_size
from limbeck.model_call import Adaptor, call, logits_of
from limbeck.schedule import Schedule
from limbeck.tap import FrozenParameters


@dataclass(frozen=True)
class AdaptiveShare:
    """A share of written texts that rises when the loss on validation texts has risen, as in DistiLLM.

    The loss is the cross-entropy of the model that writes, in nats per token with a label, before the first batch and
    then after every `every` batches. If it is above that of the time before by more than `tolerance`, the share rises
    by `increase`, up to 1. It never falls. All ranks measure parts of the validation texts and use one value.

    In a job it is a text, ``share: adaptive(every=50)``, and the validation texts are the development data.

    Attributes:
        validation: Texts with labels that the model does not learn from, such as a `TokenDataset`. None leaves them to
            the job, or to `with_validation`.
        every: The number of batches between two measurements.
        start: The share until the first rise, from 0 to 1.
        increase: How much it rises, above 0.
        tolerance: By how many nats per token the loss may rise without a consequence.

    Raises:
        ArgumentError: If a value is out of range.

    Example:
        >>> from limbeck.data import ArrayDataset
        >>> texts = ArrayDataset(torch.zeros(4, 2), torch.zeros(4, 2).long())
        >>> AdaptiveShare(texts, every=50).increase
        0.1

    Source: Ko, Kim, Chen and Yun, 2024, arXiv:2402.03898, section 3.2.
    """

    validation: Dataset | None
    every: int
    start: float = 0.0
    increase: float = 0.1
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if self.validation is not None and not (isinstance(self.validation, Dataset) and len(self.validation)):
            raise ArgumentError(
                f"validation is a Dataset of texts with labels; got {type(self.validation).__name__}.",
                argument="validation",
            )
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise ArgumentError(f"every is a number of batches, at least 1; got {self.every!r}.", argument="every")
        _check_number("start", self.start)
        for name, value, least in (("increase", self.increase, 0.0), ("tolerance", self.tolerance, None)):
            if not _is_number(value) or value < 0 or value == least:
                raise ArgumentError(
                    f"{name} is a finite number {'above' if least == 0 else 'of at least'} 0; got {value!r}.",
                    argument=name,
                )

    def describe(self) -> dict[str, Any]:
        """A JSON form of the settings; the texts are described by their hash."""
        own = {name: getattr(self, name) for name in ("every", "start", "increase", "tolerance")}
        return {"validation": None if self.validation is None else self.validation.fingerprint, **own}

    def with_validation(self, validation: Dataset) -> AdaptiveShare:
        """The same share on these texts, unless it has texts already."""
        return self if self.validation is not None else replace(self, validation=validation)


def read_adaptive_share(text: str) -> AdaptiveShare:
    """Make an adaptive share, without its texts, from the text that a job has: ``adaptive(every=50, increase=0.1)``.

    Raises:
        LimbeckError: If it is no such call, or an argument is wrong.

    Example:
        >>> read_adaptive_share("adaptive(every=50, start=0.2)").start
        0.2
    """
    example = "write for example adaptive(every=50, start=0.0, increase=0.1, tolerance=0.0)"
    try:
        called = ast.parse(text.strip(), mode="eval").body
        if not isinstance(called, ast.Call) or called.args:
            raise ValueError("no call with named numbers")
        values = {str(one.arg): ast.literal_eval(one.value) for one in called.keywords}
    except (SyntaxError, ValueError) as error:
        raise LimbeckError(f"{text!r} is no adaptive share; {example}.") from error
    names = [one.name for one in fields(AdaptiveShare) if one.name != "validation"]
    for name in values:
        if name not in names:
            raise unknown_name_error("setting of an adaptive share", name, names, argument="share")
    if "every" not in values:
        raise LimbeckError(f"{text!r} lacks every, the number of batches between two measurements; {example}.")
    return AdaptiveShare(None, **values)


Share = float | Schedule | AdaptiveShare

DATA, FRESH, REPLAY = "data", "fresh", "replay"
"""Where the texts of a batch come from."""


def check_written_share(name: str, value: Any) -> None:
    """Check that a share is a number from 0 to 1, a schedule of such numbers, or adaptive.

    Raises:
        ArgumentError: If it is not. Of a schedule, the ends are checked.
    """
    if isinstance(value, AdaptiveShare):
        return
    if not isinstance(value, Schedule):
        _check_number(name, value)
        return
    for step in (0, 1):
        evaluate_share(name, value, Progress(step, 2))


def evaluate_share(name: str, value: float | Schedule, progress: Progress) -> float:
    """The share at a step.

    Raises:
        ArgumentError: If a schedule gives a number that is not from 0 to 1.
    """
    if not isinstance(value, Schedule):
        return value
    share = value(progress)
    if not (_is_number(share) and 0 <= share <= 1):
        raise ArgumentError(
            f"{name}={value!r} is {share!r} at step {progress.step} of {progress.steps}; a share is from 0 to 1.",
            argument=name,
        )
    return share


def mean_share(value: Share) -> float:
    """The mean of a share over a stage; of an adaptive one, whose course is not known, 1, which it can reach."""
    if isinstance(value, AdaptiveShare):
        return 1.0
    steps = 100
    return sum(evaluate_share("share", value, Progress(step, steps)) for step in range(steps)) / steps


def describe_share(value: Share) -> Any:
    """A JSON form of a share."""
    if isinstance(value, AdaptiveShare):
        return value.describe()
    return repr(value) if isinstance(value, Schedule) else value


@final
class TextSources:
    """Chooses for each batch whether its texts are given, new, or replayed.

    Args:
        share: The share of the batches with written texts.
        replay_share: The share of these that are replayed; None if no texts are kept.
    """

    def __init__(self, share: Share, replay_share: float | Schedule | None) -> None:
        self._share, self._replay_share = share, replay_share
        if isinstance(share, AdaptiveShare):
            self._get_validation()
        self._budget: tuple[int, int, int] | None = None
        self._value = float(share.start) if isinstance(share, AdaptiveShare) else 0.0
        self._loss = math.nan

    def set_steps(self, steps: int, *, accumulate: int, batches: int | None) -> None:
        """Take the number of steps, of batches in a step, and in an epoch.

        Raises:
            LimbeckError: If there is a schedule, and the number of batches of an epoch is not known.
        """
        if batches is None and any(isinstance(one, Schedule) for one in (self._share, self._replay_share)):
            raise LimbeckError(
                f"share={self._share!r} follows the number of steps, and an epoch of this loader has no known length. "
                "Use a number, or a loader of a data set."
            )
        self._budget = None if batches is None else (steps, accumulate, batches)

    def choose(self, coins: Sequence[float], *, epoch: int, number: int) -> str:
        """Where the texts of a batch come from.

        Args:
            coins: Two numbers from 0 to below 1.
            epoch: The epoch.
            number: The number of the batch.
        """
        if coins[0] >= self.share_at(epoch, number):
            return DATA
        if self._replay_share is None or coins[1] >= self._evaluate("replay_share", self._replay_share, epoch, number):
            return FRESH
        return REPLAY

    def share_at(self, epoch: int, number: int) -> float:
        """The share of written texts for a batch; an adaptive one as it is now.

        Raises:
            LimbeckError: If it is a schedule and the number of steps is not known, or it is not from 0 to 1.
        """
        if isinstance(self._share, AdaptiveShare):
            return self._value
        return self._evaluate("share", self._share, epoch, number)

    def _evaluate(self, name: str, value: float | Schedule, epoch: int, number: int) -> float:
        if not isinstance(value, Schedule):
            return value
        if self._budget is None:
            raise LimbeckError(f"{name}={value!r} follows the number of steps: call loader.set_steps(1000) first.")
        steps, accumulate, batches = self._budget
        step = epoch * math.ceil(batches / accumulate) + number // accumulate
        return evaluate_share(name, value, Progress(min(step, steps - 1), steps, epoch))

    def measures(self, number: int) -> bool:
        """Whether the loss is measured before the batch of this number, among all that were used."""
        return isinstance(self._share, AdaptiveShare) and number % self._share.every == 0

    def measure(self, model: nn.Module, adaptor: Adaptor | None, *, batch_size: int) -> None:
        """Measure the loss, and let an adaptive share rise if the loss did."""
        if not isinstance(self._share, AdaptiveShare):
            return
        loss = measure_loss(model, self._get_validation(), adaptor=adaptor, batch_size=batch_size)
        if loss > self._loss + self._share.tolerance:  # never for the first one, as nothing is above NaN
            self._value = min(self._value + self._share.increase, 1.0)
        self._loss = loss

    def _get_validation(self) -> Dataset:
        share = self._share
        if not isinstance(share, AdaptiveShare) or share.validation is None:
            raise LimbeckError(
                "An adaptive share follows the loss on validation texts, and it has none: in Python, pass "
                "limbeck.data.AdaptiveShare(texts, every=50)."
            )
        return share.validation

    def report(self, epoch: int, number: int) -> dict[str, float]:
        """The share for reports; nothing if it is a fixed number."""
        fixed = not isinstance(self._share, (Schedule, AdaptiveShare))
        return {} if fixed else {"share": self.share_at(epoch, number)}

    def state_dict(self) -> dict[str, Any]:
        """An adaptive share and the last loss; empty otherwise."""
        own = {"value": self._value, "loss": self._loss}
        return {"adaptive": own} if isinstance(self._share, AdaptiveShare) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state."""
        if "adaptive" in state:
            self._value, self._loss = (float(state["adaptive"][name]) for name in ("value", "loss"))


@torch.no_grad()
def measure_loss(model: nn.Module, data: Dataset, *, adaptor: Adaptor | None = None, batch_size: int) -> float:
    """The cross-entropy of given texts, in nats per token with a label; the same number on all ranks.

    Args:
        model: A language model. Its modes and flags are afterwards as before.
        data: The texts.
        adaptor: Raw output -> logits.
        batch_size: The number of texts in a batch.

    Raises:
        DataError: If no token has a label.
    """
    parts = torch.arange(len(data)).split(batch_size)
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    sums: list[tuple[int, float, int]] = []
    with FrozenParameters(model):
        for number in range(rank(), len(parts), world_size()):
            batch = data.take(parts[number]).to(device)
            if batch.labels is None:
                continue
            counted: Tensor = batch.labels != IGNORED
            rows = logits_of(call(model, batch.inputs), adaptor)[counted]
            total = cross_entropy(rows, labels=batch.labels[counted]).double().sum()
            sums.append((number, float(total), int(counted.sum())))
    every = sorted(one for part in all_gather_objects(sums) for one in part)  # in one order, so with the same bits
    tokens = sum(count for _, _, count in every)
    if not tokens:
        raise DataError("The validation texts of an adaptive share have no token with a label.")
    return sum(total for _, total, _ in every) / tokens


def _check_number(name: str, value: Any) -> None:
    if not (_is_number(value) and 0 <= value <= 1):
        raise ArgumentError(
            f"{name} is a number from 0 to 1, or a schedule such as ramp(1.0); got {value!r}.", argument=name
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
