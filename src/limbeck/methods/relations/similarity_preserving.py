"""Similarity-preserving distillation: examples that are alike for the teacher are alike for the student."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.functional import KernelClaim, kernel
from limbeck.functional.directions import inner_products, is_moderate
from limbeck.functional.relations import flatten_examples, normalize_rows, place_pairs, select_examples
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.layers import Layers, pair_layers
from limbeck.methods.relations.objective import add_targets, sum_objectives
from limbeck.methods.support import check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task


@kernel(per="pair")
def similarity_squared_error(
    student: Float[Tensor, "batch ..."],
    teacher: Float[Tensor, "batch ..."],
    mask: Bool[Tensor, "batch ..."] | None = None,
) -> Float[Tensor, "batch batch"]:
    r"""Compute the squared differences of two batches' normalized similarities, one value for each pair.

    :math:`(\tilde G_S - \tilde G_T)_{ij}^2` with :math:`G = Q Q^\top`, where row i of Q is all of the features of
    example i, and each row of :math:`G` is divided by its Euclidean length. The mean over pairs is the loss of the
    paper, :math:`\frac{1}{b^2} \|\tilde G_S - \tilde G_T\|_F^2`. A value is from 0 to 4.

    It does not depend on the number of features, on a rotation of the features, or on their scale. The features are not
    centered. An example whose features are all 0 is alike to none.

    Args:
        student: Features of the student.
        teacher: Features of the teacher, of any width.
        mask: True where a position of a sequence counts; the others are 0 in both. An example without any is left out.

    Example:
        >>> import torch
        >>> similarity_squared_error(torch.eye(2), torch.ones(2, 3))
        tensor([[0.0858, 0.5000],
                [0.5000, 0.0858]])

    Source: Tung and Mori, 2019, arXiv:1907.09682, section 3.
    """
    counted, student, teacher = select_examples(mask, student, teacher)
    return place_pairs((_similarities(student, counted) - _similarities(teacher, counted)).square(), mask)


def _similarities(features: Tensor, mask: Tensor | None) -> Tensor:
    rows = flatten_examples(features, mask, scale=False)
    # The lengths of rows of products do not depend on the scale, which must only not be extreme.
    return normalize_rows(inner_products(rows if is_moderate(rows) else flatten_examples(rows)))


CARD = MethodCard(
    name="similarity_preserving",
    title="Similarity-Preserving Knowledge Distillation",
    authors="Tung and Mori",
    year=2019,
    arxiv="1907.09682",
    venue="ICCV 2019",
    claim="Two examples with similar activations in the teacher get similar activations in the student, of any width.",
    when="When student and teacher have layers of different width or shape: nothing is projected, and no parameters "
    "are added. It needs labels or soft targets beside it. Batches need several examples, and it cannot be "
    "accumulated: the similarities are those of a whole batch. Compare with hinton, which was better in 11 of 13 pairs "
    "of networks in the table of RepDistiller on CIFAR-100.",
    bibtex="""@inproceedings{tung2019similarity,
  title = {Similarity-Preserving Knowledge Distillation},
  author = {Tung, Frederick and Mori, Greg},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year = {2019},
  eprint = {1907.09682},
  archivePrefix = {arXiv}
}""",
    reads=("features",),
    example={"at": "layer1", "student_at": "layer1"},
    ranges={"weight": SearchRange(10.0, 10000.0, log=True)},
    tasks=("classification", "multi_label", "regression", "segmentation", "language_modeling"),
    kernels=(
        KernelClaim(
            similarity_squared_error,
            zero_at_equality=True,
            logits=False,
            invariances=(
                "student_batch_scale", "teacher_batch_scale", "student_negation", "teacher_negation",
                "student_rotation", "teacher_rotation", "joint_rotation",
            ),
        ),
        KernelClaim(
            similarity_squared_error,
            zero_at_equality=True,
            logits=False,
            shape=(3, 4, 4),
            teacher_shape=(5, 2, 2),
            channels=1,
            invariances=("student_position_permutation", "student_channel_permutation"),
        ),
    ),
    keywords=("sp",),
)  # fmt: skip


@validates_arguments
def similarity_preserving(
    teacher: Any,
    *,
    at: Layers,
    student_at: Layers,
    weight: float = 3000.0,
    labels: bool = True,
    soft_weight: float = 0.0,
    temperature: float | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels, and the teacher's similarities between examples: :math:`-\log q_y + \gamma \sum_{l} L_{SP}`.

    :math:`L_{SP} = \frac{1}{b^2} \|\tilde G_S - \tilde G_T\|_F^2` for each pair of layers, with the row-normalized
    similarities :math:`\tilde G` of `similarity_squared_error`.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        at: Name of the teacher's layer, or of several.
        student_at: Name of the student's layer, or of as many.
        weight: Gamma, the weight of the similarities of each layer, at least 0; 3000 in the paper on CIFAR-10.
        labels: Whether to use labels. False drops the label term.
        soft_weight: Weight of the soft targets of `hinton`, at least 0; the paper has none.
        temperature: T of the soft targets, above 0; 4 by default.
        task: What the targets are; the losses of labels and soft targets are its own.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If a weight is negative, `temperature` is not above 0 or has no soft targets, or there
            are more layers of one model.

    Example:
        >>> from torch import nn
        >>> recipe = similarity_preserving(nn.Linear(4, 3), at="layer2", student_at="layer1", weight=100.0)
        >>> [repr(stage.objective) for stage in recipe.stages()]
        ["Loss(cross_entropy) + 100.0 * Loss(similarity_squared_error, student='layer1', teacher='layer2')"]

    Source: Tung and Mori, 2019, arXiv:1907.09682, section 3.
    """
    check_weight(weight=weight)
    pairs = pair_layers(at, student_at)
    similarities = [weight * Loss(similarity_squared_error, student=mine, teacher=its) for mine, its in pairs]
    objective = add_targets(
        sum_objectives(similarities),
        CARD.get_task(task),
        labels=labels,
        soft_weight=soft_weight,
        temperature=temperature,
    )
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="similarity_preserving"))
