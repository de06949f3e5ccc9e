"""KID-VLM, reduced: features of a text that only exists in training, and a graph of knowledge beside the student."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.data import SelectColumn
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import KernelClaim, Projector, kernel
from limbeck.functional.directions import compare_directions
from limbeck.functional.kernel import in_float32
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_share
from limbeck.methods.teachers.privileged import PreprocessingTeacher
from limbeck.model_call import Adaptor, call, find_output_layer, logits_of
from limbeck.recipe import Models, Recipe, Stage
from limbeck.tap import get_adaptor
from limbeck.tasks import Task
from limbeck.teachers import Preprocess

INFUSED = "infused"
"""The name of the model with the graph."""


@kernel(per="example")
@in_float32
def direction_error(
    student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."]
) -> Float[Tensor, " batch"]:
    """Compute the squared distance of features of length 1, ``|s / |s| - t / |t||^2``: from 0 to 4.

    It is 2 minus twice the cosine. A row of zeros has the length 0.

    Example:
        >>> direction_error(torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        tensor([0., 4.])
    """
    student, teacher = student.flatten(1), teacher.flatten(1)
    half = compare_directions(student, teacher)
    if half is not None:
        return 2 * half
    return (F.normalize(student, dim=1) - F.normalize(teacher, dim=1)).square().sum(1)


CARD = MethodCard(
    name="kiddin",
    title="Just KIDDIN': Knowledge Infusion and Distillation for Detection of INdecent Memes",
    authors="Garg, Padhi, Jain, Kursuncu and Kumaraguru",
    year=2024,
    arxiv="2411.12174",
    venue="ACL 2025 Findings",
    claim="The student learns features of a description that only exists in training, and reads a small graph of "
    "knowledge about what is in its input.",
    when="When a large model can describe the training examples and will not run later, and there is a graph of "
    "relations between the things in them. This is a reduced form: the teacher is any encoder of the description, "
    "the graph and the nodes of an example are given instead of found in ConceptNet, the fusion of picture and text is "
    "the student's own instead of that of CLIP, and the graph's part of the prediction is added with a gate. These "
    "pieces are weights and data of others, which the loss does not depend on. A test here shows that the description "
    "and the graph each help on a synthetic problem; the results on hateful memes, with CLIP, LLaVA and ConceptNet, "
    "are not shown here.",
    bibtex="""@inproceedings{garg2025just,
  title = {Just {KIDDIN}': Knowledge Infusion and Distillation for Detection of {IN}decent Memes},
  author = {Garg, Rahul and Padhi, Trilok and Jain, Hemang and Kursuncu, Ugur and Kumaraguru, Ponnurangam},
  booktitle = {Findings of the Association for Computational Linguistics: ACL 2025},
  pages = {23067--23086},
  year = {2025}
}""",
    reads=("logits",),
    labels="few",
    needs="a description of each training example, as an extra column, and optionally a graph",
    example={"student_at": "features"},
    ranges={"weight": SearchRange(0.0, 1.0)},
    kernels=(
        KernelClaim(
            direction_error,
            logits=False,
            largest=1e15,
            zero_at_equality=True,
            invariances=("student_scale", "teacher_scale", "joint_rotation"),
        ),
    ),
)


class RelationalGraph(nn.Module):
    r"""A graph network with one linear map for each relation, and the mean over some nodes as output.

    One layer is :math:`h'_i = ReLU(W_0 h_i + \sum_r \frac{1}{|N_r(i)|} \sum_{j \in N_r(i)} W_r h_j)`, with
    :math:`N_r(i)` the nodes with an edge of relation r to i. A node without one gets 0 from r.

    Args:
        nodes: The number of nodes.
        relations: The edges of each relation by name: pairs (from, to), ``int64 [edges, 2]``.
        width: The number of features of a node.
        layers: The number of layers, so that a node reads what is that many edges away.

    Raises:
        ArgumentError: If there is no relation, or an edge leads to a node that does not exist.

    Example:
        >>> graph = RelationalGraph(3, {"is": torch.tensor([[0, 1], [2, 1]])}, width=4)
        >>> graph(torch.tensor([[1, -1], [0, 2]])).shape
        torch.Size([2, 4])

    Source: Schlichtkrull et al., Modeling Relational Data with Graph Convolutional Networks, 2017, arXiv:1703.06103.
    """

    neighbors: Tensor

    def __init__(
        self, nodes: int, relations: Mapping[str, Int[Tensor, "_ 2"]], *, width: int = 16, layers: int = 1
    ) -> None:
        super().__init__()
        if not relations:
            raise ArgumentError("A graph needs at least one relation: relations={'is_a': edges}.", argument="relations")
        for name, edges in relations.items():
            if len(edges) and not 0 <= int(edges.min()) <= int(edges.max()) < nodes:
                raise ArgumentError(
                    f"An edge of {name!r} names node {int(edges.max())}; the nodes are 0 to {nodes - 1}.",
                    argument="relations",
                )
        self.embed = nn.Embedding(nodes, width)
        self.own = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.related = nn.ModuleList(
            nn.ModuleList(nn.Linear(width, width, bias=False) for _ in relations) for _ in range(layers)
        )
        # Row i of a relation has 1 / |N_r(i)| at the nodes of N_r(i).
        matrices = torch.zeros(len(relations), nodes, nodes)
        for matrix, edges in zip(matrices, relations.values(), strict=True):
            matrix[edges[:, 1], edges[:, 0]] = 1.0
        self.register_buffer("neighbors", matrices / matrices.sum(-1, keepdim=True).clamp_min(1.0))

    def nodes(self) -> Float[Tensor, "nodes width"]:
        """The features of all nodes after the last layer."""
        h = self.embed.weight
        for own, related in zip(self.own, self.related, strict=True):
            parts = [
                matrix @ linear(h) for matrix, linear in zip(self.neighbors, cast(nn.ModuleList, related), strict=True)
            ]
            h = torch.relu(own(h) + torch.stack(parts).sum(0))
        return h

    def forward(self, nodes: Int[Tensor, "batch some"]) -> Float[Tensor, "batch width"]:
        """The mean over the nodes of each example, of length 1. A node of -1 stands for none."""
        there = (nodes >= 0).unsqueeze(-1)
        features = self.nodes()[nodes.clamp_min(0)] * there
        return F.normalize(features.sum(1) / there.sum(1).clamp_min(1), dim=-1)


class InfusedStudent(nn.Module):
    """A student with a graph beside it: its logits, and those of the nodes of an example times a gate.

    It is called with the student's inputs and the nodes of each example, ``(x, nodes)``.

    Args:
        student: The student.
        graph: The graph.
        classes: The number of classes.
        adaptor: A function from the student's output to logits, or None.
    """

    def __init__(
        self, student: nn.Module, graph: RelationalGraph, classes: int, adaptor: Adaptor | None = None
    ) -> None:
        super().__init__()
        self.student, self.graph, self.adaptor = student, graph, adaptor
        self.fusion = nn.Linear(graph.embed.embedding_dim, 2 * classes)

    def forward(self, x: Tensor, nodes: Int[Tensor, "batch some"]) -> Tensor:
        """The logits."""
        values, gate = self.fusion(self.graph(nodes)).chunk(2, -1)
        return logits_of(call(self.student, x), self.adaptor) + gate.sigmoid() * values


class _MakeInfused:
    """Makes the model with the graph; the description of the graph is not changed by a run."""

    def __init__(self, graph: RelationalGraph) -> None:
        self.graph = graph

    def __call__(self, models: Models) -> nn.Module:
        """Make the model.

        Raises:
            LimbeckError: If the number of the student's classes cannot be told.
        """
        student = models["student"]
        layer = find_output_layer(student)
        if layer is None or not isinstance(layer[1], nn.Linear):
            raise LimbeckError(
                f"The graph has logits for each class of the student, and {type(student).__name__} has no linear layer "
                "that says how many there are. Name its output layer 'logits'."
            )
        return InfusedStudent(student, copy.deepcopy(self.graph), layer[1].out_features, get_adaptor(models, "student"))


@validates_arguments
def kiddin(
    teacher: Any,
    *,
    student_at: str,
    description: str | Preprocess = "privileged",
    weight: float = 0.5,
    graph: Any = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels and the features of a description: :math:`(1 - a) (-\log q_y) + a |\hat s - \hat c|^2`.

    :math:`\hat c` are the teacher's outputs for the description, such as a frozen text encoder's, and :math:`\hat s`
    the student's features through a learned linear map, both of length 1. The final model needs no description. With a
    graph it is the model ``infused``, whose inputs are ``(x, nodes)``.

    Args:
        teacher: The encoder of the description: a module, a `Teacher`, or the name of a model in the run.
        student_at: Name of the student's layer, with one row of features for each example.
        description: The inputs of the teacher: the name of an extra column, or a function of the batch.
        weight: a, from 0 to 1. At 0 it is the learning of labels.
        graph: A `RelationalGraph`, or None for none.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range.

    Source: Garg et al., 2024, arXiv:2411.12174.
    """
    task = CARD.get_task(task)
    check_share(weight=weight)
    if graph is not None and not isinstance(graph, RelationalGraph):
        raise ArgumentError(f"graph is a RelationalGraph or None; got a {type(graph).__name__}.", argument="graph")
    address = student_at if graph is None else f"student.{student_at}"
    text = Loss(direction_error, student=address, head=Projector(), name="description")
    reader = PreprocessingTeacher(teacher, SelectColumn(description) if isinstance(description, str) else description)
    objective = (1 - weight) * task.supervised_loss() + weight * text
    if graph is None:
        return Recipe(Stage(objective, teacher=reader, epochs=epochs, name="kiddin"))
    stage = Stage(objective, trains=INFUSED, teacher=reader, epochs=epochs, name="kiddin")
    return Recipe(stage, makes={INFUSED: _MakeInfused(graph)}, ship=INFUSED)
