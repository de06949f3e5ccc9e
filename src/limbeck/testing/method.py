"""`check_method`: checks the laws of methods."""

from __future__ import annotations

import copy
import inspect
import math
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.engine import Run, distill
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.export import to_folder
from limbeck.methods import MethodCall, MethodCard, method
from limbeck.models import load, loads_without_code, read_config
from limbeck.recipe import Optimizer, Recipe
from limbeck.testing.law import LawError, check_laws, hooks_in, require, require_plain, same_weights, traces, weights
from limbeck.testing.trials import Trial, get_trial, without_noise

_OF = "methods"


def check_method(
    function: str | Callable[..., Any],
    *,
    student: nn.Module | Mapping[str, nn.Module] | None = None,
    teacher: Any = None,
    data: Any = None,
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
        laws = METHOD_LAWS if number == 0 else tuple(law for law in METHOD_LAWS if law not in _ONCE)
        checks += [partial(law, MethodCheck(call, settings, name, trial)) for law in laws]
    check_laws(checks, of=_OF, subject=call.card.name)


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
    require(not missing, f"its card has no {', '.join(missing)}", of=_OF)
    require(card.name == call.make.__name__, f"the name on its card is {card.name!r}", of=_OF)
    require("epochs" in call.parameters, "it has no argument epochs=", of=_OF)
    unexplained = [name for name in call.parameters if name not in call.argument_help]
    require(not unexplained, f"its docstring has no entry under Args for {', '.join(unexplained)}", of=_OF)
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
            bool(whole), f"its bibtex is not a complete entry, @article{{key, title={{...}}, ...}}: {entry!r}", of=_OF
        )
        require(not lacking, f"its bibtex lacks {', '.join(lacking)}: {entry!r}", of=_OF)


def check_arguments(call: MethodCall, settings: Mapping[str, Any]) -> None:
    """Its arguments have names, and numbers refuse NaN."""
    kinds = [parameter.kind for parameter in inspect.signature(call.make).parameters.values()]
    require(
        inspect.Parameter.VAR_KEYWORD not in kinds, "it accepts arguments of any name, also misspelled ones", of=_OF
    )
    teacher = {"teacher": nn.Linear(6, 3)} if call.has_teacher else {}
    for name, value in call.defaults.items():
        if isinstance(value, float):
            try:
                call(**teacher, **{**settings, name: math.nan})
            except LimbeckError:
                continue
            require(False, f"it accepts {name}=nan; raise an ArgumentError when it is built", of=_OF)


@dataclass(frozen=True)
class MethodCheck:
    """A method, its arguments, and networks and data to run it on."""

    call: MethodCall
    settings: Mapping[str, Any]
    name: str
    trial: Trial

    def require(self, condition: bool, broken: str) -> None:
        """Raise a `LawError` that names the networks if a condition is false."""
        require(condition, f"on the {self.name} {broken}", of=_OF)

    def recipe(self, teacher: Any, **changed: Any) -> Recipe:
        """Make the recipe."""
        first = {"teacher": teacher} if self.call.has_teacher else {}
        try:
            return self.call(**first, **{**self.settings, **changed})
        except LimbeckError as error:
            raise LawError(_OF, [f"it cannot be built ({error})"]) from error

    def run(self, **options: Any) -> Run:
        """Start a run on new copies of the networks."""
        student, teacher, data = self.trial()
        return self.start(student, self.recipe(teacher), data, **options)

    @staticmethod
    def start(student: Any, recipe: Recipe, data: Any, **options: Any) -> Run:
        """Start a run of one epoch, in this process."""
        usual = {"batch_size": 16, "epochs": 1, "seed": 3, "log_every": 1, "checkpoint_seconds": 0.0, "workers": 1}
        return distill(student, recipe, data, **{**usual, **options})


def check_stages(check: MethodCheck) -> None:
    """Its stages have names, describe themselves, and take the length that is passed as epochs."""
    stages = list(check.recipe(check.trial()[1]).stages())
    for stage in stages:
        require_plain(stage.describe(), of=_OF)
        require(bool(stage.name), "a stage has no name", of=_OF)
    if "epochs" not in check.call.parameters:
        return
    lengths = [stage.epochs for stage in check.recipe(check.trial()[1], epochs=7).stages()]
    own = sum(name.endswith("_epochs") for name in check.call.parameters)
    wrong = [length for length in lengths if length != 7]
    require(len(wrong) <= own, f"epochs=7 gives stages of {lengths} epochs", of=_OF)


def check_training(check: MethodCheck) -> None:
    """Two runs with one seed are equal, the final model changes, the teacher does not, and no traces are left."""
    runs, teachers = [], []
    student, teacher, data = check.trial()
    before, teacher_before = weights_of(student), _state_of(teacher)
    clean = traces(_modules(student).values())
    for _ in range(2):
        student, teacher, data = check.trial()
        runs.append(check.start(student, check.recipe(teacher), data).finish())
        teachers.append(teacher)
    problems = [(report.stage, report.loss) for report in runs[0].history if not math.isfinite(report.loss)]
    check.require(bool(runs[0].history) and not problems, f"its losses are not finite: {problems}")
    first, second = ({name: weights(model) for name, model in run.models.items()} for run in runs)
    same = first.keys() == second.keys() and all(same_weights(first[name], second[name]) for name in first)
    check.require(same, "two runs with one seed differ")
    shipped = weights(runs[0].student)
    check.require(not any(same_weights(shipped, state) for state in before.values()), "the student has not changed")
    for used in teachers:
        after = _state_of(used)
        check.require(same_weights(after[0], teacher_before[0]), "the teacher has changed")
        check.require(after[1] == teacher_before[1], "it leaves traces in the teacher")
    untouched = dict(zip(_modules(student), clean, strict=True))
    for name, model in runs[0].models.items():
        clear = traces([model]) == [untouched[name]] if name in untouched else not hooks_in(model)
        check.require(clear, f"it leaves traces in the model {name!r}")


def check_resume(check: MethodCheck) -> None:
    """A run that is killed and resumed gives the same bits."""
    with tempfile.TemporaryDirectory() as folder:
        out, killed = Path(folder, "run"), Path(folder, "killed")
        whole = check.run(out=out)
        for number, _ in enumerate(whole, 1):
            if number > 1 and not killed.exists() and (out / "checkpoint.safetensors").exists():
                # What a SIGKILL leaves at this moment: nothing after this copy is written into it.
                shutil.copytree(out, killed)
        check.require(killed.exists(), "a run writes no checkpoint before its end")
        resumed = check.run(out=killed, resume=True).finish()
        for name, model in whole.models.items():
            same = name in resumed.models and same_weights(weights(resumed.models[name]), weights(model))
            check.require(same, f"the model {name!r} differs after a kill and a resume")


def check_settings(check: MethodCheck) -> None:
    """A resumed run refuses other hyper-parameters."""
    with tempfile.TemporaryDirectory() as folder:
        check.run(out=folder).finish()
        for name, value in _other_settings(check):
            same = _resumes(check, Path(folder), name, value)
            check.require(not same, f"a run is resumed with another {name} ({value!r})")


def _other_settings(check: MethodCheck) -> list[tuple[str, Any]]:
    """Another valid value for each hyper-parameter that is a number or a choice between true and false."""
    other = []
    for name, default in check.call.defaults.items():
        value = check.settings.get(name, default)
        if isinstance(value, bool):
            choices: list[Any] = [not value]
        elif isinstance(value, Real):
            choices = (
                [value + 1, value - 1] if isinstance(value, int) else [0.9 * float(value) or 0.1, 1.1 * float(value)]
            )
        else:
            continue
        for choice in choices:
            try:
                check.recipe(check.trial()[1], **{name: choice})
            except LawError:
                continue
            other.append((name, choice))
            break
    return other


def _resumes(check: MethodCheck, folder: Path, name: str, value: Any) -> bool:
    student, teacher, data = check.trial()
    recipe = check.recipe(teacher, **{name: value})
    try:
        check.start(student, recipe, data, out=folder, resume=True).finish()
    except LimbeckError:
        return False
    return True


def check_accumulation(check: MethodCheck) -> None:
    """Two halves of a batch give the weights of the whole batch, or are refused."""
    optimizer = Optimizer("sgd", lr=0.05)  # others enlarge rounding errors
    results = []
    for size, accumulate in ((16, 1), (8, 2)):
        student, teacher, data = check.trial()
        try:
            recipe = check.recipe(without_noise(teacher))
            run = check.start(
                without_noise(student), recipe, data, batch_size=size, accumulate=accumulate, optimizer=optimizer
            ).finish()
        except LimbeckError:
            if accumulate == 1:
                raise
            return
        results.append(weights(run.student))
    whole, halves = results
    largest = max(
        float((halves[key].double() - tensor.double()).abs().max()) for key, tensor in whole.items() if tensor.numel()
    )
    check.require(
        largest < 1e-3, f"accumulate=2 changes weights by up to {largest:.2g}; refuse it, or count each value once"
    )


def check_export(check: MethodCheck) -> None:
    """The final model can be saved and loaded again."""
    student = check.run().finish().student
    with tempfile.TemporaryDirectory() as folder:
        path = to_folder(student, Path(folder, "student"))
        opened = (
            load(path) if loads_without_code(read_config(path)) else load(path, build=partial(copy.deepcopy, student))
        )
        check.require(same_weights(weights(opened), weights(student)), "its final model differs after save and load")


METHOD_LAWS: tuple[Callable[[MethodCheck], None], ...] = (
    check_stages,
    check_training,
    check_resume,
    check_settings,
    check_accumulation,
    check_export,
)
"""The laws that need networks and data."""

_ONCE = (check_stages, check_settings)  # they do not depend on the networks


def _modules(student: nn.Module | Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    return {"student": student} if isinstance(student, nn.Module) else dict(student)


def weights_of(student: nn.Module | Mapping[str, nn.Module]) -> dict[str, dict[str, torch.Tensor]]:
    """Copy the states of one model or of several."""
    return {name: weights(model) for name, model in _modules(student).items()}


def _state_of(teacher: Any) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """The weights and traces of a teacher; empty if it is no module."""
    return (weights(teacher), traces([teacher])) if isinstance(teacher, nn.Module) else ({}, [])
