"""Hard distillation: the student learns the teacher's decisions as labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.batch import LOGITS, Batch, Outputs
from limbeck.data import counter_uniform
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import check_hyper, kl_divergence, probabilities
from limbeck.losses import Loss, Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_share
from limbeck.recipe import Recipe, Stage
from limbeck.schedule import ramp
from limbeck.tasks import Task
from limbeck.teachers import Teacher, TeacherContext, TeacherSession, TeacherWrapper
from limbeck.teachers.wrapper import WrapperSession
from limbeck.top_k_logits import PartialLogits, TopKLogits

CARD = MethodCard(
    name="hard_distillation",
    title="Training data-efficient image transformers & distillation through attention",
    authors="Touvron, Cord, Douze, Massa, Sablayrolles and Jégou",
    year=2020,
    arxiv="2012.12877",
    venue="ICML 2021",
    claim="The student learns the most probable class of the teacher as a label, beside the true one. There is no "
    "temperature to choose, and the teacher may give nothing but labels.",
    when="For teachers that only decide (estimators, services, people), for a strong teacher beside noisy labels, and "
    "on much unlabeled data (labels=False: pseudo-labels). Otherwise compare with hinton, which learns more from each "
    "example. soften=True starts with decisions and ends with probabilities.",
    bibtex="""@inproceedings{touvron2021training,
  title = {Training data-efficient image transformers \\& distillation through attention},
  author = {Touvron, Hugo and Cord, Matthieu and Douze, Matthijs and Massa, Francisco and Sablayrolles, Alexandre and
            J{\\'e}gou, Herv{\\'e}},
  booktitle = {International Conference on Machine Learning},
  year = {2021},
  eprint = {2012.12877},
  archivePrefix = {arXiv}
}""",
    ranges={"weight": SearchRange(0.0, 1.0)},
    tasks=("classification", "segmentation", "language_modeling"),
    task_reason="it needs one decision among classes",
    trials=("mlp",),
)

HARD = "hard_labels"
"""The address of the teacher's decisions, as logits: 0 for the class and -inf for all others."""


@validates_arguments
def hard_distillation(
    teacher: Any,
    *,
    weight: float = 0.5,
    draw: bool = False,
    soften: bool = False,
    temperature: float | None = None,
    labels: bool = True,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Minimize :math:`w (-\log q_t) + (1 - w) (-\log q_y)` in nats, t being the teacher's decision.

    t is the most probable class of the teacher, or with `draw` one class drawn from its probabilities, the same in all
    epochs. With `soften` the first term is :math:`\beta (-\log q_t) + (1 - \beta) T^2 KL(p \| q)`, with beta from 1
    down to 0 over the stage.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        weight: w, the weight of the teacher, from 0 to 1; 0.5 in the paper.
        draw: Whether t is drawn from the teacher's probabilities, so that its expected loss is that of soft targets.
        soften: Whether to go from decisions to soft targets.
        temperature: T of the probabilities from which t is drawn, and of the soft targets, above 0; 1 by default.
            Without `draw` and `soften` there is none.
        labels: Whether to use labels. False drops the label term.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If `weight` is not from 0 to 1, `temperature` is not above 0, or the method cannot learn the task.

    Example:
        >>> from torch import nn
        >>> [repr(stage.objective) for stage in hard_distillation(nn.Linear(4, 3)).stages()]
        ["0.5 * Loss(kl_divergence, student='logits', teacher='hard_labels') + 0.5 * Loss(cross_entropy)"]

    Source: Touvron et al., 2020, arXiv:2012.12877, section 4; drawn and softened labels: Stanton et al., Does Knowledge
        Distillation Really Work?, 2021, arXiv:2106.05945.
    """
    check_share(weight=weight)
    if temperature is not None and not (draw or soften):
        raise ArgumentError(
            f"temperature={temperature!r} does not change which class is the most probable, and nothing else is "
            "learned of the teacher. Type draw=True or soften=True too, or leave temperature out.",
            argument="temperature",
        )
    temperature = 1.0 if temperature is None else temperature
    check_hyper(temperature=temperature)
    task = CARD.get_task(task)
    hard = Loss(kl_divergence, teacher=HARD, classes=task.classes_dim)
    objective: Objective = weight * hard
    if soften:
        soft = task.distillation_loss(temperature=temperature)
        objective = ramp(0.0, start=weight) * hard + ramp(weight) * soft
    if labels:
        objective = objective + (1 - weight) * task.supervised_loss()
    deciding = HardLabelTeacher(teacher, draw=draw, temperature=temperature, classes=task.classes_dim)
    return Recipe(Stage(objective, teacher=deciding, epochs=epochs, name="hard_distillation"))


@final
class HardLabelTeacher(TeacherWrapper):
    """A teacher with its decisions at the address ``hard_labels``, beside its other outputs.

    Args:
        teacher: Anything that `as_teacher` accepts.
        draw: Whether the class is drawn from the probabilities; of an example with an id always the same.
        temperature: T of these probabilities.
        classes: The dimension of the classes.

    Example:
        >>> with HardLabelTeacher(torch.nn.Identity()).open(TeacherContext()) as session:
        ...     session(Batch(torch.tensor([[1.0, 3.0, 2.0]])))["hard_labels"]
        tensor([[-inf, 0., -inf]])
    """

    def __init__(self, teacher: Any, *, draw: bool = False, temperature: float = 1.0, classes: int = -1) -> None:
        super().__init__(teacher)
        self.draw, self.temperature, self.classes = draw, temperature, classes

    @property
    def inner(self) -> Teacher:
        """The teacher that decides."""
        return self.teachers[0]

    def open(self, context: TeacherContext) -> TeacherSession:
        """Open the teacher, for its logits and what else is needed of it."""
        requires = (context.requires - {HARD}) | {LOGITS}
        return _DecidingSession(self.open_all(context, requires=requires), self)

    @property
    def fingerprint(self) -> str:
        """The hash of the teacher's fingerprint and the settings."""
        settings = f"{self.draw} {self.temperature} {self.classes}"
        return hashlib.sha256(f"decisions {settings} of {self.inner.fingerprint}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """The teacher, and how it decides."""
        own = {"draw": self.draw, "temperature": self.temperature, "classes": self.classes}
        return {"teacher": "HardLabelTeacher", "of": self.inner.describe(), **own}


@final
class _DecidingSession(WrapperSession):
    def __init__(self, sessions: Sequence[TeacherSession], teacher: HardLabelTeacher) -> None:
        super().__init__(sessions)
        self._teacher = teacher

    def combine(self, batch: Batch, outputs: Sequence[Outputs]) -> Outputs:
        (own,), teacher = outputs, self._teacher
        logits = _all_logits(own.partial[LOGITS] if LOGITS in own.partial else own[LOGITS])
        rows = logits.detach().movedim(-1 if LOGITS in own.partial else teacher.classes, -1)
        chosen = draw_classes(rows, batch, temperature=teacher.temperature) if teacher.draw else rows.argmax(-1)
        decided = torch.full_like(rows, -torch.inf).scatter(-1, chosen.unsqueeze(-1), 0.0)
        return Outputs.of({**own, **own.partial, HARD: decided.movedim(-1, teacher.classes)})


def _all_logits(logits: Tensor | PartialLogits) -> Tensor:
    if isinstance(logits, Tensor):
        return logits
    if isinstance(logits, TopKLogits):
        return logits.spread()
    raise LimbeckError(
        f"hard_distillation needs the most probable class, and a teacher with {type(logits).__name__} may not know it. "
        "Store the encoding 'top-k', or all logits."
    )


def draw_classes(rows: Float[Tensor, "batch *positions classes"], batch: Batch, *, temperature: float = 1.0) -> Tensor:
    """Draw a class of each row from ``softmax(rows / T)``: by the example's id and view, or anew if it has no id.

    Example:
        >>> draw_classes(torch.tensor([[9.0, 0.0]]).expand(3, 2) * 9, Batch(torch.zeros(3), id=torch.arange(3)))
        tensor([0, 0, 0])
    """
    shape = rows.shape[:-1]
    if batch.id is None:
        uniform = torch.rand(shape, device=rows.device)
    else:
        view = torch.zeros_like(batch.id) if batch.view is None else batch.view
        draws = shape[1:].numel()
        uniform = counter_uniform(batch.id, view, seed=0, draws=draws, stream="hard labels").reshape(shape)
    # In float64, or the sum over a large vocabulary would be off by more than a rare class.
    below = probabilities(rows, temperature=temperature).cumsum(-1, dtype=torch.float64)
    return (below <= uniform.to(rows.device).unsqueeze(-1)).sum(-1).clamp_max(rows.shape[-1] - 1)
