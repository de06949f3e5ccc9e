"""`StepEndInterrupts`: Ctrl-C within a step takes effect at its end, where the state can be saved."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import suppress
from typing import Any, final


class StepEndInterrupt(KeyboardInterrupt):
    """A Ctrl-C that took effect between two steps, so that the state of the run is whole."""


@final
class StepEndInterrupts:
    """Holds back the first Ctrl-C, until the loop asks for it; the second one acts at once.

    Nothing changes outside the main thread, or where Ctrl-C has a handler that is not Python's own.

    Attributes:
        requested: Whether Ctrl-C was pressed since the last `clear`.
    """

    def __init__(self) -> None:
        self.requested = False
        self._active = False

    @property
    def active(self) -> bool:
        """Whether a Ctrl-C is held back now."""
        return self._active

    def activate(self) -> None:
        """Hold back a Ctrl-C from now on."""
        main = threading.current_thread() is threading.main_thread()
        if not self._active and main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
            self._active = True

    def deactivate(self) -> None:
        """Let Ctrl-C act at once again."""
        if self._active and signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self._active = False

    def clear(self) -> None:
        """Let Ctrl-C act at once again, and forget one that was held back."""
        self.deactivate()
        self.requested = False

    def _handle(self, number: int, frame: Any) -> None:
        if self.requested:
            self.clear()
            raise KeyboardInterrupt
        self.requested = True
        with suppress(RuntimeError, ValueError, OSError):  # it may be in use, or closed
            print("\nStopping at the end of this step. Ctrl-C again stops at once.", file=sys.stderr, flush=True)
