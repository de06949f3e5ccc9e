"""The check of a teacher with another tokenizer: how many tokens are aligned, and into which groups."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from limbeck.data import Dataset
from limbeck.doctor.context import CheckContext, Finding, passed, warn
from limbeck.teachers import CachedTeacher, CrossTokenizerTeacher, Teacher

ALIGNED = "aligned tokens"

_ALIGNED = 1024  # rows of the data on which a teacher with another tokenizer is tried
_LEAST, _SHOWN = 0.5, 12


class AlignedShare(NamedTuple):
    """How many tokens of some rows are aligned with those of a teacher with another tokenizer.

    Attributes:
        tokens: The number of tokens with a label.
        aligned: The number of those in a group.
        groups: The number of groups.
        single: The number of groups with one token on either side.
        changed: The number of windows whose text the teacher's tokenizer changes.
    """

    tokens: int
    aligned: int
    groups: int
    single: int
    changed: int


def measure_alignment(teacher: CrossTokenizerTeacher, data: Dataset) -> AlignedShare:
    """Align up to 1,024 rows of the data, spread evenly.

    Raises:
        LimbeckError: If a window has more tokens than the teacher reads.
    """
    total = [0] * len(AlignedShare._fields)
    rows = torch.linspace(0, len(data) - 1, min(_ALIGNED, len(data))).long()
    for index in rows.split(64):
        one = teacher.align(data.take(index))
        single = int(((one.count == 1) & (one.teacher_count == 1)).sum())
        values = (one.tokens, one.aligned_tokens, len(one.count), single, one.changed)
        total = [a + b for a, b in zip(total, values, strict=True)]
    return AlignedShare(*total)


def describe_alignment(teacher: CrossTokenizerTeacher, share: AlignedShare) -> str:
    """Describe in a sentence how the tokens of a student and a teacher are aligned."""
    ours, theirs = (len(one.tokenizer) for one in (teacher.aligner.student, teacher.aligner.teacher))
    changed = f" {share.changed:,} windows are left out from where the teacher writes another text." * bool(
        share.changed
    )
    if teacher.aligner.student.tokenizer.get_vocab() == teacher.aligner.teacher.tokenizer.get_vocab():
        return (
            f"Tokenizers: student and teacher have the same {ours:,} tokens, so their probabilities can be compared "
            "token by token, which says more than likelihoods of texts: use the method hinton, or gkd."
        )
    return (
        f"Tokenizers: the student's has {ours:,} tokens, the teacher's {theirs:,}. "
        f"{100 * share.aligned / max(share.tokens, 1):.3g} % of the tokens that are learned are in groups that spell "
        f"the same bytes, {share.aligned / max(share.groups, 1):.2f} to a group; "
        f"{100 * share.single / max(share.groups, 1):.3g} % of the groups are one token on either side.{changed}"
    )


def find_cross_tokenizer_teacher(teacher: Teacher) -> CrossTokenizerTeacher | None:
    """The teacher with another tokenizer, alone or in a cache; None for others."""
    if isinstance(teacher, CachedTeacher) and teacher.inner is not None:
        teacher = teacher.inner
    return teacher if isinstance(teacher, CrossTokenizerTeacher) else None


def check_alignment(context: CheckContext) -> Finding | None:
    """Show how many tokens are aligned with the teacher's, and the first groups of a row; None for one tokenizer."""
    teacher = find_cross_tokenizer_teacher(context.teacher)
    if teacher is None:
        return None
    share = measure_alignment(teacher, context.train)
    value = share.aligned / max(share.tokens, 1)
    sentence = (
        "The share of the tokens that are learned which are in groups that spell the same bytes. The first groups are "
        "in [ ], the student's tokens = the teacher's."
    )
    text, lines = f"{100 * value:.3g} %", (f"row 0: {_show_groups(teacher, context.train)}",)
    if value < _LEAST:
        sentence = f"{sentence} Little is compared, so little is learned from the teacher."
        return warn(ALIGNED, share._asdict(), sentence, text)._replace(details=lines)
    return passed(ALIGNED, share._asdict(), sentence, text)._replace(details=lines)


def _show_groups(teacher: CrossTokenizerTeacher, data: Dataset) -> str:
    """The first groups of the first row, the student's tokens and the teacher's where they differ."""
    batch = data.take(torch.tensor([0]))
    student, other = teacher.aligner.student.tokenizer, teacher.aligner.teacher.tokenizer
    shown = []
    for own, its in teacher.align(batch).list_groups(batch)[:_SHOWN]:
        ours, theirs = _show(student, own), _show(other, its)
        shown.append(f"[{ours}]" if ours == theirs else f"[{ours} = {theirs}]")
    return " ".join(shown)


def _show(tokenizer: Any, ids: list[int]) -> str:
    """Tokens with bars between them."""
    return "|".join(repr(tokenizer.decode([id], skip_special_tokens=False))[1:-1] for id in ids)
