"""Supervised training: the student learns from the labels alone."""

from __future__ import annotations

from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task, get_task

CARD = MethodCard(
    name="supervised",
    title="Training stochastic model recognition algorithms as networks can lead to maximum mutual information "
    "estimation of parameters",
    authors="Bridle",
    year=1990,
    arxiv=None,
    venue="Advances in Neural Information Processing Systems 2",
    claim="The student learns from the labels alone, with cross-entropy: the first control.",
    when="Always train it as a control with the same budget. The gain of distillation is the difference to it.",
    bibtex="""@inproceedings{bridle1990training,
  title = {Training Stochastic Model Recognition Algorithms as Networks can Lead to Maximum Mutual Information
           Estimation of Parameters},
  author = {Bridle, John S.},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {2},
  pages = {211--217},
  year = {1990}
}""",
    reads=(),
    labels="required",
    tasks=("classification", "multi_label", "regression", "segmentation", "language_modeling"),
)


@validates_arguments
def supervised(*, task: str | Task = "classification", epochs: int | None = None) -> Recipe:
    r"""Train the student on the labels alone: :math:`-\log q_y` in nats, with :math:`q = softmax(z)` and y the label.

    For other tasks it is the loss of the task: binary cross-entropy, squared error, or cross-entropy of each pixel.

    Args:
        task: What the targets are (`limbeck.tasks`).
        epochs: Passes over the data; by default the budget of the run.

    Example:
        >>> [repr(stage.objective) for stage in supervised().stages()]
        ['Loss(cross_entropy)']

    Source: Bridle, 1990, NIPS 2.
    """
    return Recipe(Stage(get_task(task).supervised_loss(), epochs=epochs, name="supervised"))
