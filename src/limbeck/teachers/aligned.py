"""`AlignedTeacher`: a teacher whose outputs are those of the student's vocabulary; `TranslatedTeacher`: its ids."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.batch import IGNORED, LOGITS, Batch, Outputs
from limbeck.errors import LimbeckError, callable_name
from limbeck.functional import HiddenLogits, OutputLayer
from limbeck.functional.output_layer import AroundHidden, multiply_out
from limbeck.models.vocabulary import VocabularyAlignment
from limbeck.teachers.cached_teacher import CachedTeacher
from limbeck.teachers.teacher import Teacher, TeacherCapabilities, TeacherContext, TeacherSession
from limbeck.teachers.wrapper import TeacherWrapper, WrapperSession, walk_teachers
from limbeck.top_k_logits import PartialLogits, SampledLogits, TopKLogits

_MASKS = {"input_ids": "attention_mask", "decoder_input_ids": "decoder_attention_mask", "labels": ""}
"""The inputs that are tokens, each with its mask. An encoder-decoder makes its decoder's inputs of labels."""


@final
class AlignedTeacher(TeacherWrapper):
    """A teacher with another vocabulary than the student, whose outputs are put into the student's order.

    Tokens that only one of the two knows, and outputs without a token, have the probability 0 on *both* sides: their
    logits are left out before the softmax, in the teacher's outputs and, within a divergence, in the student's. Losses
    on labels read all outputs of the student. Nothing is padded.

    The teacher reads the student's tokens under its own ids (`TranslatedTeacher`). It may be a `CachedTeacher`: the
    cache has the teacher's own outputs, so that it serves students with several vocabularies. Of top-k outputs, tokens
    that the student does not know are left out, and those among the other classes stay in the rest. The value of a
    sampled divergence contains the entropy of such tokens, which has no gradient.

    Args:
        teacher: Anything that `as_teacher` accepts.
        alignment: The shared tokens, from `limbeck.models.align_vocabularies`.

    Raises:
        LimbeckError: If a cache is filled with the outputs for other ids than the teacher's.
        LimbeckError: When it is called, if the teacher's outputs are not as many as the alignment says, or a text has a
            token that the teacher does not know.

    Example:
        >>> from limbeck.models import VocabularyAlignment
        >>> alignment = VocabularyAlignment(torch.tensor([0, 2]), torch.tensor([1, 0]), 3, 2, {1: "[PAD]"})
        >>> with AlignedTeacher(torch.nn.Embedding.from_pretrained(torch.eye(2)), alignment).open(
        ...     TeacherContext()
        ... ) as session:
        ...     session(Batch(torch.tensor([[0, 2]])))["logits"]
        tensor([[[1., -inf, 0.],
                 [0., -inf, 1.]]])
    """

    caches_within: ClassVar[bool] = True

    def __init__(self, teacher: Any, alignment: VocabularyAlignment) -> None:
        super().__init__(teacher)
        self.alignment = alignment
        (own,) = self.teachers
        if _is_translated(own):
            return
        if not self.reads_own_ids and any(isinstance(one, CachedTeacher) for one in walk_teachers(own)):
            raise LimbeckError(
                "The cache would have the teacher's outputs for the student's ids, which are other tokens to it. Let "
                "the cached teacher read its own: AlignedTeacher(CachedTeacher(TranslatedTeacher(teacher, alignment), "
                "FOLDER), alignment)."
            )
        self.teachers = (self.translate(own),)

    @property
    def inner(self) -> Teacher:
        """The teacher that is aligned, without the translation of its inputs."""
        (own,) = self.teachers
        return own.teachers[0] if isinstance(own, TranslatedTeacher) else own

    @property
    def reads_own_ids(self) -> bool:
        """Whether it reads the student's tokens as they are: it knows all of them under the same ids."""
        return self.alignment.same_ids and not self.alignment.names

    def translate(self, teacher: Teacher) -> Teacher:
        """The teacher with inputs under its own ids, as its cache must be filled; itself if they are the student's."""
        return teacher if self.reads_own_ids else TranslatedTeacher(teacher, self.alignment)

    @property
    def capabilities(self) -> TeacherCapabilities:
        """The teacher's; partial if some outputs of the student have no counterpart."""
        own = super().capabilities
        partial = own.partial or not self.alignment.covers_student
        return own._replace(partial=partial, scores_labels=self.teachers[0].capabilities.scores_labels)

    def open(self, context: TeacherContext) -> TeacherSession:
        """Open the teacher."""
        return _AlignedSession(self.open_all(context), self.alignment)

    @property
    def fingerprint(self) -> str:
        """The hash of the teacher's fingerprint and of the alignment."""
        text = f"aligned {self.teachers[0].fingerprint} {self.alignment.fingerprint}"
        return hashlib.sha256(text.encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """The teacher, and how many tokens are shared."""
        vocabulary = self.alignment.describe()
        return {"teacher": "AlignedTeacher", "of": self.inner.describe(), "vocabulary": vocabulary}


@final
class TranslatedTeacher(TeacherWrapper):
    """A teacher that reads the student's tokens under its own ids; its outputs are its own.

    It is what a cache of a teacher with other ids stores; `AlignedTeacher` makes it where there is no cache.

    Args:
        teacher: Anything that `as_teacher` accepts.
        alignment: The shared tokens, from `limbeck.models.align_vocabularies`.

    Raises:
        LimbeckError: When it is called, if a text has a token that the teacher does not know.
    """

    def __init__(self, teacher: Any, alignment: VocabularyAlignment) -> None:
        super().__init__(teacher)
        self.alignment = alignment

    @property
    def capabilities(self) -> TeacherCapabilities:
        """The teacher's."""
        return super().capabilities._replace(scores_labels=self.teachers[0].capabilities.scores_labels)

    @property
    def encoding(self) -> Mapping[str, Any]:
        """The teacher's."""
        return self.teachers[0].encoding

    def open(self, context: TeacherContext) -> TeacherSession:
        """Open the teacher."""
        return _TranslatedSession(self.open_all(context), self.alignment)

    @property
    def fingerprint(self) -> str:
        """The hash of the teacher's fingerprint and of the ids."""
        text = f"translated {self.teachers[0].fingerprint} {self.alignment.fingerprint}"
        return hashlib.sha256(text.encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """The teacher."""
        return {"teacher": "TranslatedTeacher", "of": self.teachers[0].describe()}


def _is_translated(teacher: Teacher) -> bool:
    """Whether all models within a teacher read their own ids, as far as it is known: a cache may have no teacher."""
    if isinstance(teacher, TranslatedTeacher):
        return True
    return isinstance(teacher, TeacherWrapper) and all(_is_translated(one) for one in teacher.teachers)


@final
class AlignedLogits(PartialLogits, AroundHidden):
    """A teacher's logits of the tokens that it shares with the student.

    Args:
        logits: The logits of the shared tokens in the order of `columns`: a tensor, `HiddenLogits`, or partial logits
            whose classes are numbered so; these may have one class more, for all that the student does not know.
        columns: The student's output for each shared token; a slice if they are the first ones.
        classes: The number of outputs of the student.
    """

    def __init__(self, logits: Tensor | HiddenLogits | PartialLogits, columns: Tensor | slice, *, classes: int) -> None:
        self.logits, self.columns, self.classes = logits, columns, classes

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors of the shared tokens' logits; the first may have a dimension of its own."""
        if isinstance(self.logits, PartialLogits):
            return self.logits.tensors
        return (self.logits if isinstance(self.logits, Tensor) else self.logits.hidden,)

    @property
    def shape(self) -> torch.Size:
        """Shape of the student's logits."""
        return torch.Size([*self.logits.shape[:-1], self.classes])

    @property
    def hidden_logits(self) -> HiddenLogits | None:
        """The logits of the shared tokens, if they are not multiplied out."""
        return self.logits if isinstance(self.logits, HiddenLogits) else None

    def with_logits(self, logits: Float[Tensor, "*leading shared"]) -> AlignedLogits:
        """The same around logits of the shared tokens that are multiplied out."""
        return AlignedLogits(logits, self.columns, classes=self.classes)

    def to(self, device: torch.device | str) -> AlignedLogits:
        """Copy to a device."""
        moved = self._like(*(tensor.to(device, non_blocking=True) for tensor in self.tensors))
        if isinstance(moved.logits, HiddenLogits):
            layer = moved.logits.layer
            bias = None if layer.bias is None else layer.bias.to(device)
            moved.logits = HiddenLogits(moved.logits.hidden, layer._replace(weight=layer.weight.to(device), bias=bias))
        if isinstance(self.columns, Tensor):
            moved.columns = self.columns.to(device)
        return moved

    def reshape(self, *leading: int) -> AlignedLogits:
        """Change the leading dimensions, like ``Tensor.reshape``."""
        logits = self.logits
        own = (logits.shape[-1],) if isinstance(logits, Tensor) else ()
        return AlignedLogits(logits.reshape(*leading, *own), self.columns, classes=self.classes)

    def compare(
        self, kernel: Callable[..., Tensor], student: Float[Tensor, "*leading classes"], **hyper: Any
    ) -> Tensor:
        """Compute the kernel's values over the shared tokens: all others are -inf on both sides, that is, left out."""
        self._check(student, kernel, hyper)
        shared = select_columns(student, self.columns)
        if isinstance(self.logits, PartialLogits):
            if self.logits.classes > shared.shape[-1]:
                shared = torch.nn.functional.pad(shared, (0, 1), value=-torch.inf)
            return self.logits.compare(kernel, shared, **hyper)
        return kernel(student=shared, teacher=multiply_out(self.logits), **hyper)

    def describe_bound(self, kernel: Callable[..., Tensor]) -> str | None:
        """What the logits of the shared tokens say."""
        return self.logits.describe_bound(kernel) if isinstance(self.logits, PartialLogits) else None

    def to_dense(self) -> Tensor | None:
        """The logits of all outputs of the student, -inf where the teacher has none; None if some are not known."""
        if isinstance(self.logits, PartialLogits):
            return None
        logits = multiply_out(self.logits)
        dense = logits.new_full((*logits.shape[:-1], self.classes), -torch.inf)
        dense[..., self.columns] = logits
        return dense

    @classmethod
    def invalid_reason(cls, kernel: Callable[..., Tensor], **hyper: Any) -> str | None:
        """Return why not: the kernel must compare two rows of logits, and read nothing else of the batch."""
        other = {"labels", "targets", "mask", "id"} & set(inspect.signature(kernel).parameters)
        if not other:
            return None
        return (
            f"{callable_name(kernel)} reads {', '.join(sorted(other))} beside the logits of a teacher with another "
            "vocabulary, and only the shared tokens can be compared. Use a divergence, such as kl_divergence, and a "
            "loss on labels beside it."
        )

    def _like(self, *tensors: Tensor) -> AlignedLogits:
        logits: Any = self.logits
        if isinstance(logits, PartialLogits):
            logits = logits._like(*tensors)
        else:
            logits = tensors[0] if isinstance(logits, Tensor) else HiddenLogits(tensors[0], logits.layer)
        return AlignedLogits(logits, self.columns, classes=self.classes)


def select_columns(logits: Float[Tensor, "*leading classes"], columns: Tensor | slice) -> Tensor:
    """The logits of some classes; the first ones are a view."""
    return logits[..., columns] if isinstance(columns, slice) else logits.index_select(-1, columns.to(logits.device))


@final
class _TranslatedSession(WrapperSession):
    def __init__(self, sessions: Sequence[TeacherSession], alignment: VocabularyAlignment) -> None:
        super().__init__(sessions)
        self._names, self._table = alignment.names, alignment.from_student

    def query(self, batch: Batch) -> Batch:
        inputs, batch = batch.inputs, self._with_own_labels(batch)
        if isinstance(inputs, Tensor):
            return batch._replace(inputs=self._translate(inputs, _text_mask(inputs, batch, None)))
        if not isinstance(inputs, Mapping):
            return batch
        ids = {
            name: self._translate(inputs[name], _text_mask(inputs[name], batch, inputs.get(mask)))
            for name, mask in _MASKS.items()
            if isinstance(inputs.get(name), Tensor)
        }
        return batch._replace(inputs={**inputs, **ids})

    def combine(self, batch: Batch, outputs: Sequence[Outputs]) -> Outputs:
        return outputs[0]

    def _with_own_labels(self, batch: Batch) -> Batch:
        """The batch with labels under the teacher's ids; those that it does not know are none."""
        labels = batch.labels
        if labels is None or labels.is_floating_point() or labels.ndim < 2:
            return batch
        table = self._table = self._table.to(labels.device)
        known = table[labels.clamp(0, len(table) - 1)].masked_fill(labels >= len(table), -1)
        return batch._replace(labels=known.masked_fill((labels < 0) | (known < 0), IGNORED))

    def _translate(self, ids: Tensor, is_text: Tensor) -> Tensor:
        """The teacher's ids of the student's tokens; padding that the teacher does not know becomes any token."""
        if ids.is_floating_point():
            return ids
        table = self._table = self._table.to(ids.device)
        known = table[ids.clamp(0, len(table) - 1)].masked_fill(ids >= len(table), -1)
        unknown = (known < 0) & is_text & (ids >= 0)
        if bool(unknown.any()):
            id = int(ids[unknown][0])
            raise LimbeckError(
                f"The texts have the token {self._names.get(id, id)!r}, which the teacher does not know. Tokenize them "
                "with tokens that both know, for example with the teacher's eos_token and chat_template."
            )
        return torch.where(ids < 0, ids, known.clamp_min(0).to(ids.dtype))  # below 0 are places without a label


@final
class _AlignedSession(WrapperSession):
    def __init__(self, sessions: Sequence[TeacherSession], alignment: VocabularyAlignment) -> None:
        super().__init__(sessions)
        self._alignment = alignment
        self._student, self._teacher = (_columns(ids) for ids in (alignment.student_ids, alignment.teacher_ids))
        self._numbers = alignment.from_teacher
        self._rows: OutputLayer | None = None
        self._version = (0, 0)

    def combine(self, batch: Batch, outputs: Sequence[Outputs]) -> Outputs:
        (own,) = outputs
        answers: dict[str, Any] = {**own.hidden, **own, **own.partial}
        if LOGITS in answers:
            answers[LOGITS] = self._align(answers[LOGITS])
        return Outputs.of(answers)

    def _align(self, logits: Any) -> Tensor | HiddenLogits | PartialLogits:
        classes = self._alignment.teacher_size
        if logits.shape[-1] != classes:
            raise LimbeckError(
                f"The teacher has {logits.shape[-1]:,} outputs, and its vocabulary was aligned for {classes:,}. Give "
                f"align_vocabularies teacher_size={logits.shape[-1]}."
            )
        self._move(logits.device)
        shared: Tensor | HiddenLogits | PartialLogits
        plain = self._alignment.covers_teacher
        if isinstance(logits, PartialLogits):
            shared = self._renumber(logits)
        elif isinstance(logits, HiddenLogits):
            shared, plain = HiddenLogits(logits.hidden, self._select_rows(logits.layer)), True
        else:
            shared, plain = select_columns(logits, self._teacher), True
        if plain and self._alignment.covers_student:
            return shared
        return AlignedLogits(shared, self._student, classes=self._alignment.student_size)

    def _move(self, device: torch.device) -> None:
        """Keep the ids on the device of the outputs, so that they are copied once."""
        self._numbers = self._numbers.to(device)
        if isinstance(self._student, Tensor):
            self._student = self._student.to(device)
        if isinstance(self._teacher, Tensor):
            self._teacher = self._teacher.to(device)

    def _select_rows(self, layer: OutputLayer) -> OutputLayer:
        """The output layer of the shared tokens, copied only if its weight has changed."""
        weight, bias = layer.weight, layer.bias
        if isinstance(self._teacher, slice):  # views
            return layer._replace(weight=weight[self._teacher], bias=None if bias is None else bias[self._teacher])
        version = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        if self._rows is None or self._version != version:
            own = self._teacher
            self._rows = layer._replace(weight=weight[own], bias=None if bias is None else bias[own])
            self._version = version
        return self._rows

    def _renumber(self, logits: PartialLogits) -> PartialLogits:
        """The same logits with the numbers of the shared tokens; the others are one more class without weight."""
        alignment = self._alignment
        classes = alignment.shared + (not alignment.covers_teacher)
        if not isinstance(logits, (TopKLogits, SampledLogits)):
            raise LimbeckError(f"{type(logits).__name__} have no ids that can be aligned with another vocabulary.")
        ids = self._numbers[logits.ids.long()]
        depths = logits.depths.masked_fill(ids == alignment.shared, -torch.inf)
        renumbered = copy.copy(logits)
        renumbered.ids, renumbered.depths, renumbered.classes = ids, depths, classes
        return renumbered


def _columns(ids: Tensor) -> Tensor | slice:
    """A slice for the first classes in order, which costs no copy; else the ids."""
    return slice(0, len(ids)) if torch.equal(ids, torch.arange(len(ids))) else ids


def _text_mask(ids: Tensor, batch: Batch, mask: Any) -> Tensor:
    """Which ids are a text's, not padding: those of `mask`, or of the data's mask of texts."""
    masks = batch.extra.get("masks")
    own = masks.get("text") if isinstance(masks, Mapping) else None
    mask = own if isinstance(own, Tensor) and own.shape == ids.shape else mask
    if not isinstance(mask, Tensor) or mask.shape != ids.shape:
        return torch.ones_like(ids, dtype=torch.bool)
    return mask.bool().to(ids.device)
