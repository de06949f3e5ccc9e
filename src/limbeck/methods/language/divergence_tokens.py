"""Divergence tokens: learn only where teachers agree, or only where they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch
from limbeck.data import BatchMasks
from limbeck.errors import ArgumentError, unknown_name_error
from limbeck.functional import check_hyper, compute_agreement, cross_entropy, kl_divergence
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_share
from limbeck.metrics import count_positions
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task
from limbeck.teachers import Teacher, TeacherContext, as_teacher

CARD = MethodCard(
    name="divergence_tokens",
    title="Towards Understanding Subliminal Learning: When and How Hidden Biases Transfer",
    authors="Schrodi, Kempf, Barez and Brox",
    year=2025,
    arxiv="2509.23886",
    venue="ICLR 2026",
    claim="A hidden bias of a teacher reaches a student by few tokens: those at which teachers with another bias "
    "would write something else. Without these tokens the bias is mostly not learned.",
    when="When a teacher may have a bias that its texts do not show, and there are models without it, or with others: "
    "learn with keep=shared. With the student itself as the other model and keep=divergent, only tokens at which both "
    "would write something else are learned. limbeck.metrics.find_divergence_tokens lists these tokens before "
    "anything is trained. A test here shows, for teachers that differ in a few contexts, that the bias is learned "
    "from the texts and not learned without these tokens; that it holds for large models, and that early layers "
    "matter most, is the paper's claim and not shown here.",
    bibtex="""@inproceedings{schrodi2026towards,
  title = {Towards Understanding Subliminal Learning: When and How Hidden Biases Transfer},
  author = {Schrodi, Simon and Kempf, Elias and Barez, Fazl and Brox, Thomas},
  booktitle = {International Conference on Learning Representations},
  year = {2026},
  eprint = {2509.23886},
  archivePrefix = {arXiv}
}""",
    labels="required",
    needs="one or more other teachers, such as the same model with another system prompt",
    ranges={"weight": SearchRange(0.0, 1.0)},
    trials=("language",),
    tasks=("language_modeling",),
    task_reason="it is about tokens of texts",
)

SHARED, DIVERGENT = "shared", "divergent"
"""The names of the masks: positions at which all teachers would write the same token, and the others."""


@final
class DivergenceMasks(BatchMasks):
    """The masks ``shared`` and ``divergent``: whether all teachers have the same most likely token at a position.

    Only positions with a label count, in both. The teachers run on every batch, with their own preprocessing.

    Args:
        teacher: The teacher of the student.
        others: The other ones, at least one.
    """

    def __init__(self, teacher: Any, others: Sequence[Any]) -> None:
        self.teachers: tuple[Teacher, ...] = tuple(as_teacher(one) for one in (teacher, *others))
        self._models: Mapping[str, nn.Module] = {}

    @property
    def depends_on_model(self) -> bool:
        """Whether one of them is a model of the run."""
        return any(teacher.names for teacher in self.teachers)

    def bind(self, models: Mapping[str, nn.Module]) -> None:
        """Take the models of the run, for teachers that are named."""
        self._models = models

    @torch.no_grad()
    def compute(self, batch: Batch) -> Mapping[str, Tensor]:
        """The two masks."""
        counted = count_positions(batch)
        first, *others = (self._ask(teacher, batch) for teacher in self.teachers)
        same = torch.stack([compute_agreement(other, first) > 0 for other in others]).all(0)
        return {SHARED: counted & same, DIVERGENT: counted & ~same}

    def _ask(self, teacher: Teacher, batch: Batch) -> Tensor:
        with teacher.open(TeacherContext(device=counted_device(batch), models=self._models)) as session:
            return session(batch)[LOGITS]

    def describe(self) -> dict[str, Any]:
        """The teachers."""
        return {"divergence_tokens": [teacher.describe() for teacher in self.teachers]}


def counted_device(batch: Batch) -> torch.device:
    """The device of the labels."""
    return torch.device("cpu") if batch.labels is None else batch.labels.device


@validates_arguments
def divergence_tokens(
    teacher: Any,
    *,
    others: Any = "student",
    keep: str = "divergent",
    weight: float = 0.0,
    temperature: float = 1.0,
    task: str | Task = "language_modeling",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn the tokens of texts, :math:`-\log q_y`, at positions where teachers agree, or where they do not.

    A position is a divergence token if :math:`\arg\max p \ne \arg\max p'` for one of the other teachers p'. The loss is
    the mean over the positions that are kept of :math:`(1 - w) (-\log q_y) + w T^2 KL(p \| q)`.

    Args:
        teacher: The teacher p: a module, a `Teacher`, or the name of a model in the run.
        others: The other teachers: one or a list of what `teacher` may be. The same model with another system prompt is
            ``PrivilegedContextTeacher(model, context)``. ``student`` is the model as it learns.
        keep: ``shared``, to learn where all agree, so that a bias of one teacher is not learned; or ``divergent``.
        weight: w, the share of the KL divergence, from 0 to 1. At 0 the texts alone are learned, as in the paper: they
            are those that the teacher wrote.
        temperature: T, above 0.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or there is no other teacher.

    Example:
        >>> stage = next(divergence_tokens(nn.Linear(4, 3), others=nn.Linear(4, 3), keep="shared").stages())
        >>> stage.objective.named_leaves()["cross_entropy"][0]
        Loss(cross_entropy, where='shared')

    Source: Schrodi, Kempf, Barez and Brox, 2025, arXiv:2509.23886.
    """
    CARD.get_task(task)
    check_share(weight=weight)
    check_hyper(temperature=temperature)
    if keep not in (SHARED, DIVERGENT):
        raise unknown_name_error("kept tokens", keep, (SHARED, DIVERGENT), argument="keep")
    several = list(others) if isinstance(others, (list, tuple)) else [others]
    if not several:
        raise ArgumentError("others=[] leaves nothing to compare the teacher with; name a model.", argument="others")
    divergence = Loss(kl_divergence, temperature=temperature, where=keep)
    objective = (1 - weight) * Loss(cross_entropy, where=keep) + weight * divergence
    masks = DivergenceMasks(teacher, several)
    return Recipe(Stage(objective, teacher=teacher, loader=masks, epochs=epochs, name="divergence_tokens"))
