"""Patient knowledge distillation: labels, soft targets, and the class token of several layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limbeck.errors import ArgumentError
from limbeck.functional import KernelClaim, Projector, check_hyper, class_token_distance
from limbeck.losses import Loss, Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.layers import add_weighted
from limbeck.methods.features.transformer_layers import Layout, find_layer_pairs, get_layouts
from limbeck.methods.support import check_share, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task

CARD = MethodCard(
    name="pkd",
    title="Patient Knowledge Distillation for BERT Model Compression",
    authors="Sun, Cheng, Gan and Liu",
    year=2019,
    arxiv="1908.09355",
    venue="EMNLP 2019",
    claim="Beside labels and soft targets, the student learns the directions of the teacher's class token after "
    "several of its layers.",
    when="For a transformer that starts from the first layers of a fine-tuned teacher, as DistilBERT does (`shallow`). "
    "It needs only hidden states, no attention maps. For thinner students try tinybert, which compares all tokens.",
    bibtex="""@inproceedings{sun2019patient,
  title = {Patient Knowledge Distillation for {BERT} Model Compression},
  author = {Sun, Siqi and Cheng, Yu and Gan, Zhe and Liu, Jingjing},
  booktitle = {Proceedings of the 2019 Conference on Empirical Methods in Natural Language Processing},
  year = {2019},
  eprint = {1908.09355},
  archivePrefix = {arXiv}
}""",
    reads=("logits", "features"),
    needs="two transformers",
    example={"student_layers": 2, "teacher_layers": 4},
    ranges={
        "temperature": SearchRange(1.0, 20.0, log=True),
        "weight": SearchRange(0.1, 1000.0, log=True),
        "soft_weight": SearchRange(0.0, 1.0),
    },
    trials=("transformer",),
    tasks=("classification", "multi_label", "regression"),
    task_reason="it compares one token of each text",
    kernels=(
        KernelClaim(
            class_token_distance,
            shape=(3, 5),
            zero_at_equality=True,
            tolerance=0.0,
            logits=False,
            invariances=("student_scale", "teacher_scale", "joint_rotation", "joint_channel_permutation"),
        ),
    ),
)


@validates_arguments
def pkd(
    teacher: Any,
    *,
    student_layers: int,
    teacher_layers: int,
    layer_map: str | Sequence[Sequence[int]] = "uniform",
    temperature: float = 10.0,
    soft_weight: float = 0.5,
    weight: float = 10.0,
    labels: bool = True,
    token: int = 0,
    addresses: Layout = "bert",
    student_addresses: Layout | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels, soft targets and the class token of several layers.

    :math:`(1 - \alpha) (-\log q_y) + \alpha T^2 KL(p \| q) + \beta \sum_j |\hat h^S_j - \hat h^T_{I(j)}|^2`, with
    :math:`\hat h = h / |h|` the class token after layer j, of length 1. The last layer of the student is left out, as
    in the paper, because the predictions come from it.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        student_layers: The number of layers of the student, at least 2.
        teacher_layers: The number of layers of the teacher.
        layer_map: ``uniform`` (PKD-Skip: of 12 layers, the five of 6 learn from 2, 4, 6, 8 and 10), ``last`` (PKD-Last:
            7 to 11), or pairs (student's layer, teacher's layer) from 0, all of which are then used.
        temperature: T, above 0; the paper searches 5, 10 and 20.
        soft_weight: alpha, from 0 to 1; the paper searches 0.2, 0.5 and 0.7.
        weight: beta, at least 0; the paper searches 10, 100, 500 and 1000.
        labels: Whether to use labels. False drops the label term.
        token: The position of the class token.
        addresses: The layout of the teacher's layers: ``bert``, ``roberta``, ``distilbert``, ``vit``, or addresses by
            name (`TransformerAddresses`).
        student_addresses: The layout of the student's layers; by default that of the teacher.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or there is no such layout, map or layer.

    Source: Sun et al., 2019, arXiv:1908.09355, equations 5 to 8.
    """
    task = CARD.get_task(task)
    check_hyper(temperature=temperature)
    check_share(soft_weight=soft_weight)
    check_weight(weight=weight)
    student_layout, teacher_layout = get_layouts(student_addresses, addresses)
    pairs = find_layer_pairs(layer_map, student_layers, teacher_layers)
    if isinstance(layer_map, str):
        if student_layers < 2:
            raise ArgumentError(
                "student_layers=1 leaves no layer below the last. Give pairs (student's layer, teacher's layer): "
                "layer_map=[[0, 5]].",
                argument="student_layers",
            )
        pairs = pairs[:-1]
    terms: list[Objective] = []
    if soft_weight:
        terms.append(soft_weight * task.distillation_loss(temperature=temperature))
    if labels and soft_weight < 1:
        terms.append((1 - soft_weight) * task.supervised_loss())
    for ours, theirs in pairs if weight else []:
        patient = Loss(
            class_token_distance, student=student_layout.at("layer", ours), teacher=teacher_layout.at("layer", theirs),
            head=Projector(skip_equal=True), token=token, name=f"class token {ours}",
        )  # fmt: skip
        terms.append(2 * weight * patient)  # the kernel is half the squared distance
    objective = add_weighted(terms, weights="soft_weight and weight, and with labels=False the labels,")
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="pkd"))
