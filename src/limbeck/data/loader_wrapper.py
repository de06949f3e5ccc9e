"""`LoaderWrapper`, the base class of loaders that change the batches of another loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from limbeck.batch import Batch, Inputs
from limbeck.data.dataset import Dataset
from limbeck.data.loader import Loader


class LoaderWrapper(Loader):
    """Abstract loader around another one: it has the same examples in the same order.

    Subclasses override what they change: usually `complete`, and `fingerprint`, which is abstract.

    Args:
        loader: The other loader.
    """

    def __init__(self, loader: Loader) -> None:
        super().__init__()
        self.loader = loader
        self.seed, self.batch_size, self.replayable = loader.seed, loader.batch_size, loader.replayable

    def __len__(self) -> int:
        return len(self.loader)

    def set_steps(self, steps: int, *, accumulate: int = 1) -> None:
        """Give the number of steps to the other loader."""
        self.loader.set_steps(steps, accumulate=accumulate)

    @property
    def has_length(self) -> bool:
        """Whether the number of batches of an epoch is known."""
        return self.loader.has_length

    @property
    def examples(self) -> Dataset | None:  # type: ignore[override]
        """The dataset of the batches."""
        return self.loader.examples

    @property
    def has_ids(self) -> bool:  # type: ignore[override]
        """Whether the examples have ids."""
        return self.loader.has_ids

    @property
    def repeats(self) -> bool:  # type: ignore[override]
        """Whether the other loader may have an example several times in an epoch."""
        return self.loader.repeats

    @property
    def resumable(self) -> bool:  # type: ignore[override]
        """Whether the other loader is resumable."""
        return self.loader.resumable

    @property
    def examples_per_epoch(self) -> int | None:
        """Number of examples in an epoch; None if unknown."""
        return self.loader.examples_per_epoch

    def bind(self, models: Mapping[str, nn.Module]) -> None:
        """Give the models of the run to the other loader."""
        self.loader.bind(models)

    def set_preprocess(self, preprocess: Callable[[Batch], Inputs]) -> None:
        """Give the function to the other loader."""
        self.loader.set_preprocess(preprocess)

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Yield the batches of the other loader."""
        yield from self.loader.batches(epoch, start)

    def peek(self) -> Batch:
        """Return the next batch without moving on."""
        return super().peek() if self.replayable else self.loader.peek()

    def state_dict(self) -> dict[str, Any]:
        """The position, and the state of another loader that keeps a batch."""
        state = super().state_dict()
        return state if self.replayable else {**state, "inner": self.loader.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state.

        Raises:
            LimbeckError: If the position is not valid for this loader.
        """
        super().load_state_dict(state)
        if "inner" in state:
            self.loader.load_state_dict(state["inner"])
