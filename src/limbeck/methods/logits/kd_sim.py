"""KD-sim: labels are softened by how similar the teacher's classes are to each other."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.errors import LimbeckError
from limbeck.functional import KernelClaim, check_hyper, kernel, kl_divergence
from limbeck.losses import Loss, Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.logits.kd_pt import CARD as KD_PT
from limbeck.methods.support import check_share, check_temperature
from limbeck.model_call import find_output_layer
from limbeck.recipe import Models, Recipe, Stage, teacher_module
from limbeck.tasks import Task


@dataclass(frozen=True)
class ClassDirections:
    """The rows of a classifier's last layer, at length 1: what a class looks like to the network.

    Attributes:
        rows: ``[classes, width]``.

    Example:
        >>> ClassDirections.of(torch.tensor([[3.0, 0.0], [0.0, 2.0]])).rows.tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """

    rows: Float[Tensor, "classes width"] = field(repr=False)

    @staticmethod
    def of(weight: Float[Tensor, "classes ..."]) -> ClassDirections:
        """The directions of the rows of a weight; of a convolution, of its flattened filters."""
        return ClassDirections(F.normalize(weight.detach().float().flatten(1), dim=1))

    def cosines(self, labels: Integer[Tensor, "*batch"]) -> Float[Tensor, "*batch classes"]:
        """The cosines between the direction of each label and those of all classes."""
        return self.rows[labels] @ self.rows.T

    def __repr__(self) -> str:
        # A resumed run compares this text, so it depends on the numbers.
        digest = hashlib.sha256(self.rows.cpu().numpy().tobytes()).hexdigest()
        return f"ClassDirections({len(self.rows)} classes, {digest[:12]})"


@kernel(per="position")
def class_similarity_kl(
    student: Float[Tensor, "*batch classes"],
    *,
    labels: Integer[Tensor, "*batch"],
    directions: ClassDirections,
    similarity_temperature: float = 0.2,
    temperature: float = 1.0,
) -> Float[Tensor, "*batch"]:
    r"""Compute ``KL(p~ || q)`` in nats, where p~ depends on the label alone: how similar each class is to it.

    ``p~_k = softmax_k(cos(w_t, w_k) / tau)`` for the label t, with w the rows of the teacher's last layer, and
    ``q = softmax(student / T)``. There is no factor T^2. As tau goes to 0 it is the cross-entropy of the label; for
    large tau the target is uniform. A label of -100 gives 0.

    Args:
        student: Logits of the student.
        labels: Class indices from 0 to classes - 1, or -100.
        directions: The directions of the classes.
        similarity_temperature: tau, above 0.
        temperature: T, above 0.

    Raises:
        LimbeckError: If the numbers of classes differ, or a temperature is not a finite number above 0.

    Example:
        >>> two = ClassDirections.of(torch.eye(2))
        >>> class_similarity_kl(torch.tensor([[5.0, 0.0]]), labels=torch.tensor([0]), directions=two)
        tensor([0.])

    Source: Tang et al., 2020, arXiv:2002.03532, KD-sim.
    """
    check_hyper(temperature=temperature, similarity_temperature=similarity_temperature)
    if len(directions.rows) != student.shape[-1]:
        raise LimbeckError(
            f"The teacher's last layer has rows for {len(directions.rows)} classes, and the student's logits have "
            f"{student.shape[-1]}. Give both the same classes in the same order."
        )
    known = labels != IGNORED
    similar = ClassDirections(directions.rows.to(student)).cosines(labels.masked_fill(~known, 0).long())
    # A class that the student does not have is none of the target's either.
    target = (similar / similarity_temperature).masked_fill(student == -torch.inf, -torch.inf)
    return kl_divergence(student / temperature, target).masked_fill(~known, 0.0)


CARD = MethodCard(
    name="kd_sim",
    title="Understanding and Improving Knowledge Distillation",
    authors="Tang, Shivanna, Zhao, Lin, Singh, Chi and Jain",
    year=2020,
    arxiv="2002.03532",
    venue="arXiv preprint",
    claim="The student learns from the teacher's last layer which classes are similar. All examples of a "
    "class have the same target, so it shows how much of distillation is knowledge about classes.",
    when="To find out what a student gains from: compare with hinton (all of it), kd_pt (a weight for each example) "
    "and label_smoothing (neither). The teacher is never run; it only needs a linear last layer.",
    bibtex=KD_PT.bibtex,
    ranges={
        "similarity_temperature": SearchRange(0.05, 1.0, log=True),
        "temperature": SearchRange(1.0, 20.0, log=True),
        "weight": SearchRange(0.0, 1.0),
    },
    reads=(),
    labels="required",
    needs="the teacher's module, with a linear last layer",
    tasks=("classification", "language_modeling"),
    task_reason="it needs one label, and a last layer with a row for each class",
    trials=("mlp",),
    kernels=(
        KernelClaim(
            class_similarity_kl,
            hyper={"directions": ClassDirections(torch.eye(5)), "temperature": 2.0},
            logits=False,  # the classes are those of the directions
            fewest_classes=5,
            invariances=("student_shift",),
        ),
    ),
)


@validates_arguments
def kd_sim(
    teacher: Any,
    *,
    similarity_temperature: float = 0.2,
    temperature: float = 1.0,
    weight: float = 0.9,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Minimize :math:`(1 - \lambda) (-\log softmax(z)_y) + \lambda KL(\tilde p_y \| \tilde q)`, in nats.

    :math:`\tilde p_{y,k} \propto \exp(\cos(w_y, w_k) / \tau)` with w the rows of the teacher's last layer, and
    :math:`\tilde q = softmax(z / T)`. The teacher's weights are read once, at the start of the stage.

    Args:
        teacher: The teacher: a module, a `Teacher` around one, or the name of a model in the run.
        similarity_temperature: Tau, above 0: how similar a class must be to get a share of the target.
        temperature: T of the student, above 0.
        weight: Lambda, the weight of the similarities, from 0 to 1.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If a temperature is not above 0, `weight` is not from 0 to 1, or the teacher has no last layer
            with a row for each class.

    Source: Tang et al., 2020, arXiv:2002.03532.
    """
    check_hyper(temperature=temperature)
    check_temperature(similarity_temperature=similarity_temperature)
    check_share(weight=weight)
    stage = _SimilarityStage(
        teacher, CARD.get_task(task), (similarity_temperature, temperature), weight=weight, epochs=epochs
    )
    return Recipe(stage)


@dataclass(frozen=True)
class _SimilarityStage:
    """The stage, once the teacher's weights are there."""

    teacher: Any
    task: Task
    temperatures: tuple[float, float]
    weight: float
    epochs: int | None

    def __call__(self, models: Models) -> Recipe:
        """Read the teacher's last layer, and make the stage."""
        layer = find_output_layer(teacher_module(self.teacher, models))
        if layer is None:
            raise LimbeckError(
                "kd_sim needs the weights of the teacher's last layer, and this teacher has no linear layer. Use kd_pt "
                "or hinton, which need its outputs only."
            )
        directions = ClassDirections.of(cast(Tensor, layer[1].weight))
        tau, temperature = self.temperatures
        soft = Loss(
            class_similarity_kl, directions=directions, similarity_temperature=tau, temperature=temperature,
            classes=self.task.classes_dim,
        )  # fmt: skip
        objective: Objective = self.weight * soft + (1 - self.weight) * self.task.supervised_loss()
        return Recipe(Stage(objective, epochs=self.epochs, name="kd_sim"))

    def describe(self) -> dict[str, Any]:
        """The settings."""
        return {"temperatures": list(self.temperatures), "weight": self.weight, "epochs": self.epochs}
