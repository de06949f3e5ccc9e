"""`StageTrainer`: one stage, open, and its training step."""

from __future__ import annotations

import copy
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from limbeck.batch import LOGITS, LOGITS_INPUT, Batch, Outputs, Progress
from limbeck.data import Loader, shard_batch
from limbeck.engine.checkpoint import keep_memory_format, preserved_tensors, to_device
from limbeck.engine.distributed import broadcast_buffers, copy_for_sharding, is_sharded, load_whole_state, whole_state
from limbeck.engine.fused_output_layer import fuses_output_layer, make_dense_error
from limbeck.engine.model_checks import (
    MemoryCheck,
    check_class_order,
    check_shared,
    find_moving_averages,
    find_networks,
)
from limbeck.engine.probe import (
    Probe,
    check_single,
    explain_batchnorm_error,
    freeze_except,
    objective_check,
    open_teacher,
    probe,
)
from limbeck.engine.recipe_runner import RunModels
from limbeck.engine.step_report import Tally
from limbeck.engine.student_module import (
    StepInputs,
    StudentWithLoss,
    frozen_eval_modules,
    has_sparse_gradients,
    losses_with_memory,
    other_modules,
    unwrap_for_call,
)
from limbeck.engine.train_config import Fabric, TrainConfig
from limbeck.random_seeds import fork_rng, make_rng_state
from limbeck.recipe import Stage
from limbeck.tap import FrozenParameters, Tapped, preserved_buffers
from limbeck.teachers import SharedInputs, TeacherFn


class StageTrainer(AbstractContextManager["StageTrainer"]):
    """One stage's student, teacher, heads and optimizer, open in a ``with`` block (see `open_stage`).

    Args:
        stage: The stage.
        models: The run's models by name.
        setting: The settings of the run.
        fabric: Device, precision, strategy.
        loader: The loader of the stage's batches.
        batch: Any batch of the loader, for the probe.
        single: Whether a batch is known to give a rank a single example.
        group: The names of all models that learn from the same batches.

    Attributes:
        stage: The stage.
        model: The model that learns.
        tapped: The model, whose outputs at the addresses are read.
        preprocess: Function from a batch to the student's inputs.
        session: The teacher's session; None if there is nothing to compute or to update.
        get_teacher_outputs: Function from a batch to the teacher's outputs; empty ones without a teacher.
        objective: The stage's objective after `Objective.setup`.
        reached: The parameters, of student and heads, that at least one term reaches.
        optimizer: The optimizer.
        tally: Sums over the steps since they were last cleared.
        lr: The learning rate of the last step.
    """

    def __init__(
        self,
        stage: Stage,
        models: Mapping[str, nn.Module],
        *,
        setting: TrainConfig,
        fabric: Fabric,
        loader: Loader,
        batch: Batch,
        single: bool = False,
        group: Iterable[str] = (),
    ) -> None:
        objective_check(stage.objective, accumulate=setting.accumulate)
        self.stage = stage
        self.batch = batch
        self.tally = Tally()
        self.lr = 0.0
        self._models = RunModels.of(models, setting.adaptor)
        self._setting, self._fabric = setting, fabric
        self._loader, self._single = loader, single
        self._plan = stage.optimizer or setting.optimizer
        self.preprocess = SharedInputs(stage.preprocess or setting.preprocess)
        self._sharded = is_sharded(fabric)
        self._fuses = fuses_output_layer(stage, self._models, setting, fabric)
        # Before any stage of a group is open: a teacher that copies a model must not copy its hooks.
        self.session = open_teacher(
            stage, self.preprocess, loader, fabric.device, self._models, hidden_logits=self._fuses
        )
        self._alone = len(set(group) | {stage.trains}) == 1
        self._networks = find_networks(stage.teacher, models=self._models, learning={stage.trains, *group})
        self._averages = find_moving_averages(self.session)
        student = self._models[stage.trains]
        asleep = {module for network in self._networks for module in network.modules()}
        self._shares = not asleep.isdisjoint(student.modules())
        check_shared(stage, student, self._networks)
        check_class_order(stage, student, self._networks)
        self._memory_check = MemoryCheck(stage, fabric, accumulate=setting.accumulate)
        self._stack = ExitStack()
        self._learning: list[nn.Parameter] = []
        self._submitted: deque[tuple[Batch, Future[Outputs]]] = deque()

    def __enter__(self) -> StageTrainer:
        with ExitStack() as stack:
            self._open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._submitted.clear()
        self._stack.close()
        self._clear_gradients()

    def _open(self, stack: ExitStack) -> None:
        stage, device = self.stage, self._fabric.device
        whole = self._models[stage.trains]
        self.model = (copy_for_sharding(whole, stage) if self._sharded else whole).to(device)
        learning = {parameter for part in stage.parts(self.model) for parameter in part.parameters()}
        self._frozen = [p for p in self.model.parameters() if p.requires_grad and p not in learning]
        self._resting = [*frozen_eval_modules(self.model), *other_modules(self.model, stage.parts(self.model))]
        called = self.model if self._sharded else self._models.get_callable(stage.trains)
        requires = stage.objective.requires.student
        # The forward pass of a sharded module cannot be stopped in the middle.
        requires = requires | {LOGITS} if self._sharded and LOGITS_INPUT in requires else requires
        adaptor = self._models.adaptor(stage.trains)
        self.tapped = Tapped(called, requires, adaptor=adaptor, hidden_logits=self._fuses)
        self.get_teacher_outputs = self._enter_teacher(stack)
        stack.enter_context(FrozenParameters(self.model, mode="train"))
        self._wake()
        stack.enter_context(self.tapped)
        with self._others_frozen():
            self.objective, self.reached = self._probed()
            if self._fabric.world_size > 1:
                stack.enter_context(freeze_except(StudentWithLoss(self.tapped, self.objective), self.reached))
            objective = copy.deepcopy(self.objective) if self._sharded else self.objective
            reached = () if self._sharded else self.reached
            self._inner = StudentWithLoss(self.tapped, objective, reached=reached)
            self.student_with_loss: Any = self._fabric.setup_module(self._inner)
            self._ask = unwrap_for_call(self.student_with_loss, self._fabric)
            self._memories = losses_with_memory(objective)
            self._learning = [p for p in self.student_with_loss.parameters() if p.requires_grad]
            sparse = has_sparse_gradients(self.student_with_loss)
            optimizer = self._plan.make(self._grouped(self._learning), sparse=sparse)
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        self.optimizer: Any = self._fabric.setup_optimizers(optimizer)

    def _grouped(self, parameters: list[nn.Parameter]) -> Any:
        """The parameters, in groups if some have options of their own."""
        leaves = self._inner.objective.named_leaves()
        own = {f"loss.{name}": leaf.optimizer_options for name, (leaf, _) in leaves.items() if leaf.optimizer_options}
        if not own and not self._plan.groups:
            return parameters
        names = {p: name for name, p in self.model.named_parameters()}
        names |= {p: f"loss.{term}.{name}" for term, (leaf, _) in leaves.items() for name, p in leaf.named_parameters()}
        return self._plan.group({names.get(p, f"unknown.{i}"): p for i, p in enumerate(parameters)}, own)

    @contextmanager
    def _others_frozen(self) -> Iterator[None]:
        """A block in which the parts of the model that do not learn in this stage need no gradient.

        It is undone at the end, because a part may learn in another stage of the group.
        """
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in () if self._sharded else self._frozen:
                parameter.requires_grad_(True)

    def _wake(self) -> None:
        self.model.train()
        for module in self._resting:
            module.training = False

    def _enter_teacher(self, stack: ExitStack) -> TeacherFn:
        session = None if self.session is None else stack.enter_context(self.session)
        if session is None or not self.stage.objective.requires.teacher:
            return _ask_nobody
        if not self._shares:
            return session

        def answer_and_wake(batch: Batch) -> Outputs:
            """A teacher that is opened late puts its layers into eval mode, also those that are the student's."""
            outputs = session(batch)
            self._wake()
            return outputs

        return answer_and_wake

    @property
    def ahead(self) -> int:
        """The number of batches that the teacher accepts before the outputs of the first one are used."""
        # A changing teacher must use the weights of this step; one that shares layers with the
        # student needs their modes.
        if self.session is None or self._shares or not self.stage.objective.requires.teacher:
            return 0
        changes = self.stage.teacher is not None and self.stage.teacher.capabilities.changes
        return 0 if changes else self.session.ahead

    def submit(self, window: Sequence[Batch], progress: Progress) -> None:
        """Submit the batches of a later step to the teacher, if it computes ahead and is needed then."""
        if self.ahead and self.session is not None and self.objective.reads_teacher(progress):
            with self._fabric.autocast():
                self._submitted.extend((batch, self.session.submit(batch)) for batch in window)

    def _drop_submitted(self, window: Sequence[Batch]) -> None:
        """Drop the outputs of earlier windows. Those of this one stay: a stage may take several steps on it."""
        place = next((i for i, (batch, _) in enumerate(self._submitted) if batch is window[0]), 0)
        for _ in range(place):
            self._submitted.popleft()

    def _probed(self) -> Probe:
        batch = self.batch.to(self._fabric.device)
        before = None if self.session is None else self.session.state_dict()
        # Only existing models: a look-up of the others would create them before their stage.
        looked_at = [*self._models.existing.values(), *self._networks]
        # Heads must begin alike on every rank, whatever else each rank draws.
        seed = make_rng_state(self._head_seed())
        with preserved_tensors(before), fork_rng(seed), preserved_buffers(looked_at), self._fabric.autocast():
            result = probe(
                self.stage, self.tapped, self.get_teacher_outputs, batch, self.preprocess(batch), self._loader,
                fixed=self._networks, memory_check=self._memory_check, check_eval=self._alone,
                forward=None if self._sharded else lambda batch: self.tapped(self.preprocess(batch)),
            )  # fmt: skip
            if self._setting.fuse_output_layer is True and self.tapped.dense_reason:
                raise make_dense_error(self.stage, self.tapped.dense_reason)
            if self._single:
                check_single(self.stage, self.tapped, self.preprocess(shard_batch(batch, 0, batch.size)))
        return result

    def _head_seed(self) -> int:
        """Equal on every rank, and different for every student, so that peers' heads differ."""
        return zlib.crc32(f"{self._setting.seed} {self.stage.trains} {self.stage.name}".encode())

    def step(self, window: Sequence[Batch], progress: Progress, *, measure: bool = False) -> None:
        """Take one optimizer step on all the micro-batches of `window`.

        Args:
            window: The micro-batches.
            progress: The step.
            measure: Whether to compute each term's gradient at the student's outputs.
        """
        if not self.model.training or any(module.training for module in self._resting):
            self._wake()
        # Another stage's graph may pass through this model and leave gradients that are not this stage's. They are
        # freed here, not after the step, because the backward pass that follows uses the memory again.
        self._clear_gradients()
        self._drop_submitted(window)
        alone = len(window) == 1 and self._fabric.world_size == 1
        counts = None if alone else self._counts(window)
        seen: list[tuple[Outputs, Outputs, Batch]] = []
        with self._others_frozen() if self._frozen else nullcontext():
            for last, batch in enumerate(window, start=1 - len(window)):
                with self._unsynchronized(last != 0):
                    teacher_outputs = self._backward(batch, progress, counts, measure=measure)
                if self._memories:
                    seen.append((self._inner.outputs, teacher_outputs, batch))
        self._set_lr(progress)
        if self._plan.clip is not None:
            self._fabric.clip_gradients(self.student_with_loss, self.optimizer, max_norm=self._plan.clip)
        self.optimizer.step()
        self.tally.steps += 1
        self._update_memories(seen, progress._replace(lr=self.lr))
        broadcast_buffers(self._inner, self._fabric)
        if self.session is not None:
            self.session.after_step()
            for average in self._averages:
                broadcast_buffers(average, self._fabric)

    def _update_memories(self, seen: Sequence[tuple[Outputs, Outputs, Batch]], progress: Progress) -> None:
        with torch.no_grad():
            for leaf in self._memories:
                for outputs, teacher_outputs, batch in seen:
                    leaf.after_step(outputs, teacher_outputs, batch, progress)
                leaf.end_step([batch for _, _, batch in seen], progress)
        if self._memories and progress.step == 0:
            self._memory_check.compare_ranks(self._inner.objective)

    def _clear_gradients(self) -> None:
        for parameter in self._learning:  # what zero_grad does, without its bookkeeping
            parameter.grad = None

    def _backward(self, batch: Batch, progress: Progress, counts: dict[str, float] | None, *, measure: bool) -> Outputs:
        with self._fabric.autocast():
            future = next((future for submitted, future in self._submitted if submitted is batch), None)
            ask = self.get_teacher_outputs if self.objective.reads_teacher(progress) else _ask_nobody
            teacher_outputs = ask(batch) if future is None else future.result()
        parameters = measure and self._setting.parameter_norms
        lesson = StepInputs(teacher_outputs, batch, progress, counts, measure=measure, measure_parameters=parameters)
        with explain_batchnorm_error(self.stage):
            loss = self._ask(self.preprocess(batch), lesson)
        self._fabric.backward(loss)
        self.tally.add(loss.detach(), self._inner.terms, batch.size)
        if measure:
            self.tally.add_gradients(self._inner.gradients, self._inner.parameter_gradients)
        return teacher_outputs

    def _counts(self, window: Sequence[Batch]) -> dict[str, float]:
        """How many values each term has in the window, on all ranks, known before the first backward.

        Strategies average gradients over ranks; a mean over the global count needs their sum, so the count is divided
        by the number of ranks. A loss that gathers the whole batch is equal on every rank and is not divided.
        """
        counts: dict[str, float] = {}
        for batch in window:
            for name, count in self.objective.counts(batch).items():
                counts[name] = counts.get(name, 0.0) + count
        world = self._fabric.world_size
        if world == 1:
            return counts
        local = torch.tensor(list(counts.values()), dtype=torch.float64, device=self._fabric.device)
        summed: Any = self._fabric.all_reduce(local, reduce_op="sum")
        leaves = self.objective.named_leaves()
        shared = {name: leaves[name][0].per in ("pair", "batch") for name in counts}
        return {
            name: counts[name] if shared[name] else total / world
            for name, total in zip(counts, summed.tolist(), strict=True)
        }

    def _unsynchronized(self, skip: bool) -> AbstractContextManager[Any]:
        if skip and self._fabric.world_size > 1:
            return self._fabric.no_backward_sync(self.student_with_loss)
        return nullcontext()

    def _set_lr(self, progress: Progress) -> None:
        scale = self._plan.scale(progress.step, progress.steps)
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * scale
        self.lr = self.optimizer.param_groups[0]["lr"]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs besides the models: heads, optimizer, and a teacher that changes."""
        state = {"heads": dict(self.objective.state_dict()), "optimizer": self.optimizer.state_dict()}
        if self._sharded:
            state = self.gather()
        return {
            **state,
            "teacher": {} if self.session is None else self.session.state_dict(),
            "tally": self.tally.state_dict(),
        }

    def gather(self) -> dict[str, Any]:
        """Copy a sharded student's weights into the run's own model; a collective call, so every rank must make it."""
        if not self._sharded:
            return {}
        state = whole_state(self.student_with_loss, self.optimizer)
        self._models[self.stage.trains].load_state_dict(state["student"])
        self.objective.load_state_dict(state["heads"])
        return state

    def load_heads(self, states: dict[nn.Module, Any]) -> None:
        """Restore the heads of earlier stages in a resumed run; each is removed from `states`."""
        for head in (head for leaf, _ in self.stage.objective.leaves() for head in leaf.heads):
            if head in states:
                head.load_state_dict(to_device(states.pop(head), self._fabric.device))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        if self._sharded:
            load_whole_state(self.student_with_loss, self.optimizer, state)
        else:
            self.objective.load_state_dict(state["heads"])
            _check_options(self.optimizer.param_groups, state["optimizer"]["param_groups"])
            self.optimizer.load_state_dict(to_device(state["optimizer"], self._fabric.device))
            keep_memory_format(self.optimizer.optimizer)
        self.lr = self.optimizer.param_groups[0]["lr"]  # with every=, a report may come before its next step
        self.tally.load_state_dict(to_device(state["tally"], self._fabric.device))
        if self.session is not None and state["teacher"]:
            self.session.load_state_dict(state["teacher"])


def _ask_nobody(batch: Batch) -> Outputs:
    return Outputs()


def _check_options(mine: Sequence[Mapping[str, Any]], saved: Sequence[Mapping[str, Any]]) -> None:
    """Raise if these are the parameter groups of another optimizer: torch would load its options without an error."""
    if [set(group) for group in mine] != [set(group) for group in saved]:
        raise ValueError("the optimizer is another one.")
