"""What is a thing called that was given as a path, and where does a run keep an arm?"""

from __future__ import annotations

from pathlib import Path


def plain_name(name: str) -> str:
    """What a path is called wherever it lies; a name stays as it is.

    Example:
        >>> plain_name("/home/ada/own.py:soft"), plain_name("hinton")
        ('own.py:soft', 'hinton')
    """
    return Path(name).name or name


def arm_folder(out: Path, arm: str) -> Path:
    """Where a run keeps an arm: a folder inside its own, whatever a stranger has called the arm.

    Example:
        >>> arm_folder(Path("runs/mine"), "student alone").as_posix()
        'runs/mine/arms/student-alone'
    """
    plain = arm.replace(" ", "-").replace("/", "-")[:200] if arm not in (".", "..") else "-"
    return out / "arms" / plain
