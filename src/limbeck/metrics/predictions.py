"""Predictions of a student and a teacher on all examples of a loader, in memory and on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.atomic_io import make_folder
from limbeck.batch import IGNORED, LABEL_LOG_PROBS, LOGITS, LOGITS_INPUT, Batch, Inputs, Outputs
from limbeck.data import Loader, TokenDataset, TorchLoader, as_loader, find_token_data
from limbeck.data.tokenizer import find_label_format, token_batch
from limbeck.data.torch_loader import batch_from
from limbeck.errors import DataError, LimbeckError, MissingOutputError
from limbeck.functional import HiddenLogits, OutputLayer
from limbeck.metrics.partial_teacher import ScoredLabels
from limbeck.model_call import Adaptor, call, check_output_layer, get_output_layer, logits_of
from limbeck.models.weights import read_weights, write_weights
from limbeck.tap import FrozenParameters, Tapped
from limbeck.teachers import ModelTeacher, TeacherContext, as_teacher


def save_tensors(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Write tensors by name (logits, labels) to a safetensors file, atomically.

    Args:
        tensors: The tensors by name, on any device.
        path: The file. Its folder is created.
    """
    path = Path(path)
    make_folder(path.parent)
    write_weights(tensors, path, header={})


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors that `save_tensors` wrote.

    Raises:
        DataError: If the file is missing or damaged, or does not match the SHA-256 in it.

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


_BATCH_SIZE = 256  # with a thousand, the outputs of a small network no longer fit in the caches of a CPU
_MOST_LOGITS = 1 << 26
"""Logits of a batch of predictions; in float32 they need 256 MB."""


def rows_at_once(data: Any, *, most: int = _BATCH_SIZE) -> int:
    """The number of examples in a batch of predictions: below `most` where each has logits of a whole vocabulary."""
    if (tokens := find_token_data(data)) is None:
        return most
    longest = tokens.max_length if isinstance(tokens, TokenDataset) else tokens.max_target_length
    return max(1, min(most, _MOST_LOGITS // (longest * len(tokens.tokenizer))))


def as_batches(data: Any, model: Any = None) -> Iterator[Batch]:
    """Yield the batches of `data` once. For a loader this is one epoch; its position is not changed.

    For a causal language `model`, the labels of a loader's tokens are shifted to the positions of its outputs.

    Raises:
        DataError: If the data are empty, or a batch is ambiguous.
    """
    if isinstance(data, Batch):
        yield data
    elif (loader := find_loader(data)) is not None:
        yield from _epoch(loader, model)
    else:
        for item in data:
            yield (
                item
                if isinstance(item, Batch)
                else token_batch(batch_from(item), label_format=find_label_format(model))
            )


def find_loader(data: Any) -> Loader | None:
    """The loader of data, with the examples in order if there was none; None for batches, which have no loader."""
    if isinstance(data, Batch) or (not isinstance(data, Loader) and _is_batches(data)):
        return None
    return as_loader(data, batch_size=rows_at_once(data), shuffle=False)


def _is_batches(data: Any) -> bool:
    """Whether `data` can be an iterable of batches without a length. A tuple is (inputs, labels)."""
    if isinstance(data, (Mapping, tuple, str)) or hasattr(data, "shape"):
        return False
    return isinstance(data, Iterable)


def _epoch(loader: Loader, model: Any) -> Iterable[Batch]:
    if isinstance(loader, TorchLoader):
        # A loader continues where it stopped; a new one around the same batches starts at the beginning.
        anew = TorchLoader(loader.loader, to_batch=loader.to_batch)
        anew.bind({} if model is None else {"model": model})
        return anew
    return loader.batches(0, 0) if loader.resumable else loader


class Predictions(NamedTuple):
    """Logits of the student and, if known, of the teacher, and labels, one row per example.

    For a model with an output at every position, each position is a row. Masked rows are left out.

    Attributes:
        student: Logits in float32, on the CPU.
        teacher: The teacher's logits for the same rows.
        labels: Class indices; `IGNORED` (-100) for none.
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
    """Compute the logits of a model in eval mode, without gradients, on its device, and gather them on the CPU.

    The training flags of all submodules are restored. All logits are kept in memory: 4 bytes per row and class.

    Args:
        model: Any module whose output has logits, or a teacher (an `Ensemble`, `Specialists`, a fitted classifier). A
            teacher runs on the CPU, and its modules are moved there.
        data: One or more batches; a `Dataset`, ``(inputs, labels)`` or inputs, in their order; a DataLoader; or one
            epoch of a `Loader`.
        preprocess: Maps a batch to the inputs of the model. By default ``batch.inputs``, or the preprocessing of the
            teacher.
        adaptor: Maps the raw output of a module to logits.
        classes: The class dimension of the logits: 1 for maps ``[batch, classes, height, width]``, whose
            labels and mask are ``[batch, height, width]``.

    Raises:
        DataError: If the data are of another type or empty, or there is not one label per row of logits.
        MissingOutputError: If the output has no logits.
        LimbeckError: If `model` is neither a module nor a teacher, or an adaptor is given for a teacher.

    Example:
        >>> predict(nn.Linear(2, 3), [Batch(torch.zeros(4, 2))]).student.shape
        torch.Size([4, 3])
    """
    with _open_logits(model, preprocess, adaptor, loader=find_loader(data)) as logits, torch.no_grad():
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
    """Run `predict` and compute a teacher's outputs for the same batches in the same pass.

    Args:
        model: The student.
        answer: The function of a prepared teacher, batch -> outputs. It is called without gradients.
        data: As for `predict`.
        preprocess: Maps a batch to the inputs of the student.
        adaptor: Maps the raw output of the student to logits.
        classes: The class dimension of the student's and the teacher's logits.

    Raises:
        DataError: If there is no batch, or the numbers of rows of teacher and student differ.
        MissingOutputError: If an output has no logits.
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


def iterate_logits(
    model: Any, data: Any, *, preprocess: Callable[[Batch], Inputs] | None = None, adaptor: Adaptor | None = None
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield each batch with the logits of a model, as `predict` computes them, without keeping them.

    Args:
        model: As for `predict`.
        data: As for `predict`.
        preprocess: As for `predict`.
        adaptor: As for `predict`.

    Raises:
        DataError: As for `predict`.

    Example:
        >>> [logits.shape for _, logits in iterate_logits(nn.Linear(2, 3), [Batch(torch.zeros(4, 2))])]
        [torch.Size([4, 3])]
    """
    with _open_logits(model, preprocess, adaptor) as logits:
        for batch in as_batches(data, model):
            with torch.no_grad():
                outputs = logits(batch)
            yield batch, outputs


def flatten_positions(logits: Tensor, batch: Batch) -> Predictions:
    """Make predictions of the logits of one batch: a row for each example or position that counts."""
    return _rows(logits, None, batch)


@contextmanager
def _open_logits(
    model: Any,
    preprocess: Callable[[Batch], Inputs] | None,
    adaptor: Adaptor | None,
    *,
    partial: bool = False,
    labels: bool = False,
    loader: Loader | None = None,
) -> Iterator[Callable[[Batch], Any]]:
    """Open a module or a teacher as a function from a batch to logits, or to its partial logits if it has no others."""
    if isinstance(model, nn.Module):
        with FrozenParameters(model):
            yield lambda batch: _model_logits(model, batch, preprocess, adaptor)
        return
    teacher = as_teacher(model)
    if adaptor is not None:
        raise LimbeckError("adaptor= is for a module. For a teacher use ModelTeacher(module, adaptor=...).")
    inputs = preprocess or (lambda batch: batch.inputs)
    scores = labels and teacher.capabilities.partial and teacher.capabilities.scores_labels
    requires = frozenset({LOGITS, LABEL_LOG_PROBS}) if scores else frozenset({LOGITS})
    with teacher.open(TeacherContext(requires=requires, preprocess=inputs, loader=loader)) as answer:
        if scores:
            yield lambda batch: ScoredLabels((own := answer(batch))[LABEL_LOG_PROBS], own.partial[LOGITS])
        else:
            yield lambda batch: _read_logits(answer(batch), partial=partial)


def _read_logits(outputs: Outputs, *, partial: bool) -> Any:
    """The logits of all classes, or what is known of them if `partial`."""
    stored = outputs.partial.get(LOGITS) if partial else None
    dense = None if stored is None else stored.to_dense()
    return outputs[LOGITS] if stored is None else stored if dense is None else dense


@contextmanager
def open_token_logits(
    model: Any,
    *,
    preprocess: Callable[[Batch], Inputs] | None = None,
    partial: bool = False,
    labels: bool = False,
    loader: Loader | None = None,
) -> Iterator[Callable[[Batch], Any]]:
    """Open a language model as a function from a batch to logits, in eval mode and without gradients.

    If the logits are those of the model's output layer, the function returns `HiddenLogits`: the logits of all
    positions are then never in memory. For other models it returns their logits. The module of a `ModelTeacher` stays
    on its device.

    Args:
        model: As for `predict`.
        preprocess: As for `predict`.
        partial: Whether a teacher may return `limbeck.top_k_logits.PartialLogits`, if only some are stored.
        labels: Whether a teacher that lists some tokens may return `limbeck.metrics.partial_teacher.ScoredLabels`.
        loader: The loader of the batches, which a teacher whose outputs are stored needs.

    Example:
        >>> with open_token_logits(nn.Sequential(nn.Embedding(7, 2), nn.Linear(2, 7))) as logits:
        ...     logits(Batch(torch.zeros(1, 3, dtype=torch.long))).shape
        torch.Size([1, 3, 7])
    """
    if isinstance(model, ModelTeacher) and model.mode == "eval" and model.adaptor is None:
        model, preprocess = model.model, model.preprocess or preprocess
    with torch.no_grad(), ExitStack() as stack:
        dense = stack.enter_context(
            _open_logits(model, preprocess, None, partial=partial, labels=labels, loader=loader)
        )
        tapped: Tapped | None = None
        if isinstance(model, nn.Module) and get_output_layer(model) is not None:
            tapped = Tapped(model, [LOGITS_INPUT])
        layer: OutputLayer | None = None

        @torch.no_grad()
        def logits(batch: Batch) -> Any:
            nonlocal tapped, layer
            if tapped is None:
                return dense(batch)
            inputs = _placed_inputs(model, batch, preprocess)
            try:
                layer = layer or check_output_layer(model, inputs)
                with tapped:  # for one call, because a teacher may be the same module
                    return HiddenLogits(tapped(inputs)[LOGITS_INPUT], layer)
            except MissingOutputError:  # another operation follows the layer
                tapped = None
                return dense(batch)

        yield logits


def _model_logits(
    model: nn.Module, batch: Batch, preprocess: Callable[[Batch], Inputs] | None, adaptor: Adaptor | None
) -> Tensor:
    return logits_of(call(model, _placed_inputs(model, batch, preprocess)), adaptor)


def _placed_inputs(model: nn.Module, batch: Batch, preprocess: Callable[[Batch], Inputs] | None) -> Inputs:
    """The inputs of a model on its device."""
    device = next((p.device for p in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    moved = batch.to(device)
    return moved.inputs if preprocess is None else preprocess(moved)


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
    """The rows of logits that count. With one output per text, a text counts if any of its tokens does."""
    mask = mask.cpu()
    return mask.flatten(1).any(1) if logits.ndim == 2 and mask.ndim > 1 else mask


def _flat_logits(logits: Tensor) -> Tensor:
    if logits.ndim < 2:
        raise DataError(f"Logits must be [batch, classes] or [batch, positions, classes]; got {list(logits.shape)}.")
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
            "There is no example to predict: the loader yielded no batch, or its mask excludes all examples."
        )
    return Predictions(torch.cat(student), _joined(teacher), _labeled(labels, student))


def _joined(parts: list[Any]) -> Tensor | None:
    return None if any(part is None for part in parts) else torch.cat(parts)


def _labeled(parts: list[Any], student: list[Tensor]) -> Tensor | None:
    if all(part is None for part in parts):
        return None
    # A batch without labels among labeled batches counts as unlabeled.
    none = [torch.full((len(rows),), IGNORED) for rows in student]
    return torch.cat([unknown if part is None else part for part, unknown in zip(parts, none, strict=True)])
