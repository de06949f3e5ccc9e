"""The laws of methods that need runs on tiny networks: training, resuming, accumulation, export."""

from __future__ import annotations

import copy
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck.engine import Run, distill
from limbeck.errors import LimbeckError
from limbeck.export import to_folder
from limbeck.methods import MethodCall
from limbeck.models import load, loads_without_code, read_config
from limbeck.recipe import Optimizer, Recipe
from limbeck.testing.law import LawError, hooks_in, require, require_plain, same_weights, traces, weights
from limbeck.testing.trials import Trial, without_noise

OF = "methods"

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class WholeRun:
    """One uninterrupted run, and what was there before it.

    Attributes:
        run: The run at its end.
        before: The weights of each model that was given, before the run.
        clean: The traces of each model that was given, before the run.
        teacher: The teacher.
        teacher_before: The weights and traces of the teacher before the recipe was made.
    """

    run: Run
    before: Mapping[str, State]
    clean: Mapping[str, Any]
    teacher: Any
    teacher_before: tuple[State, list[Any]]


@dataclass(frozen=True)
class MethodCheck:
    """A method and what to run it on. Laws share its runs.

    Attributes:
        call: The method.
        settings: Its arguments.
        name: The name of the networks.
        trial: The networks and data.
        first: Whether these are the first networks. What does not depend on networks is checked only there.
    """

    call: MethodCall
    settings: Mapping[str, Any]
    name: str
    trial: Trial
    first: bool = True

    def require(self, condition: bool, broken: str) -> None:
        """Raise a `LawError` that names the networks if a condition is false."""
        require(condition, f"on the {self.name} {broken}", of=OF)

    def recipe(self, teacher: Any, **changed: Any) -> Recipe:
        """Make the recipe."""
        first = {"teacher": teacher} if self.call.has_teacher else {}
        try:
            return self.call(**first, **{**self.settings, **changed})
        except LimbeckError as error:
            raise LawError(OF, [f"it cannot be built ({error})"]) from error

    def run(self, **options: Any) -> Run:
        """Start a run on new copies of the networks."""
        student, teacher, data = self.trial()
        return self.start(student, self.recipe(teacher), data, **options)

    @staticmethod
    def start(student: Any, recipe: Recipe, data: Any, **options: Any) -> Run:
        """Start a run of one epoch, in this process."""
        usual = {"batch_size": 16, "epochs": 1, "seed": 3, "log_every": 1, "checkpoint_seconds": 0.0, "workers": 1}
        return distill(student, recipe, data, **{**usual, **options})

    @cached_property
    def whole(self) -> WholeRun:
        """One uninterrupted run, which several laws look at."""
        student, teacher, data = self.trial()
        models = _modules(student)
        before = {name: weights(model) for name, model in models.items()}
        clean = dict(zip(models, traces(models.values()), strict=True))
        teacher_before = _state_of(teacher)
        run = self.start(student, self.recipe(teacher), data).finish()
        return WholeRun(run, before, clean, teacher, teacher_before)


def check_stages(check: MethodCheck) -> None:
    """Its stages have names, describe themselves, and take the length that is passed as epochs."""
    if not check.first:
        return
    stages = list(check.recipe(check.trial()[1]).stages())
    for stage in stages:
        require_plain(stage.describe(), of=OF)
        require(bool(stage.name), "a stage has no name", of=OF)
    if "epochs" not in check.call.parameters:
        return
    lengths = [stage.epochs for stage in check.recipe(check.trial()[1], epochs=7).stages()]
    own = sum(name.endswith("_epochs") for name in check.call.parameters)
    wrong = [length for length in lengths if length != 7]
    require(len(wrong) <= own, f"epochs=7 gives stages of {lengths} epochs", of=OF)


def check_training(check: MethodCheck) -> None:
    """The losses are finite, the final model changes, the teacher does not, and no traces are left."""
    whole = check.whole
    run = whole.run
    problems = [(report.stage, report.loss) for report in run.history if not math.isfinite(report.loss)]
    check.require(bool(run.history) and not problems, f"its losses are not finite: {problems}")
    shipped = weights(run.student)
    changed = not any(same_weights(shipped, state) for state in whole.before.values())
    check.require(changed, "the student has not changed")
    after = _state_of(whole.teacher)
    check.require(same_weights(after[0], whole.teacher_before[0]), "the teacher has changed")
    check.require(after[1] == whole.teacher_before[1], "it leaves traces in the teacher")
    for name, model in run.models.items():
        clear = traces([model]) == [whole.clean[name]] if name in whole.clean else not hooks_in(model)
        check.require(clear, f"it leaves traces in the model {name!r}")


def check_resume(check: MethodCheck) -> None:
    """A second run with the same seed, killed and resumed, gives the same bits, and refuses other hyper-parameters."""
    whole = check.whole.run
    with tempfile.TemporaryDirectory() as folder:
        killed = _killed_run(check, Path(folder))
        resumed = check.run(out=killed, resume=True).finish()
        if not _same_models(whole, resumed):
            # Whatever differs between two whole runs has nothing to do with the kill.
            check.require(_same_models(whole, check.run().finish()), "two runs with one seed differ")
        for name, model in whole.models.items():
            same = name in resumed.models and same_weights(weights(resumed.models[name]), weights(model))
            check.require(same, f"the model {name!r} differs after a kill and a resume")
        for name, value in _other_settings(check) if check.first else ():
            same = _resumes(check, killed, name, value)
            check.require(not same, f"a run is resumed with another {name} ({value!r})")


def _killed_run(check: MethodCheck, folder: Path) -> Path:
    """Start a run in a folder, and copy what a SIGKILL after its second step leaves there."""
    out, killed = folder / "run", folder / "killed"
    run = check.run(out=out)
    for number, _ in enumerate(run, 1):
        if number > 1 and (out / "checkpoint.safetensors").exists():
            shutil.copytree(out, killed)
            break
    check.require(killed.exists(), "a run writes no checkpoint before its end")
    return killed


def _same_models(mine: Run, theirs: Run) -> bool:
    first, second = ({name: weights(model) for name, model in run.models.items()} for run in (mine, theirs))
    return first.keys() == second.keys() and all(same_weights(first[name], second[name]) for name in first)


def _other_settings(check: MethodCheck) -> list[tuple[str, Any]]:
    """Another valid value for each hyper-parameter that is a number or a choice between true and false."""
    other = []
    teacher = check.trial()[1]
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
                check.recipe(teacher, **{name: choice})
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
        if any(isinstance(part, _BatchNorm) for model in run.models.values() for part in model.modules()):
            return  # a model that the recipe made sees other means in a part of a batch, as any with BatchNorm does
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
    student = check.whole.run.student
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
    check_accumulation,
    check_export,
)
"""The laws that need networks and data."""

COSTLY_LAWS = (check_resume, check_accumulation)
"""The laws with runs of their own."""


def _modules(student: nn.Module | Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    return {"student": student} if isinstance(student, nn.Module) else dict(student)


def _state_of(teacher: Any) -> tuple[State, list[Any]]:
    """The weights and traces of a teacher; empty if it is no module."""
    return (weights(teacher), traces([teacher])) if isinstance(teacher, nn.Module) else ({}, [])
