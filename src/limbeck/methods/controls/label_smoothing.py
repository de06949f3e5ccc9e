"""Label smoothing: a control that softens the labels and uses no teacher."""

from __future__ import annotations

from limbeck.functional import check_hyper
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task, get_task

CARD = MethodCard(
    name="label_smoothing",
    title="Rethinking the Inception Architecture for Computer Vision",
    authors="Szegedy, Vanhoucke, Ioffe, Shlens and Wojna",
    year=2015,
    arxiv="1512.00567",
    venue="CVPR 2016",
    claim="The student learns from smoothed labels: a control without a teacher.",
    when="Use it as a control for a distilled student. Soft targets also regularize; this shows that part of the gain.",
    bibtex="""@inproceedings{szegedy2016rethinking,
  title = {Rethinking the Inception Architecture for Computer Vision},
  author = {Szegedy, Christian and Vanhoucke, Vincent and Ioffe, Sergey and Shlens, Jonathon and Wojna, Zbigniew},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2016},
  eprint = {1512.00567},
  archivePrefix = {arXiv}
}""",
    reads=(),
    labels="required",
    ranges={"smoothing": SearchRange(0.0, 0.5)},
    tasks=("classification", "segmentation", "language_modeling"),
)


@validates_arguments
def label_smoothing(
    *, smoothing: float = 0.1, task: str | Task = "classification", epochs: int | None = None
) -> Recipe:
    r"""The cross-entropy of smoothed labels, :math:`-\sum_c ((1 - s) 1[c = y] + s / C) \log q_c`, in nats.

    At s = 0 it is `supervised`.

    Args:
        smoothing: s, the share of the uniform distribution, from 0 to 1; the paper's 0.1.
        task: ``classification``, ``segmentation`` or ``language_modeling``.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If `smoothing` is not from 0 to 1, or the task has no label smoothing.

    Source: Szegedy et al., 2015, arXiv:1512.00567, section 7.
    """
    check_hyper(smoothing=smoothing)
    return Recipe(Stage(get_task(task).smoothed_loss(smoothing), epochs=epochs, name="label_smoothing"))
