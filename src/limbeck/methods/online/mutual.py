"""How do two students teach each other while both learn?"""

from __future__ import annotations

from limbeck.functional import check_hyper, cross_entropy, kl_divergence
from limbeck.losses import Loss
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import FreshCopy, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.teachers import TeacherRef

CARD = MethodCard(
    name="mutual",
    title="Deep Mutual Learning",
    authors="Zhang, Xiang, Hospedales and Lu",
    year=2017,
    arxiv="1706.00384",
    venue="CVPR 2018",
    claim="Two students learn from the labels and from each other at once; no trained teacher is needed.",
    when="Where there is no teacher and two models can be trained at once. The peer may be another architecture: give "
    'the run models={"student": a, "peer": b}. Compare with a student alone, which costs half as much.',
    bibtex="""@inproceedings{zhang2018deep,
  title = {Deep Mutual Learning},
  author = {Zhang, Ying and Xiang, Tao and Hospedales, Timothy M. and Lu, Huchuan},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2018},
  eprint = {1706.00384},
  archivePrefix = {arXiv}
}""",
    ranges={"temperature": SearchRange(1.0, 20.0, log=True), "weight": SearchRange(0.1, 10.0, log=True)},
)


def mutual(*, temperature: float = 1.0, weight: float = 1.0, epochs: int | None = None) -> Recipe:
    r"""Each of two peers minimizes :math:`-\log q_y + w T^2 KL(p \| q)`, p the other's distribution.

    On every batch the student steps first, and the peer then learns from the student as it is after that step, as in
    the paper's algorithm 1. Both answer in training mode, as in the paper. The student is shipped.

    The run's model ``peer`` is the second; where there is none, it is the student's architecture, newly initialized.

    Args:
        temperature: T, above 0; the paper does not soften.
        weight: w, of the other's predictions, at least 0; 1 in the paper. At 0 both learn alone.
        epochs: Passes over the data; the run's budget by default.

    Raises:
        LimbeckError: If `temperature` is not above 0, or `weight` is negative.

    Source: Zhang et al., 2017, arXiv:1706.00384, algorithm 1.
    """
    check_hyper(temperature=temperature)
    check_weight(weight=weight)

    def learns(name: str, other: str) -> Stage:
        objective = Loss(cross_entropy) + weight * Loss(kl_divergence, temperature=temperature)
        return Stage(
            objective, trains=name, teacher=TeacherRef(other, mode="train"), epochs=epochs, name=f"mutual {name}"
        )

    return Recipe(learns("student", "peer") & learns("peer", "student"), makes={"peer": FreshCopy()})
