"""Contrastive losses: an example's pair is told from pairs of different examples, in the batch or from memories."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.batch import IGNORED, Batch, Outputs, Progress, Requirements, Term
from limbeck.functional import check_hyper, kernel
from limbeck.functional.relations import flatten_channels, normalize_rows, off_diagonal
from limbeck.losses import LossContext, LossTerm, RowIndex, all_gather, all_reduce_sum
from limbeck.random_seeds import counter_uniform, draw_seed


def contrast(
    positive: Float[Tensor, " batch"],
    negative: Float[Tensor, "batch others"],
    counts: Bool[Tensor, "batch others"],
    log_noise: float,
) -> Float[Tensor, " batch"]:
    r"""Compute :math:`-\log h(s^+) - \sum_j \log(1 - h(s_j))` with :math:`h(s) = e^s / (e^s + N c)`, one per example.

    Args:
        positive: The score s of the pair of one example.
        negative: The scores of pairs of different examples.
        counts: Which of them count; N is their number.
        log_noise: :math:`\log c`.

    Example:
        >>> contrast(torch.zeros(1), torch.zeros(1, 2), torch.tensor([[True, False]]), 0.0)
        tensor([1.3863])

    Source: Tian, Krishnan and Isola, 2019, arXiv:1910.10699, equations 10 and 19.
    """
    # Without a negative the noise is 0, and h = 1: no loss.
    noise = counts.sum(1).to(positive.dtype).log() + log_noise
    others = -F.logsigmoid(noise.clamp_min(-1e4).unsqueeze(1) - negative)
    return -F.logsigmoid(positive - noise) + others.where(counts, 0.0).sum(1)


def log_mean_score(width: int, temperature: float) -> float:
    r"""Compute :math:`\log E[e^{u \cdot v / \tau}]` for random vectors u, v of length 1.

    It is :math:`\log {}_0F_1(; d / 2; 1 / (4 \tau^2))`. The authors' code estimates it from its first batch.

    Example:
        >>> round(log_mean_score(128, 0.07), 3)
        0.792
    """
    power = torch.arange(4000, dtype=torch.float64)
    half = torch.tensor(width / 2, dtype=torch.float64)
    terms = -2 * power * math.log(2 * temperature) - torch.lgamma(power + 1)
    return float(torch.logsumexp(terms - torch.lgamma(half + power) + torch.lgamma(half), 0))


@kernel(per="batch")
def in_batch_contrast(
    student: Float[Tensor, "batch features"],
    teacher: Float[Tensor, "batch features"],
    labels: Int[Tensor, " batch"] | None = None,
    *,
    temperature: float = 0.07,
    normalize: bool = True,
) -> Float[Tensor, ""]:
    r"""Compute the contrastive loss of a batch's embeddings, with the other examples as negatives, the mean in nats.

    :math:`\frac1b \sum_i [-\log h_{ii} - \sum_{j \in N_i} \log(1 - h_{ij})]` with
    :math:`h_{ij} = e^{s_{ij}} / (e^{s_{ij}} + |N_i| c)` and :math:`s_{ij} = \cos(z_i, t_j) / \tau`. :math:`N_i` has the
    other examples, or with labels those of other classes. :math:`c = E[e^{u \cdot v / \tau}]` over random directions,
    or with ``normalize=False`` :math:`1 / b`, as the paper prints it.

    Args:
        student: Embeddings of the student.
        teacher: Embeddings of the teacher, of the same width.
        labels: The class of each example; -100 for none, which differs from all classes.
        temperature: :math:`\tau`, above 0.
        normalize: Whether c is the mean score.

    Raises:
        ArgumentError: If `temperature` is not above 0.

    Example:
        >>> aligned, other = torch.eye(4), torch.eye(4).flip(0)
        >>> bool(in_batch_contrast(aligned, aligned) < in_batch_contrast(aligned, other))
        True

    Source: Tian, Krishnan and Isola, 2019, arXiv:1910.10699, section 3.
    """
    check_hyper(temperature=temperature)
    if len(student) == 0:
        return student.sum() * 0.0
    scores = normalize_rows(student) @ normalize_rows(teacher).T / temperature
    counts = off_diagonal(len(scores), scores.device)
    if labels is not None:
        counts = counts & ~_same_class(labels, labels)
    log_noise = log_mean_score(student.shape[1], temperature) if normalize else -math.log(len(scores))
    return contrast(scores.diagonal(), scores, counts, log_noise).mean()


def _same_class(labels: Tensor, others: Tensor) -> Tensor:
    return (labels.unsqueeze(1) == others) & (labels != IGNORED).unsqueeze(1)


class Contrast(LossTerm):
    """The part that both forms share: an embedding of each side, a linear map and division by the length.

    Args:
        student_at: Address in the student.
        at: Address in the teacher.
        size: The width of the embeddings.
        temperature: The temperature of scores.
        normalize: Whether scores are compared with their mean over random directions.
    """

    student_projection: nn.Linear
    teacher_projection: nn.Linear

    def __init__(self, student_at: str, at: str, *, size: int, temperature: float, normalize: bool) -> None:
        super().__init__()
        self.student_at, self.at, self.size = student_at, at, size
        self.temperature, self.normalize = temperature, normalize

    def setup(self, context: LossContext) -> Contrast:
        """A copy with the linear maps of this stage."""
        fitted = copy.copy(self)
        ours, theirs = (
            _pool(context.student[self.student_at], context.batch),
            _pool(context.teacher[self.at], context.batch),
        )
        fitted.student_projection = nn.Linear(ours.shape[1], self.size, dtype=ours.dtype, device=ours.device)
        fitted.teacher_projection = nn.Linear(theirs.shape[1], self.size, dtype=theirs.dtype, device=theirs.device)
        return fitted

    def embed(self, student: Outputs, teacher: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
        """The embeddings of the examples that count, of the student and of the teacher."""
        ours, theirs = _pool(student[self.student_at], batch), _pool(teacher[self.at], batch)
        return _unit(self.student_projection(ours[batch.valid])), _unit(self.teacher_projection(theirs[batch.valid]))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.student_at!r}, {self.at!r}, size={self.size}, "
            f"temperature={self.temperature}, normalize={self.normalize}{self.describe_rest()})"
        )

    def describe_rest(self) -> str:
        """The settings of one form alone."""
        return ""


def _pool(features: Tensor, batch: Batch) -> Float[Tensor, "batch channels"]:
    """The mean over positions, in float32 at least; tokens that do not count are left out."""
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    mask = batch.mask
    if mask is None or mask.ndim != 2 or mask.shape != features.shape[:-1]:
        return flatten_channels(wide, scale=False).mean(2)
    return flatten_channels(wide, mask, scale=False).sum(2) / mask.sum(1, keepdim=True).clamp_min(1)


def _unit(embedding: Tensor) -> Tensor:
    return normalize_rows(embedding.to(torch.promote_types(embedding.dtype, torch.float32)))


def _classes(batch: Batch) -> Int[Tensor, " counted"]:
    """The class of each example that counts; -100 if the batch has none."""
    if batch.labels is None or batch.labels.ndim != 1 or batch.labels.is_floating_point():
        return torch.full((int(batch.valid.sum()),), IGNORED, device=batch.valid.device)
    return batch.labels[batch.valid]


class InBatchContrast(Contrast):
    """The mean of `in_batch_contrast` over the examples of all ranks: no memory, and no ids."""

    name, per = "in_batch_contrast", "batch"

    @property
    def requires(self) -> Requirements:
        """The features of both models."""
        return Requirements(frozenset({self.student_at}), frozenset({self.at}), frozenset())

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The loss of the whole batch."""
        ours, theirs = (all_gather(embedding) for embedding in self.embed(student, teacher, batch))
        value = in_batch_contrast(
            ours, theirs, all_gather(_classes(batch)), temperature=self.temperature, normalize=self.normalize
        )
        return Term(value, self.count(batch))

    def count(self, batch: Batch) -> float:
        """1, unless no example counts."""
        return min(all_reduce_sum(float(batch.valid.sum())), 1.0)


class ContrastiveMemory(Contrast):
    """The sum of `contrast` over both directions, with negatives from memories of the embeddings of all examples.

    The memories have a row for each example of the data, found by its id. They begin as random directions. After a step
    the rows of its examples, of all ranks, move towards their new embeddings. They are part of every checkpoint.

    Args:
        negatives: The number of rows that are drawn for each step. With as many rows as examples, all are negatives.
        momentum: The share of the old embedding that a row keeps.
        **options: The arguments of `Contrast`.
    """

    name, per = "contrastive_memory", "example"
    rows: RowIndex
    seed: Tensor
    student_memory: Tensor
    teacher_memory: Tensor
    classes_of_rows: Tensor

    def __init__(self, student_at: str, at: str, *, negatives: int, momentum: float, **options: Any) -> None:
        super().__init__(student_at, at, **options)
        self.negatives, self.momentum = negatives, momentum

    @property
    def requires(self) -> Requirements:
        """The features of both models, and ids."""
        return Requirements(frozenset({self.student_at}), frozenset({self.at}), frozenset({"id"}))

    def setup(self, context: LossContext) -> ContrastiveMemory:
        """A copy with linear maps and memories.

        Raises:
            LimbeckError: If the loader does not know the ids of all examples.
        """
        rows = RowIndex(context.ids)
        fitted = super().setup(context)
        assert isinstance(fitted, ContrastiveMemory)  # for the type checker: setup() copies self
        fitted.rows = rows.to(fitted.student_projection.weight.device)
        fitted.register_buffer("seed", draw_seed().to(fitted.student_projection.weight.device))
        draw = torch.Generator().manual_seed(int(fitted.seed))
        for name in ("student_memory", "teacher_memory"):
            start = normalize_rows(
                torch.randn(len(rows), self.size, generator=draw, dtype=fitted.student_projection.weight.dtype)
            )
            fitted.register_buffer(name, start.to(fitted.student_projection.weight.device))
        classes = torch.full((len(rows),), IGNORED, device=fitted.student_projection.weight.device)
        fitted.register_buffer("classes_of_rows", classes)
        return fitted

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The sum over the examples that count."""
        ours, theirs = self.embed(student, teacher, batch)
        others, positive = self._draw(progress.step), (ours * theirs).sum(1) / self.temperature
        rows = self.rows(batch.id)[batch.valid]
        counts = rows.unsqueeze(1) != others
        counts &= ~_same_class(_classes(batch), self.classes_of_rows[others])
        log_noise = log_mean_score(self.size, self.temperature) if self.normalize else -math.log(len(self.rows))
        directions = ((ours, self.teacher_memory), (theirs, self.student_memory))
        values = [
            contrast(positive, mine @ memory[others].T / self.temperature, counts, log_noise)
            for mine, memory in directions
        ]
        return Term(torch.stack(values).sum(), self.count(batch))

    def count(self, batch: Batch) -> float:
        """The number of examples that count."""
        return float(batch.valid.sum())

    @torch.no_grad()
    def after_step(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> None:
        """Move the rows of the examples of the step."""
        rows = self.rows(all_gather(batch.id[batch.valid])) if batch.id is not None else self.rows(None)
        embeddings = (all_gather(embedding) for embedding in self.embed(student, teacher, batch))
        for memory, new in zip((self.student_memory, self.teacher_memory), embeddings, strict=True):
            memory[rows] = normalize_rows(self.momentum * memory[rows] + (1 - self.momentum) * new.to(memory))
        self.classes_of_rows[rows] = all_gather(_classes(batch)).to(self.classes_of_rows)

    def describe_rest(self) -> str:
        """The settings of the memories."""
        return f", negatives={self.negatives}, momentum={self.momentum}"

    def _draw(self, step: int) -> Int[Tensor, " drawn"]:
        """The rows of the negatives of a step: the same for all its parts and ranks, and for a resumed run."""
        device, size = self.student_memory.device, len(self.rows)
        if self.negatives >= size:
            return torch.arange(size, device=device)
        zero = torch.zeros(1, dtype=torch.int64)
        shares = counter_uniform(zero, zero + step, seed=int(self.seed), draws=self.negatives, stream="crd")[0]
        return (shares.double() * size).long().to(device)
