"""DIST: correlations of predictions, over the classes of an example and over the examples of a class."""

from __future__ import annotations

import functools
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.functional import KernelClaim, check_hyper, kernel, probabilities
from limbeck.functional.blockwise import through_softmax_into
from limbeck.functional.closed_form import is_well_scaled
from limbeck.functional.directions import slopes_of_directions
from limbeck.functional.kernel import validates_pair
from limbeck.functional.row_blocks import Needed, Slopes, apply_slopes, compute_by_rows
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import add_label_loss, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task

_SMALLEST = 1e-30  # a class whose probabilities differ by less counts as constant
_FLAT = 1e-4  # standard deviation over mean, below which rounding is looked at more closely


def pearson_distance(
    ours: Float[Tensor, "*batch values"], theirs: Float[Tensor, "*batch values"], live: Bool[Tensor, "*batch values"]
) -> Float[Tensor, "*batch"]:
    r"""Compute :math:`1 - \rho` of two rows, with :math:`\rho` their Pearson correlation, from 0 to 2.

    Values that are not `live` do not exist. If the teacher's row is constant there is no relation to learn, and the
    distance is 0. If the student's alone is constant, its correlation is 0 and the distance 1.

    Args:
        ours: The student's values.
        theirs: The teacher's values.
        live: Which values exist.

    Example:
        >>> x, y = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([5.0, 4.0, 3.0])
        >>> pearson_distance(x, y, torch.ones(3, dtype=torch.bool))
        tensor(2.0000)
    """
    x, y = (_direction(values, live) for values in (ours, theirs))
    # Half the squared distance of the directions: exactly 0 where they are equal, and never negative.
    half = (x - y).square().sum(-1) / 2
    constant = (x == 0).all(-1) & (y != 0).any(-1)
    value = half + constant / 2  # a direction of length 0 gives 1/2
    return value.masked_fill((y == 0).all(-1), 0.0)


def _direction(values: Tensor, live: Tensor) -> Tensor:
    """The deviations from the mean, scaled to length 1; 0 if all are equal."""
    count = live.sum(-1, keepdim=True).clamp_min(1)
    values = values.masked_fill(~live, 0.0)
    apart = (values - values.sum(-1, keepdim=True) / count).masked_fill(~live, 0.0)
    largest = apart.detach().abs().amax(-1, keepdim=True) if apart.shape[-1] else apart.sum(-1, keepdim=True)
    # The mean is only known up to rounding: what is below it is no deviation.
    rounding = 4 * torch.finfo(values.dtype).eps * values.detach().abs().sum(-1, keepdim=True) / count
    flat = largest <= rounding.clamp_min(_SMALLEST)
    # In units of the largest deviation, because the squares of small probabilities underflow.
    apart = (apart / largest.masked_fill(flat, 1.0)).masked_fill(flat, 0.0)
    return apart / apart.square().sum(-1, keepdim=True).masked_fill(flat, 1.0).sqrt()


@kernel(per="position")
@validates_pair
def inter_class_distance(
    student: Float[Tensor, "*batch classes"], teacher: Float[Tensor, "*batch classes"], *, temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    r"""Compute :math:`T^2 (1 - \rho(q, p))` of each row: the correlation over the classes of one example.

    p and q are the softmaxes at temperature T. The value is from 0 to 2 T^2, and 0 also where q is p times a number
    plus a number. A column that is -inf in both is no class.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        temperature: T, above 0.

    Raises:
        LimbeckError: If the shapes differ, or `temperature` is not above 0.

    Example:
        >>> z, v = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 2.0]])
        >>> inter_class_distance(z, v)
        tensor([1.8671])

    Source: Huang, You, Wang, Qian and Xu, 2022, arXiv:2205.10536, equation 7.
    """

    def compute(ours: Tensor, theirs: Tensor) -> Tensor:
        live = ~((ours == -torch.inf) & (theirs == -torch.inf))
        q, p = (probabilities(rows, temperature=temperature) for rows in (ours, theirs))
        return temperature**2 * pearson_distance(q, p, live)

    find = functools.partial(_find_correlations, temperature, -1)
    return compute_by_rows(compute, student, teacher, find=find)


@kernel(per="batch")
@validates_pair
def intra_class_distance(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    mask: Bool[Tensor, "*rows"] | None = None,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    r"""Compute :math:`T^2 \frac1C \sum_c (1 - \rho(q_{\cdot c}, p_{\cdot c}))`: the correlation over examples.

    It says which examples of a batch are more like class c than others. All positions of maps and texts are examples,
    and those where `mask` is false are left out. The mean is over the classes that exist in any row.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        mask: Which examples, or positions, count.
        temperature: T, above 0.

    Raises:
        LimbeckError: If the shapes differ, or `temperature` is not above 0.

    Example:
        >>> z = torch.tensor([[2.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
        >>> intra_class_distance(z, z), intra_class_distance(z, -z)
        (tensor(0.), tensor(2.0000))

    Source: Huang, You, Wang, Qian and Xu, 2022, arXiv:2205.10536, equation 9.
    """

    def compute(student: Tensor, teacher: Tensor) -> Tensor:
        live = ~((student == -torch.inf) & (teacher == -torch.inf))
        if mask is not None:
            live = live & mask.bool().reshape(mask.shape + (1,) * (live.ndim - mask.ndim))
        q, p = (probabilities(rows, temperature=temperature) for rows in (student, teacher))
        ours, theirs, live = (values.reshape(-1, values.shape[-1]).T for values in (q, p, live))
        exists = live.any(-1)
        distances = pearson_distance(ours, theirs, live).masked_fill(~exists, 0.0)
        return temperature**2 * distances.sum() / exists.sum().clamp_min(1)

    if mask is None and student.ndim == 2:
        value = apply_slopes(compute, functools.partial(_find_correlations, temperature, 0), student, teacher)
        if value is not None:
            return value
    return compute(student, teacher)


def _find_correlations(
    temperature: float, dim: int, needed: Needed, student: Tensor, teacher: Tensor
) -> tuple[Tensor, Slopes] | None:
    r"""The values :math:`T^2 (1 - \rho)` along the classes, or their mean along the rows, with slopes in the logits.

    None if a logit is infinite or huge, or a row of probabilities is nearly constant.
    """
    if min(student.shape) < 2 or not is_well_scaled(student, teacher, temperature=temperature):
        return None
    q, p = (torch.softmax(rows if temperature == 1 else rows / temperature, -1) for rows in (student, teacher))
    means = [side.mean(dim, keepdim=True) for side in (q, p)]
    x, y = (side - mean for side, mean in zip((q, p), means, strict=True))
    lengths = [torch.linalg.vector_norm(side, dim=dim, keepdim=True) for side in (x, y)]
    for mean, length in zip(means, lengths, strict=True):
        if not (float((length / mean).amin()) > _FLAT * q.shape[dim] ** 0.5 and float(length.amin()) > _SMALLEST**0.5):
            return None
    half, slopes = slopes_of_directions(needed, x.div_(lengths[0]), y.div_(lengths[1]), *lengths, dim=dim)
    # T^2 from the definition, 1/T from the softmax.
    scale = temperature if dim == -1 else temperature / q.shape[-1]
    sides = zip((q, p), slopes, strict=True)
    found = [None if slope is None else through_softmax_into(side, slope, slope).mul_(scale) for side, slope in sides]
    return temperature**2 * (half if dim == -1 else half.mean()), found


CARD = MethodCard(
    name="dist",
    title="Knowledge Distillation from A Stronger Teacher",
    authors="Huang, You, Wang, Qian and Xu",
    year=2022,
    arxiv="2205.10536",
    venue="NeurIPS 2022",
    claim="Pearson correlations take the place of the KL divergence: over the classes of an example, and over the "
    "examples of a class. They ask for the relations of the predictions, which a weak student can have of a strong "
    "teacher.",
    when="For a teacher that is much stronger than the student, or trained with a stronger strategy. Batches should "
    "be large enough to have several likely examples of a class. The second term sees the whole batch, so it cannot "
    "be accumulated.",
    bibtex="""@inproceedings{huang2022knowledge,
  title = {Knowledge Distillation from A Stronger Teacher},
  author = {Huang, Tao and You, Shan and Wang, Fei and Qian, Chen and Xu, Chang},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2022},
  eprint = {2205.10536},
  archivePrefix = {arXiv}
}""",
    ranges={
        "temperature": SearchRange(1.0, 8.0, log=True),
        "inter_weight": SearchRange(0.1, 10.0, log=True),
        "intra_weight": SearchRange(0.1, 10.0, log=True),
    },
    kernels=(
        KernelClaim(inter_class_distance, hyper={"temperature": 4.0}, zero_at_equality=True,
                    invariances=("student_shift", "teacher_shift")),
        KernelClaim(intra_class_distance, hyper={"temperature": 4.0}, zero_at_equality=True,
                    invariances=("student_shift", "teacher_shift")),
    ),
    tasks=("classification", "segmentation", "language_modeling"),
    task_reason="it correlates the probabilities of the classes of one distribution",
)  # fmt: skip


@validates_arguments
def dist(
    teacher: Any,
    *,
    temperature: float = 1.0,
    inter_weight: float = 2.0,
    intra_weight: float = 2.0,
    label_weight: float = 1.0,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels and two correlations: :math:`-v \log q_y + \beta L_{inter} + \gamma L_{intra}`.

    Both are T^2 (1 - the correlation with the teacher): over the classes of each example, and over the examples of each
    class.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        temperature: T, above 0; 1 for ImageNet and 4 for CIFAR-100 in the paper.
        inter_weight: beta, the weight of the correlation over classes; 2 in the paper.
        intra_weight: gamma, the weight of the correlation over examples; 2 in the paper.
        label_weight: v, the weight of the labels; 1 in the paper. 0 leaves them out, for data without labels.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or the task has no classes.

    Example:
        >>> from torch import nn
        >>> [stage.name for stage in dist(nn.Linear(4, 3), temperature=4.0).stages()]
        ['dist']

    Source: Huang et al., 2022, arXiv:2205.10536, equation 10.
    """
    check_hyper(temperature=temperature)
    check_weight(inter_weight=inter_weight, intra_weight=intra_weight, label_weight=label_weight)
    task = CARD.get_task(task)
    inter, intra = (
        Loss(distance, classes=task.classes_dim, temperature=temperature)
        for distance in (inter_class_distance, intra_class_distance)
    )
    objective = inter_weight * inter + intra_weight * intra
    return Recipe(Stage(add_label_loss(objective, task, label_weight), teacher=teacher, epochs=epochs, name="dist"))
