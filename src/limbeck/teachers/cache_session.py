"""One training session with a cache: outputs read from disk, missing ones computed and stored."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.batch import LOGITS, Batch, Outputs, zero_where_masked
from limbeck.cache import (
    CacheReader,
    CacheWriter,
    DecodedTable,
    Keys,
    Location,
    ManifestDifference,
    find_manifest,
    find_mismatch,
    has_parts,
    open_writer,
)
from limbeck.errors import LimbeckError, LimbeckWarning
from limbeck.functional.output_layer import HiddenLogits, OutputLayer
from limbeck.group_likelihoods import GroupLikelihoods
from limbeck.losses.distributed import world_size
from limbeck.models import TokenSpelling, find_boundary_tokens
from limbeck.teachers.cache_request import (
    HEAD_FILE,
    CacheRequest,
    LastLayer,
    batch_keys,
    describe_head,
    explain_first_batch_error,
    load_head,
    predict_padded,
    query_addresses,
    stored_masks,
    stored_positions,
    view_numbers,
)
from limbeck.teachers.cached_inputs import find_examples_tokenizer, input_files
from limbeck.teachers.fingerprints import input_marks, marks_differ
from limbeck.teachers.teacher import Teacher, TeacherContext, TeacherFn, TeacherSession, UnfinishedBatchError
from limbeck.top_k_logits import PartialLogits

Rows = NDArray[np.int64]
Records = Mapping[str, NDArray[np.uint8]]


@final
class CacheSession(TeacherSession):
    """A cache that is open for one stage. The teacher behind it is opened when an output is missing.

    Args:
        teacher: The teacher that computes missing outputs; None to use only what is stored.
        location: The location of the cache.
        request: What the stage needs.
        context: What the stage opened the cached teacher for.
        writing: The writers of the sessions of this cached teacher, by location; one for all sessions of a location.
    """

    def __init__(
        self, teacher: Teacher | None, location: Location, request: CacheRequest, context: TeacherContext,
        writing: dict[str, CacheWriter],
    ) -> None:  # fmt: skip
        self._teacher, self._location, self._request, self._writing = teacher, location, request, writing
        self._context, self._device, self._stack = context, context.device, ExitStack()
        self._teacher_fn: TeacherFn | None = None
        self._opened_writer = False
        self._checked = self._warned = False
        self._layer: OutputLayer | None = None
        self._tables: dict[str, DecodedTable] | None = None
        self._store = CacheReader(location) if find_manifest(location) is not None else None
        if self._store is not None:
            self._check_contents(self._store)

    @property
    def _writer(self) -> CacheWriter | None:
        """The open writer, which the sessions of the branches of a stage (`a & b`) share."""
        return self._writing.get(self._location.name)

    def __enter__(self) -> CacheSession:
        self._stack.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.__exit__(*raised)

    def __call__(self, batch: Batch) -> Outputs:
        """The outputs for a batch.

        Raises:
            LimbeckError: If outputs are missing and cannot be computed, or cannot be written.
            DataError: If the stored outputs are damaged.
        """
        if batch.id is None:
            raise LimbeckError("A cached teacher looks up outputs by example id, and this batch has no ids.")
        if self._store is None:
            return self._compute(batch, None)
        if not self._checked:
            self._check_precision(self._store)
        checks = self._request.checks_inputs
        if batch.view is None and not checks and (cached := self._look_up(self._store, batch.id)) is not None:
            return self._to_outputs(cached)
        rows = self._store.rows(batch.id.cpu().numpy(), view_numbers(batch))
        alone = self._opened_writer and not (self._writer and self._writer.shared)
        if not alone and len(rows) and rows.min() < 0:  # others may have added them meanwhile
            rows = self._refresh().rows(batch.id.cpu().numpy(), view_numbers(batch))
        if checks and (changed := self._changed_inputs(self._store, rows, batch)).any():
            return self._compute_unstored(batch, batch.id.cpu().numpy()[changed])
        return self._compute(batch, rows) if len(rows) and rows.min() < 0 else self._read(self._store, rows, batch)

    def _look_up(self, store: CacheReader, id: Tensor) -> dict[str, Tensor] | None:
        """The outputs for these examples; None unless all of them are decoded in memory."""
        if self._tables is None:
            tables = {address: DecodedTable.of(store, address) for address in self._request.read}
            self._tables = {address: table for address, table in tables.items() if table is not None}
        if len(self._tables) < len(self._request.read):
            return None
        results = {address: table.look_up(id) for address, table in self._tables.items()}
        complete = {address: outputs for address, outputs in results.items() if outputs is not None}
        return complete if len(complete) == len(results) else None

    def _read(self, store: CacheReader, rows: Rows, batch: Batch) -> Outputs:
        counted = _array(stored_positions(batch, self._masks))
        return self._to_outputs({a: store.read(rows, a, counted=counted) for a in self._request.read})

    def _to_outputs(self, decoded: Mapping[str, Any]) -> Outputs:
        moved = {address: tensor.to(self._device) for address, tensor in decoded.items()}
        for value in moved.values():
            if isinstance(value, GroupLikelihoods):
                value.boundary_tokens = self._boundary_tokens
        head = self._request.head
        if head is not None and LOGITS in self._request.requires:
            hidden = HiddenLogits(moved[head.address].float(), self._output_layer(head))
            moved[LOGITS] = hidden if self._context.hidden_logits else hidden.to_dense()
        return Outputs.of({address: moved[address] for address in self._request.requires})

    @cached_property
    def _boundary_tokens(self) -> Tensor | None:
        tokenizer = None if self._context.loader is None else find_examples_tokenizer(self._context.loader)
        return None if tokenizer is None else find_boundary_tokens(TokenSpelling(tokenizer, who="student"))

    def _output_layer(self, head: LastLayer) -> OutputLayer:
        """The layer on the device of the outputs, copied once."""
        if self._layer is None:
            self._layer = head.on(self._device)
        return self._layer

    def _check_contents(self, store: CacheReader) -> None:
        """Check that the cache holds what the run needs, in the same encodings."""
        description, head = store.manifest.about.get("head"), self._request.head
        if self._teacher is None:
            stored_head = None if description is None else load_head(self._location, description)
            self._request = self._request._replace(head=stored_head)
        elif (stored := (description or {}).get("address")) != (own := None if head is None else head.address):
            raise self._mismatch(store, "last layer (through)", stored or "none", own or "none")
        if not self._context.masks <= {*stored_masks(store.manifest)}:
            stored, own = (", ".join(sorted({"mask", *names})) for names in (self._masks, self._context.masks))
            raise self._mismatch(store, "set of positions (masks)", stored, own)
        if not self._request.read <= {*store.columns}:
            available = {*store.columns} | ({LOGITS} if description is not None else set())
            required = ", ".join(sorted(self._request.requires))
            raise self._mismatch(store, "outputs", ", ".join(sorted(available)), required)
        for address in self._request.read if self._teacher is not None else ():
            encoding = store.columns[address].encoding
            requested = self._request.encoding_at(address, encoding.classes)
            if encoding.spec != requested.spec:
                raise self._mismatch(store, f"encoding of {address}", encoding.spec, requested.spec)

    def _check_precision(self, store: CacheReader) -> None:
        """Check the precision, which is known only within the training loop, where autocast is active."""
        precision = store.manifest.origin.precision
        if self._teacher is not None and precision != self._precision():
            raise self._mismatch(store, "precision", precision, self._precision())
        self._checked = True

    def _mismatch(self, store: CacheReader, field: str, stored: Any, requested: Any) -> LimbeckError:
        difference = ManifestDifference(field, stored, requested)
        return find_mismatch(self._location, store.manifest, difference, about=self._request.about)

    def _changed_inputs(self, store: CacheReader, rows: Rows, batch: Batch) -> NDArray[np.bool_]:
        """Which examples have other inputs than when their outputs were stored."""
        before = store.keys.marked()[np.maximum(rows, 0)] if len(store) else np.zeros((len(rows), 2), np.int64)
        return marks_differ(input_marks(batch), before) & (rows >= 0)

    # --- computed outputs -------------------------------------------------------------------------------------------

    def _compute(self, batch: Batch, rows: Rows | None) -> Outputs:
        """Run the teacher, store what is missing, and return the outputs as the cache will return them later."""
        if self._writer is not None and not self._opened_writer:
            self._writer.shared = True
        _, keys = self._find_keys(batch)
        new = np.ones(len(keys.id), bool) if rows is None else rows < 0
        if self._writer is not None and not (new := new & ~self._writer.holds(keys.id, keys.view)).any():
            # All outputs were computed, and some of them are not in a file yet: a new epoch has begun.
            self._writer.seal()
            self._store = CacheReader(self._location) if self._store is None else self._store
            self._refresh()
            return self(batch)
        if rows is not None and (rows >= 0).any() and self._request.head is None:
            return self._complete(batch, rows)
        teacher_fn = self._open_teacher(batch)
        try:
            first = self._writer is None and self._teacher is not None
            with explain_first_batch_error(self._teacher, batch) if first else nullcontext():  # type: ignore[arg-type]
                outputs = predict_padded(teacher_fn, batch, self._request.batch_size)
        except UnfinishedBatchError as error:
            done = error.rows[error.rows < batch.size]
            if len(done):
                every: dict[str, Any] = {**error.outputs, **error.outputs.partial}
                self._store_outputs(batch.rows(done), Outputs.of({a: output[done] for a, output in every.items()}))
            raise
        return self._store_outputs(batch, outputs)

    def _find_keys(self, batch: Batch) -> tuple[Tensor | None, Keys]:
        counted = stored_positions(batch, self._masks)
        keys = batch_keys(batch, counted)
        return counted, keys._replace(marks=input_marks(batch)) if self._request.checks_inputs else keys

    def _complete(self, batch: Batch, rows: Rows) -> Outputs:
        """The outputs for a batch of which some are stored: the teacher is asked for the others alone."""
        there, missing = (torch.from_numpy(np.flatnonzero(which)) for which in (rows >= 0, rows < 0))
        parts = [
            self._read(self._require_store(), rows[there.numpy()], batch.rows(there)),
            self._compute(batch.rows(missing), None),
        ]
        order = torch.cat([there, missing]).argsort().to(self._device)
        return Outputs.of(
            {address: _join([part.raw(address) for part in parts], order) for address in self._request.requires}
        )

    def _store_outputs(self, batch: Batch, outputs: Outputs) -> Outputs:
        """Store what is missing, and return the outputs as the cache will return them later."""
        counted, keys = self._find_keys(batch)
        if batch.mask is not None:  # NaN cannot be stored, and masked positions are never read
            mask = batch.mask.bool()
            finite = {address: zero_where_masked(tensor, mask) for address, tensor in outputs.items()}
            outputs = Outputs.of({**outputs.partial, **finite})
        if self._writer is None:
            self._open_writer(outputs, counted)
        self._store = CacheReader(self._location) if self._store is None else self._store
        columns = self._store.columns
        ids, views = torch.from_numpy(keys.id), torch.from_numpy(keys.view)
        records = {
            address: column.encode(_storable(outputs, address), id=ids, view=views, counted=counted)
            for address, column in columns.items()
        }
        if self._writer is not None:
            new = self._store.rows(keys.id, keys.view) < 0
            self._append(self._writer, keys, records, new & ~self._writer.holds(keys.id, keys.view))
        return self._to_outputs(
            {a: columns[a].decode_examples(records[a], _array(counted)) for a in self._request.read}
        )

    def _compute_unstored(self, batch: Batch, changed: NDArray[np.int64]) -> Outputs:
        """The teacher's outputs for a batch whose inputs changed under the same ids; they are not stored.

        Raises:
            LimbeckError: If there is no teacher.
        """
        message = (
            f"Example {int(changed[0])} has other inputs than when its outputs were stored at {self._location.name}, "
            f"as have {len(changed)} of {batch.size} in this batch: the loader returns other inputs under the same ids"
        )
        if self._teacher is None:
            raise LimbeckError(f"{message}, and there is no teacher. Pass the teacher, or the data of this cache.")
        if not self._warned:
            self._warned = True
            then = (
                "The outputs for such batches are computed and not stored. With such a loader, use the teacher itself."
            )
            warnings.warn(f"{message}. {then}", LimbeckWarning, stacklevel=2)
        outputs = predict_padded(self._open_teacher(batch), batch, self._request.batch_size)
        head, requires = self._request.head, self._request.requires
        if head is not None and LOGITS in requires and LOGITS not in outputs:
            outputs[LOGITS] = head.logits(outputs[head.address].float())
        return Outputs.of({address: _storable(outputs, address).to(self._device) for address in requires})

    def _append(self, writer: CacheWriter, keys: Keys, records: Records, new: NDArray[np.bool_]) -> None:
        """Add new outputs to the cache, each of them once."""
        _, first = np.unique(np.stack([keys.id, keys.view]), axis=1, return_index=True)
        once = np.zeros(len(keys.id), bool)
        once[first] = True
        new = new & once
        if not new.any():
            return
        each = new if keys.positions is None else new.repeat(keys.positions)
        columns = self._require_store().columns
        own = {a: rows[each if columns[a].positions is None else new] for a, rows in records.items()}
        counts = None if keys.positions is None else keys.positions[new]
        marks = None if keys.marks is None else keys.marks[new]
        writer.append(Keys(keys.id[new], keys.view[new], counts, marks), own)

    def _open_teacher(self, batch: Batch) -> TeacherFn:
        """The teacher's function; the first call opens the teacher."""
        if self._teacher is None:
            raise LimbeckError(
                f"The cache at {self._location.name} lacks outputs for some views, and there is no teacher. It "
                f"holds {len(self._require_store())} outputs. Build the rest with limbeck cache build, or pass the "
                "teacher."
            )
        if world_size() > 1:
            raise LimbeckError(
                f"The cache at {self._location.name} lacks outputs, and several processes cannot write to it at once. "
                "Build it first, with limbeck cache build."
            )
        if self._teacher_fn is None:
            if has_parts(self._location):
                message = (
                    f"The cache at {self._location.name} has parts that are not joined, so their outputs are computed "
                    "again. Stop, and join them with limbeck cache build or fill_cache() without a part."
                )
                warnings.warn(message, LimbeckWarning, stacklevel=2)
            addresses, head = query_addresses(self._stored_addresses | {LOGITS}, self._request.head), self._request.head
            # Where the inputs of the output layer are stored, its logits are only checked, on a few positions.
            is_hidden = head is not None and head.is_output and LOGITS not in self._stored_addresses
            context = replace(self._context, requires=addresses, hidden_logits=is_hidden)
            self._teacher_fn = self._stack.enter_context(self._teacher.open(context))
        return self._teacher_fn

    def _open_writer(self, outputs: Outputs, counted: Tensor | None) -> None:
        """Open the cache for writing; the first outputs decide the layout."""
        if self._request.head is not None and LOGITS in outputs:
            self._request.head.check(outputs)
        origin = replace(self._request.origin, precision=self._precision(), outputs=self._layout(outputs, counted))
        about, files, masks = dict(self._request.about), dict[str, bytes](), self._masks
        if masks:
            about["masks"] = list(masks)
        if self._request.head is not None:
            about["head"], files[HEAD_FILE] = describe_head(self._request.head)
        if self._request.keeps_inputs:
            files |= input_files(self._context.loader)
        context = open_writer(self._location, origin, about=about, files=files, shard_bytes=self._request.shard_bytes)
        self._writing[self._location.name] = self._stack.enter_context(context)
        self._stack.callback(self._writing.pop, self._location.name)
        self._opened_writer = True
        self._store, self._tables = CacheReader(self._location), None
        if self._masks != masks:  # another process may have begun it with other ones
            raise self._mismatch(self._store, "set of positions (masks)", ", ".join(self._masks), ", ".join(masks))
        if not {*self._store.columns} <= {*outputs, *outputs.partial}:  # likewise
            there, here = (", ".join(sorted(names)) for names in (self._store.columns, outputs))
            raise self._mismatch(self._store, "outputs", there, here)

    @property
    def _masks(self) -> tuple[str, ...]:
        """The names of the masks at whose positions the cache has outputs, besides ``Batch.mask``."""
        return self._request.masks if self._store is None else stored_masks(self._store.manifest)

    @property
    def _stored_addresses(self) -> frozenset[str]:
        """The addresses of the cache; those that it will have, while there is none."""
        return self._request.stored if self._store is None else frozenset(self._store.columns)

    def _layout(self, outputs: Outputs, counted: Tensor | None) -> dict[str, dict[str, Any]]:
        """The layout of the outputs at each address."""
        if self._store is not None:
            return {address: column.spec for address, column in self._store.columns.items()}
        return {a: self._request.column(a, _storable(outputs, a), counted).spec for a in self._stored_addresses}

    def _precision(self) -> str:
        kind = self._device.type
        narrow = torch.is_autocast_enabled(kind)
        return str(torch.get_autocast_dtype(kind) if narrow else torch.float32).removeprefix("torch.")

    def _refresh(self) -> CacheReader:
        """The cache as it is now."""
        store, self._tables = self._require_store(), None
        store.refresh()
        return store

    def _require_store(self) -> CacheReader:
        if self._store is None:
            raise LimbeckError(f"There is no cache at {self._location.name}.")
        return self._store


def _storable(outputs: Outputs, address: str) -> Tensor | PartialLogits:
    """The outputs at an address: a tensor, or partial logits."""
    return outputs.partial[address] if address in outputs.partial else outputs[address]


def _join(parts: Sequence[Any], order: Tensor) -> Any:
    """The rows of several outputs at one address, in another order."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))[order]
    first: PartialLogits = parts[0]
    return first._like(*(torch.cat(tensors) for tensors in zip(*(part.tensors for part in parts), strict=True)))[order]


def _array(counted: Tensor | None) -> NDArray[np.bool_] | None:
    return None if counted is None else counted.numpy()
