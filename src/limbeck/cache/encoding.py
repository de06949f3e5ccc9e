"""`Encoding`: a pair of functions between a row of logits and a record of bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from limbeck.errors import ArgumentError, DataError, LimbeckError
from limbeck.group_likelihoods import GroupLikelihoods
from limbeck.mean_embedding import MeanEmbedding
from limbeck.top_k_logits import PartialLogits, SampledLogits, TopKLogits

Decoded = Tensor | TopKLogits | SampledLogits | MeanEmbedding | GroupLikelihoods
Records = UInt8[np.ndarray, "rows width"]

_AT_ONCE = 1 << 18


class LogitRows(NamedTuple):
    """LogitRows of logits.

    Attributes:
        logits: In float32.
        top: The largest logit of each row.
        id: The example of each row.
        view: The view of the example.
        position: The position in the example.
    """

    logits: Float[Tensor, "rows classes"]
    top: Float[Tensor, " rows"]
    id: Int[Tensor, " rows"]
    view: Int[Tensor, " rows"]
    position: Int[Tensor, " rows"]


class Encoding(ABC):
    """Converts a row of logits (of one position of one example) to a record of `width` bytes, and back.

    Every record has the same width, so its offset in a file is a multiplication. Subclasses are final.

    Args:
        classes: The number of logits in a row.

    Raises:
        LimbeckError: If that is not an integer above 0, or a parameter is out of range.
    """

    name: ClassVar[str]
    partial: ClassVar[type[PartialLogits] | None] = None
    """The type of the decoded rows; None where that is a tensor of all classes."""
    takes_partial: ClassVar[bool] = False
    """Whether it stores partial logits of that type too."""

    classes: int
    width: int
    """Bytes of one record."""

    def __init__(self, *, classes: int) -> None:
        self.classes = check_integer("classes", classes, 1)

    @final
    def encode(
        self,
        logits: Float[Tensor, "rows classes"] | PartialLogits,
        *,
        id: Int[Tensor, " rows"],
        view: Int[Tensor, " rows"],
        position: Int[Tensor, " rows"],
    ) -> Records:
        """One record for each row.

        Args:
            logits: Raw logits, or log-probabilities; -inf for an impossible class. Partial logits, as a served teacher
                has them, for an encoding that can store these.
            id: The example of each row. With `view` and `position` it seeds an encoding that draws at random, so that
                a row has the same record in every batch, order and process.
            view: The view of the example.
            position: The position in the example.

        Raises:
            DataError: If a logit is NaN or +inf.
            LimbeckError: If these are partial logits that this encoding cannot store.
        """
        if not isinstance(logits, Tensor):
            return self._encode_partial(logits)
        records = [np.zeros((0, self.width), np.uint8)]
        for rows in _chunks(logits):
            own = LogitRows(*_read(logits[rows], self.classes), id[rows], view[rows], position[rows])
            records.append(self._encode(own))
        return np.concatenate(records)

    @abstractmethod
    def _encode(self, rows: LogitRows) -> Records:
        """The records of some rows."""

    def _encode_partial(self, partial: PartialLogits) -> Records:
        """The records of partial logits; raises, by default."""
        raise LimbeckError(
            f"The encoding {self.name!r} stores the logits of all classes, and this teacher gives a part of them "
            f"({type(partial).__name__}). Use {{'name': 'listed', 'k': 20}} for a list of classes."
        )

    @abstractmethod
    def decode(self, records: Records) -> Decoded:
        """Decode the rows, on the CPU.

        Raises:
            DataError: If the records do not have this encoding.
        """

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters, without the name."""
        return {}

    @property
    def spec(self) -> dict[str, Any]:
        """The name and the parameters, without the number of classes, for a manifest."""
        return {"name": self.name, **self.parameters}

    def invalid_reason(self, kernel: Callable[..., Tensor], **hyper: Any) -> str | None:
        """The reason why a kernel cannot be computed from decoded rows; None where it can."""
        return None if self.partial is None else self.partial.invalid_reason(kernel, **hyper)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.spec.items())})"

    def _checked(self, records: Records) -> Records:
        if records.shape[1] != self.width:
            raise DataError(
                f"A record of {self.name!r} for {self.classes} classes has {self.width} bytes, and these have "
                f"{records.shape[1]}: they were written by another encoding."
            )
        return np.ascontiguousarray(records)


def _read(
    logits: Float[Tensor, "rows classes"], classes: int
) -> tuple[Float[Tensor, "rows classes"], Float[Tensor, " rows"]]:
    """Logits in float32 and the largest of each row; values beyond float32 are clipped.

    Raises:
        LimbeckError: If there is another number of classes.
        DataError: If a logit is NaN or +inf.
    """
    if logits.shape[1] != classes:
        raise LimbeckError(f"These logits are of {logits.shape[1]} classes, and the encoding was made for {classes}.")
    logits = logits.detach()
    if logits.dtype == torch.float64:
        largest = torch.finfo(torch.float32).max
        logits = torch.where(logits.isinf(), logits, logits.clamp(-largest, largest))
    logits = logits.float()
    top = logits.amax(-1)
    if not bool((top < torch.inf).all()):  # NaN is not below anything
        wrong = (~(top < torch.inf)).nonzero().flatten()
        raise DataError(
            f"The teacher's logits hold NaN or +inf in {len(wrong)} of {len(top)} rows (the first is row "
            f"{int(wrong[0])}), which cannot be stored. Check the teacher on this batch, in float32."
        )
    return logits, top


def check_integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Check that a parameter is an integer within its range."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        span = f"{least} or more" if most is None else f"from {least} to {most}"
        raise ArgumentError(f"{name} is a whole number, {span}; got {value!r}.", argument=name.split()[0])
    return value


def _chunks(logits: Float[Tensor, "rows classes"]) -> list[slice]:
    """Slices of rows, small enough for the intermediate results to stay in the processor's cache."""
    each = max(_AT_ONCE // max(logits.shape[1], 1), 1)
    if logits.device.type != "cpu":
        each *= 64
    return [slice(start, start + each) for start in range(0, len(logits), each)]
