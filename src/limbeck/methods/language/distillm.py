"""DistiLLM: skew KL divergences."""

from __future__ import annotations

from typing import Any

from limbeck.data import AdaptiveShare
from limbeck.errors import ArgumentError
from limbeck.functional import check_hyper, cross_entropy, skew_kl, skew_reverse_kl
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_loss_counts, check_share, make_rollouts, read_share
from limbeck.recipe import Recipe, Stage
from limbeck.schedule import Schedule
from limbeck.tasks import Task, get_task

CARD = MethodCard(
    name="distillm",
    title="DistiLLM: Towards Streamlined Distillation for Large Language Models",
    authors="Ko, Kim, Chen and Yun",
    year=2024,
    arxiv="2402.03898",
    venue="ICML 2024",
    claim="The KL divergence to a mixture of both models is bounded, so tokens that one of them thinks impossible do "
    "not dominate the gradient.",
    when="For a student that is much smaller than its teacher, where the forward or reverse KL divergence is dominated "
    "by few tokens. A share of the batches may have texts that the student writes, new ones and some of before. The "
    "share is fixed, a schedule, or rises when the validation loss does, as in the paper: share=adaptive(every=50) in "
    "a job. Compare with hinton at temperature 1.",
    bibtex="""@inproceedings{ko2024distillm,
  title = {DistiLLM: Towards Streamlined Distillation for Large Language Models},
  author = {Ko, Jongwoo and Kim, Sungnyun and Chen, Tianyi and Yun, Se-Young},
  booktitle = {International Conference on Machine Learning},
  year = {2024},
  eprint = {2402.03898},
  archivePrefix = {arXiv}
}""",
    ranges={"skew": SearchRange(0.01, 0.5, log=True), "weight": SearchRange(0.5, 1.0)},
    tasks=("language_modeling", "classification", "segmentation"),
)

_DIRECTIONS = {"reverse": skew_reverse_kl, "forward": skew_kl}


@validates_arguments
def distillm(
    teacher: Any,
    *,
    direction: str = "reverse",
    skew: float = 0.1,
    temperature: float = 1.0,
    weight: float = 1.0,
    share: float | str | Schedule | AdaptiveShare = 0.0,
    max_new_tokens: int = 64,
    sampling_temperature: float = 1.0,
    replay: int = 1000,
    replay_share: float | str | Schedule = 0.5,
    task: str | Task = "language_modeling",
    epochs: int | None = None,
) -> Recipe:
    r"""Match a mixture: :math:`w T^2 KL(q \| (1 - a) p + a q) + (1 - w) (-\log q_y)` in nats per token.

    p is the distribution of the teacher, q that of the student, a the skew. With ``direction="forward"`` the divergence
    is :math:`KL(p \| a p + (1 - a) q)`. Both are at most :math:`\log(1 / a)`, and the KL divergences at a = 0. The
    mixture is differentiated too, as in the paper.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        direction: ``reverse`` or ``forward``; the paper has both.
        skew: a, the share of the first distribution in the mixture, from 0 to 1; 0.1 in the paper.
        temperature: T, above 0.
        weight: w, the weight of the divergence, from 0 to 1; the rest is that of the labels of given texts.
        share: The share of the batches with texts that the student writes, for language modeling alone: a number from 0
            to 1, a `limbeck.Schedule` or its text, such as ``ramp(0.5)``, or a `limbeck.data.AdaptiveShare`, which
            rises with the validation loss, as in the paper; in a job ``adaptive(every=50)``, on its development data.
        max_new_tokens: The largest number of tokens that are written; longer texts are cut off.
        sampling_temperature: The temperature at which texts are written; 0 takes the most likely tokens.
        replay: The number of written texts that are kept and used again; 0 for none.
        replay_share: The share of the batches of written texts that are drawn from those kept, from 0 to 1, or a
            schedule. In the authors' code it grows from 0 to 1: ``ramp(1.0)``.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range.

    Example:
        >>> from torch import nn
        >>> [repr(stage.objective) for stage in distillm(nn.Linear(4, 3), weight=0.75).stages()]
        ['0.75 * Loss(skew_reverse_kl, skew=0.1, temperature=1.0) + 0.25 * Loss(cross_entropy)']

    Source: Ko, Kim, Chen and Yun, 2024, arXiv:2402.03898, sections 3.1 and 3.2.
    """
    check_hyper(skew=skew, temperature=temperature)
    check_share(weight=weight)
    share = read_share("share", share)
    check_loss_counts(weight=weight, share=share)
    if direction not in _DIRECTIONS:
        raise ArgumentError(f"direction is 'reverse' or 'forward'; got {direction!r}.", argument="direction")
    task = get_task(task)
    if share and task.name != "language_modeling":
        raise ArgumentError(f"share={share}: only language models write texts; this is {task.name}.", argument="share")
    rollouts, teacher = make_rollouts(
        teacher, share=share, writer="student", max_new_tokens=max_new_tokens,
        sampling_temperature=sampling_temperature, replay=replay, replay_share=replay_share,
    )  # fmt: skip
    divergence = Loss(_DIRECTIONS[direction], skew=skew, temperature=temperature, classes=task.classes_dim)
    labels = task.supervised_loss() if share == 0 else Loss(cross_entropy, where="given")
    objective = weight * divergence + (1 - weight) * labels
    return Recipe(Stage(objective, teacher=teacher, loader=rollouts, epochs=epochs, name="distillm"))
