"""Predictions of a student and a teacher on all examples of a loader, in memory and on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.batch import IGNORED, LOGITS, Batch, Inputs, Outputs
from limbeck.data import Loader, TorchLoader, as_loader
from limbeck.data.tokenizer import is_causal_lm, token_batch
from limbeck.data.torch_loader import batch_from
from limbeck.errors import DataError, LimbeckError
from limbeck.models.safetensors_io import read_weights, write_weights
from limbeck.tap import Adaptor, FrozenParameters, call, logits_of
from limbeck.teachers import as_teacher


def save_tensors(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Write tensors by name (logits, labels) to a safetensors file that appears whole or not at all.

    Args:
        tensors: Name -> tensor, of any device.
        path: The file; its folder is made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_weights(tensors, path, header={})


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """What `save_tensors` wrote.

    Raises:
        DataError: If the file is missing or damaged: it is checked against the SHA-256 in it, where there is one.

    Example:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp()) / "predictions.safetensors"
        >>> save_tensors({"test": torch.eye(2)}, path)
        >>> load_tensors(path)["test"]
        tensor([[1., 0.],
                [0., 1.]])
    """
    try:
        return read_weights(Path(path)).state
    except DataError as error:
        raise DataError(f"{error} Run the job again to write its predictions.") from error


_BATCH_SIZE = 256


def as_batches(data: Any, model: Any = None) -> Iterator[Batch]:
    """The batches of `data`, once: those of a source are a whole epoch, and its position stays where it is.

    Labels of a loader's tokens stand where `model` answers, if that is a causal language model.

    Raises:
        DataError: If it holds no examples, or a batch could mean several things.
    """
    if isinstance(data, Batch):
        yield data
    elif isinstance(data, Loader) or not _is_batches(data):
        yield from _epoch(as_loader(data, batch_size=_BATCH_SIZE, shuffle=False), model)
    else:
        for item in data:
            yield item if isinstance(item, Batch) else token_batch(batch_from(item), shifted=is_causal_lm(model))


def _is_batches(data: Any) -> bool:
    """Whether these may be batches that come one by one, which need no length here; a tuple is (inputs, labels)."""
    if isinstance(data, (Mapping, tuple, str)) or hasattr(data, "shape"):
        return False
    return isinstance(data, Iterable)


def _epoch(loader: Loader, model: Any) -> Iterable[Batch]:
    if isinstance(loader, TorchLoader):
        # A loader goes on where it was left; another one around the same batches begins anew.
        anew = TorchLoader(loader.loader, adapt=loader.adapt)
        anew.bind({} if model is None else {"model": model})
        return anew
    return loader.batches(0, 0) if loader.resumable else loader


class Predictions(NamedTuple):
    """Logits of the student, and where known those of the teacher and the labels, one row for each example.

    For a model that answers every position, each position is a row; rows that the batch's mask leaves out are absent.

    Attributes:
        student: Logits in float32, on the CPU.
        teacher: The teacher's logits for the same rows.
        labels: Class indices; `IGNORED` (-100) where there is none.
    """

    student: Float[Tensor, "n classes"]
    teacher: Float[Tensor, "n teacher_classes"] | None = None
    labels: Int[Tensor, " n"] | None = None


def predict(
    model: Any,
    data: Any,
    *,
    preprocess: Callable[[Batch], Inputs] | None = None,
    adaptor: Adaptor | None = None,
    classes: int = -1,
) -> Predictions:
    """What a model answers: in eval mode, without gradient, on its own device, gathered on the CPU.

    Every submodule's training flag is afterwards what it was. All logits are held in memory: 4 bytes for each row and
    class.

    Args:
        model: Any module whose output has logits; or a teacher (an `Ensemble`, `Specialists`, a fitted classifier), to
            be measured as a model is: it answers on the CPU, and its modules are moved there.
        data: Batches, one or many; or `Dataset`, ``(inputs, labels)`` or inputs, in their order; a DataLoader; or a
            `Loader`, for one epoch in its order. Read once.
        preprocess: The model's way from a batch to its inputs; ``batch.inputs`` where None, or the teacher's own.
        adaptor: Raw output -> logits, for strange outputs of a module.
        classes: Which dimension of the logits holds the classes: 1 for maps ``[batch, classes, height, width]``, whose
            labels and mask are ``[batch, height, width]``.

    Raises:
        DataError: If the data are none of these, there is no batch, or the labels are not one class index for each
            row of logits.
        MissingSignalError: If the output has no logits.
        LimbeckError: If `model` is neither, or an adaptor is given for a teacher.

    Example:
        >>> predict(nn.Linear(2, 3), [Batch(torch.zeros(4, 2))]).student.shape
        torch.Size([4, 3])
    """
    with _open_logits(model, preprocess, adaptor) as logits, torch.no_grad():
        return _gathered(_rows(_last(logits(batch), classes), None, batch) for batch in as_batches(data, model))


def predict_with_teacher(
    model: nn.Module,
    answer: Callable[[Batch], Outputs],
    data: Any,
    *,
    preprocess: Callable[[Batch], Inputs] | None = None,
    adaptor: Adaptor | None = None,
    classes: int = -1,
) -> Predictions:
    """`predict`, with a teacher's answers to the same batches in the same pass.

    Args:
        model: The student.
        answer: What a prepared teacher is: batch -> signal. It is called without gradient.
        data: As for `predict`.
        preprocess: The student's way from a batch to its inputs.
        adaptor: The student's raw output -> logits, for strange outputs.
        classes: Which dimension of the student's and the teacher's logits holds the classes.

    Raises:
        DataError: If there is no batch, or the teacher's rows are not the student's.
        MissingSignalError: If an output has no logits.
    """
    with FrozenParameters(model), torch.no_grad():
        return _gathered(
            _rows(
                _last(_model_logits(model, batch, preprocess, adaptor), classes),
                _last(answer(batch)[LOGITS], classes),
                batch,
            )
            for batch in as_batches(data, model)
        )


@contextmanager
def _open_logits(
    model: Any, preprocess: Callable[[Batch], Inputs] | None, adaptor: Adaptor | None
) -> Iterator[Callable[[Batch], Tensor]]:
    """A block within which a module, or a teacher, gives its logits for a batch."""
    if isinstance(model, nn.Module):
        with FrozenParameters(model):
            yield lambda batch: _model_logits(model, batch, preprocess, adaptor)
        return
    teacher = as_teacher(model)
    if adaptor is not None:
        raise LimbeckError(
            "adaptor= is for a module's output; a teacher has its own: ModelTeacher(module, adaptor=...)."
        )
    inputs = preprocess or (lambda batch: batch.inputs)
    with teacher.prepare(frozenset({LOGITS}), device=torch.device("cpu"), preprocess=inputs) as answer:
        yield lambda batch: answer(batch)[LOGITS]


def _model_logits(
    model: nn.Module, batch: Batch, preprocess: Callable[[Batch], Inputs] | None, adaptor: Adaptor | None
) -> Tensor:
    device = next((p.device for p in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    moved = batch.to(device)
    return logits_of(call(model, moved.inputs if preprocess is None else preprocess(moved)), adaptor)


def _last(logits: Tensor, classes: int) -> Tensor:
    if not -logits.ndim <= classes < logits.ndim:
        raise DataError(
            f"There is no dimension {classes} in logits of shape {list(logits.shape)}; give another classes=."
        )
    return logits.movedim(classes, -1)


def _rows(student: Tensor, teacher: Tensor | None, batch: Batch) -> Predictions:
    flat, rows = _flat_logits(student), student.shape[:-1]
    chosen = slice(None) if batch.mask is None else _flat("mask", _of_rows(batch.mask, student), rows).bool()
    return Predictions(
        flat[chosen],
        None if teacher is None else _flat("teacher's logits", teacher, (*rows, teacher.shape[-1]))[chosen],
        None if batch.labels is None else _flat("labels", batch.labels.cpu(), rows).long()[chosen],
    )


def _of_rows(mask: Tensor, logits: Tensor) -> Tensor:
    """Which rows of logits count; one answer to a whole text does where any of its tokens does."""
    mask = mask.cpu()
    return mask.flatten(1).any(1) if logits.ndim == 2 and mask.ndim > 1 else mask


def _flat_logits(logits: Tensor) -> Tensor:
    if logits.ndim < 2:
        raise DataError(f"Logits are [batch, classes] or [batch, positions, classes]; got {list(logits.shape)}.")
    return logits.detach().float().cpu().flatten(0, -2)


def _flat(what: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tensor.shape != torch.Size(shape):
        raise DataError(
            f"The {what} have the shape {list(tensor.shape)}; the student's logits call for {list(shape)}, "
            "one row for each example or position. Where the classes are not last, as in maps [batch, classes, height, "
            "width], say so: classes=1."
        )
    return _flat_logits(tensor) if what.endswith("logits") else tensor.flatten()


def _gathered(parts: Iterable[Predictions]) -> Predictions:
    student, teacher, labels = [], [], []
    for part in parts:
        student.append(part.student)
        teacher.append(part.teacher)
        labels.append(part.labels)
    if not any(len(rows) for rows in student):
        raise DataError(
            "There is no example to predict: the source yielded no batch, or its mask leaves out everything."
        )
    return Predictions(torch.cat(student), _joined(teacher), _labeled(labels, student))


def _joined(parts: list[Any]) -> Tensor | None:
    return None if any(part is None for part in parts) else torch.cat(parts)


def _labeled(parts: list[Any], student: list[Tensor]) -> Tensor | None:
    if all(part is None for part in parts):
        return None
    # A batch without labels among labeled ones is one in which none is known.
    none = [torch.full((len(rows),), IGNORED) for rows in student]
    return torch.cat([unknown if part is None else part for part, unknown in zip(parts, none, strict=True)])
