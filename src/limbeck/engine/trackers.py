"""Trackers, such as TensorBoard, that receive each report once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from limbeck.engine.run import Run
from limbeck.engine.step_report import StepReport
from limbeck.errors import LimbeckError
from limbeck.optional_imports import is_installed, missing_package_error


@runtime_checkable
class Tracker(Protocol):
    """An experiment tracker: TensorBoard, or a service of your own."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers by name after `step` optimizer steps of the stage; each name begins with the stage's name."""

    def close(self) -> None:
        """End the log for now; a run that is iterated again logs again."""


def track(run: Run, *trackers: Tracker) -> Iterator[StepReport]:
    """Log each report of a run, then yield it.

    On several ranks only the first logs. Trackers are closed when the loop ends, also after an error.

    Args:
        run: The run to iterate.
        *trackers: Anything with ``log(values, step)`` and ``close()``.

    Raises:
        LimbeckError: If a tracker lacks one of these methods.

    Example:
        >>> import torch
        >>> from limbeck.engine import distill
        >>> from limbeck.functional import cross_entropy
        >>> from limbeck.losses import Loss
        >>> from limbeck.recipe import Stage
        >>> class Printed:
        ...     def log(self, values, step):
        ...         print(step, sorted(values)[:2])
        ...     def close(self):
        ...         print("closed")
        >>> data = torch.randn(64, 4), torch.randint(0, 3, (64,))
        >>> run = distill(torch.nn.Linear(4, 3), Stage(Loss(cross_entropy), epochs=1, name="labels"), data)
        >>> for report in track(run, Printed()):
        ...     pass
        1 ['labels/gradient_norm/cross_entropy', 'labels/loss']
        closed
    """
    for tracker in trackers:
        if not isinstance(tracker, Tracker):
            raise LimbeckError(
                f"A tracker has log(values, step) and close(); {type(tracker).__name__} has not. Type "
                "track(run, TensorBoard('runs/tensorboard'))."
            )
    return _log_reports(run, trackers if run.leads else ())


def _log_reports(run: Run, trackers: tuple[Tracker, ...]) -> Iterator[StepReport]:
    reports: Any = iter(run)
    try:
        with closing(reports):
            for report in reports:
                for tracker in trackers:
                    tracker.log(report_values(report), report.step)
                yield report
    finally:
        for tracker in trackers:
            tracker.close()


def report_values(report: StepReport) -> dict[str, float]:
    """A report's numbers by name; each name begins with the stage's name.

    Example:
        >>> list(report_values(StepReport("labels", 1, 9, 0, 0.5, {"cross_entropy": 0.5}, {}, {}, 0.1, 100.0, 1.0)))
        ['labels/loss', 'labels/term/cross_entropy', 'labels/lr', 'labels/rate']
    """
    parts = {"term": report.terms, "gradient_norm": report.gradient_norms, "parameter_norm": report.parameter_norms}
    named = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
    named |= {f"generation/{name}": value for name, value in report.generation.items()}
    numbers = {"loss": report.loss, **named, "lr": report.lr, "rate": report.rate}
    return {f"{report.stage}/{name}": value for name, value in numbers.items()}


class TensorBoard:
    """A tracker that writes TensorBoard event files, for ``tensorboard --logdir FOLDER``.

    A resumed run repeats the steps after its checkpoint; steps that are already in the files are not written again.
    Every report is on disk before the loop continues.

    Args:
        folder: The folder of the files; it is created at the first report.
        resume: Whether to continue after the events in the folder.

    Raises:
        LimbeckError: If the extra ``tensorboard`` is not installed, the folder is a file, or it holds events and
            `resume` is False.
    """

    def __init__(self, folder: str | os.PathLike[str], *, resume: bool = False) -> None:
        self.folder = Path(folder)
        self._writer: Any = None
        self._last: dict[str, int] | None = None
        _check_installed()
        if self.folder.exists() and not self.folder.is_dir():
            raise LimbeckError(f"{self.folder} is a file; TensorBoard needs a folder.")
        if not resume and self._files():
            raise LimbeckError(
                f"{self.folder} already holds events: two runs would be drawn as one. Use another folder, or continue "
                "after them with TensorBoard(..., resume=True)."
            )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write the new numbers, and wait until they are on disk."""
        from torch.utils.tensorboard import SummaryWriter

        if self._last is None:
            self._last = self._written()
        new = {name: value for name, value in values.items() if step > self._last.get(name, -1)}
        if not new:
            return
        if self._writer is None:
            self._writer = _open_writer(SummaryWriter, self.folder)
        for name, value in new.items():
            self._writer.add_scalar(name, value, step)
            self._last[name] = step
        self._writer.flush()

    def close(self) -> None:
        """Close the file; the next `log` opens a new one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("events.out.tfevents.*")) if self.folder.is_dir() else []

    def _written(self) -> dict[str, int]:
        """The last step of every name in the folder; an incomplete record at the end of a file is ignored."""
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

        last: dict[str, int] = {}
        for path in self._files():
            for event in EventFileLoader(str(path)).Load():
                for value in event.summary.value:
                    last[value.tag] = max(int(event.step), last.get(value.tag, -1))
        return last


def _check_installed() -> None:
    if not is_installed("tensorboard"):  # torch.utils.tensorboard itself is always there
        raise missing_package_error("tensorboard", extra="tensorboard", purpose="TensorBoard")


def _open_writer(writer: Any, folder: Path) -> Any:
    try:
        return writer(str(folder))
    except OSError as error:
        raise LimbeckError(f"{folder} cannot be written to: {error.strerror or error}.") from error
