"""`Run`: trains by a recipe and yields reports."""

from __future__ import annotations

import os
import sys
import time
import warnings
import weakref
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NoReturn

from torch import nn
from torch.nn.parameter import is_lazy

from limbeck.data import Loader
from limbeck.engine.checkpoint import clone_state, read_checkpoint, write_checkpoint
from limbeck.engine.distributed import gather_states, lost_rank_explained, random_of_rank, seed_of_rank
from limbeck.engine.interrupts import StepEndInterrupt, StepEndInterrupts
from limbeck.engine.parallel_branches import ParallelBranches
from limbeck.engine.recipe_runner import RecipeRunner, RunModels, preflight_check
from limbeck.engine.resume import (
    describe_run,
    load_state_dict,
    not_resumable_error,
    not_resumable_warning,
    state_dict,
)
from limbeck.engine.run_folder import RunFolder
from limbeck.engine.stage_loop import StageLoop, reset_to_epoch_start, start_stage
from limbeck.engine.step_report import Metrics, StepReport, check_finite, check_weights, environment, run_summary
from limbeck.engine.train_config import Fabric, TrainConfig
from limbeck.errors import DivergedError, LimbeckError, LimbeckWarning
from limbeck.models import describe_model, set_token_ids
from limbeck.random_seeds import get_rng_state, make_rng_state, set_rng_state
from limbeck.recipe import Recipe, RunContext, Stage


class Run:
    """The training of a recipe: iterate over it for reports, or call `finish`.

    Training pauses between two reports, so the loop may inspect, log, save or ``break``. After a ``break`` no hook is
    left in any model, the current student is on disk, and iterating again continues exactly where it stopped. Random
    numbers drawn by the caller in between do not change the run, and the run does not change the caller's.
    Ctrl-C within a step takes effect at its end, like a ``break``; pressed twice, it acts at once.

    Attributes:
        models: Every model of the run by name.
        history: All reports so far.
        finished: Whether the whole recipe has run.
    """

    _touched = True  # until __init__ ends, so that a run that raised an error does not warn

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
        self.models.context = RunContext(loader, setting.preprocess, fabric.device, setting.epochs, setting.steps)
        self._course = RecipeRunner(recipe, self.models, seed=setting.seed)
        preflight_check(self._course, self.models, loader, setting)
        self._folder = RunFolder(out, resume=resume, writes=fabric.is_global_zero, student=student_out)
        if fabric.world_size > 1:
            # No rank may write before all have checked that the folder is free.
            fabric.barrier()
        self._metrics = Metrics(self._folder.metrics)
        self._metadata = dict(metadata or {})
        self._random: Mapping[str, Any] = make_rng_state(seed_of_rank(setting.seed, fabric))
        self._random_of_ranks: list[dict[str, Any]] = []
        self._state: dict[str, Any] | None = None
        self._done: list[str] = []
        self._broken = False
        self._loop: StageLoop | ParallelBranches | None = None
        self._heads: dict[nn.Module, Any] = {}
        self._going: weakref.ref[Any] | None = None
        self._written = time.perf_counter()
        self._interrupts = StepEndInterrupts()
        reset_to_epoch_start(loader, 0)
        with self._folder.alone(fabric):
            self._open(resume=resume)
        self._touched = False

    def _open(self, *, resume: bool) -> None:
        """Start the run, or restore it from the folder."""
        loader = self._loader
        if resume:
            self._folder.check_same(self._description())
        if resume and self._folder.checkpoint is not None and self._folder.checkpoint.exists():
            self._load(read_checkpoint(self._folder.checkpoint))
        elif resume and self._folder.started and not loader.resumable:
            raise not_resumable_error(self._folder.path, f"a {loader.type_name}")
        else:
            self._begin()

    def _begin(self) -> None:
        self._warn_if_not_resumable()
        self._metrics.rewind(0)
        self._save_student()
        if self._folder.writes:
            self._folder.describe({**self._description(), "environment": environment()})

    def _warn_if_not_resumable(self) -> None:
        """Say before the first step that a kill will lose the run."""
        loaders = {id(one): one for one in (self._loader, *(s.find_loader(self._loader) for s in self.stages))}
        lost = next((one for one in loaders.values() if not one.resumable), None)
        if self._folder.checkpoint is not None and self._folder.writes and lost is not None:
            warnings.warn(not_resumable_warning(self._folder.path, lost), LimbeckWarning, stacklevel=2)

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
        """Whether this process is the run's first rank, the only one that writes."""
        return bool(self._fabric.is_global_zero)

    @property
    def student(self) -> nn.Module:
        """The model that the recipe ships, in its current state; the first model until that exists."""
        shipped = self._course.shipped()
        model = self.models[next(iter(self.models))] if shipped is None else shipped
        return describe_model(set_token_ids(model, self._tokenizer), self._metadata)

    @property
    def _tokenizer(self) -> Any:
        """The tokenizer of the texts, if the run learns from texts: its end token must stop the student."""
        examples = self._loader.examples
        return None if examples is None else examples.tokenizer

    @property
    def stages(self) -> list[Stage]:
        """The stages of the recipe. Stages returned by functions appear after the function was called."""
        return [stage for _, part in self._course.known_parts() for stage in Recipe(part).stages()]

    def __iter__(self) -> Iterator[StepReport]:
        """Yield reports until the recipe is done. Continues after a ``break``; an open iterator is closed first."""
        self._touched = True
        earlier = self._going() if self._going is not None else None
        if earlier is not None:
            earlier.close()
        reports = self._reports()
        self._going = weakref.ref(reports)
        return reports

    def finish(self) -> Run:
        """Run the rest of the recipe.

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
        if not self._touched:
            warnings.warn("A Run was created but never started: iterate over it, or call .finish().", stacklevel=1)

    def _reports(self) -> Iterator[StepReport]:
        if self.finished:
            return
        if self._broken:
            where = (
                "call distill(..., resume=True) on its folder"
                if self.path
                else "start again, with out= to save checkpoints"
            )
            raise LimbeckError(f"This run stopped in the middle of a step, so its weights are not consistent: {where}.")
        with self._folder.alone(self._fabric), lost_rank_explained(self._fabric):
            yield from self._going_on()

    def _going_on(self) -> Iterator[StepReport]:
        outside = get_rng_state()
        set_rng_state(self._random)
        # Closed explicitly: the traceback of an error would keep the generator and its hooks alive.
        with closing(self._all_parts()) as reports:
            try:
                for report in reports:
                    self.history.append(report)
                    self._metrics.write(report)
                    check_finite(report)
                    self._random = get_rng_state()
                    self._gather_random()
                    if self._interrupts.requested:
                        self._stop()
                    held = self._interrupts.active
                    self._interrupts.deactivate()
                    set_rng_state(outside)
                    yield report
                    outside = get_rng_state()
                    set_rng_state(self._random)
                    if held:
                        self._interrupts.activate()
                self.finished = True
                self._save()
            except GeneratorExit:
                # Raised at the yield, where the caller's random state is already restored.
                if not sys.is_finalizing():
                    self._pause()
                raise
            except StepEndInterrupt:
                set_rng_state(outside)
                raise
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    with suppress(DivergedError):
                        self._check_weights()
                        self._save_student()
                self._broken = True
                set_rng_state(outside)
                raise
            finally:
                self._loop = None
                self._interrupts.clear()
        set_rng_state(outside)

    def _pause(self) -> None:
        """Keep the state between two steps, on disk and in this object, so that the run can continue from it."""
        self._state = clone_state(self._snapshot()) | {"random": clone_state(self._random)}
        with suppress(DivergedError):  # nothing may be raised here; the saved student stays
            self._check_weights()
            self._save_on_disk(self._state)

    def _stop(self) -> NoReturn:
        self._random = get_rng_state()
        self._interrupts.clear()  # a Ctrl-C while the file is written acts at once, and leaves the earlier one
        self._pause()
        raise StepEndInterrupt

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
            self._interrupts.deactivate()
            if self._interrupts.requested:
                self._stop()
            self._save()

    def _checkpoint_if_due(self, reported: bool) -> None:
        """Save a checkpoint if it is due. Several ranks must agree on that, so they check only at reports."""
        several = self._fabric.world_size > 1
        if self._interrupts.requested:
            self._stop()
        if not several:  # ranks would stop at different steps
            self._interrupts.activate()
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
        """Collect the random state of all ranks on the first rank, which writes.

        This happens at every report, not when the loop ends: one rank may leave it alone and would wait for the others.
        """
        if self._folder.checkpoint is not None and self._fabric.world_size > 1:
            self._random_of_ranks = gather_states(get_rng_state(), self._fabric)

    def _save_on_disk(self, state: dict[str, Any]) -> None:
        """Write checkpoint and student on the first rank; a sharded state was gathered by all ranks."""
        if self._folder.checkpoint is not None and self._folder.writes:
            if state["exact"] or self.finished:
                write_checkpoint(self._folder.checkpoint, state)
            self._save_student()

    def _save_student(self) -> None:
        """Write the model that the recipe ships, or the first model until that exists."""
        if not self._folder.writes:
            return
        shipped = self._course.shipped()
        model = next(iter(self.models.existing.values()), None) if shipped is None else shipped
        # A lazy model has no weights before its first batch.
        if model is not None and not any(is_lazy(tensor) for tensor in model.parameters()):
            model = set_token_ids(model, self._tokenizer)
            self._folder.save_student(model, self._metadata, self._tokenizer)

    def _snapshot(self) -> dict[str, Any]:
        """The complete state of the run between two steps."""
        loop = self._loop
        stage = loop.state_dict() if loop is not None else None
        return {
            "done": list(self._done),
            "finished": self.finished,
            "key": self._key if loop is not None else None,
            "stage": stage,
            "random": get_rng_state(),
            "random_of_other_ranks": self._random_of_ranks[1:],
            "metrics": self._metrics.position,
            **state_dict(self.models, self._course, self._loader),
        }

    def _load(self, state: dict[str, Any]) -> None:
        if state["stage"] is not None and state["stage"]["source"] is None:
            raise not_resumable_error(self._folder.path, "the loader of its last stage")
        self._state = state
        self._done = list(state["done"])
        self.finished = bool(state["finished"])
        self._random = random_of_rank(state, self._fabric) or self._random
        self._heads = load_state_dict(
            state, self.models, self._course, self._loader, device=self._fabric.device, where=self._folder.path
        )
        self._metrics.rewind(int(state["metrics"]))
