"""How does a name from data or a result stand in a card without becoming markup?"""

from __future__ import annotations

import re
from typing import Any

_MARKS = re.compile(r"([\\`*\[\]<>|])")


def prose(text: Any) -> str:
    r"""Any text as Markdown that shows it: one line, its marks escaped.

    Example:
        >>> print(prose("<b>|`x`"))
        \<b\>\|\`x\`
    """
    return _MARKS.sub(r"\\\1", " ".join(str(text).split()))
