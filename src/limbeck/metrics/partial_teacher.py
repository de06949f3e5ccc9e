"""What can be known of a student's distance to a teacher of which only some logits are there, token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.functional import coarse_logits, compute_overlap, kl_divergence, reverse_kl, total_variation
from limbeck.teachers.aligned import AlignedLogits, select_columns
from limbeck.top_k_logits import PartialLogits, SampledLogits, TopKLogits


class ScoredLabels(NamedTuple):
    """What a server tells about its model: the log-probability of each label, and the most likely tokens.

    Attributes:
        log_probs: The log-probability of each label; NaN where it was not scored.
        logits: The listed tokens.
    """

    log_probs: Float[Tensor, "*leading"]
    logits: PartialLogits

    @property
    def shape(self) -> torch.Size:
        """Shape of the logits of all classes."""
        return self.logits.shape

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.log_probs.device

    def reshape(self, *leading: int) -> ScoredLabels:
        """Change the leading dimensions."""
        return ScoredLabels(self.log_probs.reshape(*leading), self.logits.reshape(*leading))

    def rows(self, index: Tensor) -> ScoredLabels:
        """Some of the rows."""
        return ScoredLabels(self.log_probs[index], self.logits[index])


BOUNDS = {
    "kl_at_least": "kl_to_teacher", "reverse_kl_at_least": "reverse_kl_to_teacher", "acceptance_at_most": "acceptance",
}  # fmt: skip
"""The names of bounds, with the metric that each bounds."""


def compare_with_partial(
    student: Float[Tensor, "rows classes"], teacher: PartialLogits, *, top_k: int
) -> dict[str, Float[Tensor, " rows"]]:
    """Compute what top-k or sampled logits of a teacher tell about a student, at temperature 1.

    Of the k most likely classes and the rest as one class: bounds of both KL divergences and of the acceptance (merging
    classes never increases a divergence), and exact values of what reads the most likely classes alone. Of sampled
    classes: an estimate of the KL divergence without bias, and the exact entropy of the teacher; nothing if the student
    lacks some of its classes, because then the mass of the others is not known.

    Args:
        student: The student's logits.
        teacher: The teacher's, in the student's vocabulary or aligned with it.
        top_k: The number of most likely classes in ``top_k_mass`` and ``top_k_overlap``.

    Returns:
        Values by the names of `limbeck.metrics.LANGUAGE_METRICS`; NaN in a row where they are not known.

    Raises:
        LimbeckError: If nothing can be known without the student's hidden states.

    Example:
        >>> from limbeck.cache.encodings import make_encoding
        >>> encoding, zero = make_encoding("top-k", classes=4, k=2), torch.zeros(1, dtype=torch.int64)
        >>> top = encoding.decode(
        ...     encoding.encode(torch.tensor([[3.0, 0.0, 2.0, 1.0]]), id=zero, view=zero, position=zero)
        ... )
        >>> values = compare_with_partial(torch.tensor([[3.0, 1.0, 2.0, 0.0]]), top, top_k=2)
        >>> {name: round(float(value), 3) for name, value in values.items() if name != "reverse_kl_at_least"}
        {'kl_at_least': 0.0, 'acceptance_at_most': 1.0, 'agreement': 1.0, 'top_k_mass': 0.881, 'top_k_overlap': 1.0}

    Source: Csiszár, Information-type measures of difference of probability distributions, 1967 (merging classes).
    """
    lacks = False
    if isinstance(teacher, AlignedLogits) and isinstance(teacher.logits, PartialLogits):
        student, teacher = select_columns(student, teacher.columns), teacher.logits
        if lacks := teacher.classes > student.shape[-1]:  # all that the student does not know is one class more
            student = torch.nn.functional.pad(student, (0, 1), value=-math.inf)
    if isinstance(teacher, TopKLogits):
        return {**_bound(student, teacher), **_compare_most_likely(student, teacher, top_k)}
    if isinstance(teacher, SampledLogits) and lacks:
        return {}
    if isinstance(teacher, SampledLogits):
        estimate = teacher.compare(kl_divergence, student, temperature=1.0)
        return {"kl_to_teacher": estimate, "teacher_entropy": teacher.entropy()}
    raise LimbeckError(
        f"A student is not compared with {type(teacher).__name__}, which say something only beside its hidden states. "
        "Give the teacher itself, or stored logits."
    )


def _bound(student: Tensor, teacher: TopKLogits) -> dict[str, Tensor]:
    q, p = coarse_logits(student, teacher.ids), teacher.coarse().to(student.dtype)
    return {
        "kl_at_least": kl_divergence(q, p),
        "reverse_kl_at_least": reverse_kl(q, p),
        "acceptance_at_most": 1.0 - total_variation(q, p),
    }


def _compare_most_likely(student: Tensor, teacher: TopKLogits, top_k: int) -> dict[str, Tensor]:
    count = min(top_k, student.shape[-1])
    depths, places = teacher.depths.topk(min(count, teacher.ids.shape[-1]), -1)
    best = teacher.ids.gather(-1, places)
    # Classes that the student lacks have no depth, so fewer of the shared ones are known.
    known = (depths > -math.inf).sum(-1) >= count
    mass = student.softmax(-1).gather(-1, best).sum(-1)
    return {
        "agreement": _where((student.argmax(-1) == best[:, 0]).to(student.dtype), depths[:, 0] > -math.inf),
        "top_k_mass": _where(mass, known),
        "top_k_overlap": _where(compute_overlap(student, best), known),
    }


def measure_own(
    scored: ScoredLabels, labels: Int[Tensor, " rows"], names: Sequence[str]
) -> Float[Tensor, "rows metrics"]:
    """Compute what a server tells about its own model: the likelihood of each label, and whether it is the first.

    Returns:
        A column for each of `names`, in float64 on the CPU; NaN where the server tells nothing.
    """
    best, ids = find_listed(scored.logits)
    first = ids.gather(-1, best.depths.argmax(-1, keepdim=True))[:, 0]
    known = {"nll": -scored.log_probs.double(), "token_accuracy": (first == labels.to(first.device)).double()}
    unknown = torch.full_like(known["nll"], math.nan)
    return torch.stack([known.get(name, unknown) for name in names], 1).cpu()


def find_listed(logits: PartialLogits) -> tuple[TopKLogits, Tensor]:
    """Find the listed tokens of a teacher's partial logits, and their numbers in the student's vocabulary.

    Raises:
        LimbeckError: If they are of another kind.
    """
    inner = logits.logits if isinstance(logits, AlignedLogits) else logits
    if not isinstance(inner, TopKLogits):
        raise LimbeckError(f"{type(inner).__name__} list no tokens.")
    if not isinstance(logits, AlignedLogits):
        return inner, inner.ids
    columns = logits.columns
    if isinstance(columns, slice):
        return inner, inner.ids
    # A token that the student does not know is behind all others.
    known = torch.cat([columns, columns.new_tensor([-1])])
    return inner, known[inner.ids.long()]


def measure_entropy(logits: PartialLogits) -> Float[Tensor, "*leading"]:
    """Compute the entropy of a listed distribution with its rest spread evenly over the other classes, in nats."""
    listed, _ = find_listed(logits)
    share = listed.coarse().softmax(-1).double()
    others = max(listed.classes - listed.ids.shape[-1], 1)
    return torch.special.entr(share).sum(-1) + share[..., -1] * math.log(others)


def _where(values: Float[Tensor, " rows"], known: Bool[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    return values.masked_fill(~known, math.nan)


def find_lacking(teacher: Any, rows: Int[Tensor, " rows"], *, chunk: int) -> Bool[Tensor, " vocabulary"] | None:
    """Find the tokens that are -inf in all these rows of a teacher's logits; None if there are none."""
    if not isinstance(teacher, Tensor) or not len(rows):  # an output layer has no token without a logit
        return None
    largest = torch.stack([teacher[at.to(teacher.device)].amax(0) for at in rows.split(chunk)]).amax(0)
    lacking = largest == -torch.inf
    return lacking if bool(lacking.any()) else None
