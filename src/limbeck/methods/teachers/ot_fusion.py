"""Model fusion: the weights of several teachers are matched by optimal transport and averaged into one teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from limbeck.data import ArrayDataset
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard
from limbeck.methods.support import check_weight
from limbeck.methods.teachers.prepared import make_student_recipe
from limbeck.models import build
from limbeck.models.fusion import GROUNDS, check_same_architecture, fuse_networks
from limbeck.recipe import Models, Part, Recipe, Stage, run_context, teacher_module
from limbeck.tasks import Task
from limbeck.teachers import CachedTeacher, Ensemble, Teacher, as_teacher


def make_several_teachers() -> tuple[nn.Module, Ensemble, ArrayDataset]:
    """Make a student, two teachers of one architecture, and data, for the tests."""
    draw = torch.Generator().manual_seed(0)
    data = ArrayDataset(torch.randn(48, 6, generator=draw), torch.randint(3, (48,), generator=draw))
    student = build("mlp", inputs=6, classes=3, hidden=[4], seed=1)
    return student, Ensemble(*(build("mlp", inputs=6, classes=3, hidden=[8, 8], seed=seed) for seed in (2, 3))), data


CARD = MethodCard(
    name="ot_fusion",
    title="Model Fusion via Optimal Transport",
    authors="Singh and Jaggi",
    year=2019,
    arxiv="1910.05653",
    venue="NeurIPS 2020",
    claim="Several teachers of one architecture become one network: their hidden units are matched by optimal "
    "transport, and their weights averaged. It is trained on for a while, and teaches the student alone.",
    when="When several teachers of one architecture are too slow to be asked for every batch, or cannot be asked "
    "together. Their ensemble is usually better, and caches make it cheap. The networks are perceptrons and "
    "convolutional networks, also residual ones; no attention, no grouped convolutions.",
    bibtex="""@inproceedings{singh2020model,
  title = {Model Fusion via Optimal Transport},
  author = {Singh, Sidak Pal and Jaggi, Martin},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {33},
  year = {2020},
  eprint = {1910.05653},
  archivePrefix = {arXiv}
}""",
    labels="required",
    needs="several teachers of one architecture, of linear layers and convolutions",
    tasks=("classification", "multi_label", "regression"),
    task_reason="it fuses networks whose outputs are one row for each example",
    trials=(make_several_teachers,),
    keywords=("model fusion", "weight averaging", "optimal transport", "otfusion"),
)

TEACHER = "fused"
"""The name of the fused network in the run."""


@validates_arguments
def ot_fusion(
    teacher: Any,
    *,
    ground: str = "weights",
    regularization: float = 0.0,
    finetune: bool = True,
    teacher_epochs: int | None = None,
    method: str = "hinton",
    settings: Mapping[str, Any] | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Fuse several teachers into one, train it on the labels, then teach the student by a method.

    The fused network is ``fused`` in the run; see `limbeck.models.fusion.fuse_networks`, which does the same without a
    student. The teachers are not changed. One teacher alone is its own fusion.

    Args:
        teacher: Several networks of one architecture: an `Ensemble` (``teacher: {ensemble: [...]}`` in a job), whose
            weights are those of the average.
        ground: What the distance of two units is measured by: ``weights``, or ``activations`` for the run's next
            batch.
        regularization: The weight of the entropy of the matching, at least 0; 0 matches each unit with one other.
            Above 0 it needs the extra ``fusion``.
        finetune: Whether the fused network learns from the labels before it teaches.
        teacher_epochs: Passes of that training; the run's budget by default.
        method: The method by which the student learns.
        settings: Hyper-parameters of that method.
        task: What the targets are.
        epochs: Passes of the student; the run's budget by default.

    Raises:
        LimbeckError: If an argument is out of range, or the method takes no teacher. Before the first step: if the
            teachers are no networks, have different architectures, or mix units by attention or in groups.

    Example:
        >>> recipe = ot_fusion(Ensemble(nn.Linear(4, 3), nn.Linear(4, 3)))
        >>> [stage.name for stage in recipe.stages()]
        ['fine-tuning', 'hinton']

    Source: Singh and Jaggi, 2019, arXiv:1910.05653.
    """
    check_weight(regularization=regularization)
    if ground not in GROUNDS:
        raise ArgumentError(f"ground is {' or '.join(GROUNDS)}; got {ground!r}.", argument="ground")
    task = CARD.get_task(task)
    length = epochs if teacher_epochs is None else teacher_epochs
    first: list[Part] = [Stage(task.supervised_loss(), trains=TEACHER, epochs=length, name="fine-tuning")]
    learn = make_student_recipe(method, TEACHER, settings, task=task, epochs=epochs)
    fuse = _Fuse(as_teacher(teacher), ground, regularization)
    return Recipe(*(first if finetune else ()), learn, makes={TEACHER: fuse})


@final
@dataclass(frozen=True)
class _Fuse:
    """Makes the fused network."""

    teacher: Teacher
    ground: str
    regularization: float

    def __call__(self, models: Models) -> nn.Module:
        """Fuse the networks, with the run's next batch as inputs."""
        context = run_context(models)
        networks = [network.to(context.device) for network in self._networks(models)]
        inputs = context.preprocess(context.loader.peek().to(context.device))
        inner = _without_cache(self.teacher)
        weights = inner.weights if isinstance(inner, Ensemble) else None
        fused = fuse_networks(networks, inputs, weights=weights, ground=self.ground, regularization=self.regularization)
        return fused.requires_grad_(True)

    def check(self, models: Models) -> None:
        """Check that the teachers, if they exist already, are networks of one architecture, and can be fused.

        Raises:
            LimbeckError: If they are not.
        """
        if self.teacher.names <= frozenset(models):
            check_same_architecture(self._networks(models))

    def _networks(self, models: Models) -> list[nn.Module]:
        inner = _without_cache(self.teacher)
        members = inner.members if isinstance(inner, Ensemble) else (inner,)
        try:
            return [teacher_module(_without_cache(member), models) for member in members]
        except LimbeckError as error:
            raise LimbeckError(
                "ot_fusion averages the weights of its teachers, so each of them is one network: Ensemble(a, b), or "
                "teacher: {ensemble: [...]} in a job."
            ) from error


def _without_cache(teacher: Teacher) -> Any:
    """The teacher whose outputs a cache stores."""
    inner: Any = teacher
    while isinstance(inner, CachedTeacher):
        inner = inner.inner
    return inner
