"""`SelectiveLoss`: a loss at the positions of each text where the current student is least sure (SE-KD)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, cast, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.batch import LOGITS, Batch, Outputs, Progress, Requirements, Term
from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.functional import compute_entropy, cross_entropy, fused_linear_losses
from limbeck.functional.fused_linear import RowLoss, TokenRows
from limbeck.functional.row_figures import check_positive_share, count_share, select_largest
from limbeck.losses.loss import Loss
from limbeck.losses.objective import LossContext, LossTerm
from limbeck.losses.row_loss import RowTerm


def _compute_nll(student: Float[Tensor, "*leading classes"], rows: TokenRows) -> Float[Tensor, "*leading"]:
    return cross_entropy(student, labels=cast(Tensor, rows.labels))


_ROW_SCORES: Mapping[str, RowLoss | None] = {
    "entropy": lambda student, rows: compute_entropy(student),
    "nll": _compute_nll,
    "loss": None,  # the loss itself
}


@final
class SelectiveLoss(LossTerm):
    r"""A loss of logits at the share of the positions of each text with the largest scores; the others count nothing.

    The positions are selected at each step, by the student of this step. Of a text with n positions that count,
    :math:`\lceil share \cdot n \rceil` are selected, so the number is known before the forward pass, and gradients do
    not depend on how a batch is split. Texts that are packed into one row are selected from apart. The scores have no
    gradient.

    With logits that are not multiplied out, the scores of all positions cost one product with the output layer, and the
    loss is computed at the selected positions alone: of an expensive teacher layer only these. Beside another loss that
    reads all positions, it is computed at all of them. `limbeck.data.select_positions` selects once, before training,
    so that a cache has only the outputs for these positions.

    Args:
        loss: A loss that compares logits position by position, such as ``Loss(kl_divergence)``.
        share: The share of the positions of each text, above 0 and at most 1.
        score: ``"entropy"`` of the student's distribution; ``"nll"`` of the next token; ``"loss"``, the value of the
            loss itself, which is large where the student disagrees with the teacher.

    Raises:
        LimbeckError: If the loss reads something else than logits, or has no value for each position.
        ArgumentError: If `share` is out of range.
        UnknownNameError: If there is no such score.

    Example:
        >>> from limbeck.functional import kl_divergence
        >>> loss = SelectiveLoss(Loss(kl_divergence), share=0.5)
        >>> student = torch.tensor([[[9.0, 0.0], [0.0, 0.0]]])  # the second position is uncertain
        >>> batch = Batch(torch.zeros(1, 2))
        >>> loss.term(Outputs(logits=student), Outputs(logits=torch.zeros(1, 2, 2)), batch, Progress())[:2]
        (tensor(0.), 1.0)

    Source: Tavor et al., Rethinking Selective Knowledge Distillation, 2026, arXiv:2602.01395 (the entropy of the
    student, and a share of 0.2).
    """

    def __init__(self, loss: Loss, *, share: float = 0.2, score: str = "entropy") -> None:
        super().__init__()
        if not loss.compares_logits or loss.per != "position":
            raise LimbeckError(
                f"SelectiveLoss selects positions of logits, and {loss!r} has no value for each of them. Use a "
                "divergence, such as SelectiveLoss(Loss(kl_divergence))."
            )
        check_positive_share(share)
        if score not in _ROW_SCORES:
            raise unknown_name_error("score of positions", score, _ROW_SCORES, argument="score")
        if score == "nll" and loss.classes != -1:
            raise ArgumentError('score="nll" needs the classes in the last dimension; use "entropy".', argument="score")
        self.loss, self.share, self.score = loss, share, score
        self.name, self.per = loss.name, loss.per
        self.own_temperatures, self.classes, self.where = loss.own_temperatures, loss.classes, loss.where
        self._positions: torch.Size | None = None

    @property
    def requires(self) -> Requirements:
        """The outputs and columns of the loss; the labels too, if positions are selected by them."""
        labels = frozenset({"labels"}) if self.score == "nll" else frozenset[str]()
        return self.loss.requires | Requirements(batch=labels)

    def setup(self, context: LossContext) -> SelectiveLoss:
        """Return a copy for the shapes of this stage."""
        fitted = copy.copy(self)
        fitted.loss = self.loss.setup(context)
        shape = list(context.student.raw(LOGITS).shape)
        del shape[self.classes]
        fitted._positions = torch.Size(shape[1:])
        return fitted

    def count(self, batch: Batch) -> float:
        """Count the selected positions, before the forward pass."""
        valid = self._find_valid(batch, self._positions)
        if valid is None:
            return self.loss.count(batch)
        return float(count_share(_number_groups(batch, valid)[valid].unique(return_counts=True)[1], self.share).sum())

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """Compute the loss at the selected positions."""
        logits = student[LOGITS].detach().movedim(self.classes, -1)
        valid = self._find_valid(batch, logits.shape[1:-1])
        if valid is None:
            return self.loss.term(student, teacher, batch, progress)
        with torch.no_grad():
            scores = self._score_dense(logits, teacher, batch, progress)
        return self.loss.term(student, teacher, self._select(batch, valid, scores[valid]), progress)

    def takes_rows(self, classes: int, device: torch.device) -> bool:
        """Whether the loss does."""
        return self.loss.takes_rows(classes, device)

    def row_term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> RowTerm | None:
        """The loss for the selected rows; None if its rows cannot be computed apart."""
        logits = student.hidden.get(LOGITS)
        if logits is None:
            return None
        valid = self._find_valid(batch, logits.shape[1:-1])
        whole = self.loss.row_term(student, teacher, batch, progress)
        if valid is None or whole is None:
            return whole
        row_score, reads = _ROW_SCORES[self.score] or whole.loss, self.score == "loss"
        labels = batch.labels if self.score == "nll" else whole.labels
        with torch.no_grad():
            scores = fused_linear_losses(
                logits.hidden.detach(), logits.layer, {"score": row_score}, teacher=whole.teacher if reads else None,
                labels=labels, keep=valid,
            )["score"].values  # fmt: skip
        return self.loss.row_term(student, teacher, self._select(batch, valid, scores), progress)

    def _find_valid(self, batch: Batch, positions: torch.Size | None) -> Bool[Tensor, "*leading"] | None:
        """Which positions count; None for outputs without positions, of which nothing is selected."""
        valid = self.loss.find_valid(batch)
        if valid is None and positions:
            device = batch.labels.device if batch.labels is not None else None
            return torch.ones(batch.size, *positions, dtype=torch.bool, device=device)
        return None if valid is None or valid.ndim < 2 else valid

    def _score_dense(
        self, logits: Float[Tensor, "*leading classes"], teacher: Outputs, batch: Batch, progress: Progress
    ) -> Float[Tensor, "*leading"]:
        row_score: Callable[..., Tensor] | None = _ROW_SCORES[self.score]
        if row_score is not None:
            return row_score(logits, TokenRows(None, batch.labels))
        return self.loss.compute_values(Outputs(logits=logits.movedim(-1, self.classes)), teacher, batch, progress)

    def _select(self, batch: Batch, valid: Bool[Tensor, "*leading"], scores: Float[Tensor, " rows"]) -> Batch:
        """The batch in whose mask only the selected positions are true."""
        valid = valid.to(scores.device)
        groups = _number_groups(batch, valid)[valid]
        chosen = valid.clone()
        chosen[valid] = select_largest(scores, groups, share=self.share)
        if self.where is None:
            return batch._replace(mask=chosen)
        masks = {**batch.extra["masks"], self.where: chosen}
        return batch._replace(extra={**batch.extra, "masks": masks})

    def __repr__(self) -> str:
        return f"SelectiveLoss({self.loss!r}, share={self.share!r}, score={self.score!r})"


def _number_groups(batch: Batch, valid: Bool[Tensor, "*leading"]) -> Int[Tensor, "*leading"]:
    """The number of the text of each position: its row, or one of the texts that are packed into it."""
    size = len(valid)
    rows = torch.arange(size, device=valid.device).reshape(size, *[1] * (valid.ndim - 1)).expand(valid.shape)
    texts: Any = batch.extra.get("text_number")
    if not isinstance(texts, Tensor) or texts.shape != valid.shape:
        return rows
    texts = texts.to(valid.device)
    texts = texts - texts.amin()
    return rows * (texts.amax() + 1) + texts
