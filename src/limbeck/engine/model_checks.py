"""Checks of student and teacher before training: outputs, class orders, shared weights, memories."""

from __future__ import annotations

import bisect
import hashlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from limbeck.batch import LOGITS, Inputs, Outputs, Progress
from limbeck.engine.train_config import Fabric
from limbeck.errors import LimbeckError, LimbeckWarning
from limbeck.functional.kernel import are_probabilities
from limbeck.losses import Loss, Objective
from limbeck.model_call import call, logits_of
from limbeck.models.folder import find_first_moved, get_class_names
from limbeck.recipe import Stage
from limbeck.tap import FrozenParameters, Tapped
from limbeck.teachers import MovingAverageSession, Teacher, TeacherRef, TeacherSession, WrapperSession


def check_class_order(stage: Stage, student: nn.Module, networks: Iterable[nn.Module]) -> None:
    """Refuse a teacher whose ``id2label`` names a class that the student has under another number.

    The check is skipped if no loss compares the two models' logits, or one of them has no class names.

    Raises:
        LimbeckError: If the orders differ; the message has the line that gives the student the teacher's order.
    """
    compared = any(
        LOGITS in leaf.requires.student and LOGITS in leaf.requires.teacher and not leaf.heads
        for leaf, _ in stage.objective.leaves()
    )
    ours = get_class_names(student) if compared else None
    for network in networks if ours is not None else ():
        theirs = get_class_names(network)
        moved = find_first_moved(ours, theirs) if ours and theirs and len(ours) == len(theirs) else None
        if moved is not None:
            index, mine, its = moved
            raise LimbeckError(
                f"Class {index} is {mine!r} in the model {stage.trains!r} and {its!r} in its teacher: they have the "
                "classes in different orders, so the student would learn the wrong ones. If its head is new, "
                f"type limbeck.models.name_classes(student, {list(theirs or ())[:6]}) and give labels in that order; "
                "if its head is trained, reorder the rows of one head's weights."
            )


_OF_LOGITS = {"cross_entropy", "label_smoothing", "logit_squared_error", "probability_squared_error"}


def check_outputs(
    stage: Stage, tapped: Tapped, outputs: Outputs, teacher_outputs: Outputs, inputs: Inputs, *, check_eval: bool = True
) -> None:
    """Refuse outputs that losses would read as logits but that are something else.

    Args:
        stage: The stage.
        tapped: The stage's student, open, in train mode.
        outputs: The student's outputs.
        teacher_outputs: The teacher's outputs.
        inputs: The student's inputs.
        check_eval: Whether to check the student's outputs in eval mode too.

    Raises:
        LimbeckError: If a model returns probabilities, if there is a single class, or if the student returns
            probabilities only in eval mode.
    """
    for leaf in _softmax_losses(stage):
        _check_one_class(stage, leaf, outputs)
        if LOGITS in leaf.teacher.values() and LOGITS in teacher_outputs:
            _check_probabilities(
                leaf, teacher_outputs[LOGITS], f"The teacher of {stage.trains!r}", "ModelTeacher(model, "
            )
        _check_probabilities(leaf, outputs[LOGITS], f"The model {stage.trains!r}", "distill(..., ")
        if check_eval:
            _check_eval(stage, leaf, tapped, outputs[LOGITS], inputs)


def _softmax_losses(stage: Stage) -> Iterator[Loss]:
    """The losses that read the student's output as logits."""
    for leaf, _ in stage.objective.leaves():
        if isinstance(leaf, Loss) and leaf.compares_logits and _takes_logits(leaf):
            yield leaf


def _takes_logits(leaf: Loss) -> bool:
    own = leaf.kernel.function.__module__.startswith("limbeck.")
    return leaf.kernel.divergence or (own and leaf.kernel.name in _OF_LOGITS)


def _check_one_class(stage: Stage, leaf: Loss, outputs: Outputs) -> None:
    """Refuse a single logit before a softmax: the softmax is always 1, so nothing can be learnt."""
    logits = outputs[LOGITS]
    if not -logits.ndim <= leaf.classes < logits.ndim or logits.shape[leaf.classes] != 1:
        return
    if _has_gradient(leaf):
        return
    raise LimbeckError(
        f"The model {stage.trains!r} gives one logit (shape {tuple(logits.shape)}), and {leaf.name} takes a softmax "
        "over classes: with one class it is always 1, so nothing would be learnt. For yes or no with one logit use "
        "Loss(binary_kl_divergence) and Loss(binary_cross_entropy) with targets; or give both models two logits."
    )


def _has_gradient(leaf: Loss) -> bool:
    """Whether a loss has a gradient for a student with a single class."""
    draw = torch.Generator().manual_seed(0)
    student = torch.randn(4, 1, generator=draw).requires_grad_()
    arguments: dict[str, Any] = {"student": student, "teacher": torch.randn(4, 1, generator=draw)}
    arguments["labels"] = torch.zeros(4, dtype=torch.int64)
    with torch.enable_grad():
        values = leaf.kernel({name: arguments[name] for name in leaf.kernel.inputs if name in arguments}, Progress())
        (slope,) = torch.autograd.grad(values.sum(), student, allow_unused=True)
    return slope is not None and bool(slope.any())


def _check_probabilities(leaf: Loss, logits: Tensor, who: str, where: str) -> None:
    if are_probabilities(_last(logits, leaf.classes)):
        raise LimbeckError(
            f"{who} answers with probabilities (none is below 0, and each row's sum is 1), and {leaf.name} takes the "
            "softmax of logits: of probabilities that is nearly uniform. Take its softmax away, or give their "
            f"logarithm: {where}adaptor=lambda output: output.clamp_min(1e-12).log())."
        )


def _check_eval(stage: Stage, leaf: Loss, tapped: Tapped, trained: Tensor, inputs: Inputs) -> None:
    """Check the student's outputs in eval mode, if its code depends on the mode."""
    if not any(_reads_training_mode(module) for module in tapped.model.modules()):
        return
    try:
        with FrozenParameters(tapped.model), torch.no_grad():
            logits = logits_of(call(tapped.model, inputs), tapped.adaptor)
    except Exception:  # a model that is never used in eval mode need not work there
        return
    if are_probabilities(_last(logits, leaf.classes)):
        raise LimbeckError(
            f"The model {stage.trains!r} answers with logits in train mode and with probabilities in eval mode, so "
            "that it would be judged by the softmax of a softmax. Let forward() return logits in both."
        )
    if logits.shape != trained.shape:
        warnings.warn(
            f"The model {stage.trains!r} returns shape {tuple(trained.shape)} in train mode and "
            f"{tuple(logits.shape)} in eval mode, so the evaluated output differs from the trained one.",
            LimbeckWarning,
            stacklevel=2,
        )


def _reads_training_mode(module: nn.Module) -> bool:
    forward = type(module).forward
    own = isinstance(forward, FunctionType) and not type(module).__module__.startswith("torch.")
    return own and "training" in forward.__code__.co_names


def _last(logits: Tensor, classes: int) -> Tensor:
    return logits.movedim(classes, -1) if -logits.ndim <= classes < logits.ndim else logits


Span = tuple[torch.device, int, int]


def find_networks(
    teacher: Any, *, models: Mapping[str, nn.Module] | None = None, learning: Iterable[str] = ()
) -> list[nn.Module]:
    """The modules of a teacher, including those of the teachers inside it.

    Args:
        teacher: Any teacher; None gives no modules.
        models: The run's models, for teachers that refer to them by name.
        learning: The names of the run's models that learn in the same group of stages: a teacher that names one of
            these follows it on purpose.
    """
    named = (
        {name: models[name] for name in teacher.names - frozenset(learning)} if teacher is not None and models else {}
    )
    return list(dict.fromkeys(_networks(teacher, named, set())))


def _networks(value: Any, named: Mapping[str, nn.Module], seen: set[int]) -> Iterator[nn.Module]:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _networks(item, named, seen)
    elif isinstance(value, Mapping):
        yield from _networks(list(value.values()), named, seen)
    elif isinstance(value, TeacherRef):
        yield from [named[value.name]] if value.name in named else []
    elif isinstance(value, Teacher):
        for item in vars(value).values():
            # A moving-average teacher may hold the student that it follows.
            if not value.capabilities.changes or not isinstance(item, nn.Module):
                yield from _networks(item, named, seen)


def find_moving_averages(session: TeacherSession | None) -> list[nn.Module]:
    """The moving averages in a session that run in train mode and so update their own running statistics."""
    if isinstance(session, WrapperSession):
        return [average for inner in session.sessions for average in find_moving_averages(inner)]
    return [session.model] if isinstance(session, MovingAverageSession) and session.mode == "train" else []


def check_shared(stage: Stage, model: nn.Module, networks: Iterable[nn.Module]) -> None:
    """Refuse a student or head that shares trainable weights with the teacher.

    Raises:
        LimbeckError: If trainable weights are shared; frozen weights may be.
    """
    networks = list(networks)
    if any(model is network for network in networks):
        raise LimbeckError(
            f"The teacher of {stage.trains!r} is the model {stage.trains!r} itself, so it would move with every step. "
            "Give it a copy, copy.deepcopy(model); or, to learn from its own answers, name it: "
            f"Stage(..., teacher={stage.trains!r})."
        )
    student = [(name, p) for name, p in model.named_parameters() if stage.only is None or _lies_in(name, stage.only)]
    learning = [*student, *stage.objective.named_parameters()]
    mine = {name: where for name, p in learning if p.requires_grad and (where := _span(p)) is not None}
    its = _Occupied(where for network in networks for one in _tensors(network) if (where := _span(one)) is not None)
    shared = [name for name, where in mine.items() if its.overlaps(where)]
    if shared:
        raise LimbeckError(
            f"{len(shared)} weights of {stage.trains!r} are the teacher's own ({_list_names(shared)}), so every step "
            "would change the teacher. Build the student of copies, copy.deepcopy(layer); or freeze what is shared: "
            "layer.requires_grad_(False).eval()."
        )


def _lies_in(name: str, parts: Iterable[str]) -> bool:
    return any(name.startswith(f"{part}.") for part in parts)


@contextmanager
def statistics_watched(stage: Stage, networks: Iterable[nn.Module]) -> Iterator[None]:
    """A block for the student's forward pass, in which no buffer of the teacher may change.

    Raises:
        LimbeckError: If one changes: the student shares a BatchNorm with the teacher, or calls the teacher.
    """
    copies = [(name, buffer, buffer.detach().clone()) for network in networks for name, buffer in _buffers(network)]
    yield
    moved = [name for name, buffer, before in copies if not torch.equal(buffer.nan_to_num(), before.nan_to_num())]
    if moved:
        raise LimbeckError(
            f"A forward pass of {stage.trains!r} changes the teacher: {_list_names(moved)}. They share a layer with "
            "running statistics, such as BatchNorm. Build the student of copies, copy.deepcopy(layer); or put what is "
            "shared to rest: layer.requires_grad_(False).eval(), within a student in train mode."
        )


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()


def _buffers(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, buffer) for name, buffer in network.named_buffers() if not is_lazy(buffer) and not buffer.is_meta)


def _span(tensor: Tensor) -> Span | None:
    """The device and address range of a tensor's memory; None if it has none."""
    if is_lazy(tensor) or tensor.is_meta or tensor.layout != torch.strided or not tensor.numel():
        return None
    try:
        start = tensor.data_ptr()
    except (RuntimeError, NotImplementedError):  # a tensor subclass that wraps others has no address
        return None
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (tensor.device, start, start + (last + 1) * tensor.element_size()) if start else None


class _Occupied:
    """The address ranges of some tensors, by device."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self._starts: dict[torch.device, list[int]] = {}
        self._ends: dict[torch.device, list[int]] = {}
        for device, start, end in sorted(set(spans), key=lambda span: (str(span[0]), *span[1:])):
            starts, ends = self._starts.setdefault(device, []), self._ends.setdefault(device, [])
            if ends and start < ends[-1]:
                ends[-1] = max(ends[-1], end)
            else:
                starts.append(start)
                ends.append(end)

    def overlaps(self, span: Span) -> bool:
        """Whether any of the tensors overlaps with `span`."""
        device, start, end = span
        index = bisect.bisect_left(self._starts.get(device, []), end) - 1
        return index >= 0 and self._ends[device][index] > start


def _list_names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


class MemoryCheck:
    """Checks that what losses remember does not depend on how a batch is split.

    Distributed strategies copy the first rank's buffers to all ranks before every step. A memory bank to which each
    rank writes its own examples would lose those of the other ranks. Buffers computed from the whole batch are equal on
    all.

    Args:
        stage: The stage of the losses.
        fabric: The ranks.
        accumulate: Micro-batches per step.
    """

    def __init__(self, stage: Stage, fabric: Fabric, *, accumulate: int = 1) -> None:
        self._name = stage.trains
        self._fabric = fabric
        self._accumulate = accumulate

    def remember(self, objective: Objective) -> dict[str, int]:
        """A checksum of every buffer of the objective; empty if a batch is never split.

        Raises:
            LimbeckError: If the batch is split, and a head has a BatchNorm, which would see the parts alone.
        """
        if self._accumulate == 1:
            return {}
        norms = [path for path, module in objective.named_modules() if isinstance(module, _BatchNorm)]
        if norms:
            raise LimbeckError(
                f"The objective of {self._name!r} has a BatchNorm ({_list_names(norms)}), whose means over a part "
                f"of the batch are not those of the batch: it cannot be accumulated (accumulate={self._accumulate}); "
                "use accumulate=1 and a batch that fits."
            )
        return {name: _mark(buffer) for name, buffer in _memory(objective).items()}

    def compare(self, before: Mapping[str, int], objective: Objective) -> None:
        """Check an objective after its first call.

        Raises:
            LimbeckError: If a buffer has changed and the batch is split into micro-batches, or if ranks differ.
        """
        memory = _memory(objective)
        changed = [name for name, mark in before.items() if name in memory and _mark(memory[name]) != mark]
        if changed:
            raise LimbeckError(
                f"The objective of {self._name!r} changes {_list_names(changed)} when it is computed, so "
                f"accumulate={self._accumulate} would change it {self._accumulate} times a step. Change it in "
                "after_step(), once for a step; or use accumulate=1."
            )
        self.compare_ranks(objective)

    def compare_ranks(self, objective: Objective) -> None:
        """Check that the buffers are equal on all ranks.

        Raises:
            LimbeckError: If a buffer of the objective differs between ranks.
        """
        memory, fabric = _memory(objective), self._fabric
        if fabric.world_size == 1 or not memory:
            return
        mine = torch.tensor([_mark(buffer) for buffer in memory.values()], dtype=torch.int64, device=fabric.device)
        all_marks: Any = fabric.all_gather(mine)
        differ = (all_marks != all_marks[0]).any(0).tolist()
        names = [name for name, differs in zip(memory, differ, strict=True) if differs]
        if names:
            raise LimbeckError(
                f"The objective of {self._name!r} remembers {', '.join(names[:3])}, and each of {fabric.world_size} "
                "processes something else: the first one's would be taken for all. Write it from the rows of all "
                "processes, limbeck.losses.all_gather(rows), or in a kernel per batch or pair; or run on one device."
            )


def _memory(objective: nn.Module) -> dict[str, Tensor]:
    """The buffers of an objective by name, without running statistics, which strategies copy from one rank anyway."""
    return {
        f"{path}.{name}": buffer
        for path, module in objective.named_modules()
        if not isinstance(module, _BatchNorm)
        for name, buffer in module.named_buffers(recurse=False)
        if not is_lazy(buffer)
    }


def _mark(buffer: Tensor) -> int:
    data = buffer.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return int.from_bytes(hashlib.sha256(data).digest()[:7], "little")
