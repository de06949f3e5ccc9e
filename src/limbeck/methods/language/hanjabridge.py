"""HanjaBridge: keep the similarities between tokens while learning a new domain, by a queue of old features."""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.batch import IGNORED, Batch, Outputs, Progress, Requirements, Term
from limbeck.errors import LimbeckError
from limbeck.functional import Projector, check_hyper
from limbeck.losses import FeatureQueue, LossContext, LossTerm, all_gather
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_count, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task, get_task

CARD = MethodCard(
    name="hanjabridge",
    title="HanjaBridge: Resolving Semantic Ambiguity in Korean LLMs via Hanja-Augmented Pre-Training",
    authors="Choi",
    year=2025,
    arxiv="2507.10920",
    venue="AAAI 2026",
    claim="While a model learns a new domain, its features of each token keep the similarities to other tokens that "
    "they had in the frozen model as it was, so less is forgotten.",
    when="When a trained model is trained further on another domain or language and should keep what it knows: the "
    "teacher is a copy of the student. Compare with hinton and the same copy as teacher. A test here shows that the "
    "similarities move less. That less is forgotten was not seen: a small network that learned digits and then rotated "
    "ones forgot as much with the loss, and more at the temperatures of the paper, which are for large language "
    "models. Reduced to the distillation with a queue: inserting Hanja behind ambiguous Korean words needs a "
    "dictionary and its attention masks a model of its own, so neither they nor the gains in Korean are part of it. "
    "Teacher and student have one tokenizer, as a copy of the student has.",
    bibtex="""@article{choi2025hanjabridge,
  title = {HanjaBridge: Resolving Semantic Ambiguity in Korean LLMs via Hanja-Augmented Pre-Training},
  author = {Choi, Seungho},
  journal = {arXiv preprint arXiv:2507.10920},
  year = {2025}
}
@inproceedings{fang2021seed,
  title = {{SEED}: Self-supervised Distillation For Visual Representation},
  author = {Fang, Zhiyuan and Wang, Jianfeng and Wang, Lijuan and Zhang, Lei and Yang, Yezhou and Liu, Zicheng},
  booktitle = {International Conference on Learning Representations},
  year = {2021}
}""",
    reads=("features",),
    labels="required",
    example={"at": "layer1", "student_at": "layer1", "size": 64},
    ranges={"weight": SearchRange(0.01, 10.0, log=True)},
    tasks=("language_modeling", "classification"),
)


def queue_cross_entropy(
    student: Float[Tensor, "rows width"],
    teacher: Float[Tensor, "rows width"],
    queue: Float[Tensor, "stored width"],
    *,
    teacher_temperature: float,
    student_temperature: float,
) -> Float[Tensor, " rows"]:
    r"""Compute :math:`-\sum_{d \in D_i} p^T_i(d) \log p^S_i(d)` in nats for each row i.

    :math:`p_i(d) = \exp(z_i \cdot d / \tau) / \sum_{d' \in D_i} \exp(z_i \cdot d' / \tau)` for z of the student or of
    the teacher, all of length 1. :math:`D_i` is the queue and the teacher's own :math:`z_i`. For equal features and
    temperatures it is the entropy of :math:`p_i`; gradients are those of the KL divergence.

    Args:
        student: The student's features.
        teacher: The teacher's features.
        queue: Earlier features of the teacher, of length 1.
        teacher_temperature: tau of the teacher.
        student_temperature: tau of the student.

    Example:
        >>> z, u = torch.eye(2)[:1], torch.eye(2)[1:]
        >>> queue_cross_entropy(z, z, u, teacher_temperature=0.01, student_temperature=1.0)
        tensor([0.3133])
    """
    z, own = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    p = torch.cat([own @ queue.T, (own * own).sum(-1, keepdim=True)], 1) / teacher_temperature
    q = torch.cat([z @ queue.T, (z * own).sum(-1, keepdim=True)], 1) / student_temperature
    return -(p.softmax(-1) * q.log_softmax(-1)).sum(-1)


class QueueDistillation(LossTerm):
    """The mean of `queue_cross_entropy` over tokens, or examples; the queue has the teacher's features of past ones."""

    name, per = "queue_distillation", "position"
    queue: FeatureQueue
    head: nn.Module

    def __init__(
        self, student_at: str, at: str, *, size: int, teacher_temperature: float, student_temperature: float
    ) -> None:
        super().__init__()
        self.student_at, self.at, self.size = student_at, at, size
        self.temperatures_of_queue = {
            "teacher_temperature": teacher_temperature, "student_temperature": student_temperature
        }  # fmt: skip

    @property
    def requires(self) -> Requirements:
        """The features of both models."""
        return Requirements(frozenset({self.student_at}), frozenset({self.at}), frozenset())

    def setup(self, context: LossContext) -> QueueDistillation:
        """An empty queue for the teacher's features, and a linear map if the student's have another size.

        Raises:
            LimbeckError: If the two do not have the same positions.
        """
        ours = _rows(context.student[self.student_at], _counted(context.batch))
        theirs = _rows(context.teacher[self.at], _counted(context.batch))
        if len(ours) != len(theirs):
            raise LimbeckError(
                f"The student's features at {self.student_at!r} have {len(ours)} rows and the teacher's at {self.at!r} "
                f"{len(theirs)}: the two models need the same tokens."
            )
        fitted = copy.copy(self)
        fitted.queue = FeatureQueue(self.size, theirs.shape[1], dtype=_widen(theirs).dtype)
        fitted.head = nn.Identity()
        if ours.shape[1] != theirs.shape[1]:
            projector = Projector()
            projector.shape(ours, theirs)
            fitted.head = projector
        return fitted

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The sum over the rows that count."""
        counted = _counted(batch)
        keep = counted.flatten()
        ours, theirs = _rows(student[self.student_at], counted)[keep], _rows(teacher[self.at], counted)[keep]
        values = queue_cross_entropy(
            _widen(self.head(ours)), _widen(theirs), self.queue.rows, **self.temperatures_of_queue
        )
        return Term(values.sum(), float(keep.sum()))

    def count(self, batch: Batch) -> float:
        """The number of tokens that count, or of examples."""
        return float(_counted(batch).sum())

    def after_step(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> None:
        """Put the teacher's features into the queue."""
        counted = _counted(batch)
        theirs = _rows(teacher[self.at], counted)[counted.flatten()]
        self.queue.push(all_gather(F.normalize(_widen(theirs), dim=-1)))

    def __repr__(self) -> str:
        own = ", ".join(f"{name}={value}" for name, value in self.temperatures_of_queue.items())
        return f"QueueDistillation({self.student_at!r}, {self.at!r}, size={self.size}, {own})"


def _widen(features: Tensor) -> Tensor:
    """The features in float32 at least: small temperatures need its digits."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


def _rows(features: Tensor, counted: Tensor) -> Tensor:
    """The features as rows, one for each token, or for each example.

    Raises:
        LimbeckError: If they are those of other positions.
    """
    if features.shape[: counted.ndim] != counted.shape:
        raise LimbeckError(
            f"Features of the shape {list(features.shape)} are not those of the labels, {list(counted.shape)}: "
            "hanjabridge reads a layer with a row for each label. In an encoder-decoder that is one of the decoder."
        )
    return features.flatten(0, counted.ndim - 1).flatten(1)


def _counted(batch: Batch) -> Tensor:
    """The tokens of the mask, or without one those with a label; or the examples."""
    if batch.labels is not None and batch.labels.ndim == 2:
        return batch.labels != IGNORED if batch.mask is None else batch.mask.bool()
    return batch.valid


@validates_arguments
def hanjabridge(
    teacher: Any,
    *,
    at: str,
    student_at: str,
    size: int = 4096,
    weight: float = 0.1,
    teacher_temperature: float = 0.01,
    student_temperature: float = 0.2,
    task: str | Task = "language_modeling",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels and keep similarities: :math:`-\log q_y - \lambda \sum_d p^T(d) \log p^S(d)`.

    p are softmaxes of the similarities of a token's features to a queue of the teacher's features of past tokens
    (`queue_cross_entropy`).

    Args:
        teacher: The teacher, frozen: usually a copy of the student, ``copy.deepcopy(student)``.
        at: Name of the teacher's layer.
        student_at: Name of the student's layer.
        size: The number of features in the queue, at least 1.
        weight: lambda, at least 0; 0.1 in the paper.
        teacher_temperature: tau of the teacher, above 0; 0.01 in the paper.
        student_temperature: tau of the student, above 0; 0.2 in the paper.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range.

    Source: Choi, 2025, arXiv:2507.10920; the loss of Fang et al., SEED, 2021, arXiv:2101.04731.
    """
    check_count(size=size)
    check_weight(weight=weight)
    check_hyper(teacher_temperature=teacher_temperature, student_temperature=student_temperature)
    task = get_task(task)
    queue = QueueDistillation(
        student_at, at, size=size, teacher_temperature=teacher_temperature, student_temperature=student_temperature
    )
    return Recipe(Stage(task.supervised_loss() + weight * queue, teacher=teacher, epochs=epochs, name="hanjabridge"))
