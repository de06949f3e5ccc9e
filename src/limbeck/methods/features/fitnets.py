"""FitNets: the student first learns a hidden layer of the teacher (a hint), then its soft targets."""

from __future__ import annotations

from typing import Any

from limbeck.functional import Projector, check_hyper, squared_error
from limbeck.losses import Loss, Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.schedule import ramp
from limbeck.tasks import Task, get_task

CARD = MethodCard(
    name="fitnets",
    title="FitNets: Hints for Thin Deep Nets",
    authors="Romero, Ballas, Kahou, Chassang, Gatta and Bengio",
    year=2014,
    arxiv="1412.6550",
    venue="ICLR 2015",
    claim="The student first learns a hidden layer of the teacher with its lower half. Then all of it is distilled.",
    when="For deep and thin students that are hard to train from the output alone. Choose middle layers: a hint "
    "too near the output leaves the student little freedom. The hidden layers of both models must be accessible.",
    bibtex="""@inproceedings{romero2015fitnets,
  title = {{FitNets}: Hints for Thin Deep Nets},
  author = {Romero, Adriana and Ballas, Nicolas and Kahou, Samira Ebrahimi and Chassang, Antoine and Gatta, Carlo and
            Bengio, Yoshua},
  booktitle = {International Conference on Learning Representations},
  year = {2015},
  eprint = {1412.6550},
  archivePrefix = {arXiv}
}""",
    reads=("logits", "features"),
    example={"hint": "layer1", "guided": "layer1"},
    ranges={
        "temperature": SearchRange(1.0, 20.0, log=True),
        "weight": SearchRange(0.5, 20.0, log=True),
        "final_weight": SearchRange(0.1, 5.0, log=True),
    },
    tasks=("classification", "multi_label", "regression", "segmentation"),
)


@validates_arguments
def fitnets(
    teacher: Any,
    *,
    hint: str,
    guided: str,
    temperature: float = 3.0,
    weight: float = 4.0,
    final_weight: float = 1.0,
    labels: bool = True,
    hint_epochs: int | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Train in two stages: first a hint, then soft targets with labels.

    1. :math:`mean (r(u_g) - u_h)^2`, with :math:`u_h` the teacher's output at `hint`, :math:`u_g` the student's output
       at `guided`, and r a learned linear (or convolutional) head that is dropped afterwards. Only layers up to
       `guided` are trained in this stage. The paper uses half the sum over features.
    2. :math:`-\log softmax(z)_y + \lambda KL(p_T \| q_T)`, without T². Lambda decreases linearly over the stage.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run. It needs a layer `hint`.
        hint: Name of the teacher's layer.
        guided: Name of the student's layer.
        temperature: T of the second stage, above 0; 3 in the authors' configuration.
        weight: Lambda at the start; 4 in the authors' configuration.
        final_weight: Lambda at the end; 1 in the authors' configuration.
        labels: Whether to use labels. False drops the label term.
        hint_epochs: Passes of the first stage; the run's budget by default.
        task: What the targets are; the second stage takes its losses from it.
        epochs: Passes of the second stage; the run's budget by default.

    Raises:
        LimbeckError: If `temperature` is not above 0, or a weight is negative.

    Source: Romero et al., 2014, arXiv:1412.6550, equations 2 and 3, and algorithm 1.
    """
    check_hyper(temperature=temperature)
    check_weight(weight=weight, final_weight=final_weight)
    hints = Loss(squared_error, student=guided, teacher=hint, head=Projector(), name="hint")
    # The kernel multiplies by T^2; the loss of the paper does not.
    fading = ramp(final_weight / temperature**2, start=weight / temperature**2)
    task = get_task(task)
    objective: Objective = fading * task.distillation_loss(temperature=temperature)
    if labels:
        objective = objective + task.supervised_loss()
    return Recipe(
        Stage(hints, teacher=teacher, epochs=hint_epochs, name="hint"),
        Stage(objective, teacher=teacher, epochs=epochs, name="distil"),
    )
