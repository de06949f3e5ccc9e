"""Correlation congruence: the student keeps the teacher's correlations of examples under a Gaussian kernel."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.errors import ArgumentError
from limbeck.functional import KernelClaim, kernel
from limbeck.functional.directions import inner_products
from limbeck.functional.relations import flatten_examples, normalize_rows, place_pairs, select_examples
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.relations.objective import add_targets
from limbeck.methods.support import check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task


@kernel(per="pair")
def correlation_squared_error(
    student: Float[Tensor, "batch ..."],
    teacher: Float[Tensor, "batch ..."],
    mask: Bool[Tensor, "batch ..."] | None = None,
    *,
    gamma: float = 0.4,
    order: int = 2,
) -> Float[Tensor, "batch batch"]:
    r"""Compute the squared differences of two batches' correlations, one value for each pair.

    :math:`(C_S - C_T)_{ij}^2` with :math:`C_{ij} = \sum_{p=0}^{P} e^{-2\gamma} \frac{(2\gamma)^p}{p!} (x_i^\top x_j)^p`
    for features x of length 1. This is the Taylor series of the Gaussian kernel :math:`e^{-\gamma \|x_i - x_j\|^2}`,
    which is the limit of large orders. The mean over pairs is the loss of the paper,
    :math:`\frac{1}{n^2} \|C_S - C_T\|_2^2`.

    It does not depend on the width of the features, on a rotation, or on the length of any example's features.

    Args:
        student: Features of the student.
        teacher: Features of the teacher, of any width.
        mask: True where a position of a sequence counts; the others are 0 in both. An example without any is left out.
        gamma: :math:`\gamma` of the Gaussian kernel, above 0.
        order: P, the highest power of the series, at least 1.

    Raises:
        ArgumentError: If `gamma` is not above 0, or `order` is no whole number from 1.

    Example:
        >>> correlation_squared_error(torch.eye(2), torch.ones(2, 3), gamma=0.5, order=1)
        tensor([[0.0000, 0.1353],
                [0.1353, 0.0000]])

    Source: Peng et al., 2019, arXiv:1904.01802, section 3.
    """
    check_series(gamma, order)
    counted, student, teacher = select_examples(mask, student, teacher)
    difference = _correlate(student, counted, gamma, order) - _correlate(teacher, counted, gamma, order)
    return place_pairs(difference.square(), mask)


def check_series(gamma: float, order: int) -> None:
    """Check the Gaussian kernel's gamma and the order of its series.

    Raises:
        ArgumentError: If gamma is not above 0, or the order is no whole number from 1.
    """
    if isinstance(gamma, bool) or not (isinstance(gamma, int | float) and 0 < gamma < math.inf):
        raise ArgumentError(f"gamma is a finite number above 0; got {gamma!r}. The paper has 0.4.", argument="gamma")
    if isinstance(order, bool) or not (isinstance(order, int) and order >= 1):
        raise ArgumentError(f"order is a whole number of at least 1; got {order!r}. The paper has 2.", argument="order")


def _correlate(features: Tensor, mask: Tensor | None, gamma: float, order: int) -> Float[Tensor, "batch batch"]:
    rows = normalize_rows(flatten_examples(features, mask, scale=False))
    cosines = inner_products(rows)
    # Horner's scheme: 1 + 2g c (1 + 2g c / 2 (1 + ...)).
    series = torch.ones_like(cosines)
    for power in range(order, 0, -1):
        series = 1 + series * cosines * (2 * gamma / power)
    return math.exp(-2 * gamma) * series


CARD = MethodCard(
    name="correlation_congruence",
    title="Correlation Congruence for Knowledge Distillation",
    authors="Peng, Jin, Liu, Zhou, Wu, Liu, Li and Zhang",
    year=2019,
    arxiv="1904.01802",
    venue="ICCV 2019",
    claim="Beside the teacher's answer for each example, the student learns how examples correlate: "
    "the Gaussian kernel of each two.",
    when="In addition to soft targets, as in the paper, and with layers of different width. It works best "
    "with several examples of each class in a batch: `budget.examples_per_class=4`, or a `BalancedLoader`. It cannot "
    "be accumulated. Compare with hinton, which was better in all 13 pairs of networks in the table of RepDistiller on "
    "CIFAR-100.",
    bibtex="""@inproceedings{peng2019correlation,
  title = {Correlation Congruence for Knowledge Distillation},
  author = {Peng, Baoyun and Jin, Xiao and Liu, Jiaheng and Zhou, Shunfeng and Wu, Yichao and Liu, Yu and Li, Dongsheng
            and Zhang, Zhaoning},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year = {2019},
  eprint = {1904.01802},
  archivePrefix = {arXiv}
}""",
    reads=("logits", "features"),
    example={"at": "features", "student_at": "features"},
    ranges={"weight": SearchRange(0.1, 1000.0, log=True), "gamma": SearchRange(0.1, 2.0, log=True)},
    tasks=("classification", "multi_label", "regression", "segmentation", "language_modeling"),
    kernels=(
        KernelClaim(
            correlation_squared_error,
            zero_at_equality=True,
            logits=False,
            invariances=tuple(
                f"{side}_{kind}" for side in ("student", "teacher") for kind in ("scale", "negation", "rotation")
            ),
        ),
        KernelClaim(correlation_squared_error, zero_at_equality=True, logits=False, hyper={"gamma": 1.5, "order": 5}),
    ),
    keywords=("cc",),
)


@validates_arguments
def correlation_congruence(
    teacher: Any,
    *,
    at: str,
    student_at: str,
    weight: float = 100.0,
    gamma: float = 0.4,
    order: int = 2,
    labels: bool = True,
    soft_weight: float = 1.0,
    temperature: float | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels, soft targets, and the teacher's correlations of examples.

    The loss is :math:`-\log q_y + w T^2 KL(p_T \| q_T) + \beta L_{CC}`, where :math:`L_{CC}` is the mean of
    `correlation_squared_error` over pairs.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        at: Name of the teacher's layer.
        student_at: Name of the student's layer.
        weight: Beta, the weight of the correlations, at least 0. No public code of the authors gives one; 100 makes
            this term as large as a cross-entropy.
        gamma: Gamma of the Gaussian kernel, above 0; 0.4 in public code of the method.
        order: P, the highest power of the Taylor series, at least 1; 2 in the paper.
        labels: Whether to use labels. False drops the label term.
        soft_weight: w, the weight of the soft targets of `hinton`, at least 0.
        temperature: T of the soft targets, above 0; 4 by default.
        task: What the targets are; the losses of labels and soft targets are its own.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If a weight is negative, or `gamma`, `order` or `temperature` is out of range.

    Example:
        >>> from torch import nn
        >>> recipe = correlation_congruence(nn.Linear(4, 3), at="logits", student_at="logits", labels=False)
        >>> [repr(stage.objective) for stage in recipe.stages()]
        ['1.0 * Loss(kl_divergence, temperature=4.0) + 100.0 * Loss(correlation_squared_error, gamma=0.4, order=2)']

    Source: Peng et al., 2019, arXiv:1904.01802.
    """
    check_weight(weight=weight)
    check_series(gamma, order)
    correlations = weight * Loss(correlation_squared_error, student=student_at, teacher=at, gamma=gamma, order=order)
    objective = add_targets(
        correlations, CARD.get_task(task), labels=labels, soft_weight=soft_weight, temperature=temperature
    )
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="correlation_congruence"))
