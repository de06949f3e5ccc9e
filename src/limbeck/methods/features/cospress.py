"""CosPress: a head maps the teacher's features to the student's width and keeps angles, and the student copies it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limbeck.batch import Batch, Outputs, Progress, Requirements, Term
from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.functional import KernelClaim, kernel, kl_divergence
from limbeck.functional.attention import find_token_mask, mean_over_tokens, unit_rows
from limbeck.functional.directions import compare_directions, inner_products
from limbeck.losses import LossContext, LossTerm, all_gather
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task

TEMPERATURES = tuple(number / 100 for number in range(1, 11))
"""The temperatures of the paper: 0.01, 0.02, ..., 0.10."""


@kernel(per="example")
def neighbor_divergence(
    student: Float[Tensor, "batch rows width"],
    teacher: Float[Tensor, "batch rows teacher_width"],
    mask: Bool[Tensor, "*tokens"] | None = None,
    *,
    temperatures: Sequence[float] = TEMPERATURES,
) -> Float[Tensor, " batch"]:
    r"""Compute the divergence of two sets of neighbor probabilities, in nats, averaged over temperatures.

    In each example, row i of the teacher's features has the neighbors :math:`P_{j|i} = softmax_{j \ne i}(\cos(u_i, u_j)
    / \tau)`, and Q is the same of the student's features. The value is the KL divergence of the joint distributions,
    :math:`KL(\bar P \| \bar Q)` with :math:`\bar P = (P + P^\top) / \sum (P + P^\top)`. It is 0 if all angles between
    rows are equal, whatever the widths, and for fewer than two rows. Rotations and lengths of rows make no difference.

    Args:
        student: Rows of mapped features.
        teacher: Rows of the teacher's features.
        mask: The rows that count, ``[batch, rows]`` or ``[batch]``; all by default.
        temperatures: The values of tau, each above 0.

    Raises:
        LimbeckError: If the numbers of rows differ.

    Example:
        >>> u = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]])
        >>> neighbor_divergence(torch.flip(2 * u, (2,)), u, temperatures=(0.1,))
        tensor([0.])

    Source: Mannix, Hodgkinson and Bondell, 2024, arXiv:2411.15239, equations 1 to 4.
    """
    if student.shape[:2] != teacher.shape[:2]:
        raise LimbeckError(
            f"The student has rows {tuple(student.shape[:2])} and the teacher {tuple(teacher.shape[:2])}; give both "
            "the same tokens."
        )
    counts = find_token_mask(mask, student.shape[0], student.shape[1], student.device)
    ours, theirs = (inner_products(unit_rows(x)) for x in (student, teacher))
    itself = torch.eye(counts.shape[1], dtype=torch.bool, device=counts.device)
    pairs = counts.unsqueeze(1) & counts.unsqueeze(2) & ~itself
    total = student.new_zeros(len(student))
    for temperature in temperatures:
        logs = (_joint_logs(cosines / temperature, pairs).flatten(1) for cosines in (ours, theirs))
        total = total + kl_divergence(*logs)
    return total / len(temperatures)


def _joint_logs(scores: Tensor, pairs: Tensor) -> Float[Tensor, "batch rows rows"]:
    """log(P + P^T) of conditional neighbor probabilities P; -inf where there is no pair."""
    smallest = torch.finfo(scores.dtype).min / 4
    logs = scores.masked_fill(~pairs, smallest).log_softmax(-1)
    return torch.logaddexp(logs, logs.transpose(1, 2)).masked_fill(~pairs, -torch.inf)


@kernel(per="example")
def token_cosine_distance(
    student: Float[Tensor, "batch ... width"],
    teacher: Float[Tensor, "batch ... width"],
    mask: Bool[Tensor, "*tokens"] | None = None,
) -> Float[Tensor, " batch"]:
    r"""Compute the mean over the tokens of :math:`1 - \cos(s_i, t_i)`: from 0 to 2.

    It is half the squared distance of features of length 1. Features ``[batch, width]`` are one token.

    Args:
        student: Features of the student.
        teacher: Features of the teacher, mapped to the student's width.
        mask: The tokens that count, ``[batch, tokens]`` or ``[batch]``; all by default.

    Raises:
        LimbeckError: If the shapes differ.

    Example:
        >>> token_cosine_distance(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0]]))
        tensor([0.4000])

    Source: Mannix, Hodgkinson and Bondell, 2024, arXiv:2411.15239, equation 5.
    """
    if student.shape != teacher.shape:
        raise LimbeckError(f"The student has the shape {tuple(student.shape)} and the teacher {tuple(teacher.shape)}.")
    found = compare_directions(student, teacher)
    values = (unit_rows(student) - unit_rows(teacher)).square().sum(-1) / 2 if found is None else found
    if values.ndim == 1:
        return values
    return mean_over_tokens(values, find_token_mask(mask, len(values), values.shape[1], values.device))


CARD = MethodCard(
    name="cospress",
    title="Preserving Angles Improves Feature Distillation of Foundation Models",
    authors="Mannix, Hodgkinson and Bondell",
    year=2024,
    arxiv="2411.15239",
    venue="TMLR 2025",
    claim="A head learns to map the teacher's features to the student's width so that the angles between them stay. "
    "The student learns the mapped features, and stands for teacher and head. No labels are used.",
    when="To compress an encoder whose features are used by themselves: nearest neighbors, linear probes, detection of "
    "unknown inputs. The student's features are at most as wide as the teacher's. For a classifier, give label_weight "
    "too: without it the output layer learns nothing.",
    bibtex="""@article{mannix2025preserving,
  title = {Preserving Angles Improves Feature Distillation of Foundation Models},
  author = {Mannix, Evelyn J. and Hodgkinson, Liam and Bondell, Howard},
  journal = {Transactions on Machine Learning Research},
  year = {2025},
  eprint = {2411.15239},
  archivePrefix = {arXiv}
}""",
    reads=("features",),
    labels="unused",
    example={"at": "features", "student_at": "features"},
    ranges={"head_weight": SearchRange(0.1, 10.0, log=True), "weight": SearchRange(0.1, 10.0, log=True)},
    tasks=("classification", "multi_label", "regression"),
    task_reason="it compares whole inputs, or tokens behind a class token",
    kernels=(
        KernelClaim(
            neighbor_divergence,
            pairs=True,
            shape=(4, 5),
            teacher_shape=(4, 7),
            positions=1,
            logits=False,
            hyper={"temperatures": (0.2, 1.0)},
            invariances=("student_rotation", "teacher_rotation", "student_scale", "teacher_scale"),
        ),
        KernelClaim(
            neighbor_divergence,
            pairs=True,
            shape=(4, 5),
            positions=1,
            zero_at_equality=True,
            tolerance=0.0,
            logits=False,
            hyper={"temperatures": (0.2, 1.0)},
        ),
        KernelClaim(
            token_cosine_distance,
            shape=(3, 5),
            positions=1,
            zero_at_equality=True,
            tolerance=0.0,
            logits=False,
            invariances=("student_scale", "teacher_scale", "joint_rotation"),
        ),
    ),
)

_FORMS = ("joint", "head_first")


class AnglePreservation(LossTerm):
    """The loss of CosPress at one layer: a head keeps the angles of the teacher, and the student copies what it gives.

    The head is LayerNorm and a linear map. It gets gradients only from the angles, and the student only from the copy.
    Tokens ``[batch, tokens, width]`` and maps ``[batch, channels, height, width]`` have a local part too, over the rows
    of each example, beside the global one: the first tokens, or the means of the maps, of the batch.

    Args:
        student_at: The address of the student's features.
        at: The address of the teacher's features.
        head_weight: The weight of the angles; at 0 the head does not learn.
        weight: The weight of the copy; at 0 the student does not learn.
        shared: Holds the head, which losses of several stages share.
    """

    per = "batch"
    reads_token_mask = True

    def __init__(
        self, student_at: str, at: str, *, head_weight: float, weight: float, shared: nn.ModuleDict | None = None
    ) -> None:
        super().__init__()
        self.student_at, self.at, self.head_weight, self.weight = student_at, at, head_weight, weight
        self.shared = nn.ModuleDict() if shared is None else shared
        self.name = f"angles@{student_at}"

    @property
    def requires(self) -> Requirements:
        """The two layers."""
        return Requirements(frozenset({self.student_at}), frozenset({self.at}))

    def setup(self, context: LossContext) -> AnglePreservation:
        """Create the head, unless an earlier stage did.

        Raises:
            LimbeckError: If the student is wider than the teacher, or the two have other tokens.
        """
        ours, theirs = _rows(context.student[self.student_at]), _rows(context.teacher[self.at])
        if ours.shape[:2] != theirs.shape[:2]:
            raise LimbeckError(
                f"{self.student_at!r} has {ours.shape[1]} tokens or pixels and {self.at!r} {theirs.shape[1]}. Use "
                "layers with equally many, such as the last ones before the classifiers."
            )
        if ours.shape[-1] > theirs.shape[-1]:
            raise LimbeckError(
                f"{self.student_at!r} has {ours.shape[-1]} features and {self.at!r} only {theirs.shape[-1]}: the head "
                "maps to fewer or equally many. Use a narrower layer of the student, or fitnets."
            )
        if "head" not in self.shared:
            kind = torch.promote_types(theirs.dtype, torch.float32)
            linear = nn.Linear(theirs.shape[-1], ours.shape[-1], device=ours.device, dtype=kind)
            norm = nn.LayerNorm(theirs.shape[-1], device=ours.device, dtype=kind)
            self.shared["head"] = nn.Sequential(norm, linear)
        return self

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The value of the batch: angles and copy, with their weights."""
        keep, head = batch.valid, self.shared["head"]
        theirs = teacher[self.at][keep].detach()
        kind = torch.promote_types(theirs.dtype, torch.float32)
        ours, theirs = student[self.student_at][keep].to(kind), theirs.to(kind)
        rows = _rows(theirs)
        mask = _find_row_mask(batch, rows, keep)
        mapped = head(rows)
        value = ours.sum() * 0.0  # connected to the student, also while only the head learns
        if self.head_weight:
            value = value + self.head_weight * self._angles(mapped, rows, theirs.ndim, mask)
        if self.weight:
            value = value + self.weight * _copy_error(ours, mapped.detach(), mask)
        return Term(value, self.count(batch))

    def _angles(self, mapped: Tensor, rows: Tensor, dims: int, mask: Tensor) -> Tensor:
        """The neighbor divergence of the whole examples in the batch, and of the rows in each example."""
        ours, theirs = (all_gather(_whole(features, dims, mask)).unsqueeze(0) for features in (mapped, rows))
        value = neighbor_divergence(ours, theirs).sum()
        if rows.shape[1] > 1:
            value = value + neighbor_divergence(mapped, rows, mask).mean()
        return value

    def count(self, batch: Batch) -> float:
        """1 for a batch with an example that counts, else 0."""
        return float(bool(batch.valid.any()))

    def __repr__(self) -> str:
        weights = f"head_weight={self.head_weight}, weight={self.weight}"
        return f"AnglePreservation({self.student_at!r}, {self.at!r}, {weights})"


def _rows(features: Tensor) -> Float[Tensor, "batch rows width"]:
    """Tokens, the pixels of a map, or one row for each example."""
    if features.ndim == 4:
        return features.flatten(2).transpose(1, 2)
    return features if features.ndim == 3 else features.flatten(1).unsqueeze(1)


def _whole(rows: Float[Tensor, "batch rows width"], dims: int, mask: Tensor) -> Float[Tensor, "batch width"]:
    """What stands for an example: the mean over the pixels of a map (dims is 4), or the first token."""
    if dims != 4:
        return rows[:, 0]
    return rows.masked_fill(~mask.unsqueeze(-1), 0.0).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)


def _copy_error(student: Tensor, mapped: Float[Tensor, "batch rows width"], mask: Tensor) -> Tensor:
    """The mean cosine distance of whole examples and, if there are several rows, of rows."""
    ours = _rows(student)
    whole = (_whole(features, student.ndim, mask) for features in (ours, mapped))
    value = token_cosine_distance(*whole).mean()
    return value + token_cosine_distance(ours, mapped, mask).mean() if ours.shape[1] > 1 else value


def _find_row_mask(batch: Batch, rows: Tensor, keep: Tensor) -> Bool[Tensor, "batch rows"]:
    """The tokens that count, of the examples that do."""
    mask = None if batch.mask is None or batch.mask.ndim != 2 or rows.shape[1] == 1 else batch.mask[keep]
    return find_token_mask(mask, rows.shape[0], rows.shape[1], rows.device)


@validates_arguments
def cospress(
    teacher: Any,
    *,
    at: str,
    student_at: str,
    form: str = "joint",
    head_weight: float = 1.0,
    weight: float = 1.0,
    label_weight: float = 0.0,
    head_epochs: int | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Copy mapped features: :math:`v L_{angles}(h(t), t) + w (1 - \cos(s, h(t)))`, and labels if they have a weight.

    h is a head on the teacher's features t, LayerNorm and a linear map to the student's width. :math:`L_{angles}` is
    `neighbor_divergence`, over the batch and over the tokens of each example; it trains h only. The second part
    (`token_cosine_distance`, of all tokens and of the class token) trains the student only. No head remains.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        at: Name of the teacher's layer: features ``[batch, width]``, tokens with the class token first, or maps.
        student_at: Name of the student's layer, of the same kind and at most as wide.
        form: ``joint``: head and student learn at once (CosPress). ``head_first``: first the head alone, and then the
            student from the fixed head (TinTeM, the first version of the paper).
        head_weight: v, above 0; 1 in the paper.
        weight: w, above 0; 1 in the paper.
        label_weight: The weight of the labels, at least 0; 0 in the paper.
        head_epochs: Passes of the first stage of ``head_first``; by default those of the second.
        task: What the targets are, if labels are used.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or there is no such form.

    Source: Mannix, Hodgkinson and Bondell, 2024, arXiv:2411.15239.
    """
    task = CARD.get_task(task)
    check_weight(head_weight=head_weight, weight=weight, label_weight=label_weight)
    if form not in _FORMS:
        raise unknown_name_error("form", form, _FORMS, argument="form")
    for name, value in {"head_weight": head_weight, "weight": weight}.items():
        if value == 0:
            raise ArgumentError(f"{name}=0 leaves a part that never learns; give a number above 0.", argument=name)
    shared = nn.ModuleDict()
    stages = []
    if form == "head_first":
        first = AnglePreservation(student_at, at, head_weight=head_weight, weight=0.0, shared=shared)
        length = epochs if head_epochs is None else head_epochs
        stages.append(Stage(first, teacher=teacher, epochs=length, name="head"))
    angles = AnglePreservation(student_at, at, head_weight=0.0 if stages else head_weight, weight=weight, shared=shared)
    objective = 1.0 * angles
    if label_weight:
        objective = objective + label_weight * task.supervised_loss()
    return Recipe(*stages, Stage(objective, teacher=teacher, epochs=epochs, name="cospress"))
