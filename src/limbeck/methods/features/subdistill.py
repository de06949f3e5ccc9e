"""SubDistill: at each layer the student learns the part of the teacher that decides between a few classes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from limbeck.batch import Batch, Outputs, Progress, Requirements, Term
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import KernelClaim, check_hyper, kernel, kl_divergence
from limbeck.functional.attention import find_token_mask, mean_over_tokens
from limbeck.losses import Loss, LossContext, LossTerm, Objective, all_gather
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.layers import pair_layers
from limbeck.methods.features.relevant_subspace import (
    Subspace,
    as_rows,
    computing_gradients,
    find_activations_and_gradients,
    find_subspace,
)
from limbeck.methods.support import check_count, check_weight
from limbeck.recipe import Models, Recipe, Stage, output_shapes, run_context, teacher_module
from limbeck.tap import Tapped
from limbeck.tasks import Task
from limbeck.teachers import ModelTeacher, as_teacher


@kernel(per="position")
def subtask_kl(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch teacher_classes"],
    *,
    subtask: Sequence[int],
    temperature: float = 1.0,
) -> Float[Tensor, "*batch"]:
    r"""Compute ``T^2 KL(p || q)`` in nats over a few of the teacher's classes, times T^2.

    ``p = softmax(teacher[..., subtask] / T)``. A student with as many outputs as there are classes has them in this
    order; of any other student the same outputs are used.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        subtask: The indices of the classes, at least two.
        temperature: T, above 0.

    Example:
        >>> subtask_kl(torch.zeros(1, 2), torch.tensor([[0.0, 9.0, 0.0]]), subtask=(0, 2))
        tensor([0.])

    Source: Chormai et al., 2026, arXiv:2601.05913.
    """
    index = torch.tensor(list(subtask), device=teacher.device)
    if student.shape[-1] != len(subtask):
        student = student.index_select(-1, index)
    return kl_divergence(student, teacher.index_select(-1, index), temperature=temperature)


@kernel(per="batch")
def centered_code_error(
    student: Float[Tensor, "batch rows k"],
    teacher: Float[Tensor, "batch rows k"],
    mask: Bool[Tensor, "*tokens"] | None = None,
) -> Float[Tensor, ""]:
    r"""Compute the mean over examples and rows of :math:`|s - \bar s - t|^2`, summed over the k features.

    :math:`\bar s` is the mean of all rows of the student that count. The teacher's code has been centered before. For
    an empty batch it is 0. In float32 it overflows for values above 1e18.

    Args:
        student: The student's rows: pixels of maps, tokens, or one row for each example.
        teacher: The teacher's code for the same rows.
        mask: The rows that count, ``[batch, rows]`` or ``[batch]``; all by default.

    Example:
        >>> centered_code_error(torch.tensor([[[3.0]], [[5.0]]]), torch.tensor([[[-1.0]], [[1.0]]]))
        tensor(0.)

    Source: Chormai et al., 2026, arXiv:2601.05913.
    """
    counts = find_token_mask(mask, student.shape[0], student.shape[1], student.device)
    away = ~counts.unsqueeze(-1)
    rows = student.masked_fill(away, 0.0)
    mean = rows.sum((0, 1)) / counts.sum().clamp_min(1)
    errors = (rows - mean - teacher.masked_fill(away, 0.0)).square().sum(-1)
    return mean_over_tokens(errors, counts).sum() / counts.any(1).sum().clamp_min(1)


CARD = MethodCard(
    name="subdistill",
    title="Distilling Lightweight Domain Experts from Large ML Models by Identifying Relevant Subspaces",
    authors="Chormai, Hashemi, Müller and Montavon",
    year=2026,
    arxiv="2601.05913",
    venue="arXiv preprint",
    claim="If only a few classes matter, the student learns at each layer only the part of the teacher's activations "
    "that decides between them, in any rotation.",
    when="When a large classifier is to be a small one for a few of its classes, or a layer of the student is much "
    "narrower than the teacher's. The teacher is one network whose gradients can be computed: no ensemble, no cache "
    "alone. Data need no labels.",
    bibtex="""@article{chormai2026subdistill,
  title = {Distilling Lightweight Domain Experts from Large {ML} Models by Identifying Relevant Subspaces},
  author = {Chormai, Pattarawat and others},
  journal = {arXiv preprint arXiv:2601.05913},
  year = {2026}
}""",
    reads=("logits", "features"),
    labels="unused",
    needs="a teacher that is one network",
    example={"at": "layer2", "student_at": "layer2"},
    ranges={
        "weight": SearchRange(1.0, 1000.0, log=True),
        "soft_weight": SearchRange(0.0, 10.0),
        "temperature": SearchRange(1.0, 20.0, log=True),
    },
    tasks=("classification",),
    task_reason="it asks which activations decide between two classes",
    kernels=(
        KernelClaim(subtask_kl, hyper={"subtask": (0, 2, 3), "temperature": 2.0}, fewest_classes=5, logits=False),
        KernelClaim(centered_code_error, shape=(4, 5), positions=1, logits=False, largest=1e15),
    ),
)


class SubspaceLoss(LossTerm):
    """The loss of SubDistill at one layer: the student's centered features, in a learned rotation, against the code.

    Args:
        student_at: The address of the student's layer.
        at: The address of the teacher's layer.
        subspace: The subspace of the teacher's layer.
    """

    per = "batch"
    reads_token_mask = True
    mean: Tensor
    basis: Tensor

    def __init__(self, student_at: str, at: str, subspace: Subspace) -> None:
        super().__init__()
        self.student_at, self.at, self.variance = student_at, at, max(subspace.variance, 1e-12)
        self.name = f"subspace@{student_at}"
        self.register_buffer("mean", subspace.mean.float())
        self.register_buffer("basis", subspace.basis.float())
        self.rotation: nn.Module | None = None

    @property
    def requires(self) -> Requirements:
        """The two layers."""
        return Requirements(frozenset({self.student_at}), frozenset({self.at}))

    def setup(self, context: LossContext) -> SubspaceLoss:
        """Create the rotation.

        Raises:
            LimbeckError: If the two layers have other positions.
        """
        ours, theirs = as_rows(context.student[self.student_at]), as_rows(context.teacher[self.at])
        if ours.shape[:2] != theirs.shape[:2]:
            raise LimbeckError(
                f"{self.student_at!r} has {ours.shape[1]} positions and {self.at!r} {theirs.shape[1]}: the layers must "
                "have maps of one size, or the same tokens."
            )
        kind, size = torch.promote_types(ours.dtype, torch.float32), self.basis.shape[1]
        fitted = copy.deepcopy(self).to(device=ours.device, dtype=kind)
        # Neither the precision of the run nor autocast: a rotation in bfloat16 is not orthogonal.
        linear = nn.Linear(size, size, bias=False, device=ours.device, dtype=kind)
        with torch.no_grad(), torch.autocast(ours.device.type, enabled=False):
            linear.weight.copy_(torch.eye(size))
            fitted.rotation = parametrizations.orthogonal(linear)
        return fitted

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The error of the batch in units of the variance of the code."""
        if self.rotation is None:
            raise LimbeckError("This loss has no rotation yet; the engine calls setup first.")
        keep = batch.valid
        kind = self.basis.dtype
        with torch.autocast(keep.device.type, enabled=False):
            ours = all_gather(as_rows(student[self.student_at][keep]).to(kind))
            theirs = all_gather((as_rows(teacher[self.at][keep]).to(kind) - self.mean) @ self.basis)
            several = batch.mask is not None and batch.mask.ndim == 2 and ours.shape[1] > 1
            mask = all_gather(batch.mask[keep]) if several and batch.mask is not None else None
            value = centered_code_error(self.rotation(ours), theirs, mask) / self.variance
        return Term(value, self.count(batch))

    def count(self, batch: Batch) -> float:
        """1 for a batch with an example that counts, else 0."""
        return float(bool(batch.valid.any()))

    def __repr__(self) -> str:
        return f"SubspaceLoss({self.student_at!r}, {self.at!r}, size={self.basis.shape[1]})"


class _Plan:
    """Finds the subspaces of the run's teacher, and makes the stage."""

    def __init__(self, teacher: Any, pairs: list[tuple[str, str]], task: Task, settings: dict[str, Any]) -> None:
        self.teacher, self.pairs, self.task, self.settings = teacher, pairs, task, settings

    def describe(self) -> dict[str, Any]:
        """Its entry in the description of a run."""
        return {"subdistill": [list(pair) for pair in self.pairs], **self.settings}

    def __call__(self, models: Models) -> Stage:
        """Make the stage."""
        sizes = output_shapes(models, [ours for ours, _ in self.pairs])
        subspaces = self._find_subspaces(models, {theirs: _width(sizes[ours]) for ours, theirs in self.pairs})
        settings = self.settings
        layers = [settings["weight"] * SubspaceLoss(ours, at, subspaces[at]) for ours, at in self.pairs]
        objective: Objective = sum(layers[1:], start=layers[0])
        classes, temperature = settings["classes"], settings["temperature"]
        if settings["soft_weight"]:
            soft = self.task.distillation_loss(temperature=temperature)
            if classes is not None:
                soft = Loss(subtask_kl, subtask=classes, temperature=temperature)
            objective = objective + settings["soft_weight"] * soft
        if settings["label_weight"]:
            objective = objective + settings["label_weight"] * self.task.supervised_loss()
        return Stage(objective, teacher=self.teacher, epochs=settings["epochs"], name="subdistill")

    def _find_subspaces(self, models: Models, sizes: dict[str, int]) -> dict[str, Subspace]:
        context, module = run_context(models), teacher_module(self.teacher, models)
        source = as_teacher(self.teacher)
        live = source if isinstance(source, ModelTeacher) else None
        preprocess = context.preprocess if live is None or live.preprocess is None else live.preprocess
        module = module.to(context.device)
        rows: dict[str, list[tuple[Tensor, Tensor]]] = {at: [] for at in sizes}
        seen = 0
        with computing_gradients(module), Tapped(module, sizes, adaptor=live.adaptor if live else None) as tapped:
            for batch in context.loader.batches(0, 0):
                batch = batch.to(context.device)
                outputs = tapped(preprocess(batch))
                for at, pair in find_activations_and_gradients(
                    outputs, batch, list(sizes), self.settings["classes"]
                ).items():
                    rows[at].append(pair)
                seen += batch.size
                if seen >= self.settings["examples"]:
                    break
        joined = {at: tuple(map(torch.cat, zip(*pairs, strict=True))) for at, pairs in rows.items()}
        return {at: find_subspace(a, c, sizes[at]) for at, (a, c) in joined.items()}


def _width(shape: tuple[int, ...]) -> int:
    """The number of features in the shape of an example: the channels of a map, or the last dimension."""
    return shape[0] if len(shape) == 3 else shape[-1]


@validates_arguments
def subdistill(
    teacher: Any,
    *,
    at: str | Sequence[str],
    student_at: str | Sequence[str],
    classes: Sequence[int] | None = None,
    weight: float = 100.0,
    soft_weight: float = 1.0,
    label_weight: float = 0.0,
    temperature: float = 4.0,
    examples: int = 1000,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn soft targets and, at each layer, the relevant subspace: :math:`u T^2 KL(p \| q) + w \sum_l L_l`.

    :math:`L_l` is the mean of :math:`|R (a^S - \bar a^S) - U^\top (a^T - \bar a^T)|^2` over examples and positions,
    divided by the variance of the teacher's part, so that predicting the mean gives 1. U are the first directions of
    `find_subspace`, as many as the student's layer has features, and R is a learned rotation. U is computed once,
    before training, from gradients of the difference of the teacher's two largest logits.

    Args:
        teacher: The teacher: a module, a `Teacher` of one network, or the name of a model in the run.
        at: Name of the teacher's layer, or of several.
        student_at: Name of the student's layer, or of several in the same order: maps of the same size, or the same
            tokens, and not more features.
        classes: The teacher's classes that matter; all by default. The student has one output for each, in this
            order, or all outputs of the teacher.
        weight: w, at least 0; 100 in the authors' code.
        soft_weight: u, at least 0; 1 in the paper.
        label_weight: The weight of the labels, at least 0; 0 in the paper. With `classes`, labels count from 0 in
            their order.
        temperature: T, above 0; 4 in the paper.
        examples: The number of training examples from which subspaces are computed.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or there are not as many layers on both sides.

    Source: Chormai et al., 2026, arXiv:2601.05913.
    """
    task = CARD.get_task(task)
    check_weight(weight=weight, soft_weight=soft_weight, label_weight=label_weight)
    check_hyper(temperature=temperature)
    check_count(examples=examples)
    pairs = pair_layers(at, student_at)
    if len({theirs for _, theirs in pairs}) < len(pairs):
        raise ArgumentError(
            f"at names a layer twice: {at!r}. Give each layer of the teacher once, in the order of student_at.",
            argument="at",
        )
    settings = {
        "classes": None if classes is None else _check_classes(classes), "weight": weight, "soft_weight": soft_weight,
        "label_weight": label_weight, "temperature": temperature, "examples": examples, "epochs": epochs,
    }  # fmt: skip
    as_teacher(teacher)  # raises for what cannot teach
    return Recipe(_Plan(teacher, pairs, task, settings))


def _check_classes(classes: Sequence[int]) -> list[int]:
    chosen = list(classes) if isinstance(classes, Sequence) else []
    whole = all(type(c) is int and c >= 0 for c in chosen)
    if not whole or len(set(chosen)) < max(2, len(chosen)):
        raise ArgumentError(f"classes are at least two different numbers from 0; got {classes!r}.", argument="classes")
    return chosen
