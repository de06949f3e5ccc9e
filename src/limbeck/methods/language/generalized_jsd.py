"""Generalized Jensen-Shannon divergence of GKD, off policy."""

from __future__ import annotations

from typing import Any

from limbeck.functional import check_hyper, gkd_jensen_shannon, jensen_shannon
from limbeck.losses import Loss
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_share
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task, get_task

CARD = MethodCard(
    name="generalized_jsd",
    title="On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes",
    authors="Agarwal, Vieillard, Zhou, Stanczyk, Ramos, Geist and Bachem",
    year=2023,
    arxiv="2306.13649",
    venue="ICLR 2024",
    claim="A divergence between the forward and the reverse KL divergence: both models are compared with a mixture.",
    when="When the student should neither spread over all that the teacher may say nor keep to a few of its modes. "
    "This is supervised GKD (lambda = 0): the divergence on given text. Text that the student generates is not in this "
    "version. Compare with hinton at temperature 1.",
    bibtex="""@inproceedings{agarwal2024policy,
  title = {On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes},
  author = {Agarwal, Rishabh and Vieillard, Nino and Zhou, Yongchao and Stanczyk, Piotr and Ramos, Sabela and
            Geist, Matthieu and Bachem, Olivier},
  booktitle = {International Conference on Learning Representations},
  year = {2024},
  eprint = {2306.13649},
  archivePrefix = {arXiv}
}""",
    ranges={"mixture": SearchRange(0.1, 0.9), "weight": SearchRange(0.5, 1.0)},
    tasks=("language_modeling", "classification", "segmentation"),
)


def generalized_jsd(
    teacher: Any,
    *,
    mixture: float = 0.5,
    normalized: bool = True,
    temperature: float = 1.0,
    weight: float = 1.0,
    task: str | Task = "language_modeling",
    epochs: int | None = None,
) -> Recipe:
    r"""Match a mixture: :math:`w T^2 \frac{b KL(p \| m) + (1 - b) KL(q \| m)}{b (1 - b)} + (1 - w) (-\log q_y)`.

    In nats per token, with :math:`m = b p + (1 - b) q`, p of the teacher and q of the student. It is the forward KL
    divergence at b = 0 and the reverse one at b = 1. The paper leaves out the divisor: then the gradient vanishes
    towards both ends, so that b changes the learning rate too.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        mixture: b, the weight of the teacher in the mixture, from 0 to 1 (beta of the paper).
        normalized: Whether to divide by b (1 - b). False is the paper's form.
        temperature: T, above 0.
        weight: w, the weight of the divergence, from 0 to 1; the rest is that of the labels.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range.

    Example:
        >>> from torch import nn
        >>> [repr(stage.objective) for stage in generalized_jsd(nn.Linear(4, 3), weight=0.75).stages()]
        ['0.75 * Loss(jensen_shannon, mixture=0.5, temperature=1.0) + 0.25 * Loss(cross_entropy)']

    Source: Agarwal et al., 2023, arXiv:2306.13649, section 3 and equation 1.
    """
    check_hyper(mixture=mixture, temperature=temperature)
    check_share(weight=weight)
    task = get_task(task)
    kernel = jensen_shannon if normalized else gkd_jensen_shannon
    divergence = Loss(kernel, mixture=mixture, temperature=temperature, classes=task.classes_dim)
    objective = weight * divergence + (1 - weight) * task.supervised_loss()
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="generalized_jsd"))
