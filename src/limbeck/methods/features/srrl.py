"""SRRL: the student's features match the teacher's, and the teacher's classifier reads the same answer from them."""

from __future__ import annotations

from typing import Any, cast

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.batch import LOGITS_INPUT, Batch, Progress
from limbeck.errors import LimbeckError
from limbeck.functional import KernelClaim
from limbeck.functional.connectors import Pointwise, channels, find_counted
from limbeck.functional.feature_maps import mean_squared_distance
from limbeck.losses import LossContext
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.feature_term import FeatureTerm
from limbeck.methods.support import check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task

CARD = MethodCard(
    name="srrl",
    title="Knowledge Distillation via Softmax Regression Representation Learning",
    authors="Yang, Martinez, Bulat and Tzimiropoulos",
    year=2021,
    arxiv=None,
    venue="ICLR 2021",
    claim="The student's last features match the teacher's, directly and in what the teacher's own classifier says "
    "about them.",
    when="For a teacher whose logits are a linear layer of its features. No layer has to be named. The student keeps "
    "its own classifier; simkd ships the teacher's.",
    bibtex="""@inproceedings{yang2021knowledge,
  title = {Knowledge Distillation via Softmax Regression Representation Learning},
  author = {Yang, Jing and Martinez, Brais and Bulat, Adrian and Tzimiropoulos, Georgios},
  booktitle = {International Conference on Learning Representations},
  year = {2021}
}""",
    reads=("features",),
    labels="few",
    needs="a teacher that is one network with a linear last layer",
    ranges={"weight": SearchRange(0.1, 10.0, log=True), "regression_weight": SearchRange(0.1, 10.0, log=True)},
    tasks=("classification", "multi_label", "regression"),
    task_reason="its features are those of a linear last layer, one row for each example",
    kernels=(
        KernelClaim(mean_squared_distance, logits=False, zero_at_equality=True, largest=1e15),
        KernelClaim(
            mean_squared_distance, logits=False, zero_at_equality=True, shape=(4, 3), positions=1, largest=1e15
        ),
    ),
)


class SoftmaxRegression(FeatureTerm):
    """Feature matching, and the squared difference of the logits that the teacher's classifier makes of both."""

    name = "softmax_regression"

    def __init__(self, weight: float, regression_weight: float) -> None:
        super().__init__([(LOGITS_INPUT, LOGITS_INPUT)])
        self.weights = (weight, regression_weight)
        self.connector: nn.Module | None = None
        self.classifier: tuple[nn.Module, ...] = ()

    def build(self, ours: list[Tensor], theirs: list[Tensor], context: LossContext) -> None:
        """Create the connector: a linear map, a BatchNorm and a ReLU.

        Raises:
            LimbeckError: If the teacher is not a network with a linear last layer.
        """
        layer = context.teacher_output_layer
        if not isinstance(layer, nn.Linear):
            raise LimbeckError(
                "srrl passes the student's features through the teacher's last layer, and this teacher is not a single "
                "network whose last layer is a Linear. Use another method, such as vid or fitnets."
            )
        self.classifier = (layer,)  # in a tuple: its parameters are the teacher's, and do not learn
        self.connector = Pointwise([channels(ours[0]), channels(theirs[0])], norm=True, last_activation=True)

    def compare(
        self, ours: list[Tensor], theirs: list[Tensor], batch: Batch, progress: Progress
    ) -> Float[Tensor, " batch"]:
        """Both squared differences with their weights."""
        connected = cast(nn.Module, self.connector)(ours[0], find_counted(batch.mask, ours[0]))
        matching = mean_squared_distance(connected, theirs[0], batch.mask)
        regression = mean_squared_distance(self._classify(connected), self._classify(theirs[0]), batch.mask)
        return self.weights[0] * matching + self.weights[1] * regression

    def _classify(self, features: Tensor) -> Tensor:
        layer = cast(nn.Linear, self.classifier[0])
        bias = None if layer.bias is None else layer.bias.detach().to(features)
        return F.linear(features, layer.weight.detach().to(features), bias)

    def __repr__(self) -> str:
        return f"SoftmaxRegression(weight={self.weights[0]}, regression_weight={self.weights[1]})"


@validates_arguments
def srrl(
    teacher: Any,
    *,
    weight: float = 1.0,
    regression_weight: float = 1.0,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn from labels and the teacher's last features: :math:`L_{task} + \alpha L_{FM} + \beta L_{SR}`.

    With :math:`h_T` and :math:`h_S` the inputs of the last layers, r a learned linear map with BatchNorm and ReLU that
    is dropped after training, and :math:`W_T` the teacher's last layer, which does not learn:
    :math:`L_{FM} = mean (h_T - r(h_S))^2` and :math:`L_{SR} = mean (W_T h_T - W_T r(h_S))^2`.

    Args:
        teacher: The teacher: a single network with a linear last layer, or a `Teacher` or name of one.
        weight: Alpha, the weight of feature matching, at least 0.
        regression_weight: Beta, the weight of the teacher's answers, at least 0.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If a weight is negative. When the run starts: if the teacher has no linear last layer.

    Example:
        >>> from torch import nn
        >>> [repr(stage.objective) for stage in srrl(nn.Linear(4, 3)).stages()]
        ['Loss(cross_entropy) + SoftmaxRegression(weight=1.0, regression_weight=1.0)']

    Source: Yang, Martinez, Bulat and Tzimiropoulos, ICLR 2021, section 3.
    """
    check_weight(weight=weight, regression_weight=regression_weight)
    objective = CARD.get_task(task).supervised_loss() + SoftmaxRegression(weight, regression_weight)
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="srrl"))
