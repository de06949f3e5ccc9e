"""How does a teacher that sees more than the student will ever see teach it?"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.data import SelectColumn
from limbeck.functional import check_hyper, cross_entropy, kernel, kl_divergence
from limbeck.losses import Loss, Objective
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_share
from limbeck.recipe import Recipe, Stage
from limbeck.teachers import Preprocess, Stream, Teacher, TeacherFn, as_teacher

CARD = MethodCard(
    name="privileged",
    title="Unifying distillation and privileged information",
    authors="Lopez-Paz, Bottou, Schölkopf and Vapnik",
    year=2015,
    arxiv="1511.03643",
    venue="ICLR 2016",
    claim="The teacher reads inputs that the student will not have when it is used, and passes on what they tell.",
    when="Where better inputs exist at training time only: other sensors, cleaner copies, later facts. It helps where "
    "they tell about the label itself; where they only clean the student's own inputs, the paper finds no gain. The "
    "student's softmax is not tempered, the teacher's alone is, and there is no T²: the paper's formula.",
    bibtex="""@inproceedings{lopezpaz2016unifying,
  title = {Unifying distillation and privileged information},
  author = {Lopez-Paz, David and Bottou, L{\\'e}on and Sch{\\"o}lkopf, Bernhard and Vapnik, Vladimir},
  booktitle = {International Conference on Learning Representations},
  year = {2016},
  eprint = {1511.03643},
  archivePrefix = {arXiv}
}""",
    ranges={"temperature": SearchRange(1.0, 20.0, log=True), "weight": SearchRange(0.0, 1.0)},
)


@kernel(per="position")
def one_sided_kl(
    student: Float[Tensor, "*batch classes"], teacher: Float[Tensor, "*batch classes"], *, temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    """The Kullback-Leibler divergence of the student from the softened teacher, not times T^2.

    ``KL(p || q)`` in nats with ``p = softmax(teacher / T)`` and ``q = softmax(student)``: the teacher alone is
    softened, so a student that has learnt is as soft as the target. At T = 1 it is `kl_divergence`.

    Raises:
        LimbeckError: If the shapes differ, or `temperature` is not a finite number above 0.

    Source: Lopez-Paz et al., 2015, arXiv:1511.03643.
    """
    check_hyper(temperature=temperature)
    return kl_divergence(student, teacher / temperature)


def privileged(
    teacher: Any,
    *,
    preprocess: str | Preprocess = "privileged",
    temperature: float = 1.0,
    weight: float = 1.0,
    labels: bool = True,
    epochs: int | None = None,
) -> Recipe:
    r"""Generalized distillation: :math:`(1 - \lambda) (-\log q_y) + \lambda KL(p \| q)`, in nats.

    :math:`p = softmax(f_t(x^*) / T)` of the teacher on privileged inputs, :math:`q = softmax(f(x))` of the student on
    its own. Where both read the same and T is 1 it is `hinton`; at lambda = 0 it is `supervised`.

    Args:
        teacher: Who teaches.
        preprocess: What the teacher reads: the name of a further column of the batch (``Batch.extra``), or a function
        of
            the batch. A `Teacher` that declares its own ``preprocess`` keeps them.
        temperature: T of the teacher, above 0; 1 in the paper's synthetic experiments.
        weight: lambda, the share of the teacher, from 0 to 1; 1 in the paper's synthetic experiments.
        labels: Whether the labels are read; False leaves their term out.
        epochs: Passes over the data; the run's budget by default.

    Raises:
        LimbeckError: If `temperature` is not above 0, or `weight` no share.

    Source: Lopez-Paz et al., 2015, arXiv:1511.03643.
    """
    check_hyper(temperature=temperature)
    check_share(weight=weight)
    objective: Objective = weight * Loss(one_sided_kl, temperature=temperature)
    if labels:
        objective = objective + (1 - weight) * Loss(cross_entropy)
    seeing = Seeing(as_teacher(teacher), SelectColumn(preprocess) if isinstance(preprocess, str) else preprocess)
    return Recipe(Stage(objective, teacher=seeing, epochs=epochs, name="privileged"))


@final
class Seeing(Teacher):
    """A teacher that reads something else in the batch than the stage does, unless it declares its own reads."""

    def __init__(self, teacher: Teacher, preprocess: Preprocess) -> None:
        self.teacher = teacher
        self.preprocess = preprocess
        self.changes = teacher.changes

    def bind(self, models: Mapping[str, nn.Module]) -> None:
        """As the teacher does."""
        self.teacher.bind(models)

    @property
    def is_deterministic(self) -> bool:
        """Whether the teacher is."""
        return self.teacher.is_deterministic

    def attach_loader(self, loader: Stream, preprocess: Preprocess) -> None:
        """The teacher is told, with the reads of its own in place of the stage's."""
        del preprocess
        self.teacher.attach_loader(loader, self.preprocess)

    def prepare(
        self, requires: frozenset[str], *, device: torch.device, preprocess: Preprocess
    ) -> AbstractContextManager[TeacherFn]:
        """As the teacher does, with the reads of its own in place of the stage's."""
        return self.teacher.prepare(requires, device=device, preprocess=self.preprocess)

    @property
    def fingerprint(self) -> str:
        """The teacher's."""
        return self.teacher.fingerprint

    def after_step(self) -> None:
        """As the teacher does."""
        self.teacher.after_step()

    def state_dict(self) -> dict[str, Any]:
        """The teacher's."""
        return self.teacher.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As the teacher does."""
        self.teacher.load_state_dict(state)

    def describe(self) -> dict[str, Any]:
        """The teacher's, and what it reads."""
        return {**self.teacher.describe(), "preprocess": getattr(self.preprocess, "__name__", repr(self.preprocess))}
