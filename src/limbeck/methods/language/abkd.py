"""ABKD: the alpha-beta divergence."""

from __future__ import annotations

from typing import Any

from limbeck.functional import alpha_beta_divergence, check_hyper
from limbeck.functional.alpha_beta import check_exponents
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_share
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task, get_task

CARD = MethodCard(
    name="abkd",
    title="ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via "
    "alpha-beta-Divergence",
    authors="Wang, Yang, Wang, Wang, Xu and Huang",
    year=2025,
    arxiv="2505.04560",
    venue="ICML 2025",
    claim="Two exponents say how much the gradient attends to large errors and to tokens that the student is sure of, "
    "between the forward and the reverse KL divergence.",
    when="When the forward KL divergence leaves the student too flat, and the reverse one makes it too sharp. The "
    "defaults of the exponents are a choice of this project, with a sum below 1: stored top-k logits need at most 1. "
    "Choose them on development data, and compare with hinton at temperature 1.",
    bibtex="""@inproceedings{wang2025abkd,
  title = {ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via
           $\\alpha$-$\\beta$-Divergence},
  author = {Wang, Guanghui and Yang, Zhiyong and Wang, Zitai and Wang, Shi and Xu, Qianqian and Huang, Qingming},
  booktitle = {International Conference on Machine Learning},
  year = {2025},
  eprint = {2505.04560},
  archivePrefix = {arXiv}
}""",
    ranges={"alpha": SearchRange(0.1, 1.0), "beta": SearchRange(0.0, 0.9), "weight": SearchRange(0.5, 1.0)},
    tasks=("language_modeling", "classification", "segmentation"),
)


@validates_arguments
def abkd(
    teacher: Any,
    *,
    alpha: float = 0.2,
    beta: float = 0.7,
    temperature: float = 1.0,
    weight: float = 1.0,
    task: str | Task = "language_modeling",
    epochs: int | None = None,
) -> Recipe:
    r"""Match powers of probabilities: :math:`w T^2 D_{\alpha,\beta}(p \| q) + (1 - w) (-\log q_y)` in nats per token.

    :math:`D_{\alpha,\beta} = \frac{1}{\alpha \beta} \sum_c (\frac{\alpha}{s} p_c^s + \frac{\beta}{s} q_c^s -
    p_c^\alpha q_c^\beta)` with :math:`s = \alpha + \beta`, p of the teacher and q of the student
    (`limbeck.functional.alpha_beta_divergence`). It is the forward KL divergence for 1 and 0, the reverse one for 0 and
    1.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        alpha: The exponent of the teacher's probabilities, from 0 to 2.
        beta: The exponent of the student's probabilities, from 0 to 2.
        temperature: T, above 0.
        weight: w, the weight of the divergence, from 0 to 1; the rest is that of the labels.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range.

    Example:
        >>> from torch import nn
        >>> [repr(stage.objective) for stage in abkd(nn.Linear(4, 3), weight=0.75).stages()]
        ['0.75 * Loss(alpha_beta_divergence, alpha=0.2, beta=0.7, temperature=1.0) + 0.25 * Loss(cross_entropy)']

    Source: Wang, Yang, Wang, Wang, Xu and Huang, 2025, arXiv:2505.04560, section 4.
    """
    check_exponents(alpha, beta)
    check_hyper(temperature=temperature)
    check_share(weight=weight)
    task = get_task(task)
    divergence = Loss(alpha_beta_divergence, alpha=alpha, beta=beta, temperature=temperature, classes=task.classes_dim)
    objective = weight * divergence + (1 - weight) * task.supervised_loss()
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="abkd"))
