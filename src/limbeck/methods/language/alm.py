"""Approximate Likelihood Matching: likelihoods of the same bytes for models with different tokenizers."""

from __future__ import annotations

from typing import Any

from limbeck.functional import binary_likelihood_kl
from limbeck.functional.across_tokenizers import check_boundary_threshold, check_likelihood_temperature
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_reads_texts, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task, get_task

CARD = MethodCard(
    name="alm",
    title="Universal Cross-Tokenizer Distillation via Approximate Likelihood Matching",
    authors="Minixhofer, Vulić and Ponti",
    year=2025,
    arxiv="2503.20083",
    venue="NeurIPS 2025",
    claim="What two tokenizers agree on is the likelihood of the same bytes, so it is matched, as a distribution of "
    "two outcomes: these bytes, or others.",
    when="For a teacher with another tokenizer. The student learns how likely the teacher thinks each piece of the "
    "text, but nothing of what else could stand there. Compare with uld and with the student alone. The paper's loss "
    "on hidden states and its balancing of losses by their gradients are not part of it.",
    bibtex="""@inproceedings{minixhofer2025universal,
  title = {Universal Cross-Tokenizer Distillation via Approximate Likelihood Matching},
  author = {Minixhofer, Benjamin and Vuli{\\'c}, Ivan and Ponti, Edoardo Maria},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2025},
  eprint = {2503.20083},
  archivePrefix = {arXiv}
}""",
    ranges={
        "weight": SearchRange(0.1, 3.0, log=True),
        "likelihood_temperature": SearchRange(1.0, 100.0, log=True),
    },
    labels="required",
    needs="a CrossTokenizerTeacher",
    trials=("two_tokenizers",),
    tasks=("language_modeling",),
    task_reason="it compares models that read the same text in different tokens",
    across_tokenizers=True,
)


@validates_arguments
def alm(
    teacher: Any,
    *,
    likelihood_temperature: float = 100.0,
    boundary_threshold: float | None = 0.1,
    weight: float = 1.0,
    label_weight: float = 1.0,
    task: str | Task = "language_modeling",
    epochs: int | None = None,
) -> Recipe:
    r"""Match likelihoods of chunks: :math:`w \tau KL(Ber(p_c^{1/\tau}) \| Ber(q_c^{1/\tau})) + v (-\log q_y)`.

    :math:`p_c` and :math:`q_c` are the likelihoods of a chunk c of tokens that spell the same bytes, by the chain rule,
    times the probability that a word ends behind it (outcome chunk debiasing): that the next token begins with white
    space or is special. Without it the likelihood of ``cat`` would be that of this token alone in one model and that of
    ``cat``, ``cats`` and ``catch`` in another. A chunk is one or more groups: it goes on until the teacher's
    probability that a word ends is above `boundary_threshold`. The divergence is a sum over chunks, the cross-entropy
    one over tokens, and both are divided by the number of tokens with a label, so that they are nats per token.

    Args:
        teacher: A `CrossTokenizerTeacher`.
        likelihood_temperature: :math:`\tau`, above 0; 100 in the paper.
        boundary_threshold: The probability, from 0 to 1, above which a chunk ends; 0.1 in the paper. None compares the
            likelihood of each group as it is.
        weight: w, 0 or more.
        label_weight: v, the weight of the cross-entropy, 0 or more. With 0 only the teacher is matched.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or the teacher is no `CrossTokenizerTeacher`.

    Example:
        >>> from limbeck.testing.trials import make_language_models
        >>> _, teacher, _ = make_language_models()
        >>> [repr(stage.objective) for stage in alm(teacher, label_weight=0.0).stages()]
        ['1.0 * Loss(binary_likelihood_kl, likelihood_temperature=100.0, boundary_threshold=0.1)']

    Source: Minixhofer et al., 2025, arXiv:2503.20083, section 3.
    """
    check_likelihood_temperature(likelihood_temperature)
    check_boundary_threshold(boundary_threshold)
    check_weight(weight=weight, label_weight=label_weight)
    check_reads_texts(teacher, "alm")
    task = get_task(task)
    matched = weight * Loss(
        binary_likelihood_kl, likelihood_temperature=likelihood_temperature, boundary_threshold=boundary_threshold
    )
    objective = matched + label_weight * task.supervised_loss() if label_weight else matched
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="alm"))
