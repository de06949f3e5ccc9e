"""Embedding distillation: the student's embedding is mapped to the teacher's, and the map is shipped with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from limbeck.batch import LOGITS
from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.functional import KernelClaim, kernel, squared_error
from limbeck.functional.directions import compare_directions
from limbeck.functional.kernel import validates_pair
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard
from limbeck.methods.support import check_count
from limbeck.models import add_projection, describe_structure, transform_model
from limbeck.recipe import Models, Recipe, Stage, output_shapes, teacher_module
from limbeck.tap import get_adaptor


def _unit(values: Tensor) -> tuple[Tensor, Tensor]:
    """The direction of each row, 0 for a row of zeros, and whether the row is one."""
    rows = values.flatten(1)
    largest = rows.detach().abs().amax(-1, keepdim=True) if rows.shape[-1] else rows.detach().sum(-1, keepdim=True)
    zero = largest == 0
    rows = rows / largest.masked_fill(zero, 1.0)  # the square of a large value could overflow
    return rows / rows.square().sum(-1, keepdim=True).masked_fill(zero, 1.0).sqrt(), zero.squeeze(-1)


@kernel(per="example")
@validates_pair
def cosine_distance(
    student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."]
) -> Float[Tensor, " batch"]:
    r"""Compute :math:`1 - \cos(z, v)` of two embeddings, from 0 to 2.

    The lengths do not matter. A teacher's embedding of zeros has no direction to learn, and the distance is 0; if only
    the student's is zero it is 1.

    Args:
        student: Embeddings of the student.
        teacher: Embeddings of the teacher.

    Raises:
        LimbeckError: If the shapes differ.

    Example:
        >>> import torch
        >>> cosine_distance(torch.tensor([[3.0, 4.0], [2.0, 2.0]]), torch.tensor([[2.0, 0.0], [1.0, 1.0]]))
        tensor([0.4000, 0.0000])

    Source: Reimers and Gurevych, Making Monolingual Sentence Embeddings Multilingual, 2020, arXiv:2004.09813.
    """
    value = compare_directions(student.flatten(1), teacher.flatten(1))
    if value is not None:
        return value
    (ours, no_student), (theirs, no_teacher) = _unit(student), _unit(teacher)
    # Half the squared distance of the directions: exactly 0 where they are equal, and never negative.
    half = (ours - theirs).square().sum(-1) / 2
    return (half + no_student.to(half.dtype) / 2).masked_fill(no_teacher, 0.0)


@kernel(per="example")
@validates_pair
def euclidean_distance(
    student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."]
) -> Float[Tensor, " batch"]:
    r"""Compute :math:`\|z - v\|_2` of two embeddings.

    Its gradient has the length 1 wherever they differ, and is defined as 0 where they are equal.

    Args:
        student: Embeddings of the student.
        teacher: Embeddings of the teacher.

    Raises:
        LimbeckError: If the shapes differ.

    Example:
        >>> import torch
        >>> euclidean_distance(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]]))
        tensor([5.])
    """
    apart = (student - teacher).flatten(1)
    largest = apart.detach().abs().amax(-1, keepdim=True) if apart.shape[-1] else apart.detach().sum(-1, keepdim=True)
    equal = largest == 0
    unit = largest.masked_fill(equal, 1.0)
    squared = (apart / unit).square().sum(-1, keepdim=True)
    root = squared.masked_fill(equal, 1.0).sqrt().masked_fill(equal, 0.0)
    return (unit * root).squeeze(-1)


_LOSSES = {"cosine": cosine_distance, "l2": euclidean_distance, "mse": squared_error}

CARD = MethodCard(
    name="embedding_distillation",
    title="Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation",
    authors="Reimers and Gurevych",
    year=2020,
    arxiv="2004.09813",
    venue="EMNLP 2020",
    claim="The student's embedding of each example is trained to be the teacher's. A small encoder then takes the "
    "place of a large one, with the same vectors.",
    when="For encoders whose output is an embedding, with unlabeled data. If the student is narrower, a linear map to "
    "the teacher's size is learned and shipped with it, so that its vectors can be searched in the teacher's index.",
    bibtex="""@inproceedings{reimers2020making,
  title = {Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation},
  author = {Reimers, Nils and Gurevych, Iryna},
  booktitle = {Proceedings of the 2020 Conference on Empirical Methods in Natural Language Processing},
  year = {2020},
  eprint = {2004.09813},
  archivePrefix = {arXiv}
}""",
    labels="unused",
    kernels=(
        KernelClaim(cosine_distance, logits=False, zero_at_equality=True,
                    invariances=("student_scale", "teacher_scale", "joint_rotation")),
        KernelClaim(euclidean_distance, logits=False, zero_at_equality=True,
                    invariances=("joint_rotation", "joint_translation")),
    ),
    task_reason="it learns embeddings, which have no targets of their own",
    models_and_data="--teacher mlp --set teacher.hidden=[64] --student mlp --set student.hidden=[16] "
    "--data vectors.npz",
)  # fmt: skip


@dataclass(frozen=True)
class _Projected:
    """Makes the model that is trained and shipped."""

    teacher: Any
    dimension: int | None

    def __call__(self, models: Models) -> nn.Module:
        """Put a linear map behind the student.

        Raises:
            LimbeckError: If student or teacher give no embedding ``[batch, features]``.
        """
        width = _only_width(output_shapes(models, [LOGITS])[LOGITS], "student")
        dimension = self.dimension
        if dimension is None:
            module = self._teacher(models)
            dimension = _only_width(output_shapes(models, [LOGITS], model=module)[LOGITS], "teacher")
        student, adaptor = models["student"], get_adaptor(models, "student")
        arguments = {"width": width, "dimension": dimension}
        if adaptor is not None:  # a function cannot be saved: `limbeck.load` needs it again
            return add_projection(student, adaptor=adaptor, **arguments)
        return transform_model(student, "add_projection", arguments, origin=describe_structure(student))

    def _teacher(self, models: Models) -> nn.Module:
        try:
            return teacher_module(self.teacher, models)
        except LimbeckError as error:
            raise LimbeckError(
                "embedding_distillation cannot find out the size of the teacher's embedding, because the teacher is "
                "not one module in this process. Type it: dimension=768, for example."
            ) from error


def _only_width(shape: tuple[int, ...], who: str) -> int:
    if len(shape) != 1:
        raise LimbeckError(
            f"The {who}'s output has shape {('batch', *shape)}, and an embedding is [batch, features]: pool it over "
            "its positions in forward(), or with an adaptor."
        )
    return shape[0]


@validates_arguments
def embedding_distillation(
    teacher: Any,
    *,
    loss: str = "cosine",
    projection: bool = True,
    dimension: int | None = None,
    epochs: int | None = None,
) -> Recipe:
    r"""Learn the teacher's embedding: :math:`1 - \cos(W z + b, v)`, :math:`\|W z + b - v\|_2`, or the mean square.

    With a projection, the run makes a new model: use ``run.student``. It is the student with the map behind it, so the
    weights of the student that you pass in are trained, and its own output stays without the map. `limbeck.load` opens
    a saved one; its ``build=`` makes the student as it was before the run.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        loss: ``cosine``, ``l2`` (the Euclidean distance) or ``mse`` (the mean squared difference).
        projection: Whether a linear map to the teacher's size is learned and shipped with the student. Without it both
            embeddings must have the same size.
        dimension: The size of the teacher's embedding, for a teacher that is no module in this process, such as a
            cache.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If there is no such loss.

    Example:
        >>> recipe = embedding_distillation(nn.Linear(4, 3), loss="mse")
        >>> recipe.ship, [repr(stage.objective) for stage in recipe.stages()]
        ('projected', ['Loss(squared_error)'])

    Source: Reimers and Gurevych, 2020, arXiv:2004.09813, equation 1 (the mean square).
    """
    if loss not in tuple(_LOSSES):
        raise unknown_name_error("loss of embeddings", loss, _LOSSES, argument="loss")
    if dimension is not None:
        check_count(dimension=dimension)
        if not projection:
            raise ArgumentError(
                f"dimension={dimension} is the size of the projection, and projection={projection} leaves it out. Use "
                "one of them.",
                argument="dimension",
            )
    trains = "projected" if projection else "student"
    stage = Stage(Loss(_LOSSES[loss]), trains=trains, teacher=teacher, epochs=epochs, name="embedding_distillation")
    if not projection:
        return Recipe(stage)
    return Recipe(stage, makes={"projected": _Projected(teacher, dimension)}, ship="projected")
