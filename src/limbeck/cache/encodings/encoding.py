"""`Encoding`: a pair of functions between a row of logits and a record of bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from limbeck.errors import ArgumentError, DataError, LimbeckError
from limbeck.partial_logits import PartialLogits, SampledLogits, TopKLogits

Decoded = Tensor | TopKLogits | SampledLogits
Records = UInt8[np.ndarray, "rows width"]

_AT_ONCE = 1 << 18


class Encoding(ABC):
    """How one row of logits (of one position of one example) becomes a record of `width` bytes, and is read again.

    Every record has the same width, so the place of a record in a file is a multiplication. A subclass is final.

    Args:
        classes: How many logits a row has.

    Raises:
        LimbeckError: If that is no whole number above 0, or a parameter is out of its range.
    """

    name: ClassVar[str]
    partial: ClassVar[type[PartialLogits] | None] = None
    """What it decodes to; None where that is a tensor of all classes."""

    classes: int
    width: int
    """Bytes of one record."""

    def __init__(self, *, classes: int) -> None:
        self.classes = check_integer("classes", classes, 1)

    @abstractmethod
    def encode(
        self,
        logits: Float[Tensor, "rows classes"],
        *,
        id: Int[Tensor, " rows"],
        view: Int[Tensor, " rows"],
        position: Int[Tensor, " rows"],
    ) -> Records:
        """One record for each row.

        Args:
            logits: Raw logits, or log-probabilities; -inf is no class.
            id: Which example each row is of; with `view` and `position` it names the row for an encoding that draws at
                random, so that a row gets the same record in whatever batch, order or process it is met.
            view: Which view of it.
            position: Which position in it.

        Raises:
            DataError: If a logit is NaN or +inf.
        """

    @abstractmethod
    def decode(self, records: Records) -> Decoded:
        """The rows again, on the CPU.

        Raises:
            DataError: If the records are no such records.
        """

    @property
    def parameters(self) -> dict[str, Any]:
        """What was chosen, besides the name."""
        return {}

    @property
    def spec(self) -> dict[str, Any]:
        """All that it depends on but the number of classes, for a manifest."""
        return {"name": self.name, **self.parameters}

    def invalid_reason(self, kernel: Callable[..., Tensor]) -> str | None:
        """Why a kernel cannot be computed from what this decodes to, in a sentence; None where it can."""
        return None if self.partial is None else self.partial.invalid_reason(kernel)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.spec.items())})"

    def _checked(self, records: Records) -> Records:
        if records.shape[1] != self.width:
            raise DataError(
                f"A record of {self.name!r} for {self.classes} classes has {self.width} bytes, and these have "
                f"{records.shape[1]}: they were written by another encoding."
            )
        return np.ascontiguousarray(records)


def read(
    logits: Float[Tensor, "rows classes"], classes: int
) -> tuple[Float[Tensor, "rows classes"], Float[Tensor, " rows"]]:
    """Logits in float32, and the largest of each row; what no float32 holds is brought back to the largest that is.

    Raises:
        LimbeckError: If there are not so many classes.
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
            f"{int(wrong[0])}): that is no answer to store. Look at the teacher on this batch, in float32."
        )
    return logits, top


def check_integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A parameter that is a whole number within its range."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        span = f"{least} or more" if most is None else f"from {least} to {most}"
        raise ArgumentError(f"{name} is a whole number, {span}; got {value!r}.", argument=name.split()[0])
    return value


def chunks(logits: Float[Tensor, "rows classes"]) -> list[slice]:
    """Runs of rows of so many numbers that what is computed of them stays in a processor's cache."""
    each = max(_AT_ONCE // max(logits.shape[1], 1), 1)
    if logits.device.type != "cpu":
        each *= 64
    return [slice(start, start + each) for start in range(0, len(logits), each)]
