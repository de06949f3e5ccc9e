"""`CrossTokenizerTeacher`: a teacher with another tokenizer, which reads the student's texts in its own tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from limbeck.batch import IGNORED, LOGITS, Batch, Outputs
from limbeck.errors import ArgumentError, LimbeckError, MissingOutputError
from limbeck.group_likelihoods import (
    CrossTokenizerLogits,
    GroupLikelihoods,
    compute_log_likelihood,
    expand_ranges,
)
from limbeck.models.token_alignment import AlignedText, TokenAligner
from limbeck.models.vocabulary import count_outputs, hash_tokenizer, read_context_length
from limbeck.teachers.cached_teacher import CachedTeacher
from limbeck.teachers.model import ModelTeacher
from limbeck.teachers.teacher import (
    Teacher,
    TeacherCapabilities,
    TeacherContext,
    TeacherSession,
    TokenExamples,
)
from limbeck.teachers.wrapper import TeacherWrapper
from limbeck.top_k_logits import PartialLogits


@final
class CrossTokenizerTeacher(TeacherWrapper):
    """A teacher with another tokenizer than the student's, for the methods `uld` and `alm`.

    The text of each row is restored from the student's tokens, byte by byte, and tokenized for the teacher
    (`limbeck.models.TokenAligner`). Tokens that spell the same bytes are a group; no id is compared with another. At
    the position that predicts the first token of a group, the student gets the teacher's distribution of its own next
    token, and the teacher's likelihood of the group's bytes, by the chain rule. All other losses are refused.

    A group counts if both models predict all of its tokens and the student learns them all: not the first token of a
    text without a begin token on that side, not one at the border of a prompt or a window. Every window of a row,
    packed or not, padded on either side, is a text of its own to the teacher.

    The outputs are deterministic if the teacher's are. `CachedTeacher` stores the likelihoods, with
    ``encoding="likelihoods"``, 10 bytes a token, for `alm` alone.

    Args:
        teacher: Anything that `as_teacher` accepts: a causal language model that gives the logits of all its tokens.
        student_tokenizer: The tokenizer of the student and the data.
        teacher_tokenizer: The teacher's own.
        max_length: The most tokens that the teacher reads; by default what its configuration says.

    Raises:
        LimbeckError: If a tokenizer loses a part of a text or is not a fast one; if the teacher is an encoder-decoder,
            has the logits of some tokens only, or a cache within; when it is opened, if the data have another tokenizer
            than the student's, or something else than logits is read; when it is called, if a window is too long for
            the teacher, or the labels are not the next tokens.

    Example:
        >>> from limbeck.data import TokenDataset, train_byte_level_tokenizer
        >>> one = train_byte_level_tokenizer(["the cat"], vocabulary=258)
        >>> other = train_byte_level_tokenizer(["the cat the cat"], vocabulary=262)
        >>> class Uniform(torch.nn.Module):
        ...     def forward(self, input_ids, **_):
        ...         return torch.zeros(*input_ids.shape, 262)
        >>> teacher = CrossTokenizerTeacher(Uniform(), one, other)
        >>> batch = TokenDataset(["the cat"], tokenizer=one).take(torch.tensor([0]))
        >>> [one.decode(group) for group, _ in teacher.align(batch).list_groups(batch)]
        [' cat', '<|endoftext|>']
        >>> with teacher.open(TeacherContext()) as session:
        ...     session(batch).partial["logits"].likelihoods.log_likelihood  # log 1/262 at the group's first position
        tensor([[ 0.0000, -5.5683,  0.0000,  0.0000,  0.0000, -5.5683]])
    """

    def __init__(
        self, teacher: Any, student_tokenizer: Any, teacher_tokenizer: Any, *, max_length: int | None = None
    ) -> None:
        super().__init__(teacher)
        _check_teacher(self.inner)
        is_count = isinstance(max_length, int) and not isinstance(max_length, bool) and max_length >= 1
        if max_length is not None and not is_count:
            raise ArgumentError(
                f"max_length is a number of tokens, at least 1; got {max_length!r}.", argument="max_length"
            )
        self.aligner = TokenAligner(student_tokenizer, teacher_tokenizer)
        _check_outputs(self.inner, teacher_tokenizer)
        own = read_context_length(self.inner.model) if isinstance(self.inner, ModelTeacher) else None
        self.max_length = max_length if max_length is not None else own

    @property
    def inner(self) -> Teacher:
        """The teacher itself."""
        return self.teachers[0]

    @property
    def capabilities(self) -> TeacherCapabilities:
        """The teacher's; partial, since its classes are not the student's."""
        return super().capabilities._replace(partial=True, gradients=False)

    def open(self, context: TeacherContext) -> TeacherSession:
        """Open the teacher."""
        if strange := sorted(context.requires - {LOGITS}):
            raise MissingOutputError(
                f"A loss reads {strange[0]!r} of a teacher with another tokenizer, whose positions are not the "
                "student's: only its logits can be compared, with the methods uld and alm."
            )
        examples = None if context.loader is None else context.loader.examples
        if isinstance(examples, TokenExamples) and examples.tokenizer is not None:
            own = hash_tokenizer(self.aligner.student.tokenizer)
            if examples.tokenizer_fingerprint != own:
                raise LimbeckError(
                    "The texts were tokenized by another tokenizer than student_tokenizer, so the same number is "
                    "another token: CrossTokenizerTeacher(teacher, data.tokenizer, teacher_tokenizer)."
                )
        (session,) = self.open_all(
            TeacherContext(
                device=context.device, preprocess=context.preprocess, models=context.models, hidden_logits=True
            )
        )
        return _CrossTokenizerSession(session, self)

    def align(self, batch: Batch) -> BatchAlignment:
        """Which tokens of a batch are aligned, and what the teacher reads.

        Raises:
            LimbeckError: As when it is called.
        """
        alignment = _align_batch(batch, self.aligner)
        length = alignment.teacher_ids.shape[1]
        if self.max_length is not None and length > self.max_length:
            raise LimbeckError(
                f"A window of the texts has {length:,} of the teacher's tokens, and it reads {self.max_length:,} at "
                "most. Use shorter windows, with data.max_length for a job or max_length= of TokenDataset; the "
                "teacher's tokens may be more than the student's."
            )
        return alignment

    def translate(self, batch: Batch, alignment: BatchAlignment) -> Batch:
        """The batch that the teacher reads, one row for each window."""
        device = _read_ids(batch).device
        ids, mask = alignment.teacher_ids.to(device), alignment.is_text.to(device)
        if isinstance(batch.inputs, Tensor):
            return Batch(ids, mask=mask)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask.long()}
        if "position_ids" in batch.inputs:
            inputs["position_ids"] = torch.arange(ids.shape[1], device=device).expand_as(ids)
        return Batch(inputs, mask=mask)

    @property
    def fingerprint(self) -> str:
        """The hash of the teacher's fingerprint and of both tokenizers."""
        text = f"cross-tokenizer {self.inner.fingerprint} {self.aligner.fingerprint}"
        return hashlib.sha256(text.encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """The teacher and the sizes of both vocabularies."""
        student, teacher = (len(one.tokenizer) for one in (self.aligner.student, self.aligner.teacher))
        return {
            "teacher": "CrossTokenizerTeacher",
            "of": self.inner.describe(),
            "tokenizers": {"student": student, "teacher": teacher, "fingerprint": self.aligner.fingerprint},
        }


def has_other_tokenizer(teacher: Any) -> bool:
    """Whether a teacher, or one within it, is a `CrossTokenizerTeacher`.

    Example:
        >>> has_other_tokenizer(torch.nn.Linear(2, 3))
        False
    """
    if isinstance(teacher, CrossTokenizerTeacher):
        return True
    return isinstance(teacher, TeacherWrapper) and any(map(has_other_tokenizer, teacher.teachers))


class BatchAlignment(NamedTuple):
    """The aligned tokens of a batch.

    Attributes:
        teacher_ids: What the teacher reads, one row for each window, padded on the right: all but the last token.
        next_ids: The teacher's next token at each position.
        is_text: Where the teacher reads no padding.
        position: The position of the student, among all of the batch, that predicts the first token of each group.
        count: The number of the student's tokens in each group.
        teacher_place: The position of the teacher, among all of its rows, that predicts the first token of the group.
        teacher_count: The number of the teacher's tokens.
        tokens: The number of the student's tokens with a label.
        changed: The number of windows whose text the teacher's tokenizer changes.
    """

    teacher_ids: Int[Tensor, "windows length"]
    next_ids: Int[Tensor, "windows length"]
    is_text: Bool[Tensor, "windows length"]
    position: Int[Tensor, " groups"]
    count: Int[Tensor, " groups"]  # type: ignore[assignment] # tuple.count is of no use here
    teacher_place: Int[Tensor, " groups"]
    teacher_count: Int[Tensor, " groups"]
    tokens: int
    changed: int

    @property
    def aligned_tokens(self) -> int:
        """The number of the student's tokens with a label that are in a group."""
        return int(self.count.sum())

    def list_groups(self, batch: Batch) -> list[tuple[list[int], list[int]]]:
        """The student's and the teacher's tokens of each group."""
        if batch.labels is None:
            return []
        labels, ids = batch.labels.cpu().flatten().tolist(), self.next_ids.flatten().tolist()
        ranges = zip(*(column.tolist() for column in self.columns), strict=True)
        return [(labels[a : a + m], ids[b : b + n]) for a, m, b, n in ranges]

    @property
    def columns(self) -> tuple[Tensor, ...]:
        """Position, count, teacher's place and teacher's count of each group."""
        return self.position, self.count, self.teacher_place, self.teacher_count


@final
class _CrossTokenizerSession(TeacherSession):
    def __init__(self, session: TeacherSession, teacher: CrossTokenizerTeacher) -> None:
        self._session, self._teacher = session, teacher

    def __enter__(self) -> _CrossTokenizerSession:
        self._session.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._session.__exit__(*raised)

    def __call__(self, batch: Batch) -> Outputs:
        labels = _read_labels(batch)
        alignment = self._teacher.align(batch)
        logits: Any = self._session(self._teacher.translate(batch, alignment)).raw(LOGITS)
        _check_logits(logits, alignment)
        rows = logits.reshape(-1, logits.shape[-1]) if isinstance(logits, Tensor) else logits.reshape(-1)
        device = labels.device
        position, count, place, teacher_count = (column.to(device) for column in alignment.columns)
        places, groups = expand_ranges(place, teacher_count)
        next_ids = alignment.next_ids.to(device).flatten()[places]
        likelihood = compute_log_likelihood(rows, places, next_ids, groups, len(position))

        def spread(values: Tensor, fill: float | int) -> Tensor:
            flat = torch.full((labels.numel(),), fill, dtype=values.dtype, device=device)
            return flat.scatter_(0, position, values).view(labels.shape)

        likelihoods = GroupLikelihoods(
            labels.clamp_min(0), spread(count, 0), spread(likelihood, 0.0), classes=logits.shape[-1]
        )
        index = spread(torch.arange(len(position), device=device), -1)
        return Outputs.of({LOGITS: CrossTokenizerLogits(likelihoods, rows[place], index)})


def _check_logits(logits: Any, alignment: BatchAlignment) -> None:
    if isinstance(logits, PartialLogits):
        raise LimbeckError(
            f"A teacher with another tokenizer needs the logits of all of its tokens, and this one gives a part "
            f"({type(logits).__name__})."
        )
    if tuple(logits.shape[:-1]) != tuple(alignment.teacher_ids.shape):
        raise LimbeckError(
            f"The teacher's logits have the shape {list(logits.shape)} for tokens {list(alignment.teacher_ids.shape)}; "
            "a causal language model gives one row for each token. Does its preprocess= read other inputs?"
        )
    most = max(int(ids.max()) for ids in (alignment.teacher_ids, alignment.next_ids)) if len(logits) else 0
    if most >= logits.shape[-1]:
        raise LimbeckError(
            f"The teacher's tokenizer has token {most}, and the teacher {logits.shape[-1]} outputs: it is not its own."
        )


def _check_teacher(teacher: Teacher) -> None:
    if teacher.capabilities.partial:
        raise LimbeckError(
            f"A CrossTokenizerTeacher needs the logits of all of the teacher's tokens, and a {type(teacher).__name__} "
            "gives a part of them: use the model itself."
        )
    if isinstance(teacher, CachedTeacher) or any(isinstance(one, CachedTeacher) for one in _within(teacher)):
        raise LimbeckError(
            "The teacher reads texts in its own tokens, which no loader has, so its outputs cannot be cached within. "
            "Put the cache around: CachedTeacher(CrossTokenizerTeacher(...), FOLDER, encoding='likelihoods')."
        )
    model: Any = teacher.model if isinstance(teacher, ModelTeacher) else None
    if model is not None and hasattr(model, "config") and bool(getattr(model.config, "is_encoder_decoder", False)):
        raise LimbeckError(
            f"{type(model).__name__} is an encoder-decoder; a teacher with another tokenizer is a causal language "
            "model, whose likelihood of a text is the product over its tokens."
        )


def _check_outputs(teacher: Teacher, tokenizer: Any) -> None:
    outputs = count_outputs(teacher.model) if isinstance(teacher, ModelTeacher) else None
    most = max(tokenizer.get_vocab().values())
    if outputs is not None and most >= outputs:
        raise LimbeckError(
            f"The teacher's tokenizer has tokens up to {most:,}, and the teacher {outputs:,} outputs: it is another "
            "model's tokenizer."
        )


def _within(teacher: Teacher) -> Sequence[Teacher]:
    return teacher.teachers if isinstance(teacher, TeacherWrapper) else ()


def _read_labels(batch: Batch) -> Int[Tensor, "batch positions"]:
    inputs = batch.inputs
    if isinstance(inputs, Mapping) and {"labels", "decoder_input_ids"} & set(inputs):
        raise LimbeckError(
            "These are batches of an encoder-decoder; a teacher with another tokenizer teaches causal language models."
        )
    if batch.labels is None or batch.labels.ndim != 2 or _read_ids(batch).shape != batch.labels.shape:
        raise LimbeckError(
            "A teacher with another tokenizer needs rows of tokens with their next tokens as labels, [batch, "
            "positions]: TokenDataset(texts, tokenizer=...)."
        )
    return batch.labels


def _read_ids(batch: Batch) -> Tensor:
    ids = batch.inputs.get("input_ids") if isinstance(batch.inputs, Mapping) else batch.inputs
    if not isinstance(ids, Tensor) or ids.is_floating_point():
        raise LimbeckError("A teacher with another tokenizer needs token ids as inputs (input_ids).")
    return ids


def _align_batch(batch: Batch, aligner: TokenAligner) -> BatchAlignment:
    labels = _read_labels(batch).cpu()
    if batch.mask is not None and batch.mask.shape == labels.shape:
        labels = labels.masked_fill(~batch.mask.cpu().bool(), IGNORED)
    windows = _find_windows(batch)
    ids, flat_labels = _read_ids(batch).cpu().flatten().numpy(), labels.flatten().numpy()
    texts = []
    for places in windows:
        own, nexts = ids[places], flat_labels[places]
        if bool((nexts[:-1] != IGNORED).any()) and bool(((nexts[:-1] != own[1:]) & (nexts[:-1] != IGNORED)).any()):
            raise LimbeckError(
                "The labels of a row are not its next tokens, so they are no text: shift them by one, once, as "
                "TokenDataset does."
            )
        texts.append(own if nexts[-1] == IGNORED else np.append(own, nexts[-1]))
    aligned = aligner.align(texts)
    width = max((len(text.teacher_ids) - 1 for text in aligned), default=0)
    width = max(width, 1)  # a text of one token predicts nothing, and the teacher needs an input
    groups = [
        _usable_groups(text, places, flat_labels[places] != IGNORED, row * width)
        for row, (text, places) in enumerate(zip(aligned, windows, strict=True))
    ]
    columns = np.concatenate([np.empty((4, 0), np.int64), *groups], 1)
    pad = aligner.teacher.tokenizer.pad_token_id or 0
    teacher_ids, is_text = _pad([text.teacher_ids[:width] for text in aligned], width, pad)
    next_ids, _ = _pad([text.teacher_ids[1:] for text in aligned], width, pad)
    position, count, place, teacher_count = torch.from_numpy(columns).unbind(0)
    return BatchAlignment(
        teacher_ids, next_ids, is_text, position, count, place, teacher_count,
        tokens=int((labels != IGNORED).sum()), changed=sum(text.changed for text in aligned),
    )  # fmt: skip


def _find_windows(batch: Batch) -> list[np.ndarray]:
    """The positions of each window, among all of the batch: a row has several if it is packed."""
    ids = _read_ids(batch)
    inputs = batch.inputs if isinstance(batch.inputs, Mapping) else {}
    masks = batch.extra.get("masks")
    text = masks.get("text") if isinstance(masks, Mapping) else inputs.get("attention_mask")
    real = torch.ones_like(ids, dtype=torch.bool) if text is None or text.shape != ids.shape else text.bool()
    starts = torch.zeros_like(real.cpu())
    starts[:, 0] = True
    positions, numbers = inputs.get("position_ids"), batch.extra.get("text_number")
    if isinstance(positions, Tensor) and positions.shape == ids.shape:
        starts |= positions.cpu() == 0
    if isinstance(numbers, Tensor) and numbers.shape == ids.shape:
        starts[:, 1:] |= (numbers[:, 1:] != numbers[:, :-1]).cpu()
    places = real.cpu().flatten().nonzero()[:, 0].numpy()
    begins = starts.flatten().numpy()[places] | (np.diff(places, prepend=-2) != 1)
    return [part for part in np.split(places, np.flatnonzero(begins)) if len(part)]


def _usable_groups(text: AlignedText, places: np.ndarray, learned: np.ndarray, before: int) -> np.ndarray:
    """The groups whose tokens are all predicted by both and learned, ``[4, groups]``: see `BatchAlignment`."""
    groups = text.groups
    missing = np.concatenate([[0], np.cumsum(~learned)])
    first = np.maximum(groups.first - 1, 0)
    last = np.minimum(first + groups.count, len(learned))
    usable = (groups.first > 0) & (groups.teacher_first > 0) & (missing[last] == missing[first])
    return np.stack(
        [places[first[usable]], groups.count[usable], groups.teacher_first[usable] - 1 + before,
         groups.teacher_count[usable]]
    ).astype(np.int64)  # fmt: skip


def _pad(rows: Sequence[np.ndarray], width: int, pad: int) -> tuple[Tensor, Tensor]:
    """The rows, padded on the right, and where they are; of an empty row, the first place."""
    ids = torch.full((len(rows), width), pad, dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.from_numpy(row.astype(np.int64))
    lengths = torch.tensor([max(len(row), 1) for row in rows], dtype=torch.int64)
    return ids, torch.arange(width) < lengths[:, None]
