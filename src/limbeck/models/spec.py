"""How was a network made, so that it can be made again?"""

from __future__ import annotations

from typing import Any, NamedTuple


class ModelSpec(NamedTuple):
    """The name of a reference network and the arguments it was built with, all of them JSON values.

    Attributes:
        name: One of `reference_names()`.
        arguments: What `build` was called with.
    """

    name: str
    arguments: dict[str, Any]
