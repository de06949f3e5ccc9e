"""Self-supervision: the student also learns what the teacher knows of rotated images, and of which belong together."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.batch import IGNORED, LOGITS, Batch, Outputs, Progress, Requirements, Term
from limbeck.data.rotated_loader import TURNS, UPRIGHT, RotatedLoader
from limbeck.errors import LimbeckError, callable_name
from limbeck.functional import KernelClaim, check_hyper, cross_entropy, kernel, kl_divergence
from limbeck.functional.relations import normalize_rows
from limbeck.losses import Loss, LossContext, LossTerm, all_gather, all_reduce_sum
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.relations.pretext_teacher import PretextTeacher, make_projection, pool_channels
from limbeck.methods.support import check_share, check_temperature, check_weight
from limbeck.recipe import Models, Recipe, Stage, output_shapes, teacher_module
from limbeck.teachers import ModelTeacher, as_teacher, describe_preprocess

PRETEXT = "sskd_teacher"
"""The name of the teacher with its projection among the models of the run."""


def select_by_error(
    probabilities: Float[Tensor, "rows classes"], labels: Int[Tensor, " rows"], *, keep: float
) -> Bool[Tensor, " rows"]:
    """Select rows whose label is the most probable class, and of the others the share `keep` with the least error.

    The error is the number of classes that are more probable than the label; of equal ones, a smaller probability is
    worse. Rows without a label (-100) are selected.

    Example:
        >>> p = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.7, 0.2, 0.1]])
        >>> select_by_error(p, torch.tensor([0, 2, 1]), keep=0.5)
        tensor([ True, False,  True])
    """
    known = labels != IGNORED
    own = probabilities.gather(1, labels.where(known, 0).unsqueeze(1))
    error = (probabilities > own).sum(1)
    wrong = (error > 0) & known
    kept = int(int(wrong.sum()) * keep)
    badness = (error + 1 - own.squeeze(1)).masked_fill(~wrong, torch.inf)
    selected = ~wrong
    selected[badness.argsort(stable=True)[:kept]] = True
    return selected


@kernel(per="batch")
def rotated_kl(
    student: Float[Tensor, "batch rotations classes"],
    teacher: Float[Tensor, "batch rotations classes"],
    labels: Int[Tensor, " batch"],
    *,
    temperature: float = 4.0,
    keep: float = 1.0,
) -> Float[Tensor, ""]:
    r"""Compute :math:`T^2 KL(p \| q)` of rotated images, the mean in nats over those that `select_by_error` selects.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        labels: The class of each image; -100 for none.
        temperature: T, above 0.
        keep: The share of images that the teacher classifies wrongly, from 0 to 1.

    Example:
        >>> z, v = torch.zeros(1, 2, 2), torch.tensor([[[9.0, 0.0], [0.0, 9.0]]])
        >>> rotated_kl(z, v, torch.tensor([0]), temperature=1.0, keep=0.0) == kl_divergence(z[0, :1], v[0, :1])[0]
        tensor(True)

    Source: Xu et al., 2020, arXiv:2006.07114, section 3.3.
    """
    values = kl_divergence(student, teacher, temperature=temperature).flatten()
    if values.numel() == 0:
        return values.sum()
    # A row of nothing but -inf has no most probable class; its divergence is 0.
    p = torch.softmax(teacher.detach() / temperature, -1).nan_to_num().flatten(0, 1)
    selected = select_by_error(p, labels.repeat_interleave(student.shape[1]), keep=keep)
    return values.where(selected, 0.0).sum() / selected.sum().clamp_min(1)


def compare_rotated(embeddings: Float[Tensor, "batch rotations size"]) -> Float[Tensor, "rotated batch"]:
    """Compute the cosines of each rotated image's embedding with those of all upright images; upright is rotation 0.

    Example:
        >>> compare_rotated(torch.tensor([[[1.0, 0.0], [2.0, 0.0]], [[0.0, 1.0], [0.0, 3.0]]]))
        tensor([[1., 0.],
                [0., 1.]])
    """
    units = normalize_rows(embeddings)
    return units[:, 1:].flatten(0, 1) @ units[:, 0].T


def _own_image(embeddings: Tensor) -> Int[Tensor, " rotated"]:
    return torch.arange(len(embeddings), device=embeddings.device).repeat_interleave(embeddings.shape[1] - 1)


@kernel(per="batch")
def rotation_cross_entropy(
    student: Float[Tensor, "batch rotations size"], *, temperature: float = 0.5
) -> Float[Tensor, ""]:
    r"""Compute the cross-entropy of finding the upright image of each rotated one, the mean in nats.

    :math:`-\log \frac{\exp(\cos(\tilde z_i, z_i) / \tau)}{\sum_k \exp(\cos(\tilde z_i, z_k) / \tau)}`.

    Args:
        student: Embeddings of each image and its rotations, of which the first is upright.
        temperature: :math:`\tau`, above 0.

    Example:
        >>> rotation_cross_entropy(torch.ones(4, 2, 3))
        tensor(1.3863)

    Source: Xu et al., 2020, arXiv:2006.07114, equation 3.
    """
    if student.numel() == 0:
        return student.sum()
    return F.cross_entropy(compare_rotated(student) / temperature, _own_image(student))


@kernel(per="batch")
def rotated_similarity_kl(
    student: Float[Tensor, "batch rotations ds"],
    teacher: Float[Tensor, "batch rotations dt"],
    *,
    temperature: float = 0.5,
    keep: float = 0.75,
) -> Float[Tensor, ""]:
    r"""Compute :math:`\tau^2 KL(p_i \| q_i)`, the mean in nats over rotated images that `select_by_error` selects.

    :math:`p_i` is the softmax over upright images k of :math:`\cos(\tilde z_i, z_k) / \tau` for the teacher's
    embeddings, q for the student's. An image is wrong if the teacher finds another upright one more similar.

    Args:
        student: Embeddings of each image and its rotations, of which the first is upright.
        teacher: Those of the teacher, of any width.
        temperature: :math:`\tau`, above 0.
        keep: The share of wrong images that is learned, from 0 to 1.

    Example:
        >>> rotated_similarity_kl(torch.ones(2, 4, 3), torch.ones(2, 4, 5))
        tensor(0.)

    Source: Xu et al., 2020, arXiv:2006.07114, equation 5.
    """
    if student.numel() == 0:
        return student.sum()
    ours, theirs = compare_rotated(student), compare_rotated(teacher)
    selected = select_by_error(torch.softmax(theirs.detach() / temperature, 1), _own_image(student), keep=keep)
    values = kl_divergence(ours, theirs, temperature=temperature)
    return values.where(selected, 0.0).sum() / selected.sum().clamp_min(1)


class RotationLoss(LossTerm):
    """A kernel of images and their rotations, over the images of all ranks."""

    per = "batch"

    def __init__(
        self,
        kernel: Callable[..., Tensor],
        student_at: str,
        at: str | None = None,
        *,
        projects: bool = False,
        **hyper: float,
    ) -> None:
        super().__init__()
        self.kernel, self.name = kernel, callable_name(kernel)
        self.student_at, self.at, self.projects, self.hyper = student_at, at, projects, hyper
        self.projection: nn.Module = nn.Identity()

    @property
    def requires(self) -> Requirements:
        """One output of each model."""
        theirs = frozenset() if self.at is None else frozenset({self.at})
        return Requirements(frozenset({self.student_at}), theirs, frozenset())

    def setup(self, context: LossContext) -> RotationLoss:
        """A copy with a projection of the student's features, if it projects them."""
        fitted = copy.copy(self)
        if self.projects:
            features = pool_channels(context.student[self.student_at])
            fitted.projection = make_projection(features.shape[1]).to(features)
        return fitted

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The value of the whole batch."""
        features = student[self.student_at]
        tensors = [_gather(features if self.student_at == LOGITS else self.projection(pool_channels(features)), batch)]
        if self.at is not None:
            tensors.append(_gather(teacher[self.at], batch))
        if self.kernel is rotated_kl:
            tensors = [*(each[:, 1:] for each in tensors), all_gather(_labels(batch))]
        return Term(self.kernel(*tensors, **self.hyper), self.count(batch))

    def count(self, batch: Batch) -> float:
        """1, unless no example counts."""
        return min(all_reduce_sum(float(batch.valid.sum())), 1.0)

    def __repr__(self) -> str:
        return f"RotationLoss({self.name!r}, {self.student_at!r}, {self.at!r}, projects={self.projects}, {self.hyper})"


def _labels(batch: Batch) -> Int[Tensor, " images"]:
    """The class of each image that counts; -100 if the batch has none."""
    images = _images(batch)
    if batch.labels is None:
        return torch.full((int(images.sum()),), IGNORED, device=images.device)
    return batch.labels[: len(images)][images]


def _images(batch: Batch) -> Bool[Tensor, " images"]:
    """Which of the images, before rotation, count."""
    return batch.valid[: batch.size // TURNS]


def _gather(rows: Tensor, batch: Batch) -> Float[Tensor, "images rotations ..."]:
    """The rows of all ranks by image and rotation."""
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return all_gather(wide.unflatten(0, (TURNS, -1)).transpose(0, 1)[_images(batch)])


class _MakePretextTeacher:
    """Makes the teacher with its projection, from a copy of the teacher."""

    def __init__(self, teacher: Any, at: str) -> None:
        self.teacher, self.at = teacher, at

    def __call__(self, models: Models) -> nn.Module:
        """Make the teacher with its projection."""
        module = teacher_module(self.teacher, models)
        shape = output_shapes(models, [self.at], model=module)[self.at]
        return PretextTeacher(copy.deepcopy(module), self.at, shape[-1] if len(shape) == 2 else shape[0])

    def describe(self) -> dict[str, Any]:
        """The settings."""
        return {"at": self.at}


CARD = MethodCard(
    name="sskd",
    title="Knowledge Distillation Meets Self-Supervision",
    authors="Xu, Liu, Li and Loy",
    year=2020,
    arxiv="2006.07114",
    venue="ECCV 2020",
    claim="Beside labels and soft targets, the student learns the teacher's answers for rotated images, and how "
    "similar the teacher finds a rotated image and all upright ones.",
    when="For images whose rotation says nothing new about their class, with a student of another architecture than "
    "the teacher, where the paper gains most. Each step costs four times as much, because every image is seen in four "
    "rotations. Compare with hinton at four times the epochs.",
    bibtex="""@inproceedings{xu2020knowledge,
  title = {Knowledge Distillation Meets Self-Supervision},
  author = {Xu, Guodong and Liu, Ziwei and Li, Xiaoxiao and Loy, Chen Change},
  booktitle = {European Conference on Computer Vision},
  year = {2020},
  eprint = {2006.07114},
  archivePrefix = {arXiv}
}""",
    reads=("logits", "features"),
    labels="few",
    needs="square images, and the teacher's module",
    example={"at": "features", "student_at": "features"},
    trials=("cnn", "resnet"),
    ranges={
        "weight": SearchRange(0.1, 0.95),
        "rotation_weight": SearchRange(0.1, 10.0, log=True),
        "similarity_weight": SearchRange(1.0, 50.0, log=True),
    },
    task_reason="its errors are ranks of a label among the classes of an image",
    kernels=(
        KernelClaim(rotated_kl, shape=(3, 5), zero_at_equality=True),
        KernelClaim(rotated_kl, shape=(3, 5), zero_at_equality=True, hyper={"keep": 0.5}),
        KernelClaim(rotation_cross_entropy, shape=(4, 5), logits=False, invariances=("student_rotation",)),
        KernelClaim(
            rotated_similarity_kl,
            shape=(4, 5),
            teacher_shape=(4, 6),
            logits=False,
            zero_at_equality=True,
            invariances=("student_rotation", "teacher_rotation", "student_scale", "teacher_scale"),
        ),
    ),
)


@validates_arguments
def sskd(
    teacher: Any,
    *,
    at: str,
    student_at: str,
    label_weight: float = 0.1,
    weight: float = 0.9,
    rotation_weight: float = 2.7,
    similarity_weight: float = 10.0,
    temperature: float = 4.0,
    similarity_temperature: float = 0.5,
    keep_rotated: float = 1.0,
    keep_similarities: float = 0.75,
    pretext_epochs: int | None = None,
    epochs: int | None = None,
) -> Recipe:
    r"""Train in two stages: first a projection of the teacher that finds rotated images again, then the student.

    1. `rotation_cross_entropy` trains two layers on top of the teacher's features. The teacher itself stays as it is.
    2. The student minimizes :math:`\lambda_1 (-\log q_y) + \lambda_2 T^2 KL(p \| q)` of upright images, plus
       :math:`\lambda_T` times `rotated_kl` and :math:`\lambda_S` times `rotated_similarity_kl`.

    Args:
        teacher: The teacher: a module, a teacher of one module, or the name of a model in the run.
        at: Name of the teacher's layer whose features are projected, the one before the output layer.
        student_at: Name of the student's layer likewise.
        label_weight: Weight of the labels, at least 0; 0.1 in the authors' code.
        weight: Weight of the soft targets of upright images, at least 0; 0.9 in the authors' code.
        rotation_weight: Weight of the soft targets of rotated images, at least 0; 2.7 in the authors' code.
        similarity_weight: Weight of the similarities, at least 0; 10 in the authors' code.
        temperature: T of all soft targets, above 0; 4 in the authors' code.
        similarity_temperature: Temperature of the similarities, above 0; 0.5 in the authors' code.
        keep_rotated: Share of rotated images that is learned of those that the teacher classifies wrongly; 1 in the
            authors' code.
        keep_similarities: Share of rotated images that is learned of those for which the teacher finds another image
            more similar; 0.75 in the authors' code.
        pretext_epochs: Passes of the first stage; the run's budget by default.
        epochs: Passes of the second stage; the run's budget by default.

    Raises:
        LimbeckError: If an argument is out of range, or the teacher has a preprocess or adaptor of its own.

    Source: Xu et al., 2020, arXiv:2006.07114.
    """
    check_weight(
        label_weight=label_weight, weight=weight, rotation_weight=rotation_weight, similarity_weight=similarity_weight
    )
    check_share(keep_rotated=keep_rotated, keep_similarities=keep_similarities)
    check_hyper(temperature=temperature)
    check_temperature(similarity_temperature=similarity_temperature)
    source = as_teacher(teacher)
    if isinstance(source, ModelTeacher) and (
        source.adaptor is not None or describe_preprocess(source.preprocess) is not None
    ):
        raise LimbeckError(
            "sskd calls the teacher's module itself, and this teacher has a preprocess or adaptor of its own: let its "
            "forward() do both."
        )
    pretext = RotationLoss(rotation_cross_entropy, "projection", temperature=similarity_temperature)
    similar = RotationLoss(
        rotated_similarity_kl, student_at, "projection",
        projects=True, temperature=similarity_temperature, keep=keep_similarities,
    )  # fmt: skip
    objective = (
        label_weight * Loss(cross_entropy, where=UPRIGHT)
        + weight * Loss(kl_divergence, temperature=temperature, where=UPRIGHT)
        + rotation_weight * RotationLoss(rotated_kl, LOGITS, LOGITS, temperature=temperature, keep=keep_rotated)
        + similarity_weight * similar
    )
    return Recipe(
        Stage(pretext, trains=PRETEXT, only="projection", loader=RotatedLoader, epochs=pretext_epochs, name="pretext"),
        Stage(objective, teacher=PRETEXT, loader=RotatedLoader, epochs=epochs, name="sskd"),
        makes={PRETEXT: _MakePretextTeacher(teacher, at)},
    )
