"""`PrivilegedContextTeacher`: a teacher that reads a longer prompt than the student, such as one with the answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from limbeck.batch import IGNORED, Batch, Outputs
from limbeck.errors import ArgumentError, DataError, unknown_name_error
from limbeck.functional.output_layer import HiddenLogits
from limbeck.teachers.fingerprints import code_fingerprint
from limbeck.teachers.teacher import Teacher, TeacherContext, TeacherSession, TokenExamples, get_function_name
from limbeck.teachers.wrapper import TeacherWrapper, WrapperSession, take_places
from limbeck.top_k_logits import PartialLogits

Contexts = str | Sequence[Any] | Mapping[int, Any] | Callable[[Batch], Sequence[Any]]
"""What only the teacher reads, as tokens or text: a column, a sequence or mapping by id, or a function of the batch."""

_PLACES = ("before", "after", "instead")


@final
class PrivilegedContextTeacher(TeacherWrapper):
    """A teacher that reads tokens which the student does not see: the answer, a hint, a longer instruction.

    A row of its own is built for each text: the context, the prompt, and the completion, token by token as the student
    has it. The teacher runs on these rows. Its outputs at the completion are returned at the positions where the
    student has the completion, so any loss compares the two models at the same tokens. At the other positions, prompt
    and padding, there are outputs without a meaning; the mask leaves them out.

    The completion begins at the first label of a row: the token at this position is the last one of the prompt.

    Args:
        teacher: Anything that `as_teacher` accepts; for self-distillation the student's name, or a `MovingAverage`.
        context: The tokens for each text, or a string, which is read with the tokenizer of the loader's texts, without
            special
            tokens: the name of a column of ``Batch.extra``, a sequence or a mapping by id, or a
            function of the batch. There may be none for a text.
        place: ``before`` the prompt, ``after`` it, or ``instead`` of it.
        by: The ids of a sequence or mapping: ``id``, those of the examples, or ``text_number``, the numbers of the
            texts in a file (`TokenDataset`).

    Raises:
        UnknownNameError: If `place` or `by` is not one of these.

    Example:
        >>> from torch import nn
        >>> teacher = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
        >>> ids, labels = torch.tensor([[1, 2, 3]]), torch.tensor([[-100, 3, 4]])
        >>> batch = Batch({"input_ids": ids}, id=torch.tensor([0]), labels=labels, mask=labels >= 0)
        >>> with PrivilegedContextTeacher(teacher, [[4, 4]]).open(TeacherContext()) as session:
        ...     session.query(batch).inputs["input_ids"], session(batch)["logits"].shape
        (tensor([[4, 4, 1, 2, 3]]), torch.Size([1, 3, 5]))

    Source: Shenfeld, Damani, Hübotter and Agrawal, Self-Distillation Enables Continual Learning, 2026,
    arXiv:2601.19897.
    """

    def __init__(self, teacher: Any, context: Contexts, *, place: str = "before", by: str = "id") -> None:
        super().__init__(teacher)
        if place not in _PLACES:
            raise unknown_name_error("place of a context", place, _PLACES, argument="place")
        if by not in ("id", "text_number"):
            raise unknown_name_error("ids of contexts", by, ("id", "text_number"), argument="by")
        if not isinstance(context, (str, Sequence, Mapping)) and not callable(context):
            raise ArgumentError(
                f"context is the name of a column, a list of tokens for each id, or a function of the batch; got a "
                f"{type(context).__name__}.",
                argument="context",
            )
        self.context, self.place, self.by = context, place, by

    @property
    def inner(self) -> Teacher:
        """The teacher that reads the longer rows."""
        return self.teachers[0]

    def open(self, context: TeacherContext) -> TeacherSession:
        """Open the teacher."""
        examples = None if context.loader is None else context.loader.examples
        tokenizer = examples.tokenizer if isinstance(examples, TokenExamples) else None
        inner = self.open_all(replace(context, masks=frozenset()))
        return _PrivilegedSession(inner, self, context.masks, tokenizer)

    def find_contexts(self, batch: Batch, tokenizer: Any = None) -> list[Tensor]:
        """The tokens for each row of a batch.

        Args:
            batch: The batch.
            tokenizer: The tokenizer of contexts that are strings.

        Raises:
            DataError: If the batch has no such column or ids, an id has no tokens, or they are not whole numbers.
        """
        if isinstance(self.context, str):
            if self.context not in batch.extra:
                raise unknown_name_error(
                    "column of the batch", self.context, batch.extra,
                    then="The column holds the tokens that only the teacher reads: extra={name: [...]}.",
                    argument="context",
                )  # fmt: skip
            rows: Sequence[Any] = batch.extra[self.context]
        elif callable(self.context):
            rows = self.context(batch)
        else:
            rows = [_look_up(self.context, number) for number in self._numbers(batch)]
        if len(rows) != batch.size:
            raise DataError(f"There are contexts for {len(rows)} texts in a batch of {batch.size}.")
        return [_as_tokens(_read_text(row, tokenizer)) for row in rows]

    def _numbers(self, batch: Batch) -> list[int]:
        column = batch.id if self.by == "id" else batch.extra.get("text_number")
        if column is None:
            raise DataError(f"The contexts are found by {self.by}, and the batches of this loader have none.")
        if column.ndim > 1:  # of each position, -1 for padding
            column = column.amax(1)
        numbers: list[int] = column.tolist()
        return numbers

    @property
    def fingerprint(self) -> str:
        """The hash of the teacher's fingerprint and of the contexts."""
        own = f"{self.inner.fingerprint} {self.place} {self.by} {self._context_text()}"
        return hashlib.sha256(f"privileged context {own}".encode()).hexdigest()

    def _context_text(self) -> str:
        if isinstance(self.context, str):
            return self.context
        if callable(self.context):
            return str(code_fingerprint(self.context))
        items = self.context.items() if isinstance(self.context, Mapping) else enumerate(self.context)
        return str([(number, row if isinstance(row, str) else _as_tokens(row).tolist()) for number, row in items])

    def describe(self) -> dict[str, Any]:
        """The teacher, and where its context comes from."""
        name = self.context if isinstance(self.context, str) else None
        function = get_function_name(self.context) if callable(self.context) else None
        given = name or function or hashlib.sha256(self._context_text().encode()).hexdigest()[:12]
        own = {"context": given, "place": self.place, "by": self.by}
        return {"teacher": "PrivilegedContextTeacher", "of": self.inner.describe(), **own}


class _LongRows(NamedTuple):
    """The teacher's rows, and where the student's positions are in them.

    Attributes:
        ids: The tokens, padded on the right with 0.
        is_token: Where there is a token.
        places: For each position of the student, the position in the teacher's row.
    """

    ids: Int[Tensor, "batch longer"]
    is_token: Bool[Tensor, "batch longer"]
    places: Int[Tensor, "batch length"]


@final
class _PrivilegedSession(WrapperSession):
    def __init__(
        self,
        sessions: Sequence[TeacherSession],
        teacher: PrivilegedContextTeacher,
        masks: frozenset[str],
        tokenizer: Any,
    ) -> None:
        super().__init__(sessions)
        self._teacher, self._masks, self._tokenizer = teacher, masks, tokenizer

    def query(self, batch: Batch) -> Batch:
        rows = self._build(batch)
        inputs: Any = rows.ids
        if isinstance(batch.inputs, Mapping):
            inputs = {"input_ids": rows.ids, "attention_mask": rows.is_token.long()}
        return Batch(inputs, id=batch.id, mask=rows.is_token)

    def combine(self, batch: Batch, outputs: Sequence[Outputs]) -> Outputs:
        rows, own = self._build(batch), outputs[0]
        values: dict[str, Tensor | PartialLogits | HiddenLogits] = {**own.hidden, **own, **own.partial}
        length = rows.ids.shape[1]
        return Outputs.of({address: take_places(value, rows.places, length) for address, value in values.items()})

    def _build(self, batch: Batch) -> _LongRows:
        ids, is_token, labels = _student_rows(batch, self._masks)
        contexts = self._teacher.find_contexts(batch, self._tokenizer)
        texts, places = [], torch.zeros_like(ids)
        for row, context in enumerate(contexts):
            at = is_token[row].nonzero().flatten()
            labeled = (labels[row, at] != IGNORED).nonzero().flatten()
            prompt = int(labeled[0]) + 1 if len(labeled) else len(at)  # the first label belongs to its last token
            tokens, context = ids[row, at], context.to(ids.device)
            before = {
                "before": [context, tokens[:prompt]], "after": [tokens[:prompt], context], "instead": [context]
            }[self._teacher.place]  # fmt: skip
            front = torch.cat(before)
            if not len(front):
                raise DataError("A teacher's prompt is empty: place='instead' needs at least one token for each text.")
            texts.append(torch.cat([front, tokens[prompt:]]))
            places[row, at[prompt - 1 :]] = torch.arange(len(at) - prompt + 1, device=ids.device) + len(front) - 1
        lengths = torch.tensor([len(text) for text in texts], device=ids.device)
        padded = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
        return _LongRows(padded, torch.arange(padded.shape[1], device=ids.device) < lengths[:, None], places)


def _student_rows(batch: Batch, masks: frozenset[str]) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens of a batch, where there is one, and the labels.

    Raises:
        DataError: If these are no rows of one text each with labels.
    """
    inputs = batch.inputs
    ids = inputs.get("input_ids") if isinstance(inputs, Mapping) else inputs
    if not isinstance(ids, Tensor) or ids.ndim != 2 or batch.labels is None or batch.labels.shape != ids.shape:
        raise DataError(
            "A privileged context is put before token ids of shape [batch, length], with a label at each position of "
            "the completion. This loader has other batches; use TokenDataset with prompts and completions."
        )
    if isinstance(inputs, Mapping) and ("decoder_input_ids" in inputs or "labels" in inputs):
        raise DataError(
            "A privileged context is for causal language models, and these are inputs of an encoder-decoder."
        )
    numbers = batch.extra.get("text_number")
    if numbers is not None and bool(((numbers != numbers.amax(1, keepdim=True)) & (numbers >= 0)).any()):
        raise DataError("A privileged context belongs to one text, and these rows hold several: packing=False.")
    for name in (None, *sorted(masks)):
        counted = batch.find_mask(name)
        counted = torch.ones_like(ids) if counted is None else counted
        if counted.shape != ids.shape or bool((counted.bool() & (batch.labels == IGNORED)).any()):
            raise DataError(
                "A teacher with a privileged context has outputs for the completion only, and the mask "
                f"{'of these batches' if name is None else repr(name)} is true at the prompt, or there is none. Give "
                "Batch.mask, true where there is a label, as TokenDataset does, and leave out where='text'."
            )
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    return ids, torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool(), batch.labels


def _look_up(contexts: Sequence[Any] | Mapping[int, Any], number: int) -> Any:
    known = number in contexts if isinstance(contexts, Mapping) else 0 <= number < len(contexts)
    if not known:
        raise DataError(f"There is no context for example {number}; {len(contexts)} were given.")
    return contexts[number]


def _read_text(row: Any, tokenizer: Any) -> Any:
    """The tokens of a context that is a string; another one as it is."""
    if not isinstance(row, str):
        return row
    if tokenizer is None:
        raise DataError(
            f"The context {row[:40]!r} is text, and the tokenizer is not known: the loader is not one of a "
            "TokenDataset. Give token ids."
        )
    return tokenizer(row, add_special_tokens=False)["input_ids"]


def _as_tokens(row: Any) -> Tensor:
    tokens = row if isinstance(row, Tensor) else torch.tensor(list(row), dtype=None if len(row) else torch.int64)
    if tokens.ndim != 1 or tokens.is_floating_point():
        raise DataError(
            f"A context is one row of token ids, whole numbers; got {tokens.dtype} of {list(tokens.shape)}."
        )
    return tokens.long()
