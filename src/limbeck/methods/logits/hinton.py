"""Knowledge distillation of Hinton et al.: soft targets at a temperature, and labels."""

from __future__ import annotations

from typing import Any

from limbeck.functional import check_hyper, cross_entropy
from limbeck.losses import Loss, Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_share, named_loss
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task, get_task

CARD = MethodCard(
    name="hinton",
    title="Distilling the Knowledge in a Neural Network",
    authors="Hinton, Vinyals and Dean",
    year=2015,
    arxiv="1503.02531",
    venue="NIPS 2014 Deep Learning Workshop",
    claim="The student learns from the softened predictions of the teacher and, with less weight, the labels.",
    when="Try it first, and compare all other methods with it. It needs only logits and works with unlabeled data. The "
    "paper gives T per experiment (20 for wide students on MNIST, 2.5 to 4 for 30 units a layer, 2 for speech) "
    'and says that "a considerably lower weight" on the labels is best: choose both on development data.',
    bibtex="""@article{hinton2015distilling,
  title = {Distilling the Knowledge in a Neural Network},
  author = {Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff},
  journal = {arXiv preprint arXiv:1503.02531},
  year = {2015}
}""",
    ranges={"temperature": SearchRange(1.0, 20.0, log=True), "weight": SearchRange(0.0, 1.0)},
    tasks=("classification", "multi_label", "regression", "segmentation", "language_modeling"),
    keywords=("kd", "soft targets"),
)


@validates_arguments
def hinton(
    teacher: Any,
    *,
    temperature: float = 4.0,
    weight: float = 0.9,
    labels: bool = True,
    loss: str | None = None,
    classes: int | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Match soft targets and labels: :math:`w T^2 KL(p \| q) + (1 - w) (-\log softmax(z)_y)` in nats.

    p and q are the distributions of teacher and student at temperature T. With w = 0 it is `supervised`. For large T
    the first term becomes logit matching.

    Other tasks have other losses (`limbeck.tasks`): binary KL divergence and binary cross-entropy for several labels,
    the same losses as here at each pixel for segmentation, and squared errors to teacher and targets for regression,
    where a temperature has no meaning.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        temperature: T, above 0. The paper uses a different value in each experiment; 4 is the upper end of its best
            values for small students. Jobs of language modeling take 1 if none is typed (`Task.temperature`).
        weight: w, the weight of the soft targets, from 0 to 1. The default is high because a low weight on the labels
            was best in the paper.
        labels: Whether to use labels. False drops the label term, for data without labels. Keep True for data in which
            only some labels are missing (-100).
        loss: The loss between student and teacher: by default that of the task, which is ``kl_divergence`` as in the
            paper; another function of `limbeck.functional`
            (``reverse_kl``, ``total_variation``, ...), or ``my.py:function``, your own kernel.
        classes: The class dimension of the logits; by default that of the task.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If `temperature` is not above 0, `weight` is not from 0 to 1, or `loss` is unknown.

    Example:
        >>> from torch import nn
        >>> [repr(stage.objective) for stage in hinton(nn.Linear(4, 3), weight=0.75).stages()]
        ['0.75 * Loss(kl_divergence, temperature=4.0) + 0.25 * Loss(cross_entropy)']

    Source: Hinton, Vinyals and Dean, 2015, arXiv:1503.02531, section 2.
    """
    check_hyper(temperature=temperature)
    check_share(weight=weight)
    task = get_task(task)
    dimension = task.classes_dim if classes is None else classes
    if loss is None and classes is None:
        objective: Objective = weight * task.distillation_loss(temperature=temperature)
    else:
        objective = weight * named_loss(loss or "kl_divergence", temperature=temperature, classes=dimension)
    if labels:
        hard = task.supervised_loss() if classes is None else Loss(cross_entropy, classes=classes)
        objective = objective + (1 - weight) * hard
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="hinton"))
