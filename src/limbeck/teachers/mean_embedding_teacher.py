"""`MeanEmbeddingTeacher`: a teacher as the mean of the output embeddings of a student whose output layer is frozen."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch, Outputs, missing_output_error
from limbeck.errors import LimbeckError
from limbeck.functional import HiddenLogits, OutputLayer
from limbeck.mean_embedding import MeanEmbedding, make_mean_embedding, mark_layer
from limbeck.model_call import get_output_layer
from limbeck.teachers.teacher import Teacher, TeacherCapabilities, TeacherContext, TeacherSession
from limbeck.teachers.wrapper import TeacherWrapper, WrapperSession


@final
class MeanEmbeddingTeacher(TeacherWrapper):
    r"""A teacher's outputs as :math:`\sum_c p_c W_c`, W being the frozen output layer of the student.

    That and the entropy of p are all that the forward KL divergence reads of a teacher, in `width` numbers a token in
    place of the vocabulary, without a class left out. A cache stores it in 2 x width bytes. The loss is computed from
    the student's hidden states (``fuse_output_layer=True``), at one temperature.

    Args:
        teacher: Anything that `as_teacher` accepts, with the logits of all classes.
        student: The student, or its output layer, whose weights must not be trained.
        temperature: T of the loss.

    Raises:
        LimbeckError: If the student has no linear output layer, or it is trained or has a softcap; when it is opened,
            if the loss has another temperature.

    Example:
        >>> student = nn.Sequential(nn.Embedding(5, 2), nn.Linear(2, 5))
        >>> _ = student[1].requires_grad_(False)
        >>> teacher = MeanEmbeddingTeacher(nn.Embedding(5, 5), student)
        >>> with teacher.open(TeacherContext()) as session:
        ...     session(Batch(torch.tensor([[1, 2, 3]]))).partial["logits"].mean.shape
        torch.Size([1, 3, 2])
        >>> teacher.encoding["name"], teacher.encoding["width"]
        ('mean-embedding', 2)
    """

    def __init__(self, teacher: Any, student: nn.Module | OutputLayer, *, temperature: float = 1.0) -> None:
        super().__init__(teacher)
        layer = get_output_layer(student) if isinstance(student, nn.Module) else student
        if layer is None:
            raise LimbeckError(
                f"A {type(student).__name__} has no plain linear output layer, so there are no output embeddings."
            )
        self.layer, self.temperature = layer, float(temperature)
        self._mark = mark_layer(layer)
        example = torch.zeros(1, layer.weight.shape[-1])
        MeanEmbedding(example[:, 0], example, example[:, 0], classes=len(layer.weight)).check_layer(layer)

    @property
    def inner(self) -> Teacher:
        """The teacher whose probabilities weigh the embeddings."""
        return self.teachers[0]

    @property
    def encoding(self) -> dict[str, Any]:
        """The encoding for a `CachedTeacher` around this teacher; ``bits=32`` may be added."""
        own = {"width": self.layer.weight.shape[-1], "layer": self._mark, "temperature": self.temperature}
        return {"name": "mean-embedding", **own}

    @property
    def capabilities(self) -> TeacherCapabilities:
        """The teacher's, but partial."""
        return super().capabilities._replace(partial=True, gradients=False)

    def open(self, context: TeacherContext) -> TeacherSession:
        """Open the teacher, for logits that are not multiplied out where it can."""
        self.check_full_logits("A mean of output embeddings")
        for address in context.requires - {LOGITS}:
            raise missing_output_error(address, [LOGITS], who="a mean of output embeddings")
        for temperature in context.temperatures:
            if not math.isclose(temperature, self.temperature, rel_tol=1e-9):
                raise LimbeckError(
                    f"These mean embeddings are made for temperature {self.temperature:g}, and the loss has "
                    f"{temperature:g}. Use MeanEmbeddingTeacher(..., temperature={temperature:g})."
                )
        hidden = TeacherContext(
            requires=context.requires, device=context.device, preprocess=context.preprocess, loader=context.loader,
            models=context.models, hidden_logits=True,
        )  # fmt: skip
        return _MeanSession(self.open_all(hidden), self.layer, self.temperature)

    @property
    def fingerprint(self) -> str:
        """The hash of the teacher's fingerprint, the layer and the temperature."""
        digest = hashlib.sha256(f"mean of {self.inner.fingerprint} {self.temperature} {self.layer.scale}".encode())
        for part in (self.layer.weight, self.layer.bias):
            if part is not None:
                digest.update(part.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """The teacher, and the layer's shape and checksum."""
        shape = list(self.layer.weight.shape)
        own = {"layer": shape, "mark": self._mark, "temperature": self.temperature}
        return {"teacher": "MeanEmbeddingTeacher", "of": self.inner.describe(), **own}


@final
class _MeanSession(WrapperSession):
    def __init__(self, sessions: Sequence[TeacherSession], layer: OutputLayer, temperature: float) -> None:
        super().__init__(sessions)
        self._layer, self._temperature = layer, temperature

    def combine(self, batch: Batch, outputs: Sequence[Outputs]) -> Outputs:
        (own,) = outputs
        if LOGITS not in own and LOGITS not in own.hidden:
            return Outputs()
        logits: Any = own.hidden[LOGITS] if LOGITS in own.hidden else own[LOGITS]
        leading = logits.shape[:-1]
        rows = logits.reshape(-1) if isinstance(logits, HiddenLogits) else logits.flatten(0, -2)
        counted = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        if batch.mask is not None and batch.mask.shape == leading:
            counted = batch.mask.flatten().bool().to(rows.device)
        device = rows.device
        layer = self._layer._replace(
            weight=self._layer.weight.to(device), bias=None if self._layer.bias is None else self._layer.bias.to(device)
        )
        mean = make_mean_embedding(rows[counted], layer, temperature=self._temperature)
        entropy, vectors, bias = (
            _spread(part, counted).reshape(*leading, *part.shape[1:]) for part in (mean.entropy, mean.mean, mean.bias)
        )
        own_mean = MeanEmbedding(
            entropy, vectors, bias, classes=mean.classes, temperature=mean.temperature, layer_mark=mean.layer_mark
        )
        return Outputs.of({LOGITS: own_mean})


def _spread(part: Tensor, counted: Tensor) -> Tensor:
    """The rows at the places that count, and 0 elsewhere."""
    whole = part.new_zeros(len(counted), *part.shape[1:])
    whole[counted] = part
    return whole
