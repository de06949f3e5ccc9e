"""Function matching: teacher and student see the same augmented views, over many epochs."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from limbeck.errors import LimbeckWarning
from limbeck.functional import check_hyper, kl_divergence
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.recipe import Models, Recipe, Stage, run_context
from limbeck.tasks import Task

CARD = MethodCard(
    name="function_matching",
    title="Knowledge distillation: A good teacher is patient and consistent",
    authors="Beyer, Zhai, Royer, Markeeva, Anil and Kolesnikov",
    year=2021,
    arxiv="2106.05237",
    venue="CVPR 2022",
    claim="Teacher and student see the same augmented and mixed inputs, without labels and for many epochs.",
    when="When the student should match its teacher as closely as possible and training may be long. The paper trains "
    "for 300 to 10,000 epochs and keeps improving. Use strong augmentation and mixing (options of the loader), and "
    "cache the outputs for as many views as fit on disk. On a short schedule, compare with hinton and labels.",
    bibtex="""@inproceedings{beyer2022knowledge,
  title = {Knowledge distillation: A good teacher is patient and consistent},
  author = {Beyer, Lucas and Zhai, Xiaohua and Royer, Am\\'elie and Markeeva, Larisa and Anil, Rohan and Kolesnikov,
            Alexander},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2022},
  eprint = {2106.05237},
  archivePrefix = {arXiv}
}""",
    labels="unused",
    needs="augmentation or mixing in the loader, and long training",
    ranges={"temperature": SearchRange(1.0, 20.0, log=True)},
    tasks=("classification", "multi_label", "regression", "segmentation"),
    task_reason="it was not tried on texts",
)


@validates_arguments
def function_matching(
    teacher: Any,
    *,
    temperature: float = 1.0,
    classes: int | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Match soft targets on views that both models see: :math:`T^2 KL(p \| q)` in nats, without labels.

    The difference from `hinton` without labels is the data: augmented views and mixtures, the same for teacher and
    student, as from ``ShuffledLoader(..., augment=Chain(Crop(padding=4), Flip()), mix=Mixup())``. A loader without
    augmentation or mixing causes a warning.

    Args:
        teacher: The teacher. Wrap it in a `CachedTeacher` to compute its outputs once; use as many views as fit on
            disk.
        temperature: T, above 0; 1 on ImageNet in the paper, 1 to 10 on small data.
        classes: The class dimension of the logits; by default that of the task.
        task: What the outputs are: binary KL divergences for several labels, KL divergences at each pixel for
            segmentation, squared errors for regression, where a temperature has no meaning.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If `temperature` is not above 0, or the method cannot learn the task.

    Example:
        >>> from torch import nn
        >>> function_matching(nn.Linear(4, 3)).ship
        'student'

    Source: Beyer, Zhai, Royer, Markeeva, Anil and Kolesnikov, 2021, arXiv:2106.05237.
    """
    check_hyper(temperature=temperature)
    objective = CARD.get_task(task).distillation_loss(temperature=temperature)
    if classes is not None:
        objective = Loss(kl_divergence, temperature=temperature, classes=classes)
    return Recipe(_CheckedStage(Stage(objective, teacher=teacher, epochs=epochs, name="function_matching")))


@dataclass(frozen=True)
class _CheckedStage:
    """The stage, after a check that the loader of the run augments or mixes."""

    stage: Stage

    def __call__(self, models: Models) -> Recipe:
        """Return the stage unchanged."""
        loader = run_context(models).loader
        if loader.augment is None and loader.mix is None:
            warnings.warn(
                f"function_matching is about views, and this {type(loader).__name__} yields the examples without "
                "augmentation, so the student can memorize the teacher's outputs. In Python: ShuffledLoader(..., "
                "augment=Chain(Crop(padding=4), Flip()), mix=Mixup()); in a job: --set 'budget.augment=[crop, flip]' "
                "--set budget.mix=mixup.",
                LimbeckWarning,
                stacklevel=2,
            )
        return Recipe(self.stage)

    def describe(self) -> dict[str, Any]:
        """Describe the stage."""
        return self.stage.describe()
