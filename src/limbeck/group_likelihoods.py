"""What a teacher with another tokenizer says of a student's text: likelihoods of groups of tokens, distributions."""

from __future__ import annotations

from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.errors import LimbeckError, callable_name
from limbeck.functional import cross_entropy
from limbeck.functional.kernel import declaration
from limbeck.functional.output_layer import HiddenLogits, OtherClasses, multiply_out
from limbeck.top_k_logits import Kernel, PartialLogits

_AT_ONCE = 1 << 24
"""Logits of the teacher that are multiplied out at a time."""


@final
class GroupLikelihoods(PartialLogits, OtherClasses):
    """The teacher's log-likelihood of groups of the student's tokens that spell the same bytes as tokens of its own.

    A group stands at the position that predicts the first of its tokens.

    Args:
        labels: The student's next token at each position; any number where there is none.
        lengths: The number of the student's tokens in the group that begins at a position; 0 for none.
        log_likelihood: The teacher's logarithm of the probability of the group's bytes, in nats.
        log_boundary: The teacher's logarithm of the probability that a word ends there: that the token after the group
            begins with white space or is special. Infinite where one of the models predicts no token after the group.
        classes: The number of outputs of the teacher.
        boundary_tokens: The student's tokens that begin with white space, and its special ones; None if not known.
    """

    def __init__(
        self,
        labels: Int[Tensor, "*leading"],
        lengths: Int[Tensor, "*leading"],
        log_likelihood: Float[Tensor, "*leading"],
        log_boundary: Float[Tensor, "*leading"] | None = None,
        *,
        classes: int,
        boundary_tokens: Bool[Tensor, " vocabulary"] | None = None,
    ) -> None:
        self.labels, self.lengths, self.log_likelihood, self.classes = labels, lengths, log_likelihood, classes
        self.log_boundary = torch.full_like(log_likelihood, torch.inf) if log_boundary is None else log_boundary
        self.boundary_tokens = boundary_tokens

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors."""
        return self.labels, self.lengths, self.log_likelihood, self.log_boundary

    def compare(
        self,
        kernel: Kernel,
        student: Float[Tensor, "batch positions classes"],
        *,
        boundary_threshold: float | None = None,
        **hyper: Any,
    ) -> Tensor:
        """Compare the likelihoods of each chunk; the value is at its first position, and 0 at all others.

        Args:
            kernel: A kernel that compares likelihoods.
            student: The student's logits.
            boundary_threshold: Groups that follow each other are joined to a chunk until the teacher's probability that
                a word ends there is above this; both likelihoods of the chunk are then multiplied with the model's own
                probability that a word ends. None compares each group as it is.
            hyper: Hyperparameters of the kernel.

        Raises:
            LimbeckError: If the kernel compares something else, or the positions differ.
        """
        if why := self.invalid_reason(kernel, **hyper):
            raise LimbeckError(why)
        check_same_positions(self.labels, student)
        starts = (self.lengths.flatten() > 0).nonzero()[:, 0]
        ours = self.student_log_likelihood(student, starts)
        theirs = self.log_likelihood.flatten()[starts].to(ours.dtype)
        if boundary_threshold is not None:
            last, chunk = self.join(starts, boundary_threshold)
            count = int(last.sum())
            ours, theirs = (own.new_zeros(count).index_add(0, chunk, own) for own in (ours, theirs))
            own, other = self._boundaries(student, starts[last])
            ours, theirs = ours + own, theirs + other.to(theirs.dtype)
            starts = starts[torch.cat([last.new_ones(1), last[:-1]])[: len(starts)]]
        return place_values(kernel(student=ours, teacher=theirs, **hyper), starts, student)

    def join(
        self, starts: Int[Tensor, " groups"], threshold: float
    ) -> tuple[Bool[Tensor, " groups"], Int[Tensor, " groups"]]:
        """Join groups to chunks: whether each group is the last one of its chunk, and the number of its chunk."""
        boundary = self.log_boundary.flatten()[starts]
        ends = starts + self.lengths.flatten()[starts]
        following = torch.cat([starts[1:], starts.new_full((1,), -1)])[: len(starts)]
        last = (boundary.exp() > threshold) | (ends != following) | boundary.isposinf()
        return last, last.cumsum(0) - last.long()

    def _boundaries(self, student: Tensor, starts: Int[Tensor, " chunks"]) -> tuple[Tensor, Tensor]:
        """The log-probabilities that a word ends behind groups, of student and teacher; 0 where it is not known."""
        if self.boundary_tokens is None:
            raise LimbeckError(
                "Which of the student's tokens begin a word is not known, as the loader's examples have no tokenizer. "
                "Use a TokenDataset, or boundary_threshold=None."
            )
        theirs = self.log_boundary.flatten()[starts]
        known = ~theirs.isposinf()
        ends = (starts + self.lengths.flatten()[starts])[known]
        own = log_boundary_of(student.flatten(0, -2)[ends], self.boundary_tokens)
        ours = torch.zeros_like(theirs, dtype=own.dtype).masked_scatter(known, own)
        return ours, theirs.masked_fill(~known, 0.0)

    def student_log_likelihood(
        self, student: Float[Tensor, "batch positions classes"], starts: Int[Tensor, " groups"]
    ) -> Float[Tensor, " groups"]:
        """The student's log-likelihood of the groups at these positions, by the chain rule."""
        width = student.shape[-2]
        counts = self.lengths.flatten()[starts]
        places, groups = expand_ranges(starts, counts)
        # Behind the end of a row there is nothing: only a group that is masked reaches it.
        row_end = (starts // width * width + width - 1)[groups]
        places = torch.minimum(places, row_end)
        values = cross_entropy(student.flatten(0, -2)[places], labels=self.labels.flatten()[places])
        return -values.new_zeros(len(starts)).index_add(0, groups, values)

    def exchange(self, places: Int[Tensor, "batch positions"]) -> GroupLikelihoods:
        """Keep each text's own groups, and give them the teacher's outputs for other positions, as a control.

        These are the outputs for the batch moved by one text, as `limbeck.ShuffledTeacher` asks for them.

        Args:
            places: For each position, the number of the position whose output it gets, among all of these.
        """
        labels, lengths = self.labels.roll(1, 0), self.lengths.roll(1, 0)
        lengths = lengths.masked_fill(self.lengths.flatten()[places] == 0, 0)
        # Where the text's own group has no token after it, there is none to compare.
        unknown = self.log_boundary.roll(1, 0).isposinf()
        boundary = self.log_boundary.flatten()[places].masked_fill(unknown, torch.inf)
        return self._like(labels, lengths, self.log_likelihood.flatten()[places], boundary)

    @classmethod
    def invalid_reason(cls, kernel: Kernel, **hyper: Any) -> str | None:
        """Return why not: only likelihoods can be compared."""
        wanted = declaration(kernel, "across_tokenizers")
        if wanted == "likelihoods":
            return None
        if wanted == "distributions":
            return (
                f"{callable_name(kernel)} compares distributions, and this cache has likelihoods alone. Use the method "
                "alm, or uld without a cache."
            )
        return other_tokenizer_reason(kernel)

    def _like(self, *tensors: Tensor) -> GroupLikelihoods:
        return GroupLikelihoods(*tensors, classes=self.classes, boundary_tokens=self.boundary_tokens)


@final
class CrossTokenizerLogits(PartialLogits, OtherClasses):
    """`GroupLikelihoods`, and the teacher's logits where it predicts the first token of each group.

    Args:
        likelihoods: The groups and their likelihoods.
        rows: The teacher's logits, one row for each group.
        index: The row of the group that begins at a position; -1 for none.
    """

    def __init__(
        self,
        likelihoods: GroupLikelihoods,
        rows: Float[Tensor, "groups classes"] | HiddenLogits,
        index: Int[Tensor, "*leading"],
    ) -> None:
        self.likelihoods, self.rows, self.index = likelihoods, rows, index
        self.classes = likelihoods.classes

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors but the logits, which are not by position."""
        return self.index, *self.likelihoods.tensors

    def to(self, device: torch.device | str) -> CrossTokenizerLogits:
        """Copy to a device."""
        rows = self.rows if isinstance(self.rows, Tensor) else dense_rows(self.rows)
        return CrossTokenizerLogits(self.likelihoods.to(device), rows.to(device), self.index.to(device))  # type: ignore[arg-type]

    def compare(self, kernel: Kernel, student: Float[Tensor, "*leading classes"], **hyper: Any) -> Tensor:
        """Compare likelihoods, or the distributions of the next token at the first position of each group.

        Raises:
            LimbeckError: If the kernel compares neither, or the positions differ.
        """
        if why := self.invalid_reason(kernel, **hyper):
            raise LimbeckError(why)
        if declaration(kernel, "across_tokenizers") == "likelihoods":
            return self.likelihoods.compare(kernel, student, **hyper)
        check_same_positions(self.index, student)
        places = (self.index.flatten() >= 0).nonzero()[:, 0]
        rows = dense_rows(self.rows[self.index.flatten()[places]])
        values = kernel(student=student.flatten(0, -2)[places], teacher=rows, **hyper)
        return place_values(values, places, student)

    def exchange(self, places: Int[Tensor, "batch positions"]) -> CrossTokenizerLogits:
        """Keep each text's own groups, with the outputs for others; see `GroupLikelihoods.exchange`."""
        likelihoods = self.likelihoods.exchange(places)
        index = self.index.flatten()[places].masked_fill(likelihoods.lengths == 0, -1)
        return CrossTokenizerLogits(likelihoods, self.rows, index)

    @classmethod
    def invalid_reason(cls, kernel: Kernel, **hyper: Any) -> str | None:
        """Return why not: the kernel must be one for other tokenizers."""
        return None if declaration(kernel, "across_tokenizers") is not None else other_tokenizer_reason(kernel)

    def _like(self, *tensors: Tensor) -> CrossTokenizerLogits:
        index, *others = tensors
        return CrossTokenizerLogits(self.likelihoods._like(*others), self.rows, index)


def other_tokenizer_reason(kernel: Kernel) -> str:
    """Why a kernel cannot compare models with different tokenizers."""
    return (
        f"{callable_name(kernel)} compares the probabilities of each token, and the teacher has another tokenizer, so "
        f"that its tokens are others. Use the method alm or uld, which compare texts: --method alm."
    )


def check_same_positions(own: Tensor, student: Tensor) -> None:
    """Check that the student has outputs for the same positions.

    Raises:
        LimbeckError: If it has not.
    """
    if own.shape != student.shape[:-1]:
        raise LimbeckError(
            f"The student's logits have the positions {list(student.shape[:-1])}, and the teacher's outputs belong to "
            f"{list(own.shape)}."
        )


def place_values(values: Tensor, places: Int[Tensor, " n"], student: Tensor) -> Tensor:
    """The values at their positions and 0 elsewhere, always with a graph to the student."""
    zeros = student.narrow(-1, 0, 0).sum(-1).to(values.dtype)
    return zeros.flatten().index_add(0, places, values).view(zeros.shape)


def expand_ranges(first: Int[Tensor, " n"], counts: Int[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """All numbers of ranges, one range after the other, and the number of the range of each."""
    numbers = torch.arange(len(first), device=first.device).repeat_interleave(counts)
    before = counts.cumsum(0) - counts
    inside = torch.arange(len(numbers), device=first.device) - before[numbers]
    return first[numbers] + inside, numbers


def dense_rows(rows: Tensor | HiddenLogits) -> Tensor:
    """Logits that are multiplied out, in float32 or better."""
    logits = multiply_out(rows)
    return logits if logits.dtype == torch.float64 else logits.float()


def compute_log_likelihood(
    logits: Float[Tensor, "rows classes"] | HiddenLogits,
    places: Int[Tensor, " tokens"],
    labels: Int[Tensor, " tokens"],
    groups: Int[Tensor, " tokens"],
    count: int,
) -> Float[Tensor, " groups"]:
    """The log-likelihood of groups of tokens, by the chain rule, with few rows of logits at a time.

    Args:
        logits: One row for each position.
        places: The position that predicts each token.
        labels: The tokens.
        groups: The group of each token.
        count: The number of groups.
    """
    step = max(1, _AT_ONCE // logits.shape[-1])
    total = torch.zeros(count, dtype=torch.float64 if logits.device.type != "mps" else torch.float32)
    total = total.to(logits.device)
    dtype = torch.float32
    for start in range(0, len(places), step):
        part = slice(start, start + step)
        values = cross_entropy(dense_rows(logits[places[part]]), labels=labels[part])
        dtype = values.dtype
        total.index_add_(0, groups[part], -values.to(total.dtype))
    return total.to(dtype)


def log_boundary_of(
    logits: Float[Tensor, "rows classes"], boundary_tokens: Bool[Tensor, " vocabulary"]
) -> Float[Tensor, " rows"]:
    """The log-probability that one of the boundary tokens comes next."""
    others = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
    others[: len(boundary_tokens)] = ~boundary_tokens[: logits.shape[-1]].to(logits.device)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.masked_fill(others, -torch.inf).logsumexp(-1) - logits.logsumexp(-1)


def compute_log_boundary(
    logits: Float[Tensor, "rows classes"] | HiddenLogits,
    places: Int[Tensor, " groups"],
    boundary_tokens: Bool[Tensor, " vocabulary"],
) -> Float[Tensor, " groups"]:
    """`log_boundary_of` for some rows, a few at a time."""
    parts = places.split(max(1, _AT_ONCE // logits.shape[-1]))
    return torch.cat([log_boundary_of(dense_rows(logits[part]), boundary_tokens) for part in parts])
