"""`CachedTeacher`: reads stored outputs instead of running the model."""

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
from limbeck.functional.log_partition import COARSE
from limbeck.partial_logits import check_power, unknown_rest
from limbeck.teachers.cache_request import CacheRequest
from limbeck.teachers.cache_session import CacheSession
from limbeck.teachers.conversion import as_teacher
from limbeck.teachers.fingerprints import code_fingerprint
from limbeck.teachers.output_layer import find_last_layer, query_addresses
from limbeck.teachers.teacher import Preprocess, Stream, Teacher, TeacherFn

_OPEN = {"sampled": "power", "top-k": "temperatures"}
"""What in an encoding depends on the temperatures at which it will be read, and is chosen by them where left out."""


@final
class CachedTeacher(Teacher):
    """A teacher that is asked once about each view of each example; its answers are kept on disk, and shared.

    What the store holds is read; what it does not hold is asked, kept, and from then on read. The student sees the
    answer as it comes back from the store, in the first epoch too, so that it does not matter when it was asked.

    A store belongs to one teacher, one set of examples, one way of making views and of reading them, one precision; one
    that was made for others is refused, and the field that differs is named. It does not depend on the order of the
    examples, the student, the method or the batch size (which moves the last bits of an answer alone). Any number of
    students may read it at the same time; one process at a time adds to it.

    Args:
        teacher: Who is asked; None if the store holds every answer that will be needed.
        where: The store's folder, or an address that fsspec opens; it is made if there is none.
        encoding: How logits are kept: a name (``float32``, ``float16``, ``top-k``, ``sampled``, ...; see
            `limbeck.cache.make_encoding`) or a mapping of a name and its parameters, ``{"name": "top-k", "k": 50}``.
        classes: Which dimension of the logits holds the classes.
        through: The name of the teacher's last layer, a ``Linear``: kept are its inputs instead of its outputs, which
            for many classes are far smaller and lose nothing, and the layer's weights, once.
        addresses: What a new store keeps besides what its first stage reads, as float16: the layers that other students
            will take hints from. A run's own stages need none of it: they are looked through before the first begins.
        shard_bytes: How big a file of answers grows.

    Raises:
        LimbeckError: If the teacher changes while a student learns, or draws at random (a teacher in training mode);
            if the encoding is unknown; when a run is set up, if the store was made for something else, or the source
            has no ids.
        DataError: If the store is damaged.

    Example:
        >>> import tempfile
        >>> from limbeck.data import ArrayDataset, ShuffledLoader
        >>> loader = ShuffledLoader(ArrayDataset(torch.randn(6, 2)), batch_size=3)
        >>> teacher, preprocess = CachedTeacher(nn.Linear(2, 4), tempfile.mkdtemp()), lambda batch: batch.inputs
        >>> teacher.attach_loader(loader, preprocess)
        >>> with teacher.prepare(frozenset({"logits"}), device=torch.device("cpu"), preprocess=preprocess) as answer:
        ...     answer(loader.peek())["logits"].shape
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
            why = "it changes while the student learns" if inner.changes else "it is in training mode"
            raise LimbeckError(
                f"The answers of this {type(inner).__name__} cannot be kept, because {why}: the same question has "
                'another answer each time. Ask it live, or in mode="eval".'
            )
        self.where = os.fspath(where)
        self.encoding = _as_given(encoding)
        self._temperatures: frozenset[float] = frozenset()
        self.classes = classes
        self.shard_bytes = shard_bytes
        self.through = through
        self.inner = inner
        self._addresses = frozenset(addresses)
        self._expected: tuple[Stream, Preprocess, _Known | None] | None = None

    @property
    def names(self) -> frozenset[str]:
        """Those of the teacher."""
        return frozenset() if self.inner is None else self.inner.names

    def bind(self, models: Mapping[str, nn.Module]) -> None:
        """As the teacher does."""
        if self.inner is not None:
            self.inner.bind(models)

    def attach_loader(self, loader: Stream, preprocess: Preprocess) -> None:
        """What the answers will belong to.

        Raises:
            LimbeckError: If the store was made for something else, or the source has no ids.
        """
        if not loader.has_ids:
            raise LimbeckError(
                f"A {type(loader).__name__} gives its examples no ids, by which answers are found again: give arrays, "
                "examples, or Shuffled(examples, batch_size=...)."
            )
        # A model of the run may not exist yet.
        known = None if self.names else self._checked(Location(self.where), loader, preprocess)
        self._expected = loader, preprocess, known

    def serve(self, temperatures: frozenset[float]) -> None:
        """What a new store of sampled classes is drawn for, unless its ``power`` was given."""
        self._temperatures |= temperatures

    def prepare(
        self, requires: frozenset[str], *, device: torch.device, preprocess: Preprocess
    ) -> AbstractContextManager[TeacherFn]:
        """The store must hold these addresses, or the teacher must be able to give them."""
        if self._expected is None:
            raise LimbeckError(
                f"The answers in {self.where} belong to the examples of one source, and nobody said where these "
                "batches come from: call teacher.attach_loader(source, reads) first; or ask the teacher itself, live."
            )
        (loader, asked, known), self._expected = self._expected, None
        self._addresses |= requires  # a run prepares all its stages before it asks for the first
        place, head = Location(self.where), None
        origin, described = self._checked(place, loader, asked) if known is None else known
        if self.inner is not None:
            head = None if self.through is None else find_last_layer(self.inner, self.through)
            self.inner.attach_loader(loader, asked)
            self.inner.prepare(
                query_addresses(requires, head), device=device, preprocess=preprocess
            )  # raises what it cannot
        question = CacheRequest(
            requires, self._addresses, origin, self._encoding(place), self.classes, head,
            getattr(loader, "batch_size", 1),
            _about(loader, described), self.shard_bytes,
            checks_inputs=not getattr(loader, "fixed", False),
        )  # fmt: skip
        return CacheSession(self.inner, place, question, device=device, preprocess=preprocess)

    @property
    def fingerprint(self) -> str:
        """The teacher's, and how its answers are kept."""
        who = self._stored().teacher if self.inner is None else self.inner.fingerprint
        kept = f"{json.dumps(self.encoding, sort_keys=True)} {self.through}"
        return hashlib.sha256(f"cached {who} {kept}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Whose answers, how they are kept, and where."""
        who = None if self.inner is None else self.inner.describe()
        return {"teacher": "CachedTeacher", "of": who, "encoding": self.encoding, "through": self.through}

    def _checked(self, place: Location, loader: Stream, preprocess: Preprocess) -> _Known:
        """What the answers belong to, once the store is known to be of it, as far as can be seen before it is asked."""
        manifest = find_manifest(place)
        if manifest is None and self.inner is None:
            raise LimbeckError(f"There is no store of answers at {place.name}, and no teacher to ask.")
        stored = None if manifest is None else manifest.origin
        described = None if self.inner is None else self.inner.describe()
        data, views = loader_fingerprints(loader)
        wanted = TeacherProvenance(
            teacher=self.inner.fingerprint if self.inner is not None else stored.teacher,  # type: ignore[union-attr]
            data=data,
            views=views,
            preprocess=_reading(preprocess, described) if self.inner is not None else stored.preprocess,  # type: ignore[union-attr]
            precision="" if stored is None else stored.precision,
        )
        if manifest is not None and (found := manifest.origin.difference(wanted)) is not None:
            raise find_mismatch(place, manifest, found, about=_about(loader, described))
        return _Known(wanted, described)

    def _encoding(self, place: Location) -> dict[str, Any]:
        """How logits are kept, whole, for the losses at hand; what was left open is as in the store, if there is one.

        Sampled classes are drawn with a power for their temperature, the top k keep the rest at it.

        Raises:
            LimbeckError: If what the store has does not serve a temperature of these losses.
        """
        name = self.encoding["name"]
        if name not in _OPEN:
            return self.encoding
        manifest = find_manifest(place)
        answers = {} if manifest is None else manifest.origin.answers
        kept = [spec["encoding"] for spec in answers.values() if spec["encoding"]["name"] == name]
        if name == "top-k":
            return _with_rest(self.encoding, kept, self._temperatures)
        hottest = max(self._temperatures, default=1.0)
        found: dict[str, Any] = {"power": kept[0]["power"] if kept else min(1 / hottest, 2.0), **self.encoding}
        if self._temperatures:
            check_power(found["power"], hottest)
        return validate_encoding(found)

    def _stored(self) -> TeacherProvenance:
        manifest = find_manifest(Location(self.where))
        if manifest is None:
            raise LimbeckError(f"There is no store of answers at {self.where}, and no teacher to ask.")
        return manifest.origin


class _Known(NamedTuple):
    """What answers will belong to, and the teacher's description: a big network is hashed for it once."""

    origin: TeacherProvenance
    described: dict[str, Any] | None


def _as_given(encoding: str | Mapping[str, Any]) -> dict[str, Any]:
    """How logits are kept, checked; what depends on the losses' temperature stays open unless it was given."""
    whole = validate_encoding(encoding)
    left = _OPEN.get(whole["name"])
    if left is not None and not (isinstance(encoding, Mapping) and left in encoding):
        whole.pop(left, None)
    return whole


def _with_rest(
    given: Mapping[str, Any], kept: Sequence[Mapping[str, Any]], temperatures: frozenset[float]
) -> dict[str, Any]:
    """How the top k are kept, with the rest at these temperatures."""
    if kept and "temperatures" not in given and "temperatures" in kept[0]:
        given = {**given, "temperatures": kept[0]["temperatures"]}
    elif not kept and "temperatures" not in given and given["bits"] != 32:
        given = {**given, "temperatures": sorted(temperatures)}
    whole = validate_encoding(given)
    if whole["bits"] != 32:  # there any temperature from 0.5 on is served
        grid = (*COARSE, *(1 / one for one in whole.get("temperatures", ())))
        for temperature in sorted(temperatures):
            if not any(math.isclose(beta * temperature, 1.0, rel_tol=1e-9) for beta in grid):
                raise unknown_rest(temperature, grid)
    return whole


def _reading(preprocess: Preprocess, described: Mapping[str, Any] | None) -> str:
    return json.dumps([code_fingerprint(preprocess), *_reads_in(described)])


def _about(loader: Stream, described: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "examples": loader.examples_per_epoch,
        "batch_size": getattr(loader, "batch_size", None),
        "views": _views_in(loader),
        "teacher": described,
        "versions": {name: importlib.metadata.version(name) for name in ("limbeck", "torch")},
    }


def _views_in(loader: Stream) -> str | None:
    """What makes views of the examples, in words; None where nothing does, or it has none."""
    made = [getattr(getattr(loader, name, None), "fingerprint", None) for name in ("augment", "mix")]
    return " > ".join(str(one) for one in made if one is not None) or None


def loader_fingerprints(loader: Stream) -> tuple[str, str | None]:
    """The fingerprints of a source's examples and of what makes views of them; None where nothing does."""
    examples = getattr(loader, "examples", None)
    if examples is None or examples.fingerprint == loader.fingerprint:
        return loader.fingerprint, None
    return examples.fingerprint, loader.fingerprint


def _reads_in(described: Any) -> list[Any]:
    """How the networks that a teacher is made of read a batch, those that have a way of their own."""
    if isinstance(described, Mapping):
        own = [described["preprocess"]] if described.get("preprocess") is not None else []
        return own + [found for key, part in described.items() if key != "preprocess" for found in _reads_in(part)]
    if isinstance(described, (list, tuple)):
        return [found for part in described for found in _reads_in(part)]
    return []
