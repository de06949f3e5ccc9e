"""`CachedTeacher`: reads stored outputs instead of running the model again."""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, final

from limbeck.batch import Outputs
from limbeck.cache import (
    SHARD_BYTES,
    CacheWriter,
    Location,
    TeacherProvenance,
    encoding_type,
    find_manifest,
    find_mismatch,
    validate_encoding,
)
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional.sparse import COARSE
from limbeck.teachers.cache_request import CacheRequest, find_last_layer, query_addresses
from limbeck.teachers.cache_session import CacheSession
from limbeck.teachers.cached_inputs import check_has_inputs, check_tokenizer_fits, describe_tokenizer
from limbeck.teachers.fingerprints import code_fingerprint
from limbeck.teachers.precomputed import check_stored_outputs_fit
from limbeck.teachers.teacher import (
    FLOAT16,
    FunctionSession,
    Preprocess,
    Stream,
    Teacher,
    TeacherCapabilities,
    TeacherContext,
    TeacherSession,
)
from limbeck.teachers.wrapper import TeacherWrapper
from limbeck.top_k_logits import check_power, unknown_rest

_OPEN = {"sampled": "power", "top-k": "temperatures"}
"""The parameter of an encoding that is chosen by the losses' temperatures where it is left out."""


@final
class CachedTeacher(TeacherWrapper):
    """A teacher whose outputs are computed once for each view of each example and then read from disk.

    Missing outputs are computed and stored. The student gets each output as it comes back from the cache, in the first
    epoch too, so the time at which an output was computed does not matter.

    A cache belongs to one teacher, one data set, one augmentation, one preprocessing and one precision. One that was
    made for others is refused with an error that names the field that differs. The order of the examples, the student,
    the method and the batch size do not matter (the batch size changes the last bits of an output only). Any number of
    processes may read a cache at the same time; one process at a time may write to it.

    Outputs belong to the inputs for which they were computed. If a loader may return other inputs under the same ids
    (`Loader.fixed` is False), a checksum of the inputs is stored too: for an example with other inputs, the teacher is
    run again, with a warning that names it, and without a teacher this is an error. A loader whose batches depend on
    a model that learns is refused.

    Args:
        teacher: The teacher that computes missing outputs; None if the cache already has every output.
        where: The folder of the cache, or an address that fsspec opens. It is made if it does not exist.
        encoding: How logits are stored: a name (``float32``, ``float16``, ``top-k``, ``sampled``, ...; see
            `limbeck.cache.make_encoding`) or a mapping with a name and its parameters, ``{"name": "top-k", "k": 50}``.
            By default the teacher's own, ``listed`` for a `ServedTeacher`, or ``float16``.
        classes: The dimension of the logits that holds the classes.
        through: The name of the teacher's last layer, a ``Linear``. Its inputs and, once, its weights are stored in
            place of its outputs. With many classes this is far smaller, and nothing is lost.
        addresses: Addresses that a new cache stores, as float16, besides those that its first stage reads: the layers
            for hints to later students. The stages of one run do not need this, as all of them are opened first.
        temperatures: Temperatures of losses for which a new cache draws classes or stores the rest, besides those of
            its first stage, where the encoding leaves them open.
        masks: Names of masks in ``Batch.extra["masks"]`` at whose positions a new cache stores outputs, besides
            ``Batch.mask`` and those of its first stage: ``["text"]`` for losses of hidden states at prompts.
        shard_bytes: The size of a shard in bytes.
        inputs: Whether a new cache has the tokens and the tokenizer of a `limbeck.data.TokenDataset` too. It is then a
            training set by itself: `limbeck.data.open_cached_texts`. `fill_cache` adds them to an existing cache.

    Raises:
        LimbeckError: If the teacher changes while a student learns, or is random (a teacher in training mode), or the
            encoding is unknown; when a run is set up, if the cache was made for something else, or the loader has no
            ids.
        DataError: If the cache is damaged.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from limbeck.data import ArrayDataset, ShuffledLoader
        >>> loader = ShuffledLoader(ArrayDataset(torch.randn(6, 2)), batch_size=3)
        >>> teacher = CachedTeacher(torch.nn.Linear(2, 4), tempfile.mkdtemp())
        >>> with teacher.open(TeacherContext(loader=loader)) as session:
        ...     session(loader.peek())["logits"].shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        teacher: Any,
        where: str | os.PathLike[str],
        *,
        encoding: str | Mapping[str, Any] | None = None,
        classes: int = -1,
        through: str | None = None,
        addresses: Iterable[str] = (),
        temperatures: Iterable[float] = (),
        masks: Iterable[str] = (),
        shard_bytes: int = SHARD_BYTES,
        inputs: bool = False,
    ) -> None:
        super().__init__(*([] if teacher is None else [teacher]))
        _check_cacheable(self.inner)
        self.where = os.fspath(where)
        own = FLOAT16 if self.inner is None else self.inner.encoding
        self._encoding = _without_open_parameter(own if encoding is None else encoding)
        _check_takes_partial(self.inner, self._encoding)
        self.classes = classes
        self.shard_bytes = shard_bytes
        self.through = through
        self.inputs = inputs
        self._addresses = frozenset(addresses)
        self._masks = frozenset(masks)
        self._temperatures = frozenset(float(temperature) for temperature in temperatures)
        self._writing: dict[str, CacheWriter] = {}

    @property
    def inner(self) -> Teacher | None:
        """The teacher that computes missing outputs."""
        return self.teachers[0] if self.teachers else None

    @property
    def encoding(self) -> dict[str, Any]:
        """How logits are stored: a name and parameters."""
        return self._encoding

    @property
    def capabilities(self) -> TeacherCapabilities:
        """The teacher's, except that some encodings store only a part of the logits."""
        return super().capabilities._replace(partial=encoding_type(self.encoding).partial is not None, gradients=False)

    def open(self, context: TeacherContext) -> TeacherSession:
        """Check that the cache has what is required, or that the teacher can compute it.

        A run opens all its stages before the first output is computed, so a new cache has the addresses and serves the
        temperatures of every context that this was called with.

        Raises:
            LimbeckError: If the cache was made for something else, or there is no loader, or it has no ids.
        """
        if not context.requires:
            return FunctionSession(lambda batch: Outputs())
        loader = context.loader
        if loader is None:
            raise LimbeckError(
                f"The outputs in {self.where} belong to the examples of one loader, and no loader was given. Pass it, "
                "teacher.open(TeacherContext(loader=loader)), or use the teacher without a cache."
            )
        inner = None if self.inner is None else self.inner.resolve(context.models)
        location = Location(self.where)
        origin, description = self._check_provenance(location, inner, loader, context.preprocess)
        self._addresses |= context.requires
        self._temperatures |= context.temperatures
        self._masks |= context.masks
        head = None if inner is None or self.through is None else find_last_layer(inner, self.through)
        if inner is not None:
            addresses = query_addresses(context.requires, head)
            inner.open(replace(context, requires=addresses, hidden_logits=False))  # raises for an address
        request = CacheRequest(
            context.requires, self._addresses, origin, self._full_encoding(location), self.classes, head,
            loader.batch_size or 1, _about(loader, description), self.shard_bytes, checks_inputs=not loader.fixed,
            keeps_inputs=self.inputs, masks=tuple(sorted(self._masks)),
        )  # fmt: skip
        return CacheSession(inner, location, request, context, self._writing)

    def copy_at(self, where: str | os.PathLike[str]) -> CachedTeacher:
        """The same teacher with another cache, such as a part of this one."""
        other = copy.copy(self)
        other.where = os.fspath(where)
        return other

    def check(self, loader: Stream, preprocess: Preprocess) -> None:
        """Check that the cache, if there is one, was made for this teacher, loader and preprocessing.

        Raises:
            LimbeckError: If it was made for something else, or the loader has no ids.
        """
        self._check_provenance(Location(self.where), self.inner, loader, preprocess)

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

    def _check_provenance(
        self, location: Location, inner: Teacher | None, loader: Stream, preprocess: Preprocess
    ) -> tuple[TeacherProvenance, dict[str, Any] | None]:
        """The origin of the outputs, and the teacher's description; raises if the cache has another origin."""
        check_stored_outputs_fit(loader, who=f"The cache at {location.name}")
        if not loader.has_ids:
            raise LimbeckError(
                f"A {type(loader).__name__} has no example ids, by which a cache finds outputs. Pass arrays, a data "
                "set, or ShuffledLoader(dataset, batch_size=...)."
            )
        manifest = find_manifest(location)
        check_tokenizer_fits(location, manifest, loader)
        if self.inputs:
            check_has_inputs(loader)
        stored = self._stored_provenance() if inner is None or manifest is not None else None
        description = None if inner is None else inner.describe()
        data, views = loader_fingerprints(loader)
        expected = TeacherProvenance(
            teacher=inner.fingerprint if inner is not None else stored.teacher,  # type: ignore[union-attr]
            data=data,
            views=views,
            preprocess=_preprocessing(preprocess, description) if inner is not None else stored.preprocess,  # type: ignore[union-attr]
            precision="" if stored is None else stored.precision,
        )
        if manifest is not None and (difference := manifest.origin.difference(expected)) is not None:
            raise find_mismatch(location, manifest, difference, about=_about(loader, description))
        return expected, description

    def _full_encoding(self, location: Location) -> dict[str, Any]:
        """The encoding with all parameters; open ones are those of the cache, or chosen for the losses at hand.

        Sampled classes are drawn with a power for the highest temperature; top-k stores the rest at each temperature.

        Raises:
            LimbeckError: If the cache does not serve a temperature of these losses.
        """
        name = self.encoding["name"]
        if "temperature" in self.encoding:
            for temperature in sorted(self._temperatures):
                if not math.isclose(temperature, self.encoding["temperature"], rel_tol=1e-9):
                    raise unknown_rest(temperature, (1 / self.encoding["temperature"],))
        if name not in _OPEN:
            return self.encoding
        manifest = find_manifest(location)
        answers = {} if manifest is None else manifest.origin.outputs
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


def _check_cacheable(teacher: Teacher | None) -> None:
    if teacher is None or teacher.capabilities.deterministic:
        return
    changes = teacher.capabilities.changes
    why = "it changes while the student learns" if changes else "it is random or depends on the batch"
    raise LimbeckError(
        f"The outputs of this {type(teacher).__name__} cannot be cached, because {why}: the same inputs give other "
        'outputs each time. Use the teacher without a cache, or with mode="eval".'
    )


def _check_takes_partial(teacher: Teacher | None, encoding: Mapping[str, Any]) -> None:
    """Refuse an encoding of all classes for a teacher that gives a part of them."""
    own = teacher.stored_as if isinstance(teacher, TeacherWrapper) else None
    if own is not None and encoding["name"] != own:
        raise ArgumentError(
            f"The outputs of a {type(teacher).__name__} cannot be cached as {encoding['name']!r}, only as {own!r}.",
            argument="encoding", example=own,
        )  # fmt: skip
    takes = encoding_type(encoding).takes_partial and not (
        isinstance(teacher, TeacherWrapper) and teacher.caches_within
    )
    if teacher is not None and teacher.capabilities.partial and not takes:
        raise LimbeckError(
            f"The outputs of this {type(teacher).__name__} cannot be cached as {encoding['name']!r}, because they are "
            "those of some classes only. Cache the teacher inside: AlignedTeacher(CachedTeacher(teacher, FOLDER), "
            "alignment). For a teacher that lists classes, use encoding={'name': 'listed', 'k': ...}; for a "
            "MeanEmbeddingTeacher, its encoding."
        )


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
        "batch_size": loader.batch_size,
        "views": _describe_views(loader),
        "teacher": description,
        **({} if (tokenizer := describe_tokenizer(loader)) is None else {"tokenizer": tokenizer}),
        "versions": {name: importlib.metadata.version(name) for name in ("limbeck", "torch")},
    }


def _describe_views(loader: Stream) -> str | None:
    """The fingerprints of the loader's transforms; None where it has none."""
    return " > ".join(one.fingerprint for one in (loader.augment, loader.mix) if one is not None) or None


def loader_fingerprints(loader: Stream) -> tuple[str, str | None]:
    """The fingerprints of a loader's examples and of its transforms; None for the second where there are none."""
    examples = loader.examples
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


def without_cache(teacher: Teacher) -> Teacher:
    """The same teacher, which computes its outputs anew: for inputs that no cache can have.

    Raises:
        LimbeckError: If there is only a cache, without a teacher to ask.

    Example:
        >>> import tempfile, torch
        >>> from limbeck.teachers import ModelTeacher
        >>> teacher = ModelTeacher(torch.nn.Linear(2, 3))
        >>> without_cache(CachedTeacher(teacher, tempfile.mkdtemp())) is teacher
        True
    """
    if isinstance(teacher, CachedTeacher):
        if teacher.inner is None:
            raise LimbeckError(
                f"The teacher is a cache, {teacher.where}, and the texts of rollouts are written anew, so it has no "
                "outputs for them. Give the teacher itself."
            )
        return without_cache(teacher.inner)
    if not isinstance(teacher, TeacherWrapper):
        return teacher
    live = tuple(map(without_cache, teacher.teachers))
    if all(one is other for one, other in zip(live, teacher.teachers, strict=True)):
        return teacher
    changed = copy.copy(teacher)
    changed.teachers = live
    return changed
