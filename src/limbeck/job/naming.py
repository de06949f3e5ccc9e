"""What is a thing called that was given as a path?"""

from __future__ import annotations

from pathlib import Path


def plain_name(name: str) -> str:
    """What a path is called wherever it lies; a name stays as it is.

    Example:
        >>> plain_name("/home/ada/own.py:soft"), plain_name("hinton")
        ('own.py:soft', 'hinton')
    """
    return Path(name).name or name
