"""SRD, a simple recipe: a linear projector, BatchNorm on both sides, and the logarithm of a sum of high powers."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limbeck.errors import LimbeckError, unknown_name_error
from limbeck.functional import Head, KernelClaim, check_hyper, kernel
from limbeck.functional.attention import find_token_mask
from limbeck.losses import Loss, Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.layers import add_weighted
from limbeck.methods.support import check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task


@kernel(per="batch")
def log_sum_error(
    student: Float[Tensor, "batch ..."],
    teacher: Float[Tensor, "batch ..."],
    mask: Bool[Tensor, "*tokens"] | None = None,
    *,
    power: float = 4.0,
    eps: float = 1e-4,
) -> Float[Tensor, ""]:
    r"""Compute :math:`\log \sum_{bd} |\hat s_{bd} - \hat t_{bd}|^\alpha` of normalized features.

    :math:`\hat s` is BatchNorm of s without scale and shift: each feature minus its mean over the batch, divided by
    the root of its variance plus eps. Maps ``[batch, d, height, width]`` and tokens ``[batch, tokens, d]`` are averaged
    over their positions first. Multiplying all errors by c adds :math:`\alpha \log c`, so the gradient does not
    fade as errors do, and the largest errors have most of it. Where all are 0, it is the logarithm of the smallest
    positive number, with a gradient of 0; for an empty batch it is 0. In float32 it overflows above 1e18.

    Args:
        student: Features of the student, after its head.
        teacher: Features of the teacher.
        mask: The tokens that count, ``[batch, tokens]`` or ``[batch]``; all by default.
        power: alpha, above 0.
        eps: The number that is added to variances.

    Raises:
        LimbeckError: If the numbers of examples or features differ.

    Example:
        >>> log_sum_error(torch.tensor([[1.0], [-1.0]]), torch.tensor([[-3.0], [3.0]]), eps=0.0)
        tensor(3.4657)

    Source: Miles and Mikolajczyk, 2023, arXiv:2303.11098, section 3.3.
    """
    ours, theirs = _normalize_both(student, teacher, mask, eps)
    total = (ours - theirs).abs().pow(power).sum()
    if not total.numel() or not len(ours):
        return total
    return total.clamp_min(torch.finfo(total.dtype).tiny).log()


@kernel(per="batch")
def log_correlation_error(
    student: Float[Tensor, "batch ..."],
    teacher: Float[Tensor, "batch ..."],
    mask: Bool[Tensor, "*tokens"] | None = None,
    *,
    power: float = 4.0,
    eps: float = 1e-4,
) -> Float[Tensor, ""]:
    r"""Compute :math:`\log(\sum_d |c_d - 1|^\alpha + 10^{-5})`, with the correlations of features c.

    :math:`c_d = mean_b \hat s_{bd} \hat t_{bd}`, of features that are averaged over positions and normalized as in
    `log_sum_error`. It does not change if a feature of either side is shifted or multiplied by a positive number (up to
    eps). Equal features give log 1e-5 = -11.5, opposite ones log(d 2^alpha). For an empty batch it is 0.

    Args:
        student: Features of the student, after its head.
        teacher: Features of the teacher.
        mask: The tokens that count, ``[batch, tokens]`` or ``[batch]``; all by default.
        power: alpha, above 0.
        eps: The number that is added to variances.

    Raises:
        LimbeckError: If the numbers of examples or features differ.

    Example:
        >>> x = torch.tensor([[1.0], [-1.0]])
        >>> log_correlation_error(x, 3 * x + 1, eps=0.0), log_correlation_error(x, -x, eps=0.0)
        (tensor(-11.5129), tensor(2.7726))

    Source: Miles and Mikolajczyk, 2023, arXiv:2303.11098, section 3.3 (transformers).
    """
    ours, theirs = _normalize_both(student, teacher, mask, eps)
    if not len(ours):
        return (ours * theirs).sum()
    errors = ((ours * theirs).mean(0) - 1).abs().pow(power).sum()
    return (errors + 1e-5).log()


def pool_positions(features: Tensor, mask: Tensor | None) -> Float[Tensor, "batch features"]:
    """The mean over the pixels of a map, or over the tokens that count."""
    if features.ndim == 3:
        counts = find_token_mask(mask, features.shape[0], features.shape[1], features.device).unsqueeze(-1)
        return features.masked_fill(~counts, 0.0).sum(1) / counts.sum(1).clamp_min(1)
    return features.flatten(2).mean(2) if features.ndim > 3 else features


def _normalize_both(student: Tensor, teacher: Tensor, mask: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    ours, theirs = pool_positions(student, mask), pool_positions(teacher, mask)
    if ours.shape != theirs.shape:
        raise LimbeckError(
            f"The student has {tuple(ours.shape)} features and the teacher {tuple(theirs.shape)}, after the mean over "
            "positions. Use a head such as PooledProjector()."
        )
    return _normalize(ours, eps), _normalize(theirs, eps)


def _normalize(features: Float[Tensor, "batch d"], eps: float) -> Float[Tensor, "batch d"]:
    """BatchNorm in training mode, without running statistics."""
    if not len(features):
        return features
    centered = features - features.mean(0)
    variance = centered.square().mean(0) + eps
    # With eps = 0, a feature that is the same in all examples stays 0.
    return centered * variance.where(variance > 0, 1.0).rsqrt()


class PooledProjector(Head):
    """A linear layer from the student's features to the teacher's number of features; maps are averaged first.

    ``[batch, channels, height, width]`` gives ``[batch, d]``, whatever the size of the teacher's map; tokens ``[batch,
    tokens, width]`` and rows keep their positions.

    Example:
        >>> head = PooledProjector()
        >>> head.shape(torch.zeros(2, 8, 4, 4), torch.zeros(2, 32, 2, 2))
        >>> head(torch.zeros(2, 8, 4, 4)).shape
        torch.Size([2, 32])
    """

    def __init__(self) -> None:
        super().__init__()
        self.map: nn.Linear | None = None

    def shape(self, student: Tensor, teacher: Tensor) -> None:
        """Create the layer, unless it exists already for the same sizes.

        Raises:
            LimbeckError: If the number of dimensions is not 2, 3 or 4, or the layer exists for other sizes.
        """
        if student.ndim not in (2, 3, 4) or teacher.ndim not in (2, 3, 4):
            raise LimbeckError(
                f"A PooledProjector cannot map {tuple(student.shape)} to {tuple(teacher.shape)}: both are [batch, d], "
                "[batch, tokens, d] or [batch, channels, height, width]."
            )
        sizes = (_width(student), _width(teacher))
        if self.map is None:
            wide = torch.float64 if student.dtype == torch.float64 else torch.float32
            self.map = nn.Linear(*sizes, device=student.device, dtype=wide)
        elif sizes != (self.map.in_features, self.map.out_features):
            raise LimbeckError(f"This PooledProjector is already built as {self.map}, not for {sizes}. Make a new one.")

    def forward(self, student: Tensor) -> Tensor:
        """Map the student's features to the teacher's number of features.

        Raises:
            LimbeckError: If `shape` was not called yet.
        """
        if self.map is None:
            raise LimbeckError("This PooledProjector has no parameters yet: call shape(student, teacher) first.")
        pooled = student.flatten(2).mean(2) if student.ndim == 4 else student
        return self.map(pooled.to(self.map.weight.dtype))


def _width(features: Tensor) -> int:
    return features.shape[1 if features.ndim == 4 else -1]


CARD = MethodCard(
    name="srd",
    title="Understanding the Role of the Projector in Knowledge Distillation",
    authors="Miles and Mikolajczyk",
    year=2023,
    arxiv="2303.11098",
    venue="AAAI 2024",
    claim="A linear projector, BatchNorm of the features on both sides, and the logarithm of a sum of high powers of "
    "the errors are enough: no relations between examples, no contrast, no memory.",
    when="A first feature loss: cheap, without settings of layers but the last one before the classifier, and for any "
    "two widths. Take log_sum for networks that are alike, and correlation for those that are not, such as a "
    "transformer that learns from a CNN. Batches should have 32 examples or more, since features are normalized over "
    "the batch.",
    bibtex="""@inproceedings{miles2024understanding,
  title = {Understanding the Role of the Projector in Knowledge Distillation},
  author = {Miles, Roy and Mikolajczyk, Krystian},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  year = {2024},
  eprint = {2303.11098},
  archivePrefix = {arXiv}
}""",
    reads=("logits", "features"),
    example={"at": "features", "student_at": "features"},
    ranges={
        "soft_weight": SearchRange(0.0, 10.0),
        "temperature": SearchRange(1.0, 10.0, log=True),
        "power": SearchRange(1.0, 6.0),
    },
    tasks=("classification", "multi_label", "regression"),
    task_reason="it averages features over positions",
    kernels=(
        KernelClaim(log_sum_error, classes=6, logits=False, largest=1e15),
        KernelClaim(log_sum_error, shape=(5, 6), positions=1, logits=False, largest=1e15),
        KernelClaim(log_correlation_error, classes=6, logits=False, largest=1e15),
        KernelClaim(log_correlation_error, shape=(5, 6), positions=1, logits=False, largest=1e15),
    ),
)

_FORMS = {"log_sum": log_sum_error, "correlation": log_correlation_error}
_WEIGHTS = {"log_sum": 2.0, "correlation": 1.0}


@validates_arguments
def srd(
    teacher: Any,
    *,
    at: str,
    student_at: str,
    form: str = "log_sum",
    weight: float | None = None,
    power: float = 4.0,
    soft_weight: float = 1.0,
    temperature: float = 1.0,
    labels: bool = True,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels, soft targets and features: :math:`-\log q_y + u T^2 KL(p \| q) + w D(BN(W s + b), BN(t))`.

    s and t are the features before the classifiers, averaged over positions, and W a learned linear map that is dropped
    after training. BN normalizes each feature over the batch.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        at: Name of the teacher's layer: the last one before its classifier in the paper.
        student_at: Name of the student's layer.
        form: D: ``log_sum`` is the logarithm of the sum of powers of all errors (`log_sum_error`), for CNNs in the
            paper; ``correlation`` compares the correlation of each feature with 1 (`log_correlation_error`), for
            transformers.
        weight: w, at least 0; by default that of the authors' code, 2 for ``log_sum`` and 1 for ``correlation``.
        power: alpha, above 0; 4 in the authors' code.
        soft_weight: u, at least 0; 1 in the authors' code.
        temperature: T, above 0; 1 in the authors' code.
        labels: Whether to use labels. False drops the label term.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or there is no such form.

    Source: Miles and Mikolajczyk, 2023, arXiv:2303.11098, section 3.
    """
    task = CARD.get_task(task)
    if form not in _FORMS:
        raise unknown_name_error("form", form, _FORMS, argument="form")
    weight = _WEIGHTS[form] if weight is None else weight
    check_weight(weight=weight, soft_weight=soft_weight, power=power)
    check_hyper(temperature=temperature)
    if power == 0:
        raise LimbeckError("power=0 counts the errors that are not 0, which has no gradient. Give a number above 0.")
    terms: list[Objective] = []
    if weight:
        features = Loss(_FORMS[form], student=student_at, teacher=at, head=PooledProjector(), power=power, name=form)
        terms.append(weight * features)
    if soft_weight:
        terms.append(soft_weight * task.distillation_loss(temperature=temperature))
    if labels:
        terms.append(task.supervised_loss())
    objective = add_weighted(terms, weights="weight, soft_weight, and with labels=False the labels,")
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="srd"))
