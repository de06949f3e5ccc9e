"""Encoding of the likelihoods of a teacher with another tokenizer."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
import torch

from limbeck.cache.encoding import Encoding, LogitRows, Records
from limbeck.cache.packing import floats, values
from limbeck.errors import DataError, LimbeckError
from limbeck.group_likelihoods import CrossTokenizerLogits, GroupLikelihoods
from limbeck.top_k_logits import PartialLogits

_LONGEST = 2**16 - 1


@final
class Likelihoods(Encoding):
    """The log-likelihood of groups of tokens by a teacher with another tokenizer: 14 bytes a token, for `alm`.

    A record holds the teacher's log-likelihood of the group that begins at a position and its log-probability that a
    word ends behind it (float32), the student's label there (int32), and the number of the student's tokens in the
    group (16 bits). It stores what a
    `limbeck.teachers.CrossTokenizerTeacher` gives; distributions, which `uld` needs, are not stored.

    Args:
        classes: The number of outputs of the teacher.
    """

    name: ClassVar[str] = "likelihoods"
    partial: ClassVar[type[PartialLogits] | None] = GroupLikelihoods
    takes_partial: ClassVar[bool] = True

    def __init__(self, *, classes: int) -> None:
        super().__init__(classes=classes)
        self.width = 14

    def _encode(self, rows: LogitRows) -> Records:
        raise LimbeckError(
            "The encoding 'likelihoods' stores what a teacher with another tokenizer gives: cache a "
            "CrossTokenizerTeacher(teacher, student_tokenizer, teacher_tokenizer)."
        )

    def _encode_partial(self, partial: PartialLogits) -> Records:
        own = partial.likelihoods if isinstance(partial, CrossTokenizerLogits) else partial
        if not isinstance(own, GroupLikelihoods):
            raise LimbeckError(
                f"The encoding 'likelihoods' stores what a CrossTokenizerTeacher gives, and this teacher gives "
                f"{type(partial).__name__}."
            )
        if bool(own.log_likelihood.isnan().any()) or int(own.lengths.max() if len(own) else 0) > _LONGEST:
            raise DataError(
                f"The teacher's likelihoods hold NaN, or a group has more than {_LONGEST:,} tokens, which cannot be "
                "stored."
            )
        parts = (own.labels.numpy().astype("<i4"), own.lengths.numpy().astype("<u2"))
        raw = [part[:, None].view(np.uint8) for part in parts]
        numbers = torch.stack([own.log_likelihood, own.log_boundary], 1).float()
        return np.concatenate([floats(numbers), *raw], axis=1)

    def decode(self, records: Records) -> GroupLikelihoods:
        """Decode the rows."""
        records = self._checked(records)
        numbers = torch.from_numpy(values(records[:, :8], "<f4").astype(np.float32))
        labels, lengths = (
            torch.from_numpy(np.ascontiguousarray(part).view(kind).astype(np.int64)).flatten()
            for part, kind in ((records[:, 8:12], "<i4"), (records[:, 12:], "<u2"))
        )
        return GroupLikelihoods(labels, lengths, *numbers.unbind(1), classes=self.classes)
