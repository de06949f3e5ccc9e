"""`DistillModule`: a LightningModule that distills."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning import Callback, LightningModule
from torch import Tensor, nn

from limbeck.batch import IGNORED, Batch, Progress
from limbeck.data.tokenizer import is_causal_lm
from limbeck.errors import LimbeckError
from limbeck.integrations.distillation_loss import DistillationLoss
from limbeck.integrations.id_dataset import to_batch
from limbeck.losses import Objective
from limbeck.recipe import Optimizer
from limbeck.tap import Adaptor, call, logits_of
from limbeck.teachers import Preprocess, Stream, read_inputs


class DistillModule(LightningModule):
    """A `LightningModule` whose training step minimizes an objective of limbeck, taught by a teacher of limbeck.

    The student is ``module.student``, the heads are in ``module.objective``; the teacher is no part of the module, so
    it is in no checkpoint, in no optimizer, and never in training mode. Several batches go to one step by
    ``accumulate=`` here, not by the Trainer's ``accumulate_grad_batches``, which divides by the number of batches
    whatever is in them: so the module steps its optimizer itself (Lightning's manual optimization), and schedulers that
    ``configure_optimizers`` returns. Validation logs ``val_accuracy``.

    Args:
        student: The model that learns.
        objective: What is minimized.
        teacher: A `Teacher`, or what becomes one; None if none is read.
        example: Any batch of the data, as the loader gives it.
        optimizer: How parameters move; override ``configure_optimizers`` for any other way.
        accumulate: How many batches go to one step.
        loader: What a teacher whose answers are kept must know of the data: ``Rows(examples)``.
        preprocess: The way from a batch to inputs.
        adaptor: The student's raw output -> logits, for strange outputs.

    Raises:
        LimbeckError: If what `DistillationLoss` says is wrong, or `accumulate` is no whole number of at least 1.

    Example:
        >>> # module = DistillModule(student, objective, teacher, example=next(iter(loader)))
        >>> # lightning.Trainer(max_epochs=3).fit(module, loader)
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        teacher: Any = None,
        *,
        example: Any,
        optimizer: Optimizer | None = None,
        accumulate: int = 1,
        loader: Stream | None = None,
        preprocess: Preprocess = read_inputs,
        adaptor: Adaptor | None = None,
    ) -> None:
        super().__init__()
        if isinstance(accumulate, bool) or not isinstance(accumulate, int) or accumulate < 1:
            raise LimbeckError(f"accumulate must be a whole number of at least 1; got {accumulate!r}.")
        self.automatic_optimization = False
        self.student = student
        self.objective = objective
        self.optimizer = optimizer or Optimizer()
        self.accumulate = accumulate
        self._shifted = is_causal_lm(student)
        self.distillation = DistillationLoss(
            student, objective, teacher, example=self._batch(example), loader=loader, preprocess=preprocess,
            adaptor=adaptor,
            accumulate=accumulate,
        )  # fmt: skip
        self._window: list[Batch] = []
        self._peaks: list[float] | None = None

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the student answers."""
        return self.student(*inputs, **named)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        """The loss of the step that this batch completes; None where more batches belong to it."""
        self._window.append(self._batch(batch))
        if len(self._window) < self.accumulate and not self.trainer.is_last_batch:
            return None
        window, self._window = self._window, []
        progress, counts = self._progress(), self.distillation.counts(window)
        total = torch.zeros((), device=self.device)
        for one in window:
            loss = self.distillation.loss(one, progress=progress, counts=counts)
            self.manual_backward(loss)
            total += loss.detach()
        self._step(progress)
        # On each process it is its share of a mean over all, times their number: their mean is the loss.
        self.log("train_loss", total, prog_bar=True, sync_dist=True)
        return total

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the student's accuracy on labels."""
        inputs = self._batch(batch)
        if inputs.labels is None:
            raise LimbeckError("Validation counts right answers, and these batches have no labels.")
        logits = logits_of(call(self.student, self.distillation.preprocess(inputs)), self.distillation.adaptor)
        labeled = inputs.labels != IGNORED
        right = (logits.argmax(-1) == inputs.labels)[labeled].float()
        # Also where no label is known: all processes must take part in what is summed over them.
        share = right.mean() if len(right) else right.sum()
        self.log("val_accuracy", share, prog_bar=True, batch_size=len(right), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """`optimizer` for student and heads; its schedule is followed step by step, as the engine does."""
        optimizer = self.optimizer.make([p for p in self.parameters() if p.requires_grad])
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        return optimizer

    def configure_callbacks(self) -> list[Callback]:
        """What opens the teacher for as long as a fit lasts."""
        return [_Open(self.distillation)]

    def on_train_epoch_end(self) -> None:
        """Step the schedulers that go by epochs."""
        self._schedule("epoch")

    def _step(self, progress: Progress) -> None:
        optimizer: Any = self.optimizers()
        for group, peak in zip(optimizer.param_groups, self._peaks or [], strict=False):
            group["lr"] = peak * self.optimizer.scale(progress.step, progress.steps)
        if self.optimizer.clip is not None:
            self.clip_gradients(optimizer, gradient_clip_val=self.optimizer.clip, gradient_clip_algorithm="norm")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self._schedule("step")

    def _schedule(self, interval: str) -> None:
        for config in self.trainer.lr_scheduler_configs:
            if config.interval == interval:
                config.scheduler.step()  # type: ignore[call-arg]

    def _batch(self, item: Any) -> Batch:
        return to_batch(item, shifted=self._shifted)

    def _progress(self) -> Progress:
        trainer = self.trainer
        epoch = math.ceil(float(trainer.num_training_batches) / self.accumulate)
        lengths = [epoch * (trainer.max_epochs or -1), trainer.max_steps]
        steps = min((length for length in lengths if length > 0), default=1)
        return Progress(trainer.global_step, int(steps), trainer.current_epoch)


class _Open(Callback):
    """Keeps a teacher open while a fit lasts, also where it ends by an error."""

    def __init__(self, distillation: DistillationLoss) -> None:
        self._distillation = distillation

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Open."""
        self._distillation.__enter__()

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Close."""
        self._distillation.__exit__(None, None, None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close."""
        self._distillation.__exit__(None, None, None)
