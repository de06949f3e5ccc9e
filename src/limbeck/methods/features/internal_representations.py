"""Knowledge distillation from internal representations: attention maps and class tokens, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limbeck.errors import unknown_name_error
from limbeck.functional import KernelClaim, Projector, attention_kl, check_hyper, class_token_distance
from limbeck.losses import Loss, Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.layers import add_weighted
from limbeck.methods.features.transformer_layers import Layout, find_layer_pairs, get_layouts
from limbeck.methods.support import check_share, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task

CARD = MethodCard(
    name="internal_representations",
    title="Knowledge Distillation from Internal Representations",
    authors="Aguilar, Ling, Zhang, Yao, Fan and Guo",
    year=2019,
    arxiv="1910.03723",
    venue="AAAI 2020",
    claim="The student first learns the teacher's attention maps and class tokens, from the lowest layer up, and then "
    "its predictions.",
    when="For a transformer of the same width with fewer layers, above all if training examples are few. Both models "
    "have to return attention maps: build those of transformers with attn_implementation='eager', and without dropout "
    "of attention.",
    bibtex="""@inproceedings{aguilar2020knowledge,
  title = {Knowledge Distillation from Internal Representations},
  author = {Aguilar, Gustavo and Ling, Yuan and Zhang, Yu and Yao, Benjamin and Fan, Xing and Guo, Chenlei},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  year = {2020},
  eprint = {1910.03723},
  archivePrefix = {arXiv}
}""",
    reads=("logits", "features"),
    needs="two transformers that return attention maps",
    example={"student_layers": 2, "teacher_layers": 4},
    ranges={
        "attention_weight": SearchRange(0.1, 10.0, log=True),
        "token_weight": SearchRange(0.1, 10.0, log=True),
        "temperature": SearchRange(1.0, 10.0, log=True),
        "weight": SearchRange(0.0, 1.0),
    },
    trials=("transformer",),
    tasks=("classification", "multi_label", "regression"),
    task_reason="it compares the first token of each text",
    kernels=(
        KernelClaim(attention_kl, shape=(2, 4, 4), zero_at_equality=True, tolerance=0.0, logits=False),
        KernelClaim(class_token_distance, zero_at_equality=True, tolerance=0.0, logits=False),
    ),
)

_SCHEDULES = ("all", "progressive", "stacked")


@validates_arguments
def internal_representations(
    teacher: Any,
    *,
    student_layers: int,
    teacher_layers: int,
    schedule: str = "stacked",
    layer_map: str | Sequence[Sequence[int]] = "uniform",
    attention_weight: float = 1.0,
    token_weight: float = 1.0,
    temperature: float = 1.0,
    weight: float = 0.5,
    labels: bool = True,
    token: int = 0,
    addresses: Layout = "bert",
    student_addresses: Layout | None = None,
    layer_epochs: int | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Train the layers first, then the predictions.

    The loss of a layer is :math:`KL(A^T \| A^S) + 1 - \cos(h^T, h^S)`: the mean over heads and tokens of the divergence
    of attention maps A (`attention_kl`), and the distance of the class tokens h (`class_token_distance`). The last
    stage has :math:`w T^2 KL(p \| q) + (1 - w) (-\log q_y)`.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        student_layers: The number of layers of the student.
        teacher_layers: The number of layers of the teacher.
        schedule: ``stacked``: a stage for each layer, from the lowest up, which keeps the losses of the layers below;
            ``progressive``: each with its own layer only; ``all``: one stage with all layers.
        layer_map: ``uniform`` (layer i learns from layer 2 i, for half as many layers), ``last``, or pairs (student's
            layer, teacher's layer) from 0.
        attention_weight: The weight of the attention maps, at least 0; 1 in the paper. At 0 they are not needed.
        token_weight: The weight of the class tokens, at least 0; 1 in the paper.
        temperature: T of the last stage, above 0.
        weight: w, the weight of the teacher's predictions in the last stage, from 0 to 1.
        labels: Whether the last stage uses labels. False drops the label term.
        token: The position of the class token.
        addresses: The layout of the teacher's layers: ``bert``, ``roberta``, ``distilbert``, ``vit``, or addresses by
            name (`TransformerAddresses`).
        student_addresses: The layout of the student's layers; by default that of the teacher.
        layer_epochs: Passes of each stage but the last; by default those of the last.
        task: What the targets are.
        epochs: Passes of the last stage; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or there is no such schedule, layout, map or layer.

    Source: Aguilar et al., 2019, arXiv:1910.03723, equations 2 and 3, and algorithm 1.
    """
    task = CARD.get_task(task)
    check_hyper(temperature=temperature)
    check_share(weight=weight)
    check_weight(attention_weight=attention_weight, token_weight=token_weight)
    if schedule not in _SCHEDULES:
        raise unknown_name_error("schedule", schedule, _SCHEDULES, argument="schedule")
    student_layout, teacher_layout = get_layouts(student_addresses, addresses)
    losses: list[Objective] = []
    for ours, theirs in find_layer_pairs(layer_map, student_layers, teacher_layers):
        parts: list[Objective] = []
        if attention_weight:  # at 0 the models need not return attention maps
            maps = Loss(
                attention_kl,
                student=student_layout.at("attention", ours),
                teacher=teacher_layout.at("attention", theirs),
                name=f"attention {ours}",
            )
            parts.append(attention_weight * maps)
        if token_weight:
            tokens = Loss(
                class_token_distance,
                student=student_layout.at("layer", ours),
                teacher=teacher_layout.at("layer", theirs),
                head=Projector(skip_equal=True),
                token=token,
                name=f"class token {ours}",
            )
            parts.append(token_weight * tokens)
        losses.append(add_weighted(parts, weights="attention_weight and token_weight"))
    length = epochs if layer_epochs is None else layer_epochs
    stages = [
        Stage(objective, teacher=teacher, epochs=length, name=name) for name, objective in _schedule(losses, schedule)
    ]
    ends = [weight * task.distillation_loss(temperature=temperature)] if weight else []
    if labels and weight < 1:
        ends.append((1 - weight) * task.supervised_loss())
    last = add_weighted(ends, weights="weight, and with labels=False the labels,")
    return Recipe(*stages, Stage(last, teacher=teacher, epochs=epochs, name="prediction"))


def _schedule(losses: list[Objective], schedule: str) -> list[tuple[str, Objective]]:
    """The stages of a schedule: name and objective."""
    if schedule == "all":
        return [("layers", _add(losses))]
    if schedule == "progressive":
        return [(f"layer {number}", loss) for number, loss in enumerate(losses)]
    return [(f"layers up to {number}", _add(losses[: number + 1])) for number in range(len(losses))]


def _add(losses: list[Objective]) -> Objective:
    total = losses[0]
    for loss in losses[1:]:
        total = total + loss
    return total
