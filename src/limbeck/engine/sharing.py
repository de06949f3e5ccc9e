"""Weights and running statistics that a student shares with its teacher: every step would move the teacher."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from limbeck.errors import LimbeckError
from limbeck.recipe import Stage
from limbeck.teachers import MovingAverage, Named, Teacher

Span = tuple[torch.device, int, int]


def networks_of(teacher: Any, *, learning: Iterable[str] = ()) -> list[nn.Module]:
    """The modules that a teacher is made of, those of the teachers inside it included.

    Args:
        teacher: Any teacher; None has none.
        learning: The names of the run's models that learn in the same group of stages: a teacher that names one of
            these is meant to follow it.
    """
    return list(dict.fromkeys(_networks(teacher, frozenset(learning), set())))


def _networks(held: Any, learning: frozenset[str], met: set[int]) -> Iterator[nn.Module]:
    if id(held) in met:
        return
    met.add(id(held))
    if isinstance(held, nn.Module):
        yield held
    elif isinstance(held, (list, tuple)):
        for one in held:
            yield from _networks(one, learning, met)
    elif isinstance(held, Mapping):
        yield from _networks(list(held.values()), learning, met)
    elif isinstance(held, Named) and held.name in learning:
        return
    elif isinstance(held, Teacher):
        for one in vars(held).values():
            # A teacher that moves may hold the student that it follows.
            if not held.changes or not isinstance(one, nn.Module):
                yield from _networks(one, learning, met)


def averages_of(teacher: Any) -> list[nn.Module]:
    """The moving averages in a teacher that answer in train mode, and so keep running statistics of their own."""
    return [one.model for one in _teachers(teacher, set()) if isinstance(one, MovingAverage) and one.mode == "train"]


def _teachers(held: Any, met: set[int]) -> Iterator[Teacher]:
    if isinstance(held, (list, tuple)):
        for one in held:
            yield from _teachers(one, met)
    elif isinstance(held, Teacher) and id(held) not in met:
        met.add(id(held))
        yield held
        yield from _teachers(list(vars(held).values()), met)


def check_shared(stage: Stage, model: nn.Module, networks: Iterable[nn.Module]) -> None:
    """Refuse a student, or a head, whose weights that learn are the teacher's own.

    Raises:
        LimbeckError: If they are; frozen weights may be shared.
    """
    networks = list(networks)
    if any(model is network for network in networks):
        raise LimbeckError(
            f"The teacher of {stage.trains!r} is the model {stage.trains!r} itself, so it would move with every step. "
            "Give it a copy, copy.deepcopy(model); or, to learn from its own answers, name it: "
            f"Stage(..., teacher={stage.trains!r})."
        )
    learning = [*model.named_parameters(), *stage.objective.named_parameters()]
    mine = {name: where for name, p in learning if p.requires_grad and (where := _span(p)) is not None}
    its = _Occupied(where for network in networks for one in _tensors(network) if (where := _span(one)) is not None)
    shared = [name for name, where in mine.items() if its.overlaps(where)]
    if shared:
        raise LimbeckError(
            f"{len(shared)} weights of {stage.trains!r} are the teacher's own ({_listed(shared)}), so every step would "
            "move the teacher. Build the student of copies, copy.deepcopy(layer); or freeze what is shared: "
            "layer.requires_grad_(False).eval()."
        )


@contextmanager
def statistics_watched(stage: Stage, networks: Iterable[nn.Module]) -> Iterator[None]:
    """A block, the student's forward pass, in which no buffer of the teacher may move.

    Raises:
        LimbeckError: If one does: the student holds a BatchNorm of the teacher's, or calls the teacher.
    """
    kept = [(name, buffer, buffer.detach().clone()) for network in networks for name, buffer in _buffers(network)]
    yield
    moved = [name for name, buffer, before in kept if not torch.equal(buffer.nan_to_num(), before.nan_to_num())]
    if moved:
        raise LimbeckError(
            f"A forward pass of {stage.trains!r} moves the teacher: {_listed(moved)}. They share a layer that keeps "
            "running statistics, as BatchNorm does. Build the student of copies, copy.deepcopy(layer); or put what is "
            "shared to rest: layer.requires_grad_(False).eval(), within a student in train mode."
        )


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()


def _buffers(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, buffer) for name, buffer in network.named_buffers() if not is_lazy(buffer) and not buffer.is_meta)


def _span(tensor: Tensor) -> Span | None:
    """Which bytes of which device a tensor lies in; None where it has none."""
    if is_lazy(tensor) or tensor.is_meta or tensor.layout != torch.strided or not tensor.numel():
        return None
    try:
        start = tensor.data_ptr()
    except (RuntimeError, NotImplementedError):  # a tensor that wraps others has no address
        return None
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (tensor.device, start, start + (last + 1) * tensor.element_size()) if start else None


class _Occupied:
    """The bytes of every device that some tensors lie in."""

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
        """Whether one of them lies in any byte of `span`."""
        device, start, end = span
        place = bisect.bisect_left(self._starts.get(device, []), end) - 1
        return place >= 0 and self._ends[device][place] > start


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
