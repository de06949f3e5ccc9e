"""Names and folders of arms in a run folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

ARMS = ("teacher", "student alone", "label smoothing", "shuffled teacher", "distilled")
"""The arms that a comparison can have, in the order of its table; "distilled" stands for every method."""


def plain_name(name: str) -> str:
    """The last part of a path; a name is unchanged.

    Example:
        >>> plain_name("/home/ada/own.py:soft"), plain_name("hinton")
        ('own.py:soft', 'hinton')
    """
    return Path(name).name or name


def method_arms(methods: Iterable[str]) -> list[str]:
    """The names of the arms of several methods: the methods' plain names, with #2, #3 for repeated names.

    Example:
        >>> method_arms(["hinton", "/home/ada/own.py:soft", "hinton"])
        ['hinton', 'own.py:soft', 'hinton#2']
    """
    names: list[str] = []
    for method in methods:
        stem = name = plain_name(method)
        number = 1
        while name in names or name in ARMS:
            number += 1
            name = f"{stem}#{number}"
        names.append(name)
    return names


def shared_path(path: str | Path, *, at: Path | None = None) -> str:
    """Shorten a path for output that is shared: relative to the working directory, or else only its name.

    A shared page, model card or job then reveals no home folders.

    Args:
        path: The path.
        at: The folder to make it relative to, by default the working directory.

    Example:
        >>> shared_path("runs/mine"), shared_path("/home/ada/data/rows.csv"), shared_path(Path.cwd() / "my.py")
        ('runs/mine', 'rows.csv', 'my.py')
    """
    path, at = Path(path), Path.cwd() if at is None else at
    if not path.is_absolute():
        return str(path)
    return str(path.relative_to(at)) if path.is_relative_to(at) else path.name


def arm_folder(out: Path, arm: str) -> Path:
    """The folder of an arm, always inside the run's folder: the name of an arm may come from a stranger's file.

    Example:
        >>> arm_folder(Path("runs/mine"), "student alone").as_posix()
        'runs/mine/arms/student-alone'
    """
    plain = arm.replace(" ", "-").replace("/", "-")[:200] if arm not in (".", "..") else "-"
    return out / "arms" / plain
