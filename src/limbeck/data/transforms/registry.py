"""Transforms by name, in a chain, and from a user's file."""

from __future__ import annotations

import hashlib
import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from limbeck.batch import Inputs
from limbeck.data.transform import BatchMix, Transform, check_transform
from limbeck.data.transforms.color import ColorJitter
from limbeck.data.transforms.geometry import Crop, Cutout, Flip, RandomShift, ResizedCrop
from limbeck.data.transforms.mixup import CutMix, Mixup
from limbeck.data.transforms.rand_augment import RandAugment
from limbeck.errors import DataError, LimbeckError, unknown_name_error
from limbeck.models import UserFile
from limbeck.models.arguments import check_arguments
from limbeck.random_seeds import counter_uniform


@dataclass(frozen=True, init=False)
class Chain:
    """Applies several transforms in order.

    Transforms of different types draw independent random numbers. Of two transforms with the same type and seed, the
    second would repeat the draws of the first, so it gets a new seed, derived from the old one and its position. Nested
    chains are flattened.

    Args:
        *transforms: At least one.

    Raises:
        LimbeckError: If there is none, or an argument is not a transform.

    Example:
        >>> from limbeck.data import Flip, RandomShift
        >>> Chain(RandomShift(4), Flip()).fingerprint
        'shift/1 pixels=4 seed=0 > flip/1 probability=0.5 vertical=False seed=0'
    """

    transforms: tuple[Transform, ...]
    members: tuple[Transform, ...] = field(compare=False, repr=False)

    def __init__(self, *transforms: Any) -> None:
        for transform in transforms:
            check_transform(transform, who="Chain")
        if not transforms:
            raise LimbeckError("Chain needs at least one transform: Chain(RandomShift(4), Flip()).")
        flat = list[Any]()
        for transform in transforms:
            flat += transform.members if isinstance(transform, Chain) else [transform]
        object.__setattr__(self, "members", tuple(flat))
        object.__setattr__(self, "transforms", tuple(_separate_seeds(flat)))

    @property
    def fingerprint(self) -> str:
        """The fingerprints of all transforms, in order."""
        return " > ".join(transform.fingerprint for transform in self.transforms)

    def __call__(self, inputs: Inputs, id: Tensor, view: Tensor) -> Inputs:
        """Apply all transforms."""
        for transform in self.transforms:
            inputs = transform(inputs, id, view)
        return inputs


def _separate_seeds(transforms: list[Any]) -> list[Any]:
    seen: dict[tuple[type, int], int] = {}
    seeded = []
    for transform in transforms:
        # A seed is not part of the Transform protocol.
        has_seed = is_dataclass(transform) and "seed" in {entry.name for entry in fields(transform)}
        if not has_seed or not isinstance(seed := transform.seed, int):
            seeded.append(transform)
            continue
        before = seen.get((type(transform), seed), 0)
        seen[type(transform), seed] = before + 1
        seeded.append(replace(transform, seed=_seed(seed, before)) if before else transform)
    return seeded


def _seed(seed: int, index: int) -> int:
    return int.from_bytes(hashlib.sha256(f"chain {seed}/{index}".encode()).digest()[:4], "little")


_MIXUP = "{mixup: {alpha: 0.2}}"


def transform_names() -> dict[str, Callable[..., Transform]]:
    """The transforms by name."""
    return {
        "crop": Crop, "cut_out": Cutout, "flip": Flip, "jitter": ColorJitter, "rand_augment": RandAugment,
        "resized_crop": ResizedCrop, "shift": RandomShift,
    }  # fmt: skip


def mix_names() -> dict[str, Callable[..., BatchMix]]:
    """The mixes by name."""
    return {"cut_mix": CutMix, "mixup": Mixup}


def make_transform(spec: Any, *, seed: int = 0) -> Transform:
    """Create the transform of a job: one, or several in order.

    Args:
        spec: A name, ``{name: options}``, or a list of these. ``my.py:noise`` is your own transform, see
            `limbeck.data.transforms.registry.UserTransform`.
        seed: Seed of transforms that do not set their own.

    Raises:
        UnknownNameError: If a name or an option is unknown. The message suggests the nearest name.
        LimbeckError: If an option is missing or its value is not valid.

    Example:
        >>> make_transform(["crop", {"flip": {"probability": 1}}]).fingerprint
        'crop/1 padding=4 size=None fill=0 seed=0 > flip/1 probability=1 vertical=False seed=0'
    """
    specs = spec if isinstance(spec, (list, tuple)) else [spec]
    if not specs:
        raise LimbeckError("The list of augmentations is empty. Add one, such as crop, or leave the list out.")
    transforms = [_make("augmentation", item, transform_names(), mix_names(), seed) for item in specs]
    return transforms[0] if len(transforms) == 1 else Chain(*transforms)


def make_mix(spec: Any, *, seed: int = 0) -> BatchMix:
    """Create the mix of a job.

    Args:
        spec: A name, or ``{name: options}``.
        seed: Seed of the mix, if it does not set its own.

    Raises:
        UnknownNameError: If the name or an option is unknown. The message suggests the nearest name.
        LimbeckError: If the value of an option is not valid.

    Example:
        >>> make_mix({"mixup": {"alpha": 0.2}})
        Mixup(alpha=0.2, seed=0)
    """
    mix: BatchMix = _make("mix", spec, mix_names(), transform_names(), seed)
    return mix


def _make(
    kind: str, spec: Any, classes: Mapping[str, Callable[..., Any]], elsewhere: Mapping[str, Any], seed: int
) -> Any:
    name, options = _parse_spec(kind, spec)
    if kind == "augmentation" and UserFile.parse(name) is not None:
        chosen = dict(options)
        return open_transform(name, chosen, chosen.pop("seed", seed))
    if name in elsewhere:
        other = "mix" if kind == "augmentation" else "augment"
        raise LimbeckError(f"{name} is not valid as {kind}; use {other}: {name}.")
    if name not in classes:
        raise unknown_name_error(
            kind, name, classes, then="Or use your own: my.py:function." * (kind == "augmentation")
        )
    parameters: Any = fields(classes[name])  # type: ignore[arg-type]
    for key in options:
        if key not in (names := [entry.name for entry in parameters]):
            raise unknown_name_error(f"option of {name}", str(key), names)
    for entry in parameters:
        if entry.default is MISSING and entry.name not in options:
            raise LimbeckError(f"{name} needs {entry.name}: {{{name}: {{{entry.name}: ...}}}}.")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    if isinstance(values.get("seed"), bool) or not isinstance(values.setdefault("seed", seed), int):
        raise LimbeckError(f"seed={values['seed']!r} of {name} must be a whole number.")
    return classes[name](**values)


def _parse_spec(kind: str, spec: Any) -> tuple[str, Mapping[str, Any]]:
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, Mapping) and len(spec) == 1:
        name, options = next(iter(spec.items()))
        if isinstance(options, Mapping):
            return str(name), options
        if options is None:
            return str(name), {}
    alone, whole = ("An augmentation", "{crop: {padding: 4}}") if kind == "augmentation" else ("A mix", _MIXUP)
    name = whole[1:].partition(":")[0]
    raise LimbeckError(f"{alone} is a name, such as {name}, or a name with options, such as {whole}; got {spec!r}.")


class UserTransform:
    """Transform that applies a function or transform object from a user's file, such as ``my.py:noise``.

    The name in the file may be

    * a function of one example, ``noise(image, *, std=0.1)``, which takes the inputs of one example (a ``uint8`` image
      ``[c, h, w]``, a row of numbers) and returns inputs of the same shape and dtype;
    * a class or factory function that returns such a function, for example a transform of torchvision or
      albumentations;
    * a class or factory function that returns a `Transform`, which is then used directly (see `open_transform`).

    It may use random numbers of ``torch``, ``numpy`` and ``random``. Each generator is seeded from (seed, id, view)
    before every call and restored afterwards, so a view is identical in every process and after a resume.

    Args:
        name: ``my.py:noise``.
        transform: The function of one example.
        options: The options of the function or class.
        seed: Seed of the random numbers.
        source: Hash of the code, for the fingerprint.
    """

    def __init__(
        self, name: str, transform: Callable[[Any], Any], *, options: Mapping[str, Any], seed: int, source: str
    ) -> None:
        self._name, self._transform, self._options = name, transform, dict(options)
        self._seed, self._source = seed, source

    @property
    def fingerprint(self) -> str:
        """The function's name, a hash of its file, its options and the seed."""
        options = "".join(f" {key}={value}" for key, value in sorted(self._options.items()))
        return f"own/1 {self._name.rpartition('/')[2]} {self._source[:16]}{options} seed={self._seed}"

    def __repr__(self) -> str:
        return f"OwnTransform({self._name})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The file's module has a name that is unknown in other processes, so they open the file again.
        return open_transform, (self._name, self._options, self._seed)

    def __call__(
        self, inputs: Shaped[Tensor, " batch *example"], id: Int[Tensor, " batch"], view: Int[Tensor, " batch"]
    ) -> Shaped[Tensor, " batch *example"]:
        """Return the transformed examples.

        Raises:
            LimbeckError: If the function fails, or returns another shape or dtype.
        """
        if not isinstance(inputs, Tensor):
            raise DataError(f"{self._name} needs inputs that are one tensor, not a {type(inputs).__name__}.")
        if not len(inputs):
            return inputs
        draws = counter_uniform(id, view, seed=self._seed, draws=2, stream="own transform").double()
        high, low = (draws * (1 << 24)).long().unbind(1)
        seeds = ((high << 24) + low).tolist()
        with _separate_generators():
            return torch.stack([self._transformed(example, seed) for example, seed in zip(inputs, seeds, strict=True)])

    def _transformed(self, example: Tensor, seed: int) -> Tensor:
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % (1 << 32))
        random.seed(seed)
        try:
            output = self._transform(example.clone())
        except LimbeckError:
            raise
        except Exception as error:  # any exception of the user's function
            raise LimbeckError(
                f"The transform {self._name} failed on inputs {list(example.shape)} {example.dtype}: "
                f"{type(error).__name__}: {error}"
            ) from error
        try:
            changed = torch.as_tensor(output)
        except (TypeError, ValueError, RuntimeError) as error:
            raise LimbeckError(
                f"The transform {self._name} returned a {type(output).__name__}; it must return inputs like "
                f"{list(example.shape)} {example.dtype}."
            ) from error
        if changed.shape != example.shape or changed.dtype != example.dtype:
            raise LimbeckError(
                f"The transform {self._name} got inputs {list(example.shape)} {example.dtype} but returned "
                f"{list(changed.shape)} {changed.dtype}. Shape and dtype must stay the same."
            )
        return changed


def open_transform(name: str, options: Mapping[str, Any] | None = None, seed: int = 0) -> Any:
    """Create the transform ``my.py:function`` with its options.

    Raises:
        LimbeckError: If the file or function is missing, an option is unknown, or the result is not a transform.
    """
    own = UserFile.parse(name)
    if own is None or own.weights is not None:
        raise LimbeckError(f"{name!r} is not a function in a Python file; use my.py:function.")
    function, arguments = own.load(), dict(options or {})
    code = hashlib.sha256(own.file.read_bytes()).hexdigest()
    if _takes_example(function, arguments):
        arguments = check_arguments(name, partial(function, None), arguments)
        return UserTransform(name, partial(function, **arguments), options=arguments, seed=seed, source=code)
    arguments = check_arguments(name, function, arguments)
    transform = function(**arguments)
    if hasattr(transform, "fingerprint"):
        return transform
    if not callable(transform):
        raise LimbeckError(f"{name} returned a {type(transform).__name__}; it must return a function of one example.")
    return UserTransform(name, transform, options=arguments, seed=seed, source=code)


def _takes_example(function: Callable[..., Any], arguments: Mapping[str, Any]) -> bool:
    """Whether a function is the transform itself, not a factory: it has a required argument not in the options."""
    if inspect.isclass(function):
        return False
    parameters = inspect.signature(function).parameters.values()
    return any(
        p.default is p.empty and p.name not in arguments and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        for p in parameters
    )


@contextmanager
def _separate_generators() -> Iterator[None]:
    """Restore the three global random generators afterwards."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
