"""`CachedTeacher`: reads stored outputs instead of running the model again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, final

import torch
from torch import nn

from limbeck.cache import SHARD_BYTES, Location, TeacherProvenance, find_manifest, find_mismatch, validate_encoding
from limbeck.errors import LimbeckError
from limbeck.functional.sparse import COARSE
from limbeck.partial_logits import check_power, unknown_rest
from limbeck.teachers.cache_request import CacheRequest
from limbeck.teachers.cache_session import CacheSession
from limbeck.teachers.conversion import as_teacher
from limbeck.teachers.fingerprints import code_fingerprint
from limbeck.teachers.output_layer import find_last_layer, query_addresses
from limbeck.teachers.teacher import Preprocess, Stream, Teacher, TeacherFn

_OPEN = {"sampled": "power", "top-k": "temperatures"}
"""The parameter of an encoding that is chosen by the losses' temperatures where it is left out."""


@final
class CachedTeacher(Teacher):
    """A teacher whose outputs are computed once for each view of each example and then read from disk.

    Missing outputs are computed and stored. The student gets each output as it comes back from the cache, in the first
    epoch too, so the time at which an output was computed does not matter.

    A cache belongs to one teacher, one data set, one augmentation, one preprocessing and one precision. One that was
    made for others is refused with an error that names the field that differs. The order of the examples, the student,
    the method and the batch size do not matter (the batch size changes the last bits of an output only). Any number of
    processes may read a cache at the same time; one process at a time may write to it.

    Args:
        teacher: The teacher that computes missing outputs; None if the cache already has every output.
        where: The folder of the cache, or an address that fsspec opens. It is made if it does not exist.
        encoding: How logits are stored: a name (``float32``, ``float16``, ``top-k``, ``sampled``, ...; see
            `limbeck.cache.make_encoding`) or a mapping with a name and its parameters, ``{"name": "top-k", "k": 50}``.
        classes: The dimension of the logits that holds the classes.
        through: The name of the teacher's last layer, a ``Linear``. Its inputs and, once, its weights are stored in
            place of its outputs. With many classes this is far smaller, and nothing is lost.
        addresses: Addresses that a new cache stores, as float16, besides those that its first stage reads: the layers
            for hints to later students. The stages of one run do not need this, as all of them are prepared first.
        shard_bytes: The size of a shard in bytes.

    Raises:
        LimbeckError: If the teacher changes while a student learns, or is random (a teacher in training mode), or the
            encoding is unknown; when a run is set up, if the cache was made for something else, or the loader has no
            ids.
        DataError: If the cache is damaged.

    Example:
        >>> import tempfile
        >>> from limbeck.data import ArrayDataset, ShuffledLoader
        >>> loader = ShuffledLoader(ArrayDataset(torch.randn(6, 2)), batch_size=3)
        >>> teacher, preprocess = CachedTeacher(nn.Linear(2, 4), tempfile.mkdtemp()), lambda batch: batch.inputs
        >>> teacher.attach_loader(loader, preprocess)
        >>> with teacher.prepare(frozenset({"logits"}), device=torch.device("cpu"), preprocess=preprocess) as compute:
        ...     compute(loader.peek())["logits"].shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        teacher: Any,
        where: str | os.PathLike[str],
        *,
        encoding: str | Mapping[str, Any] = "float16",
        classes: int = -1,
        through: str | None = None,
        addresses: Iterable[str] = (),
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        inner = None if teacher is None else as_teacher(teacher)
        if inner is not None and not inner.is_deterministic:
            why = "it changes while the student learns" if inner.changes else "it is random or depends on the batch"
            raise LimbeckError(
                f"The outputs of this {type(inner).__name__} cannot be cached, because {why}: the same inputs give "
                'other outputs each time. Use the teacher without a cache, or with mode="eval".'
            )
        self.where = os.fspath(where)
        self.encoding = _without_open_parameter(encoding)
        self._temperatures: frozenset[float] = frozenset()
        self.classes = classes
        self.shard_bytes = shard_bytes
        self.through = through
        self.inner = inner
        self._addresses = frozenset(addresses)
        self._expected: tuple[Stream, Preprocess, _Provenance | None] | None = None

    @property
    def names(self) -> frozenset[str]:
        """The names of the teacher's models."""
        return frozenset() if self.inner is None else self.inner.names

    def bind(self, models: Mapping[str, nn.Module]) -> None:
        """Bind the teacher."""
        if self.inner is not None:
            self.inner.bind(models)

    def attach_loader(self, loader: Stream, preprocess: Preprocess) -> None:
        """Set the loader that the outputs belong to.

        Raises:
            LimbeckError: If the cache was made for something else, or the loader has no ids.
        """
        if not loader.has_ids:
            raise LimbeckError(
                f"A {type(loader).__name__} has no example ids, by which a cache finds outputs. Pass arrays, a data "
                "set, or ShuffledLoader(dataset, batch_size=...)."
            )
        # A model of the run may not exist yet.
        provenance = None if self.names else self._check_provenance(Location(self.where), loader, preprocess)
        self._expected = loader, preprocess, provenance

    def serve(self, temperatures: frozenset[float]) -> None:
        """Add temperatures for which a new cache draws classes or stores the rest, unless the encoding gives them."""
        self._temperatures |= temperatures

    def prepare(
        self, requires: frozenset[str], *, device: torch.device, preprocess: Preprocess
    ) -> AbstractContextManager[TeacherFn]:
        """Check that the cache has these addresses or the teacher can compute them."""
        if self._expected is None:
            raise LimbeckError(
                f"The outputs in {self.where} belong to the examples of one loader, and no loader was attached. Call "
                "teacher.attach_loader(loader, preprocess) first, or use the teacher without a cache."
            )
        (loader, stage_preprocess, provenance), self._expected = self._expected, None
        self._addresses |= requires  # a run prepares all its stages before the first output is computed
        location, head = Location(self.where), None
        if provenance is None:
            provenance = self._check_provenance(location, loader, stage_preprocess)
        origin, description = provenance
        if self.inner is not None:
            head = None if self.through is None else find_last_layer(self.inner, self.through)
            self.inner.attach_loader(loader, stage_preprocess)
            # Raises now if the teacher lacks an address.
            self.inner.prepare(query_addresses(requires, head), device=device, preprocess=preprocess)
        request = CacheRequest(
            requires, self._addresses, origin, self._full_encoding(location), self.classes, head,
            getattr(loader, "batch_size", 1),  # a loader of one's own may have batches of any size
            _about(loader, description), self.shard_bytes,
            checks_inputs=not getattr(loader, "fixed", False),
        )  # fmt: skip
        return CacheSession(self.inner, location, request, device=device, preprocess=preprocess)

    @property
    def fingerprint(self) -> str:
        """The hash of the teacher's fingerprint, the encoding and `through`."""
        who = self._stored_provenance().teacher if self.inner is None else self.inner.fingerprint
        storage = f"{json.dumps(self.encoding, sort_keys=True)} {self.through}"
        return hashlib.sha256(f"cached {who} {storage}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """The teacher and the encoding."""
        who = None if self.inner is None else self.inner.describe()
        return {"teacher": "CachedTeacher", "of": who, "encoding": self.encoding, "through": self.through}

    def _check_provenance(self, location: Location, loader: Stream, preprocess: Preprocess) -> _Provenance:
        """What the outputs belong to; raises if the cache has something else."""
        manifest = find_manifest(location)
        if manifest is None and self.inner is None:
            raise LimbeckError(f"There is no cache at {location.name}, and no teacher.")
        stored = None if manifest is None else manifest.origin
        description = None if self.inner is None else self.inner.describe()
        data, views = loader_fingerprints(loader)
        expected = TeacherProvenance(
            teacher=self.inner.fingerprint if self.inner is not None else stored.teacher,  # type: ignore[union-attr]
            data=data,
            views=views,
            preprocess=_preprocessing(preprocess, description) if self.inner is not None else stored.preprocess,  # type: ignore[union-attr]
            precision="" if stored is None else stored.precision,
        )
        if manifest is not None and (difference := manifest.origin.difference(expected)) is not None:
            raise find_mismatch(location, manifest, difference, about=_about(loader, description))
        return _Provenance(expected, description)

    def _full_encoding(self, location: Location) -> dict[str, Any]:
        """The encoding with all parameters; open ones are those of the cache, or chosen for the losses at hand.

        Sampled classes are drawn with a power for the highest temperature; top-k stores the rest at each temperature.

        Raises:
            LimbeckError: If the cache does not serve a temperature of these losses.
        """
        name = self.encoding["name"]
        if name not in _OPEN:
            return self.encoding
        manifest = find_manifest(location)
        answers = {} if manifest is None else manifest.origin.answers
        stored = [spec["encoding"] for spec in answers.values() if spec["encoding"]["name"] == name]
        if name == "top-k":
            return _with_rest(self.encoding, stored, self._temperatures)
        hottest = max(self._temperatures, default=1.0)
        full: dict[str, Any] = {"power": stored[0]["power"] if stored else min(1 / hottest, 2.0), **self.encoding}
        if self._temperatures:
            check_power(full["power"], hottest)
        return validate_encoding(full)

    def _stored_provenance(self) -> TeacherProvenance:
        manifest = find_manifest(Location(self.where))
        if manifest is None:
            raise LimbeckError(f"There is no cache at {self.where}, and no teacher.")
        return manifest.origin


class _Provenance(NamedTuple):
    """What outputs belong to, and the teacher's description, kept together so that a big network is hashed once."""

    origin: TeacherProvenance
    description: dict[str, Any] | None


def _without_open_parameter(encoding: str | Mapping[str, Any]) -> dict[str, Any]:
    """A validated encoding; the parameter that depends on the temperatures is left out unless the user gave it."""
    full = validate_encoding(encoding)
    parameter = _OPEN.get(full["name"])
    if parameter is not None and not (isinstance(encoding, Mapping) and parameter in encoding):
        full.pop(parameter, None)
    return full


def _with_rest(
    encoding: Mapping[str, Any], stored: Sequence[Mapping[str, Any]], temperatures: frozenset[float]
) -> dict[str, Any]:
    """A top-k encoding that stores the rest at these temperatures."""
    if stored and "temperatures" not in encoding and "temperatures" in stored[0]:
        encoding = {**encoding, "temperatures": stored[0]["temperatures"]}
    elif not stored and "temperatures" not in encoding and encoding["bits"] != 32:
        encoding = {**encoding, "temperatures": sorted(temperatures)}
    full = validate_encoding(encoding)
    if full["bits"] != 32:  # with 32 bits, any temperature from 0.5 on is served
        grid = (*COARSE, *(1 / value for value in full.get("temperatures", ())))
        for temperature in sorted(temperatures):
            if not any(math.isclose(beta * temperature, 1.0, rel_tol=1e-9) for beta in grid):
                raise unknown_rest(temperature, grid)
    return full


def _preprocessing(preprocess: Preprocess, description: Mapping[str, Any] | None) -> str:
    return json.dumps([code_fingerprint(preprocess), *_own_preprocessing(description)])


def _about(loader: Stream, description: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "examples": loader.examples_per_epoch,
        # Optional attributes: only the loaders of limbeck.data have them.
        "batch_size": getattr(loader, "batch_size", None),
        "views": _describe_views(loader),
        "teacher": description,
        "versions": {name: importlib.metadata.version(name) for name in ("limbeck", "torch")},
    }


def _describe_views(loader: Stream) -> str | None:
    """The fingerprints of the loader's transforms; None where it has none."""
    names = [getattr(getattr(loader, name, None), "fingerprint", None) for name in ("augment", "mix")]
    return " > ".join(str(name) for name in names if name is not None) or None


def loader_fingerprints(loader: Stream) -> tuple[str, str | None]:
    """The fingerprints of a loader's examples and of its transforms; None for the second where there are none."""
    examples = getattr(loader, "examples", None)
    if examples is None or examples.fingerprint == loader.fingerprint:
        return loader.fingerprint, None
    return examples.fingerprint, loader.fingerprint


def _own_preprocessing(description: Any) -> list[Any]:
    """The preprocessing of each network in a teacher that has its own."""
    if isinstance(description, Mapping):
        own = [description["preprocess"]] if description.get("preprocess") is not None else []
        parts = [part for key, part in description.items() if key != "preprocess"]
        return own + [value for part in parts for value in _own_preprocessing(part)]
    if isinstance(description, (list, tuple)):
        return [value for part in description for value in _own_preprocessing(part)]
    return []
