"""`check_objective` and `check_head`: check the laws of objectives and heads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from limbeck.batch import IGNORED, LOGITS, Batch, Outputs, Progress, Term
from limbeck.errors import LimbeckError
from limbeck.functional import Head
from limbeck.losses import LossContext, Objective, setup_objective, weighted_loss
from limbeck.testing.law import check_laws, require, require_close, rows, same_weights, weights

_OF = "objectives"
_SIZE, _CLASSES, _FEATURES = 12, 5, 7
_WHERE = Progress(step=3, steps=11)
Case = tuple[Objective, Outputs, Outputs, Batch]


def check_objective(
    objective: Objective, *, student: Outputs | None = None, teacher: Outputs | None = None, batch: Batch | None = None
) -> None:
    """Check an objective against all laws of objectives.

    The laws:

    * It uses only the outputs and columns that `requires` declares.
    * The counts that it announces are the counts of its terms.
    * Totals and counts add up over any split of a batch.
    * Masked and unlabeled examples do not count.
    * It adds and scales, also with weight zero.
    * Its terms are finite, and each has a gradient in the student.

    Args:
        objective: The objective. Lazy heads get a shape.
        student: The outputs of the student for at least two examples. By default random logits ``[12, 5]`` and random
            features ``[12, 7]`` for every other address that it needs.
        teacher: The outputs of the teacher, likewise.
        batch: The batch; by default random labels, targets, ids and inputs of 12 examples.

    Raises:
        LawError: If laws are broken; the message lists them.

    Example:
        >>> from limbeck.functional import cross_entropy, kl_divergence
        >>> from limbeck.losses import Loss
        >>> check_objective(0.1 * Loss(cross_entropy) + 0.9 * Loss(kl_divergence, temperature=4.0))
    """
    draw = torch.Generator().manual_seed(0)
    requires = objective.requires
    student = student if student is not None else _signal(requires.student, draw)
    teacher = teacher if teacher is not None else _signal(requires.teacher, draw)
    batch = batch if batch is not None else _batch(draw)
    with torch.random.fork_rng(devices=[]):
        objective = setup_objective(objective, LossContext(student, teacher, batch))
    check_laws([partial(law, (objective, student, teacher, batch)) for law in OBJECTIVE_LAWS], of=_OF)


def check_needs(case: Case) -> None:
    """It uses only what `requires` declares."""
    objective, student, teacher, batch = case
    requires = objective.requires
    fewer = batch._replace(
        labels=batch.labels if "labels" in requires.batch else None, id=batch.id if "id" in requires.batch else None
    )
    less = [
        Outputs({a: s[a] for a in addresses if a in s})
        for s, addresses in ((student, requires.student), (teacher, requires.teacher))
    ]
    try:
        objective(less[0], less[1], fewer, _WHERE)
    except (LimbeckError, AttributeError, TypeError) as error:
        require(False, f"it uses more than it declares in requires, {tuple(map(sorted, requires))} ({error})", of=_OF)


def check_counts(case: Case) -> None:
    """The counts that it announces are the counts of its terms."""
    objective, student, teacher, batch = case
    announced = objective.counts(batch)
    counts = {name: float(term.count) for name, term in objective(student, teacher, batch, _WHERE).items()}
    require(announced == counts, f"it announces the counts {announced} and returns {counts}", of=_OF)


def check_split(case: Case) -> None:
    """Totals and counts add up over any split of a batch, so gradients do not depend on the split."""
    objective, student, teacher, batch = case
    if any(leaf.per in ("pair", "batch") for leaf, _ in objective.leaves()):
        return
    whole = objective(student, teacher, batch, _WHERE)
    middle = batch.size // 2
    parts = [_part(case, slice(None, middle)), _part(case, slice(middle, None))]
    for name, term in whole.items():
        total = sum((part[name].total for part in parts), torch.zeros(()))
        require_close(total, term.total, f"{name}'s totals over two halves are not the total of the whole", of=_OF)
        counted = sum(float(part[name].count) for part in parts)
        require(counted == float(term.count), f"{name} counts {counted} in two halves, {term.count} as one", of=_OF)


def check_left_out(case: Case) -> None:
    """Masked examples do not count. A label of -100 does not count if labels are used."""
    objective, student, teacher, batch = case
    if batch.labels is None or any(leaf.per in ("pair", "batch") for leaf, _ in objective.leaves()):
        return
    middle = batch.size // 2
    later = _part(case, slice(middle, None))
    out = torch.arange(batch.size) < middle
    masked = batch._replace(mask=~out.reshape(-1, *[1] * (batch.labels.ndim - 1)).expand_as(batch.labels))
    unlabeled = batch._replace(labels=batch.labels.masked_fill(~masked.mask, IGNORED))  # type: ignore[operator]
    _compare(objective(student, teacher, masked, _WHERE), later, "masked examples count in")
    read = {name for name, (leaf, _) in objective.named_leaves().items() if "labels" in leaf.requires.batch}
    terms = objective(student, teacher, unlabeled, _WHERE)
    _compare({n: t for n, t in terms.items() if n in read}, later, "unlabeled examples count in")


def check_algebra(case: Case) -> None:
    """It adds and scales, and a weight of zero does not change what it requires."""
    objective, student, teacher, batch = case

    def value(term: Objective) -> Tensor:
        return weighted_loss(term(student, teacher, batch, _WHERE), term.counts(batch)).detach()

    once = value(objective)
    require_close(value(2.0 * objective), 2 * once, "2 * objective is not twice the objective", of=_OF)
    require_close(value(objective + 0.5 * objective), 1.5 * once, "objectives do not add", of=_OF)
    require_close(value(0.0 * objective), torch.zeros_like(once), "0 * objective is not zero", of=_OF)
    require((0.0 * objective).requires == objective.requires, "a weight of zero changes its requires", of=_OF)


def check_reach(case: Case) -> None:
    """Its terms are finite scalars, and each has a gradient in the student."""
    objective, student, teacher, batch = case
    outputs = Outputs({a: t.detach().clone().requires_grad_(t.is_floating_point()) for a, t in student.items()})
    leaves = [tensor for tensor in outputs.values() if tensor.requires_grad]
    for name, term in objective(outputs, teacher, batch, _WHERE).items():
        require(term.total.ndim == 0, f"{name}'s total has shape {tuple(term.total.shape)}, not a sum", of=_OF)
        require(bool(term.total.isfinite()), f"{name} is {float(term.total.detach())}", of=_OF)
        gradients = torch.autograd.grad(term.total, leaves, allow_unused=True) if term.total.requires_grad else ()
        reached = [slope for slope in gradients if slope is not None]
        require(bool(reached), f"{name} does not depend on the student", of=_OF)
        require(all(bool(s.isfinite().all()) for s in reached), f"{name}'s gradient is not finite", of=_OF)


OBJECTIVE_LAWS: tuple[Callable[[Case], None], ...] = (
    check_needs,
    check_counts,
    check_split,
    check_left_out,
    check_algebra,
    check_reach,
)
"""All laws of objectives."""


def _signal(needed: frozenset[str], draw: torch.Generator) -> Outputs:
    addresses = sorted(needed | {LOGITS})
    return Outputs(
        {a: 2 * torch.randn(_SIZE, _CLASSES if a == LOGITS else _FEATURES, generator=draw) for a in addresses}
    )


def _batch(draw: torch.Generator) -> Batch:
    labels = torch.randint(_CLASSES, (_SIZE,), generator=draw)
    inputs, targets = torch.randn(_SIZE, 3, generator=draw), torch.rand(_SIZE, _CLASSES, generator=draw)
    return Batch(inputs, torch.arange(_SIZE), labels=labels, extra={"targets": targets})


def _part(case: Case, chosen: slice) -> dict[str, Term]:
    objective, student, teacher, batch = case
    sides = [Outputs({a: t[chosen] for a, t in outputs.items()}) for outputs in (student, teacher)]
    terms: dict[str, Term] = objective(sides[0], sides[1], rows(batch, chosen), _WHERE)
    return terms


def _compare(terms: dict[str, Term], expected: dict[str, Term], broken: str) -> None:
    for name, term in terms.items():
        require_close(term.total, expected[name].total, f"{broken} {name}'s total", of=_OF)
        require(float(term.count) == float(expected[name].count), f"{broken} {name}'s count", of=_OF)


_HEADS = "heads"


def check_head(make: Callable[[], Head], student: Tensor, teacher: Tensor) -> None:
    """Check a head against all laws of heads.

    The laws:

    * A call before `shape` raises a `LimbeckError`.
    * The result has the teacher's shape for any number of examples, and is finite.
    * A second call of `shape` with the same shapes changes nothing.
    * A gradient reaches the student and every parameter.
    * Its state loads into another head of the same kind.

    Args:
        make: A function that makes a head without a shape.
        student: An output of the student, batch first.
        teacher: An output of the teacher.

    Raises:
        LawError: If laws are broken; the message lists them.

    Example:
        >>> from limbeck.functional import Projector
        >>> check_head(Projector, torch.randn(4, 8), torch.randn(4, 3))
    """
    check_laws([partial(law, make, student, teacher) for law in HEAD_LAWS], of=_HEADS)


def check_unshaped(make: Callable[[], Head], student: Tensor, teacher: Tensor) -> None:
    """A call before `shape` raises a `LimbeckError`."""
    try:
        make()(student)
    except LimbeckError:
        return
    require(False, "it can be called before shape(); raise a LimbeckError there", of=_HEADS)


def check_projection(make: Callable[[], Head], student: Tensor, teacher: Tensor) -> None:
    """The result has the teacher's shape, is finite, and passes gradients to the student and all parameters."""
    head = make()
    head.shape(student, teacher)
    features = student.detach().clone().requires_grad_()
    projected = head(features)
    require(
        projected.shape == teacher.shape, f"it gives {tuple(projected.shape)}, not {tuple(teacher.shape)}", of=_HEADS
    )
    require(bool(projected.isfinite().all()), "its values are not finite", of=_HEADS)
    require(len(head(student[:1])) == 1, "it does not accept a single example", of=_HEADS)
    gradients = torch.autograd.grad(projected.square().sum(), [features, *head.parameters()], allow_unused=True)
    require(
        all(slope is not None for slope in gradients), "a gradient does not reach all of it, or the student", of=_HEADS
    )


def check_head_state(make: Callable[[], Head], student: Tensor, teacher: Tensor) -> None:
    """A second call of `shape` changes nothing, and its state loads into another head."""
    head = make()
    head.shape(student, teacher)
    before = weights(head)
    head.shape(student, teacher)
    require(
        same_weights(before, weights(head)),
        "a second call of shape() with the same shapes changes its parameters",
        of=_HEADS,
    )
    other = make()
    other.shape(student, teacher)
    other.load_state_dict(before)
    require(torch.equal(other(student), head(student)), "its state does not load into another head", of=_HEADS)


HEAD_LAWS = (check_unshaped, check_projection, check_head_state)
"""All laws of heads."""
