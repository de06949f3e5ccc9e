"""MiniLM: the student learns the relations between tokens in one layer's self-attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limbeck.errors import ArgumentError, unknown_name_error
from limbeck.functional import KernelClaim, check_hyper, relation_kl
from limbeck.losses import Loss, Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.layers import add_weighted
from limbeck.methods.features.transformer_layers import Layout, get_layouts, pair_addresses
from limbeck.methods.support import check_count, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task

CARD = MethodCard(
    name="minilm",
    title="MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers",
    authors="Wang, Wei, Dong, Bao, Yang and Zhou",
    year=2020,
    arxiv="2002.10957",
    venue="NeurIPS 2020",
    claim="The student's last layer learns the relations between tokens in one layer of the teacher: those of queries "
    "and keys, and those of values. Depth, width and (in MiniLMv2) the number of heads are free.",
    when="For a student of another width and depth than its teacher, also with another number of attention heads, and "
    "for distillation without labels. It reads one layer only, and no attention maps, so it also works with fast "
    "attention. With soft_weight and label_weight the student learns a task at once.",
    bibtex="""@inproceedings{wang2020minilm,
  title = {{MiniLM}: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers},
  author = {Wang, Wenhui and Wei, Furu and Dong, Li and Bao, Hangbo and Yang, Nan and Zhou, Ming},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020},
  eprint = {2002.10957},
  archivePrefix = {arXiv}
}
@inproceedings{wang2021minilmv2,
  title = {{MiniLMv2}: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained Transformers},
  author = {Wang, Wenhui and Bao, Hangbo and Huang, Shaohan and Dong, Li and Wei, Furu},
  booktitle = {Findings of the Association for Computational Linguistics: ACL-IJCNLP 2021},
  year = {2021},
  eprint = {2012.15828},
  archivePrefix = {arXiv}
}""",
    reads=("logits", "features"),
    needs="two transformers",
    example={"student_layers": 2, "teacher_layers": 4, "heads": 2},
    ranges={
        "weight": SearchRange(0.1, 10.0, log=True),
        "soft_weight": SearchRange(0.0, 10.0),
        "label_weight": SearchRange(0.0, 1.0),
        "temperature": SearchRange(1.0, 10.0, log=True),
    },
    trials=("transformer",),
    tasks=("classification", "multi_label", "regression"),
    task_reason="its mask holds tokens, and the labels of such data are those of other positions",
    kernels=(
        KernelClaim(
            relation_kl,
            shape=(4, 6),
            positions=1,
            student=("query", "key"),
            teacher=("teacher_query", "teacher_key"),
            hyper={"heads": 2},
            zero_at_equality=True,
            tolerance=0.0,
            logits=False,
            largest=1e12,
        ),
    ),
)

_PLACES = ("query", "key", "value")


@validates_arguments
def minilm(
    teacher: Any,
    *,
    student_layers: int,
    teacher_layers: int,
    heads: int,
    relations: Sequence[str] = ("query-key", "value-value"),
    teacher_layer: int | None = None,
    weight: float = 1.0,
    soft_weight: float = 1.0,
    label_weight: float = 1.0,
    temperature: float = 1.0,
    addresses: Layout = "bert",
    student_addresses: Layout | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn relations between tokens: :math:`w \sum_r KL(R^T_r \| R^S_r) + u T^2 KL(p \| q) + v (-\log q_y)`.

    :math:`R_r = softmax(A_1 A_2^\top / \sqrt{d})` in each of `heads` heads, from queries, keys or values of one layer
    (`relation_kl`). The paper has u = v = 0: it distills a language model, which is fine-tuned afterwards. Here they
    are 1, so that a classifier learns its task too.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        student_layers: The number of layers of the student. Its last layer learns.
        teacher_layers: The number of layers of the teacher.
        heads: The number of heads of the relations. For MiniLM that of both models; for MiniLMv2 any number that
            divides both widths: 48 for BERT-base, 64 for BERT-large in the paper.
        relations: The pairs that are compared. MiniLM has ``query-key`` and ``value-value``, MiniLMv2 ``query-query``,
            ``key-key`` and ``value-value``.
        teacher_layer: The layer of the teacher, from 0; by default the last. MiniLMv2 has the 21st of 24, which is 20.
        weight: w, the weight of each relation, at least 0.
        soft_weight: u, the weight of the teacher's predictions, at least 0.
        label_weight: v, the weight of the labels, at least 0.
        temperature: T, above 0.
        addresses: The layout of the teacher's layers: ``bert``, ``roberta``, ``distilbert``, ``vit``, or addresses by
            name (`TransformerAddresses`).
        student_addresses: The layout of the student's layers; by default that of the teacher.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or there is no such layout, relation or layer.

    Source: Wang et al., 2020, arXiv:2002.10957, equations 4 to 8, and arXiv:2012.15828, section 3.
    """
    task = CARD.get_task(task)
    check_hyper(temperature=temperature)
    check_count(student_layers=student_layers, teacher_layers=teacher_layers, heads=heads)
    check_weight(weight=weight, soft_weight=soft_weight, label_weight=label_weight)
    at = teacher_layers - 1 if teacher_layer is None else teacher_layer
    if isinstance(at, bool) or not isinstance(at, int) or not 0 <= at < teacher_layers:
        raise ArgumentError(
            f"teacher_layer is a layer of the teacher, 0 to {teacher_layers - 1}; got {at!r}.", argument="teacher_layer"
        )
    student_layout, teacher_layout = get_layouts(student_addresses, addresses)
    terms: list[Objective] = []
    chosen = _check_relations(relations)
    for relation in chosen if weight else []:
        first, second = relation.split("-")
        places = pair_addresses(student_layout, teacher_layout, first, second, student_layers - 1, at)
        terms.append(weight * Loss(relation_kl, **places, heads=heads, name=relation))
    if soft_weight:
        terms.append(soft_weight * task.distillation_loss(temperature=temperature))
    if label_weight:
        terms.append(label_weight * task.supervised_loss())
    objective = add_weighted(terms, weights="weight, soft_weight and label_weight")
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="minilm"))


def _check_relations(relations: Any) -> list[str]:
    """The names of relations.

    Raises:
        UnknownNameError: If one is no pair of ``query``, ``key`` and ``value``.
        ArgumentError: If there is none, or one is there twice.
    """
    names = [f"{first}-{second}" for first in _PLACES for second in _PLACES]
    chosen = [relations] if isinstance(relations, str) else list(relations) if isinstance(relations, Sequence) else []
    for relation in chosen:
        if relation not in names:
            raise unknown_name_error("relation", str(relation), names, argument="relations")
    if not chosen or len(set(chosen)) < len(chosen):
        raise ArgumentError(
            f"relations is a list of one or more different names, such as [value-value]; got {relations!r}.",
            argument="relations",
        )
    return chosen
