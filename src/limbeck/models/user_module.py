"""The module name and the short name of a user's Python file."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path


def module_name(file: Path) -> str:
    """What a person's file is called among the loaded modules: apart from every other file and installed module."""
    return f"limbeck_file_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]}_{file.stem}"


def plain_name(name: str) -> str:
    """A dotted name as a person would say it: a file of their own by its own name, wherever it lies.

    Example:
        >>> plain_name(module_name(Path("folder/my.py")) + ".Net")
        'my.Net'
    """
    return re.sub(r"^limbeck_file_[0-9a-f]{12}_", "", name)
