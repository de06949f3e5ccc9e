"""The transforms that a name in a job stands for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from limbeck.data.batch_mix import BatchMix
from limbeck.data.transform import RandomShift, Transform
from limbeck.data.transforms.chain import Chain
from limbeck.data.transforms.color import ColorJitter
from limbeck.data.transforms.crop import Crop, ResizedCrop
from limbeck.data.transforms.cutout import Cutout
from limbeck.data.transforms.flip import Flip
from limbeck.data.transforms.mixup import CutMix, Mixup
from limbeck.data.transforms.rand_augment import RandAugment
from limbeck.data.transforms.user_transform import open_transform
from limbeck.errors import LimbeckError, unknown
from limbeck.models import UserFile

_MIXUP = "{mixup: {alpha: 0.2}}"


def transform_names() -> dict[str, Callable[..., Transform]]:
    """What makes a view of an example, by name."""
    return {
        "crop": Crop, "cut_out": Cutout, "flip": Flip, "jitter": ColorJitter, "rand_augment": RandAugment,
        "resized_crop": ResizedCrop, "shift": RandomShift,
    }  # fmt: skip


def mix_names() -> dict[str, Callable[..., BatchMix]]:
    """What mixes two examples, by name."""
    return {"cut_mix": CutMix, "mixup": Mixup}


def make_transform(given: Any, *, seed: int = 0) -> Transform:
    """The augmentation that a job names: one, or several in order.

    Args:
        given: A name, ``{name: options}``, or a list of these. ``my.py:noise`` is a transform of your own: see
            `limbeck.data.transforms.user_transform.UserTransform`.
        seed: Of all that have none of their own.

    Raises:
        UnknownNameError: If a name or an option is unknown; the nearest is named.
        LimbeckError: If an option is missing or its value makes no sense.

    Example:
        >>> view_of(["crop", {"flip": {"probability": 1}}]).fingerprint
        'crop/1 padding=4 size=None fill=0 seed=0 > flip/1 probability=1 vertical=False seed=0'
    """
    several = given if isinstance(given, (list, tuple)) else [given]
    if not several:
        raise LimbeckError("The list of augmentations is empty: name one, such as crop, or leave the list out.")
    found = [_make("augmentation", one, transform_names(), mix_names(), seed) for one in several]
    return found[0] if len(found) == 1 else Chain(*found)


def make_mix(given: Any, *, seed: int = 0) -> BatchMix:
    """The mix that a job names.

    Args:
        given: A name, or ``{name: options}``.
        seed: Unless it has its own.

    Raises:
        UnknownNameError: If the name or an option is unknown; the nearest is named.
        LimbeckError: If the value of an option makes no sense.

    Example:
        >>> make_mix({"mixup": {"alpha": 0.2}})
        Mixup(alpha=0.2, seed=0)
    """
    found: BatchMix = _make("mix", given, mix_names(), transform_names(), seed)
    return found


def _make(
    kind: str, given: Any, known: Mapping[str, Callable[..., Any]], elsewhere: Mapping[str, Any], seed: int
) -> Any:
    name, options = _parse_spec(kind, given)
    if kind == "augmentation" and UserFile.parse(name) is not None:
        chosen = dict(options)
        return open_transform(name, chosen, chosen.pop("seed", seed))
    if name in elsewhere:
        other = "mix" if kind == "augmentation" else "augment"
        raise LimbeckError(f"{name} is no {kind}: name it under {other}, such as {other}: {name}.")
    if name not in known:
        raise unknown(kind, name, known, then="Or one of your own: my.py:function." * (kind == "augmentation"))
    parameters: Any = fields(known[name])  # type: ignore[arg-type]
    for key in options:
        if key not in (names := [field.name for field in parameters]):
            raise unknown(f"option of {name}", str(key), names)
    for field in parameters:
        if field.default is MISSING and field.name not in options:
            raise LimbeckError(f"{name} needs {field.name}: write {{{name}: {{{field.name}: ...}}}}.")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    if isinstance(values.get("seed"), bool) or not isinstance(values.setdefault("seed", seed), int):
        raise LimbeckError(f"seed={values['seed']!r} of {name} is no whole number.")
    return known[name](**values)


def _parse_spec(kind: str, given: Any) -> tuple[str, Mapping[str, Any]]:
    if isinstance(given, str):
        return given, {}
    if isinstance(given, Mapping) and len(given) == 1:
        name, options = next(iter(given.items()))
        if isinstance(options, Mapping):
            return str(name), options
        if options is None:
            return str(name), {}
    alone, whole = ("An augmentation", "{crop: {padding: 4}}") if kind == "augmentation" else ("A mix", _MIXUP)
    name = whole[1:].partition(":")[0]
    raise LimbeckError(f"{alone} is a name, such as {name}, or a name with options, such as {whole}; got {given!r}.")
