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
    """A control: each example gets the teacher's outputs for the next example in its batch; the last gets the first's.

    The outputs have the same softness as the teacher's and no information about the example. As batches are shuffled,
    an example gets another one's outputs in every epoch. What a student gains from them is regularization. A batch of
    one gets its own outputs.

    Args:
        teacher: Anything that `as_teacher` accepts: a module, a teacher, an estimator, ...

    Example:
        >>> from limbeck.teachers import ModelTeacher
        >>> from limbeck.batch import Batch
        >>> teacher = ShuffledTeacher(ModelTeacher(nn.Identity()))
        >>> context = teacher.prepare(frozenset({"logits"}), device=torch.device("cpu"), preprocess=lambda b: b.inputs)
        >>> with context as compute:
        ...     compute(Batch(torch.eye(3)))["logits"].argmax(1)
        tensor([1, 2, 0])
    """

    def __init__(self, teacher: Any) -> None:
        self.inner = as_teacher(teacher)
        self.changes = self.inner.changes

    @property
    def names(self) -> frozenset[str]:
        """The names of the teacher's models."""
        return self.inner.names

    def bind(self, models: Mapping[str, nn.Module]) -> None:
        """Bind the teacher."""
        self.inner.bind(models)

    @property
    def is_deterministic(self) -> bool:
        """False: the outputs of an example depend on its batch."""
        return False

    def attach_loader(self, loader: Stream, preprocess: Preprocess) -> None:
        """Attach the loader to the teacher.

        Raises:
            LimbeckError: If batches have one example each.
        """
        if getattr(loader, "batch_size", None) == 1:  # a loader of one's own may have batches of any size
            raise LimbeckError(
                "A ShuffledTeacher uses the outputs of the next example in a batch; batch_size must be 2 or more."
            )
        self.inner.attach_loader(loader, preprocess)

    def serve(self, temperatures: frozenset[float]) -> None:
        """Pass the temperatures on to the teacher."""
        self.inner.serve(temperatures)

    def prepare(
        self, requires: frozenset[str], *, device: torch.device, preprocess: Preprocess
    ) -> AbstractContextManager[TeacherFn]:
        """Prepare the teacher."""
        return self._open(self.inner.prepare(requires, device=device, preprocess=preprocess))

    @contextmanager
    def _open(self, context: AbstractContextManager[TeacherFn]) -> Iterator[TeacherFn]:
        with context as teacher_fn:

            def compute(batch: Batch) -> Outputs:
                return teacher_fn(batch.rows(torch.arange(batch.size).roll(-1)))

            yield compute

    @property
    def fingerprint(self) -> str:
        """The hash of the teacher's fingerprint."""
        return hashlib.sha256(f"displaced {self.inner.fingerprint}".encode()).hexdigest()

    def after_step(self) -> None:
        """Update the teacher."""
        self.inner.after_step()

    def state_dict(self) -> dict[str, Any]:
        """The teacher's state."""
        return self.inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the teacher's state."""
        self.inner.load_state_dict(state)

    def describe(self) -> dict[str, Any]:
        """The teacher whose outputs are shuffled."""
        return {"teacher": "ShuffledTeacher", "of": self.inner.describe()}
