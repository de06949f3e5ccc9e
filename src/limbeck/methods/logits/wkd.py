"""WKD: the Wasserstein distance over the other classes, where similar classes are near each other."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import KernelClaim, check_hyper, kernel, probabilities
from limbeck.functional.closed_form import guarded_log_softmax
from limbeck.functional.kernel import validates_pair
from limbeck.functional.row_blocks import Needed, Slopes, compute_by_rows
from limbeck.functional.sinkhorn import SharedCosts, find_transport_slopes, sinkhorn_cost
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import add_label_loss, check_count, check_weight
from limbeck.model_call import find_output_layer
from limbeck.recipe import Models, Recipe, Stage, teacher_module
from limbeck.tasks import Task

_BLOCK = 1 << 15  # values of a block, of which each iteration keeps two tensors
_LARGE_BLOCK = 1 << 20  # on an accelerator


@dataclass(frozen=True)
class ClassCosts:
    """The cost of moving probability from one class to another: 0 to itself, below 1 to others.

    Attributes:
        matrix: ``[classes, classes]``.
    """

    matrix: Float[Tensor, "classes classes"] = field(repr=False)

    @staticmethod
    def of(weight: Float[Tensor, "classes ..."], *, sharpness: float = 1.0) -> ClassCosts:
        r"""The costs :math:`1 - e^{-\kappa (1 - \cos(w_a, w_b))}` of the rows of a classifier's last layer.

        Example:
            >>> ClassCosts.of(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])).matrix
            tensor([[0.0000, 0.6321, 0.0000],
                    [0.6321, 0.0000, 0.6321],
                    [0.0000, 0.6321, 0.0000]])
        """
        rows = F.normalize(weight.detach().float().flatten(1), dim=1)
        cost = -torch.expm1(-sharpness * (1 - rows @ rows.T).clamp_min(0.0))
        return ClassCosts(cost.fill_diagonal_(0.0))

    def __repr__(self) -> str:
        # A resumed run compares this text, so it depends on the numbers.
        digest = hashlib.sha256(self.matrix.cpu().numpy().tobytes()).hexdigest()
        return f"ClassCosts({len(self.matrix)} classes, {digest[:12]})"


@kernel(per="position")
@validates_pair
def class_transport(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    labels: Integer[Tensor, "*batch"],
    costs: ClassCosts | None = None,
    temperature: float = 1.0,
    entropy: float = 0.05,
    iterations: int = 10,
    weight: float = 1.0,
) -> Float[Tensor, "*batch"]:
    r"""Compute the soft term of the label, and the transport cost between the other classes.

    :math:`-p_y \log q_y + w \langle \Pi, C \rangle`, with p and q at temperature 1 in the first term, and
    :math:`\Pi` the plan between the distributions over the other classes at temperature T, each with the sum 1
    (`sinkhorn_cost`). The KL divergence compares each class with itself alone; here probability on a similar class is
    nearly right.

    The entropy leaves a cost above 0 also for equal distributions. A label of -100 gives 0. With two classes the second
    term is 0.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        labels: Class indices from 0 to classes - 1, or -100.
        costs: C; by default 1 between all different classes.
        temperature: T, the temperature of the other classes, above 0.
        entropy: epsilon, the entropic regularization, above 0.
        iterations: The number of Sinkhorn iterations.
        weight: w, the weight of the transport cost.

    Raises:
        LimbeckError: If the shapes or the numbers of classes differ, or `temperature` is not above 0.

    Example:
        >>> z, v = torch.tensor([[0.0, 3.0, 0.0]]), torch.tensor([[0.0, 0.0, 3.0]])
        >>> value = class_transport(z, v, labels=torch.tensor([0])) - class_transport(v, v, labels=torch.tensor([0]))
        >>> value.round(decimals=3)
        tensor([0.9050])

    Source: Lv, Yang and Li, 2024, arXiv:2412.08139, section 3.1.
    """
    classes = student.shape[-1]
    matrix = None if costs is None else costs.matrix.to(student)
    if matrix is not None and len(matrix) != classes:
        raise LimbeckError(f"The costs are between {len(matrix)} classes, and the logits have {classes}.")
    shared = SharedCosts(matrix, entropy=entropy)

    def compute(ours: Tensor, theirs: Tensor, labels: Tensor) -> Tensor:
        target, p, q = _split_label(ours, theirs, labels, temperature)
        rest = sinkhorn_cost(p, q, shared, iterations=iterations)
        return (target + weight * rest).masked_fill(labels == IGNORED, 0.0)

    def find(needed: Needed, ours: Tensor, theirs: Tensor, labels: Tensor) -> tuple[Tensor, Slopes] | None:
        if not any(needed):
            return compute(ours, theirs, labels), [None, None]
        sides = [rows.detach().requires_grad_(want) for rows, want in zip((ours, theirs), needed, strict=True)]
        with torch.enable_grad():
            target, p, q = _split_label(sides[0], sides[1], labels, temperature)
        slopes = find_transport_slopes(p.detach(), q.detach(), shared, iterations=iterations)
        if slopes is None:
            return None
        known = (labels != IGNORED).to(p.dtype)
        seeds = [
            (target, known),
            *((side, weight * known.unsqueeze(-1) * slope) for side, slope in ((p, slopes.by_p), (q, slopes.by_q))),
        ]
        outputs, gradients = zip(*((one, seed) for one, seed in seeds if one.requires_grad), strict=True)
        wanted = [side for side, want in zip(sides, needed, strict=True) if want]
        found = iter(torch.autograd.grad(outputs, wanted, gradients, materialize_grads=True))
        return (target.detach() + weight * slopes.value) * known, [next(found) if want else None for want in needed]

    block = _BLOCK if student.device.type == "cpu" else _LARGE_BLOCK
    return compute_by_rows(compute, student, teacher, labels, find=find, block=block)


def _split_label(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch classes"], Float[Tensor, "*batch classes"]]:
    """The soft term of the label, and the teacher's and the student's distribution over the other classes."""
    label = labels.masked_fill(labels == IGNORED, 0).long().unsqueeze(-1)
    target = -probabilities(teacher).gather(-1, label) * guarded_log_softmax(student, 1.0).gather(-1, label)
    p, q = (probabilities(rows.scatter(-1, label, -torch.inf), temperature=temperature) for rows in (teacher, student))
    return target.squeeze(-1), p, q


CARD = MethodCard(
    name="wkd",
    title="Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation",
    authors="Lv, Yang and Li",
    year=2024,
    arxiv="2412.08139",
    venue="NeurIPS 2024",
    claim="The cost of moving the student's probabilities to the teacher's takes the place of the KL divergence. "
    "Moving to a similar class costs less, so the relations between classes count.",
    when="For many classes, some of which are alike. The teacher must be one network with a linear last layer, whose "
    "rows say which classes are alike. This is the method for logits (WKD-L); the one for features is wkd_f.",
    bibtex="""@inproceedings{lv2024wasserstein,
  title = {Wasserstein Distance Rivals {Kullback-Leibler} Divergence for Knowledge Distillation},
  author = {Lv, Jiaming and Yang, Haoyuan and Li, Peihua},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2024},
  eprint = {2412.08139},
  archivePrefix = {arXiv}
}""",
    labels="required",
    needs="a teacher with a linear last layer",
    ranges={
        "temperature": SearchRange(1.0, 16.0, log=True),
        "weight": SearchRange(1.0, 1000.0, log=True),
        "sharpness": SearchRange(0.25, 8.0, log=True),
    },
    kernels=(KernelClaim(class_transport, pairs=True, hyper={"temperature": 4.0},
                         invariances=("student_shift", "teacher_shift")),),
    task_reason="it reads the rows of a linear last layer, and compares all pairs of classes that are not the label",
)  # fmt: skip


@validates_arguments
def wkd(
    teacher: Any,
    *,
    temperature: float = 8.0,
    weight: float = 800.0,
    sharpness: float = 1.0,
    entropy: float = 0.05,
    iterations: int = 10,
    label_weight: float = 1.0,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels, soft labels and transport: :math:`-v \log q_y - p_y \log q_y + w \langle \Pi, C \rangle`.

    C is :math:`1 - e^{-\kappa (1 - \cos(w_a, w_b))}` between the rows of the teacher's last layer, which are read once,
    at the start of the stage.

    Args:
        teacher: The teacher: a module, a `Teacher` around one, or the name of a model in the run.
        temperature: T, the temperature of the other classes, above 0; 8 in the authors' configuration for CIFAR-100.
        weight: w, the weight of the transport cost; 800 in the same configuration. It is large because the cost is
            below 1 and its gradient has the factor 1 / T.
        sharpness: kappa, above 0; 1 in the same configuration.
        entropy: epsilon, the entropic regularization, from 0.01; 0.05 in the same configuration.
        iterations: The number of Sinkhorn iterations; 10 in the same configuration.
        label_weight: v, the weight of the labels; 1 in the paper.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or the teacher has no last layer with a row for each class.

    Source: Lv, Yang and Li, 2024, arXiv:2412.08139, section 3.1.
    """
    check_hyper(temperature=temperature)
    check_weight(weight=weight, sharpness=sharpness, entropy=entropy, label_weight=label_weight)
    check_count(iterations=iterations)
    if sharpness == 0:
        raise ArgumentError(
            "sharpness=0 makes all costs between classes 0, so nothing would be learned from them; it is above 0.",
            argument="sharpness",
        )
    if entropy < 0.01:
        raise ArgumentError(
            f"entropy={entropy} makes exp(-1 / entropy) underflow in float32; it is at least 0.01.", argument="entropy"
        )
    hyper = {"temperature": temperature, "entropy": entropy, "iterations": iterations, "weight": weight}
    return Recipe(_TransportStage(teacher, CARD.get_task(task), hyper, sharpness, label_weight, epochs))


@dataclass(frozen=True)
class _TransportStage:
    """The stage, once the teacher's weights are there."""

    teacher: Any
    task: Task
    hyper: dict[str, Any]
    sharpness: float
    label_weight: float
    epochs: int | None

    def __call__(self, models: Models) -> Recipe:
        """Read the teacher's last layer, and make the stage."""
        layer = find_output_layer(teacher_module(self.teacher, models))
        if layer is None:
            raise LimbeckError(
                "wkd needs the weights of the teacher's last layer, and this teacher has no linear layer. Use dkd or "
                "nkd, which need its outputs only."
            )
        costs = ClassCosts.of(cast(Tensor, layer[1].weight), sharpness=self.sharpness)
        transport = Loss(class_transport, classes=self.task.classes_dim, costs=costs, **self.hyper)
        objective = add_label_loss(transport, self.task, self.label_weight)
        return Recipe(Stage(objective, teacher=self.teacher, epochs=self.epochs, name="wkd"))

    def describe(self) -> dict[str, Any]:
        """The settings."""
        own = {"sharpness": self.sharpness, "label_weight": self.label_weight, "epochs": self.epochs}
        return {**self.hyper, **own}
