"""Which batches does whatever a person has stand for, when a model is asked once?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from limbeck.signal import Batch
from limbeck.sources import Loader, Source, as_source
from limbeck.sources.items import batch_from
from limbeck.sources.tokens import shifts, token_batch

_BATCH_SIZE = 256


def as_batches(data: Any, model: Any = None) -> Iterator[Batch]:
    """The batches of `data`, once: those of a source are a whole epoch, and its position stays where it is.

    Labels of a loader's tokens stand where `model` answers, if that is a causal language model.

    Raises:
        DataError: If it holds no examples, or a batch could mean several things.
    """
    if isinstance(data, Batch):
        yield data
    elif isinstance(data, Source) or not _is_batches(data):
        yield from _epoch(as_source(data, batch_size=_BATCH_SIZE, shuffle=False), model)
    else:
        for item in data:
            yield item if isinstance(item, Batch) else token_batch(batch_from(item), shifted=shifts(model))


def _is_batches(data: Any) -> bool:
    """Whether these may be batches that come one by one, which need no length here; a tuple is (inputs, labels)."""
    if isinstance(data, (Mapping, tuple, str)) or hasattr(data, "shape"):
        return False
    return isinstance(data, Iterable)


def _epoch(source: Source, model: Any) -> Iterable[Batch]:
    if isinstance(source, Loader):
        # A loader goes on where it was left; another one around the same batches begins anew.
        anew = Loader(source.loader, adapt=source.adapt)
        anew.bind({} if model is None else {"model": model})
        return anew
    return source.batches(0, 0) if source.resumable else source
