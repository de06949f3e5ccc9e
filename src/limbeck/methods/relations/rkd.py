"""Relational knowledge distillation: the student keeps the teacher's distances and angles between examples."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import ArgumentError
from limbeck.functional import KernelClaim, kernel
from limbeck.functional.directions import is_moderate
from limbeck.functional.relations import (
    compute_distances,
    compute_gram,
    distances_from_gram,
    flatten_examples,
    place_pairs,
    select_examples,
)
from limbeck.losses import Loss, Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.relations.objective import add_targets, sum_objectives
from limbeck.methods.support import check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task


@kernel(per="pair")
def rkd_distance(
    student: Float[Tensor, "batch ..."],
    teacher: Float[Tensor, "batch ..."],
    mask: Bool[Tensor, "batch ..."] | None = None,
) -> Float[Tensor, "batch batch"]:
    r"""Compute the Huber loss between the distances of two batches, each in units of its own mean distance.

    :math:`\ell_\delta(\psi_D(t_i, t_j), \psi_D(s_i, s_j))` with :math:`\psi_D(x_i, x_j) = \|x_i - x_j\|_2 / \mu`,
    :math:`\mu` the mean over pairs of different examples, and :math:`\ell_\delta(x, y) = (x - y)^2 / 2` up to a
    difference of 1, :math:`|x - y| - 1/2` above.

    It does not depend on the width of the features, on a rotation, a translation or their scale. The pairs of an
    example with itself are 0, and count in the mean over the batch.

    Args:
        student: Features of the student.
        teacher: Features of the teacher, of any width.
        mask: True where a position of a sequence counts; the others are 0 in both. An example without any is left out.

    Example:
        >>> import torch
        >>> rkd_distance(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [3.0], [3.0]]))
        tensor([[0.0000, 0.2812, 0.0000],
                [0.2812, 0.0000, 0.2812],
                [0.0000, 0.2812, 0.0000]])

    Source: Park, Kim, Lu and Cho, 2019, arXiv:1904.05068, section 3.2.
    """
    counted, student, teacher = select_examples(mask, student, teacher)
    pair = (_relative_distances(student, counted), _relative_distances(teacher, counted))
    return place_pairs(F.smooth_l1_loss(*pair, reduction="none").to(student.dtype), mask)


def _rows(features: Tensor, mask: Tensor | None) -> Tensor:
    """The examples as rows, with a scale at which squares do not overflow."""
    rows = flatten_examples(features, mask, scale=False)
    return rows if is_moderate(rows) else flatten_examples(rows)


def _relative_distances(features: Tensor, mask: Tensor | None) -> Tensor:
    distances = compute_distances(_rows(features, mask))
    mean = distances.sum() / max(len(distances) * (len(distances) - 1), 1)
    return distances / mean.where(mean > 0, 1.0)


@kernel(per="pair")
def rkd_angle(
    student: Float[Tensor, "batch ..."],
    teacher: Float[Tensor, "batch ..."],
    mask: Bool[Tensor, "batch ..."] | None = None,
) -> Float[Tensor, "batch batch"]:
    r"""Compute the Huber loss between the angles of two batches, for each pair the mean over all vertices.

    :math:`\frac1b \sum_j \ell_\delta(\psi_A(t_i, t_j, t_k), \psi_A(s_i, s_j, s_k))` for the pair (i, k), with
    :math:`\psi_A(x_i, x_j, x_k) = \cos \angle x_i x_j x_k` at the vertex j: the inner product of the unit vectors from
    :math:`x_j` to :math:`x_i` and to :math:`x_k`. An angle with two equal points is 0.

    It does not depend on the width of the features, on a rotation, a translation or their scale. It needs memory for
    all triplets: 64 MiB for each copy of 256 examples in float32, twice that inside, in float64.

    Args:
        student: Features of the student.
        teacher: Features of the teacher, of any width.
        mask: True where a position of a sequence counts; the others are 0 in both. An example without any is left out.

    Example:
        >>> import torch
        >>> line, corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), torch.eye(3)[:, :2]
        >>> float(rkd_angle(line, line)[0, 2]), round(float(rkd_angle(corner, line)[0, 2]), 4)
        (0.0, 0.4024)

    Source: Park, Kim, Lu and Cho, 2019, arXiv:1904.05068, section 3.2.
    """
    counted, student, teacher = select_examples(mask, student, teacher)
    pair = (_cosines(student, counted), _cosines(teacher, counted))
    losses = F.smooth_l1_loss(*pair, reduction="none").sum(0) / max(len(student), 1)
    return place_pairs(losses.to(student.dtype), mask)


def _cosines(features: Tensor, mask: Tensor | None) -> Float[Tensor, "vertex batch batch"]:
    """The cosine at each vertex j between the directions to i and to k; 0 where a direction does not exist."""
    gram = compute_gram(_rows(features, mask))
    distances = distances_from_gram(gram)
    exists = distances > 0
    inverse = distances.where(exists, 1.0).reciprocal().where(exists, 0.0)
    to_vertex = gram.unsqueeze(1)  # [j, 1, i]
    products = gram.unsqueeze(0) - to_vertex - to_vertex.transpose(1, 2) + gram.diagonal()[:, None, None]
    return products * inverse.unsqueeze(1) * inverse.unsqueeze(2)


_INVARIANCES = tuple(
    f"{side}_{kind}"
    for side in ("student", "teacher")
    for kind in ("batch_scale", "negation", "rotation", "translation")
)

CARD = MethodCard(
    name="rkd",
    title="Relational Knowledge Distillation",
    authors="Park, Kim, Lu and Cho",
    year=2019,
    arxiv="1904.05068",
    venue="CVPR 2019",
    claim="The student keeps the teacher's distances between pairs of examples and angles between triplets, whatever "
    "the widths of the two embeddings.",
    when="For embeddings (retrieval, metric learning), where the student may even surpass its teacher in the paper. "
    "For classification add labels; compare with hinton, which was better in all 13 pairs of networks in the table of "
    "RepDistiller on CIFAR-100. Read the layer before the output layer. It compares all pairs and triplets of a batch, "
    "so it cannot be accumulated, and the angles need memory for batch size cubed.",
    bibtex="""@inproceedings{park2019relational,
  title = {Relational Knowledge Distillation},
  author = {Park, Wonpyo and Kim, Dongju and Lu, Yan and Cho, Minsu},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2019},
  eprint = {1904.05068},
  archivePrefix = {arXiv}
}""",
    reads=("features",),
    example={"at": "features", "student_at": "features"},
    ranges={
        "distance_weight": SearchRange(1.0, 100.0, log=True),
        "angle_weight": SearchRange(1.0, 200.0, log=True),
    },
    tasks=("classification", "multi_label", "regression", "segmentation", "language_modeling"),
    kernels=tuple(
        KernelClaim(relation, zero_at_equality=True, logits=False, invariances=_INVARIANCES)
        for relation in (rkd_distance, rkd_angle)
    ),
)


@validates_arguments
def rkd(
    teacher: Any,
    *,
    at: str,
    student_at: str,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
    labels: bool = True,
    soft_weight: float = 0.0,
    temperature: float | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels, distances and angles: :math:`-\log q_y + \lambda_D L_D + \lambda_A L_A`.

    :math:`L_D` and :math:`L_A` are the means of `rkd_distance` and `rkd_angle` over all pairs of the batch.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        at: Name of the teacher's layer.
        student_at: Name of the student's layer.
        distance_weight: Weight of the distances, at least 0; 25 in RepDistiller for classification, 1 in the paper for
            metric learning.
        angle_weight: Weight of the angles, at least 0; 50 in RepDistiller for classification, 2 in the paper for metric
            learning. 0 leaves them out, and saves their memory.
        labels: Whether to use labels. False leaves the relations alone, as the paper does for embeddings.
        soft_weight: Weight of the soft targets of `hinton`, at least 0.
        temperature: T of the soft targets, above 0; 4 by default.
        task: What the targets are; the losses of labels and soft targets are its own.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If a weight is negative, both weights of relations are 0, or `temperature` is not above 0 or
            has no soft targets.

    Example:
        >>> from torch import nn
        >>> recipe = rkd(nn.Linear(4, 3), at="logits", student_at="logits", angle_weight=0.0)
        >>> [repr(stage.objective) for stage in recipe.stages()]
        ['Loss(cross_entropy) + 25.0 * Loss(rkd_distance)']

    Source: Park, Kim, Lu and Cho, 2019, arXiv:1904.05068.
    """
    check_weight(distance_weight=distance_weight, angle_weight=angle_weight)
    relations: list[Objective] = [
        weight * Loss(relation, student=student_at, teacher=at)
        for weight, relation in ((distance_weight, rkd_distance), (angle_weight, rkd_angle))
        if weight
    ]
    if not relations:
        raise ArgumentError(
            "distance_weight=0 and angle_weight=0 leave no relation to learn; raise one, or use supervised or hinton.",
            argument="distance_weight",
        )
    objective = add_targets(
        sum_objectives(relations),
        CARD.get_task(task), labels=labels, soft_weight=soft_weight, temperature=temperature,
    )  # fmt: skip
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="rkd"))
