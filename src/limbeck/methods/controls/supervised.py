"""What does the student reach alone?"""

from __future__ import annotations

from limbeck.functional import cross_entropy
from limbeck.losses import Loss
from limbeck.methods.card import MethodCard
from limbeck.recipe import Recipe, Stage

CARD = MethodCard(
    name="supervised",
    title="Training stochastic model recognition algorithms as networks can lead to maximum mutual information "
    "estimation of parameters",
    authors="Bridle",
    year=1990,
    arxiv=None,
    venue="Advances in Neural Information Processing Systems 2",
    claim="The student learns from the labels alone, by the cross-entropy of its softmax: the first control.",
    when="Always, beside a distilled student, with the same budget: what distilling adds is the difference to it.",
    bibtex="""@inproceedings{bridle1990training,
  title = {Training Stochastic Model Recognition Algorithms as Networks can Lead to Maximum Mutual Information
           Estimation of Parameters},
  author = {Bridle, John S.},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {2},
  pages = {211--217},
  year = {1990}
}""",
)


def supervised(*, epochs: int | None = None) -> Recipe:
    r"""The student alone: :math:`-\log q_y`, in nats, with :math:`q = softmax(z)` and y the label.

    Args:
        epochs: Passes over the data; the run's budget by default.

    Example:
        >>> [repr(stage.objective) for stage in supervised().stages()]
        ['Loss(cross_entropy)']

    Source: Bridle, 1990, NIPS 2.
    """
    return Recipe(Stage(Loss(cross_entropy), epochs=epochs, name="supervised"))
