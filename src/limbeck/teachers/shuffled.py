"""`ShuffledTeacher`: outputs of other examples, as a control."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, final

import torch
from torch import nn

from limbeck.batch import Batch, Outputs
from limbeck.errors import LimbeckError
from limbeck.teachers.conversion import as_teacher
from limbeck.teachers.teacher import Preprocess, Stream, Teacher, TeacherFn


@final
class ShuffledTeacher(Teacher):
    """A control: each example of a batch gets the teacher's answer to the next one, the last one that to the first.

    Its answers are as soft and as many as the teacher's, and say nothing of the example that they are given for. As
    batches are shuffled, an example gets another's answer in every epoch. What a student gains from it, it gains from
    being regularized, not from being taught. A batch of one gets its own answer.

    Args:
        teacher: Whatever teaches: a module, a teacher, an estimator, ...

    Example:
        >>> from limbeck.teachers import ModelTeacher
        >>> from limbeck.batch import Batch
        >>> displaced = ShuffledTeacher(ModelTeacher(nn.Identity()))
        >>> with displaced.prepare(frozenset({"logits"}), device=torch.device("cpu"), preprocess=lambda b: b.inputs) as
        ask: ...     ask(Batch(torch.eye(3)))["logits"].argmax(1)
        tensor([1, 2, 0])
    """

    def __init__(self, teacher: Any) -> None:
        self.inner = as_teacher(teacher)
        self.changes = self.inner.changes

    @property
    def names(self) -> frozenset[str]:
        """Those of the teacher."""
        return self.inner.names

    def bind(self, models: Mapping[str, nn.Module]) -> None:
        """As the teacher does."""
        self.inner.bind(models)

    @property
    def is_deterministic(self) -> bool:
        """No: which answer an example gets depends on its batch."""
        return False

    def attach_loader(self, loader: Stream, preprocess: Preprocess) -> None:
        """As the teacher does.

        Raises:
            LimbeckError: If batches hold one example each: there is no other to be answered about.
        """
        if getattr(loader, "batch_size", None) == 1:
            raise LimbeckError("A displaced teacher answers about the next example of a batch: batches need two.")
        self.inner.attach_loader(loader, preprocess)

    def serve(self, temperatures: frozenset[float]) -> None:
        """As the teacher does."""
        self.inner.serve(temperatures)

    def prepare(
        self, requires: frozenset[str], *, device: torch.device, preprocess: Preprocess
    ) -> AbstractContextManager[TeacherFn]:
        """As the teacher does."""
        return self._answering(self.inner.prepare(requires, device=device, preprocess=preprocess))

    @contextmanager
    def _answering(self, opened: AbstractContextManager[TeacherFn]) -> Iterator[TeacherFn]:
        with opened as answer:

            def displaced(batch: Batch) -> Outputs:
                return answer(batch.rows(torch.arange(batch.size).roll(-1)))

            yield displaced

    @property
    def fingerprint(self) -> str:
        """The teacher's, displaced."""
        return hashlib.sha256(f"displaced {self.inner.fingerprint}".encode()).hexdigest()

    def after_step(self) -> None:
        """As the teacher does."""
        self.inner.after_step()

    def state_dict(self) -> dict[str, Any]:
        """The teacher's."""
        return self.inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As the teacher does."""
        self.inner.load_state_dict(state)

    def describe(self) -> dict[str, Any]:
        """Whose answers they are."""
        return {"teacher": "ShuffledTeacher", "of": self.inner.describe()}
