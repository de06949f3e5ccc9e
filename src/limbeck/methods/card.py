"""Cards of methods, the ranges that a search uses, and calls by name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, get_args, get_type_hints

from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.functional import KernelClaim
from limbeck.methods.arguments import check_type
from limbeck.recipe import Recipe
from limbeck.tasks import Task, get_task, task_names


@dataclass(frozen=True)
class SearchRange:
    """The search range of a numeric hyper-parameter; both ends are included.

    Attributes:
        low: The smallest value.
        high: The largest value. Equal to `low` for a fixed value.
        log: Whether to search on a logarithmic scale.
        whole: Whether to try whole numbers only.

    Raises:
        LimbeckError: If the range is empty, or is logarithmic and starts at 0 or below.

    Example:
        >>> SearchRange(1, 20, log=True).holding(40)
        SearchRange(low=1, high=40, log=True, whole=False)
    """

    low: int | float
    high: int | float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise LimbeckError(f"A range goes from its smallest to its largest value; got {self.low}..{self.high}.")
        if self.log and not self.low > 0:
            raise LimbeckError(f"A logarithmic range must be above 0; got {self.low}..{self.high}.")
        if self.whole and not (float(self.low).is_integer() and float(self.high).is_integer()):
            raise LimbeckError(
                f"A range of whole numbers must start and end with a whole number; got {self.low}..{self.high}."
            )

    def holding(self, value: int | float) -> SearchRange:
        """Return this range, extended if needed to include a value."""
        return replace(
            self, low=min(self.low, value), high=max(self.high, value), log=self.log and min(self.low, value) > 0
        )


_LABELS = ("required", "few", "optional", "unused")


@dataclass(frozen=True)
class MethodCard:
    """Description of a published method: what it claims, when to use it, and what to cite.

    Attributes:
        name: The name of the method: of its file, its function, and in ``--method NAME``.
        title: The title of the paper.
        authors: The authors of the paper.
        year: The year of the first publication.
        arxiv: The arXiv number, or None.
        venue: The conference or journal.
        claim: What the method does, in one sentence.
        when: When to use the method, and when not.
        bibtex: The BibTeX entry.
        ranges: The search ranges of `limbeck tune` by hyper-parameter. Other hyper-parameters are not tuned.
        reads: The outputs of the teacher, or of a peer, that the method uses: ``logits``, ``features``; empty for none.
        labels: ``required``, ``few`` (most examples may be unlabeled), ``optional``, or ``unused``.
        needs: What else the method needs, as a short phrase, such as ``two models that train at once``.
        example: Arguments with which the method runs on the networks of `limbeck.testing.check_method`, for arguments
            without a default. The tests and the page of the method use them.
        trials: The networks and data of the tests: names of `limbeck.testing.trials`, or functions without arguments
            that return a student, a teacher and data.
        tasks: The names of the tasks that the method can learn (`limbeck.tasks`). A method of several tasks has an
            argument ``task``, and takes its losses from it.
        task_reason: Why it cannot learn the other tasks, as the second half of a sentence.
        across_tokenizers: Whether it compares texts and not tokens, so that its teacher is a
            `limbeck.CrossTokenizerTeacher`.
        kernels: What the kernels of the method promise, one `KernelClaim` for each: the conformance suite checks them.
        models_and_data: The arguments with models and data in the command on the page, where pictures do not fit.
        keywords: Other names and abbreviations by which `limbeck methods WORD` finds the method.
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
    reads: tuple[str, ...] = ("logits",)
    labels: str = "optional"
    needs: str = ""
    example: Mapping[str, Any] = field(default_factory=dict)
    trials: tuple[str | Callable[[], Any], ...] = ("mlp", "resnet")
    tasks: tuple[str, ...] = ("classification",)
    task_reason: str = "its losses are not defined for such targets"
    across_tokenizers: bool = False
    kernels: tuple[KernelClaim, ...] = ()
    models_and_data: str = ""
    keywords: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.labels not in _LABELS:
            raise unknown_name_error("labels on a card", self.labels, _LABELS)
        if re.search(r"\bet al\b", self.authors):
            raise ArgumentError(
                f"A card has the last names of all authors, such as 'First, Second and Third'; got {self.authors!r}. "
                "The tables shorten it.", argument="authors",
            )  # fmt: skip

    def get_task(self, task: str | Task) -> Task:
        """The task, if the method can learn it.

        Raises:
            UnknownNameError: If there is no such task.
            LimbeckError: If the method cannot learn it; the message says why.
        """
        task = get_task(task)
        if task.name not in self.tasks:
            raise LimbeckError(
                f"The method {self.name} is for {', '.join(self.tasks)}, and this is {task.name}: {self.task_reason}. "
                f"List the methods for it: limbeck methods --task {task.name}"
            )
        return task

    @property
    def citation(self) -> str:
        """Authors, year and source in a few words, such as ``Hinton et al., 2015, arXiv:1503.02531``."""
        authors = re.split(r", | and ", self.authors)
        first = f"{authors[0]} et al." if len(authors) > 2 else self.authors
        return f"{first}, {self.year}, {f'arXiv:{self.arxiv}' if self.arxiv else self.venue}"

    @classmethod
    def unpublished(cls, name: str, text: str | None) -> MethodCard:
        """Make a card from the name of a function and the first line of its docstring."""
        claim = next(iter((text or "").strip().splitlines()), "")
        return cls(name, "", "", 0, None, "", claim, "", "", tasks=task_names())


@dataclass(frozen=True)
class MethodCall:
    """A method: its card, the function that makes its recipe, and the parameters of this function.

    Attributes:
        card: The description of the method.
        make: A function that returns a `Recipe`.
        parameters: The parameters of the function by name.
    """

    card: MethodCard
    make: Callable[..., Any]
    parameters: Mapping[str, inspect.Parameter]

    @classmethod
    def of(cls, make: Callable[..., Any], card: MethodCard) -> MethodCall:
        """Make the method from a function and a card."""
        parameters = inspect.signature(make).parameters.values()
        return cls(card, make, {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)})

    @property
    def hyper_parameters(self) -> dict[str, inspect.Parameter]:
        """The parameters that a user sets: all but the teacher and the task, which a job passes."""
        return {name: p for name, p in self.parameters.items() if name not in ("teacher", "task")}

    def check_task(self, task: Task) -> None:
        """Check that the method can learn a task.

        Raises:
            LimbeckError: If it cannot; the message names methods that can.
        """
        self.card.get_task(task)

    @property
    def has_teacher(self) -> bool:
        """Whether the method takes a teacher as an argument."""
        return "teacher" in self.parameters

    @property
    def defaults(self) -> dict[str, Any]:
        """The default of each hyper-parameter that has one, without ``epochs`` and ``task``, which the run knows."""
        return {
            name: p.default
            for name, p in self.parameters.items()
            if p.default is not p.empty and name not in ("epochs", "task")
        }

    @property
    def argument_help(self) -> dict[str, str]:
        """The description of each parameter in the docstring, under ``Args:``."""
        lines = inspect.cleandoc(self.make.__doc__ or "").partition("\nArgs:\n")[2].splitlines()
        help: dict[str, str] = {}
        name = ""
        for line in lines:
            if not line.startswith("    "):
                break
            if match := re.fullmatch(r"    (\w+): (.*)", line):
                name, help[match[1]] = match[1], match[2]
            elif name:
                help[name] += f" {line.strip()}"
        return help

    @property
    def required(self) -> tuple[str, ...]:
        """The names of the parameters without a default."""
        return tuple(name for name, p in self.parameters.items() if p.default is p.empty)

    def __call__(self, **arguments: Any) -> Recipe:
        """Check the arguments and make the recipe.

        Raises:
            UnknownNameError: If the method has no such argument. The message suggests the nearest name.
            LimbeckError: If an argument is missing or has the wrong type, or the function does not return a recipe.
        """
        name = self.card.name
        for argument in arguments:
            if argument not in self.parameters:
                then = "This method takes no teacher: leave teacher out." if argument == "teacher" else ""
                raise unknown_name_error(f"argument of {name}()", argument, self.parameters, then=then)
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
    """Check an argument, and convert a whole number to a float where only floats are meant."""
    check_type(name, kind, value)
    numeric = kind is float or float in get_args(kind)
    # A union that holds int as well, such as ``int | float``, keeps whole numbers.
    keeps = int in get_args(kind) or isinstance(value, bool) or not isinstance(value, Real)
    return float(value) if numeric and not keeps else value
