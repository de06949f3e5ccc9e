"""`AdversarialLoader`: the batches of another loader with adversarial copies of their inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from limbeck.batch import Batch, Inputs
from limbeck.data.dataset import hash_columns
from limbeck.data.loader import Loader
from limbeck.data.loader_wrapper import LoaderWrapper
from limbeck.errors import ArgumentError, LimbeckError, LimbeckWarning, unknown_name_error
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.functional.adversarial import (
    check_attack,
    check_within_range,
    find_range,
    is_finite_number,
    projected_gradient,
    random_start,
)
from limbeck.model_call import call, logits_of
from limbeck.random_seeds import counter_uniform
from limbeck.tap import FrozenParameters, get_adaptor, preserved_buffers

CLEAN, ADVERSARIAL = "clean", "adversarial"
"""The names of the masks of both kinds of rows, for ``Loss(..., where="adversarial")``; the second is also a column of
``Batch.extra``, True for adversarial rows."""

_REQUEST = "attack"
_LOSSES = ("cross_entropy", "kl_divergence")


@dataclass(frozen=True)
class Attack:
    r"""How inputs are changed: projected gradient ascent on a loss, in an L-infinity ball.

    It is also a function from a loader to an `AdversarialLoader`, for ``Stage(loader=Attack(...))``. An example
    without a label (-100) stays at its start, unless the loss is the divergence, which needs no labels.

    Attributes:
        epsilon: The largest change, as a fraction of the range of the inputs: 0.1, or ``8 / 255``.
        step_size: The length of a step, likewise; by default a quarter of epsilon.
        steps: The number of steps.
        start: ``uniform`` starts anywhere in the ball; a number is the standard deviation of normal noise around the
            input, as a fraction of the range.
        model: The name of the model that is attacked, in eval mode.
        keep_clean: Whether the clean rows stay, in front of the adversarial ones. Otherwise they are replaced.
        low: The smallest value of an input. By default 0.
        high: The largest. By default 255 for bytes, 1 for floating-point inputs.
        loss: What the change raises: ``cross_entropy`` of the label, or ``kl_divergence`` of the prediction there from
            the one at the input, :math:`KL(p(x) \| p(x'))` (TRADES, Zhang et al., 2019, arXiv:1901.08573). Its gradient
            at the input is 0, so it needs a `start` beside it.

    Raises:
        ArgumentError: If a setting is out of range.
    """

    epsilon: float
    step_size: float | None = None
    steps: int = 10
    start: float | Literal["uniform"] = "uniform"
    model: str = "student"
    keep_clean: bool = True
    low: float | None = None
    high: float | None = None
    loss: str = "cross_entropy"

    def __post_init__(self) -> None:
        step_size = 1.0 if self.step_size is None else self.step_size  # the default follows epsilon, which may be wrong
        check_attack(epsilon=self.epsilon, step_size=step_size, steps=self.steps)
        if self.start != "uniform" and not (is_finite_number(self.start) and float(self.start) >= 0):
            raise ArgumentError(
                f"start is 'uniform', or the standard deviation of noise, such as 0.001; got {self.start!r}.",
                argument="start",
            )
        for name, value in (("low", self.low), ("high", self.high)):
            if value is not None and not is_finite_number(value):
                raise ArgumentError(f"{name} is a finite number, the end of the range; got {value!r}.", argument=name)
        low = 0.0 if self.low is None else self.low
        if self.high is not None and self.high <= low:
            raise ArgumentError(f"high is above low, and got low={low:g}, high={self.high:g}.", argument="high")
        if self.loss not in _LOSSES:
            raise unknown_name_error("loss of an attack", self.loss, _LOSSES, argument="loss")
        if self.loss == "kl_divergence" and self.start == 0:
            raise ArgumentError(
                "loss='kl_divergence' has no slope at the input itself, so that start=0 changes nothing: "
                "start='uniform', or a small number, such as 0.001.",
                argument="start",
            )

    @property
    def length(self) -> float:
        """The length of a step."""
        return (self.epsilon / 4 or 1.0) if self.step_size is None else self.step_size

    def __call__(self, loader: Loader) -> AdversarialLoader:
        """The batches of a loader with adversarial inputs."""
        return AdversarialLoader(loader, self)

    def describe(self) -> dict[str, Any]:
        """A JSON form of the settings."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def find_range(self, inputs: Tensor) -> tuple[float, float]:
        """The smallest and the largest value of inputs."""
        return find_range(inputs, low=self.low, high=self.high)

    def apply(self, batch: Batch, answer: Callable[[Batch], Tensor], uniform: Tensor) -> Tensor:
        """Change the inputs of a batch.

        Args:
            batch: The batch.
            answer: Function from a batch to logits, with a graph to its inputs.
            uniform: Numbers from 0 to 1 for the start, one for each value of the inputs.

        Returns:
            The inputs in floating point, in their own unit.
        """
        low, high = self.find_range(batch.inputs)
        unit, clean = high - low, batch.inputs.float()
        check_within_range(clean, low, high)
        if batch.size and self.epsilon * unit >= float(clean.max() - clean.min()) > 0:
            warnings.warn(
                f"An attack of epsilon={self.epsilon:g} changes inputs by up to {self.epsilon * unit:g}, and all those "
                f"of a batch are within {float(clean.min()):g} and {float(clean.max()):g}, so nothing may be left of "
                "them. Epsilon is a fraction of the range: give that of your data, low= and high=.",
                LimbeckWarning,
                stacklevel=2,
            )
        if self.start == "uniform":
            start = random_start(clean, uniform, self.epsilon * unit)
        else:
            noise = torch.special.ndtri(uniform.double()).to(clean)
            start = clean + self.start * unit * noise.reshape(clean.shape)

        return projected_gradient(
            self._make_loss(batch, answer, clean), clean, epsilon=self.epsilon * unit, step_size=self.length * unit,
            steps=self.steps, start=start, low=low, high=high,
        )  # fmt: skip

    def _make_loss(self, batch: Batch, answer: Callable[[Batch], Tensor], clean: Tensor) -> Callable[[Tensor], Tensor]:
        """The function from inputs to the values that the change raises, one for each example."""

        def predict(inputs: Tensor) -> Tensor:
            return answer(batch._replace(inputs=inputs)).float()

        if self.loss == "cross_entropy":
            return lambda inputs: cross_entropy(predict(inputs), labels=_labels_of(batch))
        with torch.no_grad():
            before = predict(clean)
        return lambda inputs: kl_divergence(predict(inputs), before)


@final
class AdversarialLoader(LoaderWrapper):
    """The batches of another loader, followed by adversarial copies of their examples for the model that learns.

    A batch of n examples becomes one of 2 n: row n + i is the adversarial copy of row i. Labels and all other columns
    are repeated. ``Batch.extra["adversarial"]`` is True for the copies, and two masks, ``clean`` and ``adversarial``,
    select one kind of rows (``Loss(..., where="adversarial")``). The copies are made on the model's device from the
    weights that it has before the step. Where an example starts is a pure function of its id, the epoch and the seed.

    Args:
        loader: The loader. Its inputs are one tensor for each batch: pixels in bytes, or floating-point numbers.
        attack: How inputs are changed.

    Example:
        >>> from limbeck.data import ArrayDataset, ShuffledLoader
        >>> data = ArrayDataset(torch.rand(6, 4), torch.arange(6) % 3)
        >>> loader = AdversarialLoader(ShuffledLoader(data, batch_size=3), Attack(epsilon=0.1, steps=2))
        >>> loader.bind({"student": nn.Linear(4, 3)})
        >>> batch = loader.complete(next(iter(loader)))
        >>> batch.inputs.shape, batch.extra["adversarial"].tolist()
        (torch.Size([6, 4]), [False, False, False, True, True, True])
    """

    depends_on_model = True
    fixed = False

    def __init__(self, loader: Loader, attack: Attack) -> None:
        super().__init__(loader)
        self.attack = attack
        self.augment, self.mix, self.views = loader.augment, loader.mix, loader.views
        self._models: Mapping[str, nn.Module] = {}
        self._preprocess: Callable[[Batch], Inputs] = _inputs_of

    @property
    def ragged(self) -> bool:  # type: ignore[override]
        """Whether batches differ in size."""
        return self.loader.ragged

    @property
    def fingerprint(self) -> str:
        """The hash of the examples and of the attack."""
        return hash_columns(("examples", self.loader.fingerprint), ("attack", self.attack.describe()))

    def set_preprocess(self, preprocess: Callable[[Batch], Inputs]) -> None:
        """Take the function through which the model reads the inputs."""
        super().set_preprocess(preprocess)
        self._preprocess = preprocess

    def bind(self, models: Mapping[str, nn.Module]) -> None:
        """Take the models of the run.

        Raises:
            UnknownNameError: If none of them has the name of the model that is attacked.
        """
        super().bind(models)
        if self.attack.model not in models:
            raise unknown_name_error("model that is attacked", self.attack.model, models, argument="model")
        self._models = models

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Yield the batches of the other loader, with what `complete` needs to know."""
        for number, batch in enumerate(self.loader.batches(epoch, start), start):
            yield self._request(batch, epoch, number)

    def peek(self) -> Batch:
        """Return the next batch without moving on."""
        return super().peek() if self.replayable else self._request(self.loader.peek(), self._epoch, self._batch)

    def _request(self, batch: Batch, epoch: int, number: int) -> Batch:
        # Without ids, a row of an epoch is known by its place.
        ids = torch.arange(batch.size) + (number << 20) if batch.id is None else batch.id
        return batch._replace(extra={**batch.extra, _REQUEST: {"id": ids, "epoch": epoch}})

    def complete(self, batch: Batch, *, used: bool = True) -> Batch:
        """Add the adversarial copies.

        Raises:
            LimbeckError: If the inputs are not one tensor, or there are no labels.
        """
        batch = self.loader.complete(batch, used=used)
        if ADVERSARIAL in batch.extra:
            return batch
        if _REQUEST not in batch.extra:  # a batch that a check takes from the dataset
            batch = self._request(batch, 0, 0)
        request = batch.extra[_REQUEST]
        batch = batch._replace(extra={name: value for name, value in batch.extra.items() if name != _REQUEST})
        if not isinstance(batch.inputs, Tensor):
            raise LimbeckError(
                "Adversarial inputs are made from one tensor for each batch, and these are "
                f"{type(batch.inputs).__name__}."
            )
        draws = batch.inputs[0].numel() if batch.size else 0
        ids = request["id"].to(batch.inputs.device)
        uniform = counter_uniform(
            ids, torch.full_like(ids, request["epoch"]), seed=self.seed or 0, draws=draws, stream="attack"
        )
        return self._joined(batch, self.attack.apply(batch, self._answer, uniform))

    def _answer(self, batch: Batch) -> Tensor:
        model, name = self._models[self.attack.model], self.attack.model
        with FrozenParameters(model), preserved_buffers([model]):
            return logits_of(call(model, self._preprocess(batch)), get_adaptor(self._models, name))

    def _joined(self, batch: Batch, changed: Tensor) -> Batch:
        size, device = batch.size, changed.device
        copies = 2 if self.attack.keep_clean else 1
        row = torch.arange(copies * size, device=device)
        repeated = batch.rows(row % max(size, 1))
        adversarial = row >= (copies - 1) * size
        view = adversarial.long() if repeated.view is None else 2 * repeated.view + adversarial.long()
        valid = repeated.valid.to(device)
        masks = {CLEAN: ~adversarial & valid, ADVERSARIAL: adversarial & valid}
        extra = {**repeated.extra, ADVERSARIAL: adversarial, "masks": {**repeated.extra.get("masks", {}), **masks}}
        inputs = torch.cat([batch.inputs.to(changed.dtype), changed]) if self.attack.keep_clean else changed
        return repeated._replace(inputs=inputs, view=view, extra=extra)


def _inputs_of(batch: Batch) -> Inputs:
    return batch.inputs


def _labels_of(batch: Batch) -> Tensor:
    if batch.labels is None:
        raise LimbeckError("Adversarial inputs raise the loss of the labels, and this loader gives none.")
    return batch.labels
