"""How does a student learn a teacher's whole function, and not its answers to some pictures?"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from limbeck.errors import LimbeckWarning
from limbeck.functional import check_hyper, kl_divergence
from limbeck.losses import Loss
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.recipe import Models, Recipe, Stage, run_context

CARD = MethodCard(
    name="function_matching",
    title="Knowledge distillation: A good teacher is patient and consistent",
    authors="Beyer, Zhai, Royer, Markeeva, Anil and Kolesnikov",
    year=2021,
    arxiv="2106.05237",
    venue="CVPR 2022",
    claim="Teacher and student see the same crops and mixtures; without labels, for very long, the student matches.",
    when="Where the student is to come as near to its teacher as it can and training may take long: the paper trains "
    "for 300 to 10,000 epochs, and gains all the way. Augment strongly and mix (the source does that); store the "
    "answers to as many views as there is room for. On a short schedule compare with hinton and labels.",
    bibtex="""@inproceedings{beyer2022knowledge,
  title = {Knowledge distillation: A good teacher is patient and consistent},
  author = {Beyer, Lucas and Zhai, Xiaohua and Royer, Am\\'elie and Markeeva, Larisa and Anil, Rohan and Kolesnikov,
            Alexander},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2022},
  eprint = {2106.05237},
  archivePrefix = {arXiv}
}""",
    ranges={"temperature": SearchRange(1.0, 20.0, log=True)},
)


def function_matching(
    teacher: Any, *, temperature: float = 1.0, classes: int = -1, epochs: int | None = None
) -> Recipe:
    r"""Soft targets alone, on views that both see: :math:`T^2 KL(p \| q)`, in nats, with no label read.

    What makes it more than `hinton` without labels is the data: augmented views and mixtures of them, the same for
    teacher and student, ``Shuffled(..., augment=Chain(Crop(padding=4), Flip()), mix=Mixup())``. A run whose source
    hands out the examples themselves is warned.

    Args:
        teacher: Who teaches; put a `CachedTeacher` before it, with as many views as there is room for, and it is asked
        once.
        temperature: T, above 0; 1 on ImageNet in the paper, 1 to 10 on small data.
        classes: Which dimension of the logits holds the classes.
        epochs: Passes over the data; the run's budget by default.

    Raises:
        LimbeckError: If `temperature` is not above 0.

    Example:
        >>> from torch import nn
        >>> function_matching(nn.Linear(4, 3)).ship
        'student'

    Source: Beyer, Zhai, Royer, Markeeva, Anil and Kolesnikov, 2021, arXiv:2106.05237.
    """
    check_hyper(temperature=temperature)
    objective = Loss(kl_divergence, temperature=temperature, classes=classes)
    return Recipe(_Looked(Stage(objective, teacher=teacher, epochs=epochs, name="function_matching")))


@dataclass(frozen=True)
class _Looked:
    """The stage, once the run's source was looked at."""

    stage: Stage

    def __call__(self, models: Models) -> Recipe:
        """The stage as it is."""
        loader = run_context(models).loader
        if getattr(loader, "augment", None) is None and getattr(loader, "mix", None) is None:
            warnings.warn(
                f"function_matching is about views, and this {type(loader).__name__} hands out the examples "
                "themselves: the student will know the teacher's answers to these by heart. In Python: Shuffled(..., "
                "augment=Chain(Crop(padding=4), Flip()), mix=Mixup()); in a job: --set 'budget.augment=[crop, flip]' "
                "--set budget.mix=mixup.",
                LimbeckWarning,
                stacklevel=2,
            )
        return Recipe(self.stage)

    def describe(self) -> dict[str, Any]:
        """As the stage does."""
        return self.stage.describe()
