"""`PrecomputedTeacher`: outputs in memory, by example id."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.batch import LOGITS, Batch, Outputs, missing
from limbeck.errors import LimbeckError
from limbeck.teachers.fingerprints import Marks, input_marks, marks_differ
from limbeck.teachers.teacher import Preprocess, Stream, Teacher, TeacherFn


@final
class PrecomputedTeacher(Teacher):
    """A teacher's answers in memory, looked up by the id of an example: asked once, used at every epoch.

    They were given to the examples themselves, so they answer for no augmented view of them: a batch of views is
    refused, where a live teacher would be asked about what the student sees.

    Args:
        answers: Address -> what the teacher showed there, one row for each example in the order of their ids
            (``0, 1, 2, ...``); a tensor alone is its logits, such as ``predict(teacher, examples).student``. Of
            probabilities, give the logarithm.

    Raises:
        LimbeckError: If there are no answers, addresses differ in how many examples they hold, or logits are
            probabilities (none below 0, and each row's sum 1); while it answers, if
            a batch has no ids, holds views, or an id that was never answered.

    Example:
        >>> teacher = PrecomputedTeacher(torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
        >>> batch = Batch(torch.zeros(1, 4), id=torch.tensor([1]))
        >>> with teacher.prepare(frozenset({"logits"}), device=torch.device("cpu"), preprocess=lambda b: b.inputs) as
        answer: ...     answer(batch)["logits"]
        tensor([[2., 3.]])
    """

    def __init__(self, answers: Tensor | Mapping[str, Tensor]) -> None:
        if not isinstance(answers, (Tensor, Mapping)):
            raise LimbeckError(
                f"Answers are a tensor of logits, or address -> tensor; got a {type(answers).__name__}. Of what "
                "predict gave, the logits are .student."
            )
        given = {LOGITS: answers} if isinstance(answers, Tensor) else dict(answers)
        lengths = {address: _rows_in(tensor) for address, tensor in given.items()}
        if not lengths or 0 in lengths.values() or len(set(lengths.values())) > 1:
            raise LimbeckError(
                f"A recorded teacher has one answer for each example at every address; got {lengths or 'none'}."
            )
        if LOGITS in given and _are_probabilities(given[LOGITS]):
            raise LimbeckError("These logits are probabilities, each row's sum is 1; give their logarithm: p.log().")
        self._answers = {address: tensor.detach() for address, tensor in given.items()}
        self._examples = next(iter(lengths.values()))
        self._looks = False

    def attach_loader(self, loader: Stream, preprocess: Preprocess) -> None:
        """Whether the source may hand out other inputs under the same ids, for which no answer was recorded."""
        del preprocess
        self._looks = not getattr(loader, "fixed", False)

    def prepare(
        self, requires: frozenset[str], *, device: torch.device, preprocess: Preprocess
    ) -> AbstractContextManager[TeacherFn]:
        """Only what was recorded can be read."""
        del preprocess  # the answers are there already
        for address in requires:
            if address not in self._answers:
                raise missing(address, self._answers, who="the recorded answers")
        return self._answering({address: self._answers[address].to(device) for address in requires})

    @contextmanager
    def _answering(self, answers: Mapping[str, Tensor]) -> Iterator[TeacherFn]:
        seen = np.zeros((self._examples if self._looks else 0, 2), np.int64)

        def answer(batch: Batch) -> Outputs:
            rows = self._rows(batch)
            if self._looks:
                _check_inputs(batch, seen, rows.cpu().numpy())
            return Outputs({address: tensor[rows.to(tensor.device)] for address, tensor in answers.items()})

        yield answer

    def _rows(self, batch: Batch) -> Tensor:
        if batch.id is None:
            raise LimbeckError(
                "A recorded teacher looks its answers up by the ids of examples, and the batch has none."
            )
        if batch.view is not None:
            raise LimbeckError(
                "A recorded teacher answered for the examples themselves, and this batch holds augmented views of "
                "them: take the live teacher, or a source without augment= and mix=."
            )
        if int(batch.id.max()) >= self._examples or int(batch.id.min()) < 0:
            raise LimbeckError(
                f"Example {int(batch.id.max())} was never answered: {self._examples} answers were recorded."
            )
        return batch.id

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all answers."""
        found = hashlib.sha256()
        for address in sorted(self._answers):
            tensor = self._answers[address].detach().cpu().contiguous()
            found.update(f"{address} {tensor.dtype} {list(tensor.shape)}".encode())
            found.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
        return found.hexdigest()

    def describe(self) -> dict[str, Any]:
        """What was recorded of how many examples."""
        shown = {address: list(tensor.shape) for address, tensor in self._answers.items()}
        return {"teacher": "PrecomputedTeacher", "answers": shown, "fingerprint": self.fingerprint}


def _check_inputs(batch: Batch, seen: Marks, rows: NDArray[np.int64]) -> None:
    """Refuse an example whose inputs are others than when it last came."""
    marks = input_marks(batch)
    if (others := marks_differ(marks, seen[rows])).any():
        raise LimbeckError(
            f"Example {int(rows[others][0])} has other inputs than when it last came, and a recorded teacher answered "
            "for one of them alone: take the live teacher, or a source whose examples never change."
        )
    seen[rows] = marks


def _are_probabilities(logits: Tensor) -> bool:
    rows = logits.detach()
    sums = rows.sum(-1)
    return bool((rows >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), rtol=0.0, atol=1e-3)


def _rows_in(answers: Any) -> int:
    return len(answers) if isinstance(answers, Tensor) and answers.ndim else 0
