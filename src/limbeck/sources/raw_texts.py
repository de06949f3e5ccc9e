"""How does a student of texts read them as they are?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from limbeck.errors import DataError
from limbeck.signal import Batch, Inputs
from limbeck.sources.texts import Texts


@dataclass(frozen=True)
class Tokenised:
    """Texts as they are, cut into tokens as in training: ``student(**reads(limbeck.Batch(["a fine film"])))``.

    A batch that holds tokens already, as in training, is read unchanged.

    Attributes:
        tokenizer: A tokenizer of transformers; its ``model_max_length`` is how many tokens a text may have.

    Example:
        >>> from limbeck.sources import train_tokenizer
        >>> reads = Tokenised(train_tokenizer(["a fine film", "dull"], vocabulary=40))
        >>> reads(Batch(["dull", "a fine film"]))["attention_mask"].tolist()
        [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    """

    tokenizer: Any

    def __call__(self, batch: Batch) -> Inputs:
        """Token ids, their mask and whatever else the tokenizer gives, padded to the longest text.

        Raises:
            DataError: If the batch holds neither texts nor tokens.
        """
        if isinstance(batch.inputs, Mapping):
            return batch.inputs
        if not isinstance(batch.inputs, (list, tuple)):
            raise DataError(f"A student of texts reads a list of them; got a {type(batch.inputs).__name__}.")
        most = int(self.tokenizer.model_max_length)
        texts = Texts(batch.inputs, tokenizer=self.tokenizer, max_length=most)
        return texts.take(torch.arange(len(texts))).inputs
