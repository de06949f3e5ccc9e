"""Cards of methods, the ranges that a search uses, and calls by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, get_type_hints

from limbeck.errors import ArgumentError, LimbeckError, unknown
from limbeck.recipe import Recipe


@dataclass(frozen=True)
class SearchRange:
    """The values of a number that are tried, both ends included.

    Attributes:
        low: The least.
        high: The greatest; the same as `low` for a number that is held fixed.
        log: Whether equal factors are tried alike, and not equal steps.
        whole: Whether only whole numbers are.

    Raises:
        LimbeckError: If it holds no value, or is one of factors and begins at 0 or below.

    Example:
        >>> SearchRange(1, 20, log=True).holding(40)
        Range(low=1, high=40, log=True, whole=False)
    """

    low: int | float
    high: int | float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise LimbeckError(f"A range runs from its least value to its greatest; got {self.low}..{self.high}.")
        if self.log and not self.low > 0:
            raise LimbeckError(f"Factors are searched in a range above 0; got {self.low}..{self.high}.")
        if self.whole and not (float(self.low).is_integer() and float(self.high).is_integer()):
            raise LimbeckError(f"A range of whole numbers begins and ends with one; got {self.low}..{self.high}.")

    def holding(self, value: int | float) -> SearchRange:
        """The same range, as much wider as it must be to hold a value."""
        return replace(
            self, low=min(self.low, value), high=max(self.high, value), log=self.log and min(self.low, value) > 0
        )


@dataclass(frozen=True)
class MethodCard:
    """What a published method claims, when to use it, and whom to cite.

    Attributes:
        name: What it is called here: its file, its function, ``--method NAME``.
        title: The paper's title.
        authors: Who wrote it.
        year: When it was first public.
        arxiv: Its arXiv number, where it has one.
        venue: Where it appeared.
        claim: What it does, in one sentence.
        when: When to use it, and when not.
        bibtex: The citation.
        ranges: Between which values `limbeck tune` searches a hyper-parameter; one that is not here stays as it is.
    """

    name: str
    title: str
    authors: str
    year: int
    arxiv: str | None
    venue: str
    claim: str
    when: str
    bibtex: str
    ranges: Mapping[str, SearchRange] = field(default_factory=dict)

    @classmethod
    def unpublished(cls, name: str, text: str | None) -> MethodCard:
        """The card of a method that has none yet: its name, and the first line of its docstring."""
        claim = next(iter((text or "").strip().splitlines()), "")
        return cls(name, name, "", 0, None, "", claim, "", "")


_KINDS: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    int | None: "a whole number",
    bool: "true or false",
    str: "text",
}


@dataclass(frozen=True)
class MethodCall:
    """A published method: its card, the function that makes its recipe, and what that function takes.

    Attributes:
        card: What it claims, and whom to cite.
        make: The function; it returns a `Recipe`.
        parameters: The function's parameters by name.
    """

    card: MethodCard
    make: Callable[..., Any]
    parameters: Mapping[str, inspect.Parameter]

    @classmethod
    def of(cls, make: Callable[..., Any], card: MethodCard) -> MethodCall:
        """The method that a function and a card make up."""
        parameters = inspect.signature(make).parameters.values()
        return cls(card, make, {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)})

    @property
    def has_teacher(self) -> bool:
        """Whether it learns from a teacher that is given to it."""
        return "teacher" in self.parameters

    @property
    def defaults(self) -> dict[str, Any]:
        """The default of each hyper-parameter that has one, without ``epochs``, which is the budget of the run."""
        return {name: p.default for name, p in self.parameters.items() if p.default is not p.empty and name != "epochs"}

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
        for argument in arguments:
            if argument not in self.parameters:
                then = "It learns without a teacher: leave teacher out." if argument == "teacher" else ""
                raise unknown(f"argument of {name}()", argument, self.parameters, then=then)
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
        raise ArgumentError(f"{name} is {_KINDS[kind]}; got {value!r}.", argument=name)
    if kind in _KINDS and not isinstance(value, kind):
        raise ArgumentError(f"{name} is {_KINDS[kind]}; got {value!r}.", argument=name)
    return value
