"""The module name and the short name of a user's Python file."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path


def module_name(file: Path) -> str:
    """The module name of a user's file in ``sys.modules``; no other file or installed module has it."""
    return f"limbeck_file_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]}_{file.stem}"


def plain_name(name: str) -> str:
    """A dotted name for users: a file of theirs has its own name, wherever it is.

    Example:
        >>> plain_name(module_name(Path("folder/my.py")) + ".Net")
        'my.Net'
    """
    return re.sub(r"^limbeck_file_[0-9a-f]{12}_", "", name)
