"""`Teacher`, `TeacherContext` and `TeacherSession`: the source of the outputs that a student learns from."""

from __future__ import annotations

import functools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch, Inputs, Outputs
from limbeck.errors import LimbeckError, ServerError
from limbeck.models.user_file import plain_name

_CPU = torch.device("cpu")

TeacherFn = Callable[[Batch], Outputs]
"""A function from a batch to outputs; every open `TeacherSession` is one."""
FLOAT16: Mapping[str, Any] = MappingProxyType({"name": "float16"})
"""The encoding of logits of all classes."""
Preprocess = Callable[[Batch], Inputs]
"""A pure function from the batch to the inputs of the student or the teacher."""


def read_inputs(batch: Batch) -> Inputs:
    """The batch's inputs unchanged: the default preprocessing."""
    return batch.inputs


@final
class SharedInputs:
    """A preprocessing function that is called once for a batch, although student and teacher both read its result.

    Args:
        function: The function.
    """

    def __init__(self, function: Preprocess) -> None:
        self.function = function
        self._last: tuple[Batch | None, Inputs] = (None, None)

    def __call__(self, batch: Batch) -> Inputs:
        """The inputs for this batch."""
        # Threads of a served teacher may call this too: read the pair once, and replace it as a whole.
        last, inputs = self._last
        if last is not batch:
            inputs = self.function(batch)
            self._last = (batch, inputs)
        return inputs


@runtime_checkable
class Fingerprinted(Protocol):
    """Data or a transform with a fingerprint."""

    @property
    def fingerprint(self) -> str:
        """The same fingerprint means the same content."""
        ...


@runtime_checkable
class TokenExamples(Protocol):
    """A dataset of tokens, whose inputs can be stored; `limbeck.data.TokenDataset` and its subsets are."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; None if the inputs are no tokens."""
        ...

    @property
    def tokenizer_fingerprint(self) -> str | None:
        """The hash of the tokenizer."""
        ...

    def to_files(self) -> dict[str, bytes]:
        """Files by name from which the inputs can be restored."""
        ...


@runtime_checkable
class RowLengths(Protocol):
    """Examples that know how long they are; those of a `limbeck.data.TokenDataset` do."""

    @property
    def row_lengths(self) -> Tensor | None:
        """The number of tokens that a model reads at a time for each row; None if it is not known."""
        ...


@runtime_checkable
class Stream(Protocol):
    """What a teacher needs to know about a loader; every `limbeck.data.Loader` is one.

    A subclass gets the values of a loader without known properties as defaults.
    """

    @property
    def has_ids(self) -> bool:
        """Whether every batch has ids that name the same examples in every epoch and run."""
        return False

    @property
    def fixed(self) -> bool:
        """Whether an example or view always has the same inputs."""
        return False

    @property
    def depends_on_model(self) -> bool:
        """Whether batches depend on models of the run."""
        return False

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the examples and their views."""
        ...

    @property
    def examples_per_epoch(self) -> int | None:
        """The number of examples in an epoch."""
        return None

    @property
    def batch_size(self) -> int | None:
        """The number of examples in a batch; None if it varies."""
        return None

    @property
    def examples(self) -> Fingerprinted | None:
        """The dataset of the examples."""
        return None

    @property
    def augment(self) -> Fingerprinted | None:
        """The transform of every example."""
        return None

    @property
    def mix(self) -> Fingerprinted | None:
        """The mix of two examples."""
        return None


@dataclass(frozen=True, kw_only=True, eq=False)
class TeacherContext:
    """The settings with which a stage opens a teacher.

    Attributes:
        requires: The addresses that the losses read from the teacher.
        device: The device of the outputs.
        preprocess: The stage's function from a batch to inputs, for a teacher without its own.
        loader: The loader of the batches; None where it is not known. Stored outputs belong to one loader's examples.
        temperatures: The temperatures of the losses.
        masks: The names of the masks that losses read outputs by, besides ``Batch.mask``.
        models: The models of the run by name.
        hidden_logits: Whether the losses can read logits as `limbeck.functional.output_layer.HiddenLogits`, so that a
            teacher that has them need not multiply them out.

    Example:
        >>> TeacherContext(requires=frozenset({"logits"})).device
        device(type='cpu')
    """

    requires: frozenset[str] = frozenset({LOGITS})
    device: torch.device = _CPU
    preprocess: Preprocess = read_inputs
    loader: Stream | None = None
    temperatures: frozenset[float] = frozenset()
    masks: frozenset[str] = frozenset()
    models: Mapping[str, nn.Module] = field(default_factory=dict)
    hidden_logits: bool = False


class TeacherCapabilities(NamedTuple):
    """The properties of a teacher's outputs.

    Attributes:
        deterministic: Whether an example always has the same outputs, whatever the batch. Only then can they be cached.
        changes: Whether it changes while the student learns. Then its session's state is part of every checkpoint.
        partial: Whether its logits are those of some classes only (`limbeck.top_k_logits`). Divergences read them; an
            average of teachers cannot.
        tokenizer: A fingerprint of the tokenizer whose vocabulary the logits have; None where there is none, or it is
            not known. Teachers with different tokenizers are not averaged.
        gradients: Whether outputs have gradients with respect to the inputs.
        scores_labels: Whether it has the log-probability of each label (`limbeck.batch.LABEL_LOG_PROBS`).
    """

    deterministic: bool = True
    changes: bool = False
    partial: bool = False
    tokenizer: str | None = None
    gradients: bool = False
    scores_labels: bool = False


class UnfinishedBatchError(ServerError):
    """Some examples of a batch have no outputs, and the outputs of the others are here, as they were paid for.

    Attributes:
        rows: The examples that have outputs.
        outputs: The outputs for the whole batch, with anything for the other examples.
    """

    def __init__(self, error: ServerError, rows: Tensor, outputs: Outputs) -> None:
        super().__init__(str(error), status=error.status)
        self.rows, self.outputs = rows, outputs


class TeacherSession(AbstractContextManager["TeacherSession"], ABC):
    """A teacher that is open for one stage: a context manager, and within it a function from a batch to outputs.

    Hooks and modes begin with the ``with`` block and end with it. Weights, buffers and random generators are never
    changed, except in `after_step` of a teacher that declares `changes`.
    """

    @property
    def ahead(self) -> int:
        """The number of batches that may be submitted before the result of the first one is read.

        0, the default, for a teacher that computes when it is called. A served teacher returns more, so that it
        computes while the student learns.
        """
        return 0

    @abstractmethod
    def __call__(self, batch: Batch) -> Outputs:
        """The outputs for a batch, without gradients unless the teacher declares them."""

    def submit(self, batch: Batch) -> Future[Outputs]:
        """The outputs for a batch as a future; by default they are computed at once."""
        future: Future[Outputs] = Future()
        try:
            future.set_result(self(batch))
        except Exception as error:
            future.set_exception(error)
        return future

    def __exit__(self, *_: object) -> None:
        """End the session; does nothing by default."""

    def after_step(self) -> None:
        """Update the teacher after a step of the student; does nothing for a frozen one."""

    def state_dict(self) -> dict[str, Any]:
        """Its state for a checkpoint; empty for a frozen teacher."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state from a checkpoint."""


@final
class FunctionSession(TeacherSession):
    """A session that calls a function.

    Args:
        function: The function from a batch to outputs.
        within: A context that lasts as long as the session.

    Example:
        >>> with FunctionSession(lambda batch: Outputs(logits=2 * batch.inputs)) as session:
        ...     session(Batch(torch.ones(1, 2)))["logits"]
        tensor([[2., 2.]])
    """

    def __init__(self, function: TeacherFn, *, within: AbstractContextManager[Any] | None = None) -> None:
        self._function = function
        self._within = nullcontext() if within is None else within

    def __enter__(self) -> FunctionSession:
        self._within.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._within.__exit__(*raised)

    def __call__(self, batch: Batch) -> Outputs:
        """The function's outputs."""
        return self._function(batch)


class Teacher(ABC):
    """Provides outputs for a student to learn from: a model, an ensemble, an estimator, a moving average or a peer.

    A teacher is a description. `open` checks it against what a stage needs and returns a session, which computes.
    Subclasses are final.
    """

    @property
    def names(self) -> frozenset[str]:
        """The names of the models in the run that it uses."""
        return frozenset()

    @property
    def capabilities(self) -> TeacherCapabilities:
        """The properties of its outputs."""
        return TeacherCapabilities()

    @property
    def encoding(self) -> Mapping[str, Any]:
        """The encoding in which a cache stores its logits, unless another one is named."""
        return FLOAT16

    @abstractmethod
    def open(self, context: TeacherContext) -> TeacherSession:
        """Check that the teacher has what a stage needs, and return a session for it, not entered yet.

        Args:
            context: The settings of the stage.

        Raises:
            MissingOutputError: If it lacks an address; the nearest one that it has is named.
            LimbeckError: If it has no outputs for this loader, or a model that it names does not exist.
        """

    def resolve(self, models: Mapping[str, nn.Module]) -> Teacher:
        """The same teacher with the models of a run in place of their names; itself where it has no names."""
        return self

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of everything that its outputs depend on.

        Raises:
            LimbeckError: If it depends on a model of a run; `resolve` it first.
        """

    def describe(self) -> dict[str, Any]:
        """Its entry in a report."""
        return {"teacher": type(self).__name__}


def get_function_name(function: Callable[..., Any] | None) -> str | None:
    """The name of a function in a record: its module and name; for a callable object, those of its class.

    A function in a user's file gets the file's name, wherever the file is. Two closures or partials with the same name
    get the same text.

    Example:
        >>> get_function_name(get_function_name)
        'limbeck.teachers.teacher.get_function_name'
    """
    if function is None:
        return None
    inner = function.func if isinstance(function, functools.partial) else function
    target = inner if hasattr(inner, "__qualname__") else type(inner)
    return plain_name(f"{target.__module__}.{target.__qualname__}")


def check_row_lengths(limit: int | None, context: TeacherContext, who: str) -> None:
    """Refuse texts that are longer than a teacher reads, before the first of them is asked for.

    Args:
        limit: The most tokens that it reads at a time; None if it is not known.
        context: What it is opened for.
        who: The teacher, for the message.

    Raises:
        LimbeckError: If the longest text of the loader is longer.
    """
    loader = context.loader
    if limit is None or loader is None or loader.depends_on_model or not isinstance(loader.examples, RowLengths):
        return
    lengths = loader.examples.row_lengths
    if lengths is not None and len(lengths) and int(lengths.max()) > limit:
        raise LimbeckError(
            f"{who} reads {limit:,} tokens at most, and the longest text of the data has {int(lengths.max()):,}. Use "
            f"shorter windows: TokenDataset(max_length={limit}), or data.max_length={limit} in a job."
        )


@runtime_checkable
class HasValues(Protocol):
    """Preprocessing that is identified by its values, such as `limbeck.data.NormalizeImages`."""

    def to_dict(self) -> dict[str, Any]:
        """The values."""
        ...


def describe_preprocess(preprocess: Preprocess | None) -> str | None:
    """The text that identifies a preprocessing function in a record: its values if it has any, or its name."""
    if isinstance(preprocess, SharedInputs):
        preprocess = preprocess.function
    if preprocess is read_inputs:
        preprocess = None
    if not isinstance(preprocess, HasValues):
        return get_function_name(preprocess)
    values = preprocess.to_dict()
    # The first is the same as no preprocessing.
    return None if values == {"preprocess": "unchanged"} else json.dumps(values, sort_keys=True)
