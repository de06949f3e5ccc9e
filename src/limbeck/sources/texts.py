"""How do texts become a set of examples, tokenised once and padded a batch at a time?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.errors import DataError
from limbeck.signal import Batch
from limbeck.sources.columns import digest, labels_from
from limbeck.sources.examples import Examples
from limbeck.sources.tokenizer import check_tokenizer

_AT_ONCE = 10_000  # texts tokenised in one call, so that memory stays bounded


@final
class Texts(Examples):
    """Texts as token ids: tokenised once, here, and padded to the longest of a batch.

    A batch's inputs are a mapping, so that a model is called ``m(input_ids=..., attention_mask=...)``: what the
    tokenizer gives (``model_input_names``), int64 ``[batch, tokens]``. ``Batch.mask`` is true at a text's own tokens,
    so that losses between hidden states leave the padding out; ``Batch.extra["text"]`` is the text.

    Args:
        texts: The texts.
        labels: Class indices, one for each text, -100 where there is none.
        tokenizer: What ``transformers.AutoTokenizer`` or `train_tokenizer` gives.
        pairs: A second text for each, for tasks about two: the tokenizer joins them.
        max_length: How many tokens a text may have; the rest is cut off.
        class_names: The name of each class.

    Raises:
        LimbeckError: If there is no tokenizer, or it has no token for padding.
        DataError: If there are no texts, one is no text or has no token, lengths differ, or labels are no class
            indices.

    Example:
        >>> from limbeck.sources import train_tokenizer
        >>> texts = ["a fine film", "dull"]
        >>> data = Texts(texts, [1, 0], tokenizer=train_tokenizer(texts, vocabulary=40))
        >>> data.take(torch.tensor([1, 0])).inputs["attention_mask"].tolist()
        [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    """

    def __init__(
        self,
        texts: Sequence[str],
        labels: Any = None,
        *,
        tokenizer: Any,
        pairs: Sequence[str] | None = None,
        max_length: int = 128,
        class_names: Sequence[str] | None = None,
    ) -> None:
        check_tokenizer(tokenizer)
        if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1:
            raise DataError(f"max_length is how many tokens a text may have, at least 1; got {max_length!r}.")
        self.tokenizer = tokenizer
        self.texts = _checked("texts", texts)
        self.pairs = None if pairs is None else _checked("pairs", pairs)
        self._names = None if class_names is None else tuple(str(name) for name in class_names)
        self._labels = None if labels is None else labels_from(labels, classes=self._names)
        for name, column in (("pairs", self.pairs), ("labels", self._labels)):
            if column is not None and len(column) != len(self.texts):
                raise DataError(f"There are {len(self.texts)} texts and {len(column)} {name}; give one for each.")
        self._columns, self._starts, self._lengths = _tokenised(tokenizer, self.texts, self.pairs, max_length)

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, index: Int[Tensor, " n"]) -> Batch:
        """The texts at the positions `index`, padded to the longest of them, on the tokenizer's ``padding_side``."""
        lengths, places = self._lengths[index], torch.arange(int(self._lengths[index].max()))
        if self.tokenizer.padding_side == "left":
            places = places - len(places) + lengths[:, None]
        mask = (places >= 0) & (places < lengths[:, None])
        inside = torch.where(mask, places + self._starts[index, None], 0)
        inputs = {
            name: torch.where(mask, flat[inside].long(), self._fill(name)) for name, flat in self._columns.items()
        }
        inputs["attention_mask"] = mask.long()
        labels = None if self._labels is None else self._labels[index]
        return Batch(inputs, index, None, labels, mask, {"text": [self.texts[i] for i in index.tolist()]})

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the token ids, how they are padded, the labels and the class names."""
        padding = (self.tokenizer.padding_side, *(self._fill(name) for name in self._columns))
        own = [("lengths", self._lengths), ("labels", self._labels), ("class_names", self._names)]
        return digest(("texts", padding), *self._columns.items(), *own)

    @property
    def labels(self) -> Tensor | None:
        """The labels as given, in int64."""
        return self._labels

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The class names as given."""
        return self._names

    def _fill(self, name: str) -> int:
        """What stands where a text has ended."""
        return int(
            self.tokenizer.pad_token_id if name == "input_ids" else getattr(self.tokenizer, "pad_token_type_id", 0)
        )


def _checked(what: str, texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        raise DataError(f"{what} is one text; give a list of them.")
    found = list(texts)
    if not found:
        raise DataError(f"There are no {what}; a set needs at least one.")
    for place, text in enumerate(found):
        if not isinstance(text, str):
            raise DataError(f"{what}[{place}] is a {type(text).__name__}, {text!r}, not a text.")
    return found


def _tokenised(
    tokenizer: Any, texts: list[str], pairs: list[str] | None, max_length: int
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Each column of all texts end to end in int32, where each text begins, and how long it is."""
    columns: dict[str, list[int]] = {}
    lengths: list[int] = []
    for start in range(0, len(texts), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        given = [texts[part]] if pairs is None else [texts[part], pairs[part]]
        found = tokenizer(*given, truncation=True, max_length=max_length)
        lengths += [len(row) for row in found["input_ids"]]
        for name in set(found) - {"attention_mask"}:
            columns.setdefault(name, []).extend(number for row in found[name] for number in row)
    counts = torch.tensor(lengths)
    if bool((counts == 0).any()):
        place = int((counts == 0).nonzero()[0])
        raise DataError(f"Text {place}, {texts[place]!r}, has no token in it; leave it out.")
    flat = {name: torch.tensor(columns[name], dtype=torch.int32) for name in sorted(columns)}
    return flat, counts.cumsum(0) - counts, counts
