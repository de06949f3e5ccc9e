"""Subclass distillation: the teacher invents subclasses of each class, and the student learns them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.functional import KernelClaim, check_hyper, cross_entropy, kernel, kl_divergence
from limbeck.losses import Loss, Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_count, check_share, check_temperature, check_weight
from limbeck.model_call import Adaptor, find_output_layer
from limbeck.models import describe_structure, reinitialize, transform_model
from limbeck.models.subclass_head import SUBCLASS_LOGITS
from limbeck.recipe import Models, Recipe, Stage, teacher_module
from limbeck.tap import get_adaptor


@kernel(per="batch")
def subclass_contrast(student: Float[Tensor, "batch outputs"], *, temperature: float = 1.0) -> Float[Tensor, ""]:
    r"""Compute the auxiliary loss that spreads examples over all subclasses.

    .. math:: \frac{1}{n} \sum_i \log \frac1n \sum_j \exp(v_i \cdot v_j / T) - 1 / T

    with v_i the subclass logits of example i, standardized over its outputs and divided by the root of their number, so
    that ``v_i . v_i = 1``. It is 0 where all examples have the same subclass logits, and negative elsewhere.

    Args:
        student: Subclass logits.
        temperature: T, above 0.

    Raises:
        LimbeckError: If `temperature` is not a finite number above 0.

    Example:
        >>> subclass_contrast(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).round(decimals=4)
        tensor(-0.5662)

    Source: Müller, Kornblith and Hinton, 2020, arXiv:2002.03936.
    """
    check_hyper(temperature=temperature)
    if not student.numel():
        return student.sum()
    # By the largest value first: squares of huge logits overflow, and no scale matters.
    largest = student.detach().abs().amax(-1, keepdim=True).clamp_min(torch.finfo(student.dtype).tiny)
    off = student / largest
    off = off - off.mean(-1, keepdim=True)
    square = off.square().sum(-1, keepdim=True)
    apart = square > 0
    # A constant row has no direction: 0, without the infinite slope of a root at 0.
    v = torch.where(apart, off / square.where(apart, 1.0).sqrt(), 0.0)
    return (v @ v.T / temperature).logsumexp(-1).mean() - 1 / temperature - math.log(len(v))


CARD = MethodCard(
    name="subclass_distillation",
    title="Subclass Distillation",
    authors="Müller, Kornblith and Hinton",
    year=2020,
    arxiv="2002.03936",
    venue="arXiv preprint",
    claim="With few classes a teacher's answer says little. A teacher that invents subclasses of each class says more, "
    "and the student learns their probabilities.",
    when="For two or few classes that have natural parts: clicks, faces, groups of digits. With many classes the soft "
    "targets are rich already. A teacher is trained anew with more outputs, and the final model has them too.",
    bibtex="""@article{muller2020subclass,
  title = {Subclass Distillation},
  author = {M{\\"u}ller, Rafael and Kornblith, Simon and Hinton, Geoffrey},
  journal = {arXiv preprint arXiv:2002.03936},
  year = {2020}
}""",
    ranges={
        "subclasses": SearchRange(2, 10, whole=True),
        "temperature": SearchRange(1.0, 20.0, log=True),
        "weight": SearchRange(0.0, 1.0),
        "auxiliary_weight": SearchRange(0.1, 2.0, log=True),
        "auxiliary_temperature": SearchRange(0.1, 1.0, log=True),
    },
    labels="required",
    needs="the teacher's network, which is trained anew with more outputs",
    example={"subclasses": 3},
    task_reason="it splits the classes of one softmax of each example",
    kernels=(KernelClaim(subclass_contrast, logits=False, largest=1e15),),
    trials=("mlp",),
)


@validates_arguments
def subclass_distillation(
    teacher: Any,
    *,
    subclasses: int = 5,
    temperature: float = 4.0,
    weight: float = 0.5,
    auxiliary_weight: float = 1.0,
    auxiliary_temperature: float = 1.0,
    warm_start: bool = False,
    teacher_epochs: int | None = None,
    epochs: int | None = None,
) -> Recipe:
    r"""Train a teacher with subclasses, then a student on their probabilities.

    1. The teacher's network, with S outputs for each of K classes: :math:`-\log q_y + \beta L_{aux}`, see
       `subclass_contrast`. The logit of a class is the logsumexp of those of its subclasses.
    2. The student, with K S outputs: :math:`w T^2 KL(p \| q) + (1 - w) (-\log q_y)`, p and q over all subclasses.

    The run makes new models: use ``run.student``. The student and the teacher that you pass in are not changed.

    The models of the run are ``subclass-teacher`` and ``subclass-student``, which is the final model. It has class
    logits like any other, and its layer ``subclass_logits`` has those of the subclasses. With S = 1 it is `hinton` with
    a teacher that is trained in the run.

    Args:
        teacher: The network of the teacher: a module, a `Teacher` around one, or the name of a model in the run. It is
            copied, not changed.
        subclasses: S, the number of subclasses of each class, at least 1.
        temperature: T of the second stage, above 0.
        weight: w, the weight of the teacher, from 0 to 1.
        auxiliary_weight: Beta, the weight of the auxiliary loss, at least 0.
        auxiliary_temperature: T of the auxiliary loss, above 0; usually at most 1.
        warm_start: Whether the teacher keeps its weights below the output layer; by default all are new.
        teacher_epochs: Passes of the first stage; the run's budget by default.
        epochs: Passes of the second stage; the run's budget by default.

    Raises:
        LimbeckError: If an argument is out of range, or one of the networks has no linear output layer.

    Source: Müller, Kornblith and Hinton, 2020, arXiv:2002.03936.
    """
    check_count(subclasses=subclasses)
    check_hyper(temperature=temperature)
    check_temperature(auxiliary_temperature=auxiliary_temperature)
    check_share(weight=weight)
    check_weight(auxiliary_weight=auxiliary_weight)
    # A resumed run compares what this describes, so it also has the settings of the models.
    stages = _SubclassStages(
        teacher, subclasses=subclasses, warm_start=warm_start, temperature=temperature, weight=weight,
        auxiliary_weight=auxiliary_weight, auxiliary_temperature=auxiliary_temperature, teacher_epochs=teacher_epochs,
        epochs=epochs,
    )  # fmt: skip
    makes: dict[str, Callable[[Models], nn.Module]] = {
        _TEACHER: _TeacherWithSubclasses(teacher, subclasses, warm_start),
        _STUDENT: _StudentWithSubclasses(subclasses),
    }
    return Recipe(stages, makes=makes, ship=_STUDENT)


_TEACHER, _STUDENT = "subclass-teacher", "subclass-student"


@dataclass(frozen=True)
class _SubclassStages:
    """The two stages, once the names of the output layers are known."""

    teacher: Any
    subclasses: int
    warm_start: bool
    temperature: float
    weight: float
    auxiliary_weight: float
    auxiliary_temperature: float
    teacher_epochs: int | None
    epochs: int | None

    def __call__(self, models: Models) -> Recipe:
        """Make the stages."""
        theirs, ours = (_subclass_address(net) for net in (teacher_module(self.teacher, models), models["student"]))
        contrast = Loss(subclass_contrast, student=theirs, temperature=self.auxiliary_temperature)
        train: Objective = Loss(cross_entropy) + self.auxiliary_weight * contrast
        match = Loss(kl_divergence, student=ours, teacher=theirs, temperature=self.temperature)
        learn: Objective = self.weight * match + (1 - self.weight) * Loss(cross_entropy)
        return Recipe(
            Stage(train, trains=_TEACHER, epochs=self.teacher_epochs, name="subclasses"),
            Stage(learn, trains=_STUDENT, teacher=_TEACHER, epochs=self.epochs, name="subclass_distillation"),
        )

    def describe(self) -> dict[str, Any]:
        """The settings."""
        return {key: value for key, value in vars(self).items() if key != "teacher"}


def _subclass_address(network: nn.Module) -> str:
    layer = find_output_layer(network)
    if layer is None:
        raise LimbeckError(
            f"subclass_distillation needs a linear output layer, and a {type(network).__name__} has none that can be "
            "found."
        )
    return f"{layer[0]}.{SUBCLASS_LOGITS}".lstrip(".")


def _with_subclasses(network: nn.Module, subclasses: int, origin: nn.Module) -> nn.Module:
    arguments = {"subclasses": subclasses}
    return transform_model(network, "add_subclasses", arguments, origin=describe_structure(origin))


@final
@dataclass(frozen=True)
class _TeacherWithSubclasses:
    """Makes the teacher's network with more outputs."""

    teacher: Any
    subclasses: int
    warm_start: bool

    def __call__(self, models: Models) -> nn.Module:
        """Copy the network, and replace its output layer."""
        network = teacher_module(self.teacher, models)
        fresh = copy.deepcopy(network) if self.warm_start else reinitialize(network)
        return _with_subclasses(fresh.requires_grad_(True), self.subclasses, network)


@final
@dataclass(frozen=True)
class _StudentWithSubclasses:
    """Makes the student with more outputs."""

    subclasses: int

    def __call__(self, models: Models) -> nn.Module:
        """Copy the student with its weights, and replace its output layer."""
        return _with_subclasses(copy.deepcopy(models["student"]), self.subclasses, models["student"])

    def adaptor(self, models: Models) -> Adaptor | None:
        """The adaptor of the student."""
        return get_adaptor(models, "student")
