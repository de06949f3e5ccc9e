"""Memory of losses: rows by id, a queue of features, moving averages, and state that is restored after a trial."""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType, MethodType, ModuleType
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from limbeck.errors import LimbeckError

_OF_TORCH = frozenset(vars(nn.Module()))
"""Attributes of every module (hooks, parameters, parts), which are not state between steps."""

_LARGEST = 2**28  # bytes; a larger tensor is data of a kernel, and a copy would double the memory


class RowIndex(nn.Module):
    """Maps ids of examples to rows of a memory bank with one row for each example.

    Ids are not positions: a subset of 717 examples may have ids up to 796.

    Args:
        ids: The ids of all examples, ``int64 [examples]``, all different: ``context.ids`` in `LossTerm.setup`.

    Raises:
        LimbeckError: If there are none, because the loader does not know the ids of its examples or has no examples;
            if they are no column of whole numbers, or two are equal.

    Example:
        >>> RowIndex(torch.tensor([40, 7, 796]))(torch.tensor([7, 796]))
        tensor([1, 2])
    """

    def __init__(self, ids: Tensor | None) -> None:
        super().__init__()
        if ids is None:
            raise LimbeckError(
                "A memory bank has one row for each example, and this loader does not know the ids of its examples. "
                "Use ShuffledLoader(ArrayDataset(inputs, labels), batch_size=...)."
            )
        if ids.ndim != 1 or len(ids) == 0 or ids.is_floating_point() or ids.is_complex():
            raise LimbeckError(
                f"A memory bank needs the ids of its examples as one column of whole numbers, such as dataset.ids; got "
                f"{str(ids.dtype).removeprefix('torch.')} of shape {list(ids.shape)}."
            )
        ordered, rows = ids.sort()
        if len(ids) > 1 and bool((ordered[1:] == ordered[:-1]).any()):
            raise LimbeckError("Two examples have the same id, so they cannot have a row each.")
        self.register_buffer("ids", ordered, persistent=False)
        self.register_buffer("rows", rows, persistent=False)

    def __len__(self) -> int:
        """The number of examples."""
        return len(cast(Tensor, self.ids))

    def forward(self, ids: Tensor | None) -> Tensor:
        """The row of each id, ``int64 [batch]``.

        Raises:
            LimbeckError: If the batch has no ids, or an id is not one of the examples.
        """
        if ids is None:
            raise LimbeckError("The batches of this loader have no ids, so no row of a memory bank belongs to them.")
        known = cast(Tensor, self.ids)
        places = torch.searchsorted(known, ids.to(known.device)).clamp_max(len(known) - 1)
        wrong = ids.to(known.device) != known[places]
        if bool(wrong.any()):
            raise LimbeckError(f"Example {int(ids[wrong.to(ids.device)][0])} is none of the {len(known)} examples.")
        return cast(Tensor, self.rows)[places]


class FeatureQueue(nn.Module):
    """The features of the last examples: first in, first out. Its rows are buffers, so a resumed run has them again.

    Call `push` in `LossTerm.after_step`, with the rows of all ranks (`limbeck.losses.all_gather`), so that all have the
    same queue.

    Args:
        size: The largest number of rows.
        width: The number of features of a row.
        dtype: The type of the rows.

    Example:
        >>> queue = FeatureQueue(3, 1)
        >>> queue.push(torch.tensor([[1.0], [2.0]]))
        >>> queue.push(torch.tensor([[3.0], [4.0]]))
        >>> queue.rows.flatten().tolist()
        [2.0, 3.0, 4.0]
    """

    stored: Tensor
    filled: Tensor

    def __init__(self, size: int, width: int, *, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.register_buffer("stored", torch.zeros(size, width, dtype=dtype))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    @property
    def rows(self) -> Float[Tensor, "filled width"]:
        """The rows, the oldest first."""
        return self.stored[len(self.stored) - int(self.filled) :]

    @torch.no_grad()
    def push(self, features: Float[Tensor, "rows width"]) -> None:
        """Add rows; the oldest ones leave. Of more rows than there is room for, the last ones are kept."""
        every = features.detach().to(self.stored)[-len(self.stored) :]
        self.stored.copy_(torch.cat([self.stored, every])[len(every) :])
        self.filled.add_(len(every)).clamp_max_(len(self.stored))


class RunningMean(nn.Module):
    r"""Exponential moving averages, one for each row: of a class, an example, or one for all.

    After a step with values of a row, :math:`m \leftarrow d m + (1 - d) \bar v`. A row without values keeps its
    average. The first values of a row are its average at once. Call `update` in `LossTerm.after_step`, with the values
    of all ranks (`limbeck.losses.all_gather`). The averages are buffers, so a resumed run has them again.

    Args:
        rows: The number of averages.
        decay: d, from 0 to below 1.
        start: The averages before the first values.
        dtype: The type of the averages.

    Example:
        >>> mean = RunningMean(2, decay=0.5)
        >>> mean.update(torch.tensor([1, 1]), torch.tensor([2.0, 4.0]))
        >>> mean.update(torch.tensor([1]), torch.tensor([5.0]))
        >>> mean.value.tolist()
        [0.0, 4.0]
    """

    value: Tensor
    known: Tensor

    def __init__(self, rows: int, *, decay: float, start: float = 0.0, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("value", torch.full((rows,), start, dtype=dtype))
        self.register_buffer("known", torch.zeros(rows, dtype=torch.bool))

    @torch.no_grad()
    def update(self, rows: Int[Tensor, " values"], values: Float[Tensor, " values"]) -> None:
        """Take values, each with the number of its row."""
        values = values.detach().to(self.value)
        rows = rows.to(values.device)
        count = torch.zeros_like(self.value).index_add_(0, rows, torch.ones_like(values))
        mean = torch.zeros_like(self.value).index_add_(0, rows, values) / count.clamp_min(1.0)
        moved = torch.where(self.known, self.decay * self.value + (1 - self.decay) * mean, mean)
        self.value.copy_(torch.where(count > 0, moved, self.value))
        self.known.logical_or_(count > 0)


def find_modules(values: Mapping[str, Any]) -> list[nn.Module]:
    """The modules that attributes refer to, also through closures and bound methods."""
    memory = _Memory()
    for name, value in values.items():
        if name not in _OF_TORCH:
            memory.add(value)
    return [one for one in memory.visited if isinstance(one, nn.Module)]


@contextmanager
def preserved_state(*losses: Any) -> Iterator[None]:
    """Restore the state of losses after the block.

    The state is the buffers and attributes of modules, and the variables of a kernel's closure or object: numbers,
    tensors, generators, and lists, dicts, sets and queues of these. Objects keep their identity, because others may
    refer to them. Parameters and global variables are not restored.

    Args:
        *losses: Objectives, heads or kernels.

    Example:
        >>> class Counts(nn.Module):
        ...     steps = 0
        >>> loss = Counts()
        >>> with preserved_state(loss):
        ...     loss.steps += 1
        >>> loss.steps
        0
    """
    memory = _Memory()
    for loss in losses:
        memory.add(loss)
    try:
        yield
    finally:
        with torch.no_grad():
            for restore in memory.restores:
                restore()


class _Memory:
    """Records how to restore the current state of all objects that it visits."""

    def __init__(self) -> None:
        self.restores: list[Callable[[], Any]] = []
        self._met: dict[int, Any] = {}  # keeps visited objects alive, so that no other object gets their id

    @property
    def visited(self) -> list[Any]:
        """All objects that were visited."""
        return list(self._met.values())

    def add(self, value: Any) -> None:
        if value is None or isinstance(value, (bool, int, float, str, type, ModuleType)) or id(value) in self._met:
            return
        self._met[id(value)] = value
        for kinds, keep in _KEEP.items():
            if isinstance(value, kinds):
                keep(self, value)
                return
        if hasattr(value, "__dict__") and isinstance(vars(value), dict):
            self._attributes(vars(value))

    def _module(self, module: nn.Module) -> None:
        for child in module.children():
            self.add(child)
        structure = _structure(module)
        if any(is_lazy(tensor) for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
            return
        for name, buffer in module._buffers.items():
            if buffer is not None:
                self._tensor(buffer)
            self.restores.append(functools.partial(_rebind, module, name, buffer, structure))
        own = {name: value for name, value in vars(module).items() if name not in _OF_TORCH}
        self._values(own.values())
        self.restores.append(lambda: _restore_attributes(vars(module), own, _structure(module) == structure))

    def _tensor(self, tensor: Tensor) -> None:
        if tensor.is_meta or is_lazy(tensor) or isinstance(tensor, nn.Parameter):
            return
        before = tensor.detach().clone()
        self.restores.append(lambda: tensor.detach().copy_(before) if _differs(tensor, before) else None)

    def _small_tensor(self, tensor: Tensor) -> None:
        if tensor.numel() * tensor.element_size() <= _LARGEST:
            self._tensor(tensor)

    def _array(self, array: np.ndarray) -> None:
        if array.nbytes > _LARGEST:
            return
        before = array.copy()
        self.restores.append(lambda: np.copyto(array, before) if array.flags.writeable else None)

    def _list(self, items: list[Any] | deque[Any]) -> None:
        before = list(items)
        self._values(before)
        self.restores.append(lambda: _refill(items, items.extend, before))

    def _dict(self, mapping: dict[Any, Any]) -> None:
        before = dict(mapping)
        self._values(before.values())
        self.restores.append(lambda: _refill(mapping, mapping.update, before))

    def _set(self, items: set[Any]) -> None:
        before = set(items)
        self.restores.append(lambda: _refill(items, items.update, before))

    def _function(self, function: FunctionType) -> None:
        self.add(vars(function).get("__wrapped__"))
        self.add(function.__defaults__)
        for cell in function.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:  # an empty cell of a closure
                continue
            self.add(value)
            self.restores.append(functools.partial(setattr, cell, "cell_contents", value))

    def _attributes(self, attributes: dict[str, Any]) -> None:
        before = dict(attributes)
        self._values(before.values())
        self.restores.append(lambda: _restore_attributes(attributes, before, True))

    def _values(self, values: Any) -> None:
        for value in values:
            self.add(value)

    def _partial(self, call: functools.partial[Any]) -> None:
        self._values((call.func, *call.args, *call.keywords.values()))

    def _method(self, method: MethodType) -> None:
        self._values((method.__self__, method.__func__))

    def _generator(self, generator: torch.Generator) -> None:
        self.restores.append(functools.partial(generator.set_state, generator.get_state()))

    def _random(self, generator: random.Random) -> None:
        self.restores.append(functools.partial(generator.setstate, generator.getstate()))

    def _numpy_random(self, generator: np.random.Generator) -> None:
        before = generator.bit_generator.state
        self.restores.append(lambda: setattr(generator.bit_generator, "state", before))


_KEEP: dict[Any, Callable[[_Memory, Any], None]] = {
    nn.Module: _Memory._module,
    Tensor: _Memory._small_tensor,
    np.ndarray: _Memory._array,
    (list, deque): _Memory._list,
    dict: _Memory._dict,
    set: _Memory._set,
    tuple: _Memory._values,
    FunctionType: _Memory._function,
    MethodType: _Memory._method,
    functools.partial: _Memory._partial,
    torch.Generator: _Memory._generator,
    random.Random: _Memory._random,
    np.random.Generator: _Memory._numpy_random,
}


def _refill(container: Any, fill: Callable[[Any], None], before: Any) -> None:
    container.clear()
    fill(before)


def _structure(module: nn.Module) -> list[tuple[str, int]]:
    """The parameters and parts of a module. A module that was built inside the block stays built."""
    return [(name, id(part)) for name, part in (*module._parameters.items(), *module._modules.items())]


def _rebind(module: nn.Module, name: str, buffer: Tensor | None, structure: list[tuple[str, int]]) -> None:
    if _structure(module) == structure:
        module._buffers[name] = buffer


def _restore_attributes(attributes: dict[str, Any], before: dict[str, Any], restore: bool) -> None:
    if not restore:
        return
    for name in set(attributes) - set(before) - _OF_TORCH:
        del attributes[name]
    attributes.update(before)


def _differs(tensor: Tensor, before: Tensor) -> bool:
    """Whether a tensor was written to. Others are not restored, because a graph may refer to them."""
    return tensor.shape == before.shape and not torch.equal(tensor, before)
