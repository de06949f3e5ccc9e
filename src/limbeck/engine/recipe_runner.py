"""The models of a run, and the parts of its recipe in order, checked before the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from limbeck.data import Loader
from limbeck.engine.checkpoint import clone_state, to_device
from limbeck.engine.model_checks import check_shared, find_networks
from limbeck.engine.probe import objective_check
from limbeck.engine.train_config import TrainConfig, check_lengths
from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.losses import copy_objective, shared_parts
from limbeck.model_call import Adaptor
from limbeck.models.size_and_hash import unwrap_compiled
from limbeck.random_seeds import derive_seed, fork_rng, make_rng_state
from limbeck.recipe import (
    JointStages,
    ModelFactory,
    Models,
    ParallelStages,
    Part,
    Recipe,
    RunContext,
    Stage,
    TransformModel,
    change_stages,
)
from limbeck.recipe.change import Round
from limbeck.recipe.optimizer import short_name
from limbeck.tap import Tapped
from limbeck.teachers import TeacherContext

_MORE_MODELS = "A recipe may make more: Recipe(..., makes={name: function})."


@runtime_checkable
class HasAdaptor(Protocol):
    """A model factory with an adaptor for its model's output."""

    def adaptor(self, models: Models) -> Adaptor | None:
        """The adaptor of the model."""
        ...


@runtime_checkable
class HasCheck(Protocol):
    """A model factory that can check before the run starts whether it can create its model."""

    def check(self, models: Models) -> None:
        """Raise an error if the model cannot be created."""
        ...


class RunModels(Mapping[str, nn.Module]):
    """The models of a run by name; models that the recipe creates are created on first use.

    For a model from ``torch.compile`` it holds the original module, so that weights have the original names. A model's
    random initial weights depend only on the run's seed and the model's name, not on earlier steps.

    Args:
        models: The existing models.
        makes: Name -> function from the existing models to the new model.
        seed: The run's seed.
        adaptor: Raw output -> logits, of every model or by a model's name.

    Attributes:
        context: Further objects of the run, for the functions in its recipe.
    """

    context: RunContext | None = None

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        makes: Mapping[str, ModelFactory],
        *,
        seed: int,
        adaptor: Adaptor | Mapping[str, Adaptor] | None = None,
    ) -> None:
        for name, model in models.items():
            if not isinstance(model, nn.Module):
                raise LimbeckError(f"The model {name!r} is a {type(model).__name__}, not a torch.nn.Module.")
        if not models and not makes:
            raise LimbeckError(
                "A run needs at least one model: distill(student, ...) or distill({'student': ...}, ...)."
            )
        self._existing = {name: unwrap_compiled(model) for name, model in models.items()}
        self._compiled = {name: model for name, model in models.items() if model is not self._existing[name]}
        self._initial_names = frozenset(models)
        self._makes = dict(makes)
        self._seed = seed
        self._adaptor = adaptor

    @classmethod
    def of(cls, models: Mapping[str, nn.Module], adaptor: Adaptor | Mapping[str, Adaptor] | None = None) -> RunModels:
        """The models of a run, from a `RunModels` unchanged or from a plain mapping."""
        return models if isinstance(models, cls) else cls(models, {}, seed=0, adaptor=adaptor)

    def __getitem__(self, name: str) -> nn.Module:
        if name not in self._existing:
            if name not in self._makes:
                raise unknown_name_error("model", name, self)
            with fork_rng(make_rng_state(derive_seed(self._seed, name))):
                model = self._makes[name](self)
                self._existing[name] = unwrap_compiled(model)
                if model is not self._existing[name]:
                    self._compiled[name] = model
        return self._existing[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._existing, **self._makes})

    def __len__(self) -> int:
        return len({**self._existing, **self._makes})

    def __contains__(self, name: object) -> bool:
        return name in self._existing or name in self._makes

    def adaptor(self, name: str) -> Adaptor | None:
        """The adaptor of the model with this name; None if its output is read directly.

        A model made from another one has the adaptor of that one, unless the run has an adaptor for its own name.
        """
        option = self._adaptor
        if isinstance(option, Mapping) and name in option:
            return option[name]
        maker = None if name in self._initial_names else self._makes.get(name)
        own = maker.adaptor(self) if isinstance(maker, HasAdaptor) else None
        return own if own is not None or isinstance(option, Mapping) else option

    @property
    def adaptors(self) -> dict[str, Adaptor]:
        """The adaptor of each existing model that has one."""
        adaptors = {name: self.adaptor(name) for name in self._existing}
        return {name: adaptor for name, adaptor in adaptors.items() if adaptor is not None}

    def add_factories(self, more: Mapping[str, ModelFactory]) -> None:
        """Add model factories, those of the part that the run has reached."""
        self._makes |= {name: maker for name, maker in more.items() if name not in self._makes}

    def replace(self, name: str, model: nn.Module) -> None:
        """Replace a model."""
        self._existing[name] = unwrap_compiled(model)
        self._compiled.pop(name, None)

    def get_callable(self, name: str) -> nn.Module:
        """The module to call for the model with this name: the compiled one, if there is one."""
        return self._compiled.get(name, self[name])

    @property
    def existing(self) -> dict[str, nn.Module]:
        """The models that exist so far."""
        return self._existing


States = Mapping[str, Mapping[str, Any]]


class RecipeRunner:
    """The parts of a recipe in order, each with a key. A function in it is called once, when it is reached.

    Its result may depend on the current weights, for example a teacher that is a copy. So the models' states at the
    call are part of a checkpoint, and a resumed run calls the function with the same models and random state.

    Args:
        recipe: The recipe.
        models: The run's models.
        seed: The run's seed.

    Attributes:
        call_states: For each function that was called, its key and the models' states at the call.

    Raises:
        UnknownNameError: If the recipe ships a model that does not exist.
    """

    def __init__(self, recipe: Recipe, models: RunModels, *, seed: int) -> None:
        # A run trains copies of the heads, so that the recipe can be run again, with another seed, from its beginning.
        self._copies: dict[int, Any] = {}
        self._models = models
        self._recipe = recipe = self._copy_heads(recipe)
        self._seed = seed
        self._brought: dict[str, Recipe] = {}
        self._transformed: set[str] = set()
        self._rounds: list[str] = []
        self.call_states: dict[str, dict[str, Any]] = {}
        self.open_ended = any(not isinstance(part, Part) for part in recipe.parts)
        """Whether functions may return more parts and more models."""
        shipped = recipe.ship if isinstance(recipe.ship, str) and recipe.ship != "student" else None
        if shipped is not None and shipped not in models and not self.open_ended:
            raise unknown_name_error("model to ship", shipped, models)

    @property
    def transformed_models(self) -> frozenset[str]:
        """The names of the models with a structure that the recipe changes; their layers are not known in advance."""
        return frozenset(part.model for part in self._recipe.parts if isinstance(part, TransformModel))

    def check_makers(self) -> None:
        """Call the `check` of every model factory that has one.

        Raises:
            LimbeckError: If a factory cannot create its model from the existing models.
        """
        for name, maker in self._recipe.makes.items():
            if isinstance(maker, HasCheck) and name not in self._models.existing:
                maker.check(self._models.existing)

    def __iter__(self) -> Iterator[tuple[str, Stage | JointStages | ParallelStages]]:
        """Yield each part with its key, and call functions as they are reached."""
        return self._walk(self._recipe.parts, "", ask=True)

    def known_parts(self) -> Iterator[tuple[str, Stage | JointStages | ParallelStages]]:
        """Yield the parts that are known without calling another function."""
        return self._walk(self._recipe.parts, "", ask=False)

    def restore_calls(self, calls: States, load: Callable[[States], None]) -> None:
        """Repeat the function calls of an interrupted run, each with the models' states at the original call."""
        for key, states in calls.items():
            load(states)
            self.call_states[key] = dict(states)
            for _ in self._walk(self._recipe.parts, "", ask=False):
                pass

    def _walk(
        self, parts: Any, prefix: str, *, ask: bool
    ) -> Iterator[tuple[str, Stage | JointStages | ParallelStages]]:
        for number, part in enumerate(parts):
            key = f"{prefix}{number}"
            if isinstance(part, (Stage, JointStages, ParallelStages)):
                yield key, part
            elif isinstance(part, TransformModel):
                if ask or key in self.call_states:
                    self._transform(key, part)
            elif ask or key in self.call_states:
                yield from self._walk(self._answer(key, part).parts, f"{key}.", ask=ask)

    def _copy_heads(self, recipe: Recipe) -> Recipe:
        """The recipe with heads of the run's own; those that stages or models share stay shared."""
        teachers = [stage.teacher for part in recipe.parts if isinstance(part, Part) for stage in Recipe(part).stages()]
        shared = shared_parts(*self._models.existing.values(), *find_networks(teachers))
        shared = {key: part for key, part in shared.items() if key not in self._copies}
        self._copies |= shared

        def change(stage: Stage) -> Stage:
            return replace(stage, objective=copy_objective(stage.objective, self._copies))

        parts = [change_stages(Recipe(part), change) if isinstance(part, Part) else part for part in recipe.parts]
        for key in shared:  # a model that is replaced later must not be kept alive
            del self._copies[key]
        return Recipe(*parts, makes=recipe.makes, ship=recipe.ship)

    def _begin_round(self, key: str) -> None:
        """Drop the models' states of earlier rounds: a resumed run repeats those calls only for the structure."""
        place = key.rpartition(".")[0]
        self.call_states |= {earlier: {} for earlier in self._rounds if earlier.rpartition(".")[0] == place}
        self._rounds.append(key)

    def _remember_call(self, key: str) -> None:
        if key not in self.call_states:
            states = {name: dict(model.state_dict()) for name, model in self._models.existing.items()}
            self.call_states[key] = to_device(clone_state(states), torch.device("cpu"))

    def _transform(self, key: str, part: TransformModel) -> None:
        """Change the structure of a model, once. A resumed run repeats it on the weights that it had at that time."""
        if key in self._transformed:
            return
        self._remember_call(key)
        with fork_rng(make_rng_state(derive_seed(self._seed, f"part {key}"))):
            self._models.replace(part.model, part.apply(self._models[part.model]))
        self._transformed.add(key)

    def _answer(self, key: str, function: Any) -> Recipe:
        if key not in self._brought:
            if isinstance(function, Round):
                self._begin_round(key)
            self._remember_call(key)
            with fork_rng(make_rng_state(derive_seed(self._seed, f"part {key}"))):
                part = function(self._models)
            if not isinstance(part, Part):
                name = short_name(function)
                raise LimbeckError(f"{name}(models) is part of a recipe and must return a stage; it returned {part!r}.")
            self._brought[key] = self._copy_heads(self._checked(Recipe(part), function))
            self._models.add_factories(self._brought[key].makes)
        return self._brought[key]

    def _checked(self, brought: Recipe, function: Any) -> Recipe:
        """Raise an error if a returned part ships another model: the shipped model is fixed when the run starts."""
        if brought.ship not in ("student", self._recipe.ship):
            name, ship = short_name(function), brought.ship
            text = repr(ship) if isinstance(ship, str) else short_name(ship)
            raise LimbeckError(
                f"{name}(models) returned a recipe that ships {text}, but a run must know that before it starts. "
                f"Type Recipe(..., {name}, ship={text}) around the whole recipe."
            )
        return brought

    def shipped(self) -> nn.Module | None:
        """The model that the recipe ships, in its current state, or None until it exists."""
        ship = self._recipe.ship
        if isinstance(ship, str):
            only = ship == "student" and ship not in self._models
            return self._models.existing.get(next(iter(self._models)) if only else ship)
        try:
            # How often it is built depends on the clock, so it must not use the run's random state.
            with fork_rng(make_rng_state(self._seed)):
                return ship(self._models)
        except LimbeckError:
            return None

    def heads(self) -> dict[str, nn.Module]:
        """All heads of the known stages by name; a shared head appears once."""
        heads: dict[str, nn.Module] = {}
        for key, part in self.known_parts():
            stages = part.stages if isinstance(part, JointStages) else (part,) if isinstance(part, Stage) else ()
            for index, stage in enumerate(stages):
                for name, (leaf, _) in stage.objective.named_leaves().items():
                    for number, head in enumerate(leaf.heads):
                        if all(head is not other for other in heads.values()):
                            heads[f"{key} {index} {name} {number}"] = head
        return heads


def preflight_check(course: RecipeRunner, models: RunModels, loader: Loader, setting: TrainConfig) -> None:
    """Check every known stage, including later ones, without running or creating anything.

    Each stage's probe checks what depends on shapes.

    Raises:
        LimbeckError: If a stage has no length, its objective cannot be accumulated, or a model of the recipe cannot
            be created.
        UnknownNameError: If a stage names a model that neither exists nor is created by the recipe.
        MissingOutputError: If an existing model has no module at a requested address, or a teacher has no
            output there.
        LimbeckError: If a teacher has no answers for the data of its stage.
    """
    course.check_makers()
    for name in sorted(course.transformed_models - set(models)):
        if not course.open_ended:
            raise unknown_name_error("model", name, models, then=_MORE_MODELS)
    for _, part in course.known_parts():
        if isinstance(part, ParallelStages):
            groups = [[stage] for branch in part.branches for stage in branch.stages()]
        else:
            groups = [list(part.stages) if isinstance(part, JointStages) else [part]]
        for stages in groups:
            own = stages[0].find_loader(loader)
            setting.length(check_lengths(stages), own)
            _check(stages, course, models, setting, own)


def _check(
    stages: Sequence[Stage], course: RecipeRunner, models: RunModels, setting: TrainConfig, loader: Loader
) -> None:
    for stage in stages:
        objective_check(stage.objective, accumulate=setting.accumulate)
        named = {stage.trains} | (stage.teacher.names if stage.teacher is not None else set())
        for name in sorted(named - set(models)):
            if not course.open_ended:
                raise unknown_name_error("model", name, models, then=_MORE_MODELS)
        if len(stages) == 1 and stage.every > 1:
            raise ArgumentError(f"every={stage.every} belongs to a stage joined to another by &.", argument="every")
        if stage.trains in models.existing and stage.trains not in course.transformed_models:
            stage.parts(models.existing[stage.trains])
            if stage.teacher is not None and not stage.teacher.names:
                check_shared(stage, models.existing[stage.trains], find_networks(stage.teacher))
            Tapped(models.existing[stage.trains], stage.objective.requires.student)
        requires = stage.objective.requires.teacher
        if stage.teacher is not None and requires and not stage.teacher.names:
            preprocess = stage.preprocess or setting.preprocess
            temperatures, masks = stage.objective.temperatures, stage.objective.masks
            stage.teacher.open(
                TeacherContext(
                    requires=requires, preprocess=preprocess, loader=loader, temperatures=temperatures, masks=masks
                )
            )
