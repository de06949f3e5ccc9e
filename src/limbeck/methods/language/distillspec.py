"""DistillSpec: a draft model whose tokens the teacher accepts in speculative decoding."""

from __future__ import annotations

from typing import Any

from limbeck.functional import check_hyper
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import make_rollouts, named_loss
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task

CARD = MethodCard(
    name="distillspec",
    title="DistillSpec: Improving Speculative Decoding via Knowledge Distillation",
    authors="Zhou, Lyu, Rawat, Menon, Rostamizadeh, Kumar, Kagy and Agarwal",
    year=2023,
    arxiv="2310.08461",
    venue="ICLR 2024",
    claim="A draft model learns, on texts that it writes itself, to have as many tokens as possible accepted by the "
    "teacher: one minus the total variation is the rate of acceptance.",
    when="When the student is to write drafts for its teacher (speculative decoding), which then writes its own "
    "texts with fewer passes. Start from a student that has learned already, by hinton or on data: far from the "
    "teacher, the total variation has almost no gradient. Choose the divergence on development data, by acceptance "
    "and tokens per pass, which every report of language models has. A test here shows a higher acceptance than with "
    "the forward KL divergence at equal steps, for a student that is too small for its teacher. The speed-up of a "
    "server is not measured.",
    bibtex="""@inproceedings{zhou2024distillspec,
  title = {{DistillSpec}: Improving Speculative Decoding via Knowledge Distillation},
  author = {Zhou, Yongchao and Lyu, Kaifeng and Rawat, Ankit Singh and Menon, Aditya Krishna and Rostamizadeh, Afshin
            and Kumar, Sanjiv and Kagy, Jean-Fran{\\c{c}}ois and Agarwal, Rishabh},
  booktitle = {International Conference on Learning Representations},
  year = {2024},
  eprint = {2310.08461},
  archivePrefix = {arXiv}
}""",
    labels="unused",
    needs="prompts",
    ranges={"share": SearchRange(0.0, 1.0)},
    example={"max_new_tokens": 4},
    trials=("language",),
    tasks=("language_modeling",),
    task_reason="it is about drafts of texts",
)


@validates_arguments
def distillspec(
    teacher: Any,
    *,
    divergence: str = "total_variation",
    share: float = 1.0,
    temperature: float = 1.0,
    max_new_tokens: int = 64,
    sampling_temperature: float = 1.0,
    writer: str = "student",
    task: str | Task = "language_modeling",
    epochs: int | None = None,
) -> Recipe:
    r"""Minimize :math:`\frac12 \sum_v |p_v - q_v|`, one minus the probability that the teacher accepts a token.

    In speculative decoding a token x of the student's distribution q is accepted with probability
    :math:`\min(1, p(x) / q(x))`, where p is that of the teacher. The expectation is
    :math:`\sum_v \min(p_v, q_v) = 1 - TV(p, q)`. The mean is over the tokens that the student writes.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        divergence: A function of `limbeck.functional` that compares the two models: ``total_variation``,
            ``kl_divergence``, ``reverse_kl``, ``jensen_shannon``, ...; or ``my.py:function``. The paper finds that the
            best one depends on the task and on how texts are decoded.
        share: The share of the batches with written texts, from 0 to 1.
        temperature: The temperature of both models, above 0, for a server that decodes at it.
        max_new_tokens: The largest number of tokens that are written; longer texts are cut off.
        sampling_temperature: The temperature at which texts are written; 0 takes the most likely tokens.
        writer: Who writes: ``student``, or ``teacher`` for new texts of the teacher in every epoch.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or the teacher cannot be asked about new texts.

    Example:
        >>> from torch import nn
        >>> [repr(stage.objective) for stage in distillspec(nn.Linear(4, 3)).stages()]
        ['Loss(total_variation, temperature=1.0)']

    Source: Zhou et al., 2023, arXiv:2310.08461, section 4.
    """
    CARD.get_task(task)
    check_hyper(temperature=temperature)
    loss = named_loss(divergence, temperature=temperature)
    rollouts, teacher = make_rollouts(
        teacher, share=share, writer=writer, max_new_tokens=max_new_tokens, sampling_temperature=sampling_temperature,
        replay=0, replay_share=0.0,
    )  # fmt: skip
    return Recipe(Stage(loss, teacher=teacher, loader=rollouts, epochs=epochs, name="distillspec"))
