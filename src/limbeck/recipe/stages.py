"""`Stage`, `Recipe` and their combinations: in sequence, on one batch, or in parallel."""

from __future__ import annotations

import inspect
from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import nn

from limbeck.data import Loader
from limbeck.errors import ArgumentError, LimbeckError, nearest, unknown_name_error
from limbeck.losses import Objective
from limbeck.models import ModelTransform, UserFile, describe_structure, transform_model
from limbeck.models.model_transforms import find_transform
from limbeck.recipe.optimizer import Optimizer, check_optimizer, short_name
from limbeck.teachers import Preprocess, Teacher, as_teacher

Models = Mapping[str, nn.Module]
ModelFactory = Callable[[Models], nn.Module]
"""Function from the existing models to a new one; called just before the first stage that names it."""
Ship = str | Callable[[Models], nn.Module]
"""The name of the model that is evaluated, saved and exported, or a function that builds it."""


class Part(ABC):  # noqa: B024 - its operators are whole, only its kinds are open
    """A part of a recipe. Parts combine to a `Recipe`.

    * ``a >> b``: first a, then b; either may be a function of the models so far that returns a part;
    * ``a & b``: a and b alternate on each batch, each with its own optimizer;
    * ``a | b``: a and b are independent and run in parallel processes if there are enough cores.
    """

    def __rshift__(self, other: Part | Callable[[Models], Part]) -> Recipe:
        if not isinstance(other, Part) and not callable(other):
            return NotImplemented
        return Recipe(self, other)

    def __rrshift__(self, other: Callable[[Models], Part]) -> Recipe:
        """``function >> stage``, because a recipe may begin with a function."""
        return Recipe(other, self) if callable(other) else NotImplemented

    def __and__(self, other: Part) -> Recipe:
        return Recipe(JointStages((*_stages(self), *_stages(other))), **_merge_settings(self, other))

    def __or__(self, other: Part) -> Recipe:
        return Recipe(ParallelStages((*_branches(self), *_branches(other))), **_merge_settings(self, other))


@dataclass(frozen=True)
class Stage(Part):
    """One model learns from one teacher, by one objective, for a number of epochs or steps.

    Attributes:
        objective: The loss that is minimized.
        trains: The name of the model that learns.
        teacher: A `Teacher`, or what can be converted to one: a module, an estimator, the name of a model of the run.
            None if the objective reads no teacher.
        optimizer: The optimizer; the run's by default.
        loader: The loader of its batches, or a function that makes it from the run's, such as
            ``Rollouts()``; the run's by default.
        epochs: Passes over the data; this or `steps`, or the run's budget.
        steps: Optimizer steps.
        preprocess: Function from a batch to the student's inputs; the run's by default.
        only: The part of the model that learns, or several: names of its modules. Gradients flow through the other
            parts, which are in eval mode, and keep their weights and statistics.
        every: In ``a & b``, take steps only on every k-th batch, starting with the first.
        times: Number of steps on each of these batches.
        name: The name of the stage in progress and metrics.

    Raises:
        LimbeckError: If both epochs and steps are set, if either is negative, or if the objective reads a teacher
            and there is none.

    Example:
        >>> from limbeck.functional import cross_entropy
        >>> from limbeck.losses import Loss
        >>> Stage(Loss(cross_entropy), only="classifier", epochs=1).only
        ('classifier',)
    """

    objective: Objective
    trains: str = "student"
    teacher: Any = None
    optimizer: Optimizer | None = None
    loader: Loader | Callable[[Loader], Loader] | None = None
    epochs: int | None = None
    steps: int | None = None
    preprocess: Preprocess | None = None
    name: str | None = None
    only: str | Sequence[str] | None = None
    every: int = 1
    times: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.objective, Objective):
            kind = short_name(self.objective)
            raise LimbeckError(f"A stage minimizes an objective, not {kind}; lift a kernel with Loss({kind}).")
        check_optimizer(self.optimizer)
        if self.loader is not None and not isinstance(self.loader, Loader) and not callable(self.loader):
            raise ArgumentError(
                f"loader of a stage is a Loader, or a function from the run's loader to one, such as Rollouts(); got "
                f"{short_name(self.loader)}.",
                argument="loader",
            )
        if self.epochs is not None and self.steps is not None:
            raise LimbeckError(f"Give a stage epochs or steps, not both (epochs={self.epochs}, steps={self.steps}).")
        for unit in ("epochs", "steps", "every", "times"):
            _check_count(unit, getattr(self, unit))
        if self.only is not None:
            object.__setattr__(self, "only", (self.only,) if isinstance(self.only, str) else tuple(self.only))
            if not self.only:
                raise ArgumentError("only=() leaves nothing to learn; name a module of the model.", argument="only")
        if self.teacher is None and self.objective.requires.teacher:
            addresses = ", ".join(sorted(self.objective.requires.teacher))
            raise LimbeckError(
                f"The objective reads {addresses} in a teacher, and the stage has none: Stage(..., teacher=...)."
            )
        if self.teacher is not None and not isinstance(self.teacher, Teacher):
            object.__setattr__(self, "teacher", as_teacher(self.teacher))

    def parts(self, model: nn.Module) -> tuple[nn.Module, ...]:
        """The trainable modules of `model`: those in `only`, or the whole model.

        Raises:
            UnknownNameError: If the model has no module of that name.
        """
        if self.only is None:
            return (model,)
        modules = dict(model.named_modules())
        for name in self.only:
            if name not in modules or not name:
                raise unknown_name_error(
                    f"part of the model {self.trains!r}", name, filter(None, modules), argument="only"
                )
        return tuple(modules[name] for name in self.only)

    def find_loader(self, run_loader: Loader) -> Loader:
        """The loader of its batches: its own, one that its function makes anew, or the run's."""
        if self.loader is None:
            return run_loader
        return self.loader if isinstance(self.loader, Loader) else self.loader(run_loader)

    def describe(self) -> dict[str, Any]:
        """Its entry in a report."""
        rare = {"only": list(self.only or ()), "every": self.every, "times": self.times}
        usual: dict[str, Any] = {"only": [], "every": 1, "times": 1}
        return {
            "stage": self.name,
            "objective": repr(self.objective),
            "trains": self.trains,
            "teacher": self.teacher.describe() if self.teacher is not None else None,
            "optimizer": self.optimizer.describe() if self.optimizer else None,
            "source": _describe_loader(self.loader),
            "epochs": self.epochs,
            "steps": self.steps,
            **{name: value for name, value in rare.items() if value != usual[name]},
        }


@runtime_checkable
class _Describes(Protocol):
    """A function with settings."""

    def describe(self) -> Any: ...


def _describe_loader(loader: Loader | Callable[[Loader], Loader] | None) -> Any:
    if isinstance(loader, Loader):
        return loader.fingerprint
    if isinstance(loader, _Describes):
        return loader.describe()
    return None if loader is None else short_name(loader)


def _check_count(unit: str, amount: Any) -> None:
    if amount is not None and (isinstance(amount, bool) or not isinstance(amount, int)):
        raise ArgumentError(f"{unit} of a stage is a whole number; got {unit}={amount!r}.", argument=unit)
    if amount is not None and amount < 1:
        raise ArgumentError(f"{unit} of a stage is at least 1; got {unit}={amount}.", argument=unit)


@dataclass(frozen=True)
class JointStages(Part):
    """Stages that alternate on one batch, each with its own optimizer: peers, discriminators.

    ``Stage(..., every=10) & Stage(...)`` takes one step of the first for ten of the second.
    """

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if all(stage.every > 1 for stage in self.stages):
            raise ArgumentError(
                "One of the stages joined by & needs every=1, or batches are not used.", argument="every"
            )
        if any(stage.loader is not None for stage in self.stages[1:]):
            raise LimbeckError("Stages joined by & see the same batches; give the source to the first of them.")
        lengths = {(stage.epochs, stage.steps) for stage in self.stages} - {(None, None)}
        if len(lengths) > 1:
            raise LimbeckError(
                "Stages joined by & last equally long; give epochs or steps to one of them, or the same."
            )


@dataclass(frozen=True)
class ParallelStages(Part):
    """Recipes that are independent of each other, such as the members of an ensemble or specialists."""

    branches: tuple[Recipe, ...]


@dataclass(frozen=True, init=False)
class TransformModel(Part):
    """A part of a recipe that changes the structure of a model: LoRA, pruning, fewer layers.

    ``first >> TransformModel("student", "prune", amount=0.5) >> second``. The change is recorded in the
    ``config.json`` of the saved model, so that `limbeck.load` and exports build it again. For that, the shapes of the
    new model may depend only on the arguments, not on the weights.

    Args:
        model: The name of the model in the run.
        function: A function of the model and the arguments, which returns the new model, or None if it has changed the
            model itself; the name of one (``keep_layers``, ``lora``, ``prune``); or ``my.py:function``.
        **arguments: Its arguments: JSON values.

    Raises:
        UnknownNameError: If there is no transform of that name.
        ArgumentError: If the function does not take these arguments.

    Example:
        >>> TransformModel("student", "prune", amount=0.5).describe()
        {'transform': 'prune', 'model': 'student', 'arguments': {'amount': 0.5}}
    """

    model: str
    function: ModelTransform
    arguments: Mapping[str, Any]

    def __init__(self, model: str, function: ModelTransform | str, **arguments: Any) -> None:
        own = UserFile.parse(function) if isinstance(function, str) else None
        call = own.load() if own is not None else find_transform(function)[1]
        _check_takes(call, arguments)
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "function", call)
        object.__setattr__(self, "arguments", arguments)

    def apply(self, model: nn.Module) -> nn.Module:
        """The changed model, with the record of its change."""
        return transform_model(model, self.function, self.arguments, origin=describe_structure(model))

    def describe(self) -> dict[str, Any]:
        """Its entry in a report."""
        name, _ = find_transform(self.function)
        return {"transform": name, "model": self.model, "arguments": dict(self.arguments)}


def _check_takes(function: ModelTransform, arguments: Mapping[str, Any]) -> None:
    """Check that a transform takes these arguments, before anything is trained."""
    try:
        takes = inspect.signature(function)
    except ValueError:  # of a function in C
        return
    try:
        takes.bind(None, **arguments)
    except TypeError as error:
        names = [name for name in list(takes.parameters)[1:] if name not in arguments]
        wrong = next((name for name in arguments if name not in takes.parameters), None)
        meant = nearest(wrong, names) if wrong is not None else next(iter(names), None)
        raise ArgumentError(
            f"{short_name(function)}() takes {', '.join(list(takes.parameters)[1:]) or 'no arguments'}: {error}.",
            argument=meant or "",
        ) from error


@dataclass(frozen=True, init=False)
class Recipe(Part):
    """A method as data: its parts in order, the models that it creates, and the model that it ships.

    Attributes:
        parts: Stages, groups of stages, or functions from the existing models to a part.
        makes: Models that the recipe creates: name -> function from the existing models to the new one.
        ship: The model that is evaluated, saved and exported: its name, or a function that builds it.

    Raises:
        LimbeckError: If there is no part, or two models have the same name.

    Example:
        >>> from limbeck.functional import cross_entropy
        >>> from limbeck.losses import Loss
        >>> recipe = Stage(Loss(cross_entropy), epochs=1) >> Stage(Loss(cross_entropy), epochs=2)
        >>> [stage.epochs for stage in recipe.parts]
        [1, 2]
    """

    parts: tuple[Part | Callable[[Models], Part], ...]
    makes: Mapping[str, ModelFactory] = field(default_factory=dict)
    ship: Ship = "student"

    def __init__(
        self,
        *parts: Part | Callable[[Models], Part],
        makes: Mapping[str, ModelFactory] | None = None,
        ship: Ship | None = None,
    ) -> None:
        if not parts:
            raise LimbeckError("A recipe needs at least one stage: Recipe(Stage(objective, teacher=...)).")
        carried = _merge_settings(*(part for part in parts if isinstance(part, Part)))
        object.__setattr__(self, "parts", tuple(_flat(parts)))
        object.__setattr__(self, "makes", _join_factories(carried["makes"], makes or {}))
        object.__setattr__(self, "ship", ship or carried["ship"] or "student")

    def stages(self) -> Iterator[Stage]:
        """Every stage that is known before the run begins."""
        for part in self.parts:
            if isinstance(part, Stage):
                yield part
            elif isinstance(part, JointStages):
                yield from part.stages
            elif isinstance(part, ParallelStages):
                for branch in part.branches:
                    yield from branch.stages()


def _flat(parts: tuple[Part | Callable[[Models], Part], ...]) -> Iterator[Part | Callable[[Models], Part]]:
    for part in parts:
        if isinstance(part, Recipe):
            yield from part.parts
        elif isinstance(part, Part) or callable(part):
            yield part
        else:
            raise LimbeckError(f"A recipe is made of stages; got a {type(part).__name__}.")


def _stages(part: Part) -> tuple[Stage, ...]:
    parts = part.parts if isinstance(part, Recipe) else (part,)
    stages: list[Stage] = []
    for item in parts:
        if isinstance(item, Stage):
            stages.append(item)
        elif isinstance(item, JointStages) and len(parts) == 1:
            stages.extend(item.stages)
        else:
            raise LimbeckError("Only single stages alternate on one batch: stage & stage.")
    if len(stages) > 1 and not (len(parts) == 1 and isinstance(parts[0], JointStages)):
        raise LimbeckError(
            "Only single stages alternate on one batch; a recipe of several stages cannot stand beside &."
        )
    return tuple(stages)


def _branches(part: Part) -> tuple[Recipe, ...]:
    if isinstance(part, Recipe) and len(part.parts) == 1 and isinstance(part.parts[0], ParallelStages):
        return part.parts[0].branches
    if isinstance(part, ParallelStages):
        return part.branches
    return (part if isinstance(part, Recipe) else Recipe(part),)


def _merge_settings(*parts: Part) -> dict[str, Any]:
    """The `makes` of all combined recipes, and the last `ship` among them."""
    makes: Mapping[str, ModelFactory] = {}
    ship: Ship | None = None
    for part in parts:
        if isinstance(part, Recipe):
            makes = _join_factories(makes, part.makes)
            ship = part.ship if part.ship != "student" else ship
    return {"makes": makes, "ship": ship}


def _join_factories(mine: Mapping[str, ModelFactory], theirs: Mapping[str, ModelFactory]) -> dict[str, ModelFactory]:
    for name in set(mine) & set(theirs):
        if mine[name] is not theirs[name]:
            raise LimbeckError(f"Two parts of the recipe both make a model called {name!r}; rename one of them.")
    return {**mine, **theirs}
