"""Cross-fitting: each example is labeled by a teacher that never saw it, for any method that reads logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.errors import ArgumentError
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_count
from limbeck.methods.teachers.prepared import make_student_recipe
from limbeck.methods.teachers.semiparametric import CARD as SEMIPARAMETRIC
from limbeck.methods.teachers.semiparametric import CrossFitTeacher, fold_names, make_fold_recipe
from limbeck.recipe import Recipe

CARD = MethodCard(
    name="cross_fitting",
    title="Knowledge Distillation as Semiparametric Inference",
    authors="Dao, Kamath, Syrgkanis and Mackey",
    year=2021,
    arxiv="2104.09732",
    venue="ICLR 2021",
    claim="A teacher is too sure of its own training examples. The data are cut into folds, and the examples of each "
    "fold are labeled by a teacher that was trained on the others. The student learns from them by any method.",
    when="When the teacher fits its training examples perfectly and the student learns on the same ones. A teacher is "
    "trained for each fold. semiparametric also corrects the teachers by the labels.",
    bibtex=SEMIPARAMETRIC.bibtex,
    ranges={"folds": SearchRange(2, 10, whole=True)},
    labels="required",
    needs="the teacher's network, which is trained once for each fold, and examples with ids",
    example={"folds": 2},
    task_reason="its folds are of examples with one label",
    trials=("mlp",),
    models_and_data="--teacher mlp --set teacher.hidden=[64] --student mlp --set student.hidden=[16] "
    "--data adult.csv --set data.target=income",
    keywords=("cross-fitted teacher", "out-of-fold"),
)


@validates_arguments
def cross_fitting(
    teacher: Any,
    *,
    folds: int = 5,
    teacher_epochs: int | None = None,
    method: str = "hinton",
    settings: Mapping[str, Any] | None = None,
    epochs: int | None = None,
) -> Recipe:
    r"""Train a teacher for each fold, without its examples, then the student by a method from all of them.

    With B folds, the models ``fold-0``, ``fold-1``, ... of the run have the teacher's network, newly initialized, and
    learn the labels of all examples outside their fold. Each teaches the examples of its fold. Which fold an example
    is in follows from its id alone.

    Args:
        teacher: The network of the teachers: a module, a `Teacher` around one, or the name of a model in the run.
        folds: B, the number of folds, at least 2; the paper takes 10 for tables, and 5 or 10 for images.
        teacher_epochs: Passes of each teacher; by default as many as those of the student.
        method: The method by which the student learns; one that reads the teacher's logits, as the folds are different
            networks, whose features have nothing in common.
        settings: Hyper-parameters of that method.
        epochs: Passes of the student; the run's budget by default.

    Raises:
        LimbeckError: If `folds` is below 2, the method takes no teacher, or reads more than logits; when the run
            starts, if the examples have no ids.

    Example:
        >>> from torch import nn
        >>> recipe = cross_fitting(nn.Linear(4, 3), folds=2, method="dkd")
        >>> [stage.name for stage in recipe.stages()]
        ['fold 0', 'fold 1', 'dkd']

    Source: Dao et al., 2021, arXiv:2104.09732, section 3.
    """
    check_count(folds=folds)
    if folds < 2:
        raise ArgumentError(
            f"folds is a number of folds of at least 2; got {folds}. Without folds, use the method {method} itself.",
            argument="folds",
        )
    task = CARD.get_task("classification")
    learn = make_student_recipe(method, CrossFitTeacher(*fold_names(folds)), settings, task=task, epochs=epochs)
    for stage in learn.stages():
        if more := sorted(stage.objective.requires.teacher - {"logits"}):
            raise ArgumentError(
                f"{method} reads {', '.join(more)} of its teacher, and the teachers of the folds have only logits in "
                "common; use a method of logits, such as hinton or dkd.",
                argument="method",
            )
    return make_fold_recipe(teacher, folds, epochs=epochs if teacher_epochs is None else teacher_epochs) >> learn
