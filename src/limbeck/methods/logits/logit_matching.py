"""How does a student learn from a teacher's logits themselves?"""

from __future__ import annotations

from typing import Any

from limbeck.functional import logit_squared_error
from limbeck.losses import Loss
from limbeck.methods.card import MethodCard
from limbeck.recipe import Recipe, Stage

CARD = MethodCard(
    name="logit_matching",
    title="Do Deep Nets Really Need to be Deep?",
    authors="Ba and Caruana, after Buciluǎ, Caruana and Niculescu-Mizil (KDD 2006)",
    year=2013,
    arxiv="1312.6184",
    venue="NIPS 2014",
    claim="The student regresses the teacher's logits, without labels and without a temperature.",
    when="Where the student can follow the teacher closely and there are many, perhaps unlabeled, inputs. A small "
    "student spends itself on logits of classes that hardly matter: use hinton with a moderate temperature there.",
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
)


def logit_matching(teacher: Any, *, centered: bool = False, epochs: int | None = None) -> Recipe:
    r"""Regression on logits: :math:`\frac{1}{2C} \sum_c (z_c - v_c)^2`, z of the student and v of the teacher.

    The paper's loss is C times this (a sum over classes, not a mean), which is another learning rate for plain gradient
    descent and the same thing for Adam. With `centered` it is the limit of `hinton` without labels for T to infinity.

    Args:
        teacher: Who teaches.
        centered: Whether the mean over classes is taken off the difference first: a constant added to all logits of an
            example changes no probability. The paper does not.
        epochs: Passes over the data; the run's budget by default.

    Source: Ba and Caruana, 2013, arXiv:1312.6184.
    """
    objective = Loss(logit_squared_error, centered=centered)
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="logit_matching"))
