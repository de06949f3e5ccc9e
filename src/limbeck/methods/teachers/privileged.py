"""Privileged information: the teacher uses inputs that the student does not have."""

from __future__ import annotations

from dataclasses import replace
from types import FunctionType
from typing import Any, final

from jaxtyping import Float
from torch import Tensor

from limbeck.data import SelectColumn
from limbeck.functional import KernelClaim, check_hyper, cross_entropy, kernel, kl_divergence
from limbeck.losses import Loss, Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_share
from limbeck.recipe import Recipe, Stage
from limbeck.teachers import Preprocess, TeacherContext, TeacherSession, TeacherWrapper


@kernel(per="position")
def one_sided_kl(
    student: Float[Tensor, "*batch classes"], teacher: Float[Tensor, "*batch classes"], *, temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    """Compute the KL divergence of the student from the softened teacher, without a factor T^2.

    ``KL(p || q)`` in nats with ``p = softmax(teacher / T)`` and ``q = softmax(student)``: only the teacher is softened,
    so a trained student is as soft as the target. At T = 1 it is `kl_divergence`.

    Raises:
        LimbeckError: If the shapes differ, or `temperature` is not a finite number above 0.

    Source: Lopez-Paz et al., 2015, arXiv:1511.03643.
    """
    check_hyper(temperature=temperature)
    return kl_divergence(student, teacher / temperature)


CARD = MethodCard(
    name="privileged",
    title="Unifying distillation and privileged information",
    authors="Lopez-Paz, Bottou, Schölkopf and Vapnik",
    year=2015,
    arxiv="1511.03643",
    venue="ICLR 2016",
    claim="The teacher uses inputs that exist only at training time. The student learns from its predictions.",
    when="When better inputs exist only at training time: other sensors, cleaner copies, later facts. It helps if they "
    "are informative about the label. If they are only cleaner versions of the student's inputs, the paper finds "
    "no gain. As in the paper, only the teacher's softmax has a temperature, and there is no factor T².",
    bibtex="""@inproceedings{lopezpaz2016unifying,
  title = {Unifying distillation and privileged information},
  author = {Lopez-Paz, David and Bottou, L{\\'e}on and Sch{\\"o}lkopf, Bernhard and Vapnik, Vladimir},
  booktitle = {International Conference on Learning Representations},
  year = {2016},
  eprint = {1511.03643},
  archivePrefix = {arXiv}
}""",
    needs="inputs that only the teacher has, as an extra column",
    ranges={"temperature": SearchRange(1.0, 20.0, log=True), "weight": SearchRange(0.0, 1.0)},
    kernels=(KernelClaim(one_sided_kl, hyper={"temperature": 4.0}, invariances=("student_shift", "teacher_shift")),),
)


@validates_arguments
def privileged(
    teacher: Any,
    *,
    preprocess: str | Preprocess | None = "privileged",
    temperature: float = 1.0,
    weight: float = 1.0,
    labels: bool = True,
    epochs: int | None = None,
) -> Recipe:
    r"""Generalized distillation: :math:`(1 - \lambda) (-\log q_y) + \lambda KL(p \| q)`, in nats.

    :math:`p = softmax(f_t(x^*) / T)` of the teacher on privileged inputs, :math:`q = softmax(f(x))` of the student on
    its own. If both use the same inputs and T is 1, it is `hinton`. At lambda = 0 it is `supervised`.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        preprocess: The inputs of the teacher: the name of an extra column of the batch (``Batch.extra``), or a function
            of the batch. A `Teacher` that declares its own ``preprocess`` keeps it. None gives it the student's inputs:
            generalized distillation without privileged information, with a student that has no temperature.
        temperature: T of the teacher, above 0; 1 in the paper's synthetic experiments.
        weight: Lambda, the weight of the teacher, from 0 to 1; 1 in the paper's synthetic experiments.
        labels: Whether to use labels. False drops the label term.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If `temperature` is not above 0, or `weight` is not from 0 to 1.

    Source: Lopez-Paz et al., 2015, arXiv:1511.03643.
    """
    check_hyper(temperature=temperature)
    check_share(weight=weight)
    objective: Objective = weight * Loss(one_sided_kl, temperature=temperature)
    if labels:
        objective = objective + (1 - weight) * Loss(cross_entropy)
    source = teacher
    if preprocess is not None:
        inputs = SelectColumn(preprocess) if isinstance(preprocess, str) else preprocess
        source = PreprocessingTeacher(teacher, inputs)
    return Recipe(Stage(objective, teacher=source, epochs=epochs, name="privileged"))


@final
class PreprocessingTeacher(TeacherWrapper):
    """A teacher with its own preprocessing, unless the wrapped teacher declares one."""

    def __init__(self, teacher: Any, preprocess: Preprocess) -> None:
        super().__init__(teacher)
        self.preprocess = preprocess

    def open(self, context: TeacherContext) -> TeacherSession:
        """Open the wrapped teacher with this preprocessing."""
        return self.teachers[0].open(replace(context, preprocess=self.preprocess))

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the wrapped teacher."""
        return self.teachers[0].fingerprint

    def describe(self) -> dict[str, Any]:
        """Describe the wrapped teacher and the preprocessing."""
        # A resumed run compares this, so it holds the arguments of an object such as SelectColumn('privileged').
        name = self.preprocess.__name__ if isinstance(self.preprocess, FunctionType) else repr(self.preprocess)
        return {**self.teachers[0].describe(), "preprocess": name}
