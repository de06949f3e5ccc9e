"""The loop of a stage, from its first batch to its last."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from limbeck.batch import Batch, Progress
from limbeck.data import Loader, MaskedLoader, RolloutLoader, shard_batch
from limbeck.engine.distributed import is_sharded
from limbeck.engine.parallel_branches import ParallelBranches
from limbeck.engine.probe import first_line
from limbeck.engine.recipe_runner import RunModels
from limbeck.engine.run_folder import RunFolder
from limbeck.engine.stage_trainer import StageTrainer
from limbeck.engine.step_report import StepReport
from limbeck.engine.train_config import Fabric, TrainConfig, check_lengths
from limbeck.errors import LastBatchError, LimbeckError, is_out_of_memory
from limbeck.random_seeds import fork_rng
from limbeck.recipe import JointStages, ParallelStages, Stage
from limbeck.teachers import Preprocess, describe_preprocess, read_inputs

Heads = dict[nn.Module, Any]


class StageLoop:
    """The training loop of one stage, or of several that alternate on one batch.

    Args:
        stages: The stages; each takes a step on every window of batches, in this order.
        models: The run's models by name.
        loader: The loader of the batches.
        setting: The settings of the run.
        fabric: Device, precision, strategy.
        name: The group's name in reports.
        part: The group's position in the recipe; empty if the recipe has no other part.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        models: Mapping[str, nn.Module],
        *,
        loader: Loader,
        setting: TrainConfig,
        fabric: Fabric,
        name: str,
        part: str = "",
    ) -> None:
        self.loader = stages[0].find_loader(loader)
        self._setting = setting
        length = setting.length(check_lengths(stages), self.loader)
        self._last = self._size_of_last(length)
        self.steps = (2 if self._last else 1) if setting.rehearsal else length
        self.step = 0
        self.epoch = 0
        self._ahead = 0
        self._position: tuple[dict[str, Any], int] | None = None
        self.seconds = 0.0
        self._empty = 0
        self._name = f"{part} {name}" if part else name
        self._part, self._title = part, name if part else ""
        self._fabric = fabric
        bind_loader(self.loader, models, stages, fabric, preprocess=setting.preprocess)
        self.loader.set_steps(self.steps, accumulate=setting.accumulate)
        # A resumed run peeks where the first one did not, so peeking may not use random numbers. A loader that is not
        # replayable keeps the batch, so its random numbers are used only once.
        with fork_rng() if self.loader.replayable else nullcontext():
            first = self._ours(self.loader.peek(), used=False)
        single = 0 < self._last < 2 * fabric.world_size
        options: dict[str, Any] = {"loader": self.loader, "batch": first, "single": single}
        options |= {"setting": setting, "fabric": fabric, "group": [stage.trains for stage in stages]}
        self.learners = [StageTrainer(stage, models, **options) for stage in stages]
        self._prefixes = _name_learners(stages)

    def __call__(
        self, checkpoint: Callable[[bool], None], state: Mapping[str, Any] | None, heads: Heads
    ) -> Iterator[StepReport]:
        """Run to the end and yield reports; continue from `state`, if there is one.

        `checkpoint` is called after every step and its report, when the state is complete; its argument is whether
        the step had a report. `heads` are the states of heads from earlier stages.
        """
        with ExitStack() as stack:
            for trainer in self.learners:
                stack.enter_context(trainer)
                with self._as_it_began():
                    trainer.load_heads(heads)
            if state is not None:
                self._load(state)
            began = time.perf_counter() - self.seconds
            since = time.perf_counter()
            windows = self._rehearsed_windows if self._setting.rehearsal else self._windows_ahead
            while self.step < self.steps:
                for window in windows():
                    logged = self._take_step(window)
                    self.seconds = time.perf_counter() - began
                    if logged:
                        for trainer in self.learners:
                            trainer.gather()
                        yield self._report(time.perf_counter() - since)
                        since = time.perf_counter()
                        began = since - self.seconds
                    # The report comes first: every report that a checkpoint counts must be on disk.
                    checkpoint(logged)
                    if self.step >= self.steps:
                        break

    def _take_step(self, window: list[Batch]) -> bool:
        """Take one step with every student; return whether to report it."""
        progress = Progress(self.step, self.steps, self.epoch)
        logged = (self.step + 1) % self._setting.log_every == 0 or self.step + 1 == self.steps
        last = self._setting.rehearsal and self.step == 1
        for trainer in self.learners:
            stage = trainer.stage
            for _ in range(0 if self.step % stage.every else stage.times):
                with _explain_last_batch(stage.trains, window) if last else nullcontext():
                    trainer.step(window, progress, measure=logged)
        self.step += 1
        return logged

    def _windows_ahead(self) -> Iterator[list[Batch]]:
        """The windows of `_windows`, read in advance as far as teachers that compute ahead allow."""
        windows, ready, ahead = self._windows(), deque[tuple[list[Batch], Any]](), self._count_ahead()
        more = True
        while more or ready:
            # Never past the last step, so that the loader ends where the batches of the stage end.
            if more and self.step + len(ready) < self.steps:
                window = next(windows, None)
                more = window is not None
                if window is not None:
                    later = Progress(self.step + len(ready), self.steps, self.epoch)
                    for trainer in self.learners if ahead else ():
                        if not later.step % trainer.stage.every:  # the stage takes a step on this window
                            trainer.submit(window, later)
                    ready.append((window, (self.loader.state_dict(), self._ahead) if ahead else None))
            if ready and (len(ready) > ahead or not more or self.step + len(ready) >= self.steps):
                window, self._position = ready.popleft()
                yield window
        self._position = None
        self.epoch += 1

    def _count_ahead(self) -> int:
        """The number of windows that may be read before the first of them is used."""
        # Only batches that depend on epoch and number alone: others may draw random numbers when they are read, and a
        # loader that depends on a model must use the model after the last step.
        if not (self.loader.resumable and self.loader.replayable) or self.loader.depends_on_model:
            return 0
        batches = min((trainer.ahead for trainer in self.learners if trainer.ahead), default=0)
        return max(0, (batches + 1) // self._setting.accumulate - 1)

    def _windows(self) -> Iterator[list[Batch]]:
        """The rest of the epoch in groups of `accumulate` micro-batches; the last may have fewer."""
        window: list[Batch] = []
        any_batch = False
        for batch in self.loader:
            any_batch = True
            window.append(self._ours(batch))
            if len(window) == self._setting.accumulate:
                yield window
                window = []
        if window:
            # The loader is already at the next epoch, but this step still belongs to the last one.
            self._ahead = 1
            yield window
            self._ahead = 0
        # A resumed run may be exactly at the end of an epoch; two empty epochs mean that there is no data.
        self._empty = 0 if any_batch else self._empty + 1
        if self._empty > 1 or (self.loader.has_length and not len(self.loader)):
            raise LimbeckError(
                f"{type(self.loader).__name__} gave no batch in epoch {self.epoch}: there is nothing to learn from. "
                "Can its loader be iterated more than once?"
            )

    def _rehearsed_windows(self) -> Iterator[list[Batch]]:
        """The batches of the first step, then as many examples as the last batch of an epoch holds."""
        batch = self.loader.peek()
        yield [self._ours(batch, used=False)] * min(self._setting.accumulate, 2)
        if not self._last:
            return
        yield [self._ours(batch.rows(torch.arange(min(self._last, batch.size))), used=False)]

    def _ours(self, batch: Batch, *, used: bool = True) -> Batch:
        """This rank's part of a batch, complete and on its device."""
        fabric = self._fabric
        part = batch if fabric.world_size == 1 else shard_batch(batch, fabric.global_rank, fabric.world_size)
        # Texts are written by the logits that will be compared: in the precision of the run.
        with fabric.autocast():
            return self.loader.complete(part.to(fabric.device), used=used)

    def _size_of_last(self, length: int) -> int:
        """The number of examples in the last batch of an epoch; 0 if it is full, not reached, or unknown."""
        examples, size = self.loader.examples_per_epoch, self.loader.batch_size
        if examples is None or size is None or not self.loader.has_length:
            return 0
        return 0 if length * self._setting.accumulate < len(self.loader) else examples % size

    def _report(self, seconds: float) -> StepReport:
        terms: dict[str, float] = {}
        norms: dict[str, float] = {}
        parameter_norms: dict[str, float] = {}
        loss, examples = 0.0, 0.0
        # A rank's loss is scaled up by the number of ranks, because strategies average gradients over them.
        world = self._fabric.world_size
        for prefix, trainer in zip(self._prefixes, self.learners, strict=True):
            tally = trainer.tally
            sums = self._summed([tally.loss if tally.loss is not None else torch.zeros(()), *tally.totals.values()])
            counts = self._summed(
                [torch.tensor(float(c), dtype=torch.float64) for c in (tally.examples, *tally.counts.values())]
            )
            loss += sums[0] / world / max(tally.steps, 1)
            examples = max(examples, counts[0] / trainer.stage.times)
            means = zip(tally.totals, sums[1:], counts[1:], strict=True)
            terms |= {f"{prefix}{name}": total / (count or 1.0) for name, total, count in means}
            norms |= {prefix + name: value**0.5 / world for name, value in self._named_sums(tally.squares).items()}
            parameter_norms |= {prefix + name: self._norm(g) for name, g in tally.parameter_gradients.items()}
            tally.clear()
        lr = self.learners[0].lr
        rate = examples / max(seconds, 1e-9)
        return StepReport(
            self._name, self.step, self.steps, self.epoch, loss, terms, norms, parameter_norms, lr, rate, self.seconds,
            self._part, self._title, self.loader.pop_report(seconds, self._summed),
        )  # fmt: skip

    def _norm(self, gradient: torch.Tensor) -> float:
        """The norm of a gradient at the parameters; every rank holds its share of the mean."""
        mean: Any = self._fabric.all_reduce(gradient, reduce_op="mean") if self._fabric.world_size > 1 else gradient
        return float(mean.norm())

    def _named_sums(self, values: Mapping[str, torch.Tensor]) -> dict[str, float]:
        return dict(zip(values, self._summed(list(values.values())), strict=True)) if values else {}

    def _summed(self, values: Sequence[torch.Tensor]) -> list[float]:
        stacked = torch.stack([value.double().to(self._fabric.device) for value in values])
        if self._fabric.world_size > 1:
            summed: Any = self._fabric.all_reduce(stacked, reduce_op="sum")
            stacked = summed
        return [float(value) for value in stacked.tolist()]

    def state_dict(self) -> dict[str, Any]:
        """The state of the stage: students, position in the data, step."""
        return {
            "step": self.step,
            "steps": self.steps,
            "epoch": self.epoch + (self._ahead if self._position is None else self._position[1]),
            "seconds": self.seconds,
            "source": self._source(),
            "learners": [trainer.state_dict() for trainer in self.learners],
        }

    def _source(self) -> dict[str, Any] | None:
        """The position after the batches of the last step, without batches that were read in advance."""
        if self._position is not None:
            return self._position[0]
        return self.loader.state_dict() if self.loader.resumable else None

    def _load(self, state: Mapping[str, Any]) -> None:
        if state["steps"] != self.steps:
            raise LimbeckError(
                f"The checkpoint is of a stage of {state['steps']} steps; this one has {self.steps}. "
                "Resume with the same data, batch size and budget, or start again in a new folder."
            )
        self.step, self.epoch, self.seconds = int(state["step"]), int(state["epoch"]), float(state["seconds"])
        if state["source"] is not None:
            self.loader.load_state_dict(state["source"])
        with self._as_it_began():
            for trainer, saved in zip(self.learners, state["learners"], strict=True):
                trainer.load_state_dict(saved)

    @contextmanager
    def _as_it_began(self) -> Iterator[None]:
        """A block that turns a state that does not fit into an error about another recipe."""
        try:
            yield
        except (RuntimeError, ValueError, KeyError) as error:
            raise LimbeckError(
                f"The checkpoint is of another recipe than this one, in stage {self._name!r}: "
                f"{first_line(error)} Resume with the recipe and the models that the run began with."
            ) from error


def _name_learners(stages: Sequence[Stage]) -> list[str]:
    """What stands before the terms of each stage in reports: its model, and a number if another stage trains it."""
    if len(stages) == 1:
        return [""]
    models = [stage.trains for stage in stages]
    before = [models[:place].count(model) for place, model in enumerate(models)]
    return [f"{model}#{n + 1}/" if n else f"{model}/" for model, n in zip(models, before, strict=True)]


@contextmanager
def _explain_last_batch(trains: str, window: Sequence[Batch]) -> Iterator[None]:
    """A block that adds to any error that it came with the size of the last batch."""
    try:
        yield
    except LastBatchError:
        raise
    except Exception as error:
        if is_out_of_memory(error):  # memory is not a matter of the last batch's size
            raise
        size = sum(batch.size for batch in window)
        raise LastBatchError(
            f"{trains!r} cannot learn from the last batch of an epoch, which holds fewer examples than the others "
            f"({size:,}): {first_line(error)}"
        ) from error


def reset_to_epoch_start(loader: Loader, epoch: int) -> None:
    """Move a loader to the start of an epoch, if it can be moved; its other state does not change."""
    if loader.resumable:
        loader.load_state_dict({**loader.state_dict(), "epoch": epoch, "batch": 0})


def bind_loader(
    loader: Loader,
    models: Mapping[str, nn.Module],
    stages: Sequence[Stage],
    fabric: Fabric,
    *,
    preprocess: Preprocess = read_inputs,
) -> None:
    """Give a loader the models of the run, with those that learn on their device.

    Raises:
        LimbeckError: If its batches depend on the models, and the strategy trains a model in pieces: the loader would
            read the complete one, which is updated only at reports. Or if the student would learn from other inputs
            than those for which the texts were written.
    """
    own = [describe_preprocess(stage.preprocess or preprocess) for stage in stages]
    if any(own) and isinstance(loader.loader if isinstance(loader, MaskedLoader) else loader, RolloutLoader):
        raise LimbeckError(
            f"A model writes the texts of this stage, token by token, and preprocess={next(filter(None, own))} would "
            "then change what it reads. Leave preprocess out: let forward() of the model do it."
        )
    if loader.depends_on_model:
        if is_sharded(fabric):
            raise LimbeckError(
                f"The batches of a {loader.type_name} depend on models of the run, and a sharded strategy has the "
                f"model {stages[0].trains!r} in pieces while it learns. Use strategy='ddp'."
            )
        for stage in stages:
            models[stage.trains].to(fabric.device)
    loader.set_preprocess(stages[0].preprocess or preprocess)
    loader.bind(models)


def start_stage(
    part: Stage | JointStages | ParallelStages,
    key: str,
    models: RunModels,
    loader: Loader,
    setting: TrainConfig,
    *,
    fabric: Fabric,
    folder: RunFolder,
    only: bool,
    resumed: bool,
    make_run: Callable[..., Any],
) -> StageLoop | ParallelBranches:
    """Create the loop that runs a part of a recipe.

    Args:
        part: A stage, stages on one batch, or parallel branches.
        key: Position of the part in the recipe.
        models: The run's models.
        loader: The run's loader.
        setting: The settings of the run.
        fabric: Device, precision, strategy.
        folder: The run's folder.
        only: Whether the recipe has no other part; reports then omit the position.
        resumed: Whether the part was interrupted, so that its loader is at the right position.
        make_run: The class `Run`, which trains parallel branches.
    """
    if isinstance(part, ParallelStages):
        return ParallelBranches(part, key, models, loader, setting, fabric=fabric, folder=folder, make_run=make_run)
    stages = part.stages if isinstance(part, JointStages) else (part,)
    if not resumed:
        _start_epoch(stages, loader)
    name = " & ".join(stage.name or stage.trains for stage in stages)
    return StageLoop(stages, models, loader=loader, setting=setting, fabric=fabric, name=name, part="" if only else key)


def _start_epoch(stages: Sequence[Stage], run_loader: Loader) -> None:
    """Move the loader to the start of an epoch: the run's next, or the first of the stage's own loader."""
    loader = stages[0].find_loader(run_loader)
    if not loader.resumable:
        return
    position = loader.state_dict()
    if loader is not run_loader:
        reset_to_epoch_start(loader, 0)
    elif position["batch"]:
        reset_to_epoch_start(loader, position["epoch"] + 1)
