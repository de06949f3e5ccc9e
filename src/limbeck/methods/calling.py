"""How is a method called by name, with arguments that a person typed?"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, get_type_hints

from limbeck.errors import LimbeckError, unknown
from limbeck.methods.card import Card
from limbeck.recipe import Recipe

_KINDS: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    int | None: "a whole number",
    bool: "true or false",
    str: "text",
}


@dataclass(frozen=True)
class Method:
    """A published method: its card, the function that makes its recipe, and what that function takes.

    Attributes:
        card: What it claims, and whom to cite.
        make: The function; it returns a `Recipe`.
        parameters: The function's parameters by name.
    """

    card: Card
    make: Callable[..., Any]
    parameters: Mapping[str, inspect.Parameter]

    @classmethod
    def of(cls, make: Callable[..., Any], card: Card) -> Method:
        """The method that a function and a card make up."""
        found = inspect.signature(make).parameters.values()
        return cls(card, make, {p.name: p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)})

    @property
    def has_teacher(self) -> bool:
        """Whether it learns from a teacher that is given to it."""
        return "teacher" in self.parameters

    @property
    def required(self) -> tuple[str, ...]:
        """What has no default."""
        return tuple(name for name, p in self.parameters.items() if p.default is p.empty)

    def __call__(self, **arguments: Any) -> Recipe:
        """The recipe, once the arguments are known to be the method's own.

        Raises:
            UnknownNameError: If an argument is none of the method's; the nearest is named.
            LimbeckError: If one is missing or of another type, or the function returns no recipe.
        """
        name = self.card.name
        for given in arguments:
            if given not in self.parameters:
                then = "It learns without a teacher: leave teacher out." if given == "teacher" else ""
                raise unknown(f"argument of {name}()", given, self.parameters, then=then)
        absent = [key for key in self.required if key not in arguments]
        if absent:
            call = ", ".join(f"{key}=..." for key in self.required)
            raise LimbeckError(f"{name} needs {' and '.join(absent)}: make({name!r}, {call}).")
        hints = get_type_hints(self.make)
        recipe = self.make(**{key: _fitted(key, hints.get(key), value) for key, value in arguments.items()})
        if not isinstance(recipe, Recipe):
            raise LimbeckError(f"{name}() returns a {type(recipe).__name__}; a method returns a Recipe(stage, ...).")
        return recipe


def _fitted(name: str, kind: Any, value: Any) -> Any:
    """The value as the kind that the method declares; a whole number is a number too."""
    if kind is float and isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    if kind in (int, int | None) and isinstance(value, bool):
        raise LimbeckError(f"{name} is {_KINDS[kind]}; got {value!r}.")
    if kind in _KINDS and not isinstance(value, kind):
        raise LimbeckError(f"{name} is {_KINDS[kind]}; got {value!r}.")
    return value
