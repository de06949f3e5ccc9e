"""`Teacher`: the interface of everything that computes outputs for a student to learn from."""

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
"""A pure function from the batch to the inputs of the student or the teacher."""


def read_inputs(batch: Batch) -> Inputs:
    """The batch's inputs unchanged: the default preprocessing."""
    return batch.inputs


@runtime_checkable
class Stream(Protocol):
    """What a teacher needs to know about a loader; every `limbeck.data.TorchLoader` is one."""

    has_ids: bool

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the examples and their views."""
        ...

    @property
    def examples_per_epoch(self) -> int | None:
        """The number of examples in an epoch."""
        ...


def get_function_name(function: Callable[..., Any] | None) -> str | None:
    """The name of a function in a record: its module and name; for a callable object, those of its class.

    A function in a user's file gets the file's name, wherever the file is. Two closures or partials with the same name
    are not told apart.

    Example:
        >>> get_function_name(get_function_name)
        'limbeck.teachers.teacher.get_function_name'
    """
    if function is None:
        return None
    inner = getattr(function, "func", function)  # of a functools.partial
    target = inner if hasattr(inner, "__qualname__") else type(inner)
    return plain_name(f"{target.__module__}.{target.__qualname__}")


def describe_preprocess(preprocess: Preprocess | None) -> str | None:
    """The text by which a record tells preprocessing functions apart: their values where they have any, or a name."""
    if preprocess is read_inputs:
        preprocess = None
    # Preprocessing with values has `to_dict`; any other function is known by its name.
    values: Callable[[], Any] | None = getattr(preprocess, "to_dict", None)
    if values is not None and values() == {"preprocess": "unchanged"}:  # the same as no preprocessing
        return None
    return get_function_name(preprocess) if values is None else json.dumps(values(), sort_keys=True)


class Teacher(ABC):
    """Provides outputs for a student to learn from: a model, an ensemble, an estimator, a moving average or a peer.

    Subclasses are final. A teacher reports what it lacks before training (`prepare` raises), and it is open only
    during a stage.
    """

    changes: bool = False
    """Whether it changes while the student learns. Then its `state_dict` is part of every checkpoint."""

    @property
    def names(self) -> frozenset[str]:
        """The names of the models in the run that it uses."""
        return frozenset()

    def bind(self, models: Mapping[str, nn.Module]) -> None:  # noqa: B027 - most teachers need nothing
        """Look up the run's models that it uses; called before `prepare`."""

    @property
    def is_deterministic(self) -> bool:
        """Whether the same example always has the same outputs, whatever the batch. Only then can they be cached."""
        return not self.changes

    def attach_loader(self, loader: Stream, preprocess: Preprocess) -> None:  # noqa: B027
        """Learn which loader the next batches come from; called before `prepare`. Most teachers do not need it.

        Args:
            loader: The loader.
            preprocess: The stage's function from a batch to inputs.

        Raises:
            LimbeckError: If the teacher has no outputs for this loader.
        """

    def serve(self, temperatures: frozenset[float]) -> None:  # noqa: B027
        """Learn the temperatures of the losses; called before `prepare`. Most teachers do not need them."""

    @abstractmethod
    def prepare(
        self, requires: frozenset[str], *, device: torch.device, preprocess: Preprocess
    ) -> AbstractContextManager[TeacherFn]:
        """Check that the teacher has these addresses; the context that is returned gives the function to call.

        Args:
            requires: The addresses that the losses read from the teacher.
            device: The device of the outputs.
            preprocess: The stage's function from a batch to inputs, for a teacher without its own.

        Raises:
            MissingOutputError: If it lacks an address; the nearest one that it has is named.
        """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of everything that its outputs depend on."""

    def after_step(self) -> None:  # noqa: B027
        """Update it after a step of the student; does nothing for a frozen teacher."""

    def state_dict(self) -> dict[str, Any]:
        """Its state for a checkpoint; empty for a frozen teacher."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Restore the state from a checkpoint."""

    def describe(self) -> dict[str, Any]:
        """Its entry in a report."""
        return {"teacher": type(self).__name__}


def get_adaptor(models: Mapping[str, nn.Module], name: str) -> Adaptor | None:
    """The adaptor that a run has for one of its models; None for a plain mapping of models."""
    # The models of a run have a method `adaptor`; tests and scripts pass plain dictionaries.
    lookup: Callable[[str], Adaptor | None] | None = getattr(models, "adaptor", None)
    return None if lookup is None else lookup(name)
