"""Distillation for quantization-aware training of transformers: attention maps and attention outputs of all layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limbeck.functional import Projector, attention_kl, check_hyper, state_squared_error
from limbeck.losses import Loss, Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.transformer_layers import Layout, find_layer_pairs, get_layouts
from limbeck.methods.support import check_share, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task

CARD = MethodCard(
    name="qat_attention",
    title="Understanding and Improving Knowledge Distillation for Quantization-Aware Training of Large Transformer "
    "Encoders",
    authors="Kim, Lee, Hong, Chang and Choi",
    year=2022,
    arxiv="2211.11014",
    venue="EMNLP 2022",
    claim="A quantized student learns the attention maps and attention outputs of all layers of the same network in "
    "full precision, beside hidden states and predictions.",
    when="For a student that is its teacher with fewer bits, layer for layer. Any other transformer with attention "
    "maps also learns by it. The student is quantized by you, before the run: this method is the losses. In the paper "
    "maps matter for small models and outputs for large ones: search gamma. Both models have to return attention maps: "
    "build those of transformers with attn_implementation='eager', and without dropout of attention.",
    bibtex="""@inproceedings{kim2022understanding,
  title = {Understanding and Improving Knowledge Distillation for Quantization-Aware Training of Large Transformer
           Encoders},
  author = {Kim, Minsoo and Lee, Sihwa and Hong, Sukjin and Chang, Du-Seong and Choi, Jungwook},
  booktitle = {Proceedings of the 2022 Conference on Empirical Methods in Natural Language Processing},
  year = {2022},
  eprint = {2211.11014},
  archivePrefix = {arXiv}
}""",
    reads=("logits", "features"),
    labels="unused",
    needs="two transformers that return attention maps",
    example={"student_layers": 2, "teacher_layers": 4},
    ranges={
        "gamma": SearchRange(0.0, 1.0),
        "hidden_weight": SearchRange(0.1, 10.0, log=True),
        "temperature": SearchRange(1.0, 10.0, log=True),
    },
    trials=("transformer",),
    tasks=("classification", "multi_label", "regression"),
    task_reason="its mask holds tokens, and the labels of such data are those of other positions",
)


@validates_arguments
def qat_attention(
    teacher: Any,
    *,
    student_layers: int,
    teacher_layers: int,
    gamma: float = 0.5,
    hidden_weight: float = 1.0,
    temperature: float = 1.0,
    layer_map: str | Sequence[Sequence[int]] = "uniform",
    addresses: Layout = "bert",
    student_addresses: Layout | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn predictions, hidden states, attention maps and attention outputs.

    :math:`T^2 KL(p \| q) + w \sum_l MSE(H^S_l, H^T_l) + \sum_l \gamma KL(A^T_l \| A^S_l) + (1 - \gamma) MSE(Y^S_l,
    Y^T_l)`, with hidden states H (the embeddings are :math:`H_0`), attention maps A (`attention_kl`), and Y the hidden
    states after the attention of a layer, with what was added from before it. Tokens that are padding do not count.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run. In the paper it is the student
            in full precision.
        student_layers: The number of layers of the student; that of the teacher in the paper.
        teacher_layers: The number of layers of the teacher.
        gamma: The share of the attention maps beside the attention outputs, from 0 to 1. 1 is the method with maps
            alone, 0 with outputs alone, for which the models need not return maps.
        hidden_weight: w, the weight of the hidden states, at least 0; 1 in the paper.
        temperature: T, above 0; 1 in the paper.
        layer_map: ``uniform`` (one to one for equal numbers), ``last``, or pairs (student's layer, teacher's layer)
            from 0.
        addresses: The layout of the teacher's layers: ``bert``, ``roberta``, ``distilbert``, ``vit``, or addresses by
            name (`TransformerAddresses`).
        student_addresses: The layout of the student's layers; by default that of the teacher.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or there is no such layout, map or layer.

    Source: Kim et al., 2022, arXiv:2211.11014, equations 6 to 9.
    """
    task = CARD.get_task(task)
    check_hyper(temperature=temperature)
    check_share(gamma=gamma)
    check_weight(hidden_weight=hidden_weight)
    student_layout, teacher_layout = get_layouts(student_addresses, addresses)

    def states(place: str, name: str, ours: int = 0, theirs: int = 0) -> Loss:
        return Loss(
            state_squared_error,
            student=student_layout.at(place, ours),
            teacher=teacher_layout.at(place, theirs),
            head=Projector(skip_equal=True),
            name=name,
        )

    objective: Objective = task.distillation_loss(temperature=temperature)
    if hidden_weight:
        objective = objective + hidden_weight * states("embeddings", "embeddings")
    for ours, theirs in find_layer_pairs(layer_map, student_layers, teacher_layers):
        if hidden_weight:
            objective = objective + hidden_weight * states("layer", f"hidden {ours}", ours, theirs)
        if gamma:  # at 0 the models need not return attention maps
            maps = Loss(
                attention_kl,
                student=student_layout.at("attention", ours),
                teacher=teacher_layout.at("attention", theirs),
                name=f"attention map {ours}",
            )
            objective = objective + gamma * maps
        if gamma < 1:
            objective = objective + (1 - gamma) * states("attention_output", f"attention output {ours}", ours, theirs)
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="qat_attention"))
