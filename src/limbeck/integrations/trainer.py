"""`DistillTrainer`: a transformers.Trainer that distills."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from limbeck.atomic_io import atomic_write
from limbeck.batch import Batch, Progress
from limbeck.data.tokenizer import find_label_format
from limbeck.errors import LimbeckError
from limbeck.integrations.distillation_loss import DistillationLoss, broadcast_heads
from limbeck.integrations.id_dataset import identify_dataset, to_batch
from limbeck.losses import Objective
from limbeck.random_seeds import fork_rng

HEADS = "limbeck_heads.safetensors"


class DistillTrainer(Trainer):
    """A `transformers.Trainer` that minimizes an objective with a teacher.

    Arguments, callbacks, schedules, checkpoints and evaluation are those of the Trainer. Evaluation uses the model's
    own loss on labels, which is comparable with a plain Trainer, and does not evaluate the teacher. Means are over all
    batches of a step, on all processes, so gradients do not depend on ``gradient_accumulation_steps``. Padding
    (``attention_mask``) is excluded from losses between hidden states. The labels of causal language models are shifted
    as the model does. Teacher and heads are not in the saved model; trainable heads are in checkpoints
    (``max_grad_norm`` covers the student's parameters only).

    Args:
        *args: Arguments of the Trainer.
        objective: The objective to minimize.
        teacher: A `Teacher`, a module, or a fitted scikit-learn classifier. `CachedTeacher` needs
            rows with an ``id``: ``train_dataset=IdDataset(texts)``, or a ``datasets.Dataset`` with such a column.
        **kwargs: Arguments of the Trainer.

    Raises:
        LimbeckError: As `DistillationLoss`; if there are no training data; or if the arguments set a loss of the
            Trainer (``label_smoothing_factor``, ``compute_loss_func``).

    Example:
        >>> # objective = 0.1 * Loss(cross_entropy) + 0.9 * Loss(kl_divergence, temperature=2.0)
        >>> # trainer = DistillTrainer(student, arguments, objective=objective, teacher=teacher, train_dataset=rows,
        >>> #                          data_collator=DataCollatorWithPadding(tokenizer))
        >>> # trainer.train()
    """

    # The loss is already a mean over the whole step, so the Trainer must not divide it again.
    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, objective: Objective, teacher: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._check_losses()
        # Used by versions of transformers before `loss_is_scaled_for_ga`.
        self.model_accepts_loss_kwargs = True
        self._counts: dict[str, float] | None = None
        self._label_format = find_label_format(self.model)
        with fork_rng():
            example = self._example()
        student: Any = self.model
        self.distillation = DistillationLoss(
            student, objective, teacher, example=example, loader=identify_dataset(self.train_dataset),
            accumulate=self.args.gradient_accumulation_steps,
        )  # fmt: skip
        if self._heads():
            self.add_callback(_Heads(self))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the Trainer does, with the teacher open."""
        with self.distillation.block():
            return super().train(*args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Any:
        """The objective during training, the model's own loss during evaluation."""
        if not model.training:
            return super().compute_loss(model, _without_id(inputs), return_outputs, num_items_in_batch=None, **kwargs)
        seen: list[Any] = []
        batch, counts = self._batch(inputs), self._counts if num_items_in_batch is not None else None
        with self.distillation.block():
            handle = model.register_forward_hook(lambda module, given, output: seen.append(output))
            try:
                loss = self.distillation.loss(batch, progress=self._progress(), counts=counts, model=model)
            finally:
                handle.remove()
        return (loss, seen[-1]) if return_outputs else loss

    def prediction_step(self, model: nn.Module, inputs: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Predict like the Trainer, without the ids, which the model does not accept."""
        return super().prediction_step(model, _without_id(inputs), *args, **kwargs)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The batches of one step; also counts the values of each term."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        # The Trainer clears only the gradients of the model between steps, not those of the heads.
        self.distillation.objective.zero_grad(set_to_none=True)
        self._counts = self.distillation.counts([self._batch(sample) for sample in samples])
        return samples, max(int(max(self._counts.values(), default=1)), 1)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The Trainer's optimizer, with the heads added."""
        optimizer = super().create_optimizer(*args, **kwargs)
        included = {id(p) for group in optimizer.param_groups for p in group["params"]}
        fresh = [p for p in self.distillation.objective.parameters() if p.requires_grad and id(p) not in included]
        if fresh:
            optimizer.add_param_group({"params": fresh})
        return optimizer

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        file = Path(resume_from_checkpoint) / HEADS
        if self._heads() and file.is_file():
            self.distillation.objective.load_state_dict(load_file(file))

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = list({*(self._signature_columns or ()), "id"})  # type: ignore[assignment]

    def _batch(self, inputs: Any) -> Batch:
        return to_batch(inputs, label_format=self._label_format)

    def _progress(self) -> Progress:
        return Progress(self.state.global_step, max(self.state.max_steps, 1), int(self.state.epoch or 0))

    def _heads(self) -> dict[str, Tensor]:
        return {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in self.distillation.objective.state_dict().items()
        }

    def _example(self) -> Batch:
        """The first batch of the Trainer's loader."""
        if self.train_dataset is None:
            raise LimbeckError(
                "A DistillTrainer needs train_dataset=, because it checks teacher and student on the first batch."
            )
        loader = self.get_train_dataloader()
        inputs: Any = self._prepare_inputs(next(iter(loader)))
        return self._batch(inputs)

    def _check_losses(self) -> None:
        for name, value in (
            ("label_smoothing_factor", self.args.label_smoothing_factor),
            ("compute_loss_func", self.compute_loss_func),
        ):
            if value:
                raise LimbeckError(
                    f"{name}={value!r} sets a loss of the Trainer, but a DistillTrainer minimizes objective=: add it "
                    "there, such as Loss(label_smoothing, smoothing=0.1)."
                )


def _without_id(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: column for name, column in inputs.items() if name != "id"}


class _Heads(TrainerCallback):
    """Saves trainable heads in each checkpoint, and synchronizes them between processes."""

    def __init__(self, trainer: DistillTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the first step."""
        broadcast_heads(self._trainer.distillation.objective)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After the last backward pass of a step: accelerate averages only the gradients of the model."""
        self._trainer.distillation.average_heads()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After a checkpoint was written."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            with atomic_write(folder / HEADS) as partial:
                save_file(self._trainer._heads(), partial)
