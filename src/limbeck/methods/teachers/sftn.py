"""Student-friendly teacher networks: the teacher learns together with branches of the student on its layers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast, final

from jaxtyping import Float
from torch import Tensor, nn

from limbeck.batch import LOGITS
from limbeck.functional import KernelClaim, cross_entropy, kernel, kl_divergence
from limbeck.losses import Loss, Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.layers import Layers, pair_layers
from limbeck.methods.support import check_weight
from limbeck.methods.teachers.branched_network import BranchedNetwork, StudentBranch
from limbeck.methods.teachers.prepared import CopiedTeacher, FreshTeacher, make_student_recipe
from limbeck.recipe import ModelFactory, Models, Recipe, Stage, output_shapes
from limbeck.tap import get_adaptor


@kernel(per="position")
def branch_divergence(
    branch: Float[Tensor, "*batch classes"], network: Float[Tensor, "*batch classes"]
) -> Float[Tensor, "*batch"]:
    r"""Compute :math:`KL(p \| r)` in nats, with p the probabilities of a network and r those of a branch of it.

    Gradients flow into both: the network learns to be followed.

    Args:
        branch: Logits of the branch.
        network: Logits of the network.

    Raises:
        LimbeckError: If the shapes differ.

    Example:
        >>> import torch
        >>> branch_divergence(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor([0.])

    Source: Park et al., 2021, arXiv:2102.07650, equation 3.
    """
    return kl_divergence(branch, network)


CARD = MethodCard(
    name="sftn",
    title="Learning Student-Friendly Teacher Networks for Knowledge Distillation",
    authors="Park, Cha, Jeong, Kim and Han",
    year=2021,
    arxiv="2102.07650",
    venue="NeurIPS 2021",
    claim="The teacher learns together with branches of the student on its hidden layers, so that its features and its "
    "answers suit the student. Then it teaches by any method.",
    when="When the teacher may be trained anew for a known student. It costs a training of the teacher with a forward "
    "pass of the student for each branch. The teacher itself may become a little worse.",
    bibtex="""@inproceedings{park2021learning,
  title = {Learning Student-Friendly Teacher Networks for Knowledge Distillation},
  author = {Park, Dae Young and Cha, Moon-Hyun and Jeong, Changwook and Kim, Daesin and Han, Bohyung},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {34},
  year = {2021},
  eprint = {2102.07650},
  archivePrefix = {arXiv}
}""",
    labels="required",
    needs="the teacher's network, which is trained anew, and layers of both networks",
    example={"at": "layer1", "student_at": "layer1"},
    ranges={"kl_weight": SearchRange(0.3, 10.0, log=True), "label_weight": SearchRange(0.1, 3.0, log=True)},
    task_reason="its branches have logits of classes",
    kernels=(KernelClaim(branch_divergence, student=("branch", "network"), invariances=("student_shift",)),),
    keywords=("student-friendly teacher", "student branches"),
)

TEACHER, BRANCHED = "student-friendly", "student-friendly-branched"
"""The names of the teacher in the run, and of the same with its branches."""


@validates_arguments
def sftn(
    teacher: Any,
    *,
    at: Layers,
    student_at: Layers,
    kl_weight: float = 3.0,
    label_weight: float = 1.0,
    pretrained: bool = False,
    teacher_epochs: int | None = None,
    method: str = "hinton",
    settings: Mapping[str, Any] | None = None,
    epochs: int | None = None,
) -> Recipe:
    r"""Train the teacher with branches of the student, then the student by a method from the teacher alone.

    1. The teacher and its m branches minimize :math:`-\log p_y + \frac{a}{m} \sum_i KL(p \| r_i) +
       \frac{b}{m} \sum_i (-\log r_{i,y})`, with p the teacher's probabilities and :math:`r_i` those of branch i. The
       gradients of the branches reach the teacher.
    2. The branches are dropped, and the student learns.

    Branch i reads the teacher's layer ``at[i]``: a learned map (1x1 convolution, BatchNorm, ReLU) to the channels of
    the student's layer ``student_at[i]``, an average to its size, and a copy of the student from that layer on. The
    teacher is ``student-friendly`` in the run. The teacher and the student that you pass in give their architectures;
    the branches begin with the student's weights.

    Args:
        teacher: The network of the teacher: a module, a `Teacher` around one, or the name of a model in the run.
        at: The teacher's layers, one name or a list; usually the end of each stage but the last.
        student_at: The student's layers, in the same order.
        kl_weight: a, at least 0; 3 in the paper.
        label_weight: b, at least 0; 1 in the paper.
        pretrained: Whether the teacher begins with its weights. Then a quarter of the epochs is enough in the paper.
        teacher_epochs: Passes of the teacher; the run's budget by default.
        method: The method by which the student learns.
        settings: Hyper-parameters of that method. With `hinton` they are T = 4 and w = 0.9 by default.
        epochs: Passes of the student; the run's budget by default.

    Raises:
        LimbeckError: If an argument is out of range, or the method takes no teacher. When the run starts: if no branch
            fits between two layers.

    Example:
        >>> recipe = sftn(nn.Linear(4, 3), at="layer1", student_at="layer1")
        >>> [stage.name for stage in recipe.stages()]
        ['student-friendly teacher', 'hinton']

    Source: Park et al., 2021, arXiv:2102.07650, section 3.
    """
    check_weight(kl_weight=kl_weight, label_weight=label_weight)
    pairs = pair_layers(at, student_at)
    task = CARD.get_task("classification")
    objective: Objective = task.supervised_loss()
    for number in range(len(pairs)):
        objective = objective + _branch_losses(number, kl_weight / len(pairs), label_weight / len(pairs))
    prepare = Stage(
        objective, trains=BRANCHED, epochs=epochs if teacher_epochs is None else teacher_epochs,
        name="student-friendly teacher",
    )  # fmt: skip
    learn = make_student_recipe(
        method, TEACHER, settings, task=task, epochs=epochs, defaults={"temperature": 4.0, "weight": 0.9}
    )
    makes: dict[str, ModelFactory] = {
        BRANCHED: _MakeBranched(teacher, tuple(pairs), pretrained),
        TEACHER: _take_network,
    }
    return Recipe(prepare, learn, makes=makes)


def _branch_losses(number: int, kl_weight: float, label_weight: float) -> Objective:
    """The divergence of the teacher from a branch, in whose gradient the teacher takes part, and the labels."""
    branch = f"branches.{number}"
    divergence = Loss(branch_divergence, student={"branch": branch, "network": LOGITS})
    return kl_weight * divergence + label_weight * Loss(cross_entropy, student=branch)


def _take_network(models: Models) -> nn.Module:
    """The teacher without its branches; it shares the weights."""
    return cast(BranchedNetwork, models[BRANCHED]).network


@final
@dataclass(frozen=True)
class _MakeBranched:
    """Makes the teacher with its branches, when the models and the data of the run are known."""

    teacher: Any
    pairs: tuple[tuple[str, str], ...]
    pretrained: bool

    def __call__(self, models: Models) -> nn.Module:
        """Copy the teacher's network, and the student for each branch."""
        network = CopiedTeacher(self.teacher)(models) if self.pretrained else FreshTeacher(self.teacher)(models)
        student, adaptor = models["student"], get_adaptor(models, "student")
        ours = output_shapes(models, [ours for ours, _ in self.pairs])
        theirs = output_shapes(models, [theirs for _, theirs in self.pairs], model=network)
        branches = [
            StudentBranch(copy.deepcopy(student), mine, adaptor, theirs=theirs[its], ours=ours[mine])
            for mine, its in self.pairs
        ]
        return BranchedNetwork(network, [its for _, its in self.pairs], branches)

    def check(self, models: Models) -> None:
        """Check that the teacher is one network, and that it can be initialized anew if it has to be.

        Raises:
            LimbeckError: If it is not.
        """
        (CopiedTeacher if self.pretrained else FreshTeacher)(self.teacher).check(models)
