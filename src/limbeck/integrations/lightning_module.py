"""`DistillModule`: a LightningModule that distills."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning import Callback, LightningModule
from torch import Tensor, nn

from limbeck.batch import IGNORED, Batch, Progress
from limbeck.data.tokenizer import find_label_format
from limbeck.errors import LimbeckError
from limbeck.integrations.distillation_loss import DistillationLoss
from limbeck.integrations.id_dataset import to_batch
from limbeck.losses import Objective
from limbeck.model_call import Adaptor, call, logits_of
from limbeck.recipe import Optimizer
from limbeck.teachers import Preprocess, Stream, read_inputs


class DistillModule(LightningModule):
    """A `LightningModule` that minimizes an objective with a teacher.

    The student is ``module.student``, the heads are in ``module.objective``. The teacher is not a submodule: it is in
    no checkpoint and no optimizer, and always in eval mode. Use ``accumulate=`` instead of the Trainer's
    ``accumulate_grad_batches``, which divides by the number of batches whatever they contain. Therefore the module uses
    manual optimization, and also steps the schedulers that ``configure_optimizers`` returns. Validation logs
    ``val_accuracy``.

    Args:
        student: The student.
        objective: The objective to minimize.
        teacher: A `Teacher`, or a module or fitted scikit-learn classifier; None if the objective uses none.
        example: Any batch of the data, as the loader returns it.
        optimizer: The optimizer and its schedule; override ``configure_optimizers`` to use another one.
        accumulate: The number of batches in one optimizer step.
        loader: The ids and the fingerprint of the data, for a `CachedTeacher`: ``IdDataset(examples)``.
        preprocess: Function from a batch to the student's inputs.
        adaptor: Function from the student's raw output to logits, for unusual outputs.

    Raises:
        LimbeckError: As `DistillationLoss`, or if `accumulate` is not an integer of at least 1.

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
        self.optimizer = optimizer or Optimizer()
        self.accumulate = accumulate
        self._label_format = find_label_format(student)
        self.distillation = DistillationLoss(
            student, objective, teacher, example=self._batch(example), loader=loader, preprocess=preprocess,
            adaptor=adaptor,
            accumulate=accumulate,
        )  # fmt: skip
        self.objective = self.distillation.objective  # a copy of the argument with the heads that are trained
        self._window: list[Batch] = []
        self._peaks: list[float] | None = None

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The student's output."""
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
        # Each process has its share of the global mean times the number of processes; the mean over them is the loss.
        self.log("train_loss", total, prog_bar=True, sync_dist=True)
        return total

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the student's accuracy on labels."""
        inputs = self._batch(batch)
        if inputs.labels is None:
            raise LimbeckError("Validation computes the accuracy, and these batches have no labels.")
        logits = logits_of(call(self.student, self.distillation.preprocess(inputs)), self.distillation.adaptor)
        labeled = inputs.labels != IGNORED
        right = (logits.argmax(-1) == inputs.labels)[labeled].float()
        # Log also without labels: all processes must take part in the reduction.
        share = right.mean() if len(right) else right.sum()
        self.log("val_accuracy", share, prog_bar=True, batch_size=len(right), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """`optimizer` for student and heads; its schedule is followed step by step, as the engine does."""
        optimizer = self.optimizer.make([p for p in self.parameters() if p.requires_grad])
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        return optimizer

    def configure_callbacks(self) -> list[Callback]:
        """The callback that keeps the teacher open during a fit."""
        return [_Open(self.distillation)]

    def on_train_epoch_end(self) -> None:
        """Step the schedulers with interval "epoch"."""
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
        return to_batch(item, label_format=self._label_format)

    def _progress(self) -> Progress:
        trainer = self.trainer
        epoch = math.ceil(float(trainer.num_training_batches) / self.accumulate)
        lengths = [epoch * (trainer.max_epochs or -1), trainer.max_steps]
        steps = min((length for length in lengths if length > 0), default=1)
        return Progress(trainer.global_step, int(steps), trainer.current_epoch)


class _Open(Callback):
    """Keeps the teacher open during a fit, and closes it after an error too."""

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
