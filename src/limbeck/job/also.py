"""What may be measured besides, when a job asks for it?"""

from __future__ import annotations

from typing import Any

from limbeck.errors import LimbeckError, unknown

ALSO = ("cka", "corruptions", "groups")
"""What costs more than the answers to the test data: layers set beside the teacher's, images gone bad; and groups."""


def named_also(value: Any) -> Any:
    """One name is a list of one."""
    return [value] if isinstance(value, str) else [] if value is None else value


def check_also(names: tuple[str, ...]) -> None:
    """Refuse what nobody measures, and what is asked for twice.

    Raises:
        UnknownNameError: With the nearest name.
        LimbeckError: If a name stands there twice.
    """
    for name in names:
        if name not in ALSO:
            raise unknown("name in also", name, ALSO, then="Every other measure is taken anyway.")
        if names.count(name) > 1:
            raise LimbeckError(f"{name!r} stands twice in also; name each once.")
