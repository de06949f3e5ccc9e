"""What does a stage want of a store, and how are answers laid out there?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.signal import LOGITS
from limbeck.store import Column, Encoding, Origin, encoding
from limbeck.teachers.head import LastLayer, kept_at

_FEATURES = "float16"


class Question(NamedTuple):
    """What a stage wants of a store.

    Attributes:
        needs: The addresses.
        also: Further ones that a new store is to keep: those of other stages.
        origin: What the answers must belong to; its precision and encodings are known when the first is there.
        encoding: How logits are kept.
        classes: Which dimension of them holds the classes.
        head: The layer whose inputs are kept in their place.
        batch_size: In batches of which size the teacher is asked.
        about: What a new store says of itself.
        shard_bytes: How big its files grow.
        looks: Whether answers are held against the inputs: a source may hand out other ones under the same ids.
    """

    needs: frozenset[str]
    also: frozenset[str]
    origin: Origin
    encoding: Mapping[str, Any]
    classes: int
    head: LastLayer | None
    batch_size: int
    about: Mapping[str, Any]
    shard_bytes: int
    looks: bool = False

    @property
    def read(self) -> frozenset[str]:
        """The addresses that are read in the store."""
        return kept_at(self.needs, self.head)

    @property
    def kept(self) -> frozenset[str]:
        """The addresses that a new store keeps."""
        return kept_at(self.needs | self.also, self.head)

    def column(self, address: str, shown: Tensor, counted: Tensor | None) -> Column:
        """How answers like this one are laid out.

        Args:
            address: Where it was shown.
            shown: The answer to a batch.
            counted: Which positions of each example count, where that differs.

        Raises:
            LimbeckError: If it is one number for each example, or lacks the dimension of the classes.
        """
        axis = self.classes if address == LOGITS else -1
        if not -shown.ndim <= axis < shown.ndim:
            raise LimbeckError(f"classes={axis} is no dimension of logits of the shape {list(shown.shape)}.")
        if shown.ndim < 2:
            raise LimbeckError(f"At {address!r} is one number for each example, and what is kept is [batch, classes].")
        shape = shown.movedim(axis, -1).shape
        own = self.encoding_at(address, shape[-1])
        if counted is not None and len(shape) > 2:
            return Column(own, None, tuple(shape[2:-1]), axis)
        if not self._is_encoded(address):
            whole = tuple(shown.shape[1:])
            return Column(self.encoding_at(address, math.prod(whole)), (), (), -1, whole)
        return Column(own, tuple(shape[1:-1]), (), axis)

    def encoding_at(self, address: str, classes: int) -> Encoding:
        """How one row is kept there: logits, or what stands for them, as was asked for; features as float16."""
        return encoding(self.encoding if self._is_encoded(address) else _FEATURES, classes=classes)

    def _is_encoded(self, address: str) -> bool:
        return address == LOGITS or (self.head is not None and address == self.head.address)
