"""GKD: distillation on texts that the student writes."""

from __future__ import annotations

from typing import Any

from limbeck.data import AdaptiveShare
from limbeck.errors import ArgumentError
from limbeck.functional import check_hyper, cross_entropy, gkd_jensen_shannon, jensen_shannon, kl_divergence, reverse_kl
from limbeck.losses import Loss, Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_loss_counts, check_share, make_rollouts, read_share
from limbeck.recipe import Recipe, Stage
from limbeck.schedule import Schedule
from limbeck.tasks import Task

CARD = MethodCard(
    name="gkd",
    title="On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes",
    authors="Agarwal, Vieillard, Zhou, Stanczyk, Ramos, Geist and Bachem",
    year=2023,
    arxiv="2306.13649",
    venue="ICLR 2024",
    claim="The student learns from the teacher's probabilities on texts that the student writes itself: it is taught "
    "where its own mistakes lead.",
    when="When there are few prompts with answers, or the student must write long texts by itself. Each step writes "
    "texts first, which takes most of the time: compare with hinton at temperature 1 at equal seconds, and with "
    "writer=teacher. With share=0 it is supervised GKD: the divergence on given texts.",
    bibtex="""@inproceedings{agarwal2024policy,
  title = {On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes},
  author = {Agarwal, Rishabh and Vieillard, Nino and Zhou, Yongchao and Stanczyk, Piotr and Ramos, Sabela and
            Geist, Matthieu and Bachem, Olivier},
  booktitle = {International Conference on Learning Representations},
  year = {2024},
  eprint = {2306.13649},
  archivePrefix = {arXiv}
}""",
    ranges={
        "share": SearchRange(0.0, 1.0),
        "mixture": SearchRange(0.1, 0.9),
        "weight": SearchRange(0.5, 1.0),
        "sampling_temperature": SearchRange(0.5, 1.0),
    },
    needs="prompts",
    example={"max_new_tokens": 4},
    trials=("language",),
    tasks=("language_modeling",),
    task_reason="the student writes texts",
)

_DIVERGENCES = ("jsd", "forward", "reverse")


@validates_arguments
def gkd(
    teacher: Any,
    *,
    share: float | str | Schedule | AdaptiveShare = 1.0,
    divergence: str = "jsd",
    mixture: float = 0.5,
    normalized: bool = True,
    temperature: float = 1.0,
    max_new_tokens: int = 64,
    sampling_temperature: float = 1.0,
    writer: str = "student",
    replay: int = 0,
    replay_share: float | str | Schedule = 0.5,
    weight: float = 1.0,
    task: str | Task = "language_modeling",
    epochs: int | None = None,
) -> Recipe:
    r"""Match the teacher on written texts: :math:`(1 - \lambda) E_{y \sim data} D + \lambda E_{y \sim q} D`.

    D is the mean over the tokens of y of a divergence of p, the teacher's distribution of the next token, and q, the
    student's, in nats, times :math:`T^2`. There is no gradient through the sampling. With probability lambda, which may
    be a schedule, a batch has texts y that the student writes for its prompts.

    ``jsd`` is :math:`\frac{b KL(p \| m) + (1 - b) KL(q \| m)}{b (1 - b)}` with :math:`m = b p + (1 - b) q`: the forward
    KL divergence at b = 0 and the reverse one at b = 1. The paper leaves out the divisor: then the gradient vanishes
    towards both ends, so that b changes the learning rate too.

    The learning of given answers, :math:`(1 - w) (-\log q_y)`, is for batches of given texts alone.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run. Stored outputs do not fit texts
            that are written anew: of a cached teacher, the teacher itself is used, unless `share` is 0.
        share: lambda, the share of the batches with written texts: a number from 0 to 1, a `limbeck.Schedule` or its
            text, such as ``ramp(1.0)``, or a `limbeck.data.AdaptiveShare`; in a job ``adaptive(every=50)``.
        divergence: D: ``jsd``, ``forward`` or ``reverse``.
        mixture: b, the weight of the teacher in the mixture of ``jsd``, from 0 to 1 (beta of the paper).
        normalized: Whether ``jsd`` is divided by b (1 - b). False is the paper's form.
        temperature: T, the temperature of the divergence, above 0.
        max_new_tokens: The largest number of tokens that are written; longer texts are cut off.
        sampling_temperature: The temperature at which texts are written; 0 takes the most likely tokens.
        writer: Who writes: ``student``, or ``teacher`` for new texts of the teacher in every epoch.
        replay: The number of written texts that are kept and used again; 0 for none.
        replay_share: The share of the batches of written texts that are drawn from those kept, from 0 to 1, or a
            schedule.
        weight: w, the weight of the divergence, from 0 to 1; the rest is that of the given answers.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or the teacher cannot be asked about new texts.

    Example:
        >>> from torch import nn
        >>> stage = next(gkd(nn.Linear(4, 3), share=0.5, divergence="reverse").stages())
        >>> stage.objective, stage.loader.share
        (1.0 * Loss(reverse_kl, temperature=1.0), 0.5)

    Source: Agarwal et al., 2023, arXiv:2306.13649, algorithm 1, section 3 and equation 1.
    """
    CARD.get_task(task)
    check_hyper(mixture=mixture, temperature=temperature)
    check_share(weight=weight)
    share = read_share("share", share)
    check_loss_counts(weight=weight, share=share)
    rollouts, teacher = make_rollouts(
        teacher, share=share, writer=writer, max_new_tokens=max_new_tokens, sampling_temperature=sampling_temperature,
        replay=replay, replay_share=replay_share,
    )  # fmt: skip
    objective: Objective = weight * _make_divergence(divergence, mixture, normalized, temperature)
    if weight < 1:
        # Of a text that the student wrote, the tokens are no answers.
        answers = Loss(cross_entropy) if share == 0 else Loss(cross_entropy, where="given")
        objective = objective + (1 - weight) * answers
    return Recipe(Stage(objective, teacher=teacher, loader=rollouts, epochs=epochs, name="gkd"))


def _make_divergence(name: str, mixture: float, normalized: bool, temperature: float) -> Loss:
    if name not in _DIVERGENCES:
        raise ArgumentError(f"divergence is {', '.join(_DIVERGENCES)}; got {name!r}.", argument="divergence")
    if name == "jsd":
        kernel = jensen_shannon if normalized else gkd_jensen_shannon
        return Loss(kernel, mixture=mixture, temperature=temperature)
    return Loss(kl_divergence if name == "forward" else reverse_kl, temperature=temperature)
