"""`RecipeRunner`: the stages of a recipe in order, including those that its functions return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from limbeck.engine.checkpoint import to_device
from limbeck.engine.rng import clone_rng_state, fork_rng, seed_all
from limbeck.engine.run_models import RunModels
from limbeck.errors import LimbeckError, unknown_name_error
from limbeck.random_seeds import derive_seed
from limbeck.recipe import JointStages, ParallelStages, Part, Recipe, Stage, TransformModel

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
        self._recipe = recipe
        self._models = models
        self._seed = seed
        self._brought: dict[str, Recipe] = {}
        self._transformed: set[str] = set()
        self.call_states: dict[str, dict[str, Any]] = {}
        self.open_ended = any(not isinstance(part, Part) for part in recipe.parts)
        """Whether functions may return more parts and more models."""
        shipped = recipe.ship if isinstance(recipe.ship, str) and recipe.ship != "student" else None
        if shipped is not None and shipped not in models and not self.open_ended:
            raise unknown_name_error("model to ship", shipped, models)

    @property
    def transformed_models(self) -> frozenset[str]:
        """The names of the models whose structure the recipe changes, so that their layers are not known before."""
        return frozenset(part.model for part in self._recipe.parts if isinstance(part, TransformModel))

    def check_makers(self) -> None:
        """Call the `check` of every model factory that has one.

        Raises:
            LimbeckError: If a factory cannot create its model from the existing models.
        """
        for name, maker in self._recipe.makes.items():
            check = getattr(maker, "check", None)
            if check is not None and name not in self._models.existing:
                check(self._models.existing)

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

    def _remember_call(self, key: str) -> None:
        if key not in self.call_states:
            states = {name: dict(model.state_dict()) for name, model in self._models.existing.items()}
            self.call_states[key] = to_device(clone_rng_state(states), torch.device("cpu"))

    def _transform(self, key: str, part: TransformModel) -> None:
        """Change the structure of a model, once. A resumed run repeats it on the weights that it had at that time."""
        if key in self._transformed:
            return
        self._remember_call(key)
        with fork_rng(seed_all(derive_seed(self._seed, f"part {key}"))):
            self._models.replace(part.model, part.apply(self._models[part.model]))
        self._transformed.add(key)

    def _answer(self, key: str, function: Any) -> Recipe:
        if key not in self._brought:
            self._remember_call(key)
            with fork_rng(seed_all(derive_seed(self._seed, f"part {key}"))):
                part = function(self._models)
            if not isinstance(part, Part):
                name = getattr(function, "__name__", "function")
                raise LimbeckError(f"{name}(models) is part of a recipe and must return a stage; it returned {part!r}.")
            self._brought[key] = self._checked(Recipe(part), function)
            self._models.add_factories(self._brought[key].makes)
        return self._brought[key]

    def _checked(self, brought: Recipe, function: Any) -> Recipe:
        """Raise an error if a returned part ships another model: the shipped model is fixed when the run starts."""
        if brought.ship not in ("student", self._recipe.ship):
            name, ship = getattr(function, "__name__", "function"), brought.ship
            text = repr(ship) if isinstance(ship, str) else getattr(ship, "__name__", "function")
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
            with fork_rng(seed_all(self._seed)):
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
