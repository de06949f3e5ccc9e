"""TinyBERT: the student learns embeddings, hidden states and attention of a transformer, then its predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limbeck.functional import KernelClaim, Projector, attention_score_error, check_hyper, state_squared_error
from limbeck.losses import Loss, Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.layers import add_weighted
from limbeck.methods.features.transformer_layers import Layout, find_layer_pairs, get_layouts, pair_addresses
from limbeck.methods.support import check_count, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task

CARD = MethodCard(
    name="tinybert",
    title="TinyBERT: Distilling BERT for Natural Language Understanding",
    authors="Jiao, Yin, Shang, Jiang, Chen, Li, Wang and Liu",
    year=2019,
    arxiv="1909.10351",
    venue="Findings of EMNLP 2020",
    claim="The student first learns the embeddings, hidden states and attention scores of the teacher, each of its "
    "layers from one of the teacher's. Then it learns the teacher's predictions.",
    when="For a transformer that is thinner and shallower than its teacher, with as many attention heads. The paper "
    "first distills the language model on a large corpus, and then the fine-tuned teacher on augmented data: run the "
    "method twice for that. For another number of heads use minilm; for an equally wide student that starts from the "
    "teacher's layers, also try pkd.",
    bibtex="""@inproceedings{jiao2020tinybert,
  title = {{TinyBERT}: Distilling {BERT} for Natural Language Understanding},
  author = {Jiao, Xiaoqi and Yin, Yichun and Shang, Lifeng and Jiang, Xin and Chen, Xiao and Li, Linlin and
            Wang, Fang and Liu, Qun},
  booktitle = {Findings of the Association for Computational Linguistics: EMNLP 2020},
  year = {2020},
  eprint = {1909.10351},
  archivePrefix = {arXiv}
}""",
    reads=("logits", "features"),
    labels="unused",
    needs="two transformers with equal tokens and numbers of heads",
    example={"student_layers": 2, "teacher_layers": 4, "heads": 2},
    ranges={
        "temperature": SearchRange(1.0, 10.0, log=True),
        "hidden_weight": SearchRange(0.1, 10.0, log=True),
        "attention_weight": SearchRange(0.1, 10.0, log=True),
        "embedding_weight": SearchRange(0.1, 10.0, log=True),
    },
    trials=("transformer",),
    tasks=("classification", "multi_label", "regression"),
    task_reason="its mask holds tokens, and the labels of such data are those of other positions",
    kernels=(
        KernelClaim(
            attention_score_error,
            shape=(4, 6),
            positions=1,
            student=("query", "key"),
            teacher=("teacher_query", "teacher_key"),
            hyper={"heads": 2},
            zero_at_equality=True,
            tolerance=0.0,
            logits=False,
            largest=1e7,
        ),
    ),
    keywords=("attention maps",),
)


@validates_arguments
def tinybert(
    teacher: Any,
    *,
    student_layers: int,
    teacher_layers: int,
    heads: int,
    layer_map: str | Sequence[Sequence[int]] = "uniform",
    embedding_weight: float = 1.0,
    hidden_weight: float = 1.0,
    attention_weight: float = 1.0,
    temperature: float = 1.0,
    addresses: Layout = "bert",
    student_addresses: Layout | None = None,
    intermediate_epochs: int | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Train in two stages: first the layers, then the predictions.

    1. :math:`MSE(E_S W_e, E_T) + \sum_m MSE(H^S_m W_m, H^T_{g(m)}) + MSE(S^S_m, S^T_{g(m)})`, with embeddings E, hidden
       states H, and scores of attention S before the softmax (`attention_score_error`). W are learned linear maps
       that are dropped afterwards. Tokens that are padding do not count.
    2. :math:`T^2 KL(p_T \| q_T)`; for other tasks, the loss of the task.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        student_layers: The number of layers of the student.
        teacher_layers: The number of layers of the teacher.
        heads: The number of attention heads of both; 12 in BERT-base and in TinyBERT.
        layer_map: ``uniform`` (of 12 layers, 4 learn from 3, 6, 9 and 12), ``last``, or pairs (student's layer,
            teacher's layer) from 0.
        embedding_weight: The weight of the embeddings, at least 0; 1 in the paper.
        hidden_weight: The weight of the hidden states of each layer; 1 in the paper.
        attention_weight: The weight of the attention scores of each layer; 1 in the paper.
        temperature: T of the second stage, above 0; 1 in the paper.
        addresses: The layout of the teacher's layers: ``bert``, ``roberta``, ``distilbert``, ``vit``, or addresses by
            name (`TransformerAddresses`).
        student_addresses: The layout of the student's layers; by default that of the teacher.
        intermediate_epochs: Passes of the first stage; by default the budget of the run.
        task: What the targets are.
        epochs: Passes of the second stage; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or there is no such layout, map or layer.

    Source: Jiao et al., 2019, arXiv:1909.10351, equations 7 to 11.
    """
    task = CARD.get_task(task)
    check_hyper(temperature=temperature)
    check_count(heads=heads)
    check_weight(embedding_weight=embedding_weight, hidden_weight=hidden_weight, attention_weight=attention_weight)
    student_layout, teacher_layout = get_layouts(student_addresses, addresses)
    terms: list[Objective] = []
    if embedding_weight:
        embeddings = Loss(
            state_squared_error,
            student=student_layout.at("embeddings"),
            teacher=teacher_layout.at("embeddings"),
            head=Projector(),
            name="embeddings",
        )
        terms.append(embedding_weight * embeddings)
    for ours, theirs in find_layer_pairs(layer_map, student_layers, teacher_layers):
        if hidden_weight:
            hidden = Loss(
                state_squared_error,
                student=student_layout.at("layer", ours),
                teacher=teacher_layout.at("layer", theirs),
                head=Projector(),
                name=f"hidden {ours}",
            )
            terms.append(hidden_weight * hidden)
        if attention_weight:
            scores = Loss(
                attention_score_error,
                **pair_addresses(student_layout, teacher_layout, "query", "key", ours, theirs),
                heads=heads,
                name=f"attention {ours}",
            )
            terms.append(attention_weight * scores)
    layers = add_weighted(terms, weights="embedding_weight, hidden_weight and attention_weight")
    return Recipe(
        Stage(layers, teacher=teacher, epochs=intermediate_epochs, name="intermediate"),
        Stage(task.distillation_loss(temperature=temperature), teacher=teacher, epochs=epochs, name="prediction"),
    )
