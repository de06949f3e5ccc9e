"""Search of the cards of methods by words that people type."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from limbeck.methods import method, names
from limbeck.methods.card import MethodCard

METHODS_WITHOUT_FORMULA: Mapping[str, str] = {
    "SLKD": "SLKD (Liu, Li and Cheng, 2023, arXiv:2304.11923) is not here: its formula is not public.",
}
"""Published methods that limbeck cannot have, and why."""

_SHORT = 3  # characters of a word that is an abbreviation: its letters also start many other words


def find_methods(query: str) -> tuple[str, ...]:
    """Find methods by name, or by words of their cards.

    Case, spaces, hyphens and underscores do not matter. A query that is the name of a method, or an abbreviation of up
    to three characters among the keywords of a card, finds only these. Otherwise all words of the query must occur in
    the name, the title, the authors, the year, the arXiv number, the claim, the advice or the keywords of the card, as
    the start of a word; words of up to three characters as a whole word. Accents do not matter either.

    Example:
        >>> find_methods("DKD"), find_methods("logit standardization"), find_methods("hintn")
        (('dkd',), ('logit_standardization',), ())
        >>> find_methods("arXiv:1412.6550"), find_methods("romero 2014")
        (('fitnets',), ('fitnets',))
    """
    wanted = squeeze(query)
    cards = {name: method(name).card for name in names()} if wanted else {}
    for exact in (
        [name for name in cards if squeeze(name) == wanted],
        [name for name, card in cards.items() if len(wanted) <= _SHORT and wanted in map(squeeze, card.keywords)],
    ):
        if exact:
            return tuple(exact)
    return tuple(name for name, card in cards.items() if has_words(card_text(card), query))


def has_words(text: str, query: str) -> bool:
    """Whether all words of a query begin words of a text; those of up to three characters are whole words of it.

    Example:
        >>> has_words("Müller, Kornblith and Hinton, 2020", "muller 2020"), has_words("a text", "ex")
        (True, False)
    """
    plain = re.sub(r"[\W_]+", " ", _plain(text))
    return all(_pattern(word).search(plain) for word in map(squeeze, query.split()) if word)


def without_formula(query: str) -> str | None:
    """Why a published method is not here, if that is known.

    Example:
        >>> without_formula("slkd")
        'SLKD (Liu, Li and Cheng, 2023, arXiv:2304.11923) is not here: its formula is not public.'
    """
    return {squeeze(name): reason for name, reason in METHODS_WITHOUT_FORMULA.items()}.get(squeeze(query))


def _plain(text: str) -> str:
    """The text in lower case without accents: Müller is also typed Muller."""
    letters = unicodedata.normalize("NFKD", text.lower())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def squeeze(text: str) -> str:
    """The letters and digits of a text, in lower case and without accents."""
    return re.sub(r"[\W_]+", "", _plain(text))


def card_text(card: MethodCard) -> str:
    """What a method is found by: name, title, authors, year, arXiv number, claim, advice and keywords of its card."""
    source = (card.authors, str(card.year), f"arXiv {card.arxiv}" if card.arxiv else "")
    return " ".join((card.name, card.title, *source, card.claim, card.when, *card.keywords))


def _pattern(word: str) -> re.Pattern[str]:
    # "topk" is also found in "top k", which is what the text has for "top-k".
    letters = " ?".join(map(re.escape, word))
    return re.compile(rf"\b{letters}\b" if len(word) <= _SHORT else rf"\b{letters}")
