"""Top-k distillation with a correct tail: the k most probable classes, and all others together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.batch import LOGITS, Batch, Outputs
from limbeck.errors import LimbeckError
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.logits.hinton import hinton
from limbeck.methods.support import check_count
from limbeck.recipe import Recipe
from limbeck.tasks import Task
from limbeck.teachers import Teacher, TeacherCapabilities, TeacherContext, TeacherSession, TeacherWrapper
from limbeck.teachers.wrapper import WrapperSession
from limbeck.top_k_logits import PartialLogits, TopKLogits

CARD = MethodCard(
    name="top_k_kd",
    title="Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs",
    authors="Anshumann and others",
    year=2025,
    arxiv="2503.16870",
    venue="arXiv preprint",
    claim="The student matches the teacher's k most probable classes, and the sum of all others. Without this sum, the "
    "student learns that the others are impossible: the paper shows the bias.",
    when="For large vocabularies, and for teachers that list few classes, such as stored top-k outputs or a "
    "server. The student's order of the other classes is its own, or that of the labels. For an even tail take "
    "kd_topk; without any bias, store randomly drawn classes (the encoding sampled) and take hinton.",
    bibtex="""@article{anshumann2025sparse,
  title = {Sparse Logit Sampling: Accelerating Knowledge Distillation in {LLMs}},
  author = {Anshumann and others},
  journal = {arXiv preprint arXiv:2503.16870},
  year = {2025}
}""",
    ranges={
        "k": SearchRange(1, 100, log=True, whole=True),
        "temperature": SearchRange(1.0, 20.0, log=True),
        "weight": SearchRange(0.0, 1.0),
    },
    tasks=("classification", "language_modeling"),
    task_reason="it ranks the classes of one softmax for each example or token",
    trials=("mlp",),
    keywords=("kd with top-k tail",),
)


@validates_arguments
def top_k_kd(
    teacher: Any,
    *,
    k: int = 50,
    temperature: float = 1.0,
    weight: float = 0.9,
    labels: bool = True,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Minimize :math:`w T^2 KL(p' \| q') + (1 - w) (-\log softmax(z)_y)` in nats.

    With S the k classes that are most probable for the teacher, p' and q' have k + 1 values: the probabilities of the
    classes in S, and the sum over all others. It is at most the divergence over all classes, which it reaches for k of
    one less than their number, and 0 for the teacher's own probabilities.

    Args:
        teacher: The teacher: a module, a `Teacher` with all logits or with stored top-k logits, or the name of a model
            in the run. Where fewer than k classes are stored, these are used.
        k: The number of classes that are compared one by one, at least 1.
        temperature: T, above 0.
        weight: w, the weight of the soft targets, from 0 to 1.
        labels: Whether to use labels. False drops the label term.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If `k` is below 1, `temperature` not above 0, `weight` not from 0 to 1, or the teacher has neither
            all logits nor top-k logits.

    Example:
        >>> from torch import nn
        >>> [repr(stage.objective) for stage in top_k_kd(nn.Linear(4, 3), k=2, weight=1.0, labels=False).stages()]
        ['1.0 * Loss(kl_divergence, temperature=1.0)']

    Source: Anshumann et al., 2025, arXiv:2503.16870, on the bias of top-k targets without the rest.
    """
    check_count(k=k)
    task = CARD.get_task(task)
    recipe = hinton(
        TopKTeacher(teacher, k=k), temperature=temperature, weight=weight, labels=labels, task=task, epochs=epochs
    )
    return Recipe(*(replace(stage, name="top_k_kd") for stage in recipe.stages()))


@final
class TopKTeacher(TeacherWrapper):
    """A teacher of whose logits only the k largest of each row are known, and the total weight of the others.

    Args:
        teacher: Anything that `as_teacher` accepts, with all logits or with top-k logits.
        k: The number of classes.

    Example:
        >>> teacher = TopKTeacher(torch.nn.Identity(), k=1)
        >>> with teacher.open(TeacherContext(temperatures=frozenset({1.0}))) as session:
        ...     logits = session(Batch(torch.tensor([[0.5, 0.3, 0.2]]).log())).partial["logits"]
        >>> logits.ids, logits.coarse().softmax(-1)
        (tensor([[0]]), tensor([[0.5000, 0.5000]]))
    """

    def __init__(self, teacher: Any, *, k: int) -> None:
        super().__init__(teacher)
        self.k = k

    @property
    def inner(self) -> Teacher:
        """The teacher whose logits are cut."""
        return self.teachers[0]

    @property
    def capabilities(self) -> TeacherCapabilities:
        """The teacher's, but partial."""
        return super().capabilities._replace(partial=True, gradients=False)

    def open(self, context: TeacherContext) -> TeacherSession:
        """Open the teacher, for logits as tensors."""
        inner = replace(context, hidden_logits=False)
        return _TopKSession(self.open_all(inner), self.k, tuple(sorted(context.temperatures or {1.0})))

    @property
    def fingerprint(self) -> str:
        """The hash of the teacher's fingerprint and k."""
        return hashlib.sha256(f"top {self.k} of {self.inner.fingerprint}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """The teacher, and k."""
        return {"teacher": "TopKTeacher", "of": self.inner.describe(), "k": self.k}


@final
class _TopKSession(WrapperSession):
    def __init__(self, sessions: Sequence[TeacherSession], k: int, temperatures: tuple[float, ...]) -> None:
        super().__init__(sessions)
        self._k, self._temperatures = k, temperatures

    def combine(self, batch: Batch, outputs: Sequence[Outputs]) -> Outputs:
        (own,) = outputs
        logits = own.partial[LOGITS] if LOGITS in own.partial else own[LOGITS]
        return Outputs.of({**own, **own.partial, LOGITS: cut_logits(logits, self._k, self._temperatures)})


def cut_logits(
    logits: Float[Tensor, "*leading classes"] | PartialLogits, k: int, temperatures: Sequence[float]
) -> TopKLogits:
    """Keep the k largest logits of each row, and the total weight of the others at some temperatures.

    Args:
        logits: Logits of all classes, or top-k logits, which have a rest already.
        k: The number of classes; fewer if there are fewer.
        temperatures: The temperatures at which the rest is known.

    Raises:
        LimbeckError: If the logits are those of randomly drawn classes.
    """
    if isinstance(logits, TopKLogits):
        depths, ids = logits.depths, logits.ids
        rests = [logits.coarse(temperature)[..., -1] / temperature for temperature in temperatures]
        top, classes = logits.top, logits.classes
    elif isinstance(logits, PartialLogits):
        raise LimbeckError(
            f"top_k_kd needs all logits of the teacher or top-k logits, and these are {type(logits).__name__}. For "
            "randomly drawn classes use the method hinton, which needs no rest."
        )
    else:
        wide = logits.float() if logits.element_size() < 4 else logits
        top, classes = wide.amax(-1), wide.shape[-1]
        depths, ids = wide - top.masked_fill(top == -torch.inf, 0.0).unsqueeze(-1), None
        rests = [torch.full_like(top, -torch.inf)] * len(temperatures)
    kept, places = depths.topk(min(k, depths.shape[-1]), dim=-1)
    others = depths.scatter(-1, places, -torch.inf)
    values = [_joined(others / t, rest) for t, rest in zip(temperatures, rests, strict=True)]
    nodes = torch.stack([torch.stack(values, -1), torch.zeros(*top.shape, len(values)).to(top)], -2)
    chosen: Int[Tensor, "*leading k"] = places if ids is None else ids.gather(-1, places)
    return TopKLogits(chosen, kept, top, nodes, classes=classes, grid=tuple(1 / t for t in temperatures))


def _joined(others: Tensor, rest: Tensor) -> Tensor:
    """The logarithm of the weight of some classes and of a rest; -inf if there is none."""
    return torch.cat([others, rest.unsqueeze(-1)], -1).logsumexp(-1)
