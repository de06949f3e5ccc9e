"""What does one need to know of a published method before using it?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from limbeck.methods.range import Range


@dataclass(frozen=True)
class Card:
    """What a published method claims, when to use it, and whom to cite.

    Attributes:
        name: What it is called here: its file, its function, ``--method NAME``.
        title: The paper's title.
        authors: Who wrote it.
        year: When it was first public.
        arxiv: Its arXiv number, where it has one.
        venue: Where it appeared.
        claim: What it does, in one sentence.
        when: When to use it, and when not.
        defaults: Every hyper-parameter that has a value of its own; what needs one from you is not among them.
        bibtex: The citation.
        ranges: Between which values `limbeck tune` searches a hyper-parameter; one that is not here stays as it is.
    """

    name: str
    title: str
    authors: str
    year: int
    arxiv: str | None
    venue: str
    claim: str
    when: str
    defaults: Mapping[str, Any]
    bibtex: str
    ranges: Mapping[str, Range] = field(default_factory=dict)

    @classmethod
    def unpublished(cls, name: str, text: str | None) -> Card:
        """The card of a method that has none yet: its name, and the first line of its docstring."""
        claim = next(iter((text or "").strip().splitlines()), "")
        return cls(name, name, "", 0, None, "", claim, "", {}, "")
