"""Distillation of regression with variances: a student matches the normal distribution of an ensemble."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch, Outputs, missing_output_error
from limbeck.data import ArrayDataset
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import KernelClaim, kernel
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_weight
from limbeck.model_call import Adaptor, find_output_layer
from limbeck.models import build, describe_structure, transform_model
from limbeck.models.gaussian_head import MOMENTS
from limbeck.recipe import Models, Recipe, Stage
from limbeck.tap import get_adaptor
from limbeck.teachers import Ensemble, Teacher, TeacherContext, TeacherSession, TeacherWrapper, as_teacher
from limbeck.teachers.wrapper import WrapperSession

_BOUND = 30.0
"""The largest log-variance, and minus the smallest: beyond, products overflow in float32."""


@kernel(per="example")
def gaussian_kl_divergence(
    student: Float[Tensor, "batch moments"], teacher: Float[Tensor, "batch moments"]
) -> Float[Tensor, " batch"]:
    r"""Compute KL(N_t || N_s) of normal distributions, summed over outputs, in nats.

    A row has K means and then K log-variances. With those of student and teacher,

    .. math:: \frac12 \sum_k \left[ \log \frac{s_k^2}{t_k^2} + \frac{t_k^2 + (m_k - n_k)^2}{s_k^2} - 1 \right]

    s² is the student's variance and m its mean, t² and n are the teacher's. With equal constant variances it is the
    squared error over twice the variance. Log-variances outside -30 to 30 count as these, without a gradient.

    Args:
        student: Moments of the student.
        teacher: Moments of the teacher.

    Raises:
        LimbeckError: If the shapes differ, or the number of columns is odd.

    Example:
        >>> one, two = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
        >>> gaussian_kl_divergence(one, two)
        tensor([2.])

    Source: Pouransari, Javaheripi, Sharma and Tuzel, Extracurricular Learning, 2020, arXiv:2007.00051.
    """
    if student.shape != teacher.shape or student.shape[-1] % 2:
        raise LimbeckError(
            f"Moments are K means and K log-variances on both sides; got shapes {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}."
        )
    (m, log_s), (n, log_t) = student.chunk(2, -1), teacher.chunk(2, -1)
    log_s, log_t = log_s.clamp(-_BOUND, _BOUND), log_t.clamp(-_BOUND, _BOUND)
    ratio = log_s - log_t
    # exp(-d) - 1 + d is never negative; near 0 only expm1 has the precision for that.
    spread = (torch.expm1(-ratio) + ratio).clamp_min(0.0)
    return 0.5 * (spread + (m - n).square() * (-log_s).exp()).flatten(1).sum(1)


def make_trial() -> tuple[nn.Module, Ensemble, ArrayDataset]:
    """Make a small regression, for the tests of the method: a student, an ensemble and data."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(48, 6, generator=draw)
    targets = inputs[:, :2] + 0.1 * torch.randn(48, 2, generator=draw)
    student, *members = (build("mlp", inputs=6, classes=2, hidden=[4], seed=seed) for seed in range(3))
    return student, Ensemble(*(member.eval() for member in members)), ArrayDataset(inputs, extra={"targets": targets})


CARD = MethodCard(
    name="gaussian_kl",
    title="Extracurricular Learning: Knowledge Transfer Beyond Empirical Distribution",
    authors="Pouransari, Javaheripi, Sharma and Tuzel",
    year=2020,
    arxiv="2007.00051",
    venue="arXiv preprint",
    claim="In regression the spread of an ensemble says where it is unsure. The student learns the mean and the "
    "variance of the members, and so its own error bars for new inputs.",
    when="For regression with an ensemble of two or more, if the user of the student needs to know how sure it is. "
    "It needs no targets, so more inputs are welcome: unlabeled, mixed or generated ones. Without the need for "
    "variances, hinton learns the mean by the squared error.",
    bibtex="""@article{pouransari2020extracurricular,
  title = {Extracurricular Learning: Knowledge Transfer Beyond Empirical Distribution},
  author = {Pouransari, Hadi and Javaheripi, Mojan and Sharma, Vinay and Tuzel, Oncel},
  journal = {arXiv preprint arXiv:2007.00051},
  year = {2020}
}""",
    ranges={"smallest_variance": SearchRange(1e-6, 1e-1, log=True)},
    labels="unused",
    needs="an ensemble of two or more regressors",
    tasks=("regression",),
    task_reason="its outputs are means and variances of numbers",
    kernels=(KernelClaim(gaussian_kl_divergence, classes=6, logits=False, zero_at_equality=True, largest=1e4),),
    trials=(make_trial,),
)

_STUDENT = "gaussian-student"


@validates_arguments
def gaussian_kl(teacher: Any, *, smallest_variance: float = 1e-4, epochs: int | None = None) -> Recipe:
    r"""Match the normal distribution that has the mean and variance of an ensemble: :math:`KL(N_t \| N_s)` in nats.

    The run makes a new model: use ``run.student``. The student that you pass in is not changed. The new model is
    ``gaussian-student``: a copy of the student with a new output layer (`GaussianHead`). Its outputs are the
    means, like those of any regressor; the layer ``moments`` has the means, and then the log-variances.

    Args:
        teacher: An `Ensemble` of two or more, whose weights count. Its members have one output for each target.
        smallest_variance: The variance that is added to that of the members, above 0, in the squared unit of the
            outputs (of standardized targets in a job). It bounds how sure the student becomes where members agree.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If `smallest_variance` is not above 0; when the run starts, if the teacher is no ensemble of two
            or more.

    Example:
        >>> recipe = gaussian_kl(Ensemble(nn.Linear(4, 1), nn.Linear(4, 1)))
        >>> recipe.ship
        'gaussian-student'

    Source: Pouransari et al., 2020, arXiv:2007.00051.
    """
    check_weight(smallest_variance=smallest_variance)
    if smallest_variance == 0:
        raise ArgumentError(
            "smallest_variance is above 0: where all members agree, a variance of 0 has an infinite divergence.",
            argument="smallest_variance",
        )
    stage = _MomentStage(as_teacher(teacher), smallest_variance, epochs)
    return Recipe(stage, makes={_STUDENT: _GaussianStudent()}, ship=_STUDENT)


@final
@dataclass(frozen=True)
class _MomentStage:
    """The stage, once the name of the output layer is known."""

    teacher: Teacher
    smallest_variance: float
    epochs: int | None

    def __call__(self, models: Models) -> Recipe:
        """Check the teacher, and make the stage."""
        ensemble = self.teacher.resolve(models)
        if not isinstance(ensemble, Ensemble) or len(ensemble.members) < 2:
            raise LimbeckError(
                f"gaussian_kl learns the variance over the members of an ensemble, and this is a "
                f"{type(ensemble).__name__}: Ensemble(a, b, c). For one teacher use hinton, which learns its outputs "
                "by the squared error."
            )
        moments = MomentTeacher(ensemble, smallest_variance=self.smallest_variance)
        layer = find_output_layer(models["student"])
        if layer is None:
            raise LimbeckError("gaussian_kl needs a student with a linear output layer, and none can be found.")
        loss = Loss(
            gaussian_kl_divergence, student=f"{layer[0]}.{MOMENTS}".lstrip("."), teacher=MOMENTS, name="gaussian_kl"
        )
        return Recipe(Stage(loss, trains=_STUDENT, teacher=moments, epochs=self.epochs, name="gaussian_kl"))

    def describe(self) -> dict[str, Any]:
        """The settings."""
        own = {"smallest_variance": self.smallest_variance, "epochs": self.epochs}
        return {"teacher": self.teacher.describe(), **own}


@final
class _GaussianStudent:
    """Makes the student with means and variances."""

    def __call__(self, models: Models) -> nn.Module:
        """Copy the student with its weights, and replace its output layer."""
        student = models["student"]
        return transform_model(copy.deepcopy(student), "add_variance", {}, origin=describe_structure(student))

    def adaptor(self, models: Models) -> Adaptor | None:
        """The adaptor of the student."""
        return get_adaptor(models, "student")


@final
class MomentTeacher(TeacherWrapper):
    """The mean and the log-variance of the members of an ensemble, at the address ``moments``.

    Args:
        ensemble: The ensemble. Its weights count; its kind of mean does not, as numbers are no probabilities.
        smallest_variance: What is added to the variance.

    Example:
        >>> pair = Ensemble(nn.Identity(), nn.Hardtanh(-1.0, 1.0))
        >>> context = TeacherContext(requires=frozenset({"moments"}))
        >>> with MomentTeacher(pair, smallest_variance=0.0).open(context) as session:
        ...     session(Batch(torch.tensor([[3.0]])))["moments"]
        tensor([[2., 0.]])
    """

    def __init__(self, ensemble: Ensemble, *, smallest_variance: float) -> None:
        super().__init__(*ensemble.members)
        self.weights, self.smallest_variance = ensemble.weights, smallest_variance

    def open(self, context: TeacherContext) -> TeacherSession:
        """Open every member for its outputs."""
        for address in context.requires - {MOMENTS}:
            raise missing_output_error(address, [MOMENTS], who="the moments of an ensemble")
        return _MomentSession(self.open_all(context, requires=frozenset({LOGITS})), self)

    @property
    def fingerprint(self) -> str:
        """The hash of the members' fingerprints, their weights and the smallest variance."""
        members = [member.fingerprint for member in self.teachers]
        return hashlib.sha256(f"moments {members} {self.weights} {self.smallest_variance}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """The members, their weights and the smallest variance."""
        own = {"weights": list(self.weights), "smallest_variance": self.smallest_variance}
        return {"teacher": "MomentTeacher", "members": [member.describe() for member in self.teachers], **own}


@final
class _MomentSession(WrapperSession):
    def __init__(self, sessions: Sequence[TeacherSession], teacher: MomentTeacher) -> None:
        super().__init__(sessions)
        self._teacher = teacher

    def combine(self, batch: Batch, outputs: Sequence[Outputs]) -> Outputs:
        members = [
            member[LOGITS].flatten(1) if member[LOGITS].ndim > 1 else member[LOGITS][:, None] for member in outputs
        ]
        stacked = torch.stack(members).double()
        weights = torch.tensor(self._teacher.weights, dtype=torch.float64, device=stacked.device).view(-1, 1, 1)
        mean = (weights * stacked).sum(0)
        variance = (weights * (stacked - mean).square()).sum(0) + self._teacher.smallest_variance
        moments = torch.cat([mean, variance.clamp_min(math.exp(-_BOUND)).log()], 1)
        return Outputs.of({MOMENTS: moments.to(members[0].dtype if members[0].element_size() >= 4 else torch.float32)})
