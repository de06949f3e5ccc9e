"""`check_method`: checks the laws of methods."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data import ArrayDataset
from limbeck.engine import Run, distill
from limbeck.errors import LimbeckError
from limbeck.methods import MethodCall, MethodCard, method
from limbeck.models import build
from limbeck.recipe import Recipe
from limbeck.testing.law import hooks_in, require, require_plain, same_weights, traces, weights

Trial = Callable[[], tuple[nn.Module, nn.Module, Any]]
"""Makes a student, a teacher, and data for `distill`."""
_OF = "methods"
_CLASSES, _EXAMPLES, _SIDE = 3, 48, 8


def check_method(
    function: str | Callable[..., Any], *, on: Mapping[str, Trial] | None = None, **arguments: Any
) -> None:
    """Check a method against all laws of methods, in runs of one epoch on a tiny MLP and a tiny CNN.

    Both networks have the layers ``layer1``, ``layer2``, ``features`` and ``classifier``. The data have labels and a
    column ``privileged`` of the shape of the inputs.

    The laws:

    * Its card is complete, and its BibTeX is valid.
    * It has no ``**kwargs``.
    * It returns a recipe whose stages describe themselves.
    * The losses are finite.
    * The final model has changed, and the teacher has not.
    * The same seed gives bitwise equal weights.
    * No hook, flag or key remains in any model. In models that the recipe makes, other than the student, only hooks are
      checked.

    Args:
        function: The name of a method, or a function that returns a `Recipe`; its ``CARD``, if any, is in its module.
        on: Your own models and data, by any name, instead of the two networks: a function that returns a student, a
            teacher and data, the same ones in every call. A method for transformers needs this.
        **arguments: The required arguments of the method, except ``teacher``, such as ``hint="layer1"``.

    Raises:
        AssertionError: If a law is broken; the message names it.

    Example:
        >>> check_method("fitnets", hint="layer1", guided="layer1")
    """
    call = _method(function)
    _check_card(call)
    _check_arguments(call)
    usual: dict[str, Trial] = {kind: partial(_usual, kind) for kind in ("mlp", "cnn")}
    for kind, trial in (usual if on is None else on).items():
        _check_runs(call, arguments, kind, trial)


def _method(function: str | Callable[..., Any]) -> MethodCall:
    if isinstance(function, str):
        return method(function)
    card = getattr(sys.modules.get(function.__module__), "CARD", None)
    return MethodCall.of(function, card if isinstance(card, MethodCard) else _blank(function.__name__))


def _blank(name: str) -> MethodCard:
    return MethodCard(name, "", "", 0, None, "", "", "", "")


def _check_card(call: MethodCall) -> None:
    card = call.card
    if not card.title:
        return
    for field in ("name", "title", "authors", "year", "venue", "claim", "when", "bibtex"):
        require(bool(getattr(card, field)), f"its card has no {field}", of=_OF)
    require(card.name == call.make.__name__, f"the name on its card is {card.name!r}", of=_OF)
    require("epochs" in call.parameters, "it has no argument epochs=", of=_OF)
    require_bibtex(card.bibtex)


def _check_arguments(call: MethodCall) -> None:
    kinds = [parameter.kind for parameter in inspect.signature(call.make).parameters.values()]
    require(
        inspect.Parameter.VAR_KEYWORD not in kinds, "it accepts arguments of any name, also misspelled ones", of=_OF
    )


def require_bibtex(text: str) -> None:
    """Raise unless a text is one or several BibTeX entries, each with a key, a title, an author and a year.

    Raises:
        AssertionError: If it is not.
    """
    for entry in re.split(r"\n(?=@)", text):
        whole = re.fullmatch(r"@\w+\{[^,\s{}]+,.*\}", entry, re.DOTALL) and entry.count("{") == entry.count("}")
        lacking = [name for name in ("title", "author", "year") if not re.search(rf"[,\s]{name}\s*=\s*[{{\"]", entry)]
        require(
            bool(whole), f"its bibtex is not a complete entry, @article{{key, title={{...}}, ...}}: {entry!r}", of=_OF
        )
        require(not lacking, f"its bibtex lacks {', '.join(lacking)}: {entry!r}", of=_OF)


def _check_runs(call: MethodCall, arguments: dict[str, Any], kind: str, trial: Trial) -> None:
    untouched, teacher, _ = trial()
    teacher.eval()
    teacher_weights, before = weights(teacher), traces([teacher])
    options = {"teacher": teacher} | arguments if call.has_teacher else arguments
    runs = [_run(_make_recipe(call, options), trial) for _ in range(2)]
    require(same_weights(weights(teacher), teacher_weights), f"on the {kind} the teacher has changed", of=_OF)
    start = weights(untouched)
    for run in runs:
        bad = [(r.stage, r.loss) for r in run.history if not torch.isfinite(torch.tensor(r.loss))]
        require(bool(run.history) and not bad, f"on the {kind} its losses are not finite: {bad}", of=_OF)
        shipped = weights(run.student)
        require(not same_weights(shipped, start), f"on the {kind} the student has not changed", of=_OF)
    first, second = ({name: weights(model) for name, model in run.models.items()} for run in runs)
    same = first.keys() == second.keys() and all(same_weights(first[name], second[name]) for name in first)
    require(same, f"on the {kind} two runs with one seed differ", of=_OF)
    for name, model in runs[0].models.items():
        require(_is_clean(name, model, untouched), f"on the {kind} it leaves traces in the model {name!r}", of=_OF)
    require(traces([teacher]) == before, f"on the {kind} it leaves traces in the teacher", of=_OF)


def _is_clean(name: str, model: nn.Module, untouched: nn.Module) -> bool:
    """Whether a model has no traces of the run. Models other than the student are checked for hooks only."""
    alike = [type(module) for module in model.modules()] == [type(module) for module in untouched.modules()]
    return traces([model]) == traces([untouched]) if name == "student" or alike else not hooks_in(model)


def _make_recipe(call: MethodCall, options: dict[str, Any]) -> Recipe:
    try:
        return call(**options)
    except LimbeckError as error:
        raise AssertionError(f"A law of methods is broken: it cannot be built ({error})") from error


def _run(recipe: Recipe, trial: Trial) -> Run:
    for stage in recipe.stages():
        require_plain(stage.describe(), of=_OF)
        require(bool(stage.name), "a stage has no name", of=_OF)
    student, _, data = trial()
    return distill(student, recipe, data, batch_size=16, epochs=1, seed=3).finish()


def _usual(kind: str) -> tuple[nn.Module, nn.Module, Any]:
    return _network(kind, wide=False), _network(kind, wide=True), _data(kind)


def _network(kind: str, *, wide: bool) -> nn.Module:
    width = 8 if wide else 4
    if kind == "mlp":
        return build("mlp", inputs=6, classes=_CLASSES, hidden=[width, width], dropout=0.1, seed=1)
    return build("cnn", channels=1, classes=_CLASSES, widths=[width, width], size=_SIDE, dropout=0.1, seed=1)


def _data(kind: str) -> ArrayDataset:
    draw = torch.Generator().manual_seed(0)
    shape = (6,) if kind == "mlp" else (1, _SIDE, _SIDE)
    inputs: Tensor = torch.randn(_EXAMPLES, *shape, generator=draw)
    labels = torch.randint(_CLASSES, (_EXAMPLES,), generator=draw)
    return ArrayDataset(inputs, labels, extra={"privileged": inputs + 0.1})
