"""How is a recipe run, by a loop that belongs to the reader?"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from limbeck.engine.apart import run_apart
from limbeck.engine.checkpoint import read_checkpoint, to_device, write_checkpoint
from limbeck.engine.folder import Folder
from limbeck.engine.loop import Loop
from limbeck.engine.randomness import capture, cloned, restore, seeded
from limbeck.engine.record import Metrics, Report, check_finite, environment
from limbeck.engine.setting import Setting, open_fabric
from limbeck.engine.workshop import Workshop
from limbeck.errors import LimbeckError
from limbeck.recipe import Apart, Models, Part, Recipe, Stage, Together
from limbeck.sources import Source, as_source

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Run:
    """A recipe on its way: iterate it for reports, or `finish` it.

    Between two reports everything stands still: look, log, save, or ``break``. After a ``break`` no hook is left in
    any model, the student so far is on disk, and iterating again goes on exactly where it stopped. Random numbers that
    the caller draws in between do not change the run, nor does the run change theirs.

    Attributes:
        models: Every model of the run by name.
        history: The reports so far.
        finished: Whether all of the recipe has run.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        recipe: Recipe,
        source: Source,
        *,
        setting: Setting,
        fabric: Fabric,
        out: str | os.PathLike[str] | None = None,
        resume: bool = False,
        metadata: Mapping[str, Any] | None = None,
        student_out: Path | None = None,
    ) -> None:
        self.recipe = recipe
        self.models: Workshop = Workshop(models, recipe.makes, seed=setting.seed)
        self.history: list[Report] = []
        self.finished = False
        self._source = source
        self._setting = setting
        self._fabric = fabric
        self._folder = Folder(out, resume=resume, writes=fabric.is_global_zero, student=student_out)
        self._metrics = Metrics(self._folder.metrics)
        self._metadata = dict(metadata or {})
        self._touched = False
        self._random = seeded(setting.seed + 1_000_003 * fabric.global_rank)
        self._state: dict[str, Any] | None = None
        self._done: list[str] = []
        self._loop: Loop | None = None
        self._written = time.perf_counter()
        if source.resumable:
            source.load_state_dict({"epoch": 0, "batch": 0})
        if resume and self._folder.checkpoint is not None and self._folder.checkpoint.exists():
            self._load(read_checkpoint(self._folder.checkpoint))
        elif resume and self._folder.started and not source.resumable:
            raise LimbeckError(
                f"{self._folder.path} cannot be resumed: {type(source).__name__} has no position to go on from. "
                "Use Shuffled(Arrays(inputs, labels), batch_size=...), or a loader with state_dict()."
            )
        else:
            self._begin()

    def _begin(self) -> None:
        stages = [stage.describe() for stage in self.recipe.stages()]
        self._metrics.rewind(0)
        self._folder.save_student(self.student, self._metadata)
        self._folder.describe({"recipe": stages, "setting": self._setting.describe(), "environment": environment()})

    @property
    def path(self) -> Any:
        """The run's folder, or None."""
        return self._folder.path

    @property
    def student(self) -> nn.Module:
        """What the recipe ships, as it is now; before that exists, the first model."""
        ship = self.recipe.ship
        if isinstance(ship, str):
            return self.models[ship if ship in self.models.made else next(iter(self.models))]
        try:
            return ship(self.models)
        except LimbeckError:
            return self.models[next(iter(self.models))]

    def __iter__(self) -> Iterator[Report]:
        """Reports, until the recipe is done; after a ``break``, iterating again goes on."""
        self._touched = True
        return self._reports()

    def finish(self) -> Run:
        """Run what is left of the recipe.

        Example:
            >>> from limbeck.functional import cross_entropy
            >>> from limbeck.objective import Loss
            >>> inputs, labels = torch.randn(64, 4), torch.randint(0, 3, (64,))
            >>> run = distill(nn.Linear(4, 3), Stage(Loss(cross_entropy), epochs=2), (inputs, labels))
            >>> run.finish().finished
            True
        """
        for _ in self:
            pass
        return self

    def __del__(self) -> None:
        if not getattr(self, "_touched", True):
            warnings.warn("A Run was built and never run: iterate it, or call .finish().", stacklevel=1)

    def _reports(self) -> Iterator[Report]:
        if self.finished:
            return
        outside = capture()
        restore(self._random)
        try:
            for report in self._all_parts():
                self.history.append(report)
                self._metrics.write(report)
                check_finite(report)
                self._random = capture()
                restore(outside)
                yield report
                outside = capture()
                restore(self._random)
            self.finished = True
            self._save()
        except GeneratorExit:
            # Raised at the yield, where everything stands still: the outside's random numbers are already in place.
            self._state = cloned(self._snapshot()) | {"random": cloned(self._random)}
            self._save_on_disk(self._state)
            raise
        except KeyboardInterrupt:
            self._folder.save_student(self.student, self._metadata)
            restore(outside)
            raise
        except BaseException:
            restore(outside)
            raise
        else:
            restore(outside)
        finally:
            self._loop = None

    def _all_parts(self) -> Iterator[Report]:
        for key, part in self._walk(self.recipe.parts, ""):
            if key in self._done:
                continue
            if isinstance(part, Apart):
                yield from run_apart(
                    part, key, self.models, self._source, self._setting, fabric=self._fabric, folder=self._folder
                )
            else:
                yield from self._learn(key, part.stages if isinstance(part, Together) else (part,))
            self._done.append(key)
            self._loop = None
            self._save()

    def _walk(self, parts: Any, prefix: str) -> Iterator[tuple[str, Stage | Together | Apart]]:
        for number, part in enumerate(parts):
            if isinstance(part, (Stage, Together, Apart)):
                yield f"{prefix}{number}", part
            else:
                made = self._made_by(part)
                self.models.makes(made.makes)
                yield from self._walk(made.parts, f"{prefix}{number}.")

    def _made_by(self, function: Any) -> Recipe:
        part = function(self.models)
        if not isinstance(part, Part):
            name = getattr(function, "__name__", "function")
            raise LimbeckError(f"{name}(models) stands in a recipe and must return a stage; it gave {part!r}.")
        return Recipe(part)

    def _learn(self, key: str, stages: tuple[Stage, ...]) -> Iterator[Report]:
        state = self._state["stage"] if self._state and self._state["key"] == key else None
        name = " & ".join(stage.name or stage.trains for stage in stages)
        self._start_epoch(stages, state)
        self._loop = Loop(
            stages, self.models, source=self._source, setting=self._setting, fabric=self._fabric,
            name=f"{key} {name}" if len(self.recipe.parts) > 1 else name,
        )  # fmt: skip
        self._key = key
        yield from self._loop(self._checkpoint_if_due, state)

    def _start_epoch(self, stages: tuple[Stage, ...], state: Any) -> None:
        """A new stage begins with a whole epoch."""
        source = stages[0].source or self._source
        position = source.state_dict() if source.resumable else {"batch": 0}
        if state is None and position["batch"]:
            source.load_state_dict({"epoch": position["epoch"] + 1, "batch": 0})

    def _checkpoint_if_due(self, reported: bool) -> None:
        """Save if it is time; several ranks must agree that it is, so they ask only where they report."""
        several = self._fabric.world_size > 1
        if self._folder.checkpoint is None or (several and not reported):
            return
        due = time.perf_counter() - self._written >= self._setting.checkpoint_seconds
        if self._fabric.broadcast(due) if several else due:
            self._save()

    def _save(self) -> None:
        if self._folder.checkpoint is not None:
            self._save_on_disk(self._snapshot())
        self._written = time.perf_counter()

    def _save_on_disk(self, state: dict[str, Any]) -> None:
        """Only the first rank writes; a sharded state was gathered by all."""
        if self._folder.checkpoint is not None and self._folder.writes:
            if state["exact"] or self.finished:
                write_checkpoint(self._folder.checkpoint, state)
            self._folder.save_student(self.student, self._metadata)

    def _snapshot(self) -> dict[str, Any]:
        """Everything that the run needs to go on, at a moment when everything stands still."""
        loop = self._loop
        stage = loop.state_dict() if loop is not None else None
        return {
            "done": list(self._done),
            "finished": self.finished,
            "exact": self._source.resumable,
            "key": self._key if loop is not None else None,
            "stage": stage,
            "source": self._source.state_dict() if self._source.resumable else None,
            "models": {name: dict(model.state_dict()) for name, model in self.models.made.items()},
            "random": capture(),
            "metrics": self._metrics.position,
        }

    def _load(self, state: dict[str, Any]) -> None:
        self._state = state
        self._done = list(state["done"])
        self.finished = bool(state["finished"])
        if self._fabric.is_global_zero:
            self._random = state["random"]
        self._metrics.rewind(int(state["metrics"]))
        if state["source"] is not None:
            self._source.load_state_dict(state["source"])
        self._load_models(state["models"])
        # Functions in the recipe may bring makers; they see the models as they were when they were first asked.
        for key, _ in self._walk(self.recipe.parts, ""):
            if key not in self._done:
                break
        self._load_models(state["models"])

    def _load_models(self, states: Mapping[str, Any]) -> None:
        for name, saved in states.items():
            if name in self.models:
                self.models[name].load_state_dict(to_device(saved, self._fabric.device))


def distill(
    student: nn.Module | Models,
    recipe: Part,
    data: Any,
    *,
    batch_size: int = 128,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    devices: int | str = "auto",
    strategy: str = "auto",
    accelerator: str = "auto",
    fabric: Fabric | None = None,
    metadata: Mapping[str, Any] | None = None,
    **setting: Any,
) -> Run:
    """Set a recipe going on a student and data; the loop is yours.

    Args:
        student: The model that learns, or several by name (``{"student": a, "peer": b}``).
        recipe: A `Recipe` or a `Stage`: what is learnt, from whom, for how long.
        data: A `Source`; or `Examples`, ``(inputs, labels)``, inputs alone, or a DataLoader, which become one.
        batch_size: Examples to a (micro-)batch on all ranks together, where `data` is not a source already.
        out: The run's folder; without one nothing is written.
        resume: Go on from the checkpoint in `out`, bit for bit, if there is one.
        devices: How many devices; one unless asked for more.
        strategy: Fabric's name: ``ddp``, ``fsdp``, ...
        accelerator: ``cpu``, ``cuda``, ... or ``auto``.
        fabric: A launched Fabric of your own, in place of the three before.
        metadata: What the student's ``config.json`` should say besides: class names, input normalisation.
        **setting: The fields of `Setting`: optimiser, epochs, steps, accumulate, reads, seed, log_every, precision, ...

    Returns:
        A `Run`: iterate it for reports, or call ``finish()``.

    Raises:
        LimbeckError: If anything is wrong that can be known before the first step.

    Example:
        >>> from limbeck.functional import cross_entropy, kl_divergence
        >>> from limbeck.objective import Loss
        >>> objective = 0.1 * Loss(cross_entropy) + 0.9 * Loss(kl_divergence, temperature=4.0)
        >>> stage = Stage(objective, teacher=nn.Linear(4, 3), epochs=1)
        >>> inputs, labels = torch.randn(64, 4), torch.randint(0, 3, (64,))
        >>> for report in distill(nn.Linear(4, 3), stage, (inputs, labels), batch_size=32):
        ...     print(report.step, sorted(report.terms))
        2 ['cross_entropy', 'kl_divergence']
    """
    fixed = _setting(setting)
    models = {"student": student} if isinstance(student, nn.Module) else dict(student)
    whole = recipe if isinstance(recipe, Recipe) else Recipe(recipe)
    source = as_source(data, batch_size=batch_size, seed=fixed.seed)
    ready = fabric or open_fabric(
        precision=fixed.precision, devices=devices, strategy=strategy, accelerator=accelerator
    )
    return Run(models, whole, source, setting=fixed, fabric=ready, out=out, resume=resume, metadata=metadata)


def _setting(given: Mapping[str, Any]) -> Setting:
    from limbeck.errors import unknown

    fields = Setting.__dataclass_fields__
    for name in given:
        if name not in fields:
            raise unknown("argument of distill()", name, fields)
    return replace(Setting(), **given)
