"""`Loss`: a kernel applied to outputs of student and teacher."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import IGNORED, LOGITS, Batch, Outputs, Progress, Requirements, Term, zero_where_masked
from limbeck.errors import LimbeckError, one_hot_labels_error
from limbeck.functional import Head
from limbeck.functional.targets import known_targets
from limbeck.losses.bound_kernel import FROM_BATCH, BoundKernel, Kernel
from limbeck.losses.distributed import all_gather, all_reduce_sum
from limbeck.losses.objective import LossTerm
from limbeck.losses.state import preserved_state
from limbeck.partial_logits import PartialLogits


class Loss(LossTerm):
    """An objective made of a kernel, the outputs that it compares, and an optional head.

    The parameter names of the kernel select the tensors: ``student``, ``teacher``, ``labels``, ``targets`` (the column
    of that name in ``Batch.extra``), ``mask``, ``id``. All other parameters are hyper-parameters. A value is summed if
    it counts: ``mask`` is true, the label is not -100, the target is known. The count depends on the batch alone, so
    the mean does not depend on how a batch was split. A kernel that compares examples with each other gets the examples
    of all ranks, without masked ones.

    Args:
        kernel: A function declared with ``@kernel(per=...)``.
        student: The address of the student's output.
        teacher: The address of the teacher's output.
        head: A module applied to the student's tensor. A `Head` gets its shape from the first batch.
        classes: The class dimension of the logits. The kernel gets it as the last one.
        name: The name of the term. By default the name of the kernel, with the address if it is not ``logits``.
        **hyper: The hyper-parameters of the kernel, each a value or a `Schedule`.

    Raises:
        LimbeckError: If the kernel declares no ``per``.
        UnknownNameError: If the kernel has no such hyper-parameter. The message suggests the nearest name.

    Example:
        >>> from limbeck.functional import cross_entropy, kl_divergence
        >>> objective = 0.1 * Loss(cross_entropy) + 0.9 * Loss(kl_divergence, temperature=4.0)
        >>> sorted(objective.named_leaves())
        ['cross_entropy', 'kl_divergence']
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        student: str = LOGITS,
        teacher: str = LOGITS,
        head: nn.Module | None = None,
        classes: int = -1,
        name: str | None = None,
        **hyper: Any,
    ) -> None:
        super().__init__()
        self.kernel = BoundKernel(kernel, hyper)
        self.per = self.kernel.per
        self.head = head
        self.addresses = (student, teacher)
        self.classes = classes
        self.name = name or (self.kernel.name if student == LOGITS else f"{self.kernel.name}@{student}")
        reads_logits = "teacher" in self.kernel.inputs and teacher == LOGITS
        self.own_temperatures = self.kernel.temperatures if reads_logits else frozenset()
        self._positions = self._outputs = self._rank = 1
        self._whole = self.per == "example"

    @property
    def requires(self) -> Requirements:
        """The outputs and batch columns that the kernel needs."""
        return Requirements(
            frozenset({self.addresses[0]} if "student" in self.kernel.inputs else ()),
            frozenset({self.addresses[1]} if "teacher" in self.kernel.inputs else ()),
            frozenset(self.kernel.inputs & {"labels", "targets", "id"}),
        )

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """Compute the sum of the values that count, and their number, for one batch."""
        tensors = self._tensors(student, teacher, batch)
        if self._compares:
            return self._compared(tensors, progress)
        valid = self._valid(batch)
        if valid is not None and isinstance(taught := tensors.get("teacher"), Tensor):
            tensors["teacher"] = zero_where_masked(taught, valid)
        values = self.kernel(tensors, progress)
        expected = self._number(valid, batch)
        where = None if valid is None else self._aligned(valid, values)
        if valid is None or valid.ndim == 1 < values.ndim:
            self._check_number(values, batch.size * self._positions)
        if where is not None and expected != values.numel():  # fast path: most batches have every label
            values = values.masked_fill(~where, 0.0)
        return Term(values.sum(), expected)

    def count(self, batch: Batch) -> float:
        """Count the values of `batch` from labels and mask, before the forward pass."""
        if self._compares:
            keep = self._row_mask(batch)
            return self._comparisons(all_reduce_sum(float(batch.size if keep is None else keep.sum())))
        return self._number(self._valid(batch), batch)

    def fit(self, student: Outputs, teacher: Outputs, batch: Batch) -> Loss:
        """Return a copy for the shapes of this stage. It shares the kernel and the head, which gets its shape."""
        if isinstance(self.head, Head):
            self.head.shape(student[self.addresses[0]], self._taught_like(teacher))
        with preserved_state(self.head):
            tensors = self._tensors(student, teacher, batch)
        labels, outputs = tensors.get("labels"), tensors.get("student")
        if labels is not None and outputs is not None and labels.shape == outputs.shape:
            raise one_hot_labels_error(labels.shape)
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        try:
            with preserved_state(self.kernel.function):  # a probe is not a step
                values = self.kernel(tensors, Progress())
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise LimbeckError(f"{self.name} cannot compare {shapes}: {error}") from error
        if not isinstance(values, Tensor):
            raise LimbeckError(
                f"{self.name} has to return a tensor, and returned a {type(values).__name__}: {values!r:.60}"
            )
        rank = {"batch": 0, "example": 1, "pair": 2}.get(self.per, values.ndim)
        if values.ndim != rank:
            raise LimbeckError(
                f"{self.name} declares one value per {self.per} but returns shape {tuple(values.shape)} for {shapes}."
            )
        self._check_places(values, batch, shapes)
        # One output for a whole text; the mask marks its padding tokens.
        fitted = copy.copy(self)  # shallow copy: shares parameters, buffers and modules
        vars(fitted).pop("_named_leaves", None)  # a cached property of the loss that was copied
        fitted._outputs = values.shape[-1] if self.per == "output" and values.ndim > 1 else 1
        fitted._rank = values.ndim
        fitted._whole = self.per == "example" or values.ndim == 1 or (self.per == "output" and values.ndim == 2)
        several = self.per in ("position", "output")
        fitted._positions = max(values.numel() // max(batch.size, 1), 1) if several else 1
        return fitted

    def _check_places(self, values: Tensor, batch: Batch, shapes: str) -> None:
        """Check that values and labels have the same shape; otherwise `classes` is the wrong dimension."""
        labels = batch.labels
        if labels is None or self.per != "position" or self.addresses[0] != LOGITS:
            return
        if values.ndim > 1 and labels.ndim == values.ndim and values.shape != labels.shape:
            raise LimbeckError(
                f"{self.name} returns values of shape {tuple(values.shape)} for {shapes}, but labels have "
                f"{tuple(labels.shape)}: the classes are not in dimension {self.classes}. For maps: classes=1."
            )

    @property
    def _compares(self) -> bool:
        """Whether the kernel compares examples with each other."""
        return self.per in ("pair", "batch")

    def _compared(self, tensors: dict[str, Tensor], progress: Progress) -> Term:
        first = next(iter(tensors.values()))
        count = self._comparisons(len(first))
        if not count:
            # The mean over no example would be NaN. An empty sum is a zero that stays connected to the graph.
            return Term(tensors.get("student", first).sum() * 0.0, 0.0)
        values = self.kernel(tensors, progress)
        self._check_number(values, count)
        return Term(values.sum(), count)

    def _number(self, valid: Tensor | None, batch: Batch) -> float:
        """Count the values where `valid` is true."""
        if valid is None:
            return float(batch.size * self._positions)
        if valid.ndim == 1:
            return float(valid.sum()) * self._positions
        return float(valid.sum()) * (self._outputs if valid.ndim < self._rank else 1)

    def _comparisons(self, examples: float | int) -> float:
        """The number of values for this many examples."""
        return float(examples**2 if self.per == "pair" else min(examples, 1))

    def _tensors(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Any]:
        tensors: dict[str, Any] = {}
        if "student" in self.kernel.inputs:
            outputs = student[self.addresses[0]]
            tensors["student"] = self._moved(outputs if self.head is None else self.head(outputs))
        if "teacher" in self.kernel.inputs:
            tensors["teacher"] = self._taught(teacher)
        for name in self.kernel.inputs & FROM_BATCH:
            value = batch.extra.get(name) if name == "targets" else getattr(batch, name)
            if value is None and name == "mask":
                continue
            if value is None:
                raise LimbeckError(f"{self.name} needs {name}, and {_lack(name, batch)}")
            tensors[name] = value
        if not self._compares:
            return tensors
        keep = self._row_mask(batch)
        # The same order on all ranks: each gather waits for all of them.
        return {name: all_gather(tensors[name] if keep is None else tensors[name][keep]) for name in sorted(tensors)}

    def _taught(self, teacher: Outputs) -> Tensor | PartialLogits:
        """The teacher's output, or its top-k part (with classes last already) if the kernel accepts it."""
        partial = teacher.partial.get(self.addresses[1])
        if partial is None:
            return self._moved(teacher[self.addresses[1]])
        why = partial.invalid_reason(self.kernel.function)
        if why:
            raise LimbeckError(why)
        return partial

    def _taught_like(self, teacher: Outputs) -> Tensor:
        """A tensor with the shape of the teacher's output."""
        partial = teacher.partial.get(self.addresses[1])
        if partial is None:
            return teacher[self.addresses[1]]
        return torch.zeros((), device=partial.device).expand(partial.shape).movedim(-1, self.classes)

    def _moved(self, tensor: Tensor) -> Tensor:
        try:
            return tensor if self.classes == -1 else tensor.movedim(self.classes, -1)
        except IndexError as error:
            raise LimbeckError(
                f"{self.name} expects the classes in dimension {self.classes}, but there is no dimension "
                f"{self.classes} in shape {tuple(tensor.shape)}; give another classes=."
            ) from error

    def _row_mask(self, batch: Batch) -> Tensor | None:
        """The mask of examples that may be compared, or None for all."""
        return None if batch.mask is None else _any(batch.mask.bool())

    def _valid(self, batch: Batch) -> Tensor | None:
        """The mask of values that count, or None for all."""
        valid = None if batch.mask is None else self._per_value(batch.mask.bool())
        for counts in self._target_masks(batch):
            valid = counts if valid is None else counts & self._aligned(valid, counts)
        return valid

    def _target_masks(self, batch: Batch) -> Iterator[Tensor]:
        """Yield the masks of known labels and targets."""
        if "labels" in self.kernel.inputs and batch.labels is not None:
            yield self._per_value(batch.labels != IGNORED)
        if "targets" in self.kernel.inputs:
            mask = known_targets(batch.extra["targets"])
            yield mask if self.per == "output" else self._per_value(mask)

    def _per_value(self, where: Tensor) -> Tensor:
        return _any(where) if self._whole else where

    def _aligned(self, valid: Tensor, values: Tensor) -> Tensor:
        rows = valid.ndim == 1 or (self.per == "output" and valid.ndim == values.ndim - 1)
        if rows and valid.ndim < values.ndim and valid.shape == values.shape[: valid.ndim]:
            valid = valid.reshape(valid.shape + (1,) * (values.ndim - valid.ndim)).expand(values.shape)
        if valid.shape != values.shape:
            raise LimbeckError(
                f"{self.name} returns values of shape {tuple(values.shape)}, but labels or mask have "
                f"{tuple(valid.shape)}; they must agree (classes= says which dimension holds the classes)."
            )
        return valid

    def _check_number(self, values: Tensor, expected: float | int) -> None:
        if values.numel() != expected:
            raise LimbeckError(
                f"{self.name} returns {values.numel()} values for a batch where {int(expected)} were expected: the "
                "number of positions changes between batches, so say which of them count, with Batch.mask: "
                "from a loader, Loader(..., adapt=lambda item: Batch(..., mask=...))."
            )

    def __repr__(self) -> str:
        student, teacher = self.addresses
        places = "" if student == teacher == LOGITS else f", student={student!r}, teacher={teacher!r}"
        return f"Loss({self.kernel!r}{places})"


def _lack(name: str, batch: Batch) -> str:
    """Explain why a batch has no such tensor, and what to do."""
    if name == "labels" and batch.mixed:
        return (
            "this loader mixes two examples (mix=), which have no single label: learn from the "
            "teacher's answers alone, as hinton(..., labels=False) does, or leave mix= out."
        )
    if name == "targets":
        return 'this loader gives none: ArrayDataset(inputs, extra={"targets": ...}).'
    return "this loader gives none."


def _any(where: Tensor) -> Tensor:
    """Whether any position of an example counts, for each example."""
    return where.flatten(1).any(1) if where.ndim > 1 else where
