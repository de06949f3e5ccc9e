"""What has happened since the last report?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from limbeck.signal import Term


class Tally:
    """Sums since the last report, kept as tensors so that no step waits for a number."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin again."""
        self.loss: Tensor | None = None
        self.totals: dict[str, Tensor] = {}
        self.counts: dict[str, float] = {}
        self.squares: dict[str, Tensor] = {}
        self.parameter_gradients: dict[str, Tensor] = {}
        self.examples = 0
        self.steps = 0

    def add(self, loss: Tensor, terms: Mapping[str, Term], examples: int) -> None:
        """One micro-batch more."""
        self.loss = loss if self.loss is None else self.loss + loss
        for name, term in terms.items():
            self.totals[name] = self.totals[name] + term.total if name in self.totals else term.total
            self.counts[name] = self.counts.get(name, 0.0) + float(term.count)
        self.examples += examples

    def add_gradients(self, outputs: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
        """Each term's gradients of one micro-batch.

        Outputs of different examples are different places, so squares add; parameters are the same, so gradients do.
        """
        for name, gradient in outputs.items():
            square = gradient.float().square().sum()
            self.squares[name] = self.squares[name] + square if name in self.squares else square
        kept = self.parameter_gradients
        for name, gradient in parameters.items():
            kept[name] = kept[name] + gradient if name in kept else gradient

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, so that a resumed run reports what an unbroken one would."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        vars(self).update(state)
