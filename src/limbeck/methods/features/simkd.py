"""SimKD: the student's body, a projector, and the teacher's classifier, which are shipped together."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from limbeck.batch import LOGITS, LOGITS_INPUT
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional.feature_maps import mean_squared_distance, to_positions
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_count
from limbeck.model_call import find_output_layer
from limbeck.models import describe_structure, transform_model
from limbeck.recipe import Models, Recipe, Stage, output_shapes, run_context, teacher_module
from limbeck.tap import Address, FrozenParameters, Tapped, preserved_buffers
from limbeck.tasks import Task
from limbeck.teachers import CachedTeacher, ModelTeacher, as_teacher

CARD = MethodCard(
    name="simkd",
    title="Knowledge Distillation with the Reused Teacher Classifier",
    authors="Chen, Mei, Zhang, Wang, Feng and Chen",
    year=2022,
    arxiv="2203.14001",
    venue="CVPR 2022",
    claim="The student's body learns the teacher's last features through a projector, and uses the teacher's "
    "classifier as it is. Nothing else is learned, so there is no weight to choose.",
    when="If the student may be a little larger: projector and classifier are shipped with it, and size and speed are "
    "reported for all of it. It needs no labels, and a teacher whose logits are a linear layer of its (averaged) "
    "features.",
    bibtex="""@inproceedings{chen2022simkd,
  title = {Knowledge Distillation with the Reused Teacher Classifier},
  author = {Chen, Defang and Mei, Jian-Ping and Zhang, Hailin and Wang, Can and Feng, Yan and Chen, Chun},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2022},
  eprint = {2203.14001},
  archivePrefix = {arXiv}
}""",
    reads=("features",),
    labels="unused",
    needs="a teacher that is one network with a linear last layer",
    ranges={"reduction": SearchRange(1, 8, log=True, whole=True)},
    tasks=("classification", "multi_label", "regression"),
    task_reason="it reuses a linear classifier of averaged features",
)


@dataclass(frozen=True)
class _MakeStudent:
    """Makes the model that is trained and shipped, when the models and the data of the run are known."""

    teacher: Any
    at: str
    student_at: str
    reduction: int

    def __call__(self, models: Models) -> nn.Module:
        """Copy the student without its output layer, and the teacher's output layer."""
        module = teacher_module(self.teacher, models)
        found = find_output_layer(module)
        if found is None or not isinstance(found[1], nn.Linear):
            raise LimbeckError(
                "simkd reuses the teacher's last layer, and this teacher's last layer is not a Linear. Use another "
                "method, such as fitnets or vid."
            )
        theirs = self._check_teacher(models, module, found[1])
        (ours,) = output_shapes(models, [self.student_at]).values()
        own = find_output_layer(models["student"])
        if own is not None and self.student_at == own[0]:
            raise LimbeckError(
                f"simkd does not keep the student's last layer {own[0]!r}. student_at={LOGITS_INPUT!r} is its input."
            )
        maps = len(ours) == 3
        if maps != (len(theirs) == 3) or len(ours) not in (1, 3):
            raise LimbeckError(
                f"simkd compares maps with maps, or rows with rows; the student's {self.student_at!r} is {list(ours)} "
                f"and the teacher's {self.at!r} is {list(theirs)} for each example. Name other layers."
            )
        classifier, student = found[1], models["student"]
        arguments = {
            "width": ours[0], "teacher_width": theirs[0], "classes": classifier.out_features,
            "reduction": self.reduction, "at": self.student_at, "size": list(theirs[1:]) if maps else None,
            "bias": classifier.bias is not None,
        }  # fmt: skip
        # Recorded, so that the saved model can be opened again.
        origin = describe_structure(student)
        shipped = transform_model(copy.deepcopy(student), "reuse_classifier", arguments, origin=origin)
        shipped.classifier = copy.deepcopy(classifier).requires_grad_(False)
        return shipped

    def _check_teacher(self, models: Models, module: nn.Module, classifier: nn.Linear) -> tuple[int, ...]:
        """The shape of the teacher's features, if its logits are the classifier's of their mean over positions."""
        context = run_context(models)
        source: Any = as_teacher(self.teacher)
        while isinstance(source, CachedTeacher):
            source = source.inner
        own = source.preprocess if isinstance(source, ModelTeacher) else None
        batch = context.loader.peek().to(context.device)
        tapped = Tapped(module.to(context.device), [self.at, LOGITS])
        with torch.no_grad(), FrozenParameters(module), preserved_buffers([module]), tapped:
            outputs = tapped((own or context.preprocess)(batch))
            features, logits = outputs[self.at], outputs[LOGITS]
            rows = to_positions(features).mean(1)
            reads = rows.shape[1:] == classifier.weight.shape[1:] and logits.ndim == 2
            if not reads or not torch.allclose(classifier(rows), logits, rtol=1e-3, atol=1e-3):
                raise LimbeckError(
                    f"The teacher's logits are not its last layer applied to the mean over positions of {self.at!r}, "
                    f"which is {list(features.shape[1:])} for each example. at= is the layer before the global "
                    "average, or logits:in, the input of the last layer."
                )
        return tuple(features.shape[1:])


@validates_arguments
def simkd(
    teacher: Any,
    *,
    at: str = LOGITS_INPUT,
    student_at: str = LOGITS_INPUT,
    reduction: int = 2,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Match the teacher's last features, and keep its classifier: :math:`mean (P(f_S) - f_T)^2`.

    The run makes a new model: use ``run.student``. The student that you pass in is not changed. The new model is a copy
    of the student without its last layer, the projector P, the mean over positions, and a copy of the teacher's last
    layer, which does not learn. P is a 1x1, a 3x3 and a 1x1 convolution with BatchNorm and ReLU (linear
    layers for rows). The larger of two maps is averaged to the size of the smaller. `limbeck.load` opens a saved one;
    its ``build=`` makes the student as it was before the run.

    Args:
        teacher: The teacher: a single network with a linear last layer, or a `Teacher` or name of one.
        at: The teacher's features: the layer with maps before the global average, as in the paper, or ``logits:in``,
            the rows after it.
        student_at: The student's features, of the same kind.
        reduction: r, the factor by which the middle of the projector is narrower than the teacher's features; 2 in the
            paper. A larger one makes a smaller student.
        task: What the targets are. They are not used in training.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If `reduction` is below 1, or `student_at` is no module. When the run starts: if the teacher's
            logits are not a linear layer of the mean of its features.

    Example:
        >>> simkd(nn.Linear(4, 3)).ship
        'simkd'

    Source: Chen et al., 2022, arXiv:2203.14001, section 3.
    """
    check_count(reduction=reduction)
    place = Address.parse(student_at)
    if student_at != LOGITS_INPUT and (place.side == "in" or place.element is not None or place.path == LOGITS):
        raise ArgumentError(
            f"student_at is the name of a module, whose output simkd reads, or {LOGITS_INPUT!r}; got {student_at!r}.",
            argument="student_at",
        )
    CARD.get_task(task)
    loss = Loss(mean_squared_distance, student="projector", teacher=at)
    stage = Stage(loss, trains="simkd", teacher=teacher, epochs=epochs, name="simkd")
    return Recipe(stage, makes={"simkd": _MakeStudent(teacher, at, student_at, reduction)}, ship="simkd")
