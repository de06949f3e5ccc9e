"""Probabilistic knowledge transfer: the student learns the teacher's probabilities of neighbors."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.functional import KernelClaim, kernel
from limbeck.functional.directions import inner_products
from limbeck.functional.relations import flatten_examples, normalize_rows, off_diagonal, select_examples
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.relations.objective import add_targets
from limbeck.methods.support import check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task

_SMALLEST = 1e-6  # similarity of opposite features, whose logarithm would be infinite


@kernel(per="batch")
def neighbor_kl(
    student: Float[Tensor, "batch ..."],
    teacher: Float[Tensor, "batch ..."],
    mask: Bool[Tensor, "batch ..."] | None = None,
) -> Float[Tensor, ""]:
    r"""Compute the KL divergence between two batches' probabilities of neighbors, in nats, the mean over examples.

    :math:`\frac1b \sum_i \sum_{j \ne i} p_{j|i} \log(p_{j|i} / q_{j|i})`, where
    :math:`p_{j|i} = K(x_i, x_j) / \sum_{k \ne i} K(x_i, x_k)` for the teacher's features, q for the student's, and
    :math:`K(a, b) = \frac12 (a^\top b / (\|a\| \|b\|) + 1)`, at least 1e-6.

    It does not depend on the width of the features, on a rotation, or on the length of any example's features. It is 0
    for one or two examples, which have no choice of neighbors.

    Args:
        student: Features of the student.
        teacher: Features of the teacher, of any width.
        mask: True where a position of a sequence counts; the others are 0 in both. An example without any is left out.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
        >>> neighbor_kl(torch.eye(3), teacher).round(decimals=4)
        tensor(0.4621)

    Source: Passalis and Tefas, 2018, arXiv:1803.10837, section 3.
    """
    mask, student, teacher = select_examples(mask, student, teacher)
    if len(student) == 0:
        return student.sum() * 0.0
    p, q = _neighbors(teacher, mask), _neighbors(student, mask)
    # p - q sums to 0. With it each value is at least 0, and the gradient at p = q is exactly 0.
    pairs = p * (p.log() - q.log()) - p + q
    return pairs.where(off_diagonal(len(p), p.device), 0.0).sum() / len(p)


def _neighbors(features: Tensor, mask: Tensor | None) -> Float[Tensor, "batch batch"]:
    """The probability of each neighbor; 1 for the example itself, which is to be left out."""
    rows = normalize_rows(flatten_examples(features, mask, scale=False))
    others = off_diagonal(len(rows), rows.device)
    similarities = ((inner_products(rows) + 1) / 2).clamp_min(_SMALLEST).where(others, 0.0)
    sums = similarities.sum(1, keepdim=True)
    return (similarities / sums.where(sums > 0, 1.0)).where(others, 1.0)


CARD = MethodCard(
    name="pkt",
    title="Learning Deep Representations with Probabilistic Knowledge Transfer",
    authors="Passalis and Tefas",
    year=2018,
    arxiv="1803.10837",
    venue="ECCV 2018",
    claim="The student learns with which probability two examples are neighbors in the teacher's feature space, not "
    "the features themselves.",
    when="For embeddings that are compared by their cosine, such as those of retrieval, also without labels, and where "
    "student and teacher differ in width. Batches need at least three examples, and it cannot be accumulated. Compare "
    "with hinton, which was better in 10 of 13 pairs of networks in the table of RepDistiller on CIFAR-100.",
    bibtex="""@inproceedings{passalis2018learning,
  title = {Learning Deep Representations with Probabilistic Knowledge Transfer},
  author = {Passalis, Nikolaos and Tefas, Anastasios},
  booktitle = {European Conference on Computer Vision},
  year = {2018},
  eprint = {1803.10837},
  archivePrefix = {arXiv}
}""",
    reads=("features",),
    example={"at": "features", "student_at": "features"},
    ranges={"weight": SearchRange(10.0, 5000.0, log=True)},
    tasks=("classification", "multi_label", "regression", "segmentation", "language_modeling"),
    kernels=(
        KernelClaim(
            neighbor_kl,
            zero_at_equality=True,
            logits=False,
            invariances=tuple(
                f"{side}_{kind}" for side in ("student", "teacher") for kind in ("scale", "negation", "rotation")
            ),
        ),
    ),
)


@validates_arguments
def pkt(
    teacher: Any,
    *,
    at: str,
    student_at: str,
    weight: float = 500.0,
    labels: bool = True,
    soft_weight: float = 0.0,
    temperature: float | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels, and the teacher's probabilities of neighbors: :math:`-\log q_y + w L_{PKT}`, with `neighbor_kl`.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        at: Name of the teacher's layer.
        student_at: Name of the student's layer.
        weight: w, the weight of the divergence in nats for each example, at least 0. RepDistiller has 30,000 for the
            mean over pairs of batches of 64, which is 469 for the mean over examples.
        labels: Whether to use labels. False leaves the relations alone, as the paper does for embeddings.
        soft_weight: Weight of the soft targets of `hinton`, at least 0.
        temperature: T of the soft targets, above 0; 4 by default.
        task: What the targets are; the losses of labels and soft targets are its own.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If a weight is negative, or `temperature` is not above 0 or has no soft targets.

    Example:
        >>> from torch import nn
        >>> recipe = pkt(nn.Linear(4, 3), at="layer2", student_at="layer1", labels=False)
        >>> [repr(stage.objective) for stage in recipe.stages()]
        ["500.0 * Loss(neighbor_kl, student='layer1', teacher='layer2')"]

    Source: Passalis and Tefas, 2018, arXiv:1803.10837.
    """
    check_weight(weight=weight)
    neighbors = weight * Loss(neighbor_kl, student=student_at, teacher=at)
    objective = add_targets(
        neighbors, CARD.get_task(task), labels=labels, soft_weight=soft_weight, temperature=temperature
    )
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="pkt"))
