"""ARoW: adversarial training whose regularization is stronger on examples that are less robust; CoW and TRADES too."""

from __future__ import annotations

from typing import Literal, get_args

from jaxtyping import Float, Integer
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.data import Attack
from limbeck.data.adversarial_loader import CLEAN
from limbeck.errors import unknown_name_error
from limbeck.functional import KernelClaim, check_hyper, kernel, kl_divergence, label_smoothing, probabilities
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.logits.adversarial_pairs import (
    AdversarialPairs,
    check_decay,
    check_epsilon,
    copy_student,
    make_adversarial_trial,
)
from limbeck.methods.support import check_count, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.teachers import MovingAverage

Weighting = Literal["adversarial", "clean", "none"]


@kernel(per="position")
def label_weighted_kl(
    clean: Float[Tensor, "*batch classes"],
    adversarial: Float[Tensor, "*batch classes"],
    labels: Integer[Tensor, "*batch"],
    *,
    weighting: Weighting = "adversarial",
) -> Float[Tensor, "*batch"]:
    r"""Compute how far an attack moves the prediction, weighted by the probability of the label.

    :math:`w \, KL(p(x) \| p(x'))` in nats. The weight is :math:`1 - p_y(x')` for ``adversarial`` (ARoW), where it is
    larger for an example that is less robust; :math:`p_y(x)` for ``clean`` (CoW); 1 for ``none`` (TRADES). Its gradient
    is part of the gradient. It is 0 for a label of -100, and for ``adversarial`` also where the label has all of the
    probability at x'.

    Args:
        clean: Logits at the inputs.
        adversarial: Logits at the changed inputs.
        labels: Class indices, or -100.
        weighting: The weight.

    Raises:
        UnknownNameError: If there is no such weighting.

    Example:
        >>> import torch
        >>> p, q = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.25, 0.75]]).log()  # KL = 0.5493
        >>> label = torch.tensor([0])
        >>> [round(float(label_weighted_kl(p, q, label, weighting=one)), 4) for one in ("adversarial", "clean", "none")]
        [0.412, 0.412, 0.5493]

    Source: Yang, Kong and Kim, 2023, arXiv:2206.03353; TRADES: Zhang et al., 2019, arXiv:1901.08573.
    """
    _check_weighting(weighting)
    has_label = labels != IGNORED
    if weighting == "none":
        return kl_divergence(adversarial, clean).where(has_label, 0.0)
    of_label = probabilities(adversarial if weighting == "adversarial" else clean)
    of_label = of_label.gather(-1, labels.where(has_label, 0).long().unsqueeze(-1)).squeeze(-1)
    weight = 1 - of_label if weighting == "adversarial" else of_label
    counts = has_label & (weight > 0)
    # An infinite divergence times 0 is NaN, and so is its gradient.
    copies = adversarial.where(counts.unsqueeze(-1), clean)
    return kl_divergence(copies, clean) * weight.where(counts, 0.0)


def _check_weighting(weighting: str) -> None:
    if weighting not in get_args(Weighting):
        raise unknown_name_error("weighting", weighting, get_args(Weighting), argument="weighting")


CARD = MethodCard(
    name="arow",
    title="Improving Adversarial Robustness by Putting More Regularizations on Less Robust Samples",
    authors="Yang, Kong and Kim",
    year=2023,
    arxiv="2206.03353",
    venue="ICML 2023",
    claim="Adversarial training from smoothed labels, with a divergence between the predictions at clean and at "
    "adversarial inputs that weighs more on examples that are less robust.",
    when="For a robust model, or a robust teacher, where labels are known and there is no teacher. Each step costs "
    "`attack_steps` further passes. `epsilon` is the largest change, as a fraction of the range of the inputs. "
    'weighting="clean" is CoW, and weighting="none" with smoothing=0 is TRADES. Where paper and code differ: the paper '
    "has a factor of 2 before lambda and the code has not; `weight` is the whole factor, 7 in both.",
    bibtex="""@inproceedings{yang2023improving,
  title = {Improving Adversarial Robustness by Putting More Regularizations on Less Robust Samples},
  author = {Yang, Dongyoon and Kong, Insung and Kim, Yongdai},
  booktitle = {International Conference on Machine Learning},
  year = {2023},
  eprint = {2206.03353},
  archivePrefix = {arXiv}
}""",
    reads=(),
    labels="required",
    ranges={"weight": SearchRange(1.0, 20.0, log=True), "smoothing": SearchRange(0.0, 0.4)},
    task_reason="its attack is on the class of one tensor",
    example={"epsilon": 0.1, "attack_steps": 2},
    trials=(make_adversarial_trial,),
    kernels=tuple(
        KernelClaim(
            label_weighted_kl, student=("clean", "adversarial"), teacher=(), hyper={"weighting": weighting},
            zero_at_equality=False, invariances=("student_shift",),
        )
        for weighting in get_args(Weighting)
    ),
    keywords=("cow", "trades", "adversarial", "robust", "pgd"),
)  # fmt: skip


@validates_arguments
def arow(
    *,
    epsilon: float = 8 / 255,
    attack_steps: int = 10,
    step_size: float | None = None,
    attack: str = "kl_divergence",
    low: float | None = None,
    high: float | None = None,
    weight: float = 7.0,
    smoothing: float = 0.2,
    weighting: str = "adversarial",
    average_decay: float = 0.0,
    epochs: int | None = None,
) -> Recipe:
    r"""Learn smoothed labels, and to predict alike at x and x': :math:`LS_s(x, y) + \lambda w KL(p(x) \| p(x'))`.

    x' is found before each step by projected gradient ascent (`limbeck.data.Attack`), in eval mode, from a place
    anywhere in the ball; :math:`w = 1 - p_y(x')`. The first term and the second are means over the examples with a
    label.

    Args:
        epsilon: The largest change of an input, as a fraction of its range, above 0; 8/255 in the paper.
        attack_steps: The number of steps of the attack.
        step_size: The length of a step, likewise; by default a quarter of `epsilon`, as in the paper.
        attack: What the attack raises: ``kl_divergence``, or ``cross_entropy`` of the label, the paper's choice for
            CIFAR-100.
        low: The smallest value of an input; by default 0.
        high: The largest; by default 255 for bytes and 1 for other numbers.
        weight: lambda, the whole factor of the divergence. At 0 it is `label_smoothing`.
        smoothing: s, from 0 to 1.
        weighting: ``adversarial`` (ARoW), ``clean`` (CoW, :math:`w = p_y(x)`) or ``none`` (w = 1; TRADES if `smoothing`
            is 0).
        average_decay: The decay of a moving average of the weights, which is then the final model: in place of the
            stochastic weight averaging of the paper. 0 for none.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or there is no such weighting or attack.

    Example:
        >>> [stage.name for stage in arow(epsilon=0.1).stages()]
        ['arow']

    Source: Yang, Kong and Kim, 2023, arXiv:2206.03353.
    """
    check_epsilon(epsilon)
    check_weight(weight=weight)
    check_hyper(smoothing=smoothing)
    check_count(attack_steps=attack_steps)
    check_decay(average_decay)
    _check_weighting(weighting)
    changes = Attack(epsilon, step_size=step_size, steps=attack_steps, low=low, high=high, loss=attack)
    labels = Loss(label_smoothing, where=CLEAN, smoothing=smoothing)
    objective = labels + weight * AdversarialPairs(label_weighted_kl, weighting=weighting)
    if not average_decay:
        return Recipe(Stage(objective, loader=changes, epochs=epochs, name="arow"))
    average = MovingAverage(decay=average_decay, into="average")
    stage = Stage(objective, teacher=average, loader=changes, epochs=epochs, name="arow")
    return Recipe(stage, makes={"average": copy_student}, ship="average")
