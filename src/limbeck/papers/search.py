"""Search of the papers by words that people type."""

from __future__ import annotations

import re

from limbeck.methods import method, names
from limbeck.methods.search import card_text, has_words, squeeze
from limbeck.papers.reproduction import Paper, paper, paper_names


def find_papers(query: str) -> tuple[str, ...]:
    """Find papers by name, authors, year, arXiv number, words of the title, claim and questions, or name of a method.

    Case, accents, spaces, hyphens and underscores do not matter. A query that is the name of a paper, or of a method of
    a paper, finds only these. Otherwise all words of the query must occur as `find_methods` says, in what is known of
    the paper or on the cards of its methods.

    Example:
        >>> find_papers("arXiv:1503.02531"), find_papers("muller"), find_papers("eskd")
        (('hinton2015',), ('muller2020', 'chormai2026'), ('cho2019',))
    """
    wanted = squeeze(query)
    papers = {name: paper(name) for name in paper_names()} if wanted else {}
    methods = {name: _methods_of(one) for name, one in papers.items()}
    for exact in (
        [name for name in papers if squeeze(name) == wanted],
        [name for name, own in methods.items() if wanted in map(squeeze, own)],
    ):
        if exact:
            return tuple(exact)
    texts = {name: " ".join((_text(one), *(card_text(method(own).card) for own in methods[name])))
             for name, one in papers.items()}  # fmt: skip
    return tuple(name for name, text in texts.items() if has_words(text, query))


def _methods_of(one: Paper) -> list[str]:
    """The methods that the paper proposed: those whose card has its arXiv number."""
    numbers = re.findall(r"arXiv:(\d+\.\d+)", one.title)
    return [name for name in names() if method(name).card.arxiv in numbers]


def _text(one: Paper) -> str:
    return " ".join((one.name, one.title, one.claim, *(each.title for each in one.experiments.values())))
