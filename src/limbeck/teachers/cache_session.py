"""One training session over a cache: batches answered from disk, missing outputs computed and stored."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.batch import LOGITS, Batch, Outputs, zero_where_masked
from limbeck.cache import (
    Column,
    DecodedTable,
    Keys,
    Location,
    ManifestDifference,
    Store,
    Writer,
    find_manifest,
    find_mismatch,
    writing,
)
from limbeck.errors import LimbeckError, LimbeckWarning
from limbeck.teachers.cache_request import (
    CacheRequest,
    batch_keys,
    explain_first_batch_error,
    predict_padded,
    stored_positions,
    view_numbers,
)
from limbeck.teachers.fingerprints import input_marks, marks_differ
from limbeck.teachers.output_layer import FILE, describe_head, load_head, query_addresses
from limbeck.teachers.teacher import Preprocess, Teacher, TeacherFn

Rows = NDArray[np.int64]
Records = Mapping[str, NDArray[np.uint8]]


class CacheSession(AbstractContextManager["CacheSession"]):
    """A store, open for a stage, and behind it the teacher, which is opened when it is first needed.

    Args:
        teacher: Who is asked what the store does not hold; None if nobody can be.
        place: Where the store is, or will be.
        question: What is wanted of it.
        device: Where the answers are wanted.
        preprocess: The stage's way from a batch to inputs.
    """

    def __init__(
        self,
        teacher: Teacher | None,
        place: Location,
        question: CacheRequest,
        *,
        device: torch.device,
        preprocess: Preprocess,
    ) -> None:
        self._teacher, self._place, self._question = teacher, place, question
        self._device, self._preprocess = device, preprocess
        self._stack = ExitStack()
        self._live: TeacherFn | None = None
        self._writer: Writer | None = None
        self._checked = self._warned = False
        self._tables: dict[str, DecodedTable] | None = None
        self._store = Store(place) if find_manifest(place) is not None else None
        if self._store is not None:
            self._look(self._store)

    def __enter__(self) -> CacheSession:
        self._stack.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.__exit__(*raised)

    def __call__(self, batch: Batch) -> Outputs:
        """The answers to a batch.

        Raises:
            LimbeckError: If they are not kept and cannot be asked; if they cannot be written down.
            DataError: If those that are kept are damaged.
        """
        if batch.id is None:
            raise LimbeckError("A cached teacher finds its answers by the ids of examples, and the batch has none.")
        if self._store is None:
            return self._asked(batch, None)
        if not self._checked:
            self._check(self._store)
        looks = self._question.looks
        if batch.view is None and not looks and (known := self._known(self._store, batch.id)) is not None:
            return self._shown(known)
        rows = self._store.rows(batch.id.cpu().numpy(), view_numbers(batch))
        if self._writer is None and len(rows) and rows.min() < 0:  # another process may have added them meanwhile
            rows = self._again().rows(batch.id.cpu().numpy(), view_numbers(batch))
        if looks and (others := self._others(self._store, rows, batch)).any():
            return self._asked_alone(batch, int(others.sum()))
        return self._asked(batch, rows) if len(rows) and rows.min() < 0 else self._read(self._store, rows, batch)

    # --- what is kept -----------------------------------------------------------------------------------------------

    def _known(self, store: Store, id: Tensor) -> dict[str, Tensor] | None:
        """The answers to these examples, if all lie decoded in memory."""
        if self._tables is None:
            found = {address: DecodedTable.of(store, address) for address in self._question.read}
            self._tables = {address: table for address, table in found.items() if table is not None}
        if len(self._tables) < len(self._question.read):
            return None
        known = {address: table.look(id) for address, table in self._tables.items()}
        whole = {address: answers for address, answers in known.items() if answers is not None}
        return whole if len(whole) == len(known) else None

    def _read(self, store: Store, rows: Rows, batch: Batch) -> Outputs:
        counted = _array(stored_positions(batch))
        return self._shown({address: store.read(rows, address, counted=counted) for address in self._question.read})

    def _shown(self, found: Mapping[str, Any]) -> Outputs:
        moved = {address: answer.to(self._device) for address, answer in found.items()}
        head = self._question.head
        if head is not None and LOGITS in self._question.requires:
            moved[LOGITS] = head.logits(moved[head.address].float())
        return Outputs.of({address: moved[address] for address in self._question.requires})

    def _look(self, store: Store) -> None:
        """Whether the store holds what the run asks for, as it does."""
        told, head = store.manifest.about.get("head"), self._question.head
        if self._teacher is None:
            self._question = self._question._replace(head=None if told is None else load_head(self._place, told))
        elif (found := (told or {}).get("address")) != (wanted := None if head is None else head.address):
            raise self._refused(store, "last layer (through)", found or "none", wanted or "none")
        if not self._question.read <= {*store.columns}:
            held = {*store.columns} | ({LOGITS} if told is not None else set())
            raise self._refused(store, "answers", ", ".join(sorted(held)), ", ".join(sorted(self._question.requires)))
        for address in self._question.read if self._teacher is not None else ():
            stored = store.columns[address].encoding
            wanted_here = self._question.encoding_at(address, stored.classes)
            if stored.spec != wanted_here.spec:
                raise self._refused(store, f"encoding of {address}", stored.spec, wanted_here.spec)

    def _check(self, store: Store) -> None:
        """Whether the store is what the run asks for, as far as only its first answer shows."""
        precision = store.manifest.origin.precision
        if self._teacher is not None and precision != self._precision():
            raise self._refused(store, "precision", precision, self._precision())
        self._checked = True

    def _refused(self, store: Store, field: str, stored: Any, wanted: Any) -> LimbeckError:
        return find_mismatch(
            self._place, store.manifest, ManifestDifference(field, stored, wanted), about=self._question.about
        )

    def _others(self, store: Store, rows: Rows, batch: Batch) -> NDArray[np.bool_]:
        """Which examples have other inputs than when they were answered."""
        kept = store.keys.marked()[np.maximum(rows, 0)] if len(store) else np.zeros((len(rows), 2), np.int64)
        return marks_differ(input_marks(batch), kept) & (rows >= 0)

    # --- what is asked ----------------------------------------------------------------------------------------------

    def _asked(self, batch: Batch, rows: Rows | None) -> Outputs:
        """Ask the teacher; what was not kept is kept now, and comes back as it will from the store."""
        keys, counted = batch_keys(batch), stored_positions(batch)
        if self._question.looks:
            keys = keys._replace(marks=input_marks(batch))
        new = np.ones(len(keys.id), bool) if rows is None else rows < 0
        if self._writer is not None and not (new := new & ~self._writer.holds(keys.id, keys.view)).any():
            # Everything was answered, and some of it is in no file yet: an epoch has come round.
            self._writer.seal()
            self._again()
            return self(batch)
        answer = self._opened(batch)
        with (
            explain_first_batch_error(self._teacher, batch) if self._writer is None and self._teacher else nullcontext()
        ):
            shown = predict_padded(answer, batch, self._question.batch_size)
        if batch.mask is not None:  # NaN cannot be kept, and what nobody reads need not be refused
            shown = Outputs({address: zero_where_masked(one, batch.mask.bool()) for address, one in shown.items()})
        if self._writer is None:
            self._begin(shown, counted)
            new = new & (self._begun().rows(keys.id, keys.view) < 0)  # of two that began at once, one was first
        columns = self._begun().columns
        ids, views = torch.from_numpy(keys.id), torch.from_numpy(keys.view)
        records = {
            address: column.encode(shown[address], id=ids, view=views, counted=counted)
            for address, column in columns.items()
        }
        self._append(keys, records, columns, new)
        return self._shown({a: columns[a].spread(records[a], _array(counted)) for a in self._question.read})

    def _asked_alone(self, batch: Batch, others: int) -> Outputs:
        """The teacher's answer, which is not kept: under the same ids stand other inputs than were answered.

        Raises:
            LimbeckError: If there is no teacher.
        """
        said = (
            f"{others} of {batch.size} examples have other inputs than when their answers were kept at "
            f"{self._place.name}: the source hands out other ones under the same ids"
        )
        if self._teacher is None:
            raise LimbeckError(f"{said}, and there is no teacher to ask. Give the teacher, or the data of the store.")
        if not self._warned:
            self._warned = True
            where = "Such batches are asked live, and nothing of them is kept."
            warnings.warn(
                f"{said}. {where} For a source like this take the teacher itself.", LimbeckWarning, stacklevel=2
            )
        shown = predict_padded(self._opened(batch), batch, self._question.batch_size)
        head, requires = self._question.head, self._question.requires
        found = dict(shown)
        if head is not None and LOGITS in requires and LOGITS not in found:
            found[LOGITS] = head.logits(found[head.address].float())
        return Outputs({address: found[address].to(self._device) for address in requires})

    def _append(self, keys: Keys, records: Records, columns: Mapping[str, Column], new: NDArray[np.bool_]) -> None:
        """Add what is new to the store, each answer once."""
        _, first = np.unique(np.stack([keys.id, keys.view]), axis=1, return_index=True)
        once = np.zeros(len(keys.id), bool)
        once[first] = True
        new = new & once
        if not new.any():
            return
        each = new if keys.positions is None else new.repeat(keys.positions)
        own = {a: rows[each if columns[a].positions is None else new] for a, rows in records.items()}
        counts = None if keys.positions is None else keys.positions[new]
        marks = None if keys.marks is None else keys.marks[new]
        self._writing().append(Keys(keys.id[new], keys.view[new], counts, marks), own)

    def _opened(self, batch: Batch) -> TeacherFn:
        """The teacher, opened the first time."""
        if self._teacher is None:
            raise LimbeckError(
                f"The store at {self._place.name} lacks answers to some of these views, and there is no teacher to "
                f"ask: it holds {len(self._begun())} answers. Build the rest with limbeck cache build, or give the "
                "teacher."
            )
        if _several_processes():
            raise LimbeckError(
                f"The store at {self._place.name} lacks answers, and several processes cannot add to it at once: build "
                "it first, with limbeck cache build."
            )
        if self._live is None:
            wanted = query_addresses(self._kept | {LOGITS}, self._question.head)
            self._live = self._stack.enter_context(
                self._teacher.prepare(wanted, device=self._device, preprocess=self._preprocess)
            )
        return self._live

    def _begin(self, shown: Outputs, counted: Tensor | None) -> None:
        """Open the store for writing; the first answer says how answers are laid out."""
        if self._question.head is not None:
            self._question.head.check(shown)
        origin = replace(self._question.origin, precision=self._precision(), answers=self._laid_out(shown, counted))
        about, files = dict(self._question.about), dict[str, bytes]()
        if self._question.head is not None:
            about["head"], files[FILE] = describe_head(self._question.head)
        opened = writing(self._place, origin, about=about, files=files, shard_bytes=self._question.shard_bytes)
        self._writer = self._stack.enter_context(opened)
        self._store, self._tables = Store(self._place), None
        if not {*self._store.columns} <= {*shown}:  # of two that began at once, the other keeps more
            raise self._refused(
                self._store, "answers", ", ".join(sorted(self._store.columns)), ", ".join(sorted(shown))
            )

    @property
    def _kept(self) -> frozenset[str]:
        """The addresses of the store: all that it has, once it is there."""
        return self._question.kept if self._store is None else frozenset(self._store.columns)

    def _laid_out(self, shown: Outputs, counted: Tensor | None) -> dict[str, dict[str, Any]]:
        """How the answers at each address are kept."""
        if self._store is not None:
            return {address: column.spec for address, column in self._store.columns.items()}
        return {address: self._question.column(address, shown[address], counted).spec for address in self._kept}

    def _precision(self) -> str:
        kind = self._device.type
        narrow = torch.is_autocast_enabled(kind)
        return str(torch.get_autocast_dtype(kind) if narrow else torch.float32).removeprefix("torch.")

    def _again(self) -> Store:
        """The store as it is now."""
        store, self._tables = self._begun(), None
        store.refresh()
        return store

    def _begun(self) -> Store:
        if self._store is None:
            raise LimbeckError(f"There is no store of answers at {self._place.name}.")
        return self._store

    def _writing(self) -> Writer:
        if self._writer is None:
            raise LimbeckError(f"The store at {self._place.name} is not open for writing.")
        return self._writer


def _array(counted: Tensor | None) -> NDArray[np.bool_] | None:
    return None if counted is None else counted.numpy()


def _several_processes() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
