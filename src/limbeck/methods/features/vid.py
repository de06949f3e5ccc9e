"""VID: the student's features say as much as possible about the teacher's (variational information distillation)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limbeck.batch import Batch, Progress
from limbeck.functional import KernelClaim, kernel
from limbeck.functional.connectors import Pointwise, channels
from limbeck.functional.feature_maps import match_positions, mean_over_positions, pool_to, position_mask
from limbeck.losses import LossContext
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.feature_term import FeatureTerm
from limbeck.methods.features.layers import Layers, pair_layers
from limbeck.methods.support import check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task

_SMALLEST = 1e-5
"""Added to every variance, as in the paper's equation 7, for stability."""
_START = 5.0
"""The variance before training, as in RepDistiller."""


@kernel(per="example")
def gaussian_negative_log_likelihood(
    student: Float[Tensor, "batch ..."],
    teacher: Float[Tensor, "batch ..."],
    mask: Bool[Tensor, "batch ..."] | None = None,
    *,
    alpha: Float[Tensor, " channels"],
) -> Float[Tensor, " batch"]:
    r"""Compute how unlikely the teacher's features are under a Gaussian that the student predicts, in nats.

    The mean over channels c and positions of :math:`\frac{(t - \mu)^2}{2 \sigma_c^2} + \frac{1}{2} \log \sigma_c^2`,
    with :math:`\mu` of the student and :math:`\sigma_c^2 = \log(1 + e^{\alpha_c}) + 10^{-5}`. The constant
    :math:`\frac{1}{2} \log 2 \pi` is left out. Minus its expected value is, up to the entropy of t, a lower bound of
    the mutual information of both features.

    Args:
        student: The predicted mean, with the channels of the teacher.
        teacher: Features of the teacher.
        mask: Which positions of tokens count.
        alpha: A number for each channel, learned.

    Raises:
        LimbeckError: If tokens do not have as many positions on both sides.

    Example:
        >>> import torch
        >>> value = gaussian_negative_log_likelihood(torch.zeros(1, 1), torch.ones(1, 1), alpha=torch.tensor([50.0]))
        >>> round(value.item(), 4)
        1.966

    Source: Ahn, Hu, Damianou, Lawrence and Dai, 2019, arXiv:1904.05835, equations 5 to 7.
    """
    where = position_mask(mask, student)
    student, teacher = match_positions(student, teacher)
    variance = F.softplus(alpha) + _SMALLEST
    errors = (teacher - student) / (2 * variance).sqrt()
    return mean_over_positions(errors.square() + variance.log() / 2, where)


CARD = MethodCard(
    name="vid",
    title="Variational Information Distillation for Knowledge Transfer",
    authors="Ahn, Hu, Damianou, Lawrence and Dai",
    year=2019,
    arxiv="1904.05835",
    venue="CVPR 2019",
    claim="The student's features predict those of the teacher, with a learned variance for each channel: a lower "
    "bound of their mutual information.",
    when="For networks of different kinds, as the regression is learned. Channels of the teacher that the student "
    "cannot predict get a large variance and are ignored. It also copies what is of no use for the task: with a poor "
    "teacher use rid.",
    bibtex="""@inproceedings{ahn2019variational,
  title = {Variational Information Distillation for Knowledge Transfer},
  author = {Ahn, Sungsoo and Hu, Shell Xu and Damianou, Andreas and Lawrence, Neil D. and Dai, Zhenwen},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2019},
  eprint = {1904.05835},
  archivePrefix = {arXiv}
}""",
    reads=("features",),
    labels="few",
    example={"at": ["layer1", "layer2"], "student_at": ["layer1", "layer2"]},
    ranges={"weight": SearchRange(0.1, 100.0, log=True)},
    tasks=("classification", "multi_label", "regression", "segmentation", "language_modeling"),
    kernels=(
        KernelClaim(
            gaussian_negative_log_likelihood,
            logits=False,
            shape=(3, 2, 4),
            channels=1,
            constants={"alpha": (3,)},
            largest=1e15,
            invariances=("joint_flip",),
        ),
    ),
)


class VariationalInformation(FeatureTerm):
    """`gaussian_negative_log_likelihood` with a learned regression and variance, summed over the pairs of layers."""

    name = "variational_information"

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        super().__init__(pairs)
        self.regressions, self.alphas = nn.ModuleList(), nn.ParameterList()

    def build(self, ours: list[Tensor], theirs: list[Tensor], context: LossContext) -> None:
        """Create three layers of 1x1 convolutions for each pair, as in the authors' code, and the variances."""
        self.regressions, self.alphas = nn.ModuleList(), nn.ParameterList()
        start = math.log(math.expm1(_START - _SMALLEST))
        for mine, its in zip(ours, theirs, strict=True):
            width = channels(its)
            self.regressions.append(Pointwise([channels(mine), width, width, width]))
            self.alphas.append(nn.Parameter(torch.full((width,), start)))

    def compare(
        self, ours: list[Tensor], theirs: list[Tensor], batch: Batch, progress: Progress
    ) -> Float[Tensor, " batch"]:
        """The sum over the pairs of layers."""
        values = []
        for mine, its, regression, alpha in zip(ours, theirs, self.regressions, self.alphas, strict=True):
            if mine.ndim == its.ndim == 4:  # pooled first, so that the regression predicts what is compared
                mine = pool_to(mine, (min(mine.shape[2], its.shape[2]), min(mine.shape[3], its.shape[3])))
            values.append(gaussian_negative_log_likelihood(regression(mine), its, batch.mask, alpha=alpha))
        return torch.stack(values).sum(0)

    def __repr__(self) -> str:
        return f"VariationalInformation({list(self.pairs)})"


@validates_arguments
def vid(
    teacher: Any,
    *,
    at: Layers,
    student_at: Layers,
    weight: float = 1.0,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn from labels and the likelihood of features: :math:`L_{task} - \lambda \sum_j \log q(t_j | s_j)`.

    q is a Gaussian whose mean is a learned function of the student's features, three layers of 1x1 convolutions, and
    which has a learned variance for each channel. Both are dropped after training.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run. It needs the layers `at`.
        at: The teacher's layers, one name or a list.
        student_at: The student's layers, in the same order.
        weight: Lambda, at least 0. The likelihood is a mean over channels and positions.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If the lists have different lengths, or `weight` is negative.

    Example:
        >>> from torch import nn
        >>> recipe = vid(nn.Linear(4, 3), at="layer1", student_at="layer2", weight=0.5)
        >>> [repr(stage.objective) for stage in recipe.stages()]
        ["Loss(cross_entropy) + 0.5 * VariationalInformation([('layer2', 'layer1')])"]

    Source: Ahn, Hu, Damianou, Lawrence and Dai, 2019, arXiv:1904.05835, section 2.
    """
    check_weight(weight=weight)
    information = VariationalInformation(pair_layers(at, student_at))
    objective = CARD.get_task(task).supervised_loss() + weight * information
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="vid"))
