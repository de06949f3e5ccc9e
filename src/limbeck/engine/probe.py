"""The probe: one batch forward and backward before training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.batch import IGNORED, LOGITS, Batch, Inputs, Outputs, Progress, Term
from limbeck.data import Loader
from limbeck.data.tokenizer import labels_are_inputs
from limbeck.engine.mask_check import warn_without_mask
from limbeck.engine.model_checks import MemoryCheck, check_outputs, statistics_watched
from limbeck.errors import LastBatchError, LimbeckError
from limbeck.losses import LossContext, Objective, all_reduce_sum, preserved_state, setup_objective
from limbeck.losses.row_loss import select_few
from limbeck.model_call import find_output_layer, vocabulary_size
from limbeck.recipe import Stage
from limbeck.tap import Tapped
from limbeck.teachers import Preprocess, TeacherContext, TeacherFn, TeacherSession


class Probe(NamedTuple):
    """The result of a probe.

    Attributes:
        objective: The stage's objective after setup with the shapes of its first batch.
        reached: The parameters, of student and heads, that at least one term reaches.
    """

    objective: Objective
    reached: set[nn.Parameter]


def open_teacher(
    stage: Stage,
    preprocess: Preprocess,
    loader: Any,
    device: torch.device,
    models: Mapping[str, nn.Module],
    *,
    hidden_logits: bool = False,
) -> TeacherSession | None:
    """The session of a stage's teacher, not entered yet; None if there is nothing to compute or to update.

    Args:
        stage: The stage.
        preprocess: The student's function from a batch to inputs.
        loader: The loader of its batches.
        device: The device of the outputs.
        models: The models of the run by name.
        hidden_logits: Whether the losses of the student's logits can read the teacher's as `HiddenLogits`.
    """
    teacher, objective = stage.teacher, stage.objective
    if teacher is None or not (objective.requires.teacher or teacher.capabilities.changes):
        return None
    # Weights may change before another loss reads the logits, such as one with a memory, after the step.
    others = [leaf for leaf, _ in objective.leaves() if LOGITS not in leaf.requires.student]
    context = TeacherContext(
        requires=objective.requires.teacher, device=device, preprocess=preprocess,
        loader=loader, temperatures=objective.temperatures, masks=objective.masks, models=models,
        hidden_logits=hidden_logits and all(LOGITS not in leaf.requires.teacher for leaf in others),
    )  # fmt: skip
    return teacher.open(context)


def probe(
    stage: Stage,
    tapped: Tapped,
    answer: TeacherFn,
    batch: Batch,
    inputs: Inputs,
    loader: Any = None,
    *,
    fixed: Iterable[nn.Module] = (),
    memory_check: MemoryCheck | None = None,
    check_eval: bool = True,
    forward: Callable[[Batch], Outputs] | None = None,
) -> Probe:
    """Send one batch forward and backward; set up the losses; find the parameters that the stage can change.

    Args:
        stage: The stage.
        tapped: The stage's student, open.
        answer: Function from a batch to the teacher's outputs; empty outputs without a teacher.
        batch: Any batch of the stage's loader.
        inputs: The student's inputs for that batch.
        loader: The loader, if there is one, for ids and labels of all examples.
        fixed: The modules of the teacher: the student's forward pass must not change them.
        memory_check: Checks what the losses remember.
        check_eval: Whether to check the student's outputs in eval mode too; a peer is a teacher in eval mode.
        forward: Function from a batch to the student's outputs, for losses that run the student themselves; None if
            its parameters are sharded.

    Returns:
        The objective for the stage, and the parameters, of student and heads, that at least one term reaches.

    Raises:
        LimbeckError: If the student cannot read the inputs, the two models' outputs cannot be compared, a label is
            not a class of the student, or a term reaches no parameter.
    """
    fixed, dataset = list(fixed), loader.examples if isinstance(loader, Loader) else None
    teacher_outputs = _teacher_outputs(stage, answer, batch)
    with statistics_watched(stage, fixed):
        outputs = _student_outputs(stage, tapped, inputs)
    few, its, _ = select_few(outputs, teacher_outputs, batch) if outputs.hidden else (outputs, teacher_outputs, batch)
    # Logits that are not multiplied out were compared with the model's own in both modes.
    check_outputs(stage, tapped, few, its, inputs, check_eval=check_eval and not outputs.hidden)
    _check_labels(stage, outputs, batch.labels if dataset is None or dataset.labels is None else dataset.labels)
    _check_copies(stage, outputs, batch, inputs)
    warn_without_mask(stage, outputs, batch, inputs)
    context = LossContext(
        outputs, teacher_outputs, batch,
        output_layer=_output_layer(tapped.model),
        teacher_output_layer=_output_layer(fixed[0]) if len(fixed) == 1 else None,
        ids=None if dataset is None else dataset.ids,
        examples=None if loader is None else loader.examples_per_epoch,
        vocabulary=vocabulary_size(tapped.model),
        model=None if forward is None else tapped.model,
        forward=forward,
        answer=None if stage.teacher is None else answer,
    )  # fmt: skip
    stage.objective.to(context.device)
    with explain_batchnorm_error(stage):
        objective = setup_objective(stage.objective, context).to(context.device)
    _check_counts(stage, objective, outputs, batch)
    candidates = [p for p in [*tapped.parameters(), *objective.parameters()] if p.requires_grad]
    with preserved_state(objective):  # also during backward: the graph may contain the losses' memory
        before = {} if memory_check is None else memory_check.remember(objective)
        with explain_batchnorm_error(stage):
            terms = objective(outputs, teacher_outputs, batch, Progress())
        if memory_check is not None:
            memory_check.compare(before, objective)
        return Probe(objective, _reached_parameters(stage, terms, candidates))


def _output_layer(model: nn.Module) -> nn.Module | None:
    layer = find_output_layer(model)
    return None if layer is None else layer[1]


def _teacher_outputs(stage: Stage, answer: TeacherFn, batch: Batch) -> Outputs:
    try:
        return answer(batch)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise LimbeckError(
            f"The teacher of {stage.trains!r} ({type(stage.teacher).__name__}) cannot answer a batch whose inputs are "
            f"{_describe_inputs(batch.inputs)}: {first_line(error)} If it wants other inputs, give it preprocess=... "
            f"of its own."
            f"{_bytes_hint(batch.inputs)}"
        ) from error


def _student_outputs(stage: Stage, tapped: Tapped, inputs: Inputs) -> Outputs:
    try:
        return tapped(inputs)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise LimbeckError(
            f"The model {stage.trains!r} ({type(tapped.model).__name__}) refused inputs of {_describe_inputs(inputs)}: "
            f"{first_line(error)}{_bytes_hint(inputs)}"
        ) from error


def _bytes_hint(inputs: Inputs) -> str:
    """A hint for a model that received image bytes (``uint8``); empty for other inputs."""
    values = inputs.values() if isinstance(inputs, dict) else inputs if isinstance(inputs, (tuple, list)) else [inputs]
    if not any(isinstance(one, Tensor) and one.dtype == torch.uint8 for one in values):
        return ""
    return (
        " Its inputs are bytes, as pictures are stored, and most networks read numbers: "
        "give preprocess=data.preprocess of data = lb.load_data(...), "
        "or preprocess=lb.NormalizeImages(mean=..., std=...)."
    )


def _check_labels(stage: Stage, outputs: Outputs, labels: Tensor | None) -> None:
    for leaf, _ in stage.objective.leaves():
        own = "labels" in leaf.requires.batch and leaf.requires.student == {LOGITS} and not leaf.heads
        shape = outputs.raw(LOGITS).shape if own else ()
        if labels is None or len(shape) != labels.ndim + 1:
            continue
        dimension = leaf.classes
        # The loss itself raises for a missing dimension.
        classes = shape[dimension] if -len(shape) <= dimension < len(shape) else math.inf
        wrong = labels[(labels != IGNORED) & ((labels < 0) | (labels >= classes))]
        if wrong.numel():
            raise LimbeckError(
                f"Label {int(wrong[0])} is no class of the model {stage.trains!r}, which has 0 to {classes - 1}."
            )


def _check_copies(stage: Stage, outputs: Outputs, batch: Batch, inputs: Inputs) -> None:
    """Refuse labels that equal the input tokens: the model would copy them, and the loss would still fall."""
    reads_labels = any("labels" in leaf.requires.batch for leaf, _ in stage.objective.leaves())
    if not reads_labels or not _are_logits_of_tokens(outputs):
        return
    if labels_are_inputs(batch.labels, inputs):
        raise LimbeckError(
            f"The labels of {stage.trains!r} are its input_ids, token by token, so it would learn to copy what it has "
            "just read. A language model's label at a token is the next one, labels[:, :-1] = input_ids[:, 1:], and "
            "-100 at the end; or give a DataLoader of {input_ids, attention_mask, labels}, whose labels are moved "
            "for a causal model of transformers."
        )


def _are_logits_of_tokens(outputs: Outputs) -> bool:
    return (LOGITS in outputs or LOGITS in outputs.hidden) and len(outputs.raw(LOGITS).shape) == 3


def _check_counts(stage: Stage, objective: Objective, outputs: Outputs, batch: Batch) -> None:
    """Refuse texts of which no token counts: every term would be 0."""
    counts = objective.counts(batch)
    if not _are_logits_of_tokens(outputs) or all_reduce_sum(sum(counts.values())):
        return
    raise LimbeckError(
        f"No token of the first batch counts for {', '.join(counts)} of {stage.trains!r}, so nothing would be learned: "
        "every label is -100, or the mask is False everywhere. Are the answers empty, or cut off behind long prompts? "
        "Leave such texts out, or raise max_length."
    )


def first_line(error: BaseException) -> str:
    """The text of an error in one line, with a full stop at the end."""
    first, *more = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
    if first.endswith(":") and more:
        first = f"{first} {more[0]}"
    return first if first.endswith((".", "!", "?")) else f"{first}."


def _reached_parameters(stage: Stage, terms: dict[str, Term], candidates: list[nn.Parameter]) -> set[nn.Parameter]:
    reached: set[nn.Parameter] = set()
    for name, term in terms.items():
        total = term.total
        gradients: Iterable[Tensor | None] = ()
        if total.requires_grad and candidates:
            gradients = torch.autograd.grad(total, candidates, retain_graph=True, allow_unused=True)
        moved = {p for p, gradient in zip(candidates, gradients, strict=False) if gradient is not None}
        if not moved:
            if not torch.is_grad_enabled():
                raise LimbeckError(
                    f"Gradients are switched off here, so {stage.trains!r} cannot learn: leave the block of "
                    "torch.no_grad() or torch.inference_mode(), or type torch.set_grad_enabled(True)."
                )
            raise LimbeckError(
                f"The term {name!r} reaches no parameter of {stage.trains!r} that may learn: nothing in it depends on "
                "the student, or its parameters have requires_grad=False, or a tap sits inside a reentrant checkpoint."
            )
        reached |= moved
    return reached


def check_single(stage: Stage, tapped: Tapped, inputs: Inputs) -> None:
    """Send a single example forward, if the loader is known to yield a batch of one.

    Raises:
        LimbeckError: If the student cannot train on it, as BatchNorm cannot.
    """
    with explain_batchnorm_error(stage), torch.no_grad():
        tapped(inputs)


@contextmanager
def explain_batchnorm_error(stage: Stage) -> Iterator[None]:
    """A block that turns BatchNorm's error about a single example into one that says what to do."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise LastBatchError(
            f"The model {stage.trains!r} or its loss holds a BatchNorm, which cannot train on one example, and a batch "
            "holds only one (on each device): use another batch_size, or ShuffledLoader(..., drop_last=True), "
            f"DataLoader(..., drop_last=True). PyTorch's error: {first_line(error)}"
        ) from error


@contextmanager
def freeze_except(module: nn.Module, reached: set[nn.Parameter]) -> Iterator[None]:
    """A block in which only `reached` requires gradients: distributed strategies would wait forever for the others."""
    rested = [p for p in module.parameters() if p.requires_grad and p not in reached]
    for parameter in rested:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in rested:
            parameter.requires_grad_(True)


def objective_check(objective: Objective, *, accumulate: int) -> None:
    """Raise if the objective compares examples with each other and the batch is to be split.

    Raises:
        LimbeckError: If `accumulate` is above 1 and a loss is per pair or per batch.
    """
    for name, (leaf, _) in objective.named_leaves().items():
        if accumulate > 1 and leaf.per in ("pair", "batch"):
            raise LimbeckError(
                f"{name} yields one value per {leaf.per}, so it means something else on a part of the batch: "
                f"it cannot be accumulated (accumulate={accumulate}); use accumulate=1 and a batch that fits."
            )


def _describe_inputs(inputs: Inputs) -> str:
    if isinstance(inputs, Tensor):
        return f"shape {tuple(inputs.shape)} ({str(inputs.dtype).removeprefix('torch.')})"
    if isinstance(inputs, dict):
        return "{" + ", ".join(f"{key}: {_describe_inputs(value)}" for key, value in inputs.items()) + "}"
    if isinstance(inputs, (tuple, list)):
        return "(" + ", ".join(map(_describe_inputs, inputs)) + ")"
    return type(inputs).__name__
