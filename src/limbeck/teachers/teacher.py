"""`Teacher`: the interface of whatever answers a batch with outputs."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from limbeck.batch import Batch, Inputs, Outputs
from limbeck.models.user_module import plain_name
from limbeck.tap import Adaptor

TeacherFn = Callable[[Batch], Outputs]
Preprocess = Callable[[Batch], Inputs]
"""A pure function from the batch to one side's own inputs."""


def read_inputs(batch: Batch) -> Inputs:
    """What a model is called with where nobody says otherwise: the batch's own inputs."""
    return batch.inputs


@runtime_checkable
class Stream(Protocol):
    """What a teacher may know of where batches come from: a `limbeck.data.TorchLoader`, which is one."""

    has_ids: bool

    @property
    def fingerprint(self) -> str:
        """What the examples and their views are."""
        ...

    @property
    def examples_per_epoch(self) -> int | None:
        """How many examples a whole epoch hands out."""
        ...


def get_function_name(function: Callable[..., Any] | None) -> str | None:
    """How a record names a function: by its module and name, of an object that is called by its class's.

    A file that a person named is called by its own name, wherever it lies. What a closure or a partial holds is not
    said: two of them with the same name are taken for the same.

    Example:
        >>> get_function_name(get_function_name)
        'limbeck.teachers.teacher.get_function_name'
    """
    if function is None:
        return None
    inner = getattr(function, "func", function)  # of a functools.partial
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    return plain_name(f"{named.__module__}.{named.__qualname__}")


def describe_preprocess(preprocess: Preprocess | None) -> str | None:
    """How a record tells one way of reading a batch from another: by its values where it has any, else by its name."""
    if preprocess is read_inputs:
        preprocess = None
    values: Callable[[], Any] | None = getattr(preprocess, "to_dict", None)
    if values is not None and values() == {"preprocess": "unchanged"}:  # which is the same
        return None
    return get_function_name(preprocess) if values is None else json.dumps(values(), sort_keys=True)


class Teacher(ABC):
    """Whatever answers a batch with a `Outputs`: a live model, an ensemble, an estimator, a moving average, a peer.

    A subclass is final. It says before training what it cannot give (`prepare` raises), and it is open only for the
    length of a stage.
    """

    changes: bool = False
    """Whether it moves while the student learns; then it has `state_dict` and is part of every checkpoint."""

    @property
    def names(self) -> frozenset[str]:
        """The models of the run that it speaks for, by name."""
        return frozenset()

    def bind(self, models: Mapping[str, nn.Module]) -> None:  # noqa: B027 - most teachers need nothing
        """Find the models of the run that it speaks for; called before `prepare`."""

    @property
    def is_deterministic(self) -> bool:
        """Whether the same question gets the same answer, whatever else is in the batch: only then can it be kept."""
        return not self.changes

    def attach_loader(self, loader: Stream, preprocess: Preprocess) -> None:  # noqa: B027
        """Told where the batches of the next block will come from, before `prepare`; most teachers need not know.

        Args:
            loader: Where.
            preprocess: The stage's way from a batch to inputs.

        Raises:
            LimbeckError: If it has no answers for these.
        """

    def serve(self, temperatures: frozenset[float]) -> None:  # noqa: B027
        """Told at which temperatures losses will read its logits, before `prepare`; most teachers need not know."""

    @abstractmethod
    def prepare(
        self, requires: frozenset[str], *, device: torch.device, preprocess: Preprocess
    ) -> AbstractContextManager[TeacherFn]:
        """Raise now if an address in `requires` cannot be given; else a block within which it answers.

        Args:
            requires: The addresses that the objective reads in the teacher.
            device: Where the answers are wanted.
            preprocess: The stage's way from a batch to inputs, for a teacher that declares none of its own.

        Raises:
            MissingSignalError: If it cannot give an address; the nearest that it can is named.
        """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of all that its answers depend on."""

    def after_step(self) -> None:  # noqa: B027
        """Move on, after the student's step; nothing for a teacher that is frozen."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold of it: nothing for a teacher that is frozen."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Go on from what a checkpoint held."""

    def describe(self) -> dict[str, Any]:
        """What a report says of it."""
        return {"teacher": type(self).__name__}


def get_adaptor(models: Mapping[str, nn.Module], name: str) -> Adaptor | None:
    """What a run was told of one of its models' outputs; a plain mapping of models was told nothing."""
    found: Callable[[str], Adaptor | None] | None = getattr(models, "adaptor", None)
    return None if found is None else found(name)
