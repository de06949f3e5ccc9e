"""`distill`: trains a student by a recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.data import Identity, Loader, NormalizeImages, Preprocess, as_loader
from limbeck.engine.run import Run
from limbeck.engine.train_config import Fabric, TrainConfig, open_fabric
from limbeck.errors import unknown_name_error
from limbeck.recipe import Models, Part, Recipe
from limbeck.recipe.optimizer import optimizer_hint
from limbeck.teachers import read_inputs


def distill(
    student: nn.Module | Models,
    recipe: Part,
    data: Any,
    *,
    batch_size: int = 128,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    devices: int | str = "auto",
    strategy: str = "auto",
    accelerator: str = "auto",
    fabric: Fabric | None = None,
    metadata: Mapping[str, Any] | None = None,
    **setting: Any,
) -> Run:
    """Prepare the training of a student by a recipe; iterate over the returned `Run` to train.

    Args:
        student: The model that learns, or several by name (``{"student": a, "peer": b}``).
        recipe: A `Recipe` or a `Stage`: objective, teacher and length.
        data: A `Loader`, or data to make one of: a `Dataset`, ``(inputs, labels)``, inputs alone, or a DataLoader.
        batch_size: Examples per (micro-)batch on all ranks together; unused if `data` is a `Loader`.
        out: The run's folder; None to write nothing.
        resume: Whether to continue from the checkpoint in `out`, if there is one; the result is the same bit for bit.
        devices: Number of devices; ``auto`` means one.
        strategy: Name of a Fabric strategy: ``ddp``, ``fsdp``, ...
        accelerator: ``cpu``, ``cuda``, ... or ``auto``.
        fabric: A launched Fabric, used instead of the previous three arguments.
        metadata: Further entries of the student's ``config.json``. Class names, table encoding, `preprocess` and
            input shape are added automatically if `data` has them.
        **setting: The fields of `TrainConfig`: optimizer, epochs, steps, accumulate, preprocess, adaptor, seed,
            log_every, precision, ...

    Returns:
        A `Run`: iterate it for reports, or call ``finish()``.

    Raises:
        LimbeckError: If a setting is invalid; everything that can be checked before the first step is checked.

    Example:
        >>> import torch
        >>> from limbeck.functional import cross_entropy, kl_divergence
        >>> from limbeck.losses import Loss
        >>> from limbeck.recipe import Stage
        >>> objective = 0.1 * Loss(cross_entropy) + 0.9 * Loss(kl_divergence, temperature=4.0)
        >>> stage = Stage(objective, teacher=nn.Linear(4, 3), epochs=1)
        >>> inputs, labels = torch.randn(64, 4), torch.randint(0, 3, (64,))
        >>> for report in distill(nn.Linear(4, 3), stage, (inputs, labels), batch_size=32):
        ...     print(report.step, sorted(report.terms))
        2 ['cross_entropy', 'kl_divergence']
    """
    fixed = _setting(setting)
    models = {"student": student} if isinstance(student, nn.Module) else dict(student)
    whole = recipe if isinstance(recipe, Recipe) else Recipe(recipe)
    _check_adapted(fixed, models, whole)
    loader = as_loader(data, batch_size=batch_size, seed=fixed.seed)
    ready = fabric or open_fabric(
        precision=fixed.precision, devices=devices, strategy=strategy, accelerator=accelerator
    )
    return Run(
        models,
        whole,
        loader,
        setting=fixed,
        fabric=ready,
        out=out,
        resume=resume,
        metadata={**_describe_data(loader, fixed.preprocess), **(metadata or {})},
    )


def _describe_data(loader: Loader, preprocess: Any) -> dict[str, Any]:
    """Metadata of a dataset that is needed to use the student; empty for other data."""
    examples = loader.examples
    if examples is None:
        return {}
    transform = Identity() if preprocess is read_inputs else preprocess
    metadata: dict[str, Any] = {"class_names": list(examples.class_names or ()) or None}
    metadata["encoding"] = None if examples.encoding is None else examples.encoding.to_dict()
    metadata["preprocess"] = transform.to_dict() if isinstance(transform, Preprocess) else None
    first = examples.take(torch.tensor([0])).inputs
    if isinstance(transform, Identity) and isinstance(first, torch.Tensor):
        metadata["input_shape"] = list(first.shape[1:])
    elif isinstance(transform, NormalizeImages) and isinstance(first, torch.Tensor) and first.ndim in (3, 4):
        metadata["input_shape"] = list(transform(Batch(first)).shape[1:])
    return {name: value for name, value in metadata.items() if value is not None}


def _setting(options: Mapping[str, Any]) -> TrainConfig:
    fields = TrainConfig.__dataclass_fields__
    for name in options:
        if name not in fields:
            raise unknown_name_error("argument of distill()", name, fields, then=optimizer_hint(name))
    return replace(TrainConfig(), **options)


def _check_adapted(setting: TrainConfig, models: Models, recipe: Recipe) -> None:
    """Raise an error if an adaptor names an unknown model; functions in a recipe may add models later."""
    choices = {**models, **recipe.makes}
    for name in setting.adaptor if isinstance(setting.adaptor, Mapping) else ():
        if name not in choices and all(isinstance(part, Part) for part in recipe.parts):
            raise unknown_name_error("model in adaptor=", name, choices)
