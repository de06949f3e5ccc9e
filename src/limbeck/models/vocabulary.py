"""`align_vocabularies`: which outputs of two language models belong to the same token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from limbeck.errors import ArgumentError, LimbeckError

PROBES = (
    "The quick brown fox jumps over the lazy dog.",
    "  two  spaces,\ttab\nnewline\r\n\n   and an end ",
    "0 7 12 123 1234 12345 3.14159 1e-9 2,000,000 ½",
    "Größe, façade, naïve, čeština, Ελληνικά, русский язык, עברית, العربية, हिन्दी",
    "東京 は 日本語 です。 中文字符 한국어",
    "🙂 👩‍👧 e\u0301 \ufb01 “quotes” \u2013 — \u00a0nbsp \u200b",
    "def f(x): return {'a': [x**2 for x in range(10)]}  # snake_case CamelCase",
    "http://example.org/a?b=c&d=%20 user@example.org C:\\temp\\file.txt",
    "I'll don't WE'RE l'été aaaaaaaa ==== ....",
)
"""Texts on which tokenizers differ: spaces, digits, accents, other scripts, symbols, code, addresses."""

_LEAST_SHARED = 0.25  # of the outputs; models of bytes pad theirs to twice as many

_WAY_OUT = (
    "their predictions cannot be compared token by token. The methods alm and uld compare texts instead: --method alm. "
    "Or take a student with the teacher's tokenizer, such as a smaller model of the same family, or train the student "
    "without a teacher on texts that the teacher wrote (the method supervised)."
)


class TokenizersDifferError(LimbeckError):
    """Two tokenizers cut texts into different tokens. `limbeck.CrossTokenizerTeacher` compares such models by text.

    Attributes:
        difference: The first difference, without what can be done about it.
    """

    def __init__(self, sentence: str, *, difference: str = "") -> None:
        super().__init__(sentence)
        self.difference = difference or sentence


@dataclass(frozen=True, eq=False)
class VocabularyAlignment:
    """The tokens that two models share. Token i of the shared ones is ``student_ids[i]`` and ``teacher_ids[i]``.

    Attributes:
        student_ids: Output of the student for each shared token, ascending.
        teacher_ids: Output of the teacher for each shared token.
        student_size: The number of outputs of the student, unused ones included.
        teacher_size: The number of outputs of the teacher, unused ones included.
        names: Token strings by student id, of tokens that the teacher lacks.
        notes: What people should know, one sentence each.
    """

    student_ids: Int[Tensor, " shared"]
    teacher_ids: Int[Tensor, " shared"]
    student_size: int
    teacher_size: int
    names: Mapping[int, str]
    notes: tuple[str, ...] = ()

    @property
    def shared(self) -> int:
        """The number of shared tokens."""
        return len(self.student_ids)

    @cached_property
    def is_identity(self) -> bool:
        """Whether both models have the same outputs in the same order, so that there is nothing to align."""
        return self.shared == self.student_size == self.teacher_size and self.same_ids

    @cached_property
    def same_ids(self) -> bool:
        """Whether each shared token has the same id in both, so that the teacher can read the student's tokens."""
        return torch.equal(self.student_ids, self.teacher_ids)

    @property
    def covers_student(self) -> bool:
        """Whether the teacher knows every output of the student."""
        return self.shared == self.student_size

    @property
    def covers_teacher(self) -> bool:
        """Whether the student knows every output of the teacher."""
        return self.shared == self.teacher_size

    @cached_property
    def from_student(self) -> Int[Tensor, " student"]:
        """The teacher's id of each output of the student; -1 where it has none."""
        return torch.full((self.student_size,), -1).scatter_(0, self.student_ids, self.teacher_ids)

    @cached_property
    def from_teacher(self) -> Int[Tensor, " teacher"]:
        """The number of the shared token of each output of the teacher; `shared` where there is none."""
        numbers = torch.arange(self.shared)
        return torch.full((self.teacher_size,), self.shared).scatter_(0, self.teacher_ids, numbers)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the ids and sizes."""
        total = hashlib.sha256(f"{self.student_size} {self.teacher_size}".encode())
        for ids in (self.student_ids, self.teacher_ids):
            total.update(ids.numpy().tobytes())
        return total.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Its entry in a report."""
        return {
            "shared": self.shared,
            "student": self.student_size,
            "teacher": self.teacher_size,
            "same_ids": self.same_ids,
            "notes": list(self.notes),
        }


def align_vocabularies(
    student: Any, teacher: Any, *, student_size: int, teacher_size: int, texts: Iterable[str] = ()
) -> VocabularyAlignment:
    """Compare two tokenizers by token string and by the tokens of some texts, and find their shared tokens.

    Sizes say nothing: models of one family have 151,936 and 152,064 outputs for the same 151,669 tokens, and models
    with equal sizes may number their tokens in another order. What is compared is the whole map from string to id, and
    the token strings of `PROBES`, of special tokens within a text, and of `texts`. One model may have tokens that the
    other lacks. Outputs without a token are unused rows, and never shared.

    Args:
        student: The tokenizer of the student and of the data; None if there is none.
        teacher: The tokenizer of the teacher; None if there is none.
        student_size: The number of outputs of the student.
        teacher_size: The number of outputs of the teacher.
        texts: Some texts of the data.

    Returns:
        The alignment. Without a tokenizer on either side, models with equal sizes have equal tokens, says a note.

    Raises:
        ArgumentError: If a size is below 1.
        TokenizersDifferError: If the tokenizers cut texts into different tokens. The message names what works instead.
        LimbeckError: If one tokenizer is missing and the sizes differ, or hardly any token is shared.

    Example:
        >>> from limbeck.data import train_tokenizer
        >>> tokenizer = train_tokenizer(["a b c"], vocabulary=12)
        >>> one = align_vocabularies(tokenizer, tokenizer, student_size=12, teacher_size=16)
        >>> one.shared, one.is_identity, one.same_ids
        (12, False, True)
    """
    for name, size in (("student_size", student_size), ("teacher_size", teacher_size)):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ArgumentError(f"{name} is a number of outputs, at least 1; got {size!r}.", argument=name)
    if student is None or teacher is None:
        return _align_without_tokenizer(student, teacher, student_size, teacher_size)
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    _check_one_contains_other(ours, theirs, student, teacher)
    _check_probes(student, teacher, texts)
    names = {id: token for token, id in ours.items() if token not in theirs or theirs[token] >= teacher_size}
    special = _note_on_special(student, teacher)
    if ours == theirs and student_size == teacher_size:  # their unused rows mean the same, too: nothing
        every = torch.arange(student_size)
        return VocabularyAlignment(every, every, student_size, teacher_size, names, special)
    pairs = sorted((id, theirs[token]) for token, id in ours.items() if token in theirs)
    # A token beyond the outputs has no logit: the model was not resized for it.
    ids = torch.tensor([pair for pair in pairs if pair[0] < student_size and pair[1] < teacher_size]).reshape(-1, 2)
    if len(ids) < _LEAST_SHARED * min(student_size, teacher_size):
        raise LimbeckError(
            f"Only {len(ids):,} of the student's {student_size:,} outputs have a token that the teacher knows "
            f"({len(ours):,} tokens in the student's tokenizer, {len(theirs):,} in the teacher's). Are the tokenizers "
            "those of the models, and whole?"
        )
    notes = (
        *_note_on_ids(ids),
        *_note_on_unknown(names, sum(token not in ours for token in theirs)),
        *_note_on_unused(student_size - len(ours), teacher_size - len(theirs)),
        *special,
    )
    mine, its = (column.contiguous() for column in ids.unbind(1))
    return VocabularyAlignment(mine, its, student_size, teacher_size, names, notes)


def hash_tokenizer(tokenizer: Any) -> str:
    """SHA-256 of a tokenizer's vocabulary and rules: two tokenizers with the same hash make the same tokens.

    Example:
        >>> from limbeck.data import train_tokenizer
        >>> one, other = (train_tokenizer(["a b", text], vocabulary=20) for text in ("c", "d"))
        >>> hash_tokenizer(one) == hash_tokenizer(one), hash_tokenizer(one) == hash_tokenizer(other)
        (True, False)
    """
    rules = json.dumps(sorted(tokenizer.get_vocab().items()))
    if tokenizer.is_fast:
        parts = json.loads(tokenizer.backend_tokenizer.to_str())
        # The arguments of the last call stay in the tokenizer.
        rules = json.dumps({name: part for name, part in parts.items() if name not in ("padding", "truncation")})
    template = tokenizer.chat_template or ""
    return hashlib.sha256(f"{rules}|{tokenizer.eos_token}|{template}".encode()).hexdigest()


def count_outputs(model: nn.Module) -> int | None:
    """The number of outputs of a language model of transformers, unused ones included; None for other modules.

    Example:
        >>> count_outputs(nn.Linear(2, 3)) is None
        True
    """
    inner: Any = model
    layer = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    weight = layer.weight if isinstance(layer, nn.Module) and hasattr(layer, "weight") else None
    return int(weight.shape[0]) if isinstance(weight, Tensor) else None


def read_context_length(model: nn.Module) -> int | None:
    """The largest number of tokens that a model of transformers says it reads; None if it says nothing.

    Example:
        >>> read_context_length(nn.Linear(2, 3)) is None
        True
    """
    try:
        config: Any = model.config
        # That of a model of images and texts has one of its own for texts. Other names are mapped to this one.
        own = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
        limit = own.max_position_embeddings
    except AttributeError:
        return None
    return int(limit) if isinstance(limit, int) and limit > 0 else None


def _align_without_tokenizer(student: Any, teacher: Any, student_size: int, teacher_size: int) -> VocabularyAlignment:
    missing = " and ".join(name for name, one in (("student", student), ("teacher", teacher)) if one is None)
    if student_size != teacher_size:
        raise LimbeckError(
            f"The teacher has {teacher_size:,} outputs and the student {student_size:,}, and without the tokenizer of "
            f"the {missing} nobody knows which are the same token. Save it into the model's folder: "
            "tokenizer.save_pretrained(FOLDER)."
        )
    every = torch.arange(student_size)
    note = (
        f"The tokenizer of the {missing} is not known: output i of both models is taken for the same token, as both "
        f"have {student_size:,}."
    )
    return VocabularyAlignment(every, every, student_size, teacher_size, {}, (note,))


def _check_one_contains_other(ours: Mapping[str, int], theirs: Mapping[str, int], student: Any, teacher: Any) -> None:
    """Raise if both vocabularies have ordinary tokens that the other lacks."""
    added = set(student.get_added_vocab()) | set(teacher.get_added_vocab())
    added |= set(student.all_special_tokens) | set(teacher.all_special_tokens)
    only_ours = next((token for token in ours if token not in theirs and token not in added), None)
    only_theirs = next((token for token in theirs if token not in ours and token not in added), None)
    if only_ours is None or only_theirs is None:
        return
    count = sum(token in theirs for token in ours)
    raise _differ(
        f"The teacher has another vocabulary than the student ({count:,} of the student's {len(ours):,} tokens are "
        f"also the teacher's; {only_ours!r} is not, and {only_theirs!r} is the teacher's alone)"
    )


def _differ(difference: str) -> TokenizersDifferError:
    return TokenizersDifferError(f"{difference}, so {_WAY_OUT}", difference=difference)


def _check_probes(student: Any, teacher: Any, texts: Iterable[str]) -> None:
    """Raise if a text becomes other token strings."""
    special = [token for token in student.all_special_tokens if token in teacher.all_special_tokens]
    for text in (*PROBES, *(f"one{token} two {token}" for token in special), *texts):
        ours, theirs = _cut(student, text), _cut(teacher, text)
        if ours != theirs:
            at = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if len(set(pair)) > 1), len(ours))
            mine, its = (" ".join(map(repr, cut[at : at + 3])) or "nothing" for cut in (ours, theirs))
            raise _differ(
                f"The teacher's tokenizer cuts texts into other tokens than the student's (in {_shorten(text)}: {its}, "
                f"the student's: {mine})"
            )


def _cut(tokenizer: Any, text: str) -> list[str]:
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return list(tokenizer.convert_ids_to_tokens(ids))


def _note_on_ids(ids: Int[Tensor, "shared 2"]) -> tuple[str, ...]:
    same = torch.equal(ids[:, 0], ids[:, 1])
    return () if same else ("The same tokens have other ids in the teacher; they are matched by their strings.",)


def _note_on_unknown(names: Mapping[int, str], only_teacher: int) -> tuple[str, ...]:
    notes = []
    if names:
        listed = ", ".join(map(repr, list(names.values())[:3])) + (", ..." if len(names) > 3 else "")
        notes.append(f"Tokens of the student that the teacher does not know: {len(names):,} ({listed}).")
    if only_teacher:
        notes.append(f"Tokens of the teacher that the student does not know: {only_teacher:,}.")
    return tuple(notes)


def _note_on_unused(student: int, teacher: int) -> tuple[str, ...]:
    if max(student, teacher) <= 0:
        return ()
    return (
        f"Outputs without a token, which no divergence reads: {max(student, 0):,} of the student, {max(teacher, 0):,} "
        "of the teacher.",
    )


def _note_on_special(student: Any, teacher: Any) -> tuple[str, ...]:
    """A note if the tokenizers put other special tokens around a text; the teacher reads the student's."""
    both = []
    for tokenizer in (student, teacher):
        ids = tokenizer("a", verbose=False)["input_ids"]
        both.append(list(tokenizer.convert_ids_to_tokens(ids)))
    if both[0] == both[1]:
        return ()
    return (
        f"The teacher's tokenizer makes {' '.join(both[1])} of the text 'a', and the student's {' '.join(both[0])}: "
        "the teacher reads texts with the student's special tokens.",
    )


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
