"""`find_boundary_tokens`: the tokens that no text before them could have swallowed."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from limbeck.models.token_alignment import TokenSpelling

_WHITE_SPACE = (b" ", b"\t", b"\n", b"\r")


def find_boundary_tokens(spelling: TokenSpelling) -> Bool[Tensor, " vocabulary"]:
    """The tokens that begin with white space, and the special ones.

    Tokenizers cut a text before white space, and no token has text on both sides of a special one. So if such a token
    follows, the tokens before it are those that the tokenizer makes of their bytes: none of them is the beginning of a
    longer one.

    Args:
        spelling: The bytes of the tokens of a tokenizer.

    Example:
        >>> from limbeck.data import train_byte_level_tokenizer
        >>> tokenizer = train_byte_level_tokenizer(["the cat the cat"], vocabulary=262)
        >>> is_boundary = find_boundary_tokens(TokenSpelling(tokenizer, who="student"))
        >>> sorted(tokenizer.decode([id]) for id in is_boundary.nonzero()[:, 0].tolist() if id > 250)
        [' cat']
    """
    ids = spelling.tokenizer.get_vocab().values()
    known = [id for id in ids if id in spelling.special or (spelling.spell(id) or b"").startswith(_WHITE_SPACE)]
    is_boundary = torch.zeros(max(ids) + 1, dtype=torch.bool)
    is_boundary[torch.tensor(known, dtype=torch.int64)] = True
    return is_boundary
