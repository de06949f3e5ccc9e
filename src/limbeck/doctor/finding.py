"""`Finding`: the result of a check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

State = Literal["ok", "look", "wrong"]
_ORDER: tuple[State, ...] = ("ok", "look", "wrong")


class Finding(NamedTuple):
    """What one check found.

    Attributes:
        name: The check's.
        state: ``ok``; ``look``: it may be meant so, or could not be looked at; ``wrong``: the job should not run so.
        value: The number behind it, or several by name; None where there is none.
        sentence: What it means, and what to do.
        shown: The number as people read it.
        rank: Of two findings in one state, the one with the higher rank speaks.
        details: Lines below it, for people; with ``--json`` they stand in `value`.
    """

    name: str
    state: State
    value: Any
    sentence: str
    shown: str = ""
    rank: float = 0.0
    details: tuple[str, ...] = ()


def passed(name: str, value: Any, sentence: str, shown: str = "", *, rank: float = 0.0) -> Finding:
    """Nothing to be done."""
    return Finding(name, "ok", value, sentence, shown, rank)


def warn(name: str, value: Any, sentence: str, shown: str = "", *, rank: float = 0.0) -> Finding:
    """Perhaps meant so; somebody should look."""
    return Finding(name, "look", value, sentence, shown, rank)


def fail(name: str, value: Any, sentence: str, shown: str = "", *, rank: float = 0.0) -> Finding:
    """Not to be paid for as it is."""
    return Finding(name, "wrong", value, sentence, shown, rank)


def merged(found: Mapping[str, Finding]) -> Finding:
    """One line of what a check found at several places: the worst speaks, and says where if there are others.

    Args:
        found: By place; all of one check.

    Example:
        >>> merged({"hinton": ok("terms", 0.4, "Fine."), "own": look("terms", 0.0, "Too small.")}).sentence
        'own: Too small.'
    """
    worst = max(found.values(), key=lambda one: (_ORDER.index(one.state), one.rank))
    said: dict[str, list[str]] = {worst.sentence: []}
    for place, one in found.items():
        if one.state == worst.state:
            said.setdefault(one.sentence, []).append(place)
    several = len(found) > 1 and worst.state != "ok"
    if worst.state == "ok" and len(said) > 1:  # each has numbers of its own: those of the worst are told
        said, several = {worst.sentence: said[worst.sentence]}, True
    sentence = " ".join(f"{', '.join(places)}: {one}" for one, places in said.items()) if several else worst.sentence
    return worst._replace(value={place: one.value for place, one in found.items()}, sentence=sentence)
