"""Metrics of language models: sums for each text, computed batch by batch, and the values that they give."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.batch import IGNORED, Batch
from limbeck.errors import DataError, LimbeckError
from limbeck.functional import compute_agreement, compute_overlap
from limbeck.functional.blockwise import AT_ONCE
from limbeck.metrics.metric import Metric, MetricFunction, Needed, mean_of_all, metric, require_fields, valid_rows
from limbeck.metrics.other_tokenizer import OTHER_TOKENIZER, complete_sums, likelihood_rows
from limbeck.metrics.partial_teacher import BOUNDS, ScoredLabels, compare_with_partial, find_lacking, measure_own
from limbeck.top_k_logits import PartialLogits

TOP_K = 10
"""The number of the teacher's most likely tokens in `top_k_mass` and `top_k_overlap`."""
CHUNK = 256
"""The number of tokens whose probabilities are in memory at a time."""
_OWN = ("nll", "token_accuracy", "entropy")
_WITH_TEACHER = (
    "kl_to_teacher", "reverse_kl_to_teacher", "agreement", "acceptance", "top_k_mass", "top_k_overlap",
    "teacher_entropy",
)  # fmt: skip
COLUMNS = ("text", "tokens", "bytes", *_OWN, *_WITH_TEACHER, *BOUNDS)
"""The columns of `TextSums.table`: the number of the text, its counts, and the sum over its tokens of each metric."""


class TextSums(NamedTuple):
    """Sums over the tokens of each text: all that metrics of language models need.

    Attributes:
        table: One row for each text with a token that counts, sorted by its number; the columns are `COLUMNS`. NaN in a
            column that is unknown: the bytes, the sums with a teacher, or some of them with a part of its logits.
    """

    table: Float[Tensor, "texts columns"]

    def sums(self, name: str) -> Float[Tensor, " texts"]:
        """One column of the table."""
        return self.table[:, COLUMNS.index(name)]

    @property
    def labels(self) -> Tensor:
        """The number of tokens that count, in each text."""
        return self.sums("tokens")

    @property
    def teacher(self) -> Tensor | None:
        """The sums of the KL divergence to the teacher, or of what else is known of it; None without a teacher."""
        return next((column for name in (*_WITH_TEACHER, *BOUNDS) if (column := self._known(name)) is not None), None)

    @property
    def bytes(self) -> Tensor | None:
        """The bytes of the tokens that count, in each text; None if they are unknown."""
        return self._known("bytes")

    def knows(self, name: str) -> bool:
        """Whether nothing that a metric sums is unknown."""
        return name not in COLUMNS or self._known(name) is not None

    def _known(self, name: str) -> Tensor | None:
        column = self.sums(name)
        return None if bool(column.isnan().any()) else column


@valid_rows.register
def _(texts: TextSums, name: str, requires: tuple[Needed, ...]) -> TextSums:
    require_fields(texts, name, requires)
    if not texts.knows(name):
        raise LimbeckError(
            f"The metric {name!r} needs all logits of the teacher, or other ones: known are "
            f"{', '.join(one for one in LANGUAGE_METRICS if texts.knows(one))}."
        )
    return texts


@final
class TextSumsState:
    """`TextSums`, added up batch by batch.

    ``extra["text_number"]`` of a batch says to which text a position belongs, so the windows of a long text are joined,
    and texts that share a row are told apart. Without it, a text is an example, known by its id or by its place.

    Only positions count that have a label and are not masked. Memory is one row of `COLUMNS` for each text, and the
    probabilities of `CHUNK` tokens. Sums over the vocabulary are in float32 (float64 for float64 logits), sums over
    tokens in float64.

    Example:
        >>> state = TextSumsState()
        >>> state.update(torch.zeros(1, 2, 4), Batch(torch.zeros(1, 2), labels=torch.tensor([[3, -100]])))
        >>> sums = state.compute()
        >>> int(sums.sums("tokens")), round(float(sums.sums("nll")), 4)
        (1, 1.3863)
    """

    def __init__(self) -> None:
        # the columns but the first, and the number of known tokens
        self._table = torch.zeros(0, len(COLUMNS), dtype=torch.float64)
        self._examples = 0

    def update(self, logits: Any, batch: Batch, teacher: Any = None) -> None:
        """Add the tokens of one batch.

        Args:
            logits: ``[batch, positions, vocabulary]``, or `limbeck.functional.HiddenLogits` of that shape. Of a teacher
                with another tokenizer, the likelihoods: tokens in no group get the mean of the text's others. Of a
                server, `limbeck.metrics.partial_teacher.ScoredLabels`.
            batch: The batch with its labels: the next token of each position.
            teacher: The teacher's logits for the same positions, of either kind. A token that is -inf at every position
                of the batch that counts is one that the teacher lacks (`limbeck.AlignedTeacher`): it is left out of the
                comparison on both sides. Of `PartialLogits`, stored or from a server, the sums that can be known; with
                another tokenizer, none.

        Raises:
            DataError: If the batch has no labels, or the shapes differ.
            LimbeckError: If logits are NaN. The message has the number of the text.
        """
        labels, texts, sizes = positions_that_count(batch, first=self._examples)
        self._examples += batch.size
        _check_shape("logits", logits, labels)
        teacher = None if isinstance(teacher, OTHER_TOKENIZER) else teacher  # its tokens are others
        if teacher is not None:
            _check_shape("teacher's logits", teacher, labels)
            if teacher.shape[-1] != logits.shape[-1]:
                raise LimbeckError(
                    f"The model has {logits.shape[-1]:,} tokens and the teacher {teacher.shape[-1]:,}, so they cannot "
                    "be compared token by token. Both need the same vocabulary in the same order."
                )
        counted = (labels != IGNORED).flatten().nonzero()[:, 0]
        labels, texts, sizes = (part.flatten()[counted] for part in (labels, texts, sizes))
        self._grow(texts)
        if isinstance(logits, OTHER_TOKENIZER):
            self._table.index_add_(0, texts, likelihood_rows(logits, counted, sizes, columns=len(COLUMNS)))
            return
        ours, theirs = _rows_of(logits), None if teacher is None else _rows_of(teacher)
        lacking = find_lacking(theirs, counted, chunk=CHUNK)
        for rows in torch.arange(len(counted)).split(CHUNK) if len(counted) else ():
            at = counted[rows]
            if isinstance(ours, ScoredLabels):  # of the model's own metrics, a server tells some
                values, needed = measure_own(ours.rows(at.to(ours.device)), labels[rows], COLUMNS[3:]), 1
            else:
                teacher_rows, needed = None if theirs is None else _dense(theirs, at), len(_OWN)
                values = _values_by_blocks(_dense(ours, at), labels[rows], teacher_rows, lacking)
            if bool((wrong := values[:, :needed].isnan().any(1)).any()):
                raise LimbeckError(f"The logits of text {int(texts[rows][wrong][0])} are NaN, so it has no likelihood.")
            counts = torch.stack([torch.ones(len(rows), dtype=torch.float64), sizes[rows].double()], 1)
            self._table.index_add_(0, texts[rows], torch.cat([counts, values, counts[:, :1]], 1))

    def _grow(self, texts: Tensor) -> None:
        missing = (int(texts.max()) + 1 if len(texts) else 0) - len(self._table)
        if missing > 0:
            rows = self._table.new_zeros(max(missing, len(self._table)), self._table.shape[1])
            self._table = torch.cat([self._table, rows])

    def compute(self) -> TextSums:
        """Return the sums of all texts so far.

        Raises:
            DataError: If no token counts.
        """
        there = (self._table[:, 0] > 0).nonzero()[:, 0]
        if not len(there):
            raise DataError("There is no token to predict: every label is -100 or masked, or there was no batch.")
        table, at = torch.cat([there[:, None].double(), self._table[there, :-1]], 1), COLUMNS.index("nll")
        table[:, at] = complete_sums(table[:, at], table[:, 1], self._table[there, -1])
        return TextSums(table)


def positions_that_count(batch: Batch, *, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Find the labels of a batch that count, and the text and the bytes of each position, all of the same shape.

    Args:
        batch: The batch.
        first: The number of the first example, for batches without numbers of texts and without ids.

    Returns:
        Labels, -100 where masked; the number of the text of each position; the bytes of the label, NaN if unknown.

    Raises:
        DataError: If the batch has no labels of tokens.
    """
    labels = batch.labels
    if labels is None or labels.ndim != 2:
        got = "none" if labels is None else f"the shape {list(labels.shape)}"
        raise DataError(f"A language model is judged by labels [batch, positions], the next token of each; got {got}.")
    labels = labels.cpu()
    if batch.mask is not None and batch.mask.shape == labels.shape:
        labels = labels.masked_fill(~batch.mask.cpu().bool(), IGNORED)
    texts, sizes = batch.extra.get("text_number"), batch.extra.get("label_bytes")
    if not isinstance(texts, Tensor) or texts.shape != labels.shape:
        number = torch.arange(first, first + len(labels)) if batch.id is None else batch.id.cpu()
        texts = number[:, None].expand_as(labels)
    if not isinstance(sizes, Tensor) or sizes.shape != labels.shape:
        sizes = torch.full(labels.shape, math.nan)
    return labels.long(), texts.cpu().long(), sizes.cpu()


def _check_shape(name: str, logits: Any, labels: Tensor) -> None:
    if tuple(logits.shape[:-1]) != tuple(labels.shape):
        raise DataError(
            f"The {name} have the shape {list(logits.shape)}, and the labels {list(labels.shape)}: a language model "
            "has logits [batch, positions, vocabulary]."
        )


def _rows_of(logits: Any) -> Any:
    """Logits, or `HiddenLogits`, with one row for each position."""
    return logits.detach().flatten(0, -2) if isinstance(logits, Tensor) else logits.reshape(-1)


def _dense(logits: Any, rows: Int[Tensor, " rows"]) -> Any:
    part = logits[rows.to(logits.device)]
    if isinstance(part, PartialLogits):
        return part
    part = part if isinstance(part, Tensor) else part.to_dense()
    return part.detach() if part.dtype == torch.float64 else part.detach().float()


def _values_by_blocks(
    logits: Float[Tensor, "rows vocabulary"],
    labels: Int[Tensor, " rows"],
    teacher: Float[Tensor, "rows vocabulary"] | PartialLogits | None,
    lacking: Bool[Tensor, " vocabulary"] | None,
) -> Float[Tensor, "rows metrics"]:
    """`_token_values`, on a CPU of a few rows at a time, so that all intermediate results stay in its caches."""
    size = max(1, AT_ONCE // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    parts = [
        _token_values(logits[at], labels[at], None if teacher is None else teacher[at], lacking)
        for at in (slice(start, start + size) for start in range(0, len(logits), size))
    ]
    return torch.cat(parts)


def _token_values(
    logits: Float[Tensor, "rows vocabulary"],
    labels: Int[Tensor, " rows"],
    teacher: Float[Tensor, "rows vocabulary"] | PartialLogits | None,
    lacking: Bool[Tensor, " vocabulary"] | None,
) -> Float[Tensor, "rows metrics"]:
    """The value of each metric in `_OWN`, `_WITH_TEACHER` and `BOUNDS` for each token, in float64 on the CPU."""
    log_q, labels = logits.log_softmax(1), labels.to(logits.device)
    is_top = logits.argmax(1) == labels
    own = [-log_q.gather(1, labels[:, None])[:, 0], is_top.to(logits.dtype), _entropy(log_q)]
    theirs: dict[str, Tensor] = {}
    if isinstance(teacher, PartialLogits):
        theirs = compare_with_partial(logits, teacher.to(logits.device), top_k=TOP_K)
    elif teacher is not None:
        shared = logits if lacking is None else logits.masked_fill(lacking.to(logits.device), -torch.inf)
        values = _compare(shared.log_softmax(1), teacher.to(logits.device, logits.dtype).log_softmax(1))
        theirs = dict(zip(_WITH_TEACHER, values, strict=True))
        theirs |= {name: theirs[exact] for name, exact in BOUNDS.items()}
    unknown = torch.full_like(own[0], math.nan)
    rest = [theirs.get(name, unknown).to(own[0].dtype) for name in (*_WITH_TEACHER, *BOUNDS)]
    return torch.stack([*own, *rest], 1).double().cpu()


def _compare(log_q: Tensor, log_p: Tensor) -> list[Tensor]:
    """The columns `_WITH_TEACHER`, from the logarithms of the student's q and the teacher's p."""
    p, q = log_p.exp(), log_q.exp()
    best = log_p.topk(min(TOP_K, p.shape[1]), dim=1).indices
    return [
        _divergence(p, log_p, log_q), _divergence(q, log_q, log_p), compute_agreement(log_q, log_p),
        torch.minimum(p, q).sum(1), q.gather(1, best).sum(1), compute_overlap(log_q, best), _entropy(log_p),
    ]  # fmt: skip


def _divergence(p: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    # A token that is impossible for the first distribution adds nothing, even if it is impossible for both.
    terms = torch.where(p > 0, p * (log_p - log_q), 0.0)
    # Rounding can make the sum of terms of both signs slightly negative; the divergence never is.
    return terms.sum(1).clamp_min(0.0)


def _entropy(log_q: Tensor) -> Tensor:
    return torch.special.entr(log_q.exp()).sum(1)


def _mean(texts: TextSums, name: str) -> Metric:
    return Metric(float(texts.sums(name).sum()), int(texts.labels.sum()))


@metric(unit="nats per token", higher_is_better=False, requires=("labels",))
def nll(texts: TextSums) -> Metric:
    """Compute the mean negative log-likelihood of the tokens that count: ``-log q(next token)``.

    It depends on the tokenizer: models with other tokens are compared by `bits_per_byte`.
    """
    return _mean(texts, "nll")


@metric(unit="", higher_is_better=False, requires=("labels",))
def perplexity(texts: TextSums) -> Metric:
    """Compute the exponential of `nll`: 1 for certainty, the size of the vocabulary for uniform guesses."""
    value = nll(texts).value
    return mean_of_all(math.exp(value) if value < 700 else math.inf, int(texts.labels.sum()))


@metric(unit="bits", higher_is_better=False, requires=("labels", "bytes"))
def bits_per_byte(texts: TextSums) -> Metric:
    """Compute the sum of ``-log2 q`` over tokens, divided by the number of bytes of their text in UTF-8.

    It does not depend on the tokenizer. The end token has a likelihood and no bytes.
    """
    size = int(cast(Tensor, texts.bytes).sum())
    return Metric(float(texts.sums("nll").sum()) / math.log(2), size)


@metric(unit="fraction", higher_is_better=True, requires=("labels",))
def token_accuracy(texts: TextSums) -> Metric:
    """Compute how often the next token is the most likely one."""
    return _mean(texts, "token_accuracy")


@metric(unit="nats per token", higher_is_better=None, requires=("labels",))
def entropy(texts: TextSums) -> Metric:
    """Compute the mean entropy of the student's distribution. It shows whether a student became sharper or flatter."""
    return _mean(texts, "entropy")


@metric(unit="nats per token", higher_is_better=False, requires=("labels", "teacher"))
def kl_to_teacher(texts: TextSums) -> Metric:
    """Compute ``KL(p || q)`` of the student's q from the teacher's p, at temperature 1."""
    return _mean(texts, "kl_to_teacher")


@metric(unit="nats per token", higher_is_better=False, requires=("labels", "teacher"))
def reverse_kl_to_teacher(texts: TextSums) -> Metric:
    """Compute ``KL(q || p)`` of the teacher's p from the student's q, at temperature 1."""
    return _mean(texts, "reverse_kl_to_teacher")


@metric(unit="fraction", higher_is_better=True, requires=("labels", "teacher"))
def agreement(texts: TextSums) -> Metric:
    """Compute how often student and teacher have the same most likely token."""
    return _mean(texts, "agreement")


@metric(unit="fraction", higher_is_better=True, requires=("labels", "teacher"))
def acceptance(texts: TextSums) -> Metric:
    r"""Compute the expected acceptance rate of the student as a draft model, :math:`\sum_c \min(p_c, q_c)`.

    It is 1 minus the total variation, at the positions of the given text. Speculative sampling accepts this share of
    tokens if it starts from there; `limbeck.metrics.sample_speculatively` measures it on the models' own text.

    Source: Leviathan, Kalman and Matias, Fast Inference from Transformers via Speculative Decoding, 2022,
    arXiv:2211.17192, corollary 3.6.
    """
    return _mean(texts, "acceptance")


@metric(unit="probability", higher_is_better=None, requires=("labels", "teacher"))
def top_k_mass(texts: TextSums) -> Metric:
    """Compute the student's probability of the teacher's 10 most likely tokens."""
    return _mean(texts, "top_k_mass")


@metric(unit="fraction", higher_is_better=True, requires=("labels", "teacher"))
def top_k_overlap(texts: TextSums) -> Metric:
    """Compute the share of the teacher's 10 most likely tokens that are among the student's 10 most likely."""
    return _mean(texts, "top_k_overlap")


@metric(unit="nats per token", higher_is_better=None, requires=("labels", "teacher"))
def teacher_entropy(texts: TextSums) -> Metric:
    """Compute the mean entropy of the teacher's distribution: the smallest cross-entropy to it that is possible."""
    return _mean(texts, "teacher_entropy")


@metric(unit="nats per token", higher_is_better=False, requires=("labels", "teacher"))
def kl_at_least(texts: TextSums) -> Metric:
    """Compute a lower bound of `kl_to_teacher` where not all logits are known: all tokens without one count as one."""
    return _mean(texts, "kl_at_least")


@metric(unit="nats per token", higher_is_better=False, requires=("labels", "teacher"))
def reverse_kl_at_least(texts: TextSums) -> Metric:
    """Compute a lower bound of `reverse_kl_to_teacher`: all tokens that a teacher does not list count as one."""
    return _mean(texts, "reverse_kl_at_least")


@metric(unit="fraction", higher_is_better=True, requires=("labels", "teacher"))
def acceptance_at_most(texts: TextSums) -> Metric:
    """Compute an upper bound of `acceptance`: all tokens that a teacher does not list count as one."""
    return _mean(texts, "acceptance_at_most")


LANGUAGE_METRICS: dict[str, MetricFunction] = {
    function.__name__: function
    for function in (
        nll, perplexity, bits_per_byte, token_accuracy, entropy, kl_to_teacher, reverse_kl_to_teacher, agreement,
        acceptance, top_k_mass, top_k_overlap, teacher_entropy, kl_at_least, reverse_kl_at_least, acceptance_at_most,
    )
}  # fmt: skip
"""All metrics of language models by name."""
