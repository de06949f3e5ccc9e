"""SRST-AWR: a robust student from few labels, soft predictions, and a regularization that weighs each example."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from limbeck.data import Attack
from limbeck.data.adversarial_loader import CLEAN
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
from limbeck.teachers import AveragingTeacher, MovingAverage, Teacher, as_teacher, without_cache


def compute_adaptive_weight(
    clean: Float[Tensor, "*batch classes"],
    adversarial: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    mixture: float = 0.5,
) -> Float[Tensor, "*batch"]:
    r"""Compute the weight of each example: :math:`w = \beta\, p_T \cdot p(x) + (1 - \beta)(1 - p_T \cdot p(x'))`.

    It is from 0 to 1: beta where all three are the same one-hot prediction, and 1 where the student agrees with the
    teacher at x and not at all at x'. With beta = 0 and a one-hot teacher y it is :math:`1 - p_y(x')`, that of `arow`.

    Args:
        clean: The student's logits at the inputs.
        adversarial: The student's logits at the changed inputs.
        teacher: The teacher's logits at the inputs.
        mixture: beta, from 0 to 1.

    Example:
        >>> import torch
        >>> sure, other = torch.tensor([[99.0, 0.0]]), torch.tensor([[0.0, 99.0]])
        >>> [float(compute_adaptive_weight(sure, one, sure, mixture=0.25)) for one in (sure, other)]
        [0.25, 1.0]
    """
    target = probabilities(teacher)
    ours = (target * probabilities(clean)).sum(-1)
    at_copies = (target * probabilities(adversarial)).sum(-1)
    return (mixture * ours + (1 - mixture) * (1 - at_copies)).clamp(0.0, 1.0)  # rounding


@kernel(per="position")
def adaptively_weighted_kl(
    clean: Float[Tensor, "*batch classes"],
    adversarial: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    mixture: float = 0.5,
) -> Float[Tensor, "*batch"]:
    r"""Compute how far an attack moves the prediction, weighted without a label: :math:`w \, KL(p(x) \| p(x'))`.

    In nats, with the weight of `compute_adaptive_weight`, whose gradient is part of the gradient. No label is needed.
    It is 0 where the weight is 0.

    Args:
        clean: The student's logits at the inputs.
        adversarial: The student's logits at the changed inputs.
        teacher: The teacher's logits at the inputs.
        mixture: beta, from 0 to 1.

    Raises:
        LimbeckError: If `mixture` is not from 0 to 1.

    Example:
        >>> import torch
        >>> p, q = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.25, 0.75]]).log()  # KL = 0.5493
        >>> adaptively_weighted_kl(p, q, torch.zeros(1, 2))
        tensor([0.2747])

    Source: Yang, Kong and Kim, 2023, arXiv:2308.04061.
    """
    check_hyper(mixture=mixture)
    weight = compute_adaptive_weight(clean, adversarial, teacher, mixture=mixture)
    # An infinite divergence times 0 is NaN, and so is its gradient.
    copies = adversarial.where((weight > 0).unsqueeze(-1), clean)
    return kl_divergence(copies, clean) * weight


@kernel(per="position")
def prediction_change(
    clean: Float[Tensor, "*batch classes"], adversarial: Float[Tensor, "*batch classes"]
) -> Float[Tensor, "*batch"]:
    r"""Compute how far an attack moves the prediction, :math:`KL(p(x) \| p(x'))` in nats: TRADES without labels.

    Args:
        clean: The student's logits at the inputs.
        adversarial: The student's logits at the changed inputs.

    Example:
        >>> import torch
        >>> prediction_change(torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.25, 0.75]]).log())
        tensor([0.5493])

    Source: Zhang et al., 2019, arXiv:1901.08573.
    """
    return kl_divergence(adversarial, clean)


CARD = MethodCard(
    name="srst_awr",
    title="Enhancing Adversarial Robustness in Low-Label Regime via Adaptively Weighted Regularization and Knowledge "
    "Distillation",
    authors="Yang, Kong and Kim",
    year=2023,
    arxiv="2308.04061",
    venue="ICCV 2023",
    claim="With few labels, a student becomes robust from the soft predictions of a teacher that was trained "
    "semi-supervised, and from a divergence between clean and adversarial inputs whose weight needs no label.",
    when="When most examples have no label (-100), the student must hold against adversarial changes of its inputs, "
    "and there is a teacher that is accurate on clean inputs, such as one of `mean_teacher`. Each step costs "
    "`attack_steps` further passes. `epsilon` is the largest change, as a fraction of the range of the inputs. Where "
    "paper and code differ: for CIFAR-100 and STL-10 the code attacks the teacher's most likely class; here the attack "
    "is always that of CIFAR-10. The weights of the final epochs are averaged there; "
    "`average_decay` is a moving average.",
    bibtex="""@inproceedings{yang2023enhancing,
  title = {Enhancing Adversarial Robustness in Low-Label Regime via Adaptively Weighted Regularization and Knowledge
           Distillation},
  author = {Yang, Dongyoon and Kong, Insung and Kim, Yongdai},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year = {2023},
  eprint = {2308.04061},
  archivePrefix = {arXiv}
}""",
    labels="few",
    ranges={
        "weight": SearchRange(1.0, 40.0, log=True),
        "soft_weight": SearchRange(0.5, 8.0, log=True),
        "temperature": SearchRange(1.0, 4.0),
        "mixture": SearchRange(0.0, 1.0),
    },
    task_reason="its attack is on the prediction for one tensor",
    example={"epsilon": 0.1, "attack_steps": 2},
    trials=(make_adversarial_trial,),
    kernels=(
        KernelClaim(
            adaptively_weighted_kl, student=("clean", "adversarial"), zero_at_equality=False,
            invariances=("student_shift", "teacher_shift"),
        ),
        KernelClaim(
            prediction_change, student=("clean", "adversarial"), teacher=(), zero_at_equality=False,
            invariances=("student_shift",),
        ),
    ),
    keywords=("awr", "adversarial", "robust", "semi-supervised", "pgd", "trades"),
)  # fmt: skip


@validates_arguments
def srst_awr(
    teacher: Any,
    *,
    epsilon: float = 8 / 255,
    attack_steps: int = 10,
    step_size: float | None = None,
    low: float | None = None,
    high: float | None = None,
    weight: float = 20.0,
    soft_weight: float = 4.0,
    temperature: float = 1.2,
    smoothing: float = 0.2,
    mixture: float = 0.5,
    adaptive: bool = True,
    average_decay: float = 0.0,
    epochs: int | None = None,
) -> Recipe:
    r"""Learn few labels, soft predictions, and robustness: :math:`LS_s + \gamma KL_\tau + \lambda w KL(p(x) \| p(x'))`.

    The first term is the mean over the examples with a label; :math:`KL_\tau(p_T(x) \| p(x))`, without a factor of
    :math:`\tau^2`, and the last term are means over all examples. x' raises :math:`KL(p(x) \| p(x'))` by projected
    gradient ascent in eval mode, before each step and without labels (`limbeck.data.Attack`). w is that of
    `compute_adaptive_weight`, for the teacher's prediction at x. At ``weight=0`` it is semi-supervised distillation.

    Args:
        teacher: Anything that `as_teacher` accepts; its outputs are computed anew in each epoch.
        epsilon: The largest change of an input, as a fraction of its range, above 0; 8/255 in the paper.
        attack_steps: The number of steps of the attack.
        step_size: The length of a step, likewise; by default a quarter of `epsilon`, as in the paper.
        low: The smallest value of an input; by default 0.
        high: The largest; by default 255 for bytes and 1 for other numbers.
        weight: lambda, the weight of the regularization; 20 for CIFAR-10 and 8 for STL-10 in the paper.
        soft_weight: gamma, the weight of the teacher's predictions.
        temperature: tau.
        smoothing: s, the smoothing of the labels, from 0 to 1.
        mixture: beta, from 0 to 1: the share of the agreement at x in w. The rest is the disagreement at x'.
        adaptive: Whether w depends on the example. If not, w = 1: semi-supervised TRADES with distillation.
        average_decay: The decay of a moving average of the weights, which is then the final model: in place of the
            stochastic weight averaging of the paper. 0 for none.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range.

    Example:
        >>> from torch import nn
        >>> [stage.name for stage in srst_awr(nn.Linear(4, 3), epsilon=0.1).stages()]
        ['srst_awr']

    Source: Yang, Kong and Kim, 2023, arXiv:2308.04061.
    """
    check_epsilon(epsilon)
    check_weight(weight=weight, soft_weight=soft_weight)
    check_hyper(smoothing=smoothing, mixture=mixture, temperature=temperature)
    check_count(attack_steps=attack_steps)
    check_decay(average_decay)
    changes = Attack(epsilon, step_size=step_size, steps=attack_steps, low=low, high=high, loss="kl_divergence")
    labels = Loss(label_smoothing, where=CLEAN, smoothing=smoothing)
    # The kernel has a factor of the squared temperature, which the paper has not.
    soft = soft_weight / temperature**2 * Loss(kl_divergence, where=CLEAN, temperature=temperature)
    robust = (
        AdversarialPairs(adaptively_weighted_kl, mixture=mixture) if adaptive else AdversarialPairs(prediction_change)
    )
    source: Teacher = without_cache(as_teacher(teacher))  # no cache has outputs for adversarial inputs
    if average_decay:
        source = AveragingTeacher(source, MovingAverage(decay=average_decay, into="average"))
    stage = Stage(labels + soft + weight * robust, teacher=source, loader=changes, epochs=epochs, name="srst_awr")
    if not average_decay:
        return Recipe(stage)
    return Recipe(stage, makes={"average": copy_student}, ship="average")
