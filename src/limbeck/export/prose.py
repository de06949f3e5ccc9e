"""How does a name from data or a result stand in a card without becoming markup?"""

from __future__ import annotations

import json
import re
from typing import Any

from limbeck.errors import printable

_MARKS = re.compile(r"([\\`*\[\]<>|&])")


def prose(text: Any) -> str:
    r"""Any text as Markdown that shows it: one line, its marks escaped.

    Example:
        >>> print(prose("<b>|`x`"))
        \<b\>\|\`x\`
    """
    return _MARKS.sub(r"\\\1", printable(" ".join(str(text).split())))


def quoted(text: Any) -> str:
    r"""A name from data in quotes, with every space and line break that it has, as Markdown that shows it.

    Example:
        >>> print(quoted(" Private"), quoted("a*b"))
        " Private" "a\*b"
    """
    return _MARKS.sub(r"\\\1", printable(json.dumps(str(text), ensure_ascii=False)))
