"""`RunModels`: the models of a run by name, and those that the recipe makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import nn

from limbeck.engine.rng import fork_rng, seed_all
from limbeck.errors import LimbeckError, unknown_name_error
from limbeck.model_call import Adaptor
from limbeck.models.size_and_hash import unwrap_compiled
from limbeck.random_seeds import derive_seed
from limbeck.recipe import ModelFactory, RunContext


class RunModels(Mapping[str, nn.Module]):
    """The models of a run by name; one that the recipe makes is made when it is first asked for.

    Of a model that ``torch.compile`` made it holds the module that was compiled, under whose names weights are kept.
    A model's random initial weights depend on the run's seed and its own name, and on nothing that happened before.

    Args:
        models: The models that there are.
        makes: Name -> function of the models so far.
        seed: The run's seed.
        adaptor: Raw output -> logits, of every model or by a model's name.

    Attributes:
        context: What else the run holds, for the functions in its recipe.
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
        """The models of a run as they are, or those of a plain mapping."""
        return models if isinstance(models, cls) else cls(models, {}, seed=0, adaptor=adaptor)

    def __getitem__(self, name: str) -> nn.Module:
        if name not in self._existing:
            if name not in self._makes:
                raise unknown_name_error("model", name, self)
            with fork_rng(seed_all(derive_seed(self._seed, name))):
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
        """How the output of the model of this name is read, if it is not read as it is.

        A model that was made of another one is read like that one, unless the run was told of it by its own name.
        """
        option = self._adaptor
        if isinstance(option, Mapping) and name in option:
            return option[name]
        maker = None if name in self._initial_names else self._makes.get(name)
        inherited: Callable[[RunModels], Adaptor | None] | None = getattr(maker, "adaptor", None)
        own = None if inherited is None else inherited(self)
        return own if own is not None or isinstance(option, Mapping) else option

    @property
    def adaptors(self) -> dict[str, Adaptor]:
        """How each model that exists is read, where it is not read as it is."""
        adaptors = {name: self.adaptor(name) for name in self._existing}
        return {name: adaptor for name, adaptor in adaptors.items() if adaptor is not None}

    def add_factories(self, more: Mapping[str, ModelFactory]) -> None:
        """Learn to make more models: those of a part that the run has just come to."""
        self._makes |= {name: maker for name, maker in more.items() if name not in self._makes}

    def replace(self, name: str, model: nn.Module) -> None:
        """Put another module in the place of a model."""
        self._existing[name] = unwrap_compiled(model)
        self._compiled.pop(name, None)

    def get_callable(self, name: str) -> nn.Module:
        """What is called for the model of that name: what ``torch.compile`` made of it, if that was given."""
        return self._compiled.get(name, self[name])

    @property
    def existing(self) -> dict[str, nn.Module]:
        """The models that exist by now."""
        return self._existing
