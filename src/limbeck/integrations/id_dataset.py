"""limbeck's data as a torch data set with example ids, and batches from other loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch.utils.data import Dataset as TorchDataset

from limbeck.batch import Batch
from limbeck.data import Dataset
from limbeck.data.tokenizer import LabelFormat, token_batch
from limbeck.data.torch_loader import batch_from
from limbeck.errors import DataError
from limbeck.teachers import Stream


@final
class IdDataset(TorchDataset[dict[str, Any]], Stream):
    """A data set of rows with ``id`` and ``labels``, for a Trainer or a DataLoader.

    Its fingerprint identifies the data, so `CachedTeacher` can cache outputs for it, here or in a job.

    Args:
        examples: The examples, such as `TextDataset`.

    Example:
        >>> from limbeck.data import ArrayDataset
        >>> row = IdDataset(ArrayDataset({"x": torch.zeros(3, 2)}, torch.tensor([0, 1, 1])))[2]
        >>> sorted(row), row["id"]
        (['id', 'labels', 'x'], 2)
    """

    has_ids = True

    def __init__(self, examples: Dataset) -> None:
        self._examples = examples

    @property
    def examples(self) -> Dataset:
        """The examples."""
        return self._examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, place: int) -> dict[str, Any]:
        batch = self.examples.take(torch.tensor([place]))
        inputs = batch.inputs if isinstance(batch.inputs, Mapping) else {"inputs": batch.inputs}
        row = {name: column[0] for name, column in inputs.items()}
        if batch.labels is not None:
            row["labels"] = batch.labels[0] if batch.labels.ndim > 1 else int(batch.labels[0])
        return {**row, "id": int(batch.id[0])} if batch.id is not None else row

    @property
    def fixed(self) -> bool:
        """Whether the examples are the same in every epoch."""
        return self.examples.fixed

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the examples."""
        return self.examples.fingerprint

    @property
    def examples_per_epoch(self) -> int:
        """The number of examples."""
        return len(self.examples)


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack rows of equal shape; for texts use a DataCollatorWithPadding instead."""
    return {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in rows[0]}


def identify_dataset(data: Any) -> Any:
    """The data set if it has ids and a fingerprint, or a `datasets.Dataset` with a column ``id``; else None."""
    if isinstance(data, IdDataset):
        return data
    if type(data).__module__.partition(".")[0] == "datasets" and "id" in data.column_names:
        return _HubDataset(data._fingerprint, len(data))
    return None


@final
class _HubDataset(Stream):
    """A `datasets.Dataset`, identified by its own fingerprint."""

    has_ids = True

    def __init__(self, fingerprint: str, size: int) -> None:
        self._fingerprint, self._size = fingerprint, size

    @property
    def fingerprint(self) -> str:
        """The data set's own fingerprint."""
        return self._fingerprint

    @property
    def examples_per_epoch(self) -> int:
        """The number of examples."""
        return self._size


def to_batch(item: Any, *, label_format: LabelFormat = "output") -> Batch:
    """Convert one item of a loader to a batch: padding is masked, and labels are aligned with outputs.

    Args:
        item: A mapping with ``labels`` (and ``id``), ``(inputs, labels)``, or a `Batch`, which is returned as it is.
        label_format: Where the labels are, see `limbeck.data.tokenizer.find_label_format`.

    Raises:
        DataError: If the item is none of these.
    """
    batch = batch_from(dict(item) if isinstance(item, Mapping) else item)
    if isinstance(item, Batch):
        return batch
    if isinstance(batch.inputs, Mapping) and set(batch.inputs) == {"inputs"}:
        batch = batch._replace(inputs=batch.inputs["inputs"])
    if label_format != "output" and batch.labels is not None and batch.labels.ndim != 2:
        raise DataError(f"A language model's labels are [batch, tokens]; got {list(batch.labels.shape)}.")
    return token_batch(batch, label_format=label_format)
