"""Creates transforms and mixes from their names in a job."""

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
from limbeck.errors import LimbeckError, unknown_name_error
from limbeck.models import UserFile

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
            `limbeck.data.transforms.user_transform.UserTransform`.
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
        if key not in (names := [field.name for field in parameters]):
            raise unknown_name_error(f"option of {name}", str(key), names)
    for field in parameters:
        if field.default is MISSING and field.name not in options:
            raise LimbeckError(f"{name} needs {field.name}: {{{name}: {{{field.name}: ...}}}}.")
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
