"""The values that travel between loaders, models, losses and the engine: Batch, Outputs, Term, Progress."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import ArgumentError, MissingOutputError, nearest, unknown_name_error
from limbeck.functional.output_layer import HiddenLogits
from limbeck.top_k_logits import PartialLogits

IGNORED = -100
"""The label of an example or position without a class (PyTorch's default `ignore_index`)."""

LOGITS = "logits"
"""The address that every model and every teacher has."""

LOGITS_INPUT = "logits:in"
"""The address of the output layer's input. A stage that reads it and not `LOGITS` never computes the logits."""

LABEL_LOG_PROBS = "label_log_probs"
"""The address of the log-probability of each label; a served teacher knows it also for labels that it does not list."""

Inputs = Any
"""A model's inputs: a tensor ``m(x)``, a tuple ``m(*x)`` or a mapping ``m(**x)``."""


class Outputs(dict[str, Tensor]):
    """The outputs of a model for one batch: address -> tensor.

    ``logits`` is always present; any other address is a ``named_modules()`` path of the model.

    If only a part of a teacher's logits is stored, for example the top k, the `PartialLogits` are in `partial`, and
    reading the tensor raises a `MissingOutputError`, unless all logits can be computed from them. If the logits are not
    multiplied out, their `HiddenLogits` are in `hidden`; reading the tensor computes it and keeps it.

    Example:
        >>> Outputs(logits=torch.zeros(2, 3))["logits"].shape
        torch.Size([2, 3])
    """

    partial: Mapping[str, PartialLogits] = MappingProxyType({})
    """Outputs that are not tensors: address -> the top k classes, or classes drawn at random."""

    hidden: Mapping[str, HiddenLogits] = MappingProxyType({})
    """Logits that are not multiplied out: address -> hidden states and output layer."""

    @staticmethod
    def of(values: Mapping[str, Tensor | PartialLogits | HiddenLogits]) -> Outputs:
        """Outputs from tensors, partial logits and hidden logits."""
        outputs = Outputs({address: value for address, value in values.items() if isinstance(value, Tensor)})
        partial = {address: value for address, value in values.items() if isinstance(value, PartialLogits)}
        hidden = {address: value for address, value in values.items() if isinstance(value, HiddenLogits)}
        if partial:
            outputs.partial = partial
        if hidden:
            outputs.hidden = hidden
        return outputs

    def raw(self, address: str) -> Tensor | PartialLogits | HiddenLogits:
        """The output at an address in the form in which it is there; nothing is computed.

        Raises:
            MissingOutputError: If there is none.
        """
        if address in self:
            return self[address]
        if address in self.hidden:
            return self.hidden[address]
        return self.partial[address] if address in self.partial else self[address]

    def detach(self) -> Outputs:
        """The same outputs without their graph."""
        tensors = {address: tensor.detach() for address, tensor in self.items()}
        hidden = {address: logits.detach() for address, logits in self.hidden.items()}
        return Outputs.of({**hidden, **self.partial, **tensors})

    def __missing__(self, address: str) -> Tensor:
        if address in self.hidden:
            self[address] = self.hidden[address].to_dense()
            return self[address]
        if address in self.partial:
            dense = self.partial[address].to_dense()
            if dense is not None:
                return dense
            kind = type(self.partial[address]).__name__
            raise MissingOutputError(
                f"At {address!r} this teacher gives only a part of its output ({kind}), which only losses can read: "
                "kl_divergence and other divergences. For other uses, store all classes: the encoding 'quantized' "
                "(1 byte a class), 'float16' or 'float32', or use the teacher without a cache."
            )
        raise missing_output_error(address, self)


def missing_output_error(address: str, addresses: Iterable[str], *, who: str = "this model") -> MissingOutputError:
    """The error for an address that `who` does not have; it names the nearest existing address."""
    choices = list(addresses)
    near = nearest(address, choices)
    hint = f" Did you mean {near!r}?" if near else ""
    listed = ", ".join(choices[:12]) + (f", ... ({len(choices)} in all)" if len(choices) > 12 else "")
    return MissingOutputError(f"No output at {address!r} in {who}.{hint} Available: {listed}.")


class Batch(NamedTuple):
    """One batch of examples, as a loader yields it.

    Attributes:
        inputs: The inputs of the models, unless a model's ``preprocess`` computes others from the batch.
        id: The number of each example, ``int64 [batch]``, unique within the data; None if the loader has no numbers.
        view: The number of each example's augmented view, ``int64 [batch]``; None for examples without augmentation.
        labels: Class indices ``int64 [batch]`` or ``[batch, *positions]``; `IGNORED` (-100) for none.
        mask: True where a value counts, ``bool [batch]`` or ``[batch, *positions]``; None means everywhere.
        extra: Further columns by name; the first dimension is the batch. ``extra["masks"]`` has further masks by name,
            for losses of their own (``Loss(..., where="text")``).
    """

    inputs: Inputs
    id: Tensor | None = None
    view: Tensor | None = None
    labels: Tensor | None = None
    mask: Tensor | None = None
    extra: Mapping[str, Any] = {}

    @property
    def size(self) -> int:
        """The number of examples in the batch."""
        for tensor in (self.id, self.labels, self.mask):
            if tensor is not None:
                return len(tensor)
        return _length(self.inputs)

    @property
    def valid(self) -> Tensor:
        """Whether any value of an example counts, ``bool [batch]``.

        In distributed training, a rank without examples gets one that does not count, because all ranks must step.

        Example:
            >>> Batch(torch.zeros(2), mask=torch.tensor([[True, False], [False, False]])).valid
            tensor([ True, False])
        """
        if self.mask is not None:
            return self.mask.bool().flatten(1).any(1) if self.mask.ndim > 1 else self.mask.bool()
        known = next((tensor for tensor in (self.id, self.labels) if tensor is not None), None)
        return torch.ones(self.size, dtype=torch.bool, device=None if known is None else known.device)

    def find_mask(self, name: str | None = None) -> Tensor | None:
        """The mask of a name in ``extra["masks"]``; without a name, `mask`.

        Raises:
            UnknownNameError: If there is no mask of this name; the nearest is named.
            ArgumentError: If there are no named masks.

        Example:
            >>> Batch(torch.zeros(1), extra={"masks": {"text": torch.tensor([True])}}).find_mask("text")
            tensor([True])
        """
        if name is None:
            return self.mask
        masks: Mapping[str, Tensor] = self.extra.get("masks", {})
        if name in masks:
            return masks[name]
        if not masks:
            raise ArgumentError(
                f"where={name!r} names a mask, and the batches of this loader have none. Give them in Batch.extra, "
                '{"masks": {name: mask}}, as TokenDataset does, or leave where= out, which uses Batch.mask.',
                argument="where",
            )
        raise unknown_name_error("mask of the batches", name, masks, argument="where")

    @property
    def mixed(self) -> bool:
        """Whether each example is a mixture of two, so that it has no single label; ``extra["ratio"]`` is the ratio."""
        return "ratio" in self.extra and "partner" in self.extra

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        target = torch.device(device)
        return Batch(*(_to_device(part, target) for part in self))

    def rows(self, index: Tensor) -> Batch:
        """The examples at the positions `index` of the batch, in this order.

        Example:
            >>> Batch(torch.arange(5) * 10, labels=torch.arange(5)).rows(torch.tensor([3, 1])).inputs
            tensor([30, 10])
        """

        def own(part: Tensor | None) -> Tensor | None:
            return None if part is None else count_rows(part, index)

        inputs, extra = input_rows(self.inputs, index), count_rows(self.extra, index)
        return Batch(inputs, own(self.id), own(self.view), own(self.labels), own(self.mask), extra)


class Term(NamedTuple):
    """One loss for one batch: the sum, the number of values in it, and the weight in the objective.

    The mean is taken once, over the values of all micro-batches and ranks of the step, so `total` is never an average.
    """

    total: Tensor
    count: Tensor | float  # type: ignore[assignment]
    weight: float = 1.0

    @property
    def mean(self) -> Tensor:
        """The unweighted mean over this batch, for reports; 0 if no value counts."""
        return self.total.detach() / max(float(self.count), 1.0)


class Progress(NamedTuple):
    """The progress of a stage, and what a loss knows about the step before it is computed.

    Attributes:
        step: Number of the optimizer step, from 0.
        steps: Number of optimizer steps of the stage.
        epoch: Number of the pass over the data, from 0.
        weight: The weight of the loss at this step.
        count: The number of values in the loss's mean, over all micro-batches and ranks of the step; None if it is the
            number in the present batch.
        lr: The learning rate of the step; None before it is known.
    """

    step: int = 0
    steps: int = 1
    epoch: int = 0
    weight: float = 1.0
    count: float | None = None  # type: ignore[assignment] # the field's name; tuple.count is of no use here
    lr: float | None = None

    @property
    def fraction(self) -> float:
        """From 0 at the first step to 1 at the last."""
        return self.step / max(self.steps - 1, 1)


class Requirements(NamedTuple):
    """The inputs of an objective: addresses in the student, addresses in the teacher, fields of the batch."""

    student: frozenset[str] = frozenset()
    teacher: frozenset[str] = frozenset()
    batch: frozenset[str] = frozenset()

    def __or__(self, other: tuple[Any, ...]) -> Requirements:
        """The requirements of both objectives."""
        return Requirements(*(mine | theirs for mine, theirs in zip(self, other, strict=True)))


def count_rows(column: Any, index: Tensor) -> Any:
    """The rows `index` of one column: a tensor, an array, a sequence, or a mapping of columns.

    A flag or number that belongs to no row, such as ``use_cache=False``, stays as it is.
    """
    if column is None or isinstance(column, (bool, int, float, str)):
        return column
    if isinstance(column, Tensor):
        return column.index_select(0, index.to(column.device))
    if isinstance(column, Mapping):
        return {name: count_rows(part, index) for name, part in column.items()}
    if isinstance(column, np.ndarray):
        return column[index.cpu().numpy()]
    return [column[i] for i in index.tolist()]


def input_rows(inputs: Inputs, index: Tensor) -> Inputs:
    """The rows `index` of a model's inputs; of each part if there are several."""
    if isinstance(inputs, tuple):
        return sequence_like(inputs, (count_rows(part, index) for part in inputs))
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], Tensor):
        return tuple(count_rows(part, index) for part in inputs)
    return count_rows(inputs, index)


def zero_where_masked(outputs: Tensor, counts: Tensor) -> Tensor:
    """Outputs with 0 in place of NaN where nothing counts; attention over padding alone gives NaN.

    Args:
        outputs: ``[batch, ...]``.
        counts: True where a value counts, ``bool`` with the leading dimensions of `outputs`; with another shape,
            `outputs` is returned unchanged.
    """
    if counts.shape != outputs.shape[: counts.ndim] or not outputs.is_floating_point():
        return outputs
    if outputs.device.type == "cpu" and bool(outputs.sum().isfinite()):  # on a GPU this would synchronize
        return outputs
    nothing = outputs.isnan().flatten(counts.ndim).any(-1) if outputs.ndim > counts.ndim else outputs.isnan()
    nothing = nothing & ~counts
    return outputs.masked_fill(nothing.reshape(nothing.shape + (1,) * (outputs.ndim - nothing.ndim)), 0.0)


def _length(inputs: Inputs) -> int:
    if isinstance(inputs, Mapping):
        return _length(next(iter(inputs.values())))
    if isinstance(inputs, (tuple, list)) and inputs and isinstance(inputs[0], Tensor):
        return len(inputs[0])
    return len(inputs)


def _to_device(part: Any, device: torch.device) -> Any:
    if isinstance(part, Tensor):
        return part if part.device == device else part.to(device, non_blocking=True)
    if part is None:
        return None
    if isinstance(part, Mapping):
        return type(part)({k: _to_device(v, device) for k, v in part.items()}) if part else part  # type: ignore[call-arg]
    if isinstance(part, (tuple, list)):
        return sequence_like(part, (_to_device(v, device) for v in part))
    return part


def sequence_like(kind: tuple[Any, ...] | list[Any], parts: Iterable[Any]) -> Any:
    """`parts` as the same kind of sequence: list, tuple or named tuple, whose constructor takes them one by one."""
    return type(kind)(*parts) if hasattr(kind, "_fields") else type(kind)(parts)
