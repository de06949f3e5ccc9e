"""Does a method keep the laws that every method must keep?"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.engine import Run, distill
from limbeck.errors import LimbeckError
from limbeck.methods import Card, Method, method
from limbeck.models import build
from limbeck.recipe import Recipe
from limbeck.sources import Arrays
from limbeck.testing.law import require, require_plain, same_weights, traces, weights

_OF = "methods"
_CLASSES, _EXAMPLES, _SIDE = 3, 48, 8


def check_method(found: str | Callable[..., Any], **arguments: Any) -> None:
    """Check a method against every law that applies to it: it runs for an epoch, twice, on a tiny MLP and a tiny CNN.

    Both have the addresses ``layer1``, ``layer2``, ``features`` and ``classifier``; the data have labels and the column
    ``privileged``, of the inputs' shape.

    The laws: its card is whole, and its defaults are the function's; it does not take arguments of any name; it returns
    a recipe whose stages describe themselves; the losses are finite; what is shipped has moved from where the student
    began, and the teacher has not; the same seed gives the same weights, bit for bit; no hook, flag or key is left in
    any model.

    Args:
        found: A method's name, or a function that returns a `Recipe`, with its ``CARD`` in its module if it has one.
        **arguments: What it cannot do without, besides ``teacher``: ``hint="layer1"``.

    Raises:
        AssertionError: With a sentence that says which law is broken.

    Example:
        >>> check_method("fitnets", hint="layer1", guided="layer1")
    """
    one = _method(found)
    _check_card(one)
    _check_arguments(one)
    for kind in ("mlp", "cnn"):
        _check_runs(one, arguments, kind)


def _method(found: str | Callable[..., Any]) -> Method:
    if isinstance(found, str):
        return method(found)
    card = getattr(sys.modules.get(found.__module__), "CARD", None)
    return Method.of(found, card if isinstance(card, Card) else _blank(found.__name__))


def _blank(name: str) -> Card:
    return Card(name, "", "", 0, None, "", "", "", {}, "")


def _check_card(one: Method) -> None:
    card = one.card
    if not card.title:
        return
    for field in ("name", "title", "authors", "year", "venue", "claim", "when", "bibtex"):
        require(bool(getattr(card, field)), f"its card has no {field}", of=_OF)
    require(card.name == one.make.__name__, f"its card is called {card.name!r}", of=_OF)
    own = {n: p.default for n, p in one.parameters.items() if p.default is not p.empty and n != "epochs"}
    require(dict(card.defaults) == own, f"its card gives the defaults {dict(card.defaults)}, and it has {own}", of=_OF)
    require("epochs" in one.parameters, "it has no argument epochs=", of=_OF)


def _check_arguments(one: Method) -> None:
    kinds = [parameter.kind for parameter in inspect.signature(one.make).parameters.values()]
    require(inspect.Parameter.VAR_KEYWORD not in kinds, "it accepts any argument, also a misspelt one", of=_OF)


def _check_runs(one: Method, arguments: dict[str, Any], kind: str) -> None:
    teacher = _network(kind, wide=True).eval()
    kept, before = weights(teacher), traces([teacher])
    given = {"teacher": teacher} | arguments if one.has_teacher else arguments
    runs = [_run(_built(one, given), kind) for _ in range(2)]
    require(same_weights(weights(teacher), kept), f"on the {kind} the teacher has moved", of=_OF)
    begun = weights(_network(kind, wide=False))
    for run in runs:
        bad = [(r.stage, r.loss) for r in run.history if not torch.isfinite(torch.tensor(r.loss))]
        require(bool(run.history) and not bad, f"on the {kind} its losses are not finite: {bad}", of=_OF)
        shipped = weights(run.student)
        require(not same_weights(shipped, begun), f"on the {kind} the student has not moved", of=_OF)
    first, second = ({name: weights(model) for name, model in run.models.items()} for run in runs)
    same = first.keys() == second.keys() and all(same_weights(first[name], second[name]) for name in first)
    require(same, f"on the {kind} one seed gives two results", of=_OF)
    clean = traces([_network(kind, wide=False)]) * len(runs[0].models)
    require(traces(runs[0].models.values()) == clean, f"on the {kind} it leaves traces in a model", of=_OF)
    require(traces([teacher]) == before, f"on the {kind} it leaves traces in the teacher", of=_OF)


def _built(one: Method, given: dict[str, Any]) -> Recipe:
    try:
        return one(**given)
    except LimbeckError as error:
        raise AssertionError(f"A law of methods is broken: it cannot be built ({error})") from error


def _run(recipe: Recipe, kind: str) -> Run:
    for stage in recipe.stages():
        require_plain(stage.describe(), of=_OF)
        require(bool(stage.name), "a stage has no name", of=_OF)
    return distill(_network(kind, wide=False), recipe, _data(kind), batch_size=16, epochs=1, seed=3).finish()


def _network(kind: str, *, wide: bool) -> nn.Module:
    width = 8 if wide else 4
    if kind == "mlp":
        return build("mlp", inputs=6, classes=_CLASSES, hidden=[width, width], dropout=0.1, seed=1)
    return build("cnn", channels=1, classes=_CLASSES, widths=[width, width], size=_SIDE, dropout=0.1, seed=1)


def _data(kind: str) -> Arrays:
    draw = torch.Generator().manual_seed(0)
    shape = (6,) if kind == "mlp" else (1, _SIDE, _SIDE)
    inputs: Tensor = torch.randn(_EXAMPLES, *shape, generator=draw)
    labels = torch.randint(_CLASSES, (_EXAMPLES,), generator=draw)
    return Arrays(inputs, labels, extra={"privileged": inputs + 0.1})
