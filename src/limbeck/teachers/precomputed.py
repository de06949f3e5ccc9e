"""`PrecomputedTeacher`: outputs in memory, looked up by example id."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.batch import LOGITS, Batch, Outputs, missing_output_error
from limbeck.errors import LimbeckError
from limbeck.teachers.fingerprints import Marks, input_marks, marks_differ
from limbeck.teachers.teacher import FunctionSession, Stream, Teacher, TeacherContext, TeacherSession


@final
class PrecomputedTeacher(Teacher):
    """A teacher whose outputs are computed in advance and looked up by example id.

    The outputs belong to the examples without augmentation. A batch of augmented views is refused; use a `ModelTeacher`
    there.

    Args:
        answers: Address -> outputs, one row for each example in the order of the ids (``0, 1, 2, ...``). A tensor alone
            is the logits, such as ``predict(teacher, examples).student``. Of probabilities, pass the logarithm.

    Raises:
        LimbeckError: If there are no outputs, addresses have different numbers of examples, or logits are
            probabilities (none below 0, and each row sums to 1); during training, if a batch has no ids, has augmented
            views, or has an id without outputs.

    Example:
        >>> teacher = PrecomputedTeacher(torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
        >>> batch = Batch(torch.zeros(1, 4), id=torch.tensor([1]))
        >>> with teacher.open(TeacherContext()) as session:
        ...     session(batch)["logits"]
        tensor([[2., 3.]])
    """

    def __init__(self, answers: Tensor | Mapping[str, Tensor]) -> None:
        if not isinstance(answers, (Tensor, Mapping)):
            raise LimbeckError(
                "Precomputed outputs are a tensor of logits, or address -> tensor; got a "
                f"{type(answers).__name__}. For the result of predict, pass its .student."
            )
        outputs = {LOGITS: answers} if isinstance(answers, Tensor) else dict(answers)
        lengths = {address: _count_rows(tensor) for address, tensor in outputs.items()}
        if not lengths or 0 in lengths.values() or len(set(lengths.values())) > 1:
            raise LimbeckError(
                f"A PrecomputedTeacher needs one row for each example at every address; got {lengths or 'none'}."
            )
        if LOGITS in outputs and _are_probabilities(outputs[LOGITS]):
            raise LimbeckError("These logits are probabilities: each row sums to 1. Pass their logarithm: p.log().")
        self._outputs = {address: tensor.detach() for address, tensor in outputs.items()}
        self._examples = next(iter(lengths.values()))

    def open(self, context: TeacherContext) -> TeacherSession:
        """Check that there are outputs at these addresses, for this loader.

        Raises:
            MissingOutputError: If there are none at an address.
            LimbeckError: If the batches of the loader depend on a model that learns.
        """
        check_stored_outputs_fit(context.loader, who="A PrecomputedTeacher")
        for address in context.requires:
            if address not in self._outputs:
                raise missing_output_error(address, self._outputs, who="the precomputed outputs")
        outputs = {address: self._outputs[address].to(context.device) for address in context.requires}
        # Another loader may return other inputs under the same ids, for which there are no outputs.
        checks_inputs = context.loader is not None and not context.loader.fixed
        marks = np.zeros((self._examples if checks_inputs else 0, 2), np.int64)

        def look_up(batch: Batch) -> Outputs:
            rows = self._find_rows(batch)
            if checks_inputs:
                _check_inputs(batch, marks, rows.cpu().numpy())
            return Outputs({address: tensor[rows.to(tensor.device)] for address, tensor in outputs.items()})

        return FunctionSession(look_up)

    def _find_rows(self, batch: Batch) -> Tensor:
        if batch.id is None:
            raise LimbeckError("A PrecomputedTeacher looks up outputs by example id, and this batch has no ids.")
        if batch.view is not None:
            raise LimbeckError(
                "The outputs of a PrecomputedTeacher belong to examples without augmentation, and this batch has "
                "augmented views. Use a ModelTeacher, or a loader without augment= and mix=."
            )
        if int(batch.id.max()) >= self._examples or int(batch.id.min()) < 0:
            raise LimbeckError(
                f"There are no outputs for example {int(batch.id.max())}: {self._examples} examples were precomputed."
            )
        return batch.id

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all outputs."""
        digest = hashlib.sha256()
        for address in sorted(self._outputs):
            tensor = self._outputs[address].detach().cpu().contiguous()
            digest.update(f"{address} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """The addresses, the shapes and the hash of the outputs."""
        shapes = {address: list(tensor.shape) for address, tensor in self._outputs.items()}
        return {"teacher": "PrecomputedTeacher", "answers": shapes, "fingerprint": self.fingerprint}


def check_stored_outputs_fit(loader: Stream | None, *, who: str) -> None:
    """Refuse stored outputs for a loader whose examples are written anew while a model learns.

    Raises:
        LimbeckError: If the batches of the loader depend on a model.
    """
    if loader is not None and loader.depends_on_model:
        raise LimbeckError(
            f"{who} has outputs for the inputs of before, and the batches of a {type(loader).__name__} depend on a "
            "model that learns: the same ids get other inputs. Use the teacher itself."
        )


def _check_inputs(batch: Batch, before: Marks, rows: NDArray[np.int64]) -> None:
    """Refuse an example whose inputs differ from those in an earlier batch; `before` is updated."""
    marks = input_marks(batch)
    if (changed := marks_differ(marks, before[rows])).any():
        raise LimbeckError(
            f"Example {int(rows[changed][0])} has other inputs than before, and a PrecomputedTeacher has outputs for "
            "one of them only. Use a ModelTeacher, or a loader whose examples never change."
        )
    before[rows] = marks


def _are_probabilities(logits: Tensor) -> bool:
    rows = logits.detach()
    sums = rows.sum(-1)
    return bool((rows >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), rtol=0.0, atol=1e-3)


def _count_rows(tensor: Any) -> int:
    return len(tensor) if isinstance(tensor, Tensor) and tensor.ndim else 0
