"""Evolutionary knowledge distillation: teacher and student learn together, with guided modules between their layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast, final

from jaxtyping import Float
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch, Progress, Requirements
from limbeck.functional import check_hyper, cross_entropy, kl_divergence
from limbeck.functional.connectors import as_maps
from limbeck.functional.feature_maps import mean_squared_distance
from limbeck.losses import Loss, LossContext, Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.feature_term import FeatureTerm
from limbeck.methods.features.layers import Layers, pair_layers
from limbeck.methods.support import check_count, check_weight
from limbeck.methods.teachers.branched_network import BranchedNetwork, GuidedModule
from limbeck.methods.teachers.prepared import FreshTeacher
from limbeck.recipe import Models, Recipe, Stage, output_shapes
from limbeck.teachers import TeacherRef

CARD = MethodCard(
    name="evolutionary",
    title="Student Network Learning via Evolutionary Knowledge Distillation",
    authors="Zhang, Zhang, Li, Zeng and Ge",
    year=2021,
    arxiv="2103.13811",
    venue="IEEE Transactions on Circuits and Systems for Video Technology",
    claim="The teacher learns beside the student, so that it is never far ahead, and small guided modules on the "
    "layers of both carry what it has learned in its hidden layers.",
    when="When the teacher has to be trained anyway, and the student is far smaller. It costs the training of both at "
    "once; the student does not teach the teacher, as in mutual. The abstract is the source of what is here; the "
    "weights of the losses are ours.",
    bibtex="""@article{zhang2022student,
  title = {Student Network Learning via Evolutionary Knowledge Distillation},
  author = {Zhang, Kangkai and Zhang, Chunhui and Li, Shikun and Zeng, Dan and Ge, Shiming},
  journal = {IEEE Transactions on Circuits and Systems for Video Technology},
  volume = {32},
  number = {4},
  year = {2022},
  eprint = {2103.13811},
  archivePrefix = {arXiv}
}""",
    reads=("logits", "features"),
    labels="required",
    needs="the teacher's network, which learns beside the student, and layers of both networks",
    example={"at": "layer1", "student_at": "layer1"},
    ranges={
        "weight": SearchRange(0.1, 3.0, log=True),
        "temperature": SearchRange(1.0, 20.0, log=True),
        "guide_weight": SearchRange(0.03, 3.0, log=True),
    },
    task_reason="its guided modules have logits of classes",
    keywords=("ekd", "online distillation"),
)

TEACHER = "evolving"
"""The name of the teacher, with its guided modules, in the run."""


class GuidedLoss(FeatureTerm):
    r"""What the student's guided modules learn: :math:`\sum_b -\log g_{b,y} + KL(h_b \| g_b) + mean (G_b - H_b)^2`.

    g and G are the probabilities and maps of the student's module of block b, h and H those of the teacher's.
    An example without a label has no first term.

    Args:
        layers: The student's layers.
        width: The channels of the maps of each module.
    """

    name = "guided"

    def __init__(self, layers: list[str], width: int) -> None:
        super().__init__(
            [(at, f"branches.{number}{part}") for number, at in enumerate(layers) for part in (".body", "")]
        )
        self.width = width
        self.modules_of_blocks = nn.ModuleList()

    @property
    def requires(self) -> Requirements:
        """The layers of both models, and the labels."""
        return super().requires._replace(batch=frozenset({"labels"}))

    def build(self, ours: list[Tensor], theirs: list[Tensor], context: LossContext) -> None:
        """Create a module for each layer, with as many logits as the teacher's."""
        self.modules_of_blocks = nn.ModuleList(
            GuidedModule(as_maps(features).shape[1], self.width, logits.shape[-1])
            for features, logits in zip(ours[::2], theirs[1::2], strict=True)
        )

    def compare(
        self, ours: list[Tensor], theirs: list[Tensor], batch: Batch, progress: Progress
    ) -> Float[Tensor, " batch"]:
        """The losses of all modules, for each example."""
        labels, values = cast(Tensor, batch.labels), ours[0].new_zeros(batch.size)
        for number, module in enumerate(self.modules_of_blocks):
            guide = cast(GuidedModule, module)
            maps = guide.body(as_maps(ours[2 * number]).to(guide.classifier.weight.dtype))
            logits = guide.classifier(maps.mean((2, 3)))
            answer = cross_entropy(logits, labels=labels) + kl_divergence(logits, theirs[2 * number + 1])
            values = values + answer + mean_squared_distance(maps, theirs[2 * number])
        return values

    def __repr__(self) -> str:
        return f"GuidedLoss({[at for at, _ in self.pairs[::2]]}, width={self.width})"


@validates_arguments
def evolutionary(
    teacher: Any,
    *,
    at: Layers,
    student_at: Layers,
    weight: float = 1.0,
    temperature: float = 4.0,
    guide_weight: float = 0.3,
    width: int = 32,
    epochs: int | None = None,
) -> Recipe:
    r"""Train teacher and student on the same batches; the teacher from labels, the student from both.

    On every batch the teacher takes a step on :math:`-\log p_y`, and its guided modules one on the labels too, without
    a gradient into the teacher. Then the student takes a step on
    :math:`-\log q_y + \alpha T^2 KL(p \| q) + \beta L_{guided}`, see `GuidedLoss`. All guided modules are dropped at
    the end. With both weights 0 the student learns alone.

    A guided module (1x1, 3x3 and 1x1 convolutions, mean, linear layer) stands on each layer of `at` and of
    `student_at`. The teacher is ``evolving`` in the run, newly initialized, with its modules; its network is the part
    ``network``. The teacher that you pass in gives its architecture, and is not changed.

    Args:
        teacher: The network of the teacher: a module, a `Teacher` around one, or the name of a model in the run.
        at: The teacher's layers, one name or a list.
        student_at: The student's layers, in the same order.
        weight: Alpha, the weight of the teacher's answers, at least 0.
        temperature: T, above 0.
        guide_weight: Beta, the weight of the guided modules, at least 0.
        width: The channels of the guided modules.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or the lists have different lengths. When the run starts: if a
            layer gives tokens.

    Example:
        >>> recipe = evolutionary(nn.Linear(4, 3), at="layer1", student_at="layer1")
        >>> [stage.name for stage in recipe.stages()]
        ['evolutionary teacher', 'evolutionary student']

    Source: Zhang et al., 2021, arXiv:2103.13811, section 3.
    """
    check_weight(weight=weight, guide_weight=guide_weight)
    check_hyper(temperature=temperature)
    check_count(width=width)
    pairs = pair_layers(at, student_at)
    task = CARD.get_task("classification")
    lead: Objective = task.supervised_loss()
    follow: Objective = task.supervised_loss()
    for number in range(len(pairs)):
        lead = lead + Loss(cross_entropy, student=f"branches.{number}")
    follow = follow + weight * task.distillation_loss(temperature=temperature)
    follow = follow + guide_weight * GuidedLoss([ours for ours, _ in pairs], width)
    teach = Stage(lead, trains=TEACHER, epochs=epochs, name="evolutionary teacher")
    learn = Stage(follow, teacher=TeacherRef(TEACHER, mode="train"), epochs=epochs, name="evolutionary student")
    return Recipe(teach & learn, makes={TEACHER: _MakeTeacher(teacher, tuple(theirs for _, theirs in pairs), width)})


@final
@dataclass(frozen=True)
class _MakeTeacher:
    """Makes the teacher with a guided module on each of its layers."""

    teacher: Any
    layers: tuple[str, ...]
    width: int

    def __call__(self, models: Models) -> nn.Module:
        """Make the network anew, and modules for its shapes."""
        network = FreshTeacher(self.teacher)(models)
        shapes = output_shapes(models, [LOGITS, *self.layers], model=network)
        guides = []
        for at in self.layers:
            channels = shapes[at][0 if len(shapes[at]) != 2 else 1]
            guides.append(GuidedModule(channels, self.width, shapes[LOGITS][-1]))
        return BranchedNetwork(network, self.layers, guides, detach=True)

    def check(self, models: Models) -> None:
        """Check that the teacher is one network that can be initialized anew.

        Raises:
            LimbeckError: If it is not.
        """
        FreshTeacher(self.teacher).check(models)
