"""Rank distillation: the student learns in which order the teacher puts the candidates of a query."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.errors import ArgumentError, unknown_name_error
from limbeck.functional import KernelClaim, kernel
from limbeck.functional.closed_form import clamp_neg_inf
from limbeck.functional.kernel import validates_pair
from limbeck.functional.row_blocks import compute_by_rows
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard
from limbeck.methods.support import check_weight
from limbeck.recipe import Recipe, Stage


def _pairs(
    student: Float[Tensor, "*batch candidates"], teacher: Float[Tensor, "*batch candidates"]
) -> tuple[Float[Tensor, "*batch candidates candidates"], Bool[Tensor, "*batch candidates candidates"]]:
    """The differences of the student's scores, first minus second, and where the teacher puts the first one higher."""
    present = (student != -torch.inf) & (teacher != -torch.inf)
    scores = student.masked_fill(~present, 0.0)
    higher = teacher.unsqueeze(-1) > teacher.unsqueeze(-2)
    return scores.unsqueeze(-1) - scores.unsqueeze(-2), higher & present.unsqueeze(-1) & present.unsqueeze(-2)


def _mean_over_pairs(values: Tensor, higher: Tensor) -> Tensor:
    return values.masked_fill(~higher, 0.0).sum((-2, -1)) / higher.sum((-2, -1)).clamp_min(1)


@kernel(per="position")
@validates_pair
def pairwise_logistic(
    student: Float[Tensor, "*batch candidates"], teacher: Float[Tensor, "*batch candidates"]
) -> Float[Tensor, "*batch"]:
    r"""Compute RankNet's loss of the teacher's order: the mean of :math:`\log(1 + e^{-(s_i - s_j)})` in nats.

    The mean is over all pairs with :math:`t_i > t_j`. Only the order of the teacher's scores counts; equal ones are no
    pair. A candidate that is -inf on either side does not exist, and without pairs the value is 0.

    Args:
        student: Scores of the student, one for each candidate.
        teacher: Scores of the teacher.

    Raises:
        LimbeckError: If the shapes differ.

    Example:
        >>> s, t = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[3.0, 2.0, 2.0]])
        >>> pairwise_logistic(s, t)
        tensor([0.6931])

    Source: Burges et al., Learning to Rank using Gradient Descent, ICML 2005.
    """
    apart, higher = _pairs(student, teacher)
    return _mean_over_pairs(F.softplus(-apart), higher)


@kernel(per="position")
@validates_pair
def pairwise_hinge(
    student: Float[Tensor, "*batch candidates"], teacher: Float[Tensor, "*batch candidates"], *, margin: float = 1.0
) -> Float[Tensor, "*batch"]:
    r"""Compute the mean of :math:`\max(0, m - (s_i - s_j))` over all pairs with :math:`t_i > t_j`.

    It is 0 as soon as the student puts every pair in the teacher's order by the margin m.

    Args:
        student: Scores of the student, one for each candidate.
        teacher: Scores of the teacher.
        margin: m, at least 0.

    Raises:
        LimbeckError: If the shapes differ.

    Example:
        >>> s, t = torch.tensor([[1.5, 0.0]]), torch.tensor([[3.0, 2.0]])
        >>> pairwise_hinge(s, t), pairwise_hinge(-s, t)
        (tensor([0.]), tensor([2.5000]))

    Source: Herbrich, Graepel and Obermayer, Large Margin Rank Boundaries for Ordinal Regression, 2000.
    """
    apart, higher = _pairs(student, teacher)
    return _mean_over_pairs((margin - apart).clamp_min(0.0), higher)


@kernel(per="position")
@validates_pair
def list_likelihood(
    student: Float[Tensor, "*batch candidates"], teacher: Float[Tensor, "*batch candidates"]
) -> Float[Tensor, "*batch"]:
    r"""Compute minus the log-likelihood of the teacher's ranking (ListMLE), in nats.

    :math:`-\sum_k (s_{\pi(k)} - \log \sum_{l \ge k} e^{s_{\pi(l)}})`, with :math:`\pi` the teacher's order: the best
    candidate is chosen among all, then the second among the rest, ... (Plackett and Luce). Equal scores of the teacher
    are put in the order of the candidates. One that is -inf on either side does not exist.

    Args:
        student: Scores of the student, one for each candidate.
        teacher: Scores of the teacher.

    Raises:
        LimbeckError: If the shapes differ.

    Example:
        >>> list_likelihood(torch.zeros(1, 3), torch.tensor([[3.0, 2.0, 1.0]]))  # log 3!
        tensor([1.7918])

    Source: Xia, Liu, Wang, Zhang and Li, Listwise Approach to Learning to Rank, ICML 2008.
    """
    return compute_by_rows(_compute_likelihood, student, teacher)


def _compute_likelihood(student: Tensor, teacher: Tensor) -> Tensor:
    present = (student != -torch.inf) & (teacher != -torch.inf)
    order = teacher.masked_fill(~present, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    ranked, present = student.gather(-1, order), present.gather(-1, order)
    scores = ranked.masked_fill(~present, clamp_neg_inf(student.dtype))
    rest = scores.flip(-1).logcumsumexp(-1).flip(-1)
    return (rest - scores).masked_fill(~present, 0.0).sum(-1)


_LOSSES = {"pairwise": pairwise_logistic, "margin": pairwise_hinge, "list": list_likelihood}
_ORDER = ("student_shift", "teacher_shift", "teacher_scale")

CARD = MethodCard(
    name="rank_distillation",
    title="Is ChatGPT Good at Search? Investigating Large Language Models as Re-Ranking Agents",
    authors="Sun, Yan, Ma, Wang, Ren, Chen, Yin and Ren",
    year=2023,
    arxiv="2304.09542",
    venue="EMNLP 2023",
    claim="The order in which a large ranker puts the candidates of a query is enough to train a small cross-encoder, "
    "which can then be better than one that is trained on labels.",
    when="For cross-encoders and rerankers, where the teacher's scores mean nothing but their order, such as ranks "
    "that a language model writes. If the differences of the scores mean something, use margin_mse or listwise_kl.",
    bibtex="""@inproceedings{sun2023chatgpt,
  title = {Is {ChatGPT} Good at Search? Investigating Large Language Models as Re-Ranking Agents},
  author = {Sun, Weiwei and Yan, Lingyong and Ma, Xinyu and Wang, Shuaiqiang and Ren, Pengjie and Chen, Zhumin and
            Yin, Dawei and Ren, Zhaochun},
  booktitle = {Proceedings of the 2023 Conference on Empirical Methods in Natural Language Processing},
  year = {2023},
  eprint = {2304.09542},
  archivePrefix = {arXiv}
}""",
    labels="unused",
    kernels=(
        KernelClaim(pairwise_logistic, invariances=_ORDER, pairs=True),
        KernelClaim(pairwise_hinge, hyper={"margin": 0.5}, invariances=_ORDER, pairs=True),
        KernelClaim(list_likelihood, invariances=_ORDER),
    ),
    task_reason="its outputs are the scores of the candidates of a query",
    models_and_data="--teacher mlp --set teacher.hidden=[64] --student mlp --set student.hidden=[16] "
    "--data candidates.npz",
    keywords=("ranking",),
)


@validates_arguments
def rank_distillation(
    teacher: Any, *, loss: str = "pairwise", margin: float | None = None, epochs: int | None = None
) -> Recipe:
    r"""Learn the teacher's order of the candidates of a query.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run. Only the order of its scores
            counts.
        loss: ``pairwise`` (RankNet, as in the paper), ``margin`` (the hinge loss of pairs) or ``list`` (ListMLE).
        margin: The margin of the loss ``margin``, at least 0; 1 by default. The other losses have none.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If there is no such loss, or the margin is negative.

    Example:
        >>> from torch import nn
        >>> [repr(stage.objective) for stage in rank_distillation(nn.Linear(4, 3), loss="margin").stages()]
        ['Loss(pairwise_hinge, margin=1.0)']

    Source: Sun et al., 2023, arXiv:2304.09542, section 5 (RankNet).
    """
    if loss not in tuple(_LOSSES):
        raise unknown_name_error("loss of ranks", loss, _LOSSES, argument="loss")
    if margin is not None and loss != "margin":
        raise ArgumentError(f"margin={margin} is for loss='margin', and the loss is {loss!r}.", argument="margin")
    hyper: dict[str, Any] = {"margin": 1.0 if margin is None else margin} if loss == "margin" else {}
    check_weight(**hyper)
    return Recipe(Stage(Loss(_LOSSES[loss], **hyper), teacher=teacher, epochs=epochs, name="rank_distillation"))
