"""How does a student learn from a teacher's softened predictions?"""

from __future__ import annotations

from typing import Any

from limbeck.functional import check_hyper, cross_entropy
from limbeck.losses import Loss, Objective
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_share, named_loss
from limbeck.recipe import Recipe, Stage

CARD = MethodCard(
    name="hinton",
    title="Distilling the Knowledge in a Neural Network",
    authors="Hinton, Vinyals and Dean",
    year=2015,
    arxiv="1503.02531",
    venue="NIPS 2014 Deep Learning Workshop",
    claim="The student matches the teacher's softened predictions, and a little the labels.",
    when="First, and as the yardstick for anything else: it needs only logits, and works with unlabeled data. The "
    "paper gives T per experiment (20 for wide students on MNIST, 2.5 to 4 for 30 units a layer, 2 for speech) "
    'and says that "a considerably lower weight" on the labels is best: choose both on development data.',
    bibtex="""@article{hinton2015distilling,
  title = {Distilling the Knowledge in a Neural Network},
  author = {Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff},
  journal = {arXiv preprint arXiv:1503.02531},
  year = {2015}
}""",
    ranges={"temperature": SearchRange(1.0, 20.0, log=True), "weight": SearchRange(0.0, 1.0)},
)


def hinton(
    teacher: Any,
    *,
    temperature: float = 4.0,
    weight: float = 0.9,
    labels: bool = True,
    loss: str = "kl_divergence",
    classes: int = -1,
    epochs: int | None = None,
) -> Recipe:
    r"""Soft targets and labels: :math:`w T^2 KL(p \| q) + (1 - w) (-\log softmax(z)_y)`, in nats.

    p and q are the teacher's and the student's distributions at temperature T. At w = 0 it is `supervised`; as T grows
    the first term becomes logit matching.

    Args:
        teacher: Who teaches.
        temperature: T, above 0. The paper gives one per experiment; 4 is the upper end of what it found best for small
            students.
        weight: w, the share of the soft targets, from 0 to 1; high, because the paper found a low weight on the labels
            best.
        labels: Whether the labels are read. False leaves their term out, for data without any; data with some labels
            (-100 for the others) need it True.
        loss: What compares the two: the paper's ``kl_divergence``, another function of `limbeck.functional`
            (``reverse_kl``, ``total_variation``, ...), or ``my.py:function``, a kernel of your own.
        classes: Which dimension of the logits holds the classes; 1 for maps ``[batch, classes, height, width]``.
        epochs: Passes over the data; the run's budget by default.

    Raises:
        LimbeckError: If `temperature` is not above 0, `weight` no share, or `loss` names none.

    Example:
        >>> from torch import nn
        >>> [repr(stage.objective) for stage in hinton(nn.Linear(4, 3), weight=0.75).stages()]
        ['0.75 * Loss(kl_divergence, temperature=4.0) + 0.25 * Loss(cross_entropy)']

    Source: Hinton, Vinyals and Dean, 2015, arXiv:1503.02531, section 2.
    """
    check_hyper(temperature=temperature)
    check_share(weight=weight)
    objective: Objective = weight * named_loss(loss, temperature=temperature, classes=classes)
    if labels:
        objective = objective + (1 - weight) * Loss(cross_entropy, classes=classes)
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="hinton"))
