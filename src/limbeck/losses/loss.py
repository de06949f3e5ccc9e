"""`Loss`: a kernel applied to outputs of student and teacher."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import IGNORED, LOGITS, Batch, Outputs, Progress, Requirements, Term, zero_where_masked
from limbeck.errors import ArgumentError, LimbeckError, LimbeckWarning, one_hot_labels_error, unknown_name_error
from limbeck.functional.fused_linear import TokenRows
from limbeck.functional.kernel import declaration
from limbeck.functional.projector import Head, describe_kind
from limbeck.functional.targets import known_targets
from limbeck.losses.bound_kernel import FROM_BATCH, Addresses, BoundKernel, Kernel, check_tensor_names, name_addresses
from limbeck.losses.distributed import all_gather, all_reduce_sum
from limbeck.losses.memory import preserved_state
from limbeck.losses.objective import LossContext, LossTerm
from limbeck.losses.row_loss import RowTerm, select_few, works_on_rows
from limbeck.schedule import Schedule
from limbeck.top_k_logits import PartialLogits


class Loss(LossTerm):
    """An objective made of a kernel, the outputs that it compares, and an optional head.

    The parameter names of the kernel select the tensors: ``student``, ``teacher``, ``labels``, ``targets`` (the column
    of that name in ``Batch.extra``), ``mask``, ``id``. All other parameters are hyper-parameters. A value is summed if
    it counts: ``mask`` is true, the label is not -100, the target is known. The count depends on the batch alone, so
    the mean does not depend on how a batch was split. A kernel that compares examples with each other gets the examples
    of all ranks, without masked ones.

    A kernel of several layers has a parameter for each: ``student={"low": "layer1", "high": "layer2"}`` gives it the
    outputs at these addresses as ``low`` and ``high``. The tensors of both sides need different names.

    Args:
        kernel: A function declared with ``@kernel(per=...)``.
        student: The address of the student's output, or several by the kernel's parameter names.
        teacher: The address of the teacher's output, or several.
        head: A module applied to the student's tensor, or several by parameter names. A `Head` gets its shape from
            the first batch; with several tensors, for the teacher's tensor at the same place of `teacher`.
        classes: The class dimension of the logits. The kernel gets it as the last one.
        where: The name of a mask in ``Batch.extra["masks"]`` that is used in place of ``Batch.mask``. `TokenDataset`
            has ``"text"``, all tokens, for losses on hidden states, beside ``Batch.mask``, the tokens with a label.
        name: The name of the term. By default the name of the kernel, with the address if it is not ``logits``.
        **hyper: The hyper-parameters of the kernel, each a value or a `Schedule`.

    Raises:
        LimbeckError: If the kernel declares no ``per``, or both sides give a tensor of the same name.
        UnknownNameError: If the kernel has no such tensor or hyper-parameter. The message suggests the nearest name.

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
        student: Addresses = LOGITS,
        teacher: Addresses = LOGITS,
        head: nn.Module | Mapping[str, nn.Module] | None = None,
        classes: int = -1,
        where: str | None = None,
        name: str | None = None,
        **hyper: Any,
    ) -> None:
        super().__init__()
        mine, theirs = name_addresses("student", student), name_addresses("teacher", teacher)
        if both := sorted(set(mine) & set(theirs)):
            raise ArgumentError(
                f"student= and teacher= both name the tensor {both[0]!r} of the kernel.", argument="teacher"
            )
        for side, addresses in (("student", student), ("teacher", teacher)):
            check_tensor_names(kernel, () if isinstance(addresses, str) else addresses, side)
        self.kernel = BoundKernel(kernel, hyper, frozenset(mine) | frozenset(theirs))
        self.per = self.kernel.per
        self.student = {tensor: address for tensor, address in mine.items() if tensor in self.kernel.inputs}
        """The addresses in the student, by the names of the kernel's parameters."""
        self.teacher = {tensor: address for tensor, address in theirs.items() if tensor in self.kernel.inputs}
        """The addresses in the teacher, likewise."""
        modules = head if isinstance(head, Mapping) else {} if head is None else {next(iter(mine)): head}
        for tensor in modules:
            if tensor not in mine:
                raise unknown_name_error("tensor of the student", tensor, mine, argument="head")
        self.head = nn.ModuleDict(dict(modules)) if isinstance(head, Mapping) else head
        self.classes = classes
        self.where = where
        places = "" if mine == {"student": LOGITS} else "@" + ",".join(mine.values())
        self.name = name or self.kernel.name + places
        self.own_temperatures = self.kernel.temperatures if LOGITS in self.teacher.values() else frozenset()
        self._positions = self._outputs = self._rank = 1
        self._whole, self._by_rows = self.per == "example", False

    @property
    def compares_logits(self) -> bool:
        """Whether it reads the student's logits and no other tensor of the student, without a head between."""
        return self.head is None and list(self.student.values()) == [LOGITS]

    @property
    def requires(self) -> Requirements:
        """The outputs and batch columns that the kernel needs."""
        return Requirements(
            frozenset(self.student.values()),
            frozenset(self.teacher.values()),
            frozenset(self.kernel.inputs & {"labels", "targets", "id"}),
        )

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """Compute the sum of the values that count, and their number, for one batch."""
        if self._compares:
            return self._compared(self._tensors(student, teacher, batch), progress)
        values, valid = self.compute_values(student, teacher, batch, progress), self.find_valid(batch)
        expected = self._number(valid, batch)
        where = None if valid is None else self._aligned(valid, values)
        if valid is None or valid.ndim == 1 < values.ndim:
            self._check_number(values, batch.size * self._positions)
        if where is not None and expected != values.numel():  # fast path: most batches have every label
            values = values.masked_fill(~where, 0.0)
        return Term(values.sum(), expected)

    def compute_values(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Tensor:
        """Compute all values of the kernel, also those that do not count, of which any number may be returned."""
        tensors, valid = self._tensors(student, teacher, batch), self.find_valid(batch)
        for name in self.teacher:
            if valid is not None and isinstance(tensors[name], Tensor):
                tensors[name] = zero_where_masked(tensors[name], valid)
        return self.kernel(tensors, progress)

    def count(self, batch: Batch) -> float:
        """Count the values of `batch` from labels and mask, before the forward pass."""
        if self._compares:
            keep = self._row_mask(batch)
            return self._comparisons(all_reduce_sum(float(batch.size if keep is None else keep.sum())))
        return self._number(self.find_valid(batch), batch)

    def takes_rows(self, classes: int, device: torch.device) -> bool:
        """Whether it compares logits row by row, tried with random logits."""
        own, its = self.student == {"student": LOGITS}, self.teacher in ({}, {"teacher": LOGITS})
        return self.head is None and self.classes == -1 and own and its and works_on_rows(self.kernel, classes, device)

    def row_term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> RowTerm | None:
        """The kernel for rows of logits; None if it was not set up for logits that are not multiplied out."""
        if not self._by_rows:
            return None
        if "labels" in self.kernel.inputs and batch.labels is None:
            raise LimbeckError(f"{self.name} needs labels, and {_lack('labels', batch)}")
        if self.teacher and LOGITS in teacher.partial:
            self._check_partial(teacher.partial[LOGITS])
        count = self.count(batch)

        def compute(student: Tensor, rows: TokenRows) -> Tensor:
            tensors = {"student": student, "teacher": rows.teacher, "labels": rows.labels}
            return self.kernel({name: tensors[name] for name in self.kernel.inputs}, progress)

        return RowTerm(
            compute, teacher.raw(LOGITS) if self.teacher else None,
            batch.labels if "labels" in self.kernel.inputs else None, self.find_valid(batch), count, progress.weight,
            count if progress.count is None else progress.count,
        )  # fmt: skip

    def setup(self, context: LossContext) -> Loss:
        """Return a copy for the shapes of this stage. It shares the kernel and the heads, which get their shapes."""
        student, teacher, batch = context.student, context.teacher, context.batch
        batch.find_mask(self.where)  # raises for an unknown name
        hidden = student.hidden.get(LOGITS) if self.student == {"student": LOGITS} else None
        by_rows = hidden is not None and self.takes_rows(hidden.shape[-1], hidden.device)
        if by_rows:
            student, teacher, batch = select_few(student, teacher, batch)
        for (name, address), other in zip(
            self.student.items(), [*self.teacher.values(), *[None] * len(self.student)], strict=False
        ):
            head = self._head(name)
            if isinstance(head, Head) and other is not None:
                head.shape(student[address], self._teacher_like(teacher, other))
        with preserved_state(self.head):
            tensors = self._tensors(student, teacher, batch)
        for tensor in tensors.values():
            if isinstance(tensor, PartialLogits) and (note := tensor.describe_bound(self.kernel.function)) is not None:
                warnings.warn(note, LimbeckWarning, stacklevel=2)
        labels, outputs = tensors.get("labels"), next((tensors[name] for name in self.student), None)
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
        fitted = copy.copy(self)
        fitted._outputs = values.shape[-1] if self.per == "output" and values.ndim > 1 else 1
        fitted._rank = values.ndim
        fitted._whole = self.per == "example" or values.ndim == 1 or (self.per == "output" and values.ndim == 2)
        several = self.per in ("position", "output")
        fitted._positions = max(values.numel() // max(batch.size, 1), 1) if several else 1
        if hidden is not None and by_rows:
            fitted._by_rows, fitted._positions = True, max(math.prod(hidden.shape[1:-1]), 1)
        return fitted

    def _check_places(self, values: Tensor, batch: Batch, shapes: str) -> None:
        """Check that values and labels have the same shape; otherwise `classes` is the wrong dimension."""
        labels = batch.labels
        if labels is None or self.per != "position" or list(self.student.values()) != [LOGITS]:
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
        first = tensors[next(iter(self.student), min(tensors))]
        count = self._comparisons(len(first))
        if not count:
            # The mean over no example would be NaN. An empty sum is a zero that stays connected to the graph.
            return Term(first.sum() * 0.0, 0.0)
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
        through = self._through_head
        tensors: dict[str, Any] = {name: through(name, student[at], batch) for name, at in self.student.items()}
        mask = batch.find_mask(self.where)
        for name, at in self.teacher.items():
            value = tensors[name] = self._teacher_tensor(teacher, at)
            if mask is not None and isinstance(value, Tensor):  # NaN of padding would reach what counts
                tensors[name] = zero_where_masked(value, mask.bool())
        for name in self.kernel.inputs & FROM_BATCH:
            column = self._column(name, batch)
            if column is not None:
                tensors[name] = column
            elif name != "mask":
                raise LimbeckError(f"{self.name} needs {name}, and {_lack(name, batch)}")
        if not self._compares:
            return tensors
        keep = self._row_mask(batch)
        # The same order on all ranks: each gather waits for all of them.
        return {name: all_gather(tensors[name] if keep is None else tensors[name][keep]) for name in sorted(tensors)}

    def _column(self, name: str, batch: Batch) -> Tensor | None:
        columns = {"labels": batch.labels, "id": batch.id, "targets": batch.extra.get("targets")}
        return batch.find_mask(self.where) if name == "mask" else columns[name]

    def _head(self, name: str) -> nn.Module | None:
        """The head of one of the student's tensors."""
        if isinstance(self.head, nn.ModuleDict):
            return dict(self.head.items()).get(name)
        return self.head

    def _through_head(self, name: str, features: Tensor, batch: Batch) -> Tensor:
        head: Any = self._head(name)
        mask = (batch.find_mask(self.where),) if isinstance(head, Head) and head.takes_mask else ()
        return self._moved(features if head is None else head(features, *mask))

    def _teacher_tensor(self, teacher: Outputs, address: str) -> Tensor | PartialLogits:
        """The teacher's output, or its top-k part (with classes last already) if the kernel accepts it."""
        partial = teacher.partial.get(address)
        if partial is None and declaration(self.kernel.function, "across_tokenizers") == "likelihoods":
            raise LimbeckError(
                f"{self.name} compares likelihoods of texts, and this teacher gives logits. With the student's "
                "tokenizer, use the method hinton or gkd; with another one, lb.CrossTokenizerTeacher(teacher, ...)."
            )
        if partial is None:
            return self._moved(teacher[address])
        self._check_partial(partial)
        return partial

    def _check_partial(self, partial: PartialLogits) -> None:
        """Raise if the kernel cannot be computed from these logits."""
        fixed = {name: value for name, value in self.kernel.hyper.items() if not isinstance(value, Schedule)}
        if why := partial.invalid_reason(self.kernel.function, **fixed):
            raise LimbeckError(why)

    def _teacher_like(self, teacher: Outputs, address: str) -> Tensor:
        """A tensor with the shape of the teacher's output."""
        partial = teacher.partial.get(address)
        if partial is None:
            return teacher[address]
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
        mask = batch.find_mask(self.where)
        return None if mask is None else _any(mask.bool())

    def find_valid(self, batch: Batch) -> Tensor | None:
        """The mask of values that count, from mask, labels and targets; None for all."""
        mask = batch.find_mask(self.where)
        valid = None if mask is None else self._per_value(mask.bool())
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
                f"{tuple(valid.shape)}; they must agree (classes= is the dimension of the classes)."
            )
        return valid

    def _check_number(self, values: Tensor, expected: float | int) -> None:
        if values.numel() != expected:
            raise LimbeckError(
                f"{self.name} returns {values.numel()} values for a batch where {int(expected)} were expected: the "
                "number of positions changes between batches, so mark those that count with Batch.mask: "
                "for a DataLoader, TorchLoader(..., to_batch=lambda item: Batch(..., mask=...))."
            )

    def __repr__(self) -> str:
        sides = [_shorten(side, places) for side, places in (("student", self.student), ("teacher", self.teacher))]
        places = "" if all(side in ({}, LOGITS) for side in sides) else f", student={sides[0]!r}, teacher={sides[1]!r}"
        # A run compares these texts when it is resumed, so every setting must be in it.
        dimension = "" if self.classes == -1 else f", classes={self.classes}"
        where = "" if self.where is None else f", where={self.where!r}"
        named = self.head.items() if isinstance(self.head, nn.ModuleDict) else ()
        kinds = {name: describe_kind(head) for name, head in named} or describe_kind(self.head)
        head = "" if self.head is None else f", head={kinds}"  # its own text changes as it gets its shape
        return f"Loss({self.kernel!r}{places}{head}{dimension}{where})"


def _shorten(side: str, addresses: dict[str, str]) -> str | dict[str, str]:
    return addresses.get(side, LOGITS) if set(addresses) <= {side} else addresses


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
