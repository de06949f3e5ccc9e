"""Universal Logit Distillation: sorted probabilities of models with different tokenizers."""

from __future__ import annotations

from typing import Any

from limbeck.functional import check_hyper, sorted_probability_distance
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_reads_texts, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task, get_task

CARD = MethodCard(
    name="uld",
    title="Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for LLMs",
    authors="Boizard, El Haddad, Hudelot and Colombo",
    year=2024,
    arxiv="2402.12030",
    venue="TMLR 2025",
    claim="Sorted probabilities can be compared between vocabularies: the student learns how sure the teacher is, and "
    "the labels say of what.",
    when="For a teacher with another tokenizer. The distance says how peaked a distribution should be, not which token "
    "is likely, so it needs the labels. Compare with alm, which compares likelihoods of texts, and with the student "
    "alone.",
    bibtex="""@article{boizard2025towards,
  title = {Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for {LLM}s},
  author = {Boizard, Nicolas and El Haddad, Kevin and Hudelot, C{\\'e}line and Colombo, Pierre},
  journal = {Transactions on Machine Learning Research},
  year = {2025},
  eprint = {2402.12030},
  archivePrefix = {arXiv}
}""",
    ranges={"weight": SearchRange(0.1, 3.0, log=True)},
    labels="required",
    needs="a CrossTokenizerTeacher",
    trials=("two_tokenizers",),
    tasks=("language_modeling",),
    task_reason="it compares models that read the same text in different tokens",
    across_tokenizers=True,
)


@validates_arguments
def uld(
    teacher: Any,
    *,
    temperature: float = 1.0,
    weight: float = 1.5,
    task: str | Task = "language_modeling",
    epochs: int | None = None,
) -> Recipe:
    r"""Match sorted probabilities: :math:`-\log q_y + w \sum_i |q_{(i)} - p_{(i)}|`, the mean over tokens with a label.

    p and q are the distributions of the next token at the beginning of each group of tokens that spell the same bytes;
    elsewhere the distance counts as 0. (i) is the i-th largest probability, and the smaller vocabulary is filled up
    with zeros.

    Args:
        teacher: A `CrossTokenizerTeacher`.
        temperature: T, above 0.
        weight: w, 0 or more; 1.5 in the paper.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or the teacher is no `CrossTokenizerTeacher`.

    Example:
        >>> from limbeck.testing.trials import make_language_models
        >>> _, teacher, _ = make_language_models()
        >>> [repr(stage.objective) for stage in uld(teacher, weight=2.0).stages()]
        ['2.0 * Loss(sorted_probability_distance, temperature=1.0) + Loss(cross_entropy)']

    Source: Boizard et al., 2024, arXiv:2402.12030, equation 5.
    """
    check_hyper(temperature=temperature)
    check_weight(weight=weight)
    check_reads_texts(teacher, "uld")
    task = get_task(task)
    objective = weight * Loss(sorted_probability_distance, temperature=temperature) + task.supervised_loss()
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="uld"))
