"""AB: the student's neurons are active for the same inputs as the teacher's (activation boundaries)."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.errors import ArgumentError
from limbeck.functional import KernelClaim, kernel
from limbeck.functional.connectors import Connector
from limbeck.functional.feature_maps import match_positions, mean_over_positions, position_mask
from limbeck.functional.row_blocks import compute_by_examples
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.layers import Layers, add_losses, pair_layers
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task


@kernel(per="example")
def activation_boundary_loss(
    student: Float[Tensor, "batch ..."],
    teacher: Float[Tensor, "batch ..."],
    mask: Bool[Tensor, "batch ..."] | None = None,
    *,
    margin: float = 1.0,
) -> Float[Tensor, " batch"]:
    r"""Compute how far the student's neurons are from the side of 0 that the teacher's are on.

    The mean over neurons of :math:`\max(0, \mu - s)^2` where the teacher's neuron is active, :math:`t > 0`, and of
    :math:`\max(0, \mu + s)^2` elsewhere. It is 0 if each neuron of the student is on the same side of 0, by at least
    the margin :math:`\mu`. The size of t does not matter. The paper sums over the neurons.

    Args:
        student: The student's values before its activation function, after the connector.
        teacher: The teacher's values before its activation function.
        mask: Which positions of tokens count.
        margin: Mu, above 0.

    Raises:
        LimbeckError: If the margin is not above 0. In float32 it overflows for values above 1e19.

    Example:
        >>> import torch
        >>> activation_boundary_loss(torch.tensor([[2.0, 2.0]]), torch.tensor([[0.1, -0.1]])).item()
        4.5

    Source: Heo, Lee, Yun and Choi, 2018, arXiv:1811.03233, equation 5.
    """
    _check_margin(margin)
    where = position_mask(mask, student)

    def compute(student: Tensor, teacher: Tensor, *where: Tensor) -> Tensor:
        wrong = (margin - student.where(teacher > 0, -student)).clamp_min(0.0).square()
        return mean_over_positions(wrong, where[0] if where else None)

    sides = match_positions(student, teacher)
    return compute_by_examples(compute, *sides, *(() if where is None else (where,)))


def _check_margin(margin: float) -> None:
    if not 0 < margin < float("inf"):
        raise ArgumentError(f"margin is a finite number above 0; got {margin!r}. The paper uses 1.", argument="margin")


CARD = MethodCard(
    name="ab",
    title="Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
    authors="Heo, Lee, Yun and Choi",
    year=2018,
    arxiv="1811.03233",
    venue="AAAI 2019",
    claim="The student first learns for which inputs the teacher's neurons are active, and then the labels.",
    when="To start a student well, above all with little data: it learns where the teacher's neurons switch, not how "
    "strongly they respond. Name layers before their activation function.",
    bibtex="""@inproceedings{heo2019knowledge,
  title = {Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons},
  author = {Heo, Byeongho and Lee, Minsik and Yun, Sangdoo and Choi, Jin Young},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year = {2019},
  eprint = {1811.03233},
  archivePrefix = {arXiv}
}""",
    reads=("features",),
    labels="few",
    needs="layers before their activation function",
    example={"at": "layer1.1", "student_at": "layer1.1"},
    ranges={"margin": SearchRange(0.3, 3.0, log=True)},
    trials=("mlp",),
    tasks=("classification", "multi_label", "regression", "segmentation", "language_modeling"),
    kernels=(
        KernelClaim(activation_boundary_loss, logits=False, shape=(3, 2, 4), largest=1e15, channels=1),
        KernelClaim(activation_boundary_loss, logits=False, shape=(4, 3), largest=1e15, positions=1),
    ),
)


@validates_arguments
def ab(
    teacher: Any,
    *,
    at: Layers,
    student_at: Layers,
    margin: float = 1.0,
    boundary_epochs: int | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Train in two stages: first the activation boundaries of the teacher, then the labels.

    1. `activation_boundary_loss` of :math:`r(s)` and :math:`t`, summed over the pairs of layers, with r a learned 1x1
       convolution (a linear map for rows and tokens) and a BatchNorm, which are dropped afterwards.
    2. The loss of the labels alone, from these weights.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run. It needs the layers `at`.
        at: The teacher's layers before their activation function, one name or a list. ``path:in`` is the input of the
            activation module.
        student_at: The student's layers before their activation function, in the same order.
        margin: Mu, above 0.
        boundary_epochs: Passes of the first stage; the run's budget by default.
        task: What the targets are; the second stage takes its loss from it.
        epochs: Passes of the second stage; the run's budget by default.

    Raises:
        LimbeckError: If the lists have different lengths, or `margin` is not above 0.

    Example:
        >>> from torch import nn
        >>> recipe = ab(nn.Linear(4, 3), at="layer1.1", student_at="layer1.1")
        >>> [stage.name for stage in recipe.stages()]
        ['boundaries', 'labels']

    Source: Heo, Lee, Yun and Choi, 2018, arXiv:1811.03233, sections 3 and 4.
    """
    _check_margin(margin)
    boundaries = add_losses(
        Loss(activation_boundary_loss, student=ours, teacher=theirs, head=Connector(norm=True), margin=margin)
        for ours, theirs in pair_layers(at, student_at)
    )
    task = CARD.get_task(task)
    return Recipe(
        Stage(boundaries, teacher=teacher, epochs=boundary_epochs, name="boundaries"),
        Stage(task.supervised_loss(), epochs=epochs, name="labels"),
    )
