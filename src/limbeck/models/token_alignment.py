"""`TokenAligner`: which tokens of two tokenizers spell the same bytes of a text."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Int

from limbeck.errors import LimbeckError
from limbeck.models.vocabulary import PROBES, hash_tokenizer

_ALIGNED_BYTES = 256 << 20
"""Memory for the alignments of texts that were seen."""

Offsets = Int[np.ndarray, " _"]


def group_tokens(ours: Offsets, theirs: Offsets) -> tuple[Offsets, Offsets]:
    """Put the tokens of two tokenizations of one text into groups that spell the same bytes.

    A group ends where both have a boundary, and nowhere else, so groups are as small as they can be. They are in order
    and cover the text from the first common boundary to the last. Tokens outside are in no group. A token without
    bytes, such as a lone mark of a space, belongs to the group that follows it.

    Args:
        ours: The boundaries of one tokenization as byte offsets, ascending: one more than there are tokens.
        theirs: Those of the other.

    Returns:
        The number of the group of each token, for both; -1 for none.

    Example:
        >>> group_tokens(np.array([0, 2, 5, 6]), np.array([0, 5, 6]))
        (array([0, 0, 1]), array([0, 1]))
    """
    common = np.intersect1d(ours, theirs)
    return _number_groups(ours, common), _number_groups(theirs, common)


def _number_groups(bounds: Offsets, common: Offsets) -> Offsets:
    """The group of each token: how many common boundaries are at or before its start, from 0."""
    groups = np.searchsorted(common, bounds[:-1], side="right") - 1
    return np.where(groups >= len(common) - 1, -1, groups)


class TokenGroups(NamedTuple):
    """Groups of tokens that spell the same bytes, in order.

    Attributes:
        first: The first token of each group in the student's text.
        count: The number of the student's tokens.
        teacher_first: The first token of each group in the teacher's text.
        teacher_count: The number of the teacher's tokens.
    """

    first: Offsets
    count: Offsets  # type: ignore[assignment] # tuple.count is of no use here
    teacher_first: Offsets
    teacher_count: Offsets


class AlignedText(NamedTuple):
    """A text of the student, as the teacher reads it.

    Attributes:
        teacher_ids: The teacher's tokens.
        groups: The groups of tokens.
        changed: Whether the teacher's tokenizer changes the text, so that the rest of it is in no group.
    """

    teacher_ids: Offsets
    groups: TokenGroups
    changed: bool


@final
class TokenSpelling:
    """The bytes that each token of a tokenizer stands for.

    Args:
        tokenizer: A fast tokenizer of transformers: byte-level (GPT-2, Llama 3, Qwen) or SentencePiece with bytes
            (Llama 2, Gemma).
        who: Its owner, for messages: ``student`` or ``teacher``.

    Raises:
        LimbeckError: If the bytes of its tokens are not known, or it loses a part of a text: it writes in lower case,
            drops spaces, or has no token for some characters.
    """

    def __init__(self, tokenizer: Any, *, who: str) -> None:
        self.tokenizer = tokenizer
        self.name = f"the {who}'s tokenizer ({type(tokenizer).__name__}" + _place(tokenizer) + ")"
        if not hasattr(tokenizer, "backend_tokenizer"):
            raise LimbeckError(
                f"The bytes of the tokens of {self.name} are not known, as it is not a fast one. Use "
                "AutoTokenizer.from_pretrained(..., use_fast=True)."
            )
        self.special = _find_special(tokenizer)
        """The strings of special tokens, which stand for no text, by id."""
        self._bytes = _spell_vocabulary(tokenizer, self.special)
        self.starts_with_space = self._adds_space("")
        """Whether a text gets a space in front that is not there."""
        mark = next((text for id, text in self.special.items() if id != tokenizer.unk_token_id), "")
        self.space_after_special = bool(mark) and self._adds_space(mark)
        """Whether a text behind a special token does, too."""
        self.leading = self._find_leading()
        """The special tokens that the tokenizer puts in front of a text."""
        self._check_keeps_text()

    def spell(self, id: int) -> bytes | None:
        """The bytes of a token; None for a special one, or an id without a token."""
        return self._bytes.get(id)

    def encode(self, texts: Sequence[str]) -> list[tuple[Offsets, Offsets] | None]:
        """The tokens of each text and their boundaries in its bytes; None where they spell something else."""
        if not texts:
            return []
        rows = self.tokenizer(
            list(texts), add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
        )["input_ids"]
        return [self._find_bounds(ids, text.encode()) for ids, text in zip(rows, texts, strict=True)]

    def _find_bounds(self, ids: list[int], text: bytes) -> tuple[Offsets, Offsets] | None:
        parts = [self._bytes.get(id) for id in ids]
        known = [part for part in parts if part is not None]
        spelled = b"".join(known)
        space = int(self.starts_with_space and spelled == b" " + text)
        if len(known) < len(parts) or spelled[space:] != text:
            return None
        bounds = np.cumsum([0, *map(len, known)])
        return np.asarray(ids, np.int64), np.maximum(bounds - space, 0)

    def _adds_space(self, before: str) -> bool:
        ids = self.tokenizer(before + "a", add_special_tokens=False, verbose=False)["input_ids"]
        return b"".join(self._bytes.get(id) or b"" for id in ids).startswith(b" ")

    def _find_leading(self) -> tuple[int, ...]:
        leading = []
        for id in self.tokenizer("a", verbose=False)["input_ids"]:
            if id not in self.special:
                break
            leading.append(id)
        return tuple(leading)

    def _check_keeps_text(self) -> None:
        for text in PROBES:
            text = unicodedata.normalize("NFC", text)  # Qwen's tokenizer does the same
            if self.encode([text]) == [None]:
                ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
                spelled = b"".join(self._bytes.get(id) or b"?" for id in ids).decode(errors="replace")
                raise LimbeckError(
                    f"{self.name.capitalize()[:1]}{self.name[1:]} does not keep texts: of {text[:40]!r} it keeps "
                    f"{spelled[:40]!r}, so the tokens of two models cannot be placed on the same bytes. It needs "
                    "byte-level tokens (GPT-2, Llama 3, Qwen) or SentencePiece with bytes (Llama 2, Gemma); not one "
                    "that writes in lower case or drops spaces (BERT, T5)."
                )


@final
class TokenAligner:
    """Aligns the tokens of a student's texts with those that a teacher reads.

    The text is restored from the student's tokens, byte by byte, and tokenized for the teacher. Special tokens are not
    text: an equal string, and the end token of both, are a group of their own. Others are left out, so the teacher does
    not read them. In front of a text the teacher reads the special tokens that its own tokenizer puts there.

    Bytes that are no character, as at the border of a window, are left out with the tokens that they belong to. Results
    are kept for texts that come again, up to 256 MB.

    Args:
        student: The student's tokenizer.
        teacher: The teacher's tokenizer.

    Raises:
        LimbeckError: If one of them does not keep texts; see `TokenSpelling`.

    Example:
        >>> from limbeck.data import train_byte_level_tokenizer
        >>> one = train_byte_level_tokenizer(["the cat"], vocabulary=258)
        >>> other = train_byte_level_tokenizer(["the cat the cat"], vocabulary=262)
        >>> (text,) = TokenAligner(one, other).align([one("the cat")["input_ids"]])
        >>> [other.decode([id]) for id in text.teacher_ids], text.groups.count.tolist()
        (['the', ' cat'], [3, 3])
    """

    def __init__(self, student: Any, teacher: Any) -> None:
        self.student, self.teacher = TokenSpelling(student, who="student"), TokenSpelling(teacher, who="teacher")
        self.special = _match_special(self.student, self.teacher)
        """The teacher's id of each special token of the student that it has as well."""
        self._known: OrderedDict[bytes, AlignedText] = OrderedDict()
        self._size = 0

    @property
    def fingerprint(self) -> str:
        """The hash of both tokenizers."""
        both = (hash_tokenizer(one.tokenizer) for one in (self.student, self.teacher))
        return hashlib.sha256(" ".join(both).encode()).hexdigest()

    def align(self, texts: Iterable[Sequence[int] | Offsets]) -> list[AlignedText]:
        """Align texts, or windows of texts, given as the student's ids."""
        rows = [np.asarray(ids, np.int32) for ids in texts]
        keys = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
        missing = {key: row for key, row in zip(keys, rows, strict=True) if key not in self._known}
        new = dict(zip(missing, self._align_new([row.tolist() for row in missing.values()]), strict=True))
        found = [new[key] if key in new else self._known[key] for key in keys]
        for key in keys:
            if key in self._known:
                self._known.move_to_end(key)
        for key, text in new.items():
            self._remember(key, text)
        return found

    def _remember(self, key: bytes, text: AlignedText) -> None:
        self._known[key] = text
        self._size += _count_bytes(text)
        while self._size > _ALIGNED_BYTES and len(self._known) > 1:
            _, oldest = self._known.popitem(last=False)
            self._size -= _count_bytes(oldest)

    def _align_new(self, texts: Sequence[list[int]]) -> list[AlignedText]:
        parts = [_split(ids, self.student) for ids in texts]
        runs = [part.text for split in parts for part in split if isinstance(part, _Run)]
        encoded = iter(self.teacher.encode(runs))
        return [self._join(split, [next(encoded) for part in split if isinstance(part, _Run)]) for split in parts]

    def _join(self, parts: Sequence[_Run | _Special], encoded: Sequence[tuple[Offsets, Offsets] | None]) -> AlignedText:
        """The teacher's tokens of a text from those of its parts, and all groups."""
        ids: list[int] = [*self.teacher.leading]
        groups: list[TokenGroups] = []
        own, changed = iter(encoded), False
        for part in parts:
            if isinstance(part, _Special):
                target = None if part.place == 0 and ids else self.special.get(part.id)
                if target is not None:
                    one = np.ones(1, np.int64)
                    groups.append(TokenGroups(one * part.place, one, one * len(ids), one))
                    ids.append(target)
                continue
            if (found := next(own)) is None:
                changed = True
                break
            groups.append(_group_run(part, found[1], len(ids)))
            ids.extend(found[0].tolist())
        columns = zip(*groups, strict=True) if groups else [()] * 4
        joined = (np.concatenate([np.empty(0, np.int64), *column]).astype(np.int32) for column in columns)
        return AlignedText(np.asarray(ids, np.int32), TokenGroups(*joined), changed)


class _Run(NamedTuple):
    """Tokens that spell a text: the place of the first, the boundaries in the text's bytes, and the text."""

    place: int
    bounds: Offsets
    text: str


class _Special(NamedTuple):
    place: int
    id: int


def _split(ids: list[int], spelling: TokenSpelling) -> list[_Run | _Special]:
    """The special tokens of a text, and the runs of tokens between them; it ends at a byte that is no character."""
    parts: list[_Run | _Special] = []
    place = 0
    while place < len(ids):
        spelled: list[bytes] = []
        while place + len(spelled) < len(ids) and (own := spelling.spell(ids[place + len(spelled)])) is not None:
            spelled.append(own)
        if not spelled:
            parts.append(_Special(place, ids[place]))
            place += 1
            continue
        run, whole = _read_run(spelled, place, _is_space_added(parts, spelling), at_start=place == 0)
        parts.append(run)
        if not whole:
            break
        place += len(spelled)
    return parts


def _is_space_added(before: Sequence[_Run | _Special], spelling: TokenSpelling) -> bool:
    """Whether the first space of a run is the tokenizer's own."""
    if any(isinstance(part, _Run) for part in before):
        return spelling.space_after_special
    # A later window of a text begins without the special tokens in front, and its first space is the text's.
    return spelling.starts_with_space and (bool(before) or not spelling.leading)


def _read_run(spelled: Sequence[bytes], place: int, is_added: bool, *, at_start: bool) -> tuple[_Run, bool]:
    """The text of a run, and whether all of it is text."""
    data = b"".join(spelled)
    bounds = np.cumsum([0, *map(len, spelled)])
    if is_added and data.startswith(b" "):
        data, bounds = data[1:], np.maximum(bounds - 1, 0)
    cut = 0
    while at_start and cut < min(3, len(data)) and data[cut] & 0xC0 == 0x80:  # the rest of a character
        cut += 1
    try:
        return _Run(place, bounds - cut, data[cut:].decode()), True
    except UnicodeDecodeError as error:
        return _Run(place, bounds - cut, data[cut : cut + error.start].decode()), False


def _group_run(run: _Run, bounds: Offsets, before: int) -> TokenGroups:
    """The groups of a run, which begins at token `before` of the teacher's."""
    columns: list[Offsets] = []
    for groups, first in zip(group_tokens(run.bounds, bounds), (run.place, before), strict=True):
        inside = groups >= 0
        starts, counts = np.unique(groups[inside], return_index=True, return_counts=True)[1:]
        columns += [np.flatnonzero(inside)[starts] + first, counts]
    return TokenGroups(*columns)


def _count_bytes(text: AlignedText) -> int:
    return int(text.teacher_ids.nbytes) + sum(int(column.nbytes) for column in text.groups) + 800


def _match_special(student: TokenSpelling, teacher: TokenSpelling) -> dict[int, int]:
    theirs = {text: id for id, text in teacher.special.items()}
    theirs |= {str(token): id for id, token in teacher.tokenizer.added_tokens_decoder.items()}
    matched = {id: theirs[text] for id, text in student.special.items() if text in theirs}
    ends = student.tokenizer.eos_token_id, teacher.tokenizer.eos_token_id
    if None not in ends:
        matched.setdefault(*ends)
    return matched


def _find_special(tokenizer: Any) -> dict[int, str]:
    special = {int(id): str(token) for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    return special | {int(id): str(token) for id, token in named}


def _spell_vocabulary(tokenizer: Any, special: dict[int, str]) -> dict[int, bytes]:
    """The bytes of each token that is not special."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    is_byte_level = '"type": "ByteLevel"' in json.dumps(rules.get("decoder"))
    characters = _byte_characters()
    added = tokenizer.added_tokens_decoder
    spelled = {}
    for token, id in tokenizer.get_vocab().items():
        if id in special:
            continue
        if id in added:
            spelled[id] = token.encode()
        elif is_byte_level and all(character in characters for character in token):
            spelled[id] = bytes(characters[character] for character in token)
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            spelled[id] = bytes([int(token[3:5], 16)])
        else:
            spelled[id] = token.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()
    return spelled


def _byte_characters() -> dict[str, int]:
    """The byte of each character in byte-level tokens, as in GPT-2: printable ones are themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _place(tokenizer: Any) -> str:
    place = str(tokenizer.name_or_path or "")
    return f" of {place}" if place else ""
