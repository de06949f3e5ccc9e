"""`Run`: a recipe as an iterator of reports."""

from __future__ import annotations

import os
import sys
import time
import warnings
import weakref
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from limbeck.data import Loader
from limbeck.engine.checkpoint import read_checkpoint, write_checkpoint
from limbeck.engine.distributed import gather_states, lost_rank_explained, random_of_rank, seed_of_rank
from limbeck.engine.parallel_branches import ParallelBranches
from limbeck.engine.preflight import preflight_check
from limbeck.engine.recipe_runner import RecipeRunner
from limbeck.engine.rng import capture, clone_rng_state, restore, seed_all
from limbeck.engine.run_folder import RunFolder
from limbeck.engine.run_models import RunModels
from limbeck.engine.run_state import describe_run, load_state_dict, not_resumable_error, state_dict
from limbeck.engine.stage_factory import start_stage
from limbeck.engine.stage_loop import StageLoop, reset_to_epoch_start
from limbeck.engine.step_report import Metrics, StepReport, check_finite, check_weights, environment, run_summary
from limbeck.engine.train_config import Fabric, TrainConfig
from limbeck.errors import DivergedError, LimbeckError
from limbeck.models import describe_model
from limbeck.recipe import Recipe, RunContext, Stage


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
        loader: Loader,
        *,
        setting: TrainConfig,
        fabric: Fabric,
        out: str | os.PathLike[str] | None = None,
        resume: bool = False,
        metadata: Mapping[str, Any] | None = None,
        student_out: Path | None = None,
    ) -> None:
        self.recipe = recipe
        self.models: RunModels = RunModels(models, recipe.makes, seed=setting.seed, adaptor=setting.adaptor)
        self.history: list[StepReport] = []
        self.finished = False
        self._loader = loader
        self._setting = setting
        self._fabric = fabric
        self.models.context = RunContext(loader, setting.preprocess, fabric.device)
        self._course = RecipeRunner(recipe, self.models, seed=setting.seed)
        preflight_check(self._course, self.models, loader, setting)
        self._folder = RunFolder(out, resume=resume, writes=fabric.is_global_zero, student=student_out)
        if fabric.world_size > 1:
            # Nobody writes before all have looked whether the folder is free.
            fabric.barrier()
        self._metrics = Metrics(self._folder.metrics)
        self._metadata = dict(metadata or {})
        self._random: Mapping[str, Any] = seed_all(seed_of_rank(setting.seed, fabric))
        self._random_of_ranks: list[dict[str, Any]] = []
        self._state: dict[str, Any] | None = None
        self._done: list[str] = []
        self._broken = False
        self._loop: StageLoop | ParallelBranches | None = None
        self._heads: dict[nn.Module, Any] = {}
        self._going: weakref.ref[Any] | None = None
        self._written = time.perf_counter()
        reset_to_epoch_start(loader, 0)
        with self._folder.alone(fabric):
            self._open(resume=resume)
        self._touched = False

    def _open(self, *, resume: bool) -> None:
        """Begin, or take up what the folder holds."""
        loader = self._loader
        if resume:
            self._folder.check_same(self._description())
        if resume and self._folder.checkpoint is not None and self._folder.checkpoint.exists():
            self._load(read_checkpoint(self._folder.checkpoint))
        elif resume and self._folder.started and not loader.resumable:
            raise not_resumable_error(self._folder.path, f"a {type(getattr(loader, 'loader', loader)).__name__}")
        else:
            self._begin()

    def _begin(self) -> None:
        self._metrics.rewind(0)
        self._save_student()
        if self._folder.writes:
            self._folder.describe({**self._description(), "environment": environment()})

    def _description(self) -> dict[str, Any]:
        return describe_run(self.recipe, self._setting, self._loader)

    def __repr__(self) -> str:
        return run_summary(tuple(self.models), self.history, finished=self.finished, path=self.path)

    @property
    def path(self) -> Any:
        """The run's folder, or None."""
        return self._folder.path

    @property
    def leads(self) -> bool:
        """Whether this process is the first of the run's ranks: it alone writes."""
        return bool(self._fabric.is_global_zero)

    @property
    def student(self) -> nn.Module:
        """What the recipe ships, as it is now; before that exists, the first model."""
        shipped = self._course.shipped()
        model = self.models[next(iter(self.models))] if shipped is None else shipped
        return describe_model(model, self._metadata)

    @property
    def stages(self) -> list[Stage]:
        """The stages of the recipe as far as they are known: what its functions bring is, once they were asked."""
        return [stage for _, part in self._course.known_parts() for stage in Recipe(part).stages()]

    def __iter__(self) -> Iterator[StepReport]:
        """Reports, until the recipe is done. After a ``break`` it goes on; an iterator that is still open is closed."""
        self._touched = True
        earlier = self._going() if self._going is not None else None
        if earlier is not None:
            earlier.close()
        reports = self._reports()
        self._going = weakref.ref(reports)
        return reports

    def finish(self) -> Run:
        """Run what is left of the recipe.

        Example:
            >>> import torch
            >>> from limbeck.engine import distill
            >>> from limbeck.functional import cross_entropy
            >>> from limbeck.losses import Loss
            >>> from limbeck.recipe import Stage
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

    def _reports(self) -> Iterator[StepReport]:
        if self.finished:
            return
        if self._broken:
            where = "call distill(..., resume=True) on its folder" if self.path else "begin again, with out= to be safe"
            raise LimbeckError(
                f"This run stopped in the middle of a step, so its weights are no place to go on: {where}."
            )
        with self._folder.alone(self._fabric), lost_rank_explained(self._fabric):
            yield from self._going_on()

    def _going_on(self) -> Iterator[StepReport]:
        outside = capture()
        restore(self._random)
        # Closed by name: an error's traceback would keep it, and the hooks that it holds, for as long as it lives.
        with closing(self._all_parts()) as reports:
            try:
                for report in reports:
                    self.history.append(report)
                    self._metrics.write(report)
                    check_finite(report)
                    self._random = capture()
                    self._gather_random()
                    restore(outside)
                    yield report
                    outside = capture()
                    restore(self._random)
                self.finished = True
                self._save()
            except GeneratorExit:
                # Raised at the yield, where everything stands still: the outside's random numbers are in place already.
                if not sys.is_finalizing():
                    self._state = clone_rng_state(self._snapshot()) | {"random": clone_rng_state(self._random)}
                    with suppress(DivergedError):  # no place to raise one; what is on disk stays
                        self._check_weights()
                        self._save_on_disk(self._state)
                raise
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    with suppress(DivergedError):
                        self._check_weights()
                        self._save_student()
                self._broken = True
                restore(outside)
                raise
            finally:
                self._loop = None
        restore(outside)

    def _all_parts(self) -> Generator[StepReport, None, None]:
        for key, part in self._course:
            if key in self._done:
                continue
            state = self._state["stage"] if self._state and self._state["key"] == key else None
            self._loop = loop = start_stage(
                part, key, self.models, self._loader, self._setting, fabric=self._fabric, folder=self._folder,
                only=len(self.recipe.parts) == 1, resumed=state is not None, make_run=Run,
            )  # fmt: skip
            self._key = key
            if isinstance(loop, ParallelBranches):
                yield from loop(state)
            else:
                yield from loop(self._checkpoint_if_due, state, self._heads)
            self._done.append(key)
            self._loop = None
            self._save()

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
            self._check_weights()
            self._gather_random()
            self._save_on_disk(self._snapshot())
        self._written = time.perf_counter()

    def _check_weights(self) -> None:
        for name, model in self.models.existing.items():
            check_weights(name, model)

    def _gather_random(self) -> None:
        """Bring every rank's random numbers to the first, who writes; all ranks are at the same place.

        Done at every report, not when a loop is left: one rank alone may leave it, and would wait for the others.
        """
        if self._folder.checkpoint is not None and self._fabric.world_size > 1:
            self._random_of_ranks = gather_states(capture(), self._fabric)

    def _save_on_disk(self, state: dict[str, Any]) -> None:
        """Only the first rank writes; a sharded state was gathered by all."""
        if self._folder.checkpoint is not None and self._folder.writes:
            if state["exact"] or self.finished:
                write_checkpoint(self._folder.checkpoint, state)
            self._save_student()

    def _save_student(self) -> None:
        """Write what the recipe ships; before that exists, the first model, as `student` has it."""
        if not self._folder.writes:
            return
        shipped = self._course.shipped()
        model = next(iter(self.models.existing.values()), None) if shipped is None else shipped
        # A lazy model has no weights to write before its first batch.
        if model is not None and not any(is_lazy(tensor) for tensor in model.parameters()):
            self._folder.save_student(model, self._metadata, stand_in=shipped is None)

    def _snapshot(self) -> dict[str, Any]:
        """Everything that the run needs to go on, at a moment when everything stands still."""
        loop = self._loop
        stage = loop.state_dict() if loop is not None else None
        return {
            "done": list(self._done),
            "finished": self.finished,
            "key": self._key if loop is not None else None,
            "stage": stage,
            "random": capture(),
            "random_of_other_ranks": self._random_of_ranks[1:],
            "metrics": self._metrics.position,
            **state_dict(self.models, self._course, self._loader),
        }

    def _load(self, state: dict[str, Any]) -> None:
        if state["stage"] is not None and state["stage"]["source"] is None:
            raise not_resumable_error(self._folder.path, "its last stage's source")
        self._state = state
        self._done = list(state["done"])
        self.finished = bool(state["finished"])
        self._random = random_of_rank(state, self._fabric) or self._random
        self._heads = load_state_dict(
            state, self.models, self._course, self._loader, device=self._fabric.device, where=self._folder.path
        )
        self._metrics.rewind(int(state["metrics"]))
