"""Access to the run for functions in a recipe: loader, preprocessing, device, the teacher's module, shapes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn

from limbeck.data import Loader
from limbeck.errors import LimbeckError
from limbeck.recipe.stages import Models
from limbeck.tap import FrozenParameters, Tapped, get_adaptor, preserved_buffers
from limbeck.teachers import CachedTeacher, ModelTeacher, Preprocess, Teacher, TeacherRef, as_teacher


class RunContext(NamedTuple):
    """The objects of a run.

    Attributes:
        loader: The loader of the run's batches. Only read from it (``loader.batches(0, 0)``, ``loader.peek()``); its
            position belongs to the run.
        preprocess: Function from a batch to inputs, for every model without its own.
        device: The device of the models.
        epochs: The passes over the data of a stage without a length of its own; None if steps or nothing is given.
        steps: The optimizer steps of such a stage; None likewise.
    """

    loader: Loader
    preprocess: Preprocess
    device: torch.device
    epochs: int | None = None
    steps: int | None = None


@runtime_checkable
class _HasContext(Protocol):
    context: RunContext | None


def run_context(models: Models) -> RunContext:
    """The objects of the run of these models, for a function in a recipe that needs more than the models.

    Raises:
        LimbeckError: If `models` are not the models of a run.
    """
    context = models.context if isinstance(models, _HasContext) else None
    if context is None:
        raise LimbeckError(
            f"This part of the recipe needs the data of its run, and a {type(models).__name__} of models has none. "
            "Run the recipe with distill()."
        )
    return context


def teacher_module(teacher: object, models: Models) -> nn.Module:
    """The module of a teacher that is a single network, for methods that reuse its layers.

    Args:
        teacher: A module, a `Teacher`, or the name of a model of the run.
        models: The models of the run.

    Returns:
        The module itself, not a copy. Copy the layers that the student gets: ``copy.deepcopy(module.classifier)``.

    Raises:
        LimbeckError: If the teacher is not a single network.

    Example:
        >>> network = nn.Linear(2, 3)
        >>> teacher_module(network, {}) is network
        True
    """
    source: Teacher | None = as_teacher(teacher)
    while isinstance(source, CachedTeacher):
        source = source.inner
    if isinstance(source, ModelTeacher):
        return source.model
    if isinstance(source, TeacherRef):
        return models[source.name]
    given = "a cache has outputs alone" if source is None else f"a {type(source).__name__} is not a single network"
    raise LimbeckError(f"This method needs the teacher's module, and {given}: pass the network itself as the teacher.")


def output_shapes(
    models: Models, addresses: Iterable[str], *, model: str | nn.Module = "student"
) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's outputs for the run's next batch, without the batch dimension.

    Neither the model nor the position of the loader changes.

    Args:
        models: The models of the run.
        addresses: Addresses in the model.
        model: The name of a model of the run, or a module, such as that of `teacher_module`.

    Raises:
        MissingOutputError: If the model has no module at an address; the message names the nearest.

    Example:
        >>> # output_shapes(models, ["layer3"]) == {"layer3": (256, 8, 8)}
    """
    context, addresses = run_context(models), list(addresses)
    module = models[model] if isinstance(model, str) else model
    adaptor = get_adaptor(models, model) if isinstance(model, str) else None
    # Restored, because a module may update its buffers in eval mode too.
    module = module.to(context.device)
    batch = context.loader.peek().to(context.device)
    tapped = Tapped(module, addresses, adaptor=adaptor)
    with torch.no_grad(), FrozenParameters(module), preserved_buffers([module]), tapped:
        outputs = tapped(context.preprocess(batch))
    return {address: tuple(outputs[address].shape[1:]) for address in addresses}
