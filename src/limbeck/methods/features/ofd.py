"""OFD: features before the ReLU, with a margin for what the teacher switches off (a comprehensive overhaul)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck.batch import Batch, Progress
from limbeck.functional import KernelClaim, kernel
from limbeck.functional.connectors import Pointwise, channels, find_counted
from limbeck.functional.feature_maps import match_positions, position_mask, to_positions
from limbeck.losses import LossContext
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.feature_term import FeatureTerm
from limbeck.methods.features.layers import Layers, pair_layers
from limbeck.methods.support import check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tap import Address
from limbeck.tasks import Task
from limbeck.teachers import CachedTeacher, ModelTeacher, Teacher, as_teacher


@kernel(per="example")
def partial_l2(
    student: Float[Tensor, "batch ..."],
    teacher: Float[Tensor, "batch ..."],
    mask: Bool[Tensor, "batch ..."] | None = None,
    *,
    margin: Float[Tensor, " channels"],
) -> Float[Tensor, " batch"]:
    r"""Compute the partial squared distance to the teacher's features after a margin ReLU, summed over all values.

    With :math:`t = \max(T, m_c)`, the margin m of channel c at most 0, a value counts :math:`(t - s)^2`, and 0 if
    :math:`s \le t \le 0`: the student need not go down as far as the teacher where both are switched off.

    Args:
        student: The student's values before its ReLU, after the connector.
        teacher: The teacher's values T before its ReLU.
        mask: Which positions of tokens count.
        margin: m, one number for each channel; numbers above 0 count as 0.

    Raises:
        LimbeckError: If tokens do not have as many positions on both sides. In float32 it overflows for differences
            above about 1e18.

    Example:
        >>> import torch
        >>> margin = torch.tensor([-1.0])
        >>> partial_l2(torch.tensor([[0.5], [-5.0]]), torch.tensor([[-3.0], [-3.0]]), margin=margin).tolist()
        [2.25, 0.0]

    Source: Heo et al., A Comprehensive Overhaul of Feature Distillation, 2019, arXiv:1904.01866, equations 2 and 5.
    """
    where = position_mask(mask, student)
    student, teacher = match_positions(student, teacher)
    target = torch.maximum(teacher, margin.clamp_max(0.0))
    off = (student <= target) & (target <= 0)
    off = off if where is None else off | ~where
    return (target - student).square().masked_fill(off, 0.0).sum((1, 2))


def batchnorm_margins(norm: _BatchNorm) -> Float[Tensor, " channels"]:
    r"""Compute the mean of the negative values behind a BatchNorm, for each channel.

    Behind it a channel is about :math:`N(\beta, \gamma^2)`, and
    :math:`E[x | x < 0] = \beta - |\gamma| \, \phi(\beta / |\gamma|) / \Phi(-\beta / |\gamma|)`. For
    :math:`\gamma = 0` it is :math:`\min(\beta, 0)`.

    Example:
        >>> round(batchnorm_margins(nn.BatchNorm1d(1)).item(), 4)
        -0.7979

    Source: Heo et al., 2019, arXiv:1904.01866, equation 4. The authors' code takes -3 |gamma| where
        :math:`\Phi(-\beta / |\gamma|) < 0.001`; here the logarithm of the normal distribution is exact there too.
    """
    zeros, ones = torch.zeros(norm.num_features), torch.ones(norm.num_features)
    shift, scale = (
        default if value is None else value.detach().double().cpu()
        for value, default in ((norm.bias, zeros), (norm.weight, ones))  # both None: affine=False
    )
    scale = scale.abs().double()
    ratio = shift / scale.where(scale > 0, 1.0)
    hazard = (-ratio.square() / 2 - math.log(2 * math.pi) / 2 - torch.special.log_ndtr(-ratio)).exp()
    return (shift - scale * hazard).where(scale > 0, shift).clamp_max(0.0).float()


CARD = MethodCard(
    name="ofd",
    title="A Comprehensive Overhaul of Feature Distillation",
    authors="Heo, Kim, Yun, Park, Kwak and Choi",
    year=2019,
    arxiv="1904.01866",
    venue="ICCV 2019",
    claim="The student learns the teacher's features before the ReLU. What the teacher switches off has to be low "
    "enough, not equal.",
    when="For convolutional networks with BatchNorm, at the last layer before the ReLU of each stage. For layers "
    "without BatchNorm the margins come from the first batch.",
    bibtex="""@inproceedings{heo2019comprehensive,
  title = {A Comprehensive Overhaul of Feature Distillation},
  author = {Heo, Byeongho and Kim, Jeesoo and Yun, Sangdoo and Park, Hyojin and Kwak, Nojun and Choi, Jin Young},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year = {2019},
  eprint = {1904.01866},
  archivePrefix = {arXiv}
}""",
    reads=("features",),
    labels="few",
    needs="layers before their activation function",
    example={"at": "layer1.1", "student_at": "layer1.1"},
    ranges={"weight": SearchRange(1e-5, 0.1, log=True)},
    trials=("mlp",),
    tasks=("classification", "multi_label", "regression", "segmentation"),
    kernels=(
        KernelClaim(
            partial_l2,
            logits=False,
            zero_at_equality=True,
            shape=(3, 2, 4),
            channels=1,
            constants={"margin": (3,)},
            largest=1e15,
            invariances=("joint_flip",),
        ),
    ),
)


class MarginDistance(FeatureTerm):
    """`partial_l2` behind a connector with BatchNorm, summed over the pairs of layers."""

    name = "margin_distance"

    def __init__(self, pairs: Sequence[tuple[str, str]], teacher: Teacher | None = None) -> None:
        super().__init__(pairs)
        self.connectors = nn.ModuleList()
        self.norms = tuple(_find_norm(teacher, address) for _, address in pairs)

    def build(self, ours: list[Tensor], theirs: list[Tensor], context: LossContext) -> None:
        """Create a 1x1 convolution with BatchNorm for each pair, and the margins."""
        self.connectors = nn.ModuleList(
            Pointwise([channels(mine), channels(its)], norm=True) for mine, its in zip(ours, theirs, strict=True)
        )
        for number, (its, norm) in enumerate(zip(theirs, self.norms, strict=True)):
            known = norm is not None and norm.num_features == channels(its)
            margin = (
                batchnorm_margins(norm)
                if norm is not None and known
                else _batch_margins(its, position_mask(context.batch.mask, its))
            )
            self.register_buffer(f"margin{number}", margin)

    def compare(
        self, ours: list[Tensor], theirs: list[Tensor], batch: Batch, progress: Progress
    ) -> Float[Tensor, " batch"]:
        """The sum over the pairs of layers."""
        values = [
            partial_l2(
                connector(mine, find_counted(batch.mask, mine)),
                its,
                batch.mask,
                margin=self.get_buffer(f"margin{number}"),
            )
            for number, (mine, its, connector) in enumerate(zip(ours, theirs, self.connectors, strict=True))
        ]
        return torch.stack(values).sum(0)

    def __repr__(self) -> str:
        return f"MarginDistance({list(self.pairs)})"


def _find_norm(teacher: Teacher | None, address: str) -> _BatchNorm | None:
    """The last BatchNorm in the teacher's layer, whose output it is before the ReLU; None if there is none."""
    while isinstance(teacher, CachedTeacher):
        teacher = teacher.inner
    place = Address.parse(address)
    if not isinstance(teacher, ModelTeacher) or place.side == "in":
        return None
    module = dict(teacher.model.named_modules()).get(place.path)
    norms = [] if module is None else [one for one in module.modules() if isinstance(one, _BatchNorm)]
    return norms[-1] if norms else None


def _batch_margins(features: Tensor, where: Tensor | None) -> Tensor:
    """The mean of the negative values of each channel, in the positions that count; 0 where there are none."""
    rows = to_positions(features)
    rows = rows.flatten(0, 1) if where is None else rows[where.squeeze(-1)]
    return rows.clamp_max(0.0).sum(0) / (rows < 0).sum(0).clamp_min(1)


@validates_arguments
def ofd(
    teacher: Any,
    *,
    at: Layers,
    student_at: Layers,
    weight: float = 1e-3,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn from labels and features before the ReLU: :math:`L_{task} + \alpha \sum_j d_p(\max(T_j, m), r(S_j))`.

    :math:`d_p` is `partial_l2`. The margins m are the mean negative values of the teacher's channels: from its
    BatchNorm (`batchnorm_margins`), or from the first batch if there is none or the teacher is not a module. r is a
    learned 1x1 convolution with BatchNorm, which is dropped after training.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run. It needs the layers `at`.
        at: The teacher's layers before their ReLU, one name or a list, such as the last BatchNorm of each stage.
            ``path:in`` is the input of the ReLU's module.
        student_at: The student's layers before their ReLU, in the same order.
        weight: Alpha, at least 0. The distance is a sum over all values of a layer.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If the lists have different lengths, or `weight` is negative.

    Example:
        >>> recipe = ofd(nn.Linear(4, 3), at="layer1.1", student_at="layer1.1")
        >>> [repr(stage.objective) for stage in recipe.stages()]
        ["Loss(cross_entropy) + 0.001 * MarginDistance([('layer1.1', 'layer1.1')])"]

    Source: Heo et al., 2019, arXiv:1904.01866, section 3.
    """
    check_weight(weight=weight)
    distance = MarginDistance(pair_layers(at, student_at), as_teacher(teacher))
    objective = CARD.get_task(task).supervised_loss() + weight * distance
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="ofd"))
