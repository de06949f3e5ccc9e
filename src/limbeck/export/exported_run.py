"""`ExportedRun`: what an export wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from limbeck.export.int8_report import QuantizationReport
from limbeck.export.parity import Parity


class ExportedRun(NamedTuple):
    """What an export came to.

    Attributes:
        path: The file, or the folder, that is to be shipped; ``README.md`` lies beside it or in it.
        bytes: Its size, without the card.
        parity: How far its logits are from the student's, and on how many test examples.
        accuracy_before: The student's accuracy on all test data, in PyTorch.
        accuracy_after: What was exported has this one, opened again.
        notes: What a person should know before shipping it.
        eight: How it was brought down to 8 bits, and how fast it is; None in float32.
    """

    path: Path
    bytes: int
    parity: Parity
    accuracy_before: float
    accuracy_after: float
    notes: tuple[str, ...] = ()
    eight: QuantizationReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "path": str(self.path),
            "bytes": self.bytes,
            "max_difference": self.parity.max_difference,
            "accuracy_before": self.accuracy_before,
            "accuracy_after": self.accuracy_after,
            **(self.eight.to_dict() if self.eight else {}),
        }
