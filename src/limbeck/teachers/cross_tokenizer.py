"""`CrossTokenizerTeacher`: a teacher with another tokenizer, which reads the student's texts in its own tokens."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from limbeck.batch import LOGITS, Batch, Outputs
from limbeck.errors import ArgumentError, LimbeckError, MissingOutputError
from limbeck.group_likelihoods import (
    CrossTokenizerLogits,
    GroupLikelihoods,
    compute_log_boundary,
    compute_log_likelihood,
    expand_ranges,
)
from limbeck.models.hf_folder import find_hf_config
from limbeck.models.size_and_hash import unwrap_compiled
from limbeck.models.token_alignment import TokenAligner
from limbeck.models.vocabulary import count_outputs, hash_tokenizer, read_context_length
from limbeck.models.word_boundaries import find_boundary_tokens
from limbeck.teachers.batch_alignment import BatchAlignment, align_batch, read_ids, read_labels
from limbeck.teachers.cached_teacher import CachedTeacher
from limbeck.teachers.model import ModelTeacher
from limbeck.teachers.teacher import (
    Teacher,
    TeacherCapabilities,
    TeacherContext,
    TeacherSession,
    TokenExamples,
)
from limbeck.teachers.wrapper import TeacherWrapper, walk_teachers
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
    ``encoding="likelihoods"``, 14 bytes a token, for `alm` alone.

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
        tensor([[ 0.0000,  0.0000, -5.5683,  0.0000,  0.0000, -5.5683]])
    """

    stored_as: ClassVar[str | None] = "likelihoods"

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
        self._boundaries = tuple(find_boundary_tokens(one) for one in (self.aligner.student, self.aligner.teacher))
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
        alignment = align_batch(batch, self.aligner)
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
        device = read_ids(batch).device
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


@final
class _CrossTokenizerSession(TeacherSession):
    def __init__(self, session: TeacherSession, teacher: CrossTokenizerTeacher) -> None:
        self._session, self._teacher = session, teacher
        self._student_boundaries, self._boundaries = teacher._boundaries

    def __enter__(self) -> _CrossTokenizerSession:
        self._session.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._session.__exit__(*raised)

    def __call__(self, batch: Batch) -> Outputs:
        labels = read_labels(batch)
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

        boundary = torch.full_like(likelihood, torch.inf)
        after = alignment.is_continued.to(device)
        boundary[after] = compute_log_boundary(rows, (place + teacher_count)[after], self._boundaries).to(
            boundary.dtype
        )
        likelihoods = GroupLikelihoods(
            labels.clamp_min(0), spread(count, 0), spread(likelihood, 0.0), spread(boundary, torch.inf),
            classes=logits.shape[-1], boundary_tokens=self._student_boundaries,
        )  # fmt: skip
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
    if any(isinstance(one, CachedTeacher) for one in walk_teachers(teacher)):
        raise LimbeckError(
            "The teacher reads texts in its own tokens, which no loader has, so its outputs cannot be cached within. "
            "Put the cache around: CachedTeacher(CrossTokenizerTeacher(...), FOLDER, encoding='likelihoods')."
        )
    model = unwrap_compiled(teacher.model) if isinstance(teacher, ModelTeacher) else None
    config = None if model is None else find_hf_config(model)
    if config is not None and config.is_encoder_decoder:
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
