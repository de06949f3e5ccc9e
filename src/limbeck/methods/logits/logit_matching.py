"""Logit matching: regression on the logits of the teacher."""

from __future__ import annotations

from typing import Any

from limbeck.functional import logit_squared_error
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task, get_task

CARD = MethodCard(
    name="logit_matching",
    title="Do Deep Nets Really Need to be Deep?",
    authors="Ba and Caruana, after Buciluǎ, Caruana and Niculescu-Mizil (KDD 2006)",
    year=2013,
    arxiv="1312.6184",
    venue="NIPS 2014",
    claim="The student learns the logits of the teacher by regression, without labels and without a temperature.",
    when="When the student can follow the teacher closely and there are many, perhaps unlabeled, inputs. A small "
    "student wastes capacity on the logits of unlikely classes: use hinton with a moderate temperature instead.",
    bibtex="""@inproceedings{ba2014deep,
  title = {Do Deep Nets Really Need to be Deep?},
  author = {Ba, Jimmy and Caruana, Rich},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {27},
  year = {2014},
  eprint = {1312.6184},
  archivePrefix = {arXiv}
}
@inproceedings{bucilua2006model,
  title = {Model Compression},
  author = {Bucilu\\v{a}, Cristian and Caruana, Rich and Niculescu-Mizil, Alexandru},
  booktitle = {ACM SIGKDD International Conference on Knowledge Discovery and Data Mining},
  pages = {535--541},
  year = {2006}
}""",
    labels="unused",
    tasks=("classification", "multi_label", "regression", "segmentation"),
)


@validates_arguments
def logit_matching(
    teacher: Any, *, centered: bool = False, task: str | Task = "classification", epochs: int | None = None
) -> Recipe:
    r"""Regress the logits: :math:`\frac{1}{2C} \sum_c (z_c - v_c)^2`, z of the student and v of the teacher.

    The paper's loss is C times this (a sum over classes, not a mean), which changes the learning rate of plain gradient
    descent and nothing for Adam. With `centered` it is the limit of `hinton` without labels as T goes to infinity.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        centered: Whether to subtract the mean over classes from the difference first, since a constant added to all
            logits of an example changes no probability. The paper does not do this.
        task: What the outputs are. For regression and several labels they are matched one by one, not centered.
        epochs: Passes over the data; by default the budget of the run.

    Source: Ba and Caruana, 2013, arXiv:1312.6184.
    """
    objective = Loss(logit_squared_error, centered=centered, classes=get_task(task).classes_dim)
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="logit_matching"))
