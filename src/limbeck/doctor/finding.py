"""`Finding`: the result of a check."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch

from limbeck.engine.probe import first_line
from limbeck.errors import LimbeckError

State = Literal["ok", "look", "crash", "wrong"]
_ORDER: tuple[State, ...] = ("ok", "look", "crash", "wrong")
_log = logging.getLogger(__name__)


class Finding(NamedTuple):
    """The result of a check.

    Attributes:
        name: The name of the check.
        state: ``ok``; ``look``: may be intended, or could not be checked; ``crash``: the check itself failed, which
        says
            nothing about the job; ``wrong``: the job should not be run like this.
        value: The measured number, or several by name; None if there is none.
        sentence: What the value means, and what to do.
        text: The value formatted for people.
        rank: Decides between findings of the same state: the highest rank is shown.
        details: Further lines for people; with ``--json`` they are part of `value`.
    """

    name: str
    state: State
    value: Any
    sentence: str
    text: str = ""
    rank: float = 0.0
    details: tuple[str, ...] = ()


def passed(name: str, value: Any, sentence: str, text: str = "", *, rank: float = 0.0) -> Finding:
    """Nothing to do."""
    return Finding(name, "ok", value, sentence, text, rank)


def warn(name: str, value: Any, sentence: str, text: str = "", *, rank: float = 0.0) -> Finding:
    """May be intended; a person should look at it."""
    return Finding(name, "look", value, sentence, text, rank)


def fail(name: str, value: Any, sentence: str, text: str = "", *, rank: float = 0.0) -> Finding:
    """The job should not be run like this."""
    return Finding(name, "wrong", value, sentence, text, rank)


def crash(name: str, error: Exception) -> Finding:
    """The check itself failed; its traceback is logged at level DEBUG, which ``--debug`` shows."""
    _log.debug("The check %r failed.", name, exc_info=error)
    sentence = f"The check failed: {type(error).__name__}: {first_line(error)}. --debug shows the traceback."
    return Finding(name, "crash", None, sentence)


def finding_from_check_error(name: str, error: Exception) -> Finding:
    """The finding for an exception raised in a check: only limbeck's own errors are about the job."""
    if isinstance(error, (LimbeckError, torch.OutOfMemoryError)):
        return finding_from_job_error(name, error)
    return crash(name, error)


def finding_from_job_error(name: str, error: Exception) -> Finding:
    """The finding for an exception raised while parts of the job run, which includes a user's modules.

    A user's module may raise any type, so the place where the error was raised decides: in limbeck's own code it is a
    bug of limbeck.
    """
    if isinstance(error, LimbeckError):
        return fail(name, None, str(error))
    if isinstance(error, torch.OutOfMemoryError):
        return fail(
            name, None, "Out of memory. Type a smaller budget.batch_size, with budget.accumulate for the same updates."
        )
    if _is_raised_by_limbeck(error):
        return crash(name, error)
    return fail(name, None, f"{type(error).__name__}: {first_line(error)}")


def _is_raised_by_limbeck(error: Exception) -> bool:
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and str(frames[-1][0].f_globals.get("__name__", "")).partition(".")[0] == "limbeck"


def merged(findings: Mapping[str, Finding]) -> Finding:
    """Merge the findings of one check at several places; the worst is shown, with its place.

    Args:
        findings: By place; all of one check.

    Example:
        >>> merged({"hinton": passed("terms", 0.4, "Fine."), "own": warn("terms", 0.0, "Too small.")}).sentence
        'own: Too small.'
    """
    worst = max(findings.values(), key=lambda finding: (_ORDER.index(finding.state), finding.rank))
    places: dict[str, list[str]] = {worst.sentence: []}
    for place, finding in findings.items():
        if finding.state == worst.state:
            places.setdefault(finding.sentence, []).append(place)
    several = len(findings) > 1 and worst.state != "ok"
    if worst.state == "ok" and len(places) > 1:  # the sentences differ in their numbers: show those of the worst
        places, several = {worst.sentence: places[worst.sentence]}, True
    sentence = worst.sentence
    if several:
        sentence = " ".join(f"{', '.join(where)}: {text}" for text, where in places.items())
    return worst._replace(value={place: finding.value for place, finding in findings.items()}, sentence=sentence)
