"""Factor transfer: the student's factors match those of an autoencoder of the teacher's maps."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.batch import Batch, Progress
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import KernelClaim, kernel
from limbeck.functional.connectors import as_maps, channels
from limbeck.functional.feature_maps import pool_to, safe_normalize, safe_root, unit_scale
from limbeck.losses import LossContext
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.feature_term import FeatureTerm
from limbeck.methods.support import check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task


@kernel(per="example")
def factor_distance(
    student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."], *, p: int = 1
) -> Float[Tensor, " batch"]:
    r"""Compute the distance of two factors, each divided by its Euclidean norm, per value.

    :math:`\frac{1}{d} \| F_T / \|F_T\|_2 - F_S / \|F_S\|_2 \|_p` with d the number of values of a factor. It does not
    depend on the scale of either side.

    Args:
        student: The student's factor.
        teacher: The teacher's factor, of the same shape.
        p: The norm of the difference, 1 or 2.

    Raises:
        LimbeckError: If the shapes differ, or p is neither 1 nor 2.

    Example:
        >>> factor_distance(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 5.0]])).item()
        1.0

    Source: Kim, Park and Kwak, 2018, arXiv:1802.04977, equation 2. The division by d is that of the authors' code.
    """
    _check_norm(p)
    if student.shape != teacher.shape:
        raise LimbeckError(f"The student's factor is {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}.")
    one, other = (safe_normalize(unit_scale(factor).flatten(1)) for factor in (student, teacher))
    difference = one - other
    if p == 1:
        return difference.abs().mean(1)
    return safe_root(difference.square().sum(1)) / difference.shape[1]


def _check_norm(p: int) -> None:
    if p not in (1, 2):
        raise ArgumentError(f"p is 1 or 2, the norm of the difference of factors; got {p!r}.", argument="p")


CARD = MethodCard(
    name="factor_transfer",
    title="Paraphrasing Complex Network: Network Compression via Factor Transfer",
    authors="Kim, Park and Kwak",
    year=2018,
    arxiv="1802.04977",
    venue="NeurIPS 2018",
    claim="An autoencoder first learns short factors of the teacher's maps, without labels. Then the student learns "
    "factors that equal them, beside the labels.",
    when="For networks with maps, at the last map before pooling. The autoencoder takes a stage of its own, on the "
    "teacher's features alone.",
    bibtex="""@inproceedings{kim2018paraphrasing,
  title = {Paraphrasing Complex Network: Network Compression via Factor Transfer},
  author = {Kim, Jangho and Park, SeongUk and Kwak, Nojun},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2018},
  eprint = {1802.04977},
  archivePrefix = {arXiv}
}""",
    reads=("features",),
    labels="few",
    example={"at": "layer2", "student_at": "layer2"},
    ranges={"weight": SearchRange(5.0, 2000.0, log=True), "rate": SearchRange(0.25, 1.0)},
    trials=("cnn", "resnet"),
    tasks=("classification", "multi_label", "regression", "segmentation"),
    kernels=(
        KernelClaim(
            factor_distance,
            zero_at_equality=True,
            logits=False,
            shape=(3, 2, 4),
            channels=1,
            invariances=("student_scale", "teacher_scale", "joint_channel_permutation", "joint_flip"),
        ),
        KernelClaim(factor_distance, hyper={"p": 2}, zero_at_equality=True, logits=False, shape=(3, 2, 4)),
    ),
)


class Paraphraser(nn.Module):
    """An autoencoder of the teacher's maps: three 3x3 convolutions, and three transposed ones.

    Args:
        rate: The number of channels of a factor, as a share of those of the teacher; at least one.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.encoder, self.decoder = nn.Sequential(), nn.Sequential()

    def shape(self, teacher: Tensor) -> None:
        """Create the layers, unless they exist already."""
        if len(self.encoder):
            return
        width = channels(teacher)
        short = self.find_width(width)
        self.encoder = _convolutions([width, width, short, short], nn.Conv2d)
        self.decoder = _convolutions([short, short, width, width], nn.ConvTranspose2d)
        self.to(teacher)

    def find_width(self, width: int) -> int:
        """The number of channels of a factor of maps with so many channels."""
        return max(1, round(self.rate * width))

    def forward(self, maps: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch factor height width"]:
        """The factors."""
        return self.encoder(maps)


def _convolutions(widths: list[int], kind: type[nn.Conv2d] | type[nn.ConvTranspose2d], *, norm: bool = False) -> Any:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [kind(before, after, 3, padding=1), *([nn.BatchNorm2d(after)] if norm else []), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


class Reconstruction(FeatureTerm):
    """The mean squared error of the teacher's maps behind the paraphraser's bottleneck. The student plays no part."""

    name = "reconstruction"

    def __init__(self, pair: tuple[str, str], paraphraser: Paraphraser) -> None:
        super().__init__([pair])
        self.paraphraser = paraphraser

    def build(self, ours: list[Tensor], theirs: list[Tensor], context: LossContext) -> None:
        """Create the paraphraser's layers."""
        self.paraphraser.shape(as_maps(theirs[0]))

    def compare(
        self, ours: list[Tensor], theirs: list[Tensor], batch: Batch, progress: Progress
    ) -> Float[Tensor, " batch"]:
        """The error of each example."""
        maps = as_maps(theirs[0])
        return (self.paraphraser.decoder(self.paraphraser(maps)) - maps).square().flatten(1).mean(1)

    def __repr__(self) -> str:
        return f"Reconstruction({self.pairs[0][1]!r}, rate={self.paraphraser.rate})"


class FactorMatching(FeatureTerm):
    """`factor_distance` between the paraphraser's factors and those of a translator of the student's maps."""

    name = "factor_matching"

    def __init__(self, pair: tuple[str, str], paraphraser: Paraphraser, p: int) -> None:
        super().__init__([pair])
        self.paraphraser, self.p = paraphraser, p
        self.translator = nn.Sequential()

    def build(self, ours: list[Tensor], theirs: list[Tensor], context: LossContext) -> None:
        """Create the translator: three 3x3 convolutions with BatchNorm."""
        self.paraphraser.shape(as_maps(theirs[0]))
        width, short = channels(as_maps(ours[0])), self.paraphraser.find_width(channels(as_maps(theirs[0])))
        self.translator = _convolutions([width, width, short, short], nn.Conv2d, norm=True)

    def compare(
        self, ours: list[Tensor], theirs: list[Tensor], batch: Batch, progress: Progress
    ) -> Float[Tensor, " batch"]:
        """The distance of each example."""
        mine, its = as_maps(ours[0]), as_maps(theirs[0])
        size = (min(mine.shape[2], its.shape[2]), min(mine.shape[3], its.shape[3]))
        with torch.no_grad():  # the paraphraser has learned in the stage before
            factor = pool_to(self.paraphraser(its), size)
        return factor_distance(self.translator(pool_to(mine, size)), factor, p=self.p)

    def __repr__(self) -> str:
        return f"FactorMatching({self.pairs[0]}, p={self.p})"


@validates_arguments
def factor_transfer(
    teacher: Any,
    *,
    at: str,
    student_at: str,
    weight: float = 500.0,
    rate: float = 0.5,
    p: int = 1,
    paraphraser_epochs: int | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Train in two stages: first an autoencoder of the teacher's maps, then the student with its factors.

    1. :math:`mean (x - P(x))^2`, x the teacher's maps and P the paraphraser. Only P learns, without labels.
    2. :math:`L_{task} + \beta \, d(F_T, F_S)`, see `factor_distance`, with :math:`F_T` the paraphraser's factors, which
       stay as they are, and :math:`F_S` those of a translator that is learned with the student. Both are dropped.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run. It needs the layer `at`.
        at: The teacher's layer with maps.
        student_at: The student's layer with maps.
        weight: Beta, at least 0; 500 in the paper.
        rate: k, the channels of a factor as a share of the teacher's, above 0 and at most 1; 0.5 in the paper.
        p: The norm of the difference of factors, 1 or 2; 1 in the paper.
        paraphraser_epochs: Passes of the first stage; the run's budget by default.
        task: What the targets are; the second stage takes its loss from it.
        epochs: Passes of the second stage; the run's budget by default.

    Raises:
        LimbeckError: If `weight` is negative, or `rate` or `p` is out of range.

    Example:
        >>> recipe = factor_transfer(nn.Linear(4, 3), at="layer2", student_at="layer2")
        >>> [stage.name for stage in recipe.stages()]
        ['paraphraser', 'factors']

    Source: Kim, Park and Kwak, 2018, arXiv:1802.04977, section 3.
    """
    check_weight(weight=weight)
    _check_norm(p)
    if not 0 < rate <= 1:
        raise ArgumentError(f"rate is a number above 0 and at most 1; got {rate!r}.", argument="rate")
    paraphraser = Paraphraser(rate)
    pair = (student_at, at)
    objective = CARD.get_task(task).supervised_loss() + weight * FactorMatching(pair, paraphraser, p)
    return Recipe(
        Stage(Reconstruction(pair, paraphraser), teacher=teacher, epochs=paraphraser_epochs, name="paraphraser"),
        Stage(objective, teacher=teacher, epochs=epochs, name="factors"),
    )
