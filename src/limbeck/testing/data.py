"""`check_loader` and `check_transform`: check the laws of loaders and transforms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.batch import Batch, Inputs, input_rows
from limbeck.data import Loader, Transform
from limbeck.errors import LimbeckError
from limbeck.testing.law import check_laws, require

_LOADERS = "loaders"
_UNBOUNDED = 16
"""Batches that are read of an epoch without a fixed length."""


def check_loader(loader: Loader, *, models: Mapping[str, nn.Module] | None = None) -> None:
    """Check a loader against all laws of loaders, over two epochs, or 16 batches if epochs have no fixed length.

    The laws:

    * An epoch has the announced number of batches and examples, and batches have the announced size.
    * Inputs have one shape, unless the loader is ragged.
    * The columns of a batch have the same length; ids, views and labels are whole numbers.
    * Ids are unique within an epoch, unless the loader declares that it repeats examples.
    * `peek` does not consume the next batch.
    * A replayable loader yields the same batches when an epoch is requested again.
    * A loader that depends on a model is not fixed.
    * To complete a batch that is only looked at gives the same batch again, and changes nothing in the loader.
    * The fingerprint does not change.
    * A loader resumed in the middle of an epoch yields the same remaining batches, or raises an error.

    Args:
        loader: The loader.
        models: The models that a loader which depends on a model is bound to.

    Raises:
        LimbeckError: If the loader depends on a model and there are no `models`.
        LawError: If laws are broken; the message lists them.

    Example:
        >>> from limbeck.data import ArrayDataset, ShuffledLoader
        >>> check_loader(ShuffledLoader(ArrayDataset(torch.randn(10, 2)), batch_size=4))
    """
    if loader.depends_on_model and models is None:
        raise LimbeckError(f"A {loader.type_name} depends on a model: check_loader(loader, models={{'student': ...}}).")
    if models is not None:
        loader.bind(models)
    laws = [partial(_check_epochs, loader), partial(_check_declared, loader), partial(_check_completed, loader)]
    if loader.resumable:
        laws.append(partial(_check_resumed, loader))
    check_laws(laws, of=_LOADERS)


def _check_epochs(loader: Loader) -> None:
    """Its epochs are as declared."""
    mark = loader.fingerprint
    require(isinstance(mark, str) and bool(mark), "it has no fingerprint", of=_LOADERS)
    for number in range(2):
        with _separate_random(loader):
            peeked = loader.peek()
        epoch = _read_epoch(loader)
        require(_same(peeked, epoch[0]), "peek() is not the next batch, or consumes it", of=_LOADERS)
        _check_epoch(loader, epoch, number)
    require(loader.fingerprint == mark, "its fingerprint changes during an epoch", of=_LOADERS)


def _check_epoch(loader: Loader, epoch: list[Batch], number: int) -> None:
    if loader.has_length:
        require(len(epoch) == len(loader), f"epoch {number} has {len(epoch)} batches, not {len(loader)}", of=_LOADERS)
    for batch in epoch:
        for name in ("id", "view", "labels", "mask"):
            column = getattr(batch, name)
            if column is not None:
                require(len(column) == batch.size, f"{name} has {len(column)} rows, not {batch.size}", of=_LOADERS)
                dtype = torch.bool if name == "mask" else torch.int64
                require(column.dtype == dtype, f"{name} is {column.dtype}, not {dtype}", of=_LOADERS)
    sizes, size = [batch.size for batch in epoch], loader.batch_size
    announced, total = loader.examples_per_epoch, sum(sizes)
    require(announced in (None, total), f"epoch {number} has {total} examples, not {announced}", of=_LOADERS)
    regular = size is None or ({*sizes[:-1]} <= {size} and sizes[-1] <= size)
    require(regular, f"it declares batch_size={size}, and its batches have {sizes[:8]} examples", of=_LOADERS)
    shapes = {tuple(part.shape[1:] for part in _parts(batch.inputs) if isinstance(part, Tensor)) for batch in epoch}
    require(loader.ragged or len(shapes) == 1, "it is not ragged, but the shapes of its inputs differ", of=_LOADERS)
    if loader.has_ids:
        require(all(batch.id is not None for batch in epoch), "it declares ids, and a batch has none", of=_LOADERS)
        ids = torch.cat([batch.id for batch in epoch if batch.id is not None])
        require(loader.repeats or len(ids.unique()) == len(ids), f"an id occurs twice in epoch {number}", of=_LOADERS)


def _check_declared(loader: Loader) -> None:
    """It behaves as it declares."""
    require(not (loader.depends_on_model and loader.fixed), "it depends on a model and declares fixed", of=_LOADERS)
    if not loader.replayable:
        return
    twice = []
    for _ in range(2):
        with _separate_random(loader):
            twice.append(list(islice(loader.batches(0, 0), _UNBOUNDED)))
    require(_same(*twice), "it declares replayable, but an epoch yields other batches when read again", of=_LOADERS)


def _check_completed(loader: Loader) -> None:
    """To complete a batch that is only looked at changes nothing."""
    before = dict(loader.state_dict()) if loader.resumable else {}
    with _separate_random(loader):
        batch = loader.peek()
        once, twice = (loader.complete(batch, used=False) for _ in range(2))
    after = dict(loader.state_dict()) if loader.resumable else {}
    require(_same(once, twice), "complete() of the same batch gives another one", of=_LOADERS)
    require(_same(before, after), "complete(batch, used=False) changes its state", of=_LOADERS)


def _read_epoch(loader: Loader) -> list[Batch]:
    """The rest of the epoch; the next batches if an epoch may be endless."""
    return list(loader) if loader.has_length else list(islice(loader, _UNBOUNDED))


@contextmanager
def _separate_random(loader: Loader) -> Iterator[None]:
    """Put PyTorch's random generator back afterwards, as a run does when it only looks at a batch."""
    with torch.random.fork_rng(devices=[]) if loader.replayable else nullcontext():
        yield


def _check_resumed(loader: Loader) -> None:
    """A loader that is resumed in the middle of an epoch yields the same remaining batches."""
    whole = iter(loader)
    require(next(whole, None) is not None, "it has no batches", of=_LOADERS)
    position = dict(loader.state_dict())
    state = torch.get_rng_state()
    rest = list(whole if loader.has_length else islice(whole, _UNBOUNDED))
    later = _read_epoch(loader)
    loader.load_state_dict(position)
    torch.set_rng_state(state)
    again = _read_epoch(loader)
    require(
        len(rest) == len(again) and all(map(_same, rest, again)),
        "resumed from a position in an epoch, the remaining batches differ",
        of=_LOADERS,
    )
    require(
        all(map(_same, later, _read_epoch(loader))), "after a position is restored, the next epoch differs", of=_LOADERS
    )


def _same(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, Tensor):
        return isinstance(theirs, Tensor) and torch.equal(mine, theirs)
    if isinstance(mine, dict):
        return mine.keys() == theirs.keys() and all(_same(mine[key], theirs[key]) for key in mine)
    if isinstance(mine, (tuple, list)):
        return len(mine) == len(theirs) and all(map(_same, mine, theirs))
    return bool(mine == theirs)


_TRANSFORMS = "transforms"


def check_transform(view: Transform, inputs: Inputs) -> None:
    """Check a transform against all laws of transforms, on some inputs.

    The laws:

    * It has a fingerprint that does not change.
    * The same (id, view) gives bitwise equal results, whatever the order and the other examples of the batch.
    * It does not change its inputs.
    * It does not use PyTorch's random number generator.

    Args:
        view: The transform.
        inputs: Inputs of a model, for at least two examples.

    Raises:
        LimbeckError: If there are fewer than two examples.
        LawError: If laws are broken; the message lists all of them.

    Example:
        >>> from limbeck.data import Crop
        >>> check_transform(Crop(), torch.rand(4, 3, 8, 8))
    """
    count = len(next(iter(_parts(inputs))))
    if count < 2:
        raise LimbeckError(
            f"check_transform needs at least two examples, to see whether one depends on the other; got {count}."
        )
    id, number = torch.arange(count) * 3 + 1, torch.arange(count) % 2
    call = _TransformCall(view, inputs, id, number)
    check_laws([partial(_check_call, call)], of=_TRANSFORMS)  # a transform that fails breaks every other law, too
    laws = (_check_fingerprint, _check_untouched, _check_generator, _check_repeated, _check_batch)
    check_laws([partial(law, call) for law in laws], of=_TRANSFORMS)


class _TransformCall(NamedTuple):
    """A transform, and what it is called with."""

    view: Transform
    inputs: Inputs
    id: Tensor
    number: Tensor

    def result(self, part: Tensor | None = None) -> list[Tensor]:
        """Tensors that the transform gives for copies of the inputs, or of some rows of them."""
        rows = torch.arange(len(self.id)) if part is None else part
        return _parts(self.view(input_rows(self.inputs, rows), self.id[rows], self.number[rows]))


def _check_call(call: _TransformCall) -> None:
    """It can be called with inputs, ids and views."""
    call.result()


def _check_fingerprint(call: _TransformCall) -> None:
    """It has a fingerprint that does not change."""
    mark = call.view.fingerprint
    require(isinstance(mark, str) and bool(mark), "it has no fingerprint", of=_TRANSFORMS)
    call.result()
    require(call.view.fingerprint == mark, "its fingerprint changes while it is used", of=_TRANSFORMS)


def _check_untouched(call: _TransformCall) -> None:
    """It does not change its inputs."""
    copy = call._replace(inputs=input_rows(call.inputs, torch.arange(len(call.id))))
    before = [part.clone() for part in _parts(copy.inputs)]
    copy.view(copy.inputs, call.id, call.number)
    require(_same_parts(before, _parts(copy.inputs)), "it writes into the inputs", of=_TRANSFORMS)


def _check_generator(call: _TransformCall) -> None:
    """It does not use PyTorch's random number generator."""
    state = torch.get_rng_state()
    call.result()
    same = torch.equal(torch.get_rng_state(), state)
    require(same, "it uses PyTorch's random number generator: use counter_uniform", of=_TRANSFORMS)


def _check_repeated(call: _TransformCall) -> None:
    """The same (id, view) gives bitwise equal results."""
    first = [part.clone() for part in call.result()]
    torch.rand(1)
    require(_same_parts(call.result(), first), "a second call gives another result", of=_TRANSFORMS)


def _check_batch(call: _TransformCall) -> None:
    """The result does not depend on the order and the other examples of the batch."""
    count = len(call.id)
    result = [part.clone() for part in call.result()]
    if not _same_parts(call.result(), result):
        return  # another law reports it, and nothing can be compared
    for part, what in (
        (torch.arange(count).flip(0), "the order of the batch"),
        (torch.arange(count)[1::2], "what else is in the batch"),
        (torch.tensor([count - 1]), "what else is in the batch"),
    ):
        same = _same_parts(call.result(part), [column[part] for column in result])
        require(same, f"it depends on {what}", of=_TRANSFORMS)


def _parts(inputs: Any) -> list[Tensor]:
    """The tensors of the inputs."""
    if isinstance(inputs, Tensor):
        return [inputs]
    return list(inputs.values()) if isinstance(inputs, dict) else list(inputs)


def _same_parts(mine: list[Tensor], theirs: list[Tensor]) -> bool:
    pairs = zip(mine, theirs, strict=False)
    return len(mine) == len(theirs) and all(
        mine_tensor.dtype == their_tensor.dtype and torch.equal(mine_tensor, their_tensor)
        for mine_tensor, their_tensor in pairs
    )
