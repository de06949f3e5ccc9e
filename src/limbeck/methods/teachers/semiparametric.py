"""Semiparametric distillation: teachers that never saw the example they label, and a correction of their errors."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from limbeck.batch import IGNORED, LOGITS, Batch, Outputs
from limbeck.data import Dataset, Loader, counter_uniform
from limbeck.data.masked_loader import BatchMasks, MaskedLoader
from limbeck.errors import LimbeckError, LimbeckWarning, unknown_name_error
from limbeck.functional import KernelClaim, check_hyper, cross_entropy, kernel, kl_divergence, logit_squared_error
from limbeck.functional.closed_form import guarded_log_softmax
from limbeck.functional.kernel import validates_pair
from limbeck.functional.row_blocks import compute_by_rows
from limbeck.losses import Loss, Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_count, check_share, check_weight
from limbeck.methods.teachers.prepared import FreshTeacher
from limbeck.recipe import Recipe, Stage
from limbeck.teachers import TeacherContext, TeacherSession, TeacherWrapper
from limbeck.teachers.wrapper import WrapperSession

_FLOOR = 0.01
"""The smallest probability of the teacher that is divided by, as in the authors' code."""


@kernel(per="position")
@validates_pair
def corrected_kl(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    labels: Integer[Tensor, "*batch"],
    bound: float = 1.0,
    temperature: float = 1.0,
) -> Float[Tensor, "*batch"]:
    r"""Compute T^2 times the KL divergence from the teacher, with a first-order correction by the label.

    ``T^2 [KL(w || q) - 1/T sum_k (u_k - w_k sum_j u_j) log q_k]`` in nats, with ``q = softmax(student / T)``,
    ``w = softmax(teacher / T)``, ``p = softmax(teacher)``, y the label as one-hot, and
    ``u_k = g_k (y_k - p_k) / p_k w_k``, ``g_k = c / (c + (y_k - p_k)^2)``. p is at least 0.01 in the denominator. At
    c = 0 it is `kl_divergence`. At T = 1 and
    large c the target is the label itself. The mean of the correction under labels drawn from p is 0 for large c. A
    single value can be negative. A label of -100 has no correction and gives 0.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        labels: Class indices from 0 to classes - 1, or -100.
        bound: c, at least 0: the squared error of the teacher's probabilities that is expected.
        temperature: T, above 0.

    Raises:
        LimbeckError: If the shapes differ, `bound` is negative, or `temperature` is not above 0.

    Example:
        >>> z = torch.tensor([[0.0, 0.0]])
        >>> corrected_kl(z, z, labels=torch.tensor([0]), bound=0.0)
        tensor([0.])

    Source: Dao, Kamath, Syrgkanis and Mackey, 2021, arXiv:2104.09732, section 4.
    """
    check_hyper(temperature=temperature)
    check_weight(bound=bound)

    def compute(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        log_q, w = guarded_log_softmax(student, temperature), guarded_log_softmax(teacher, temperature).exp()
        # At T = 1, w is p, and nothing is divided by a small probability.
        u = _error(teacher, labels, bound) * (1.0 if temperature == 1 else w / _denominator(teacher))
        moved = (u - w * u.sum(-1, keepdim=True)).masked_fill(student == -torch.inf, 0.0)
        value = kl_divergence(student, teacher, temperature=temperature) - temperature * (moved * log_q).sum(-1)
        return value.masked_fill(labels == IGNORED, 0.0)

    return compute_by_rows(compute, student, teacher, labels)


@kernel(per="position")
@validates_pair
def corrected_squared_error(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    labels: Integer[Tensor, "*batch"],
    bound: float = 1.0,
) -> Float[Tensor, "*batch"]:
    r"""Compute half the mean squared error to the teacher's logits, which are corrected by the label.

    The target of class k is ``v_k + g_k (y_k - p_k) / p_k`` with ``p = softmax(v)`` of the teacher, y the label as
    one-hot, and ``g_k = c / (c + (y_k - p_k)^2)``; the error is centered over classes, as in `logit_squared_error`. At
    c = 0 it is that. p is at least 0.01 in the denominator. A label of -100 gives 0.

    Args:
        student: Logits of the student.
        teacher: Logits v of the teacher.
        labels: Class indices from 0 to classes - 1, or -100.
        bound: c, at least 0.

    Raises:
        LimbeckError: If the shapes differ, or `bound` is negative.

    Example:
        >>> z = torch.tensor([[0.0, 0.0]])
        >>> corrected_squared_error(z, z, labels=torch.tensor([0]), bound=0.25)
        tensor([0.1250])

    Source: Dao, Kamath, Syrgkanis and Mackey, 2021, arXiv:2104.09732, section 4.
    """
    check_weight(bound=bound)

    def compute(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        target = correct_logits(teacher, labels=labels, bound=bound)
        return logit_squared_error(student, target).masked_fill(labels == IGNORED, 0.0)

    return compute_by_rows(compute, student, teacher, labels)


def correct_logits(
    teacher: Float[Tensor, "*batch classes"], *, labels: Integer[Tensor, "*batch"], bound: float
) -> Float[Tensor, "*batch classes"]:
    """Compute the targets of `corrected_squared_error`, for students that are not trained with gradients.

    Example:
        >>> correct_logits(torch.tensor([[0.0, 0.0]]), labels=torch.tensor([0]), bound=0.25)
        tensor([[ 0.5000, -0.5000]])
    """
    return teacher + _error(teacher, labels, bound) / _denominator(teacher)


def _denominator(teacher: Tensor) -> Tensor:
    return guarded_log_softmax(teacher, 1.0).exp().clamp_min(_FLOOR)


def _error(teacher: Tensor, labels: Tensor, bound: float) -> Tensor:
    """``g_k (y_k - p_k)``; 0 for classes that the teacher does not have, and without a label."""
    p = guarded_log_softmax(teacher, 1.0).exp()
    known = labels != IGNORED
    y = torch.zeros_like(p).scatter(-1, labels.masked_fill(~known, 0).long().unsqueeze(-1), 1.0)
    error = y - p
    trusted = bound / (bound + error.square()) if bound else 0.0
    absent = (teacher == -torch.inf) | ~known.unsqueeze(-1)
    return (trusted * error).masked_fill(absent, 0.0)


CARD = MethodCard(
    name="semiparametric",
    title="Knowledge Distillation as Semiparametric Inference",
    authors="Dao, Kamath, Syrgkanis and Mackey",
    year=2021,
    arxiv="2104.09732",
    venue="ICLR 2021",
    claim="A teacher is too sure of its own training examples, and errs elsewhere. Each example is labeled by a "
    "teacher that never saw it (cross-fitting), and a term of the loss corrects the teacher by the label.",
    when="When the teacher fits its training examples perfectly and the student learns on the same ones. "
    "Cross-fitting trains a teacher for each fold. With much data that the teacher has not seen, it is not needed.",
    bibtex="""@inproceedings{dao2021knowledge,
  title = {Knowledge Distillation as Semiparametric Inference},
  author = {Dao, Tri and Kamath, Govinda M. and Syrgkanis, Vasilis and Mackey, Lester},
  booktitle = {International Conference on Learning Representations},
  year = {2021},
  eprint = {2104.09732},
  archivePrefix = {arXiv}
}""",
    ranges={
        "bound": SearchRange(0.001, 10.0, log=True),
        "temperature": SearchRange(1.0, 20.0, log=True),
        "weight": SearchRange(0.0, 1.0),
    },
    labels="required",
    needs="the teacher's network, which is trained once for each fold",
    example={"folds": 2},
    task_reason="its folds are of examples with one label",
    kernels=(
        KernelClaim(corrected_kl, hyper={"bound": 0.5, "temperature": 2.0}),
        KernelClaim(corrected_squared_error, hyper={"bound": 0.5}, largest=1e15),
    ),
    trials=("mlp",),
    models_and_data="--teacher mlp --set teacher.hidden=[64] --student mlp --set student.hidden=[16] "
    "--data adult.csv --set data.target=income",
)


@validates_arguments
def semiparametric(
    teacher: Any,
    *,
    folds: int = 5,
    loss: str = "kl_divergence",
    bound: float = 1.0,
    temperature: float = 2.0,
    weight: float = 0.5,
    teacher_epochs: int | None = None,
    epochs: int | None = None,
) -> Recipe:
    r"""Cross-fit teachers, then minimize :math:`(1 - \alpha) (-\log q_y) + \alpha L`, with L a corrected loss.

    With B folds, the models ``fold-0``, ``fold-1``, ... of the run have the teacher's network, newly initialized, and
    learn the labels of all examples outside their fold. Each teaches the examples of its fold.

    Args:
        teacher: The network of the teachers: a module, a `Teacher` around one, or the name of a model in the run. With
            one fold it is the trained teacher itself, as in other methods.
        folds: B, the number of folds; 1 for no cross-fitting.
        loss: ``kl_divergence`` (`corrected_kl`) or ``squared_error`` (`corrected_squared_error`, of logits).
        bound: c, at least 0: how much the labels correct the teacher. 0 corrects nothing.
        temperature: T of the KL divergence, above 0.
        weight: Alpha, the weight of the teacher, from 0 to 1.
        teacher_epochs: Passes of each teacher; by default as many as those of the student.
        epochs: Passes of the student; the run's budget by default.

    Raises:
        LimbeckError: If an argument is out of range; when the run starts, if the examples have no ids.

    Example:
        >>> from torch import nn
        >>> [stage.name for stage in semiparametric(nn.Linear(4, 3), folds=2).stages()]
        ['fold 0', 'fold 1', 'semiparametric']

    Source: Dao et al., 2021, arXiv:2104.09732.
    """
    check_count(folds=folds)
    check_hyper(temperature=temperature)
    check_weight(bound=bound)
    check_share(weight=weight)
    losses = {
        "kl_divergence": lambda: Loss(corrected_kl, bound=bound, temperature=temperature),
        "squared_error": lambda: Loss(corrected_squared_error, bound=bound),
    }
    if loss not in tuple(losses):
        raise unknown_name_error("corrected loss", loss, losses, argument="loss")
    objective: Objective = weight * losses[loss]() + (1 - weight) * Loss(cross_entropy)
    if folds == 1:
        return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="semiparametric"))
    learn = Stage(objective, teacher=CrossFitTeacher(*fold_names(folds)), epochs=epochs, name="semiparametric")
    return make_fold_recipe(teacher, folds, epochs=epochs if teacher_epochs is None else teacher_epochs) >> learn


def fold_names(folds: int) -> list[str]:
    """The names of the teachers of the folds, which are also those of the masks of what they learn."""
    return [f"fold-{number}" for number in range(folds)]


def make_fold_recipe(teacher: Any, folds: int, *, epochs: int | None) -> Recipe:
    """Make the stages of the teachers: each learns the labels of all examples outside its fold.

    Args:
        teacher: The network of the teachers.
        folds: The number of folds, at least 2.
        epochs: Passes of each teacher; the run's budget if None.

    Example:
        >>> from torch import nn
        >>> [stage.trains for stage in make_fold_recipe(nn.Linear(4, 3), 2, epochs=1).stages()]
        ['fold-0', 'fold-1']
    """
    names = fold_names(folds)
    stages = [
        Stage(
            Loss(cross_entropy, where=name), trains=name, loader=FoldMasks(folds), epochs=epochs,
            name=name.replace("-", " "),
        )
        for name in names
    ]  # fmt: skip
    return Recipe(*stages, makes=dict.fromkeys(names, FreshTeacher(teacher)))


def assign_folds(batch: Batch, folds: int) -> Int[Tensor, " batch"]:
    """Assign each example of a batch to a fold, by its id alone.

    Raises:
        LimbeckError: If the examples have no ids.

    Example:
        >>> assign_folds(Batch(torch.zeros(1000), id=torch.arange(1000)), 2).bincount().min() > 450
        tensor(True)
    """
    if batch.id is None:
        raise LimbeckError(
            "Cross-fitting needs the id of each example, and this loader gives none. Use ArrayDataset or another data "
            "set of limbeck, or folds=1."
        )
    uniform = counter_uniform(batch.id, torch.zeros_like(batch.id), seed=0, draws=1, stream="folds")[:, 0]
    return (uniform * folds).long().clamp_max(folds - 1)


@final
class FoldMasks(BatchMasks):
    """The masks ``fold-0``, ``fold-1``, ...: true for the examples outside a fold.

    Args:
        folds: The number of folds.
    """

    def __init__(self, folds: int) -> None:
        self.folds = folds

    def __call__(self, loader: Loader) -> MaskedLoader:
        """The batches of a loader with these masks.

        Warns:
            LimbeckWarning: If a fold is empty, or has all examples of a class.
        """
        if loader.examples is not None and loader.has_ids:
            _warn_about_folds(loader.examples, self.folds)
        return super().__call__(loader)

    def compute(self, batch: Batch) -> Mapping[str, Tensor]:
        """The masks of a batch."""
        own = assign_folds(batch, self.folds)
        return {f"fold-{number}": (own != number) & batch.valid.to(own.device) for number in range(self.folds)}

    def describe(self) -> dict[str, Any]:
        """The number of folds."""
        return {"folds": self.folds}


def _warn_about_folds(examples: Dataset, folds: int) -> None:
    """Say that there are too few examples: for a teacher of an empty fold, or one that has never seen a class."""
    own = assign_folds(Batch(torch.zeros(len(examples)), id=examples.ids), folds)
    sizes, labels = own.bincount(minlength=folds), examples.labels
    problems = [f"{int((sizes == 0).sum())} of the folds are empty"] if bool((sizes == 0).any()) else []
    if labels is not None and labels.ndim == 1:
        counts = torch.zeros(folds, int(labels.max().clamp_min(0)) + 1, dtype=torch.int64)
        known = labels != IGNORED
        counts.index_put_((own[known], labels[known]), torch.ones(int(known.sum()), dtype=torch.int64), accumulate=True)
        whole = counts.sum(0)
        if lonely := int(((counts == whole) & (whole > 0)).any(0).sum()):
            problems.append(
                f"{lonely} classes lie in one fold as a whole, so that the teacher of this fold never saw them"
            )
    if problems:
        warnings.warn(
            f"{len(examples):,} examples are few for cross-fitting with {folds} folds: {' and '.join(problems)}. Take "
            f"fewer folds ({max(2, folds // 2)}), or more examples.",
            LimbeckWarning, stacklevel=3,
        )  # fmt: skip


@final
class CrossFitTeacher(TeacherWrapper):
    """Several teachers, of which each labels the examples of its own fold, which it never saw.

    Args:
        teachers: One for each fold.

    Example:
        >>> from torch import nn
        >>> teacher = CrossFitTeacher(nn.Identity(), nn.Hardtanh(0.0, 0.0001))
        >>> len(teacher.teachers)
        2
    """

    def open(self, context: TeacherContext) -> TeacherSession:
        """Open all of them, for their logits."""
        self.check_full_logits("Cross-fitting")
        return _CrossFitSession(self.open_all(context, requires=frozenset({LOGITS})))

    @property
    def fingerprint(self) -> str:
        """The hash of the fingerprints of all of them."""
        return hashlib.sha256(f"cross-fit {[one.fingerprint for one in self.teachers]}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """The teachers of the folds."""
        return {"teacher": "CrossFitTeacher", "folds": [one.describe() for one in self.teachers]}


@final
class _CrossFitSession(WrapperSession):
    def combine(self, batch: Batch, outputs: Sequence[Outputs]) -> Outputs:
        stacked = torch.stack([one[LOGITS] for one in outputs])
        own = assign_folds(batch, len(outputs)).to(stacked.device)
        return Outputs(logits=stacked[own, torch.arange(len(own), device=own.device)])
