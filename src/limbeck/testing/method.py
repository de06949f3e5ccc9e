"""`check_method`: checks the laws of methods."""

from __future__ import annotations

import copy
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional.kernel import is_checked
from limbeck.methods import MethodCall, MethodCard, method
from limbeck.testing.law import check_laws, require
from limbeck.testing.method_runs import COSTLY_LAWS, METHOD_LAWS, OF, MethodCheck
from limbeck.testing.trials import Trial, get_trial


def check_method(
    function: str | Callable[..., Any],
    *,
    student: nn.Module | Mapping[str, nn.Module] | None = None,
    teacher: Any = None,
    data: Any = None,
    thorough: bool = True,
    **arguments: Any,
) -> None:
    """Check a method against all laws of methods, in runs of one epoch on tiny networks.

    The laws:

    * Its card is complete, and its BibTeX is valid.
    * It has no ``**kwargs``, its docstring explains each argument, and numbers refuse NaN.
    * It returns a recipe whose stages describe themselves and take the length that is passed as ``epochs``.
    * The losses are finite.
    * The final model has changed. The teacher has not, its BatchNorm statistics included.
    * The same seed gives bitwise equal weights.
    * No hook, flag or key remains in any model. In models that the recipe makes, only hooks are checked.
    * A run that is killed after any step and resumed gives bitwise equal weights.
    * A resumed run refuses other hyper-parameters.
    * ``accumulate=2`` with half the batch size gives the weights of the whole batch, or is refused.
    * The final model can be saved and loaded again.

    By default it uses the networks of its card, usually an MLP with dropout and a residual network with BatchNorm. Both
    have the layers ``layer1``, ``layer2``, ``features`` and ``classifier``. The data have labels and a column
    ``privileged`` of the shape of the inputs.

    Args:
        function: The name of a method, or a function that returns a `Recipe`; its ``CARD``, if any, is in its module.
        student: Your own student, or several models by name, in place of the default networks. It is copied for each
            run.
        teacher: Your own teacher, for a method that takes one.
        data: Data for `distill`, at least two batches of 16; needed with `student`.
        thorough: Whether all laws are checked on all networks. False leaves out those that cost most, of resumed and
            of accumulated runs, on all networks but the first.
        **arguments: Arguments of the method, such as ``hint="layer1"``; by default those of ``CARD.example``.

    Raises:
        LawError: If laws are broken; the message lists all of them.
        ArgumentError: If only some of student, teacher and data are passed.

    Example:
        >>> check_method("fitnets", hint="layer1", guided="layer1")
    """
    call = _method(function)
    settings = {**call.card.example, **arguments}
    checks = [partial(check_card, call), partial(check_arguments, call, settings)]
    for number, (name, trial) in enumerate(_trials(call, student, teacher, data).items()):
        check = MethodCheck(call, settings, name, trial, first=number == 0)
        checks += [partial(law, check) for law in METHOD_LAWS if thorough or check.first or law not in COSTLY_LAWS]
    check_laws(checks, of=OF, subject=call.card.name)


def _method(function: str | Callable[..., Any]) -> MethodCall:
    if isinstance(function, str):
        return method(function)
    card = vars(sys.modules.get(function.__module__, object)).get("CARD")
    known = isinstance(card, MethodCard) and card.name == function.__name__
    return MethodCall.of(function, card if known else MethodCard.unpublished(function.__name__, None))  # type: ignore[arg-type]


def _trials(call: MethodCall, student: Any, teacher: Any, data: Any) -> dict[str, Trial]:
    if student is None and teacher is None and data is None:
        return dict(get_trial(trial) for trial in call.card.trials)
    for name, value in {"student": student, "data": data, "teacher": teacher or not call.has_teacher}.items():
        if value is None or value is False:
            raise ArgumentError(
                f"check_method with your own networks needs student=, data= and, for this method, "
                f"{'also ' if call.has_teacher else 'no '}teacher=; {name} is missing.",
                argument=name,
            )
    return {"given networks": lambda: copy.deepcopy((student, teacher, data))}


def check_card(call: MethodCall) -> None:
    """Its card is complete, and its BibTeX is valid."""
    card = call.card
    if not card.title:
        return
    fields = ("name", "title", "authors", "year", "venue", "claim", "when", "bibtex")
    missing = [field for field in fields if not vars(card)[field]]
    require(not missing, f"its card has no {', '.join(missing)}", of=OF)
    require(card.name == call.make.__name__, f"the name on its card is {card.name!r}", of=OF)
    require("epochs" in call.parameters, "it has no argument epochs=", of=OF)
    unexplained = [name for name in call.parameters if name not in call.argument_help]
    require(not unexplained, f"its docstring has no entry under Args for {', '.join(unexplained)}", of=OF)
    require_bibtex(card.bibtex)


def require_bibtex(text: str) -> None:
    """Raise unless a text is one or several BibTeX entries, each with a key, a title, an author and a year.

    Raises:
        LawError: If it is not.
    """
    for entry in re.split(r"\n(?=@)", text):
        whole = re.fullmatch(r"@\w+\{[^,\s{}]+,.*\}", entry, re.DOTALL) and entry.count("{") == entry.count("}")
        lacking = [name for name in ("title", "author", "year") if not re.search(rf"[,\s]{name}\s*=\s*[{{\"]", entry)]
        require(
            bool(whole), f"its bibtex is not a complete entry, @article{{key, title={{...}}, ...}}: {entry!r}", of=OF
        )
        require(not lacking, f"its bibtex lacks {', '.join(lacking)}: {entry!r}", of=OF)


def check_arguments(call: MethodCall, settings: Mapping[str, Any]) -> None:
    """Its arguments have names, and numbers refuse NaN."""
    kinds = [parameter.kind for parameter in inspect.signature(call.make).parameters.values()]
    require(inspect.Parameter.VAR_KEYWORD not in kinds, "it accepts arguments of any name, also misspelled ones", of=OF)
    teacher = {"teacher": nn.Linear(6, 3)} if call.has_teacher else {}
    for name, value in call.defaults.items():
        if isinstance(value, float):
            try:
                call(**teacher, **{**settings, name: math.nan})
            except LimbeckError:
                continue
            call_of, place = ("check_hyper", "functional") if is_checked(name) else ("check_weight", "methods.support")
            hint = f"call {call_of}({name}={name})"
            require(
                False,
                f"it accepts {name}=nan; {hint} of limbeck.{place} when it is built, or raise an ArgumentError",
                of=OF,
            )
