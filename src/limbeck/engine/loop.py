"""How does a stage run, from its first batch to its last?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from limbeck.engine.learner import Learner, check_lengths
from limbeck.engine.record import Report
from limbeck.engine.setting import Setting
from limbeck.errors import LimbeckError
from limbeck.recipe import Stage
from limbeck.signal import Batch, Progress
from limbeck.sources import Source, share

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Loop:
    """One stage, or several that alternate on one batch, run step by step.

    Args:
        stages: The stages; all step once on every window of batches, in this order.
        models: The run's models by name.
        source: Where batches come from.
        setting: What the run holds fixed.
        fabric: Device, precision, strategy.
        name: What the group is called in reports.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        models: Mapping[str, nn.Module],
        *,
        source: Source,
        setting: Setting,
        fabric: Fabric,
        name: str,
    ) -> None:
        self.source = stages[0].source or source
        self.steps = setting.length(check_lengths(stages), self.source)
        self.step = 0
        self.epoch = 0
        self.seconds = 0.0
        self._name = name
        self._setting = setting
        self._fabric = fabric
        self.source.bind(models)
        first = self._ours(self.source.peek())
        self.learners = [Learner(s, models, setting=setting, fabric=fabric, batch=first) for s in stages]

    def __call__(self, checkpoint: Callable[[bool], None], state: Mapping[str, Any] | None) -> Iterator[Report]:
        """Run to the end, with a report every so often; from `state` on, if there is one.

        `checkpoint` is called after every step, when everything that a checkpoint needs stands still, and told whether
        the step is one to report.
        """
        with ExitStack() as stack:
            for learner in self.learners:
                stack.enter_context(learner)
            if state is not None:
                self._load(state)
            began = time.perf_counter() - self.seconds
            since = time.perf_counter()
            while self.step < self.steps:
                for window in self._windows():
                    logged = self._take_step(window)
                    self.seconds = time.perf_counter() - began
                    checkpoint(logged)
                    if logged:
                        for learner in self.learners:
                            learner.gather()
                        yield self._report(time.perf_counter() - since)
                        since = time.perf_counter()
                        began = since - self.seconds
                    if self.step >= self.steps:
                        break

    def _take_step(self, window: list[Batch]) -> bool:
        """One step of every learner; whether it is one to report."""
        progress = Progress(self.step, self.steps, self.epoch)
        logged = (self.step + 1) % self._setting.log_every == 0 or self.step + 1 == self.steps
        for learner in self.learners:
            learner.step(window, progress, measure=logged)
        self.step += 1
        return logged

    def _windows(self) -> Iterator[list[Batch]]:
        """What is left of the epoch, in groups of `accumulate` micro-batches; the last may hold fewer."""
        window: list[Batch] = []
        any_batch = False
        for batch in self.source:
            any_batch = True
            window.append(self._ours(batch))
            if len(window) == self._setting.accumulate:
                yield window
                window = []
        if window:
            yield window
        if not any_batch and not len(self.source):
            raise LimbeckError("The source has no batches: there is nothing to learn from.")
        self.epoch += 1

    def _ours(self, batch: Batch) -> Batch:
        fabric = self._fabric
        return (batch if fabric.world_size == 1 else share(batch, fabric.global_rank, fabric.world_size)).to(
            fabric.device
        )

    def _report(self, seconds: float) -> Report:
        many = len(self.learners) > 1
        terms: dict[str, float] = {}
        norms: dict[str, float] = {}
        parameter_norms: dict[str, float] = {}
        loss, examples = 0.0, 0.0
        # A rank's loss is scaled up by the number of ranks, because strategies average gradients over them.
        world = self._fabric.world_size
        for learner in self.learners:
            prefix = f"{learner.stage.trains}/" if many else ""
            tally = learner.tally
            sums = self._summed([tally.loss if tally.loss is not None else torch.zeros(()), *tally.totals.values()])
            counts = self._summed(
                [torch.tensor(float(c), dtype=torch.float64) for c in (tally.examples, *tally.counts.values())]
            )
            loss += sums[0] / world / max(tally.steps, 1)
            examples = counts[0]
            means = zip(tally.totals, sums[1:], counts[1:], strict=True)
            terms |= {f"{prefix}{name}": total / (count or 1.0) for name, total, count in means}
            norms |= {prefix + name: value**0.5 / world for name, value in self._named_sums(tally.squares).items()}
            squares = self._named_sums(tally.parameter_squares)
            parameter_norms |= {prefix + name: value**0.5 / world for name, value in squares.items()}
            tally.clear()
        lr = self.learners[0].lr
        rate = examples / max(seconds, 1e-9)
        return Report(
            self._name, self.step, self.steps, self.epoch, loss, terms, norms, parameter_norms, lr, rate, self.seconds
        )

    def _named_sums(self, values: Mapping[str, torch.Tensor]) -> dict[str, float]:
        return dict(zip(values, self._summed(list(values.values())), strict=True)) if values else {}

    def _summed(self, values: Sequence[torch.Tensor]) -> list[float]:
        stacked = torch.stack([value.double().to(self._fabric.device) for value in values])
        if self._fabric.world_size > 1:
            summed: Any = self._fabric.all_reduce(stacked, reduce_op="sum")
            stacked = summed
        return [float(value) for value in stacked.tolist()]

    def state_dict(self) -> dict[str, Any]:
        """Where the stage stands: learners, position in the data, step."""
        return {
            "step": self.step,
            "steps": self.steps,
            "epoch": self.epoch,
            "seconds": self.seconds,
            "source": self.source.state_dict() if self.source.resumable else None,
            "learners": [learner.state_dict() for learner in self.learners],
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        if state["source"] is None:
            raise LimbeckError(
                f"A run on {type(self.source).__name__} cannot be resumed exactly: it does not know its place in the "
                "data. Use Shuffled(Arrays(inputs, labels), batch_size=...), or a loader with state_dict()."
            )
        if state["steps"] != self.steps:
            raise LimbeckError(
                f"The checkpoint is of a stage of {state['steps']} steps; this one has {self.steps}. "
                "Resume with the same data, batch size and budget, or start again in a new folder."
            )
        self.step, self.epoch, self.seconds = int(state["step"]), int(state["epoch"]), float(state["seconds"])
        self.source.load_state_dict(state["source"])
        for learner, saved in zip(self.learners, state["learners"], strict=True):
            learner.load_state_dict(saved)
