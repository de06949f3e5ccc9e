"""Contrastive representation distillation: an example's student features are told from those of other examples."""

from __future__ import annotations

from typing import Any

from limbeck.errors import ArgumentError
from limbeck.functional import KernelClaim
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.relations.contrast import ContrastiveMemory, InBatchContrast, in_batch_contrast
from limbeck.methods.relations.objective import add_targets
from limbeck.methods.support import check_count, check_share, check_temperature, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task

CARD = MethodCard(
    name="crd",
    title="Contrastive Representation Distillation",
    authors="Tian, Krishnan and Isola",
    year=2019,
    arxiv="1910.10699",
    venue="ICLR 2020",
    claim="The student's features of an example are close to the teacher's features of it, and far from those of other "
    "examples.",
    when="For classification with images: in the table of RepDistiller on CIFAR-100 it is the only loss of features "
    "that is better than hinton in all 13 pairs of networks. Read the layer before the output layer. It stores two "
    "rows of numbers for each example; for millions of examples use memory=False, which takes the negatives from the "
    "batch, and large batches.",
    bibtex="""@inproceedings{tian2020contrastive,
  title = {Contrastive Representation Distillation},
  author = {Tian, Yonglong and Krishnan, Dilip and Isola, Phillip},
  booktitle = {International Conference on Learning Representations},
  year = {2020},
  eprint = {1910.10699},
  archivePrefix = {arXiv}
}""",
    reads=("features",),
    example={"at": "features", "student_at": "features"},
    ranges={"weight": SearchRange(0.05, 5.0, log=True), "contrast_temperature": SearchRange(0.03, 0.5, log=True)},
    tasks=("classification", "multi_label", "regression", "segmentation"),
    task_reason="it contrasts whole examples, and packed texts are none",
    kernels=(
        KernelClaim(
            in_batch_contrast,
            logits=False,
            invariances=("student_scale", "teacher_scale", "joint_rotation", "joint_negation"),
        ),
        KernelClaim(in_batch_contrast, logits=False, hyper={"temperature": 0.5, "normalize": False}),
    ),
)


@validates_arguments
def crd(
    teacher: Any,
    *,
    at: str,
    student_at: str,
    weight: float = 0.8,
    memory: bool = True,
    negatives: int | None = None,
    size: int = 128,
    contrast_temperature: float = 0.07,
    momentum: float | None = None,
    normalize: bool = True,
    labels: bool = True,
    soft_weight: float = 0.0,
    temperature: float | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels, and to tell pairs of features of one example from pairs of two: :math:`-\log q_y + \beta L_{CRD}`.

    :math:`L_{CRD}` is `contrast` of embeddings: linear maps of the features (means over positions for maps), of length
    1. The maps are trained with the student, and dropped afterwards.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        at: Name of the teacher's layer.
        student_at: Name of the student's layer.
        weight: Beta, the weight of the contrastive loss, at least 0; 0.8 in the paper.
        memory: Whether negatives come from memories of all examples, as in the paper. False takes the other examples
            of the batch.
        negatives: N, the number of negatives that are drawn for each step from the memories; 16,384 by default, as in
            the paper. With fewer examples, all are negatives.
        size: The width of the embeddings; 128 in the paper.
        contrast_temperature: Tau, the temperature of the scores, above 0; 0.07 in the authors' code.
        momentum: The share of its old embedding that a row of the memories keeps, from 0 to below 1; 0.5 by
            default, as in the authors' code.
        normalize: Whether scores are compared with their mean over random directions, as in the authors' code; False
            is the equation as printed, see the page.
        labels: Whether to use labels. False drops the label term.
        soft_weight: Weight of the soft targets of `hinton`, at least 0.
        temperature: T of the soft targets, above 0; 4 by default.
        task: What the targets are; the losses of labels and soft targets are its own.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or `temperature` has no soft targets.

    Example:
        >>> from torch import nn
        >>> recipe = crd(nn.Linear(4, 3), at="layer2", student_at="layer1", memory=False, labels=False)
        >>> [repr(stage.objective) for stage in recipe.stages()]
        ["0.8 * InBatchContrast('layer1', 'layer2', size=128, temperature=0.07, normalize=True)"]

    Source: Tian, Krishnan and Isola, 2019, arXiv:1910.10699.
    """
    check_weight(weight=weight)
    check_count(size=size)
    check_temperature(contrast_temperature=contrast_temperature)
    options: dict[str, Any] = {"size": size, "temperature": contrast_temperature, "normalize": normalize}
    if not memory:
        _refuse_memory_options(negatives=negatives, momentum=momentum)
    loss: ContrastiveMemory | InBatchContrast = (
        ContrastiveMemory(student_at, at, **_read_memory_options(negatives, momentum), **options)
        if memory
        else InBatchContrast(student_at, at, **options)
    )
    objective = add_targets(
        weight * loss, CARD.get_task(task), labels=labels, soft_weight=soft_weight, temperature=temperature
    )
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="crd"))


_NEGATIVES, _MOMENTUM = 16384, 0.5  # of the authors' code


def _read_memory_options(negatives: int | None, momentum: float | None) -> dict[str, Any]:
    negatives = _NEGATIVES if negatives is None else negatives
    momentum = _MOMENTUM if momentum is None else momentum
    check_count(negatives=negatives)
    check_share(momentum=momentum)
    if momentum == 1:
        raise ArgumentError("momentum=1 would never move the memories; it is below 1.", argument="momentum")
    return {"negatives": negatives, "momentum": momentum}


def _refuse_memory_options(**options: Any) -> None:
    for name, value in options.items():
        if value is not None:
            raise ArgumentError(
                f"{name}={value!r} belongs to the memories, and memory=False has none. Type memory=True, or leave "
                f"{name} out.",
                argument=name,
            )
