"""`TorchLoader`: wraps a PyTorch DataLoader, or any iterable of batches, as a limbeck loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from limbeck.batch import Batch, sequence_like
from limbeck.data.arrays import as_dataset, is_array
from limbeck.data.dataset import Dataset, hash_columns
from limbeck.data.loader import Loader, ShuffledLoader
from limbeck.data.tokenizer import LabelFormat, find_label_format, token_batch
from limbeck.data.transform import BatchMix, Transform
from limbeck.errors import DataError, LimbeckError, one_hot_labels_error


def batch_from(item: Any) -> Batch:
    """Convert one item of a DataLoader to a `Batch`.

    Raises:
        DataError: If the item is ambiguous. The message shows it.
    """
    if isinstance(item, Batch):
        return item
    if isinstance(item, (Tensor, np.ndarray)):
        return Batch(torch.as_tensor(item))
    if isinstance(item, Mapping):
        return _from_mapping(item)
    if isinstance(item, (tuple, list)) and len(item) in (1, 2) and all(_is_inputs(part) for part in item[:1]):
        inputs = _tensors(item[0])
        if len(item) == 1:
            return Batch(inputs)
        if (labels := _integers(item[1])) is not None:
            return Batch(inputs, labels=labels)
        _check_soft(item[1], inputs.shape if isinstance(inputs, Tensor) else None)
    three = isinstance(item, (tuple, list)) and len(item) == 3  # the third may be ids, or anything else
    columns = "inputs=item[0], labels=item[1], id=item[2]" if three else "inputs=..., labels=..."
    raise DataError(
        f"A batch is {describe(item)}; supported are a tensor, (inputs, integer labels), a mapping or a Batch. "
        f"Pass to_batch=, a function that converts such an item: to_batch=lambda item: limbeck.Batch({columns})."
    )


def _from_mapping(item: Mapping[str, Any]) -> Batch:
    columns = dict(item)
    label_column = next((columns.pop(name) for name in ("labels", "label") if columns.get(name) is not None), None)
    labels = None if label_column is None else _integers(label_column)
    if label_column is not None and labels is None:
        _check_soft(label_column)
        raise DataError(
            f"labels must be class indices (whole numbers); this batch has {describe(label_column)}. Pass to_batch=."
        )
    id = _integers(columns.pop("id")) if _integers(columns.get("id")) is not None else None
    inputs = {name: column for name, column in columns.items() if isinstance(column, Tensor)}
    if not inputs:
        raise DataError(f"A batch is {describe(item)}, in which no column is a tensor for the model. Pass to_batch=.")
    extra = {name: column for name, column in columns.items() if name not in inputs}
    return Batch(inputs, id, None, labels, None, extra)


def _check_soft(labels: Any, inputs_shape: torch.Size | None = None) -> None:
    """Raise for labels that are probabilities, unless they have the shape of the inputs (an autoencoder)."""
    if not isinstance(labels, (Tensor, np.ndarray)) or labels.ndim != 2 or inputs_shape == labels.shape:
        return
    tensor = torch.as_tensor(labels)
    if tensor.is_floating_point() and bool(((tensor >= 0) & (tensor <= 1)).all()):
        raise one_hot_labels_error(tensor.shape)


def _is_inputs(part: Any) -> bool:
    parts = part.values() if isinstance(part, Mapping) else part if isinstance(part, (tuple, list)) else [part]
    return bool(parts) and all(isinstance(array, (Tensor, np.ndarray)) for array in parts)


def _tensors(part: Any) -> Any:
    if isinstance(part, Mapping):
        return {name: torch.as_tensor(column) for name, column in part.items()}
    if isinstance(part, (tuple, list)):
        columns = tuple(torch.as_tensor(column) for column in part)
        return sequence_like(part, columns) if isinstance(part, tuple) else columns
    return torch.as_tensor(part)


def _integers(column: Any) -> Tensor | None:
    if not isinstance(column, (Tensor, np.ndarray)) or len(column.shape) == 0:
        return None
    tensor = torch.as_tensor(column)
    return None if tensor.is_floating_point() or tensor.is_complex() else tensor.long()


def describe(item: Any) -> str:
    """Describe an item for a message: its type, and the shapes and dtypes of its content."""
    if isinstance(item, Tensor):
        return f"Tensor{list(item.shape)} {str(item.dtype).removeprefix('torch.')}"
    if isinstance(item, np.ndarray):
        return f"ndarray{list(item.shape)} {item.dtype}"
    if isinstance(item, Mapping):
        return "a mapping {" + ", ".join(f"{k!r}: {describe(v)}" for k, v in list(item.items())[:8]) + "}"
    if isinstance(item, (tuple, list)) and not isinstance(item, Batch):
        listing = ", ".join(describe(part) for part in item[:6]) + (", ..." if len(item) > 6 else "")
        return f"a {type(item).__name__} of {len(item)}: ({listing})"
    return type(item).__name__


@runtime_checkable
class _Sampling(Protocol):
    """A DataLoader. Some, such as torchdata's StatefulDataLoader, are no subclasses of PyTorch's."""

    batch_size: int | None
    drop_last: bool
    sampler: Any


@runtime_checkable
class _Stateful(Protocol):
    """A DataLoader whose position can be saved."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class _HasDataset(Protocol):
    dataset: Any


@final
class TorchLoader(Loader):
    """Yields the batches of a PyTorch DataLoader, or of any iterable with a length, in its order.

    An item may be a `Batch`; a tensor; ``(inputs,)`` or ``(inputs, labels)``; or a mapping, in which ``labels`` (or
    ``label``) are labels, ``id`` are ids, columns that are not tensors are ``extra``, and the other columns are the
    model inputs. `to_batch` converts anything else to a `Batch`, such as ``(inputs, labels, ids)``. A mapping's
    ``attention_mask`` is also ``Batch.mask``, so that padding does not count. The ``labels`` of a causal language model
    are expected in the format of Hugging Face models, at their own token, and are shifted to the model output that
    predicts them. The labels of an encoder-decoder are also what its decoder reads, behind its start token.

    The DataLoader's own shuffling is used. An epoch cannot be entered in the middle, so training can be resumed there
    only if the DataLoader has ``state_dict`` and ``load_state_dict``. If an iterator is left early, the next one
    continues it.

    Args:
        loader: The batches.
        to_batch: Function item -> `Batch`.
        fingerprint: An identifier of the data; by default a hash of the DataLoader's types and lengths, which is the
            same for different data of the same size.

    Raises:
        LimbeckError: If the loader has no length, or has no batches.

    Example:
        >>> import torch
        >>> [batch.size for batch in TorchLoader([(torch.zeros(2, 3), torch.tensor([0, 1]))])]
        [2]
    """

    replayable = False
    ragged = True

    def __init__(
        self, loader: Any, *, to_batch: Callable[[Any], Batch] | None = None, fingerprint: str | None = None
    ) -> None:
        super().__init__()
        self.loader = loader
        self.to_batch = to_batch
        self._size = _length(loader)
        self._fingerprint = fingerprint or _description(loader, self._size)
        self._live: Iterator[Any] | None = None
        self._waiting: Batch | None = None
        self._before: Any = None
        self._label_format: LabelFormat = "output"

    def __len__(self) -> int:
        return self._size

    @property
    def type_name(self) -> str:
        """The type of the DataLoader, for messages."""
        return type(self.loader).__name__

    def bind(self, models: Mapping[str, nn.Module]) -> None:
        """Find out where the models expect labels: those of causal language models are shifted."""
        # A run's models are made when they are first asked for; only those that exist are looked at.
        self._label_format = find_label_format(*getattr(models, "existing", models).values())

    @property
    def fingerprint(self) -> str:
        """The `fingerprint` argument, or a hash of the DataLoader's types and lengths."""
        return self._fingerprint

    @property
    def examples_per_epoch(self) -> int | None:
        """Number of examples per epoch of a DataLoader with a sampler; otherwise None."""
        loader = self.loader
        if not (isinstance(loader, _Sampling) and isinstance(loader.sampler, Sized)):
            return None
        if not isinstance(loader.batch_size, int):
            return None
        whole = self._size * loader.batch_size
        return whole if loader.drop_last else min(whole, len(loader.sampler))

    @property
    def has_ids(self) -> bool:  # type: ignore[override]
        """Whether the next batch has ids; this starts an epoch of the DataLoader."""
        return self.peek().id is not None

    @property
    def resumable(self) -> bool:  # type: ignore[override]
        """Whether the DataLoader has ``state_dict`` and ``load_state_dict``."""
        return isinstance(self.loader, _Stateful)

    def peek(self) -> Batch:
        """Return the next batch without moving on; it is stored, not read twice."""
        if self._waiting is None:
            self._waiting = self._read_next()
        if self._waiting is None:
            # The last batch of the epoch was yielded, but the end of the iterator was not reached yet.
            self._live, self._epoch, self._batch = None, self._epoch + 1, 0
            self._waiting = self._read_next()
        if self._waiting is None:
            raise DataError(f"The {type(self.loader).__name__} has a length of {len(self)} batches, but yields none.")
        return self._align_labels(self._waiting)

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Yield the remaining batches of the DataLoader's current epoch; the arguments are not used."""
        if self._waiting is not None:
            batch, self._waiting = self._waiting, None
            yield self._align_labels(batch)
        for item in self._iterator():
            yield self._align_labels(self._read(item))
        self._live = None

    def state_dict(self) -> dict[str, Any]:
        """The position, and under ``loader`` the DataLoader's own state.

        Raises:
            LimbeckError: If the DataLoader has no state.
        """
        self._check_resumable()
        own = self.loader.state_dict() if self._waiting is None else self._before
        return {**super().state_dict(), "loader": own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Move to a position; at the start of an epoch the ``loader`` entry is optional.

        Raises:
            LimbeckError: If the DataLoader has no state, or the position is not valid.
        """
        self._check_resumable()
        if "loader" not in state and state.get("batch") != 0:
            raise LimbeckError(
                f"A position inside an epoch needs the state of the DataLoader under 'loader'; got {dict(state)}."
            )
        super().load_state_dict(state)
        self._live = self._waiting = None
        if "loader" in state:
            self.loader.load_state_dict(state["loader"])

    def _read_next(self) -> Batch | None:
        self._before = self.loader.state_dict() if self.resumable else None
        for item in self._iterator():
            return self._read(item)
        return None

    def _iterator(self) -> Iterator[Any]:
        if self._live is None:
            self._live = iter(self.loader)
        return self._live

    def _align_labels(self, batch: Batch) -> Batch:
        """Align labels and mask with model outputs; done late, because `bind` may come after the first `peek`."""
        return batch if self.to_batch is not None else token_batch(batch, label_format=self._label_format)

    def _read(self, item: Any) -> Batch:
        if self.to_batch is None:
            return batch_from(item)
        batch = self.to_batch(item)
        if not isinstance(batch, Batch):
            raise DataError(f"to_batch= must return a limbeck.Batch; it returned {describe(batch)}.")
        return batch

    def _check_resumable(self) -> None:
        if not self.resumable:
            raise LimbeckError(
                f"A {type(self.loader).__name__} cannot be resumed in the middle of an epoch, because it has no "
                "state_dict(). Use lb.ArrayDataset(inputs, labels), or a DataLoader with a state."
            )


def _length(loader: Any) -> int:
    try:
        size = len(loader)
    except TypeError as error:
        raise LimbeckError(
            f"A {type(loader).__name__} has no length, which an epoch needs. Use a list of batches or lb.ArrayDataset."
        ) from error
    if size == 0:
        raise LimbeckError(
            f"The {type(loader).__name__} has no batches. Is the dataset empty, or smaller than a batch with drop_last?"
        )
    return size


def _description(loader: Any, size: int) -> str:
    data = loader.dataset if isinstance(loader, _HasDataset) else None  # a list of batches has none
    count = len(data) if isinstance(data, Sized) else None
    return hash_columns(("loader", type(loader).__name__), ("data", type(data).__name__), ("sizes", (size, count)))


def as_loader(
    data: Any,
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    drop_last: bool = False,
    augment: Transform | None = None,
    mix: BatchMix | None = None,
    views: int | None = None,
    to_batch: Callable[[Any], Batch] | None = None,
) -> Loader:
    """Convert data to a loader.

    Args:
        data: A `Loader`, which is returned unchanged; a `Dataset`; ``(inputs, labels)`` arrays; an array or a mapping
            of arrays (the key ``labels`` holds the labels); a DataLoader or another iterable of batches with a length.
        batch_size: Examples per batch, for data that are not in batches already.
        seed: Seed of the order, for data that are not in batches already.
        shuffle: False keeps the order of the examples.
        drop_last: Drop the last batch of an epoch if it is smaller.
        augment: A transform; for datasets and arrays only.
        mix: A mix of two examples; for datasets and arrays only.
        views: Number of views of each example.
        to_batch: Function item -> `Batch`; for DataLoaders and iterables only.

    Raises:
        DataError: If the data have an unsupported type.
        LimbeckError: If `augment`, `mix`, `views` or `to_batch` does not apply to the data.

    Example:
        >>> import torch
        >>> len(as_loader((torch.zeros(10, 3), torch.arange(10) % 2), batch_size=4))
        3
    """
    examples = as_dataset(data)
    if examples is not None:
        if to_batch is not None:
            raise LimbeckError(
                "to_batch= converts the items of a DataLoader to batches; these data are examples, not batches."
            )
        options: dict[str, Any] = {"shuffle": shuffle, "drop_last": drop_last, "augment": augment, "mix": mix}
        return ShuffledLoader(examples, batch_size=batch_size, seed=seed, views=views, **options)
    for name, value in (("augment", augment), ("mix", mix), ("views", views)):
        kind = type(data).__name__
        if value is not None and isinstance(data, Loader):
            raise LimbeckError(
                f"{name}= applies to data that are not in batches yet, but a {kind} makes its own. Pass {name}= to the "
                f"{kind} instead."
            )
        if value is not None:
            raise LimbeckError(f"{name}= requires examples with ids, and a {kind} has none. Use lb.ArrayDataset(...).")
    if isinstance(data, Loader):
        if to_batch is not None:
            raise LimbeckError(
                "to_batch= converts the items of a DataLoader to batches; a limbeck loader has batches already."
            )
        return data
    if isinstance(data, DataLoader) and isinstance(data.dataset, Dataset) and not hasattr(data.dataset, "__getitem__"):
        kind = type(data.dataset).__name__  # every DataLoader would fail at its first batch
        raise DataError(f"A DataLoader cannot read a {kind}: pass the {kind} itself, with batch_size=.")
    if isinstance(data, DataLoader) or _is_batches(data):
        return TorchLoader(data, to_batch=to_batch)
    raise DataError(_unsupported_message(data))


def _is_batches(data: Any) -> bool:
    if isinstance(data, (str, bytes, Mapping, TorchDataset, tuple)) or not isinstance(data, Iterable):
        return False
    # [x, y] is almost always a pair (inputs, labels) in the wrong brackets; it would be read as two batches.
    return not (isinstance(data, list) and len(data) == 2 and all(is_array(part) for part in data))


def _unsupported_message(data: Any) -> str:
    if isinstance(data, str):
        return f"{data!r} is a name, not data; use load_data({data!r}).train."
    if isinstance(data, TorchDataset):
        return f"A {type(data).__name__} has no batches; use DataLoader(data, batch_size=...) or lb.ArrayDataset(...)."
    if isinstance(data, list):
        return f"The data are {describe(data)}; use a tuple (inputs, labels) if these are arrays."
    if hasattr(data, "train") and hasattr(data, "test"):
        return f"A {type(data).__name__} has several parts; pass its .train or .test."
    ways = "(inputs, labels) arrays, lb.ArrayDataset(...), a DataLoader, or a list of batches"
    return f"The data are {describe(data)}; pass {ways}."
