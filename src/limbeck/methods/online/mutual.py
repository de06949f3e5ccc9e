"""Deep mutual learning: two students learn from the labels and from each other."""

from __future__ import annotations

from limbeck.functional import check_hyper
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import FreshCopy, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task
from limbeck.teachers import TeacherRef

CARD = MethodCard(
    name="mutual",
    title="Deep Mutual Learning",
    authors="Zhang, Xiang, Hospedales and Lu",
    year=2017,
    arxiv="1706.00384",
    venue="CVPR 2018",
    claim="Two students learn from the labels and from each other. No trained teacher is needed.",
    when="When there is no teacher and two models can be trained at once. The peer can have another architecture: give "
    'the run models={"student": a, "peer": b}. Compare with a student alone, which costs half as much.',
    bibtex="""@inproceedings{zhang2018deep,
  title = {Deep Mutual Learning},
  author = {Zhang, Ying and Xiang, Tao and Hospedales, Timothy M. and Lu, Huchuan},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2018},
  eprint = {1706.00384},
  archivePrefix = {arXiv}
}""",
    labels="required",
    needs="two models that train at once",
    ranges={"temperature": SearchRange(1.0, 20.0, log=True), "weight": SearchRange(0.1, 10.0, log=True)},
    tasks=("classification", "multi_label", "regression", "segmentation"),
    task_reason="it was not tried on texts",
    keywords=("dml",),
)


@validates_arguments
def mutual(
    *,
    temperature: float = 1.0,
    weight: float = 1.0,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Train two peers on :math:`-\log q_y + w T^2 KL(p \| q)`, where p is the distribution of the other peer.

    On every batch the student takes a step first. Then the peer learns from the updated student, as in algorithm 1 of
    the paper. Both outputs are computed in training mode, as in the paper. The final model is the student.

    The second model is ``peer``. If the run has no such model, it is a new one with the architecture of the student.

    Args:
        temperature: T, above 0; 1 in the paper.
        weight: w, the weight of the other peer's predictions, at least 0; 1 in the paper. At 0 both learn alone.
        task: What the targets are. Other tasks have other losses (`limbeck.tasks`): for regression the two terms are
            squared errors to the targets and to the other peer.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If `temperature` is not above 0, `weight` is negative, or the method cannot learn the task.

    Source: Zhang et al., 2017, arXiv:1706.00384, algorithm 1.
    """
    check_hyper(temperature=temperature)
    check_weight(weight=weight)
    task = CARD.get_task(task)

    def learns(name: str, other: str) -> Stage:
        objective = task.supervised_loss() + weight * task.distillation_loss(temperature=temperature)
        return Stage(
            objective, trains=name, teacher=TeacherRef(other, mode="train"), epochs=epochs, name=f"mutual {name}"
        )

    return Recipe(learns("student", "peer") & learns("peer", "student"), makes={"peer": FreshCopy()})
